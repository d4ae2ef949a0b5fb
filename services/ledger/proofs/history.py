"""What is recorded of one subject, or of one statement, with all that proves it: read from the log, nothing decided.

No table leads from a subject to its records, because keeping one would cost the hot path more than all else about a
record. The labels follow from the subject's key; the sealed map knows the newest leaf of each (while it is being
built, that is looked for from the log's end backwards), and from there each leaf names the one before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.ledger import store
from services.ledger.log.leaf import MAP_ROOT, split_leaves
from services.ledger.log.secrets import SubjectSecrets, unwrap
from services.ledger.log.tiles import inclusion_proof
from services.ledger.log.tree import GetHashes
from services.ledger.proofs.sealed_map import SealedMaps
from services.ledger.stored_tree import StoredHashes, leaves
from shared.database import Database
from shared.errors import Corrupt, Refused
from shared.events import EVERYTHING, Malformed, Statement, matter_of, parse
from shared.events.matter import OVERTAKEN
from shared.identifiers import is_subject, shard_of

_BATCHES_AT_ONCE: Final = 64
_MANY: Final = ("use:", "data:", "access:")
"""Matters with a word for each mail, or each look"""
_LABEL = slice(1, 33)
_PREVIOUS = slice(41, 49)
_VERSION = slice(33, 41)


@dataclass(frozen=True, slots=True)
class Log:
    """One shard's log as its row names it."""

    shard: int
    origin: str
    vkey: str
    fresh_vkey: str


@dataclass(frozen=True, slots=True)
class Proven:
    """One recorded statement with its leaf, what opens its commitment, and its way up to the root."""

    index: int
    matter: str
    overtaken: bool
    leaf: bytes
    raw: bytes
    statement: Statement
    pin: bytes
    opening: bytes
    hashes: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class History:
    """Statements proven under one checkpoint. `note` is the checkpoint as served, with its fresh line."""

    log: Log
    size: int
    note: str
    subject: str
    entries: Sequence[Proven]


@dataclass(frozen=True, slots=True)
class Remaining:
    """What there still is of a destroyed statement: its leaf, which nobody can open, and its way up to the root."""

    log: Log
    size: int
    note: str
    index: int
    leaf: bytes
    hashes: Sequence[bytes]


def unknown() -> Refused:
    """One answer for what was never here, and for what a stranger has no key to: neither tells anything."""
    return Refused("not-found", "There is nothing at this address.", status=404)


