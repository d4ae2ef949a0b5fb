"""Stages 1 to 4 for one shard: fetch what has arrived, check it, prepare the batch, append it by one SQL statement.

What is in memory runs ahead of the tables by one batch: while PostgreSQL writes batch n, batch n+1 is prepared. It is
sent only when n is known to be committed. After any error or lost answer all of it is dropped and read anew, because
then nobody here knows whether the batch was written; the tables do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic, perf_counter
from typing import Final, Protocol

import asyncpg

from services.ledger import append_sql, snapshot, store
from services.ledger import head as heads
from services.ledger.check import Admission, Alive, Check, Reject, Stated
from services.ledger.head import SUBJECTS_KEPT, Head, Sequences
from services.ledger.prepare import Known, Prepare, Prepared
from shared import logs
from shared.clock import Clock, millis
from shared.database import Database
from shared.errors import Corrupt, Unavailable
from shared.identifiers import Random
from shared.kafka import Message, OutOfRange
from shared.metrics import Metrics

MAX_BATCH: Final = 1000
CLOCK_BEHIND_MS: Final = 5_000
"""How far recorded_at may be ahead of our clock, and our clock of PostgreSQL's (APPEND): the signer takes no more."""
CLOCK_SLOW_MS: Final = 60_000
"""How far our clock may be behind PostgreSQL's (APPEND): half of what a statement's time may be ahead of it."""

_FETCH_MS: Final = 1000
_CHECKED_AT_ONCE: Final = 100
_LOCK_PROBE_SECONDS: Final = 3
_HOUSE_SECONDS: Final = 10
_PAUSE_SECONDS: Final = 0.5
_SILENCE_SECONDS: Final = 10.0

log = logs.logger("append")


class Fenced(Corrupt):
    """Another process owns this shard now, or the signer has stopped it: this one must end."""


class Stale(Exception):
    """The tables are not where we thought: a lost answer of ours took effect after all. Read anew."""


class Source(Protocol):
    """What the appender needs of shared.kafka.Consumer."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def seek(self, partition: int, offset: int) -> None: ...
    async def beginning_offsets(self) -> dict[int, int]: ...
    async def fetch(self, max_records: int = ..., timeout_ms: int = ...) -> list[Message]: ...


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of an appender: those that sources state with, and those that wrap what it makes."""

    sources: Mapping[str, bytes]
    keks: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Claimed:
    """The right to append to the shard, until somebody claims it after us."""

    epoch: int
    check: Check


@dataclass(slots=True)
class Owned:
    """A shard in memory: made whole from what is stored, and dropped whole."""

    claimed: Claimed
    head: Head
    consumer: Source
    in_flight: asyncio.Task[None] | None = None
    snapshot: asyncio.Task[None] | None = None
    recent: list[Prepared] = field(default_factory=list)
    """The last two batches, of which the newer may not be visible in the tables yet."""

    def add(self, prepared: Prepared) -> None:
        self.recent = [*self.recent[-1:], prepared]

    async def settle(self) -> None:
        """Return when the batch in flight is committed."""
        in_flight, self.in_flight = self.in_flight, None
        if in_flight is not None:
            await in_flight

    async def end(self) -> None:
        begun = [task for task in (self.in_flight, self.snapshot) if task is not None]
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
        await self.consumer.stop()


