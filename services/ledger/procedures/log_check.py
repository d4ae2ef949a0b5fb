"""`log check`: re-verify everything that is stored, row by row, by the reader alone, and name what is wrong.

Nothing of the writer is used. What the appender computed is computed a second time: trees, tiles, maps, labels,
commitments, who was overtaken; and whatever a superuser could alter contradicts something here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger import store
from services.ledger.integrity import people
from services.ledger.integrity.beside import check_attachments, check_rejects
from services.ledger.integrity.cosignatures import Cosignatures
from services.ledger.integrity.erasures import noted, wrong_erasures
from services.ledger.integrity.finding import Finding, Pace, Progress, Trusted
from services.ledger.integrity.leaves import Leaves
from services.ledger.integrity.numbers import Numbers, check_numbers
from services.ledger.integrity.replay import Replay
from services.ledger.integrity.restrictions import Restrictions
from services.ledger.integrity.signatures import Signatures
from services.ledger.integrity.stamps import wrong_stamps
from services.ledger.integrity.statements import KeyRing, Statements, not_erased
from services.ledger.reader import commitment as reader
from services.ledger.reader.authority import Authority, parse_authority
from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import node_hash
from services.ledger.reader.note import CosignatureSigner, Signer
from services.ledger.reader.policy import Policy, parse_policy
from services.ledger.reader.replica import Replica
from services.ledger.signer_files import signed_leaves
from shared.clock import utc_now
from shared.database import Database, Queries, Row
from shared.errors import Corrupt, Unavailable
from shared.secrets import Secrets
from shared.settings import Settings

_BACK: Final = """
select p.index from payload p join erasure e using (subject)
where p.shard = $1 and e.destroyed_at is not null order by p.index
"""
_COSIGNED_AT_ONCE: Final = 1000


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
        for finding in await check_attachments(snapshot):
            yield finding


async def main(settings: Settings, shard: int | None, progress: Callable[[str], None]) -> int:
    """The command: says each finding on standard output; 0 if there is none."""
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    wrong: Counter[int] = Counter()
    sizes: dict[int, int] = {}
    lost: dict[int, int] = {}
    try:
        async for found in check_log(db, trusted_of(settings, progress), shard):
            if isinstance(found, Finding):
                wrong[found.shard] += 1
                print(f"wrong: {found}", flush=True)
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
        print(f"shard {number}: {count} statements are listed as lost by a restore (table lost_record)")
    print(f"{rows} wrong rows" if rows else f"all {leaves} leaves of {len(sizes)} log(s) verify")
    return 1 if rows else 0


def trusted_of(settings: Settings, progress: Callable[[str], None]) -> Trusted:
    """What lies here: keys, and the signer's files. Where the signer's keys are not at hand, the log's own row says
    which they are."""
    secrets = Secrets(settings.secrets_dir)
    vkeys, fresh_vkeys = {}, {}
    for number in range(settings.shards):
        origin = settings.origin(number)
        with suppress(Corrupt):
            if private := secrets.log_keys(number):
                vkeys[number] = Signer(origin, private[max(private)]).vkey
            fresh_vkeys[number] = CosignatureSigner(f"{origin}/fresh", secrets.fresh_key(number)).vkey
    notice_keys: Mapping[str, Ed25519PublicKey] = {}
    with suppress(Corrupt):
        notice_keys = secrets.notice_public_keys()
    authority, witnesses = _authority(settings, progress), _witnesses(settings, progress)
    return Trusted(secrets.keks(), vkeys, fresh_vkeys, notice_keys, settings.signer_dir, authority, witnesses)


def _authority(settings: Settings, progress: Callable[[str], None]) -> Authority | None:
    """Whose timestamps are believed, if that is known here."""
    if settings.timestamp_authority is None:
        return None
    try:
        return parse_authority(settings.timestamp_authority.read_bytes())
    except (OSError, Invalid) as error:
        progress(f"timestamps are held against their checkpoints alone, not against their authority: {error}")
        return None


def _witnesses(settings: Settings, progress: Callable[[str], None]) -> Policy | None:
    """Whose cosignatures are believed, if that is known here."""
    if settings.witness_policy is None:
        return None
    try:
        return parse_policy(settings.witness_policy.read_bytes())
    except (OSError, Invalid) as error:
        progress(f"cosignatures are held against the policies that the log has noted alone: {error}")
        return None


class _Shard:
    """One log, from its first leaf to its last."""

    def __init__(self, db: Queries, trusted: Trusted, log: Row) -> None:
        self._db = db
        self._trusted = trusted
        self.shard: int = log["shard"]
        self._signatures = Signatures(trusted, log)
        self._ring = KeyRing(trusted.keks, log["origin"])
        self._restrictions, self._numbers = Restrictions(complete=True), Numbers()
        self._statements = Statements(self.shard, trusted, self._ring, self._restrictions, self._numbers)
        self._replica = Replica()
        signed = None if trusted.signer_dir is None else signed_leaves(trusted.signer_dir, self.shard)
        self._leaves = Leaves(self.shard, self._replica, signed=signed)
        self._replay = Replay(self._leaves, self._statements, Pace())

    def _wrong(self, table: str, where: str, what: str) -> Finding:
        return Finding(table, self.shard, where, what)

    async def check(self) -> AsyncIterator[Finding | Progress]:
        head = await store.head(self._db, self.shard)
        for finding in await self._signatures.check_keys(self._db):
            yield finding
        async for found in self._replay.to(self._db):
            yield Progress(found.shard, found.checked, head["size"]) if isinstance(found, Progress) else found
        if not self._replay.stopped:
            for finding in self._check_head(head):
                yield finding
            for check in (self._check_rows, self._check_people, self._check_erasures, self._check_numbers):
                for finding in await check():
                    yield finding
        for finding in await self._check_signed():
            yield finding

    async def _check_signed(self) -> list[Finding]:
        size, stopped = self._replica.size, self._replay.stopped
        rows = await store.checkpoints_behind(self._db, self.shard, 0)
        found = [] if rows else [self._wrong("checkpoint", "all", "there is none")]
        found += await self._signatures.check_checkpoints(self._db, rows, self._replay.roots, size, stopped=stopped)
        found += await wrong_stamps(self._db, self.shard, self._trusted.authority, Pace())
        found += await self._wrong_cosignatures()
        found += await self._signatures.check_served(self._db)
        return found + await check_rejects(self._db, self.shard, Pace())

    async def _wrong_cosignatures(self) -> list[Finding]:
        cosignatures, last = Cosignatures(self.shard, self._trusted.witnesses), False
        found = await cosignatures.check_policies(self._db)
        while not last:
            more, last = await cosignatures.check_behind(self._db, cosignatures.size, _COSIGNED_AT_ONCE)
            found += more
        return found + await cosignatures.check_newest(self._db)

    def _check_head(self, head: Row) -> Sequence[Finding]:
        found, size = [], self._replica.size
        if head["size"] != size:
            found.append(self._wrong("head", "size", f"is {head['size']}, there are {size} leaves"))
        if head["map_root"] != self._replica.map.root():
            found.append(self._wrong("head", "map_root", "is not that of the leaves"))
        edge = head["edge"]
        hashes = [edge[at : at + 32] for at in range(0, len(edge), 32)]
        root = hashes.pop() if hashes else b""
        while hashes:
            root = node_hash(hashes.pop(), root)
        if len(edge) != 32 * size.bit_count() or root != self._replica.tree_root():
            found.append(self._wrong("head", "edge", "is not that of the leaves"))
        return found

    async def _check_rows(self) -> list[Finding]:
        """Rows that belong to nothing; and what has no payload must have been erased."""
        found = []
        if next(self._leaves.signed, None) is not None:
            what = "leaves that were signed are missing"
            found.append(self._wrong("leaf_batch", f"from index {self._replica.size}", what))
        lost = await store.lost_records(self._db, self.shard)
        found += not_erased(self.shard, self._statements.without_payload, self._replica.erased, lost)
        expected = {"tile": self._leaves.full_tiles, "seen": self._statements.events - len(lost)}
        for table, rows in expected.items():
            count = await self._db.fetchval(f"select count(*) from {table} where shard = $1", self.shard)
            if count != rows:
                found.append(self._wrong(table, "all", f"{count} rows, not {rows}"))
        for table in ("payload", "overtaken"):
            behind = await self._db.fetch(
                f"select index from {table} where shard = $1 and index >= $2 order by index",
                self.shard,
                self._replica.size,
            )
            found += [self._wrong(table, f"index {row['index']}", "belongs to no leaf") for row in behind]
        return found

    async def _check_people(self) -> list[Finding]:
        found, labels = [], 0
        async for one in people.check_everybody(self._db, self.shard, self._ring, self._wrong_matter):
            if isinstance(one, Finding):
                found.append(one)
            else:
                labels += one
        if labels != len(self._replica.map) and not self._statements.without_payload:
            what = f"{labels} rows, the map has {len(self._replica.map)} labels"
            found.append(self._wrong("matter", "all", what))
        return found

    async def _check_erasures(self) -> list[Finding]:
        back = await self._db.fetch(_BACK, self.shard)
        found = [
            self._wrong("payload", f"index {row['index']}", "is there, and its subject was destroyed") for row in back
        ]
        after, known, erased = "", self._replica.map, self._replica.erased
        while some := await people.names(self._db, self.shard, after):
            after = some[-1]
            rows = await noted(self._db, self.shard, some)
            found += await wrong_erasures(self._db, self.shard, self._ring, rows, known, erased, self._replica.size)
        return found

    async def _check_numbers(self) -> list[Finding]:
        unread = bool(self._statements.without_payload or self._statements.blind)
        return await check_numbers(
            self._db, self.shard, self._replica.size, self._numbers, Pace(), unread=unread, everything=True
        )

    def _wrong_matter(self, keys: reader.SubjectKeys, subject: str, matter: str, at: str | None) -> str | None:
        if self._replica.map.get(reader.label(keys.label_key, matter)) is None:
            return "has no label in the map"
        if subject not in self._statements.blind and at != self._restrictions.at((subject, matter)):
            return people.RESTRICTED
        return None
