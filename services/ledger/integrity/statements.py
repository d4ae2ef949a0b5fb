"""Stored statements against their leaves: keys, pins, labels, commitments, and the rows that say where each stands."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from services.ledger import store
from services.ledger.integrity.finding import Finding, Pace, Trusted
from services.ledger.integrity.numbers import Numbers
from services.ledger.integrity.restrictions import About, Chain, Restrictions, restricted_at
from services.ledger.reader import commitment as reader
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Event, parse_leaf
from services.ledger.reader.state_map import Map
from shared.database import Queries, Row
from shared.events import EVERYTHING, PERMISSIVE, Malformed, Statement, matter_of, parse
from shared.events.matter import OVERTAKEN
from shared.identifiers import shard_of
from shared.served_notice import verify as verify_served

_SUBJECTS_KEPT: Final = 20_000
_AT_ONCE: Final = 10  # about 2 ms
_ROWS_AT_ONCE: Final = 200

Keys = tuple[reader.SubjectKeys, bytes]
"""What follows from a subject's K, and its pin."""


class KeyRing:
    """The keys of the subjects lately spoken of."""

    def __init__(self, keks: Mapping[int, bytes], origin: str) -> None:
        self._keks = keks
        self._origin = origin
        self._known: OrderedDict[tuple[str, bytes], Keys] = OrderedDict()

    def of(self, subject: str, wrapped: bytes) -> Keys:
        """Invalid if the wrapped key does not open."""
        known = self._known.get((subject, wrapped))
        if known is None:
            keys = reader.derive(reader.unwrap(self._keks, subject, wrapped))
            known = self._known[subject, wrapped] = (keys, reader.pin(keys.label_key, self._origin, subject))
            if len(self._known) > _SUBJECTS_KEPT:
                self._known.popitem(last=False)
        return known


class Opened(NamedTuple):
    """A stored statement whose payload is whole."""

    keys: reader.SubjectKeys
    pin: bytes
    raw: bytes
    statement: Statement


