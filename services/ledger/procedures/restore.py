"""`log restore`: bring a log whose database was restored from an older backup to the last size that was signed.

The signer's own files say what was sealed: leaves, sizes, wrapped keys. The statements come from Kafka, which keeps
them for a week, and from the outboxes, and each must open the commitment of its leaf. What no longer can be had is
listed, and never guessed. Whoever was erased since the backup is destroyed again before any statement is put back. All
is one transaction: it is restored, or nothing has changed, and whoever serves meanwhile serves the backup.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg

from services.ledger import store
from services.ledger.destroy import Destroyer, attached
from services.ledger.keks import Keks
from services.ledger.key_file import kept_keys
from services.ledger.log.leaf import ERASURE, EVENT, MAP_ROOT, leaf_hash, split_leaves
from services.ledger.log.secrets import NONCE_SIZE, KeyEncryptionKeyMissing, SubjectSecrets, unwrap
from services.ledger.log.tree import TILE_WIDTH, Tile, TileWriter
from services.ledger.log_keys import known_keys, published, signers
from services.ledger.procedures.audit import Served, log_address
from services.ledger.procedures.heard import Heard, Listener, Names
from services.ledger.procedures.owner import as_owner
from services.ledger.procedures.tail import Tail, drop
from services.ledger.reader.audit import MAX_TILE, Audit, check_tile, split_entries
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import NOTE_LIMIT, CosignatureSigner, format_note
from services.ledger.reader.policy import Policy, parse_log_keys
from services.ledger.reader.replica import Replica
from services.ledger.signer_files import Signed, SignerFiles
from shared.clock import parse_rfc3339, utc_now
from shared.database import Queries
from shared.errors import Corrupt, Refused
from shared.events import EVERYTHING, RESTRICTIVE, Malformed, Statement, matter_of, parse
from shared.events.matter import OVERTAKEN
from shared.metrics import Metrics
from shared.outbox.restored import go_on_after
from shared.register import Register, load
from shared.secrets import Secrets
from shared.settings import Settings

_LABEL: Final = slice(1, 33)
_VERSION: Final = slice(33, 41)
_COMMITMENT: Final = slice(49, 81)
_EPOCHS: Final = 1_000_000
"""So far ahead of the restored epoch that no appender from before the restore can hold the new one."""
_ROWS_AT_ONCE: Final = 1000
_ERASING: Final = frozenset({"ErasureOrdered", "ErasureHeld", "ErasureCompleted"})

Found = tuple[int, Statement, bytes, str]
"""index, statement, its bytes, its matter"""
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done, in numbers."""

    shard: int
    had: int
    size: int
    statements: int
    lost: int
    erased: int

    def __str__(self) -> str:
        text = (
            f"shard {self.shard}: {self.size} leaves as they were signed, {self.size - self.had} of them were missing;"
            f" {self.statements} statements are back, {self.lost} are listed in lost_record,"
            f" {self.erased} subjects were erased again."
        )
        return f"{text} Run `consent-ledger log check`, then start the services"


async def restore(
    settings: Settings,
    shard: int,
    by: str,
    reason: str,
    mirror: str | None,
    progress: Callable[[str], None],
    outboxes: Sequence[str] = (),
) -> Restored:
    """Bring one log to the last size that was signed: by the signer's files, or by a mirror that has more than they.

    `outboxes`: addresses of databases with outboxes, of sources that have one of their own.
    The signer, the appender and the sources must not run: its files are held meanwhile, and so is the end of the log.
    """
    if not by.strip() or not reason.strip():
        raise Refused("no-name", "Say who does it, and why.")
    secrets = Secrets(settings.secrets_dir)
    async with as_owner(settings.superuser_dsn) as owner:
        if mirror is not None:
            origin, keys = await store.origin(owner, shard), await known_keys(owner, shard)
            vkey = signers(origin, keys, secrets.log_keys(shard))[-1].vkey
            await _from_mirror(mirror, vkey, settings.signer_dir, shard, progress)
        files = SignerFiles.open(settings.signer_dir, shard)
        try:
            await owner.execute("lock table head in exclusive mode")
            await owner.execute("lock table checkpoint, fresh in exclusive mode")
            return await _Restore(settings, secrets, owner, files, shard, (by, reason), progress).run(outboxes)
        finally:
            files.close()


