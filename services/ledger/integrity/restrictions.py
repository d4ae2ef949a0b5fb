"""Whether a consent came too late, from the log itself: the latest time of any restrictive word before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from services.ledger import store
from services.ledger.reader import commitment as reader
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Event, parse_leaf
from shared.database import Queries
from shared.events import EVERYTHING, RESTRICTIVE, Malformed, Statement, is_overtaken, matter_of, parse
from shared.events.matter import OVERTAKEN

_KEPT: Final = 50_000

About = tuple[str, str]
"""subject and matter"""
Chain = tuple[reader.SubjectKeys, int]
"""The subject's keys, and the index of the newest leaf of a label."""


class Restrictions:
    """What is known of (subject, matter). Whoever replays from the first leaf knows all; whoever does not must `learn`
    what came before, and forgets what was not asked about lately."""

    def __init__(self, *, complete: bool) -> None:
        self._complete = complete
        self._at: OrderedDict[About, str | None] = OrderedDict()

    def at(self, about: About) -> str | None:
        """The latest time of a restrictive word; what is not known was learnt, or never said."""
        return self._at.get(about)

    def matter_under(self, statement: Statement) -> str:
        """The matter that the rule of docs/formats.md §4 puts the next statement under; it is taken in."""
        matter, subject = matter_of(statement), statement.subject
        about = (subject, matter)
        if is_overtaken(statement.type, statement.time, self.at(about), self.at((subject, EVERYTHING))):
            return OVERTAKEN + matter
        if statement.type in RESTRICTIVE and (self._complete or about in self._at):
            self._at[about] = max(self._at.get(about) or "", statement.time)
        return matter

    def unknown(self, about: About) -> bool:
        """Whether this must be learnt before it is asked."""
        return not self._complete and about not in self._at

    def take(self, learnt: Mapping[About, str | None]) -> None:
        """Keep what was learnt."""
        self._at.update(learnt)
        while not self._complete and len(self._at) > _KEPT:
            self._at.popitem(last=False)


async def restricted_at(
    db: Queries, shard: int, chains: Mapping[About, Chain], before: int
) -> dict[About, str | Invalid | None]:
    """The latest time of a restrictive word on each of these labels before an index, along their previous indexes; or
    why one cannot be read."""
    found: dict[About, str | Invalid | None] = dict.fromkeys(chains)
    waiting = dict(chains)
    while waiting:
        rows = await store.words(db, shard, sorted({index for _, index in waiting.values()}))
        words = {row["index"]: row for row in rows}
        following: dict[About, Chain] = {}
        for about, (keys, index) in waiting.items():
            try:
                leaf = parse_leaf(words[index]["leaf"])
                if index < before and isinstance(leaf, Event):
                    found[about] = _later(found[about], keys, shard, index, words[index]["payload"])
            except (Invalid, KeyError):
                found[about] = Invalid("restrictions", f"the word at index {index}", "cannot be read")
                continue
            if not isinstance(leaf, Event) and index < before:
                # Whoever is erased says nothing any more, and what was said cannot be read.
                found[about] = Invalid("restrictions", f"the word at index {index}", "is erased")
            elif previous := getattr(leaf, "previous_plus_one", 0):
                following[about] = (keys, previous - 1)
        waiting = following
    return found


def _later(
    known: str | Invalid | None, keys: reader.SubjectKeys, shard: int, index: int, payload: bytes | None
) -> str | None:
    try:
        statement = parse(reader.open_payload(keys.payload_key, shard, index, payload or b""))
    except Malformed as malformed:
        raise Invalid("restrictions", f"the payload at index {index}", malformed.reason) from None
    known = known if isinstance(known, str) else None
    return max(known or "", statement.time) if statement.type in RESTRICTIVE else known
