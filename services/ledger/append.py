"""Stages 1 to 4 for one shard: fetch what has arrived, check it, prepare the batch, append it by one SQL statement.

What is in memory runs ahead of the tables by one batch: while PostgreSQL writes batch n, batch n+1 is prepared. It is
sent only when n is known to be committed. After any error or lost answer all of it is dropped and read anew, because
then nobody here knows whether the batch was written; the tables do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, perf_counter
from typing import Any, Final, Protocol

import asyncpg

from services.ledger import head as heads
from services.ledger import snapshot, store
from services.ledger.check import Admission, Alive, Check, Reject, Stated
from services.ledger.head import SUBJECTS_KEPT, Head, Sequences
from services.ledger.prepare import Known, Prepare, Prepared
from shared import logs
from shared.clock import Clock, millis
from shared.database import Database
from shared.errors import Corrupt, Unavailable
from shared.events import MAX_STATEMENT_BYTES
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

# One statement, no transaction around it: a process that is stopped between two statements holds no lock, and one that
# is stopped while sending this one has not begun it.
APPEND: Final = """
with h as (
    update head set size = $5, next_offset = $6, edge = $7, map_root = $8, recorded_at = $9
    where shard = $1 and epoch = $2 and size = $3 and next_offset = $4
      and not exists (select from incident i
                      where i.shard = $1 and i.kind = 'signer-disagrees' and i.closed_at is null)
      -- A batch of a clock that is wrong would be one that the signer refuses, or one that rejects what is right.
      and to_timestamp($9 / 1000.0) between clock_timestamp() - interval '60 s' and clock_timestamp() + interval '5 s'
    returning 1
), add_leaves as (
    insert into leaf_batch (shard, first, n, leaves, root, next_offset)
    select $1, $3, $10, $11, $52, $6 from h where $10 > 0
), add_tiles as (
    insert into tile (shard, level, n, hashes)
    select $1, t.* from h, unnest($12::smallint[], $13::bigint[], $14::bytea[]) t
), add_seen as (
    insert into seen (shard, id, source, index, sequence, statement_hash)
    select $1, e.id, e.source, $3 + e.o - 1, e.sequence, e.statement_hash
    from h, unnest($15::text[], $16::uuid[], $17::bigint[], $18::bytea[]) with ordinality
         e (source, id, sequence, statement_hash, o)
), add_payloads as (
    insert into payload (shard, index, subject, payload)
    select $1, $3 + e.o - 1, e.subject, e.payload
    from h, unnest($19::text[], $20::bytea[]) with ordinality e (subject, payload, o)
), add_subjects as (
    insert into subject_key (subject, shard, wrapped)
    select s.subject, $1, s.wrapped from h, unnest($21::text[], $22::bytea[]) s (subject, wrapped)
), add_matters as (
    insert into matter (subject, matter, shard, restricted_at)
    select m.subject, m.matter, $1, m.restricted_at
    from h, unnest($23::text[], $24::text[], $25::text[]) m (subject, matter, restricted_at)
    on conflict (subject, matter) do update set restricted_at = excluded.restricted_at
), add_overtaken as (
    insert into overtaken (shard, source, sequence, id, index)
    select $1, o.* from h, unnest($26::text[], $27::bigint[], $28::uuid[], $29::bigint[]) o
), add_rejects as (
    insert into rejected (shard, stated_offset, source, sequence, statement_id, reason,
                          statement_hash, statement_size, statement, times)
    select $1, r.* from h, unnest($30::bigint[], $31::text[], $32::bigint[], $33::text[], $34::text[],
                                  $35::bytea[], $36::int[], $37::bytea[], $38::int[]) r
    on conflict (shard, source, sequence, statement_hash, reason) do update
        set times = rejected.times + excluded.times, stated_offset = excluded.stated_offset,
            last_at = clock_timestamp()
), set_marks as (
    insert into source_mark (shard, source, sequence, all_before)
    select $1, m.* from h, unnest($39::text[], $40::bigint[], $41::timestamptz[]) m
    on conflict (shard, source) do update set sequence = excluded.sequence, all_before = excluded.all_before
), set_progress as (
    insert into progress (shard, source, size, contiguous)
    select $1, p.source, $5, p.contiguous from h, unnest($42::text[], $43::bigint[]) p (source, contiguous)
    on conflict (shard, source, size) do update set contiguous = excluded.contiguous
), fill_gaps as (
    delete from arrived a using h, unnest($42::text[], $43::bigint[]) p (source, contiguous)
    where a.shard = $1 and a.source = p.source and a.sequence <= p.contiguous
), add_arrived as (
    insert into arrived (shard, source, sequence)
    select $1, a.* from h, unnest($44::text[], $45::bigint[]) a
), open_incidents as (
    insert into incident (shard, kind, about, detail)
    select $1, i.* from h, unnest($46::text[], $47::text[], $48::text[]) i
    on conflict do nothing
), close_incidents as (
    update incident i set closed_at = clock_timestamp(), closed_by = 'ledger', closed_reason = 'it has arrived'
    from h, unnest($49::text[], $50::text[]) c (kind, about)
    where i.shard = $1 and i.kind = c.kind and i.about = c.about and i.closed_at is null
), add_erasures as (
    insert into erasure (subject, shard, hold_until, completed)
    select e.subject, $1, coalesce(e.hold_until, to_timestamp($9 / 1000.0)), e.completed
    from h, unnest($53::text[], $54::timestamptz[], $55::bigint[]) e (subject, hold_until, completed)
    on conflict (subject) do update set hold_until = greatest(erasure.hold_until, excluded.hold_until),
        completed = coalesce(erasure.completed, excluded.completed)
), end_labels as (
    update ending e set ended = o.index
    from h, unnest($56::text[], $57::text[], $58::bigint[]) o (subject, matter, index)
    where e.subject = o.subject and e.matter = o.matter
), add_repetitions as (
    insert into empty_number (shard, source, first, last, why)
    select $1, r.source, r.sequence, r.sequence, 'repetition'
    from h, unnest($59::text[], $60::bigint[]) r (source, sequence)
    on conflict do nothing
)
select pg_notify(channel, '') from h, unnest($51::text[]) channel
"""


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
        self._epoch: int | None = None
        self._check: Check | None = None
        self._head: Head | None = None
        self._consumer: Source | None = None
        self._in_flight: asyncio.Task[None] | None = None
        self._snapshot: asyncio.Task[None] | None = None
        self._recent: list[Prepared] = []
        self._probe_all = False
        self._kept_house_at = float("-inf")
        metrics = metrics or Metrics("ledger_append")
        self.is_owner = False
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
        if not self.is_owner:
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

    async def claim(self) -> None:
        """Become the owner: every earlier one is fenced from here on, though it may not know yet."""
        await self.drop()
        if await store.open_incidents(self._db, self.shard, store.SIGNER_DISAGREES):
            raise Fenced("the log", f"shard {self.shard}: the signer disagrees with its rows")
        check = Check(self.shard, await store.origin(self._db, self.shard), self._keys.sources, self._admission)
        # If this answer is lost we hold no epoch, and claim again: an epoch more fences nobody but ourselves.
        self._epoch, self._check = await store.claim(self._db, self.shard), check

    async def drop(self) -> None:
        """Forget everything that was only in memory."""
        begun = [task for task in (self._in_flight, self._snapshot) if task is not None]
        self._in_flight = self._snapshot = None
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()
        self._head = None
        self.is_owner = False
        self._recent = []

    async def step(self, timeout_ms: int = _FETCH_MS) -> int:
        """Fetch, check and prepare one batch, and begin to append it; answers how many messages there were.

        Any error means that the state in memory was or must be dropped. Unavailable and Stale pass; Fenced does not.
        """
        try:
            head = self._head or await self._load()
            assert self._consumer is not None  # noqa: S101 - _load made it
            await self._keep_house(head)
            if self._in_flight is not None and self._in_flight.done():
                await self._settle()
            # While a batch is in flight its failure must not wait for the next message.
            messages = await self._consumer.fetch(self._max_batch, 50 if self._in_flight else timeout_ms)
            if not messages:
                await self._settle()
                return 0
            self._heard_at = asyncio.get_running_loop().time()
            prepared = await self._prepared(head, messages)
            await self._settle()
            self._in_flight = asyncio.create_task(self._append(prepared))
            # Let it send its first bytes before the next batch takes the processor.
            await asyncio.sleep(0)
        except OutOfRange:
            await self._go_on_from_what_is_there()
            return 0
        except BaseException:
            await self.drop()
            raise
        return len(messages)

    async def settled(self) -> None:
        """Return when the batch in flight is committed."""
        try:
            await self._settle()
        except BaseException:
            await self.drop()
            raise

    async def _go_on_from_what_is_there(self) -> None:
        """The topic was made anew, or lost more than we had read. A person must know, and nobody need do anything:
        what was not sealed is still in the outboxes and comes again, what was is an exact repetition."""
        try:
            await self._settle()
            assert self._consumer is not None  # noqa: S101 - it has just said so
            beginning = (await self._consumer.beginning_offsets())[self.shard]
            gone: int = (await store.head(self._db, self.shard))["next_offset"]
            await store.go_on_from(self._db, self.shard, self._epoch, gone, beginning)
            log.error("position-gone", shard=self.shard, offset=gone, went_on_from=beginning)
        finally:
            await self.drop()

    async def _right_clock(self) -> None:
        """Unavailable if our clock and PostgreSQL's contradict each other: nobody here knows which of them is wrong."""
        ahead = millis(self._clock()) - millis(await store.clock(self._db))
        if not -CLOCK_SLOW_MS < ahead < CLOCK_BEHIND_MS:
            log.error("clocks-differ", shard=self.shard, seconds_ahead=round(ahead / 1000))
            raise Unavailable("clock")

    async def _load(self) -> Head:
        if self._epoch is None:
            await self.claim()
        assert self._epoch is not None  # noqa: S101 - claim set it
        await self._right_clock()
        head = await heads.load(self._db, self.shard, self._epoch, self._keys.keks, subjects_kept=self._subjects_kept)
        consumer = self._open_consumer()
        self._consumer = consumer
        await consumer.start()
        consumer.seek(self.shard, head.next_offset)
        self._head = head
        self._heard_at = asyncio.get_running_loop().time()
        self.is_owner = True
        self._size.labels(self.shard).set(head.size)
        log.info("owning", shard=self.shard, epoch=self._epoch, size=head.size, next_offset=head.next_offset)
        return head

    async def _prepared(self, head: Head, messages: list[Message]) -> Prepared:
        assert self._check is not None  # noqa: S101 - claim set it
        now = self._clock()
        if millis(now) < head.recorded_at - CLOCK_BEHIND_MS:
            # recorded_at never goes back, and the signer would refuse one that is ahead of the clock.
            raise Unavailable("clock")
        checked: list[Stated | Alive | Reject] = []
        for start in range(0, len(messages), _CHECKED_AT_ONCE):
            checked += self._check.messages(messages[start : start + _CHECKED_AT_ONCE], now)
            # The batch before this one is on its way to PostgreSQL through the same event loop.
            await asyncio.sleep(0)
        checked = await self._of_known_registers(checked)
        known = await self._known(head, checked)
        prepared = await self._prepare.batch(head, checked, known, millis(now), messages[-1].offset + 1)
        self._recent = [*self._recent[-1:], prepared]
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

    def _keep_map(self, head: Head) -> None:
        """Begin to write a snapshot of the map if one is due; all of the map is stored, since nothing is in flight."""
        if self._snapshot is not None:
            if not self._snapshot.done():
                return
            self._snapshot.result()  # what it cannot bear ends us, too
        if snapshot.is_due(head.size, head.snapshot_at, len(head.map)):
            head.snapshot_at = head.size
            self._snapshot = asyncio.create_task(self._write_snapshot(head.size, head.map.records()))

    async def _write_snapshot(self, size: int, records: Iterator[bytes]) -> None:
        try:
            await snapshot.write(self._db, self.shard, size, records)
        except Unavailable:
            # The next one will do; what was written of this one is believed by nobody.
            log.warning("snapshot-not-written", shard=self.shard, size=size)

    async def _known(self, head: Head, checked: list[Stated | Alive | Reject]) -> Known:
        """Load the batch's subjects; look up the statements that may have come before.

        A statement whose sequence number is new is new, as long as its source keeps to the rules. If it does not, the
        primary key of `seen` refuses the batch, and the next attempt looks up every id. Number 0 says nothing of that.
        """
        stated = [item for item in checked if isinstance(item, Stated)]
        await head.subjects.load(self._db, list({item.statement.subject for item in stated}))
        suspects = [item for item in stated if self._probe_all or not item.sequence or self._has_arrived(head, item)]
        if not suspects:
            return Known()
        # The batch in flight may or may not be visible in the tables; it is in `_recent`.
        names = {name: hashed for batch in self._recent for name, hashed in batch.names.items()}
        rejected = {hashed for batch in self._recent for hashed in batch.rejected_hashes}
        sources, ids = [item.source for item in suspects], [item.statement.id for item in suspects]
        for row in await store.seen(self._db, self.shard, sources, ids):
            names[row["source"], row["id"]] = row["statement_hash"]
        rejected |= await store.rejected_hashes(self._db, self.shard, [item.statement_hash for item in suspects])
        return Known(names, frozenset(rejected))

    @staticmethod
    def _has_arrived(head: Head, item: Stated) -> bool:
        sequences = head.sequences.get(item.source)
        return sequences is not None and sequences.has(item.sequence)

    async def _settle(self) -> None:
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None:
            await in_flight

    async def _append(self, prepared: Prepared) -> None:
        began = perf_counter()
        try:
            rows = await self._db.fetch(APPEND, *arguments(prepared))
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

    async def _keep_house(self, head: Head) -> None:
        """Now and then, with nothing in flight: forget what is sealed, go on past gaps that a person has closed."""
        now = monotonic()
        if now - self._kept_house_at < self._house_seconds:
            return
        await self._settle()
        self._kept_house_at = now
        await store.forget_sealed_progress(self._db, self.shard)
        await self._end_labels(head)
        self._keep_map(head)
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

    async def _end_labels(self, head: Head) -> None:
        """Append the ERASURE leaves that are due, those of several people in one batch where they meet.

        If we stop before the first statement is committed, the next owner begins the ending; after it, nothing more is
        recorded of these subjects, whoever owns the shard; a leaf and the row that knows of it come together.
        """
        assert self._epoch is not None  # noqa: S101 - claim set it
        head.subjects.end(await store.begin_endings(self._db, self.shard, self._epoch, self._erasure_spread))
        due = await store.due_endings(self._db, self.shard, self._max_batch)
        if not due:
            return
        secrets = await heads.secrets(self._db, self.shard, self._keys.keks, {subject for subject, _ in due})
        prepared = await self._prepare.endings(head, due, secrets, millis(self._clock()))
        self._recent = [*self._recent[-1:], prepared]
        self._in_flight = asyncio.create_task(self._append(prepared))
        await self._settle()
        log.info("labels-ended", shard=self.shard, labels=len(due))