async def _from_mirror(url: str, vkey: str, directory: Path, shard: int, progress: Callable[[str], None]) -> None:
    """Add to the signer's files, or make them from, what a mirror serves of this log under our key.

    Refused if the signer has signed more than the mirror has: that is not to be forgotten. Of files that are lost
    nobody here knows how far they went: whoever names a mirror says that nobody has seen more (docs/runbook.md).
    """
    audited, leaves = Audit(parse_log_keys(f"{vkey}\n".encode()).logs, compared=True), []
    try:
        async with Served(log_address(url)) as served:
            checkpoint = audited.see(await served.get("checkpoint", NOTE_LIMIT))
            for start, width, path in list(audited.bundles()):
                entries, _ = await served.bundle(path, full=False)
                for tile in audited.take(start, width, entries):
                    check_tile(tile, await served.get(tile.path, MAX_TILE))
                leaves += split_entries(start, width, entries)
                progress(f"{audited.size} of {audited.target} leaves from the mirror")
    except Invalid as invalid:
        raise Refused("mirror-is-wrong", f"What the mirror serves does not verify: {invalid}.") from None
    signed = Signed(checkpoint.size, checkpoint.root)
    if not SignerFiles.exist(directory, shard):
        SignerFiles.create(directory, shard, b"".join(leaves), signed)
        return
    files = SignerFiles.open(directory, shard)
    try:
        had = files.signed[-1].size
        if had > signed.size:
            message = f"The mirror has {signed.size} leaves, but {had} were signed: restore by the signer's files."
            raise Refused("mirror-is-behind", message)
        if any(ours != theirs for ours, theirs in zip(files.leaves(), leaves, strict=False)):
            raise Corrupt("the signer's leaves", f"shard {shard}: the mirror has others under our signature")
        if had < signed.size:
            files.add(leaves[had:], signed)
    finally:
        files.close()


@dataclass(slots=True)
class _Person:
    """One subject's secrets, the row of its key, and what it has words on."""

    secrets: SubjectSecrets
    wrapped: bytes
    stored: bool
    """whether the database has this row"""
    matters: dict[str, str | None] = field(default_factory=dict)
    """matter → restricted at"""