class Appender:
    """The owner of one shard, for as long as nobody raises its epoch."""

    def __init__(
        self,
        shard: int,
        db: Database,
        open_consumer: Callable[[], Source],
        keys: Keys,
        admission: Admission,
        clock: Clock,
        random: Random,
        metrics: Metrics | None = None,
        *,
        register_version: str,
        max_batch: int = MAX_BATCH,
        subjects_kept: int = SUBJECTS_KEPT,
        erasure_spread: float = 86_400.0,
    ) -> None:
        """`erasure_spread`: over how many seconds the ERASURE leaves of one subject are strewn, each at random."""
        self.shard = shard
        self._db = db
        self._open_consumer = open_consumer
        self._keys = keys
        self._admission = admission
        self._registers = {register_version}
        self._clock = clock
        self._prepare = Prepare(keys.keks, random)
        self._max_batch = max_batch
        self._subjects_kept = subjects_kept
        self._erasure_spread = timedelta(seconds=erasure_spread)
        self._house_seconds = min(_HOUSE_SECONDS, max(1.0, erasure_spread))
        self._claimed: Claimed | None = None
        self._owned: Owned | None = None
        self._probe_all = False
        self._kept_house_at = float("-inf")
        metrics = metrics or Metrics("ledger_append")
        self._heard_at = 0.0
        self._size = metrics.gauge("log_size", "leaves appended", ["shard"])
        self._offset = metrics.gauge("next_offset", "next offset of consent.stated to consume", ["shard"])
        self._events = metrics.counter("events_total", "statements appended", ["shard"])
        self._duplicates = metrics.counter("duplicates_total", "exact repetitions dropped", ["shard"])
        self._rejects = metrics.counter("rejected_total", "messages that could not be recorded", ["shard", "reason"])
        self._seconds = metrics.histogram("append_seconds", "one batch, from statement sent to committed", ["shard"])

    @property
    def trouble(self) -> str | None:
        """Why nothing is appended, for readiness; None while something would be."""
        if self._owned is None:
            return "does not own it"
        # Each source sends a mark every second; a broker that is away is silent, and aiokafka says nothing of it.
        silent = asyncio.get_running_loop().time() - self._heard_at
        return None if silent <= _SILENCE_SECONDS else f"nothing has arrived for {silent:.0f} s"

    async def run(self) -> None:
        """Own the shard until cancelled, fenced or stopped; waits while another process owns it."""
        try:
            while True:
                await self._own()
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            await self.drop()

    async def _own(self) -> None:
        """Own the shard until a part does not answer."""
        try:
            # The lock keeps a second appender waiting instead of fencing the first; the epoch is what protects.
            async with self._db.lock(f"append-{self.shard}") as held, asyncio.TaskGroup() as group:
                group.create_task(_keep(held.still_held))
                await self._follow()
        except* Unavailable as several:
            await self.drop()
            log.warning("reading-anew", shard=self.shard, exc_info=several)

    async def _follow(self) -> None:
        await self.claim()
        while True:
            try:
                await self.step()
            except Stale:
                await self.drop()

    async def claim(self) -> Claimed:
        """Become the owner: every earlier one is fenced from here on, though it may not know yet."""
        await self.drop()
        if await store.open_incidents(self._db, self.shard, store.SIGNER_DISAGREES):
            raise Fenced("the log", f"shard {self.shard}: the signer disagrees with its rows")
        check = Check(self.shard, await store.origin(self._db, self.shard), self._keys.sources, self._admission)
        # If this answer is lost we hold no epoch, and claim again: an epoch more fences nobody but ourselves.
        self._claimed = Claimed(await store.claim(self._db, self.shard), check)
        return self._claimed

    async def drop(self) -> None:
        """Forget everything that was only in memory; what was claimed stays ours until somebody else claims it."""
        owned, self._owned = self._owned, None
        if owned is not None:
            await owned.end()

    async def step(self, timeout_ms: int = _FETCH_MS) -> int:
        """Fetch, check and prepare one batch, and begin to append it; answers how many messages there were.

        Any error means that the state in memory was or must be dropped. Unavailable and Stale pass; Fenced does not.
        """
        try:
            owned = self._owned or await self._load()
            await self._keep_house(owned)
            if owned.in_flight is not None and owned.in_flight.done():
                await owned.settle()
            # While a batch is in flight its failure must not wait for the next message.
            try:
                messages = await owned.consumer.fetch(self._max_batch, 50 if owned.in_flight else timeout_ms)
            except OutOfRange:
                await self._go_on_from_what_is_there(owned)
                return 0
            if not messages:
                await owned.settle()
                return 0
            self._heard_at = asyncio.get_running_loop().time()
            prepared = await self._prepared(owned, messages)
            await owned.settle()
            owned.in_flight = asyncio.create_task(self._append(prepared))
            # Let it send its first bytes before the next batch takes the processor.
            await asyncio.sleep(0)
        except BaseException:
            await self.drop()
            raise
        return len(messages)

    async def settled(self) -> None:
        """Return when the batch in flight is committed."""
        try:
            if self._owned is not None:
                await self._owned.settle()
        except BaseException:
            await self.drop()
            raise

    async def _go_on_from_what_is_there(self, owned: Owned) -> None:
        """The topic was made anew, or lost more than we had read. A person must know, and nobody need do anything:
        what was not sealed is still in the outboxes and comes again, what was is an exact repetition."""
        await owned.settle()
        beginning = (await owned.consumer.beginning_offsets())[self.shard]
        gone: int = (await store.head(self._db, self.shard))["next_offset"]
        await store.go_on_from(self._db, self.shard, owned.claimed.epoch, gone, beginning)
        log.error("position-gone", shard=self.shard, offset=gone, went_on_from=beginning)
        await self.drop()

    async def _right_clock(self) -> None:
        """Unavailable if our clock and PostgreSQL's contradict each other: nobody here knows which of them is wrong."""
        ahead = millis(self._clock()) - millis(await store.clock(self._db))
        if not -CLOCK_SLOW_MS < ahead < CLOCK_BEHIND_MS:
            log.error("clocks-differ", shard=self.shard, seconds_ahead=round(ahead / 1000))
            raise Unavailable("clock")

    async def _load(self) -> Owned:
        claimed = self._claimed or await self.claim()
        await self._right_clock()
        epoch, keks = claimed.epoch, self._keys.keks
        head = await heads.load(self._db, self.shard, epoch, keks, subjects_kept=self._subjects_kept)
        consumer = self._open_consumer()
        try:
            await consumer.start()
            consumer.seek(self.shard, head.next_offset)
        except BaseException:
            await consumer.stop()
            raise
        owned = self._owned = Owned(claimed, head, consumer)
        self._heard_at = asyncio.get_running_loop().time()
        self._size.labels(self.shard).set(head.size)
        log.info("owning", shard=self.shard, epoch=epoch, size=head.size, next_offset=head.next_offset)
        return owned

    async def _prepared(self, owned: Owned, messages: list[Message]) -> Prepared:
        head = owned.head
        now = self._clock()
        if millis(now) < head.recorded_at - CLOCK_BEHIND_MS:
            # recorded_at never goes back, and the signer would refuse one that is ahead of the clock.
            raise Unavailable("clock")
        checked: list[Stated | Alive | Reject] = []
        for start in range(0, len(messages), _CHECKED_AT_ONCE):
            checked += owned.claimed.check.messages(messages[start : start + _CHECKED_AT_ONCE], now)
            # The batch before this one is on its way to PostgreSQL through the same event loop.
            await asyncio.sleep(0)
        checked = await self._of_known_registers(checked)
        known = await self._known(owned, checked)
        prepared = await self._prepare.batch(head, checked, known, millis(now), messages[-1].offset + 1)
        owned.add(prepared)
        return prepared

    async def _of_known_registers(self, checked: list[Stated | Alive | Reject]) -> list[Stated | Alive | Reject]:
        """Reject what names a register that this ledger never ran with: nobody could be shown what it refers to.

        Every register that the ledger ran with is kept, so what was stated under an older one stays welcome. A newer
        one comes to the ledger first, then to those who state under it.
        """
        named = {item.statement.data.register_version for item in checked if isinstance(item, Stated)} - self._registers
        if not named:
            return checked
        self._registers |= await store.kept(self._db, named)
        return [
            item.rejected("unknown-register")
            if isinstance(item, Stated) and item.statement.data.register_version not in self._registers
            else item
            for item in checked
        ]

    def _keep_map(self, owned: Owned) -> None:
        """Begin to write a snapshot of the map if one is due; all of the map is stored, since nothing is in flight."""
        if owned.snapshot is not None:
            if not owned.snapshot.done():
                return
            owned.snapshot.result()  # what it cannot bear ends us, too
        head = owned.head
        if snapshot.is_due(head.size, head.snapshot_at, len(head.map)):
            head.snapshot_at = head.size
            owned.snapshot = asyncio.create_task(self._write_snapshot(head.size, head.map.records()))

    async def _write_snapshot(self, size: int, records: Iterator[bytes]) -> None:
        try:
            await snapshot.write(self._db, self.shard, size, records)
        except Unavailable:
            # The next one will do; what was written of this one is believed by nobody.
            log.warning("snapshot-not-written", shard=self.shard, size=size)

    async def _known(self, owned: Owned, checked: list[Stated | Alive | Reject]) -> Known:
        """Load the batch's subjects; look up the statements that may have come before.

        A statement whose sequence number is new is new, as long as its source keeps to the rules. If it does not, the
        primary key of `seen` refuses the batch, and the next attempt looks up every id. Number 0 says nothing of that.
        """
        head = owned.head
        stated = [item for item in checked if isinstance(item, Stated)]
        await head.subjects.load(self._db, list({item.statement.subject for item in stated}))
        suspects = [item for item in stated if self._probe_all or not item.sequence or self._has_arrived(head, item)]
        if not suspects:
            return Known()
        names = {name: hashed for batch in owned.recent for name, hashed in batch.names.items()}
        rejected = {hashed for batch in owned.recent for hashed in batch.rejected_hashes}
        sources, ids = [item.source for item in suspects], [item.statement.id for item in suspects]
        for row in await store.seen(self._db, self.shard, sources, ids):
            names[row["source"], row["id"]] = row["statement_hash"]
        rejected |= await store.rejected_hashes(self._db, self.shard, [item.statement_hash for item in suspects])
        return Known(names, frozenset(rejected))

    @staticmethod
    def _has_arrived(head: Head, item: Stated) -> bool:
        sequences = head.sequences.get(item.source)
        return sequences is not None and sequences.has(item.sequence)

    async def _append(self, prepared: Prepared) -> None:
        began = perf_counter()
        try:
            rows = await self._db.fetch(append_sql.APPEND, *append_sql.arguments(prepared))
        except asyncpg.UniqueViolationError:
            # Nothing was written. Some id or sequence came again under a number that had not arrived.
            if self._probe_all:
                raise Corrupt("append", f"shard {self.shard}, size {prepared.size}: a row is there already") from None
            self._probe_all = True
            raise Stale from None
        if not rows:
            raise await self._not_ours(prepared)
        self._probe_all = False
        shard = self.shard
        self._seconds.labels(shard).observe(perf_counter() - began)
        self._size.labels(shard).set(prepared.new_size)
        self._offset.labels(shard).set(prepared.new_next_offset)
        self._events.labels(shard).inc(len(prepared.events))
        self._duplicates.labels(shard).inc(prepared.duplicates)
        for reject, times in prepared.rejects.values():
            self._rejects.labels(shard, reject.reason).inc(times)
            log.warning("rejected", shard=shard, reason=reject.reason, source=reject.source, offset=reject.offset)

    async def _not_ours(self, prepared: Prepared) -> Exception:
        """Why the compare-and-swap found nothing to swap."""
        row = await store.head(self._db, self.shard)
        if row["epoch"] != prepared.epoch:
            return Fenced("the log", f"shard {self.shard}: epoch {row['epoch']} has taken it over")
        if await store.open_incidents(self._db, self.shard, store.SIGNER_DISAGREES):
            return Fenced("the log", f"shard {self.shard}: the signer disagrees with its rows")
        # If it is the clock, reading anew will say so.
        return Stale()

    async def _keep_house(self, owned: Owned) -> None:
        """Now and then, with nothing in flight: forget what is sealed, go on past gaps that a person has closed."""
        now = monotonic()
        if now - self._kept_house_at < self._house_seconds:
            return
        head = owned.head
        await owned.settle()
        self._kept_house_at = now
        await store.forget_sealed_progress(self._db, self.shard)
        await self._end_labels(owned)
        self._keep_map(owned)
        waiting = {source: sequences for source, sequences in head.sequences.items() if sequences.beyond}
        if not waiting:
            return
        # A gap and its incident are written by one statement, and closed by one: so this one was closed by a person.
        still_open = await store.open_incidents(self._db, self.shard, store.SEQUENCE_GAP)
        for source in waiting.keys() - still_open:
            upto = max(waiting[source].beyond)
            missing = waiting[source].contiguous + 1
            await store.pass_over_gap(self._db, self.shard, source, head.size, missing, upto)
            head.sequences[source] = Sequences(upto)
            log.warning("gap-passed-over", shard=self.shard, source=source, upto=upto)

    async def _end_labels(self, owned: Owned) -> None:
        """Append the ERASURE leaves that are due, those of several people in one batch where they meet.

        If we stop before the first statement is committed, the next owner begins the ending; after it, nothing more is
        recorded of these subjects, whoever owns the shard; a leaf and the row that knows of it come together.
        """
        head, epoch = owned.head, owned.claimed.epoch
        head.subjects.end(await store.begin_endings(self._db, self.shard, epoch, self._erasure_spread))
        due = await store.due_endings(self._db, self.shard, self._max_batch)
        if not due:
            return
        secrets = await heads.secrets(self._db, self.shard, self._keys.keks, {subject for subject, _ in due})
        prepared = await self._prepare.endings(head, due, secrets, millis(self._clock()))
        owned.add(prepared)
        owned.in_flight = asyncio.create_task(self._append(prepared))
        await owned.settle()
        log.info("labels-ended", shard=self.shard, labels=len(due))


async def _keep(still_held: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(_LOCK_PROBE_SECONDS)
        await still_held()