async def _keep(still_held: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(_LOCK_PROBE_SECONDS)
        await still_held()


def arguments(prepared: Prepared) -> list[Any]:
    """What APPEND takes, in its order."""
    events, rejects, marks = prepared.events, list(prepared.rejects.values()), list(prepared.marks.values())
    matters, tiles, overtaken = prepared.matters, prepared.tiles, prepared.overtaken
    erasures = prepared.erasures
    # Rejects alone count as done at once, if all before them is sealed: nobody will sign anything for them.
    channels = ["ledger_appended"] if prepared.leaves else ["ledger_sealed"]
    return [
        prepared.shard,
        prepared.epoch,
        prepared.size,
        prepared.next_offset,
        prepared.new_size,
        prepared.new_next_offset,
        prepared.edge,
        prepared.map_root,
        prepared.recorded_at,
        len(prepared.leaves),
        b"".join(prepared.leaves),
        [tile.level for tile in tiles],
        [tile.n for tile in tiles],
        [tile.hashes for tile in tiles],
        [event[0] for event in events],
        [event[1] for event in events],
        [event[2] for event in events],
        [event[3] for event in events],
        [event[4] for event in events],
        [event[5] for event in events],
        [subject for subject, _ in prepared.new_subjects],
        [wrapped for _, wrapped in prepared.new_subjects],
        [subject for subject, _ in matters],
        [matter for _, matter in matters],
        list(matters.values()),
        [one[0] for one in overtaken],
        [one[1] for one in overtaken],
        [one[2] for one in overtaken],
        [one[3] for one in overtaken],
        [reject.offset for reject, _ in rejects],
        [reject.source for reject, _ in rejects],
        [reject.sequence for reject, _ in rejects],
        [reject.statement_id for reject, _ in rejects],
        [reject.reason for reject, _ in rejects],
        [reject.statement_hash for reject, _ in rejects],
        [len(reject.raw) for reject, _ in rejects],
        # What nobody proved to have said may hold anything; its hash is enough to find it in Kafka.
        [reject.raw if reject.source and len(reject.raw) <= MAX_STATEMENT_BYTES else None for reject, _ in rejects],
        [times for _, times in rejects],
        [mark.source for mark in marks],
        [mark.sequence for mark in marks],
        [mark.all_before for mark in marks],
        list(prepared.progress),
        list(prepared.progress.values()),
        [source for source, _ in prepared.arrived],
        [sequence for _, sequence in prepared.arrived],
        [kind for kind, _, _ in prepared.opened],
        [about for _, about, _ in prepared.opened],
        [detail for _, _, detail in prepared.opened],
        [kind for kind, _ in prepared.closed],
        [about for _, about in prepared.closed],
        channels,
        prepared.root,
        list(erasures),
        [hold_until for hold_until, _ in erasures.values()],
        [completed for _, completed in erasures.values()],
        [subject for subject, _, _ in prepared.ended],
        [matter for _, matter, _ in prepared.ended],
        [index for _, _, index in prepared.ended],
        [source for source, _ in prepared.repetitions],
        [sequence for _, sequence in prepared.repetitions],
    ]
