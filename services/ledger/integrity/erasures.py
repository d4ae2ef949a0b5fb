"""What is noted of erasures against what was recorded of them: nobody goes who was not ordered to, and whoever went
stays away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.ledger import store
from services.ledger.reader import commitment as reader
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Event, MapRoot, parse_leaf
from services.ledger.reader.state_map import Map
from shared.clock import parse_rfc3339
from shared.database import Queries, Row
from shared.events import Malformed, Statement, parse

Wrong = tuple[str, str, str]
"""Table, where in it, and what is wrong."""

_WORD: Final = 89
_RESTORED: Final = 0
"""`completed` of whom a restore found at its end without the statement that says so; index 0 is no statement's."""

_NOTED = """
select coalesce(e.subject, r.subject) as subject, e.subject is not null as noted, e.completed,
       e.hold_until, e.hold_until > clock_timestamp() + interval '1 minute' as holds, e.ending_at is not null as ending,
       e.destroyed_at is not null as destroyed, coalesce(r.matters, '{}') as matters, k.wrapped
from (select * from erasure where shard = $1) e
     full join (select subject, array_agg(matter) as matters from matter
                where shard = $1 and matter like 'request:%' group by subject) r using (subject)
     left join subject_key k on k.subject = coalesce(e.subject, r.subject)
order by 1
"""
_BACK = """
select p.index from payload p join erasure e using (subject)
where p.shard = $1 and e.destroyed_at is not null order by p.index
"""
_ENDED = """
select m.subject, m.matter, k.wrapped from matter m join subject_key k using (subject)
where m.shard = $1 and (m.subject, m.matter) > ($2, $3)
  and not exists (select from erasure e where e.subject = m.subject and e.ending_at is not null)
order by m.subject, m.matter limit 2000
"""


@dataclass
class _Said:
    """What the statements about one subject's erasures come to."""

    first: int | None = None
    completed: int | None = None
    until: datetime | None = None
    until_at: int | None = None
    """Index of the statement that names the longest hold."""
    whole: bool = True
    """Every one of them could be read."""

    def add(self, index: int, statement: Statement) -> None:
        if statement.type not in {"ErasureOrdered", "ErasureHeld", "ErasureCompleted"}:
            return
        self.first = index if self.first is None else min(index, self.first)
        if statement.type == "ErasureCompleted":
            self.completed = index if self.completed is None else min(index, self.completed)
        named = statement.data.until if statement.type == "ErasureHeld" else statement.data.evidence_until
        until = None if named is None else parse_rfc3339(named)
        if until is not None and (self.until is None or until > self.until):
            self.until, self.until_at = until, index


async def wrong_erasures(
    db: Queries, shard: int, keks: Mapping[int, bytes], known: Map, erased: Collection[bytes]
) -> AsyncIterator[Wrong]:
    """Hold `erasure` and what is left of the subjects in it against the statements about requests.

    `known` is the state map of all leaves, `erased` the labels that have an ERASURE. What says so goes with whom it is
    about: of somebody destroyed nobody can tell any more whether that was ordered.
    """
    has_lost = bool(await store.lost_records(db, shard))
    for row in await db.fetch(_NOTED, shard):
        what = await _wrong(db, shard, keks, known, row, has_lost=has_lost)
        if what is not None:
            yield "erasure", f"subject {row['subject']}", what
    for row in await db.fetch(_BACK, shard):
        yield "payload", f"index {row['index']}", "is there, and its subject was destroyed"
    if erased:
        async for wrong in _ended_unasked(db, shard, keks, erased):
            yield wrong


async def _wrong(
    db: Queries, shard: int, keks: Mapping[int, bytes], known: Map, row: Row, *, has_lost: bool
) -> str | None:
    if row["destroyed"]:
        return "is destroyed, and there is a key or a matter of it" if row["wrapped"] or row["matters"] else None
    try:
        said = await _said(db, shard, keks, known, row)
    except Invalid:
        return None  # a key, leaf or payload that does not hold is named where it is looked at
    if not row["noted"]:
        return None if said.first is None else f"is missing, and index {said.first} is about its erasure"
    if row["completed"] == _RESTORED and has_lost:
        return None
    if row["completed"] != said.completed and (said.whole or said.completed is not None):
        if row["completed"] is None:
            return f"is not noted as completed, and index {said.completed} says that it is"
        return f"is noted as completed at index {row['completed']}, and nothing that is recorded says so"
    if said.first is None:
        return None  # of a tail that was taken out and comes again; nothing happens on the strength of it
    if said.until is not None and row["hold_until"] < said.until:
        return f"is held for a shorter time than index {said.until_at} says"
    if said.whole and row["holds"] and (said.until is None or row["hold_until"] > said.until):
        return "is held for longer than anything recorded says"
    return None


async def _said(db: Queries, shard: int, keks: Mapping[int, bytes], known: Map, row: Row) -> _Said:
    """Along the labels of the subject's requests, from their last word back."""
    said = _Said()
    if row["wrapped"] is None:
        return said
    keys = reader.derive(reader.unwrap(keks, row["subject"], row["wrapped"]))
    for matter in row["matters"]:
        last = known.last(reader.label(keys.label_key, matter))
        index = None if last is None else last[1]
        while index is not None:
            parsed = parse_leaf(await _word(db, shard, index))
            if isinstance(parsed, MapRoot):
                raise Invalid("erasures", f"the leaf at {index}", "is not the word that a later one names")
            found = await store.payloads(db, shard, index, index + 1)
            if found:
                raw = reader.open_payload(keys.payload_key, shard, index, found[0]["payload"])
                try:
                    said.add(index, parse(raw))
                except Malformed as malformed:
                    raise Invalid("erasures", f"the payload at {index}", malformed.reason) from None
            elif isinstance(parsed, Event):
                said.whole = False
            index = parsed.previous_plus_one - 1 if parsed.previous_plus_one else None
    return said


async def _word(db: Queries, shard: int, index: int) -> bytes:
    """Every batch is words of one length and a MAP_ROOT behind them."""
    for batch in await store.batches_between(db, shard, index, index + 1):
        if batch.first <= index < batch.first + batch.n - 1:
            at = (index - batch.first) * _WORD
            return batch.leaves[at : at + _WORD]
    raise Invalid("erasures", f"the leaf at {index}", "is missing")


async def _ended_unasked(
    db: Queries, shard: int, keks: Mapping[int, bytes], erased: Collection[bytes]
) -> AsyncIterator[Wrong]:
    """Labels with an ERASURE whose subject lives, and is not noted to be at its end."""
    keys: dict[str, bytes] = {}
    last = ("", "")
    while rows := await db.fetch(_ENDED, shard, *last):
        last = (rows[-1]["subject"], rows[-1]["matter"])
        for row in rows:
            subject, matter = row["subject"], row["matter"]
            try:
                if subject not in keys:
                    keys = {subject: reader.derive(reader.unwrap(keks, subject, row["wrapped"])).label_key}
            except Invalid:
                continue
            if reader.label(keys[subject], matter) in erased:
                yield "matter", f"subject {subject}, {matter}", "has ended, and nobody has ordered that"
