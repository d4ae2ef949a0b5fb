"""The fold of recorded statements into suppression: which word changed, and what that means for writing to somebody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from services.subjects.domain import EVERYTHING as ALL
from shared.events import EVERYTHING, RESTRICTIVE, Standing, Statement, Word, matter_of

LIFTING: Final = frozenset({"ConsentGiven"})


@dataclass(frozen=True, slots=True)
class Change:
    """The new word on a matter, and what it does: `suppress`, `lift` or nothing, for a purpose on a channel or `*`."""

    word: Word
    does: Literal["suppress", "lift", "nothing"]
    purpose: str
    channel: str


def apply(standing: Standing, statement: Statement, index: int) -> tuple[Standing, Change | None]:
    """The standing after this recorded statement, and what it changes: nothing if it decides nothing, came too late
    or was applied already.

    Every restrictive word suppresses. Only a proven ConsentGiven that was not overtaken lifts, and only for its own
    purpose and channel (a consent with `stage: asked` does not exist).
    """
    after, _overtaken = standing.apply(statement, index)
    if after is standing:
        return standing, None
    matter = matter_of(statement)
    everything = matter == EVERYTHING
    purpose, channel = (ALL, ALL) if everything else (statement.data.purpose, statement.data.channel)
    does: Literal["suppress", "lift", "nothing"] = "nothing"
    if statement.type in RESTRICTIVE:
        does = "suppress"
    elif statement.type in LIFTING and not everything:
        does = "lift"
    return after, Change(after.words[matter], does, purpose, channel)