class _Restore:
    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        db: Queries,
        files: SignerFiles,
        shard: int,
        said: tuple[str, str],
        progress: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._secrets = secrets
        self._db = db
        self._files = files
        self._shard = shard
        self._said = said
        self._progress = progress
        self._keks = secrets.keks()
        self._origin = ""
        self._replica = Replica()
        self._tree = TileWriter()
        self._tiles: list[Tile] = []
        self._roots: dict[int, bytes] = {}
        """of every size that is known to have been signed"""
        self._recorded_at = 0
        self._events: dict[int, bytes] = {}
        """EVENTs that the database did not have: index → leaf"""
        self._labels: dict[bytes, list[int]] = {}
        """every label → the indexes of its EVENTs"""
        self._erased: dict[bytes, int] = {}
        """label → the index of its ERASURE"""
        self._forgotten: list[str] = []
        """subjects whose key-encryption key is destroyed, and who are not among those that were wrapped anew"""

    async def run(self, outboxes: Sequence[str]) -> Restored:
        shard, db = self._shard, self._db
        self._origin = await store.origin(db, shard)
        signed, had = self._files.signed[-1].size, (await store.head(db, shard))["size"]
        sealed = await self._verify_sealed()
        if sealed == signed:
            raise Refused("nothing-to-restore", f"PostgreSQL has the checkpoint of {signed}, the last that was signed.")
        stored = [leaf async for batch in store.replay(db, shard, 0, had) for leaf in split_leaves(batch.leaves)]
        agreed = self._agreed(stored)
        if agreed < sealed:
            raise Corrupt("leaf_batch", f"shard {shard}, index {agreed} is not the leaf that was signed")
        if agreed < len(stored):
            await self._drop_tail(sealed, len(stored))
            agreed = sealed
        await self._write_leaves(agreed)
        await self._write_checkpoints(sealed)
        self._progress(f"shard {shard}: {signed} leaves")
        listener = Listener(self._settings, self._secrets, shard, self._origin, self._progress)
        heard = await listener.listen(db, outboxes, agreed)
        people = await self._people()
        found, lost = await self._match(heard, people)
        for some in _chunks(found):
            await self._note_statements(some, people, heard.numbers)
        erased = len(self._forgotten) + await self._end(people)
        gone = await self._destroy(found)
        back = [one for one in found if one[1].subject not in gone]
        for some in _chunks(back):
            await self._put_back(some, people)
        for source, number in sorted(heard.given_out.items()):
            await go_on_after(db, source, shard, number)
        await self._note(lost)
        return Restored(shard, agreed, signed, len(back), lost, erased)

    async def _verify_sealed(self) -> int:
        """The size of PostgreSQL's newest checkpoint, once it is known to be one that was signed."""
        newest = await store.newest_checkpoint(self._db, self._shard)
        if newest is None:
            raise Corrupt("checkpoint", f"shard {self._shard} has none")
        try:
            keys = Policy(tuple(published(await known_keys(self._db, self._shard))))
            checkpoint = keys.verify(newest["note"].encode()).checkpoint
        except Invalid:
            raise Corrupt(
                "checkpoint", f"shard {self._shard}, size {newest['size']} is not signed by our key"
            ) from None
        if checkpoint.size > self._files.signed[-1].size:
            raise Corrupt("the signer's files", f"shard {self._shard}: they end before size {checkpoint.size}")
        # Files that were made from a mirror have only its newest size; the replay has the root of every one.
        self._roots = {one.size: one.root for one in self._files.signed}
        if self._roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
            raise Corrupt("checkpoint", f"shard {self._shard}, size {checkpoint.size} has another root than was signed")
        return checkpoint.size

    def _agreed(self, stored: Sequence[bytes]) -> int:
        """Of the leaves in PostgreSQL how many are those that were signed."""
        for index, (ours, theirs) in enumerate(zip(self._files.leaves(), stored, strict=False)):
            if ours != theirs:
                return index
        return min(len(stored), self._files.signed[-1].size)

    async def _drop_tail(self, sealed: int, size: int) -> None:
        """The backup holds an unsealed tail that was never signed so: it goes the way of every other."""
        about, what = "leaf_batch", "the backup holds leaves that were never signed so"
        await store.open_incident(self._db, self._shard, store.SIGNER_DISAGREES, about, what)
        await drop(self._db, self._files, Tail(self._shard, sealed, size, {}, 0), self._keks, self._said)

    async def _write_leaves(self, agreed: int) -> None:
        """Replay every leaf that was signed by the reader's rules, and write those that PostgreSQL does not have.

        The reader decides, the writer's tree only makes the tiles: both must come to the roots that were signed.
        """
        roots = dict(self._roots)
        rows: list[tuple[int, int, bytes, bytes]] = []
        batch: list[bytes] = []
        for index, leaf in enumerate(self._files.leaves()):
            try:
                self._replica.apply(leaf)
            except Invalid as invalid:
                raise Corrupt("the signer's leaves", f"shard {self._shard}, index {invalid.index}") from None
            self._note_leaf(index, leaf, is_new=index >= agreed)
            batch.append(leaf)
            if leaf[0] != MAP_ROOT:
                continue
            first = index + 1 - len(batch)
            self._tiles += self._tree.extend([leaf_hash(one) for one in batch])
            root = self._replica.tree_root()
            if roots.pop(index + 1, root) != root or self._tree.root() != root:
                raise Corrupt("the signer's files", f"shard {self._shard}: root of size {index + 1}")
            if first >= agreed:
                rows.append((first, len(batch), b"".join(batch), root))
            batch = []
            await asyncio.sleep(0)
        if roots or batch:
            raise Corrupt("the signer's leaves", f"shard {self._shard}: what was signed does not end in a MAP_ROOT")
        for some in _chunks(rows):
            await self._db.execute(
                """insert into leaf_batch (shard, first, n, leaves, root)
                   select $1, * from unnest($2::bigint[], $3::integer[], $4::bytea[], $5::bytea[])""",
                self._shard,
                *_columns(some),
            )
        new = [tile for tile in self._tiles if (tile.n + 1) * TILE_WIDTH ** (tile.level + 1) > agreed]
        for tiles in _chunks(new):
            await self._db.execute(
                "insert into tile select $1, * from unnest($2::smallint[], $3::bigint[], $4::bytea[])",
                self._shard,
                *_columns(tiles),
            )
        await self._db.execute(
            """update head set epoch = epoch + $2, size = $3, edge = $4, map_root = $5, recorded_at = $6
               where shard = $1""",
            self._shard,
            _EPOCHS,
            self._replica.size,
            self._tree.edge.to_bytes(),
            self._replica.map.root(),
            self._recorded_at,
        )

    def _note_leaf(self, index: int, leaf: bytes, *, is_new: bool) -> None:
        if leaf[0] == MAP_ROOT:
            return
        self._recorded_at = int.from_bytes(leaf[-8:], "big")
        if leaf[0] == ERASURE:
            self._erased[leaf[_LABEL]] = index
            return
        self._labels.setdefault(leaf[_LABEL], []).append(index)
        if is_new:
            self._events[index] = leaf

    async def _write_checkpoints(self, sealed: int) -> None:
        """Every checkpoint that was signed since. Ed25519 gives the same signature for the same text."""
        known = await known_keys(self._db, self._shard)
        signing, previous = signers(self._origin, known, self._secrets.log_keys(self._shard)), sealed
        for one in self._files.signed:
            if one.size <= sealed:
                continue
            text = Checkpoint(self._origin, one.size, one.root).text()
            await self._db.execute(
                "insert into checkpoint (shard, size, previous, root, note) values ($1, $2, $3, $4, $5)",
                self._shard,
                one.size,
                previous,
                one.root,
                format_note(text, [signer.sign(text) for signer in signing]).decode(),
            )
            previous = one.size
        now = utc_now()
        fresh = CosignatureSigner(f"{self._origin}/fresh", self._secrets.fresh_key(self._shard))
        await self._db.execute(
            """insert into fresh (shard, size, line, signed_at) values ($1, $2, $3, $4)
               on conflict (shard) do update set size = excluded.size, line = excluded.line,
                   signed_at = excluded.signed_at""",
            self._shard,
            previous,
            fresh.sign(text, int(now.timestamp())).decode(),
            now,
        )

    async def _people(self) -> dict[str, _Person]:
        """Whose K is there: in the database, or beside the signer's leaves. The latter is the newer wrapping."""
        beside = kept_keys(self._settings.signer_dir, self._shard)
        people: dict[str, _Person] = {}
        rows = await self._db.fetch("select subject from subject_key where shard = $1", self._shard)
        stored = {row["subject"] for row in rows}
        for names in _chunks(sorted(stored)):
            for row in await store.subjects(self._db, names):
                person = self._person(row["subject"], beside.get(row["subject"]), row["wrapped"])
                if person is None:
                    if beside:
                        self._forgotten.append(row["subject"])
                    continue
                people[row["subject"]] = person
                for matter, restricted_at in zip(row["matters"], row["restricted_at"], strict=True):
                    if matter is not None:
                        person.matters[matter] = restricted_at
        # Whoever was destroyed before the backup is in the file until the next rotation, and stays destroyed.
        rows = await self._db.fetch(
            "select subject from erasure where shard = $1 and destroyed_at is not null", self._shard
        )
        for subject in beside.keys() - stored - {row["subject"] for row in rows}:
            person = self._person(subject, beside[subject], None)
            if person is not None:
                people[subject] = person
        return people

    def _person(self, subject: str, beside: bytes | None, stored: bytes | None) -> _Person | None:
        """Whoever is in the file of keys lives, or was alive at the last rotation: then its key must open."""
        if stored is not None:
            try:
                secrets = SubjectSecrets(unwrap(self._keks, subject, stored), self._origin, subject)
                return _Person(secrets, stored, stored=True)
            except KeyEncryptionKeyMissing:
                pass
        if beside is None:
            return None
        secrets = SubjectSecrets(unwrap(self._keks, subject, beside), self._origin, subject)
        return _Person(secrets, beside, stored=False)

    async def _match(self, heard: Heard, people: Mapping[str, _Person]) -> tuple[list[Found], int]:
        """Each statement that opens the commitment of its leaf, by index; the other EVENTs are listed, and how many of
        them are not of the erased."""
        found: list[Found] = []
        why: dict[int, str] = {}
        for index, raw in sorted(heard.recorded.items()):
            if index in self._events:
                opened = self._opened(raw, people, [index])
                if isinstance(opened, str):
                    why[index] = opened
                else:
                    found.append(opened)
        missing = set(self._events) - {one[0] for one in found}
        for raw in heard.stated if missing else ():
            opened = self._opened(raw, people, missing)
            if not isinstance(opened, str):
                found.append(opened)
                missing.discard(opened[0])
        gone = sorted(missing)
        why |= {index: "erased" for index in gone if self._events[index][_LABEL] in self._erased}
        await self._db.execute(
            "insert into lost_record (shard, index, reason) select $1, * from unnest($2::bigint[], $3::text[])",
            self._shard,
            gone,
            [why.get(index, "no-statement") for index in gone],
        )
        return sorted(found, key=lambda one: one[0]), sum(why.get(index) != "erased" for index in gone)

    def _opened(self, raw: bytes, people: Mapping[str, _Person], among: Collection[int]) -> Found | str:
        """The one of these leaves that commits to this statement: index, statement, bytes, matter; or why none does."""
        try:
            statement = parse(raw)
        except Malformed:
            return "does-not-open"
        person = people.get(statement.subject)
        if person is None:
            return "no-key"
        plain = matter_of(statement)
        for matter in (plain, OVERTAKEN + plain):
            label = person.secrets.label(matter)
            for index in self._labels.get(label, ()):
                leaf = self._events.get(index)
                if leaf is not None and index in among and _commits(leaf, person.secrets, raw):
                    return index, statement, raw, matter
        return "does-not-open"

    async def _note_statements(self, some: Sequence[Found], people: Mapping[str, _Person], numbers: Names) -> None:
        """What is known of these statements beside their payloads, and outlives them."""
        matters: dict[tuple[str, str], str | None] = {}
        orders: list[Sequence[Any]] = []
        seen: list[Sequence[Any]] = []
        overtaken: list[Sequence[Any]] = []
        for index, statement, raw, matter in some:
            person = people[statement.subject]
            restricted_at = person.matters.get(matter)
            if statement.type in RESTRICTIVE and not matter.startswith(OVERTAKEN):
                restricted_at = max(restricted_at or "", statement.time)
            person.matters[matter] = matters[statement.subject, matter] = restricted_at
            number = numbers.get((statement.source, statement.id), 0)
            seen.append((statement.id, statement.source, index, number, sha256(raw).digest()))
            if matter.startswith(OVERTAKEN):
                overtaken.append((statement.source, number, statement.id, index))
            if statement.type in _ERASING:
                held = statement.type == "ErasureHeld"
                until = statement.data.until if held else statement.data.evidence_until
                completed = index if statement.type == "ErasureCompleted" else None
                orders.append((statement.subject, until and parse_rfc3339(until), completed))
        await self._db.execute(
            """insert into seen (shard, id, source, index, sequence, statement_hash)
               select $1, * from unnest($2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])""",
            self._shard,
            *_columns(seen),
        )
        await self._db.execute(
            """insert into matter (subject, matter, shard, restricted_at)
               select m.subject, m.matter, $1, m.restricted_at
               from unnest($2::text[], $3::text[], $4::text[]) m (subject, matter, restricted_at)
               on conflict (subject, matter) do update set restricted_at = excluded.restricted_at""",
            self._shard,
            [subject for subject, _ in matters],
            [matter for _, matter in matters],
            list(matters.values()),
        )
        for subject, until, completed in orders:
            await self._db.execute(
                """insert into erasure (subject, shard, hold_until, completed)
                   values ($2, $1, coalesce($3, to_timestamp($5 / 1000.0)), $4)
                   on conflict (subject) do update set hold_until = greatest(erasure.hold_until, excluded.hold_until),
                       completed = coalesce(erasure.completed, excluded.completed)""",
                self._shard,
                subject,
                until,
                completed,
                self._recorded_at,
            )
        if overtaken:
            await self._db.execute(
                """insert into overtaken (shard, source, sequence, id, index)
                   select $1, * from unnest($2::text[], $3::bigint[], $4::uuid[], $5::bigint[])""",
                self._shard,
                *_columns(overtaken),
            )

    async def _put_back(self, some: Sequence[Found], people: Mapping[str, _Person]) -> None:
        payloads: list[Sequence[Any]] = []
        for index, statement, raw, _ in some:
            secrets = people[statement.subject].secrets
            payload = secrets.seal_payload(self._shard, index, raw, os.urandom(NONCE_SIZE))
            payloads.append((index, statement.subject, payload))
        await self._db.execute(
            """insert into payload (shard, index, subject, payload)
               select $1, * from unnest($2::bigint[], $3::text[], $4::bytea[])""",
            self._shard,
            *_columns(payloads),
        )

    async def _end(self, people: Mapping[str, _Person]) -> int:
        """Note of whoever has a label with an ERASURE that it is at its end, and which labels have ended; each other
        gets a moment of its own, as `store.begin_endings` gives it. Of whoever lives, and until it is destroyed of
        everybody, the newest wrapping of the key is put back."""
        ended: list[Sequence[Any]] = []
        keys: list[tuple[str, bytes]] = []
        usual = list(_usual_matters(load(self._settings.register_dir)))
        for subject, person in people.items():
            if not person.stored:
                keys.append((subject, person.wrapped))
            labels = {person.secrets.label(matter): matter for matter in (*person.matters, *usual)}
            if not self._erased.keys().isdisjoint(labels):
                ended += [
                    (subject, matter, self._erased.get(label))
                    for label, matter in labels.items()
                    if label in self._labels
                ]
        for some in _chunks(keys):
            await self._db.execute(
                """insert into subject_key (subject, shard, wrapped)
                   select k.subject, $1, k.wrapped from unnest($2::text[], $3::bytea[]) k (subject, wrapped)
                   on conflict (subject) do update set wrapped = excluded.wrapped""",
                self._shard,
                *_columns(some),
            )
        await self._forget()
        if not ended:
            return 0
        gone = sorted({row[0] for row in ended})
        # Labels end only once no hold stands any more.
        await self._db.execute(
            """insert into erasure (subject, shard, hold_until, completed, ending_at)
               select subject, $1, clock_timestamp(), 0, clock_timestamp() from unnest($2::text[]) subject
               on conflict (subject) do update set hold_until = least(erasure.hold_until, excluded.hold_until),
                   completed = coalesce(erasure.completed, 0),
                   ending_at = coalesce(erasure.ending_at, excluded.ending_at)""",
            self._shard,
            gone,
        )
        columns = _columns(ended)
        await self._db.execute(
            """insert into matter (subject, matter, shard) select m.subject, m.matter, $1
               from unnest($2::text[], $3::text[]) m (subject, matter) on conflict do nothing""",
            self._shard,
            columns[0],
            columns[1],
        )
        await self._db.execute(
            """insert into ending (subject, matter, shard, end_at, ended)
               select e.subject, e.matter, $1, clock_timestamp() + random() * $5::interval, e.ended
               from unnest($2::text[], $3::text[], $4::bigint[]) e (subject, matter, ended)
               on conflict (subject, matter) do update set ended = excluded.ended""",
            self._shard,
            *columns,
            timedelta(seconds=self._settings.erasure_spread),
        )
        return len(gone)

    async def _destroy(self, found: Sequence[Found]) -> set[str]:
        """Destroy whoever has no label left, by the procedure that destroys every other; who they are. An archived mail
        goes with its statement, also where that is not in the backup."""
        destroyer = Destroyer(self._shard, self._db, Keks(self._secrets.keks), os.urandom, Metrics("ledger_restore"))
        due = await store.to_destroy(self._db, self._shard)
        attachments: dict[str, list[bytes]] = {}
        for _, statement, _, _ in found:
            if statement.subject in due:
                attachments.setdefault(statement.subject, []).extend(attached(statement))
        for subject, ended in due.items():
            try:
                await destroyer.destroy(subject, ended, attachments.get(subject, []))
            except asyncpg.IntegrityConstraintViolationError as error:
                raise Corrupt("erasure", f"shard {self._shard}: whoever is at the end cannot go: {error}") from None
        return set(due)

    async def _forget(self) -> None:
        """Of whom nothing opens any more nothing is kept but the mark that there will be no second K."""
        for table in ("payload", "ending", "matter", "subject_key"):
            await self._db.execute(
                f"delete from {table} where shard = $1 and subject = any($2)", self._shard, self._forgotten
            )
        await self._db.execute(
            """insert into erasure (subject, shard, hold_until, completed, ending_at, destroyed_at)
               select subject, $1, clock_timestamp(), 0, clock_timestamp(), clock_timestamp()
               from unnest($2::text[]) subject
               on conflict (subject) do update set completed = coalesce(erasure.completed, 0),
                   ending_at = coalesce(erasure.ending_at, excluded.ending_at), destroyed_at = excluded.destroyed_at""",
            self._shard,
            self._forgotten,
        )

    async def _note(self, lost: int) -> None:
        by, reason = self._said
        for about in await store.open_incidents(self._db, self._shard, store.SIGNER_DISAGREES):
            await self._db.execute(
                """update incident set closed_at = clock_timestamp(), closed_by = $3, closed_reason = $4
                   where shard = $1 and kind = $2 and about = $5 and closed_at is null""",
                self._shard,
                store.SIGNER_DISAGREES,
                by,
                reason,
                about,
            )
        if lost:
            detail = f"{lost} sealed statements could not be got back: they are in lost_record"
            await store.open_incident(self._db, self._shard, store.RECORDS_LOST, f"by {by}", detail)


def _commits(leaf: bytes, secrets: SubjectSecrets, raw: bytes) -> bool:
    version = int.from_bytes(leaf[_VERSION], "big")
    return leaf[0] == EVENT and secrets.commitment(leaf[_LABEL], version, raw) == leaf[_COMMITMENT]


def _usual_matters(register: Register) -> Iterator[str]:
    """What a subject of whom no statement is at hand may have words on: enough to see that it was erased."""
    yield EVERYTHING
    for name, activity in register.activities.items():
        yield f"data:{name}"
        yield f"access:{name}"
        for purpose in activity.purposes:
            for kind in ("ask", "purpose", f"{OVERTAKEN}purpose", "use"):
                yield f"{kind}:{purpose.id}/{purpose.channel}"


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[start : start + _ROWS_AT_ONCE]


def _columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