@dataclass
class Histories:
    """Reads histories and single statements of every shard."""

    db: Database
    keks: Mapping[int, bytes]
    maps: SealedMaps
    _hashes: dict[int, StoredHashes] = field(default_factory=dict)

    async def of_subject(
        self, subject: str, purpose: str = "", channel: str = "", under: tuple[int, str] | None = None
    ) -> History:
        """Everything recorded of a subject, or what bears on one purpose and channel; Refused 404, also once erased.

        `under`: size and text of the checkpoint to prove it under; the newest if none is given.
        """
        # The key and its matters first: their leaves are appended by the same statement, so all of them are there.
        log, secrets, matters = await self.known(subject)
        size, note = under or await self._checkpoint(log)
        labels = {secrets.label(matter): matter for matter in matters}
        newest = await self._newest(log, set(labels))
        placed = [
            (index, leaf, labels[label])
            for label, last in newest.items()
            for index, leaf in await self._chain(log, label, last)
            if index < size
        ]
        statements = await self._statements(log, secrets, [index for index, _, _ in placed])
        found = {
            index: (leaf, matter, *statements[index]) for index, leaf, matter in sorted(placed) if index in statements
        }
        if purpose or channel:
            chosen = concerning({index: one[3] for index, one in found.items()}, purpose, channel)
            found = {index: one for index, one in found.items() if index in chosen}
        hashes = Remembered(self._stored_hashes(log))
        entries = [
            await prove(secrets, index, size, leaf, matter, raw, statement, hashes)
            for index, (leaf, matter, raw, statement) in found.items()
        ]
        return History(log, size, note, subject, entries)

    async def of_statement(self, statement: str) -> History:
        """The one statement with this id, sealed; Refused 404 if there is none, or none any more."""
        return await self._single(*await self._placed(statement))

    async def remaining(self, statement: str) -> Remaining:
        """What an erasure has left of the statement with this id; Refused 404 if none has taken anything of it."""
        log, index = await self._placed(statement)
        size, note = await self._checkpoint(log)
        is_there = await self.db.fetchval(
            """select exists (select from payload where shard = $1 and index = $2)
                   or exists (select from lost_record where shard = $1 and index = $2)""",
            log.shard,
            index,
        )
        if is_there or index >= size:
            raise unknown()
        [leaf] = await leaves(self.db, log.shard, index, index + 1)
        hashes = await inclusion_proof(index, size, self._stored_hashes(log))
        return Remaining(log, size, note, index, leaf, hashes)

    async def _placed(self, statement: str) -> tuple[Log, int]:
        for log in await self._all_logs():
            index = await self.db.fetchval("select index from seen where shard = $1 and id = $2", log.shard, statement)
            if index is not None:
                return log, int(index)
        raise unknown()

    async def of_acts(self, subject: str) -> Sequence[Statement]:
        """What was said by a subject and done for it, uses and messages apart; nothing while the map is read in."""
        log, secrets, matters = await self.known(subject)
        labels = {secrets.label(matter) for matter in matters if not matter.startswith(_MANY)}
        placed = await self.maps.of(log.shard).newest(labels)
        if placed is None:
            return []
        size, _ = await self._checkpoint(log)
        indexes = []
        for label, last in placed.items():
            [leaf] = await leaves(self.db, log.shard, last, last + 1)
            indexes += [index for index, _ in await self._chain(log, label, (last, leaf)) if index < size]
        found = await self._statements(log, secrets, indexes)
        return [statement for _, (_, statement) in sorted(found.items())]

    async def log(self, shard: int) -> Log:
        """The log of a shard; Refused 404 if there is none."""
        for one in await self._all_logs():
            if one.shard == shard:
                return one
        raise unknown()

    async def _all_logs(self) -> Iterable[Log]:
        # Asked anew each time: another key may have taken a log over.
        rows = await store.logs(self.db)
        return [Log(row["shard"], row["origin"], row["vkey"], row["fresh_vkey"]) for row in rows]

    async def _single(self, log: Log, index: int) -> History:
        size, note = await self._checkpoint(log)
        if index >= size:
            raise unknown()
        row = await self.db.fetchrow(
            """select p.subject, p.payload, k.wrapped from payload p join subject_key k on k.subject = p.subject
               where p.shard = $1 and p.index = $2""",
            log.shard,
            index,
        )
        if row is None:
            raise unknown()
        secrets = SubjectSecrets(unwrap(self.keks, row["subject"], row["wrapped"]), log.origin, row["subject"])
        raw, statement = opened(secrets, log, index, row["payload"])
        [leaf] = await leaves(self.db, log.shard, index, index + 1)
        matter = matter_of(statement)
        if secrets.label(matter) != leaf[_LABEL]:
            matter = OVERTAKEN + matter
            if secrets.label(matter) != leaf[_LABEL]:
                raise Corrupt("label", f"shard {log.shard}, index {index}")
        entry = await prove(secrets, index, size, leaf, matter, raw, statement, self._stored_hashes(log))
        return History(log, size, note, row["subject"], [entry])

    async def _checkpoint(self, log: Log) -> tuple[int, str]:
        served = await store.served_checkpoint(self.db, log.shard)
        if served is None:
            raise Corrupt("checkpoint", f"shard {log.shard} has none")
        return served

    async def known(self, subject: str) -> tuple[Log, SubjectSecrets, Sequence[str]]:
        """A subject's log, its secrets, and the matters it has labels about; Refused 404 if there is no key, or none
        any more."""
        row = await store.subject_in_log(self.db, subject, shard_of(subject)) if is_subject(subject) else None
        if row is None:
            raise unknown()
        log = Log(row["shard"], row["origin"], row["vkey"], row["fresh_vkey"])
        secrets = SubjectSecrets(unwrap(self.keks, subject, row["wrapped"]), log.origin, subject)
        return log, secrets, row["matters"] or []

    async def _newest(self, log: Log, wanted: set[bytes]) -> dict[bytes, tuple[int, bytes]]:
        """The newest leaf of each label; a label that no leaf has is left out."""
        placed = await self.maps.of(log.shard).newest(wanted)
        if placed is not None:
            return {
                label: (index, (await leaves(self.db, log.shard, index, index + 1))[0])
                for label, index in placed.items()
            }
        found: dict[bytes, tuple[int, bytes]] = {}
        before = 2**63 - 1
        while len(found) < len(wanted):
            rows = await self.db.fetch(
                "select first, leaves from leaf_batch where shard = $1 and first < $2 order by first desc limit $3",
                log.shard,
                before,
                _BATCHES_AT_ONCE,
            )
            if not rows:
                break
            for row in rows:
                for label in wanted - found.keys():
                    # A quick look over the whole row; only a row that has the label is taken apart.
                    if label in row["leaves"]:
                        found |= _last_with(label, row["first"], row["leaves"])
            before = rows[-1]["first"]
            await asyncio.sleep(0)
        return found

    async def _chain(self, log: Log, label: bytes, last: tuple[int, bytes]) -> list[tuple[int, bytes]]:
        """All leaves of a label, newest first, along their previous indexes."""
        index, leaf = last
        chain = [(index, leaf)]
        while (previous := int.from_bytes(leaf[_PREVIOUS], "big")) != 0:
            version, index = int.from_bytes(leaf[_VERSION], "big"), previous - 1
            [leaf] = await leaves(self.db, log.shard, index, index + 1)
            if leaf[0] == MAP_ROOT or leaf[_LABEL] != label or int.from_bytes(leaf[_VERSION], "big") != version - 1:
                raise Corrupt("leaf", f"shard {log.shard}, index {index} is not what a later leaf says")
            chain.append((index, leaf))
        return chain

    async def _statements(
        self, log: Log, secrets: SubjectSecrets, indexes: Sequence[int]
    ) -> dict[int, tuple[bytes, Statement]]:
        rows = await self.db.fetch(
            "select index, payload from payload where shard = $1 and index = any($2)", log.shard, indexes
        )
        return {row["index"]: opened(secrets, log, row["index"], row["payload"]) for row in rows}

    def _stored_hashes(self, log: Log) -> StoredHashes:
        return self._hashes.setdefault(log.shard, StoredHashes(self.db, log.shard))


