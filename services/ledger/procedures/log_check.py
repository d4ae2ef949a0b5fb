"""`log check`: re-verify everything that is stored, row by row, by the reader alone, and name what is wrong.

Nothing of the writer is used. What the appender computed is computed a second time: trees, tiles, maps, labels,
commitments, who was overtaken; and whatever a superuser could alter contradicts something here.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger import store
from services.ledger.integrity.erasures import wrong_erasures
from services.ledger.integrity.stamps import wrong_stamps
from services.ledger.log_keys import KnownKey, known_keys, published
from services.ledger.reader import commitment as reader
from services.ledger.reader.authority import Authority, parse_authority
from services.ledger.reader.errors import Invalid
from services.ledger.reader.handover import Handover
from services.ledger.reader.leaf import Event, MapRoot, parse_leaf
from services.ledger.reader.merkle import leaf_hash, node_hash, root_of
from services.ledger.reader.note import CosignatureSigner, CosignatureVerifier, Signer, parse_note
from services.ledger.reader.policy import Policy
from services.ledger.reader.replica import Replica
from services.ledger.signer_files import signed_leaves
from shared.clock import utc_now
from shared.database import Database, Queries, Row
from shared.errors import Corrupt, Unavailable
from shared.events import EVERYTHING, RESTRICTIVE, Malformed, Statement, is_overtaken, matter_of, parse
from shared.events.matter import OVERTAKEN
from shared.identifiers import shard_of
from shared.secrets import Secrets
from shared.served_notice import verify as verify_served
from shared.settings import Settings

_LENGTHS: Final = {0x01: 89, 0x02: 57, 0x03: 89}
_TILE: Final = 256
_ROWS_AT_ONCE: Final = 1000
_SUBJECTS_KEPT: Final = 20_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One wrong row: which table, which shard, where in it, and what is wrong. Nothing personal."""

    table: str
    shard: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.table}, shard {self.shard}, {self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How many leaves of a shard have been checked."""

    shard: int
    checked: int
    size: int


@dataclass(frozen=True, slots=True)
class Trusted:
    """What the check believes without asking PostgreSQL: keys, and the signer's own files where they are."""

    keks: Mapping[int, bytes]
    vkeys: Mapping[int, str] = field(default_factory=dict)
    """By shard, the newest key of the log whose file is here."""
    fresh_vkeys: Mapping[int, str] = field(default_factory=dict)
    notice_keys: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    signer_dir: Path | None = None
    authority: Authority | None = None
    """Whose timestamps of checkpoints are believed."""


async def check_log(
    database: Database, trusted: Trusted, shard: int | None = None
) -> AsyncIterator[Finding | Progress]:
    """Every wrong row of one shard or of all, in the order of the log, with progress in between.

    A wrong leaf ends its shard: nothing behind it can be judged. All is read in one snapshot, so a running ledger may
    go on meanwhile.
    """
    async with database.transaction(timeout="86400s", isolation="repeatable read") as snapshot:
        for log in await store.logs(snapshot):
            if shard in {None, log["shard"]}:
                async for found in _Shard(snapshot, trusted, log).check():
                    yield found
        async for finding in _attachments(snapshot):
            yield finding


async def main(settings: Settings, shard: int | None, progress: Callable[[str], None]) -> int:
    """The command: says each finding on standard output; 0 if there is none."""
    secrets = Secrets(settings.secrets_dir)
    vkeys, fresh_vkeys = {}, {}
    for number in range(settings.shards):
        origin = settings.origin(number)
        # Where the signer's keys are not at hand, the log's own row says which they are.
        with suppress(Corrupt):
            if private := secrets.log_keys(number):
                vkeys[number] = Signer(origin, private[max(private)]).vkey
            fresh_vkeys[number] = CosignatureSigner(f"{origin}/fresh", secrets.fresh_key(number)).vkey
    notice_keys: Mapping[str, Ed25519PublicKey] = {}
    with suppress(Corrupt):
        notice_keys = secrets.notice_public_keys()
    trusted = Trusted(
        secrets.keks(), vkeys, fresh_vkeys, notice_keys, settings.signer_dir, _authority(settings, progress)
    )
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    wrong: Counter[int] = Counter()
    sizes: dict[int, int] = {}
    lost: dict[int, int] = {}
    try:
        async for found in check_log(db, trusted, shard):
            if isinstance(found, Finding):
                wrong[found.shard] += 1
                print(f"wrong: {found}", flush=True)  # noqa: T201 - a command prints
            else:
                sizes[found.shard] = found.size
                progress(f"shard {found.shard}: {found.checked} of {found.size} leaves")
        for number in sizes:
            gone = [row for row in await store.lost_records(db, number) if row["reason"] != "erased"]
            lost |= {number: len(gone)} if gone else {}
        # A copy that cannot be written can be checked as well.
        with suppress(Unavailable):
            for log in await store.logs(db):
                if shard in {None, log["shard"]}:
                    await store.put_check(db, log["shard"], wrong[log["shard"]], utc_now())
    finally:
        await db.close()
    leaves = sum(sizes.values())
    rows = wrong.total()
    for number, count in sorted(lost.items()):
        print(f"shard {number}: {count} statements are listed as lost by a restore (table lost_record)")  # noqa: T201
    print(f"{rows} wrong rows" if rows else f"all {leaves} leaves of {len(sizes)} log(s) verify")  # noqa: T201
    return 1 if rows else 0


def _authority(settings: Settings, progress: Callable[[str], None]) -> Authority | None:
    """Whose timestamps are believed, if that is known here."""
    if settings.timestamp_authority is None:
        return None
    try:
        return parse_authority(settings.timestamp_authority.read_bytes())
    except (OSError, Invalid) as error:
        progress(f"timestamps are held against their checkpoints alone, not against their authority: {error}")
        return None


class _Shard:
    """One log, replayed from its stored rows."""

    def __init__(self, db: Queries, trusted: Trusted, log: Row) -> None:
        self._db = db
        self._trusted = trusted
        self._log = log
        self.shard: int = log["shard"]
        self._origin: str = log["origin"]
        self._replica = Replica()
        self._tiles: list[list[bytes]] = []
        """Per level the hashes of the tile that is not full."""
        self._full_tiles = 0
        self._events = 0
        self._recorded_at = 0
        self._batch_ends: dict[int, bytes] = {}
        """Roots at the sizes that a checkpoint is stored for."""
        self._keys: OrderedDict[str, tuple[reader.SubjectKeys, bytes]] = OrderedDict()
        self._restricted: dict[tuple[str, str], str] = {}
        self._overtaken: dict[int, tuple[str, str]] = {}
        self._without_payload: list[tuple[int, bytes]] = []
        self._blind: set[str] = set()
        """Subjects of whom some payload could not be read: what follows from all of them cannot be checked."""
        self._stopped = False
        self._keys_known: list[KnownKey] = []
        """Those that sign this log, or have signed it."""

    def _wrong(self, table: str, where: str, what: str) -> Finding:
        return Finding(table, self.shard, where, what)

    async def check(self) -> AsyncIterator[Finding | Progress]:
        head = await store.head(self._db, self.shard)
        checkpoints = await self._db.fetch(
            "select size, previous, root, note from checkpoint where shard = $1 order by size", self.shard
        )
        self._keys_known = await known_keys(self._db, self.shard)
        first = await self._db.fetchval("select vkey from log where shard = $1", self.shard)
        for finding in self._check_keys(first):
            yield finding
        self._batch_ends = {row["size"]: b"" for row in checkpoints}
        signed = self._signed_leaves()
        async for found in self._replay(head, signed):
            yield found
        if not self._stopped:
            for finding in self._check_head(head):
                yield finding
            if next(signed, None) is not None:
                yield self._wrong(
                    "leaf_batch", f"from index {self._replica.size}", "leaves that were signed are missing"
                )
            async for finding in self._check_counts():
                yield finding
        for finding in self._check_checkpoints(checkpoints):
            yield finding
        async for finding in self._check_beside(checkpoints):
            yield finding

    def _check_keys(self, first: str) -> Iterator[Finding]:
        known = [key.vkey for key in self._keys_known]
        if first != known[0] or self._trusted.vkeys.get(self.shard, first) not in known:
            yield self._wrong("log", "vkey", "is not the key that we have")
        if self._trusted.fresh_vkeys.get(self.shard, self._log["fresh_vkey"]) != self._log["fresh_vkey"]:
            yield self._wrong("log", "fresh_vkey", "is not the key that we have")
        for before, key in pairwise(self._keys_known):
            try:
                handover = Handover((key.handover or "").encode(), before.vkey)
                handover.verify()
            except Invalid as invalid:
                yield self._wrong("log_key", f"number {key.number}", f"{invalid.what} {invalid.why}")
                continue
            if (handover.old, handover.new) != (before.vkey, key.vkey):
                yield self._wrong("log_key", f"number {key.number}", "its handover is about other keys")

    def _signed_leaves(self) -> Iterator[bytes]:
        directory = self._trusted.signer_dir
        return iter(()) if directory is None else signed_leaves(directory, self.shard)

    async def _replay(self, head: Row, signed: Iterator[bytes]) -> AsyncIterator[Finding | Progress]:
        size = int(head["size"])
        while batches := await store.batches(self._db, self.shard, self._replica.size, 8):
            for batch in batches:
                if batch.first != self._replica.size:
                    self._stopped = True
                    yield self._wrong("leaf_batch", f"first {batch.first}", f"leaf {self._replica.size} is missing")
                    return
                async for finding in self._batch(batch, signed):
                    yield finding
                if self._stopped:
                    return
            yield Progress(self.shard, self._replica.size, size)
            await asyncio.sleep(0)

    async def _batch(self, batch: store.Batch, signed: Iterator[bytes]) -> AsyncIterator[Finding]:
        leaves = list(_split(batch.leaves))
        finding = self._unlike_signed(batch, leaves, signed)
        if finding is not None:
            self._stopped = True
            yield finding
            return
        async for finding in self._statements(batch, leaves):
            yield finding
        if self._stopped:
            return
        finding = await self._apply(batch, leaves)
        if finding is not None:
            self._stopped = True
            yield finding
            return
        async for finding in self._add_to_tiles(leaves):
            yield finding
        if self._replica.size in self._batch_ends:
            self._batch_ends[self._replica.size] = self._replica.tree_root()

    async def _apply(self, batch: store.Batch, leaves: Sequence[bytes]) -> Finding | None:
        """Replay one batch: what breaks a rule of docs/formats.md §10, or does not lead to the stored root."""
        end = batch.first + batch.n - 1
        where, what = f"index {batch.first} to {end}", ""
        try:
            last = [self._replica.apply(leaf) for leaf in leaves][-1]
            if not isinstance(last, MapRoot):
                what = "does not end in a MAP_ROOT"
            elif self._replica.tree_root() != batch.root:
                what = "the tree up to here does not have the stored root"
        except Invalid as invalid:
            what = f"{invalid.what} {invalid.why}"
            # A map root that does not fit tells of some leaf before it; any other rule of the leaf itself.
            where = where if invalid.index in {None, end} else f"index {invalid.index}"
        if not what:
            return None
        altered = await self._altered(batch, leaves)
        if altered is not None:
            return self._wrong("leaf_batch", f"index {altered}", "is not the leaf whose hash its tile holds")
        return self._wrong("leaf_batch", where, what)

    def _unlike_signed(self, batch: store.Batch, leaves: Sequence[bytes], signed: Iterator[bytes]) -> Finding | None:
        """The first leaf that is none, or not the one that the signer's own files have."""
        if len(leaves) != batch.n or b"" in leaves:
            where = f"index {batch.first} to {batch.first + batch.n - 1}"
            return self._wrong("leaf_batch", where, "the bytes are not those of as many leaves")
        for index, leaf in enumerate(leaves, batch.first):
            if next(signed, leaf) != leaf:
                return self._wrong("leaf_batch", f"index {index}", "is not the leaf that the signer has signed")
        return None

    async def _altered(self, batch: store.Batch, leaves: Sequence[bytes]) -> int | None:
        """The one leaf of a batch that its full tile on level 0 does not know, if that tile exists."""
        for n in range(batch.first // _TILE, (batch.first + batch.n - 1) // _TILE + 1):
            hashes = await store.tile(self._db, self.shard, 0, n)
            if hashes is None:
                continue
            for index in range(max(n * _TILE, batch.first), min((n + 1) * _TILE, batch.first + batch.n)):
                at = (index - n * _TILE) * 32
                if leaf_hash(leaves[index - batch.first]) != hashes[at : at + 32]:
                    return index
        return None

    async def _statements(self, batch: store.Batch, leaves: Sequence[bytes]) -> AsyncIterator[Finding]:
        """Payloads of one batch against its leaves."""
        events, unread = {}, set()
        for index, leaf in enumerate(leaves, batch.first):
            try:
                parsed = parse_leaf(leaf)
                if isinstance(parsed, Event):
                    events[index] = parsed
            except Invalid:
                unread.add(index)  # the replica names it
        self._events += len(events)
        rows = {
            row["index"]: row for row in await store.payloads(self._db, self.shard, batch.first, batch.first + batch.n)
        }
        for index in sorted(rows.keys() - events.keys() - unread):
            yield self._wrong("payload", f"index {index}", "belongs to no EVENT")
        named: dict[tuple[str, str], tuple[int, bytes]] = {}
        for index, event in events.items():
            row = rows.get(index)
            if row is None:
                self._without_payload.append((index, event.label))
                continue
            finding = self._statement(index, event, row, named)
            if finding is not None:
                self._blind.add(row["subject"])
                # A leaf that does not fit its own payload cannot be replayed past; a payload can be left aside.
                self._stopped |= finding.table == "leaf_batch"
                yield finding
                if self._stopped:
                    return
        async for finding in self._seen(named):
            yield finding

    def _statement(
        self, index: int, event: Event, row: Row, named: dict[tuple[str, str], tuple[int, bytes]]
    ) -> Finding | None:
        """What is wrong with one payload or its leaf.

        The payload is authenticated by a key that no leaf depends on, so one that opens is whole, and a leaf that
        differs from it is the one that was altered.
        """
        where = f"index {index}"
        subject: str = row["subject"]
        if row["wrapped"] is None:
            return self._wrong(
                "subject_key", f"of the payload at {where}", "is missing, and the payload is still there"
            )
        try:
            keys, pin = self._keys_of(subject, row["wrapped"])
        except Invalid as invalid:
            return self._wrong("subject_key", f"of the payload at {where}", f"{invalid.what} {invalid.why}")
        try:
            raw = reader.open_payload(keys.payload_key, self.shard, index, row["payload"])
        except Invalid as invalid:
            return self._wrong("payload", where, f"{invalid.what} {invalid.why}")
        try:
            statement = parse(raw)
        except Malformed as malformed:
            return self._wrong("payload", where, f"is no statement: {malformed.reason}")
        if statement.subject != subject or shard_of(subject) != self.shard:
            return self._wrong("payload", where, "is another subject's")
        matters = [self._matter(index, statement)]
        if subject in self._blind:
            # Whether it was overtaken depends on a payload that we could not read.
            matters += [matter_of(statement), OVERTAKEN + matter_of(statement)]
        if event.label not in {reader.label(keys.label_key, matter) for matter in matters}:
            return self._wrong("leaf_batch", where, "the label is not that of the statement's matter")
        opening = reader.opening(keys.opening_key, event.label, event.version)
        try:
            reader.verify_commitment(event, pin, opening, raw)
        except Invalid:
            return self._wrong("leaf_batch", where, "the commitment is not that of its statement")
        named[statement.source, statement.id] = (index, sha256(raw).digest())
        if not self._served_holds(statement):
            return self._wrong("payload", where, "the served-notice token does not hold, though its source says so")
        return None

    def _served_holds(self, statement: Statement) -> bool:
        served = getattr(statement.data, "served", None)
        if not self._trusted.notice_keys or served is None or not served.verified:
            return True
        token = verify_served(self._trusted.notice_keys, served.token)
        return token is not None and token.notice == statement.data.notice.hash

    def _matter(self, index: int, statement: Statement) -> str:
        """The matter that the rule of docs/formats.md §4 puts a statement under, by what came before it."""
        matter, subject = matter_of(statement), statement.subject
        restricted = self._restricted.get((subject, matter))
        if is_overtaken(statement.type, statement.time, restricted, self._restricted.get((subject, EVERYTHING))):
            self._overtaken[index] = (statement.source, statement.id)
            return OVERTAKEN + matter
        if statement.type in RESTRICTIVE:
            self._restricted[subject, matter] = max(restricted or "", statement.time)
        return matter

    def _keys_of(self, subject: str, wrapped: bytes) -> tuple[reader.SubjectKeys, bytes]:
        known = self._keys.get(subject)
        if known is None:
            keys = reader.derive(reader.unwrap(self._trusted.keks, subject, wrapped))
            known = self._keys[subject] = (keys, reader.pin(keys.label_key, self._origin, subject))
            if len(self._keys) > _SUBJECTS_KEPT:
                self._keys.popitem(last=False)
        return known

    async def _seen(self, named: Mapping[tuple[str, str], tuple[int, bytes]]) -> AsyncIterator[Finding]:
        rows = await self._db.fetch(
            """select source, id::text as id, index, statement_hash from seen
               where shard = $1 and id = any($2::uuid[])""",
            self.shard,
            [statement_id for _, statement_id in named],
        )
        found = {(row["source"], row["id"]): (row["index"], row["statement_hash"]) for row in rows}
        for name, expected in named.items():
            if found.get(name) != expected:
                yield self._wrong("seen", f"of index {expected[0]}", "is missing, or says another index or hash")

    async def _add_to_tiles(self, leaves: Sequence[bytes]) -> AsyncIterator[Finding]:
        grown = [leaf_hash(leaf) for leaf in leaves]
        size = self._replica.size - len(leaves)
        level = 0
        while grown:
            if level == len(self._tiles):
                self._tiles.append([])
            n = size // _TILE ** (level + 1)
            hashes = self._tiles[level] + grown
            grown = []
            while len(hashes) >= _TILE:
                tile, hashes = hashes[:_TILE], hashes[_TILE:]
                stored = await store.tile(self._db, self.shard, level, n)
                if stored != b"".join(tile):
                    what = "is missing" if stored is None else "does not hold the hashes of its leaves"
                    yield self._wrong("tile", f"level {level}, number {n}", what)
                grown.append(root_of(tile))
                self._full_tiles += 1
                n += 1
            self._tiles[level] = hashes
            level += 1

    def _check_head(self, head: Row) -> Iterator[Finding]:
        size = self._replica.size
        if head["size"] != size:
            yield self._wrong("head", "size", f"is {head['size']}, there are {size} leaves")
        if head["map_root"] != self._replica.map.root():
            yield self._wrong("head", "map_root", "is not that of the leaves")
        edge = head["edge"]
        hashes = [edge[at : at + 32] for at in range(0, len(edge), 32)]
        root = hashes.pop() if hashes else b""
        while hashes:
            root = node_hash(hashes.pop(), root)
        if len(edge) != 32 * size.bit_count() or root != self._replica.tree_root():
            yield self._wrong("head", "edge", "is not that of the leaves")

    def _check_checkpoints(self, checkpoints: Sequence[Row]) -> Iterator[Finding]:
        policy = Policy(tuple(published(self._keys_known)))
        previous = None
        if not checkpoints:
            yield self._wrong("checkpoint", "all", "there is none")
        for row in checkpoints:
            where = f"size {row['size']}"
            try:
                checkpoint = policy.verify(row["note"].encode()).checkpoint
            except Invalid as invalid:
                yield self._wrong("checkpoint", where, f"{invalid.what} {invalid.why}")
                continue
            if (checkpoint.size, checkpoint.root, checkpoint.origin) != (row["size"], row["root"], self._origin):
                yield self._wrong("checkpoint", where, "the row does not say what its note says")
            elif row["previous"] != previous:
                yield self._wrong("checkpoint", where, f"follows {row['previous']}, not {previous}")
            elif row["size"] <= self._replica.size and self._batch_ends[row["size"]] != row["root"]:
                yield self._wrong(
                    "checkpoint", where, "is signed, but is not the root of the leaves at the end of a batch"
                )
            elif row["size"] > self._replica.size and not self._stopped:
                yield self._wrong("checkpoint", where, "covers leaves that are not there")
            previous = row["size"]

    async def _check_counts(self) -> AsyncIterator[Finding]:
        """Rows that belong to nothing; and what has no payload must have been erased."""
        lost = await store.lost_records(self._db, self.shard)
        # Of what a restore has listed as erased the label must have ended, as of anything else that is not there.
        named = {row["index"] for row in lost if row["reason"] != "erased"}
        for index, label in self._without_payload:
            if index in named:
                continue
            last = self._replica.map.get(label)
            leaf = None if last is None else await self._leaf(last.last_index)
            if leaf is None or leaf[0] != 0x03:
                yield self._wrong("payload", f"index {index}", "is missing, and its label was not erased")
        for table, expected in (("tile", self._full_tiles), ("seen", self._events - len(lost))):
            count = await self._db.fetchval(f"select count(*) from {table} where shard = $1", self.shard)
            if count != expected:
                yield self._wrong(table, "all", f"{count} rows, not {expected}")
        rows = await self._db.fetch("select index, source, id::text as id from overtaken where shard = $1", self.shard)
        erased = {index for index, _ in self._without_payload}
        stored = {row["index"]: (row["source"], row["id"]) for row in rows if row["index"] not in erased}
        for index in sorted(stored.keys() | self._overtaken.keys()):
            if not self._blind and stored.get(index) != self._overtaken.get(index):
                yield self._wrong("overtaken", f"index {index}", "is missing, or was not overtaken")
        async for finding in self._check_subjects():
            yield finding
        replica, keks = self._replica, self._trusted.keks
        async for wrong in wrong_erasures(self._db, self.shard, keks, replica.map, replica.erased):
            yield self._wrong(*wrong)

    async def _leaf(self, index: int) -> bytes:
        (batch,) = await store.batches_between(self._db, self.shard, index, index + 1)
        return list(_split(batch.leaves))[index - batch.first]

    async def _check_subjects(self) -> AsyncIterator[Finding]:
        """Every wrapped key opens, and every matter of its subject has a label in the map."""
        labels = 0
        last = ""
        while True:
            names = [
                row["subject"]
                for row in await self._db.fetch(
                    "select subject from subject_key where shard = $1 and subject > $2 order by subject limit $3",
                    self.shard,
                    last,
                    _ROWS_AT_ONCE,
                )
            ]
            if not names:
                break
            last = names[-1]
            for row in await store.subjects(self._db, names):
                try:
                    keys, _ = self._keys_of(row["subject"], row["wrapped"])
                except Invalid as invalid:
                    yield self._wrong("subject_key", f"subject {row['subject']}", f"{invalid.what} {invalid.why}")
                    continue
                for matter, restricted_at in zip(row["matters"], row["restricted_at"], strict=True):
                    labels += matter is not None
                    what = None if matter is None else self._wrong_matter(keys, row["subject"], matter, restricted_at)
                    if what is not None:
                        yield self._wrong("matter", f"subject {row['subject']}, {matter}", what)
        if labels != len(self._replica.map) and not self._without_payload:
            yield self._wrong("matter", "all", f"{labels} rows, the map has {len(self._replica.map)} labels")

    def _wrong_matter(
        self, keys: reader.SubjectKeys, subject: str, matter: str, restricted_at: str | None
    ) -> str | None:
        if self._replica.map.get(reader.label(keys.label_key, matter)) is None:
            return "has no label in the map"
        if subject not in self._blind and restricted_at != self._restricted.get((subject, matter)):
            return "restricted_at is not so"
        return None

    async def _check_beside(self, checkpoints: Sequence[Row]) -> AsyncIterator[Finding]:
        sealed = checkpoints[-1]["size"] if checkpoints else 0
        for wrong in await wrong_stamps(self._db, self.shard, self._trusted.authority):
            yield self._wrong(*wrong)
        cursor = await store.published(self._db, self.shard)
        if cursor > sealed:
            yield self._wrong("cursor", "next", f"is {cursor}, beyond the sealed size {sealed}")
        served = await store.served_checkpoint(self._db, self.shard)
        try:
            verifier = CosignatureVerifier(self._trusted.fresh_vkeys.get(self.shard, self._log["fresh_vkey"]))
            verifier.verify(parse_note((served[1] if served else "").encode()))
        except Invalid as invalid:
            yield self._wrong("fresh", "line", f"{invalid.what} {invalid.why}")
        rows = await self._db.fetch(
            "select number, statement_hash, sha256(statement) as computed from rejected where shard = $1", self.shard
        )
        for row in rows:
            if row["computed"] not in {None, row["statement_hash"]}:
                yield self._wrong("rejected", f"number {row['number']}", "the statement does not have its hash")


async def _attachments(db: Queries) -> AsyncIterator[Finding]:
    """Ciphertexts that do not have the hash they are found by; they belong to no shard, and count as the first's."""
    for row in await db.fetch("select encode(hash, 'hex') as hash from attachment where sha256(content) <> hash"):
        yield Finding("attachment", 0, f"hash {row['hash']}", "the content has another hash")


def _split(joined: bytes) -> Iterator[bytes]:
    """The leaves of one stored batch; the last is empty if the bytes are not those of leaves."""
    at = 0
    while at < len(joined):
        length = _LENGTHS.get(joined[at], 0)
        if not length or at + length > len(joined):
            yield b""
            return
        yield joined[at : at + length]
        at += length
