"""One statement with all that ties it to the log, as an entry of a history or of a bundle (docs/formats.md §15)."""

from dataclasses import dataclass

from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.commitment import STATEMENT_LIMIT, verify_commitment
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Event, parse_leaf
from services.ledger.reader.merkle import leaf_hash, verify_inclusion
from services.ledger.reader.proof import HASHES_LIMIT
from services.ledger.reader.strict import Fields
from shared.events import Malformed, Statement, matter_of, parse

MEMBERS = ("hashes", "index", "leaf", "matter", "opening", "overtaken", "pin", "statement")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file claims about one statement; nothing is verified by having one."""

    index: int
    matter: str
    overtaken: bool
    leaf: bytes
    statement: bytes
    pin: bytes
    opening: bytes
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A statement that the log holds: verified."""

    index: int
    matter: str
    overtaken: bool
    pin: bytes
    event: Event
    statement: Statement


def parse_entry(step: str, fields: Fields) -> Entry:
    """Read an entry in its JSON form, or raise Invalid."""
    fields.exactly(*MEMBERS)
    hashes = fields.array("hashes", HASHES_LIMIT)
    return Entry(
        index=fields.decimal("index"),
        matter=fields.text("matter"),
        overtaken=fields.flag("overtaken"),
        leaf=fields.base64url("leaf"),
        statement=fields.base64url("statement"),
        pin=fields.hash("pin"),
        opening=fields.hash("opening"),
        hashes=tuple(Fields(step, "a hash", {"hash": one}).base64url("hash") for one in hashes),
    )


def verify_in_log(step: str, entry: Entry, checkpoint: Checkpoint) -> Event:
    """Verify that the log holds this statement, or raise Invalid.

    1. The leaf is an EVENT.
    2. The statement, the pin and the opening give the leaf's commitment.
    3. The leaf stands at its index in the tree of the checkpoint.
    """
    where = f"the entry at index {entry.index}"
    try:
        # 1.
        event = parse_leaf(entry.leaf)
        if isinstance(event, Event):
            # 2.
            verify_commitment(event, entry.pin, entry.opening, entry.statement)
            # 3.
            verify_inclusion(leaf_hash(entry.leaf), entry.index, checkpoint.size, entry.hashes, checkpoint.root)
            return event
    except Invalid as error:
        raise Invalid(step, where, f"does not verify: {error}", index=entry.index) from None
    raise Invalid(step, where, "is no EVENT", index=entry.index)


def parse_statement(step: str, entry: Entry) -> Statement:
    """Read the statement strictly and hold the matter it is filed under against its words, or raise Invalid."""
    where = f"the statement at index {entry.index}"
    if len(entry.statement) > STATEMENT_LIMIT:
        raise Invalid(step, where, f"is longer than {STATEMENT_LIMIT} bytes", index=entry.index)
    try:
        statement = parse(entry.statement)
    except Malformed as error:
        raise Invalid(step, where, f"is no statement we know ({error})", index=entry.index) from None
    if matter_of(statement) != entry.matter:
        raise Invalid(step, where, "is about another matter than the one it is filed under", index=entry.index)
    return statement
