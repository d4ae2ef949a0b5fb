"""Statements: what services say happened, one CloudEvent per act and purpose, and what follows from its words alone.

`types` holds every type and version that has a producer; `envelope` reads and writes the bytes;
`matter` says what a statement is about; `standing` decides which word is in force.
A published version is never edited: a new shape is a new version, and its golden file stays for ever. Version 2 of
each type is version 1 with the software that states it.
"""

from shared.events.envelope import MAX_STATEMENT_BYTES, Malformed, encode, parse
from shared.events.matter import EVERYTHING, decides, matter_of, purpose_matter
from shared.events.standing import PERMISSIVE, RESTRICTIVE, VALID_STATUS, Standing, Word, is_overtaken
from shared.events.types import DATA_TYPES, Statement, dataschema

__all__ = [
    "DATA_TYPES",
    "EVERYTHING",
    "MAX_STATEMENT_BYTES",
    "PERMISSIVE",
    "RESTRICTIVE",
    "VALID_STATUS",
    "Malformed",
    "Standing",
    "Statement",
    "Word",
    "dataschema",
    "decides",
    "encode",
    "is_overtaken",
    "matter_of",
    "parse",
    "purpose_matter",
]