class Statements:
    """What is stored beside the leaves of one log, looked at in their order."""

    def __init__(
        self, shard: int, trusted: Trusted, ring: KeyRing, restrictions: Restrictions, numbers: Numbers
    ) -> None:
        self.shard = shard
        self.events = 0
        self.blind: set[str] = set()
        """Subjects of whom some payload could not be read: what follows from all of them cannot be checked."""
        self.without_payload: list[tuple[int, bytes]] = []
        """EVENTs whose statement is gone, by index and label; it must have been erased."""
        self.touched: dict[About, str | None] = {}
        """What the last batch was about, and the latest restrictive time it says."""
        self._trusted = trusted
        self._ring = ring
        self._restrictions = restrictions
        self._numbers = numbers

    async def check(
        self, db: Queries, first: int, leaves: Sequence[bytes], known: Map | None, pace: Pace
    ) -> list[Finding]:
        """Everything wrong with the statements of one batch. If one names the leaf itself, it is the last: nothing can
        be replayed past it. `known` is the state map, from which is learnt what was said before these leaves."""
        self.touched = {}
        events, unread = _events(first, leaves)
        self.events += len(events)
        rows = await self._payloads(db, first, first + len(leaves))
        found = [
            Finding("payload", self.shard, f"index {index}", "belongs to no EVENT")
            for index in sorted(rows.keys() - events.keys() - unread)
        ]
        gone = events.keys() - rows.keys()
        self.without_payload += [(index, events[index].label) for index in sorted(gone)]
        opened: dict[int, Opened] = {}
        for index in sorted(events.keys() & rows.keys()):
            one = self._open(index, rows[index])
            if isinstance(one, Finding):
                self.blind.add(rows[index]["subject"])
                found.append(one)
            else:
                opened[index] = one
            if index % _AT_ONCE == 0:
                await pace.rest()
        if known is not None:
            await self._learn(db, first, opened, known)
        overtaken: dict[int, tuple[str, str]] = {}
        for index, one in opened.items():
            wrong = self._statement(index, events[index], one, overtaken)
            if wrong is not None:
                self.blind.add(one.statement.subject)
                found.append(wrong)
                if wrong.table == "leaf_batch":
                    # A leaf that does not fit its own payload; a payload can be left aside.
                    return found
            if index % _AT_ONCE == 0:
                await pace.rest()
        found += await self._seen(db, opened)
        stored = await self._stored_overtaken(db, first, first + len(leaves))
        subjects = {index: one.statement.subject for index, one in opened.items()}
        return found + [
            Finding("overtaken", self.shard, f"index {index}", "is missing, or was not overtaken")
            # Of what was erased nobody knows any more whether it was.
            for index in sorted((stored.keys() | overtaken.keys()) - gone)
            if stored.get(index) != overtaken.get(index) and subjects.get(index) not in self.blind
        ]

    async def _payloads(self, db: Queries, start: int, end: int) -> dict[int, Row]:
        rows: list[Row] = []
        for first in range(start, end, _ROWS_AT_ONCE):
            rows += await store.payloads(db, self.shard, first, min(first + _ROWS_AT_ONCE, end))
        return {row["index"]: row for row in rows}

    def _open(self, index: int, row: Row) -> Opened | Finding:
        where, subject = f"index {index}", row["subject"]
        if row["wrapped"] is None:
            what = "is missing, and the payload is still there"
            return Finding("subject_key", self.shard, f"of the payload at {where}", what)
        try:
            keys, pin = self._ring.of(subject, row["wrapped"])
        except Invalid as invalid:
            what = f"{invalid.what} {invalid.why}"
            return Finding("subject_key", self.shard, f"of the payload at {where}", what)
        try:
            raw = reader.open_payload(keys.payload_key, self.shard, index, row["payload"])
            statement = parse(raw)
        except Invalid as invalid:
            return Finding("payload", self.shard, where, f"{invalid.what} {invalid.why}")
        except Malformed as malformed:
            return Finding("payload", self.shard, where, f"is no statement: {malformed.reason}")
        if statement.subject != subject or shard_of(subject) != self.shard:
            return Finding("payload", self.shard, where, "is another subject's")
        return Opened(keys, pin, raw, statement)

    async def _learn(self, db: Queries, before: int, opened: Mapping[int, Opened], known: Map) -> None:
        """What the permissive ones among these need to know, of whom anything was said before."""
        chains: dict[About, Chain] = {}
        learnt: dict[About, str | None] = {}
        for keys, _, _, statement in opened.values():
            if statement.type not in PERMISSIVE:
                continue
            for matter in (matter_of(statement), EVERYTHING):
                about = (statement.subject, matter)
                if self._restrictions.unknown(about):
                    last = known.last(reader.label(keys.label_key, matter))
                    learnt[about] = None
                    if last is not None:
                        chains[about] = (keys, last[1])
        for about, at in (await restricted_at(db, self.shard, chains, before)).items():
            if isinstance(at, Invalid):
                self.blind.add(about[0])
            else:
                learnt[about] = at
        self._restrictions.take(learnt)

    def _statement(
        self, index: int, event: Event, one: Opened, overtaken: dict[int, tuple[str, str]]
    ) -> Finding | None:
        """What is wrong with one statement or its leaf.

        The payload is authenticated by a key that no leaf depends on, so one that opens is whole, and a leaf that
        differs from it is the one that was altered.
        """
        where, statement = f"index {index}", one.statement
        plain, matter = matter_of(statement), self._restrictions.matter_under(statement)
        if matter != plain:
            overtaken[index] = (statement.source, statement.id)
        # Whether one of the blind was overtaken depends on a payload that we could not read.
        matters = {matter, plain, OVERTAKEN + plain} if statement.subject in self.blind else {matter}
        if event.label not in {reader.label(one.keys.label_key, name) for name in matters}:
            return Finding("leaf_batch", self.shard, where, "the label is not that of the statement's matter")
        opening = reader.opening(one.keys.opening_key, event.label, event.version)
        try:
            reader.verify_commitment(event, one.pin, opening, one.raw)
        except Invalid:
            return Finding("leaf_batch", self.shard, where, "the commitment is not that of its statement")
        self.touched[statement.subject, matter] = self._restrictions.at((statement.subject, matter))
        if not self._served_holds(statement):
            what = "the served-notice token does not hold, though its source says so"
            return Finding("payload", self.shard, where, what)
        return None

    def _served_holds(self, statement: Statement) -> bool:
        served = getattr(statement.data, "served", None)
        if not self._trusted.notice_keys or served is None or not served.verified:
            return True
        token = verify_served(self._trusted.notice_keys, served.token)
        return token is not None and token.notice == statement.data.notice.hash

    async def _seen(self, db: Queries, opened: Mapping[int, Opened]) -> list[Finding]:
        rows = await db.fetch(
            """select source, id::text as id, index, statement_hash, sequence from seen
               where shard = $1 and id = any($2::uuid[])""",
            self.shard,
            [one.statement.id for one in opened.values()],
        )
        stored = {(row["source"], row["id"]): (row["index"], row["statement_hash"]) for row in rows}
        for row in rows:
            if row["sequence"] > 0:
                self._numbers.add(row["source"], row["sequence"])
        return [
            Finding("seen", self.shard, f"of index {index}", "is missing, or says another index or hash")
            for index, one in opened.items()
            if stored.get((one.statement.source, one.statement.id)) != (index, sha256(one.raw).digest())
        ]

    async def _stored_overtaken(self, db: Queries, start: int, end: int) -> dict[int, tuple[str, str]]:
        rows = await db.fetch(
            """select index, source, id::text as id from overtaken
               where shard = $1 and index >= $2 and index < $3""",
            self.shard,
            start,
            end,
        )
        return {row["index"]: (row["source"], row["id"]) for row in rows}


def not_erased(
    shard: int, gone: Sequence[tuple[int, bytes]], erased: Collection[bytes], lost: Sequence[Row]
) -> list[Finding]:
    """Of the statements that are gone, by index and label, those that neither ended with their label nor were lost by a
    restore."""
    # Of what a restore has listed as erased the label must have ended, as of anything else that is not there.
    named = {row["index"] for row in lost if row["reason"] != "erased"}
    return [
        Finding("payload", shard, f"index {index}", "is missing, and its label was not erased")
        for index, label in gone
        if index not in named and label not in erased
    ]


def _events(first: int, leaves: Sequence[bytes]) -> tuple[dict[int, Event], set[int]]:
    """The EVENTs among these leaves by index; and what cannot be read, which the replay names."""
    events: dict[int, Event] = {}
    unread: set[int] = set()
    for index, leaf in enumerate(leaves, first):
        try:
            parsed = parse_leaf(leaf)
        except Invalid:
            unread.add(index)
            continue
        if isinstance(parsed, Event):
            events[index] = parsed
    return events, unread
