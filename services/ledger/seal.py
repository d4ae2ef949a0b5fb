"""Stage 5 for one shard: read the appended rows back, re-derive both roots by the reader's code, and only then sign.

It shares nothing with the appender but the tables. What it once signed is in its own files, so that neither a restored
database nor a superuser can make it sign a second history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol

import asyncpg

from services.ledger import signer_map, store
from services.ledger.key_file import Key, KeyFile, indexes_of_new
from services.ledger.log_keys import began, known_keys, published
from services.ledger.reader.checkpoint import Checkpoint, parse_checkpoint, verify_checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import MapRoot
from services.ledger.reader.note import format_note
from services.ledger.reader.policy import Policy
from services.ledger.reader.replica import Replica
from services.ledger.signer_files import Signed, SignerFiles
from services.ledger.store import Batch
from shared import logs
from shared.clock import Clock, millis
from shared.database import Database
from shared.errors import Corrupt, Unavailable
from shared.metrics import Metrics

AHEAD_OF_CLOCK: Final = "ahead-of-clock"
AHEAD_MS: Final = 5_000
FRESH_SECONDS: Final = 2.0

_ROWS_AT_ONCE: Final = 8
_ROTATION_LOOK_SECONDS: Final = 5.0
_LENGTHS: Final = {0x01: 89, 0x02: 57, 0x03: 89}

log = logs.logger("seal")


class LogKey(Protocol):
    """Signs checkpoints of one log; services.ledger.reader.note.Signer, or a device."""

    @property
    def vkey(self) -> str: ...
    def sign(self, text: bytes) -> bytes: ...


class FreshKey(Protocol):
    """Signs the fresh line; services.ledger.reader.note.CosignatureSigner, or a device."""

    @property
    def vkey(self) -> str: ...
    def sign(self, text: bytes, time: int) -> bytes: ...


class Sealer:
    """The signer of one shard."""

    def __init__(
        self,
        shard: int,
        origin: str,
        db: Database,
        keys_db: Database,
        directory: Path,
        log_keys: Sequence[LogKey],
        fresh_key: FreshKey,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        """`keys_db` is the publisher's role, which sees wrapped keys; the signer's does not."""
        self.shard = shard
        self._origin = origin
        self._db = db
        self._keys_db = keys_db
        self._directory = directory
        self._log_keys = tuple(log_keys)
        self._noted = False
        """Whether PostgreSQL knows that these keys sign."""
        self._fresh_key = fresh_key
        self._clock = clock
        self._files: SignerFiles | None = None
        self._keys: KeyFile | None = None
        self._replica = Replica()
        self._stored = 0
        """Size of the newest checkpoint in PostgreSQL; what our files have beyond it is still to be stored."""
        self.map_kept_at = 0
        """Of which size the map beside our leaves is; 0: there is none."""
        self._keeping: asyncio.Task[None] | None = None
        self._fresh_at = float("-inf")
        self._waiting_for_clock = False
        self._waiting_for: str | None = None
        metrics = metrics or Metrics("ledger_seal")
        self._size = metrics.gauge("sealed_size", "leaves under the newest checkpoint", ["shard"])
        self._signatures = metrics.counter("signatures_total", "checkpoints signed", ["shard"])

    async def run(self) -> None:
        """Seal what is appended, and renew the fresh line, until cancelled or until something contradicts itself."""
        appended = self._db.listen("ledger_appended")
        while True:
            try:
                if not self.is_open:
                    await self.open()
                seen = appended.changed
                sealed = await self.step()
                due = self._fresh_at + FRESH_SECONDS - monotonic()
                if due <= 0:
                    await self.renew()
                elif not sealed:
                    await appended.wait(min(due, 1.0), since=seen)
                self._waiting_for = None
            except Unavailable as error:
                self._waiting_for = error.service
                # Nothing to take back: files and replica agree, and `step` begins with what is not stored yet.
                log.warning("waiting", shard=self.shard, service=error.service)
                await asyncio.sleep(0.5)

    async def open(self) -> None:
        """Rebuild the replica from our own leaves and hold PostgreSQL against it.

        Corrupt, and nothing is ever signed, if PostgreSQL is behind our files, differs from them, or holds a
        checkpoint that they do not know.
        """
        self.close()
        files = SignerFiles.open(self._directory, self.shard)
        try:
            replica, self.map_kept_at = await asyncio.to_thread(signer_map.replica_of, files)
            await self._compare(files, replica)
            keys = KeyFile.open(files.folder)
            if not keys.exists:
                await keys.write(store.living_keys(self._keys_db, self.shard))
        except BaseException:
            files.close()
            raise
        self._files, self._keys, self._replica = files, keys, replica
        await store.put_key_file(self._db, self.shard, keys.oldest_kek)
        await self._store_unstored()
        await self.renew()
        log.info("signing", shard=self.shard, size=replica.size, map_of=self.map_kept_at)

    @property
    def is_open(self) -> bool:
        """Whether it holds its files and agrees with PostgreSQL."""
        return self._files is not None

    @property
    def trouble(self) -> str | None:
        """Why nothing is signed, for readiness; None while something is."""
        if not self.is_open:
            return "does not sign"
        if self._waiting_for_clock:
            return "what was appended is ahead of the clock"
        return None if self._waiting_for is None else f"{self._waiting_for} does not answer"

    def close(self) -> None:
        """Give the files free."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
        if self._files is not None:
            self._files.close()
            self._files = None
        if self._keys is not None:
            self._keys.close()
            self._keys = None

    async def step(self) -> bool:
        """Seal what is appended by now, under one signature; whether there was anything."""
        assert self._files is not None  # noqa: S101 - open() comes first
        assert self._keys is not None  # noqa: S101 - and these with them
        await self._store_unstored()
        batches = await store.batches(self._db, self.shard, self._replica.size, _ROWS_AT_ONCE)
        keys = await self._keys_of(batches)
        taken: list[bytes] = []
        for batch in batches:
            leaves = await self._leaves_of(batch)
            if await self._is_ahead(batch, leaves):
                break
            await self._take_in(batch, leaves)
            taken += leaves
            await asyncio.sleep(0)
        if not taken:
            return False
        # From here to the signature nothing waits: what the files hold and what the replica holds are one.
        self._keys.add(keys)
        self._files.add(taken, Signed(self._replica.size, self._replica.tree_root()))
        self._keep_map(self._files)
        await self._store_unstored()
        return True

    async def keep_keys(self) -> None:
        """Once all living keys are wrapped under a newer key-encryption key, forget what hangs on older ones: so what
        was destroyed since is destroyed here, too. Beside `run`, until cancelled."""
        while True:
            await asyncio.sleep(_ROTATION_LOOK_SECONDS)
            try:
                await self.forget_old_keys()
            except Unavailable as error:
                log.warning("waiting", shard=self.shard, service=error.service)

    async def forget_old_keys(self) -> bool:
        """Write the file of keys anew if a rotation is complete; whether it was. Until it says so in its table, the
        older key-encryption key is not destroyed (shared/kek_rotation.py)."""
        keys = self._keys
        if keys is None or await store.newest_kek(self._keys_db, self.shard) <= keys.oldest_kek:
            return False
        if await store.oldest_kek(self._keys_db, self.shard) <= keys.oldest_kek:
            return False
        await keys.write(store.living_keys(self._keys_db, self.shard))
        await store.put_key_file(self._db, self.shard, keys.oldest_kek)
        log.info("keys-written-anew", shard=self.shard, kek=keys.oldest_kek)
        return True

    def _keep_map(self, files: SignerFiles) -> None:
        """Begin to write the replica down if it is time; it goes on while it is written."""
        if self._keeping is not None:
            if not self._keeping.done():
                return
            self._keeping.result()  # what it cannot bear ends us, too
        if signer_map.is_due(self._replica.size, self.map_kept_at, len(self._replica.map)):
            self.map_kept_at = self._replica.size
            self._keeping = asyncio.create_task(
                self._write_map(signer_map.begin(files.folder, self._replica, files.end))
            )

    async def _write_map(self, writing: Coroutine[Any, Any, None]) -> None:
        try:
            await writing
        except OSError:
            # The leaves are what counts; without it the next start takes longer.
            log.warning("map-not-kept", shard=self.shard)

    async def renew(self) -> None:
        """Say that the newest checkpoint is still the newest."""
        now = self._clock()
        newest = await store.newest_checkpoint(self._db, self.shard)
        if newest is None or newest["size"] != self._stored:
            raise await self._disagree("checkpoint", f"the newest is not our last, {self._stored}")
        checkpoint = Checkpoint(self._origin, newest["size"], self._signed().root)
        line = self._fresh_key.sign(checkpoint.text(), int(now.timestamp()))
        await store.renew_fresh(self._db, self.shard, self._stored, line.decode(), now)
        self._fresh_at = monotonic()

    async def _compare(self, files: SignerFiles, replica: Replica) -> None:
        head = await store.head(self._db, self.shard)
        if head["size"] < replica.size:
            where = f"shard {self.shard}: {head['size']} leaves, {replica.size} were signed"
            raise Corrupt("PostgreSQL is behind the signer's files", where)
        at = 0
        async for batch in store.replay(self._db, self.shard, 0, files.signed[-1].size):
            ours = files.bytes_at(at, len(batch.leaves))
            if ours != batch.leaves:
                raise await self._unlike(batch, ours)
            at += len(ours)
        newest = await store.newest_checkpoint(self._db, self.shard)
        if newest is None:
            raise await self._disagree("checkpoint", "there is none")
        known = {one.size: one.root for one in files.signed}
        try:
            keys = await known_keys(self._db, self.shard)
            checkpoint = Policy(tuple(published(keys))).verify(newest["note"].encode()).checkpoint
        except Invalid:
            raise await self._disagree("checkpoint", f"size {newest['size']} is not signed by a key of ours") from None
        if (checkpoint.size, checkpoint.root) != (newest["size"], newest["root"]) or (
            known.get(checkpoint.size) != checkpoint.root
        ):
            raise await self._disagree("checkpoint", f"size {newest['size']} is none that we signed")
        self._stored = checkpoint.size

    async def _unlike(self, batch: Batch, ours: bytes) -> Corrupt:
        at = 0
        for index, leaf in enumerate(await self._leaves_of(batch), batch.first):
            if leaf != ours[at : at + len(leaf)]:
                return await self._disagree("leaf_batch", f"index {index} is not the leaf that was signed")
            at += len(leaf)
        return await self._disagree("leaf_batch", f"first {batch.first} has not the leaves that were signed")

    async def _leaves_of(self, batch: Batch) -> list[bytes]:
        leaves = list(_split(batch.leaves))
        if sum(map(len, leaves)) != len(batch.leaves):
            raise await self._disagree("leaf_batch", f"index {batch.first + len(leaves)} has an unknown form")
        if len(leaves) != batch.n:
            raise await self._disagree("leaf_batch", f"first {batch.first} has {len(leaves)} leaves, not {batch.n}")
        return leaves

    async def _keys_of(self, batches: Sequence[Batch]) -> list[Key]:
        """The wrapped keys of whoever may be new in these batches. Whether they are what they should be is not asked:
        that is found out by who has keys; what cannot be read as leaves is named below."""
        indexes: list[int] = []
        for batch in batches:
            indexes += indexes_of_new(batch.first, _split(batch.leaves))
        return await store.keys_at(self._keys_db, self.shard, indexes) if indexes else []

    async def _is_ahead(self, batch: Batch, leaves: list[bytes]) -> bool:
        """Whether the batch claims to be recorded in our future. It is not signed; it may be later, by our clock."""
        limit = millis(self._clock()) + AHEAD_MS
        ahead = any(len(leaf) == _LENGTHS[1] and int.from_bytes(leaf[-8:], "big") > limit for leaf in leaves)
        if ahead and not self._waiting_for_clock:
            detail = f"the batch at {batch.first} is more than 5 s ahead of the signer's clock"
            await store.open_incident(self._db, self.shard, AHEAD_OF_CLOCK, "recorded_at", detail)
            log.error("ahead-of-clock", shard=self.shard, first=batch.first)
        if self._waiting_for_clock and not ahead:
            await store.close_incident(self._db, self.shard, AHEAD_OF_CLOCK, "recorded_at", "the clock has caught up")
        self._waiting_for_clock = ahead
        return ahead

    async def _take_in(self, batch: Batch, leaves: list[bytes]) -> None:
        if batch.first != self._replica.size:
            raise await self._disagree(
                "leaf_batch", f"first {batch.first}, but the log has {self._replica.size} leaves"
            )
        try:
            last = [self._replica.apply(leaf) for leaf in leaves][-1]
        except Invalid as invalid:
            raise await self._disagree("leaf_batch", f"index {invalid.index}: {invalid.what} {invalid.why}") from None
        if not isinstance(last, MapRoot):
            raise await self._disagree("leaf_batch", f"first {batch.first} does not end in a MAP_ROOT")
        # The map root covers the last leaf of each label; this covers every leaf.
        if self._replica.tree_root() != batch.root:
            raise await self._disagree("leaf_batch", f"first {batch.first}: the root is not that of the leaves")

    def _signed(self) -> Signed:
        assert self._files is not None  # noqa: S101 - open() comes first
        return self._files.signed[-1]

    async def _store_unstored(self) -> None:
        """Sign the last size in our files and store the checkpoint, if that was not done yet.

        Ed25519 gives the same signature for the same text, so doing it again after a lost answer changes nothing.
        """
        signed = self._signed()
        if signed.size == self._stored:
            return
        now = self._clock()
        text = Checkpoint(self._origin, signed.size, signed.root).text()
        note = format_note(text, [key.sign(text) for key in self._log_keys])
        # A flipped bit here would be published for ever.
        if any(parse_checkpoint(text) != verify_checkpoint(note, key.vkey) for key in self._log_keys):
            raise Corrupt("the signature", f"shard {self.shard}, size {signed.size}")
        fresh = self._fresh_key.sign(text, int(now.timestamp())).decode()
        try:
            await self._add_checkpoint(signed, note.decode(), fresh, now)
        except asyncpg.UniqueViolationError:
            newest = await store.newest_checkpoint(self._db, self.shard)
            if newest is None or newest["note"] != note.decode():
                raise await self._disagree("checkpoint", f"another signer was here before size {signed.size}") from None
            # Our own, whose answer was lost.
        self._stored = signed.size
        if not self._noted:
            # If we stop before this, it is noted with the next checkpoint: a key's first one is no younger than noted.
            await began(self._db, self.shard, [key.vkey for key in self._log_keys], signed.size)
            self._noted = True
        self._fresh_at = monotonic()
        self._size.labels(self.shard).set(signed.size)
        self._signatures.labels(self.shard).inc()

    async def _add_checkpoint(self, signed: Signed, note: str, fresh: str, now: datetime) -> None:
        await store.add_checkpoint(self._db, self.shard, signed.size, self._stored, signed.root, note, fresh, now)

    async def _disagree(self, table: str, what: str) -> Corrupt:
        """Stop the shard: sign nothing more, name the row, and let the appender see that it must stop as well."""
        await store.open_incident(self._db, self.shard, store.SIGNER_DISAGREES, table, what)
        log.critical("disagrees", shard=self.shard, table=table, what=what)
        return Corrupt(table, f"shard {self.shard}, {what}")


def _split(joined: bytes) -> Iterator[bytes]:
    """The leaves of a batch as far as they can be read."""
    at = 0
    while at < len(joined):
        length = _LENGTHS.get(joined[at], 0)
        if not length or at + length > len(joined):
            return
        yield joined[at : at + length]
        at += length
