"""What is noted of erasures against what was recorded of them: nobody goes who was not ordered to, and whoever went
stays away."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.ledger import store
from services.ledger.integrity.finding import Finding
from services.ledger.integrity.statements import KeyRing
from services.ledger.reader import commitment as reader
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Event, MapRoot, parse_leaf
from services.ledger.reader.state_map import Map
from shared.clock import parse_rfc3339
from shared.database import Queries, Row
from shared.events import Malformed, Statement, parse

_RESTORED: Final = 0
"""`completed` of whom a restore found at its end without the statement that says so; index 0 is no statement's."""


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


async def noted(db: Queries, shard: int, some: Sequence[str]) -> list[Row]:
    """What is noted of these subjects' erasures, and what is left of them: a row for each, whoever it is."""
    return await db.fetch(
        """select s.subject, e.subject is not null as noted, e.completed, e.hold_until,
                  e.hold_until > clock_timestamp() + interval '1 minute' as holds, e.ending_at is not null as ending,
                  e.destroyed_at is not null as destroyed, k.wrapped,
                  array(select m.matter from matter m where m.subject = s.subject order by 1) as matters
           from unnest($2::text[]) s (subject)
                left join erasure e on e.subject = s.subject and e.shard = $1
                left join subject_key k on k.subject = s.subject
           order by s.subject""",
        shard,
        some,
    )


async def wrong_erasures(
    db: Queries, shard: int, ring: KeyRing, rows: Sequence[Row], known: Map, erased: Collection[bytes], end: int
) -> list[Finding]:
    """Hold what is noted, and what is left of those who have been erased, against the statements about requests; of
    subjects as they stood when the log had `end` leaves.

    `known` is the state map, of that size or later, and `erased` the labels in it that have an ERASURE. What says so
    goes with whom it is about: of somebody destroyed nobody can tell any more whether that was ordered.
    """
    has_lost = any(row["completed"] == _RESTORED for row in rows) and bool(await store.lost_records(db, shard))
    found = []
    for row in rows:
        what = await _wrong(db, shard, ring, row, known, end, has_lost=has_lost)
        if what is not None:
            found.append(Finding("erasure", shard, f"subject {row['subject']}", what))
        if erased and not row["ending"]:
            found += [
                Finding(
                    "matter", shard, f"subject {row['subject']}, {matter}", "has ended, and nobody has ordered that"
                )
                for matter in _ended(ring, row, known, erased, end)
            ]
    return found


async def _wrong(
    db: Queries, shard: int, ring: KeyRing, row: Row, known: Map, end: int, *, has_lost: bool
) -> str | None:
    if row["destroyed"]:
        return "is destroyed, and there is a key or a matter of it" if row["wrapped"] or row["matters"] else None
    try:
        said = await _said(db, shard, ring, row, known, end)
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


async def _said(db: Queries, shard: int, ring: KeyRing, row: Row, known: Map, end: int) -> _Said:
    """Along the labels of the subject's requests, from their last word back."""
    said = _Said()
    requests = [matter for matter in row["matters"] if matter.startswith("request:")]
    if row["wrapped"] is None or not requests:
        return said
    keys, _ = ring.of(row["subject"], row["wrapped"])
    for matter in requests:
        last = known.last(reader.label(keys.label_key, matter))
        index = None if last is None else last[1]
        while index is not None:
            words = await store.words(db, shard, [index])
            leaf, payload = (words[0]["leaf"], words[0]["payload"]) if words else (b"", None)
            parsed = parse_leaf(leaf)
            if isinstance(parsed, MapRoot):
                raise Invalid("erasures", f"the leaf at {index}", "is not the word that a later one names")
            if index < end and isinstance(parsed, Event):
                if payload is None:
                    said.whole = False
                else:
                    said.add(index, _statement(keys, shard, index, payload))
            index = parsed.previous_plus_one - 1 if parsed.previous_plus_one else None
    return said


def _statement(keys: reader.SubjectKeys, shard: int, index: int, payload: bytes) -> Statement:
    try:
        return parse(reader.open_payload(keys.payload_key, shard, index, payload))
    except Malformed as malformed:
        raise Invalid("erasures", f"the payload at {index}", malformed.reason) from None


def _ended(ring: KeyRing, row: Row, known: Map, erased: Collection[bytes], end: int) -> list[str]:
    """The matters of a subject that ended before the log had `end` leaves."""
    if row["wrapped"] is None:
        return []
    try:
        keys, _ = ring.of(row["subject"], row["wrapped"])
    except Invalid:
        return []
    found = []
    for matter in row["matters"]:
        label = reader.label(keys.label_key, matter)
        last = known.last(label) if label in erased else None
        if last is not None and last[1] < end:
            found.append(matter)
    return found