class Remembered:
    """The hashes of one size of the tree, each tile read once for all proofs of an answer."""

    def __init__(self, hashes: StoredHashes) -> None:
        self._hashes = hashes
        self._tiles: dict[tuple[int, int, int], bytes] = {}

    async def __call__(self, level: int, n: int, width: int) -> bytes:
        tile = self._tiles.get((level, n, width))
        if tile is None:
            tile = self._tiles[level, n, width] = await self._hashes(level, n, width)
        return tile


def concerning(statements: Mapping[int, Statement], purpose: str, channel: str) -> set[int]:
    """Indexes of what bears on one purpose and channel, of the statements of one subject.

    That is its own matters, every word about everything, the records that these follow (the confirmation mail), and
    those that follow its requests (their mail, their deletion).
    """
    own = {f"{kind}:{purpose}/{channel}" for kind in ("purpose", "ask", "use")} | {EVERYTHING}
    chosen = {index for index, statement in statements.items() if matter_of(statement) in own}
    names = {statement.id: index for index, statement in statements.items()}
    asked = {statements[index].id for index in chosen if matter_of(statements[index]).startswith("ask:")}
    for index, statement in statements.items():
        if matter_of(statement).startswith(("data:", "request:")) and asked & set(_follows(statement)):
            chosen.add(index)
    open_ends = list(chosen)
    while open_ends:
        for name in _follows(statements[open_ends.pop()]):
            followed = names.get(name)
            if followed is None or followed in chosen:
                continue
            if matter_of(statements[followed]).startswith(("data:", "request:")):
                chosen.add(followed)
                open_ends.append(followed)
    return chosen


def _follows(statement: Statement) -> Sequence[str]:
    return getattr(statement.data, "follows", [])


def _last_with(label: bytes, first: int, joined: bytes) -> dict[bytes, tuple[int, bytes]]:
    found = {}
    for index, leaf in enumerate(split_leaves(joined), first):
        if leaf[0] != MAP_ROOT and leaf[_LABEL] == label:
            found[label] = (index, leaf)
    return found


def opened(secrets: SubjectSecrets, log: Log, index: int, payload: bytes) -> tuple[bytes, Statement]:
    """A stored statement, its bytes and what they say."""
    raw = secrets.open_payload(log.shard, index, payload)
    try:
        return raw, parse(raw)
    except Malformed:
        raise Corrupt("statement", f"shard {log.shard}, index {index}") from None


async def prove(
    secrets: SubjectSecrets,
    index: int,
    size: int,
    leaf: bytes,
    matter: str,
    raw: bytes,
    statement: Statement,
    hashes: GetHashes,
) -> Proven:
    """A recorded statement with its way up to the root of a tree of this size."""
    return Proven(
        index=index,
        matter=matter.removeprefix(OVERTAKEN),
        overtaken=matter.startswith(OVERTAKEN),
        leaf=leaf,
        raw=raw,
        statement=statement,
        pin=secrets.pin,
        opening=secrets.opening(leaf[_LABEL], int.from_bytes(leaf[_VERSION], "big")),
        hashes=await inclusion_proof(index, size, hashes),
    )
