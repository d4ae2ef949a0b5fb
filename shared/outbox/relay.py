"""Carries statements from the outbox to the ledger and ticks them off when the ledger has sealed them.

Numbers are committed before anything is sent, so a number never names two statements. Everything may be sent more
than once: the ledger drops exact repetitions. A row is done when the ledger says so, and only then.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol

from shared import logs, wire
from shared.backoff import Backoff
from shared.client import ServiceClient
from shared.clock import Clock, rfc3339, utc_now
from shared.database import Database, Lock, Row
from shared.errors import Corrupt, Refused, Unavailable
from shared.kafka import Outgoing, Producer
from shared.metrics import Metrics
from shared.topics import STATED

_BATCH: Final = 1000
_DONE_AT_ONCE: Final = 5000
_ALIVE_SECONDS: Final = 1.0
_SAFETY_NET_SECONDS: Final = 1.0
_STRAGGLERS_SECONDS: Final = 0.02
_ACCEPTANCE: Final = timedelta(seconds=2)
_POLL_SECONDS: Final = 2
_TIDY_SECONDS: Final = 600.0
_LONGEST_RESEND_SECONDS: Final = 60.0
_CLOCKS_DIFFER_SECONDS: Final = 5.0

# Taken before the numbering statement, which needs a snapshot that sees what an earlier relay numbered.
_NUMBERING_ALONE = "lock table outbox_sequence in share row exclusive mode"
# Sealed without a number: stated over HTTP, before this source had Kafka.
# The newest: EXISTS would read every entry of the index that is dead and not gone.
_UNNUMBERED = "select id from outbox where sequence is null and sealed_at is null order by accepted_at desc limit 1"
_NUMBER = """
with waiting as (
    select id, shard, row_number() over (partition by shard order by accepted_at, id) as place
    from (
        select id, shard, accepted_at from outbox
        where sequence is null and sealed_at is null order by accepted_at, id limit $1
    ) as oldest
),
counted as (select shard, count(*) as number from waiting group by shard),
counters as (
    insert into outbox_sequence as counter (shard, last) select shard, number from counted
    on conflict (shard) do update set last = counter.last + excluded.last
    returning shard, last
)
update outbox set sequence = counters.last - counted.number + waiting.place
from waiting join counted using (shard) join counters using (shard)
where outbox.id = waiting.id
returning outbox.shard, outbox.sequence, outbox.statement
"""
_KNOWN = "insert into outbox_progress (shard) select * from unnest($1::integer[]) on conflict do nothing"
_UNSENT = """
select outbox.shard, sequence, statement
from outbox_progress progress join outbox on outbox.shard = progress.shard and sequence > sent
order by outbox.shard, sequence limit $1
"""
_SENT = """
update outbox_progress progress set sent = greatest(sent, upto)
from unnest($1::integer[], $2::bigint[]) as now (shard, upto) where progress.shard = now.shard
"""
_UNSEALED = """
select outbox.shard, sequence, statement
from outbox_progress progress join outbox on outbox.shard = progress.shard and sequence > sealed and sequence <= sent
where progress.shard = $1 order by sequence limit $2
"""
_PROGRESS = "select sent, sealed from outbox_progress where shard = $1"
_LAST = "select coalesce((select last from outbox_sequence where shard = $1), 0)"
_DONE = """
with done as (
    update outbox set sealed_at = clock_timestamp(),
        result = coalesce(($5::text[])[array_position($4::bigint[], sequence)], 'recorded'),
        reason = ($6::text[])[array_position($4::bigint[], sequence)],
        index = ($7::bigint[])[array_position($4::bigint[], sequence)]
    where shard = $1 and sequence > $2 and sequence <= $3 and sealed_at is null
    returning result
),
progressed as (
    update outbox_progress set sealed = greatest(sealed, $3), sent = greatest(sent, $3),
        rejected = rejected + (select count(*) from done where result = 'rejected')
    where shard = $1
)
select count(*) as done, count(*) filter (where result = 'rejected') as rejected,
    pg_notify(current_schema() || '_sealed', '')
from done
"""
_RUNNING = """
select now() as at, (
    select min(xact_start) from pg_stat_activity
    where datname = current_database() and usename = current_user and backend_xid is not null
) as oldest
"""
_STANDING = """
select shard, coalesce(last, 0) as last, oldest, unsealed
from unnest($1::integer[]) as n (shard)
    left join outbox_sequence using (shard)
    left join outbox_progress using (shard)
    cross join lateral (
        select min(accepted_at) as oldest, count(*) as unsealed from (
            select accepted_at, sealed_at from outbox
            where outbox.shard = n.shard and sequence > coalesce(sealed, 0)
            union all
            select accepted_at, sealed_at from outbox where outbox.shard = n.shard and sequence is null
        ) as beyond where sealed_at is null
    ) as open
"""
_REJECTED = "select shard, rejected as number from outbox_progress"
_TIDY = """
with lowest as (
    select id, sequence, sealed_at, result
    from outbox_progress progress join outbox on outbox.shard = progress.shard and sequence > tidied
        and sequence <= sealed
    where progress.shard = $1 order by sequence limit 5000
),
aged as (
    select * from lowest where sequence < coalesce(
        (select min(sequence) from lowest where sealed_at >= clock_timestamp() - $2::interval), 9223372036854775807)
),
deleted as (delete from outbox using aged where outbox.id = aged.id and aged.result <> 'rejected')
update outbox_progress set tidied = upto from (select max(sequence) as upto from aged) as seen
where shard = $1 and upto is not null
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one source stands on one shard: `all_before` is the mark, everything accepted earlier is sealed."""

    shard: int
    last: int
    unsealed: int
    all_before: datetime
    waiting_seconds: float


class Installation(Protocol):
    """What of the settings a relay needs: `shared.settings.Settings` is one."""

    def topic(self, name: str) -> str: ...
    def origins(self) -> Mapping[int, str]: ...


@dataclass(frozen=True, slots=True)
class _Stuck:
    """How far the ledger had sealed when that last changed, when that was, and how long it may stand still."""

    sealed: int
    since: float
    pause: float


class Relay:
    """Run one per process of the service; the advisory lock lets one at a time work, and another take over."""

    def __init__(
        self,
        source: str,
        database: Database,
        producer: Producer,
        ledger: ServiceClient,
        key: tuple[str, bytes],
        installation: Installation,
        *,
        clock: Clock = utc_now,
        metrics: Metrics | None = None,
        on_sealed: Callable[[], Awaitable[None]] | None = None,
        resend_after: float = 10.0,
        keep: timedelta = timedelta(days=3),
    ) -> None:
        """`key` is (key id, key) as `Secrets.own_source_key` gives it."""
        self._source = source
        self._database = database
        self._producer = producer
        self._clock = clock
        self._ahead = 0.0
        self._ledger = ledger
        self._key_id, self._key = key
        self._topic = installation.topic(STATED)
        self._origins = dict(installation.origins())
        self._on_sealed = on_sealed
        self._resend_after = resend_after
        self._keep = keep
        self._log = logs.logger(f"relay.{source}")
        self._put = database.listen(f"{database.schema}_outbox")
        self._numbered_at = float("-inf")
        self._sent = {shard: asyncio.Event() for shard in self._origins}
        self._stuck = {shard: _Stuck(-1, 0.0, resend_after) for shard in self._origins}
        self._standing: dict[int, Standing] = {}
        self._holding = False
        self._interrupted = True
        self._failing: set[str] = set()
        metrics = metrics or Metrics(source)
        self._unsealed = metrics.gauge("outbox_unsealed", "Statements accepted and not yet sealed", ("shard",))
        self._waiting = metrics.gauge(
            "outbox_oldest_unsealed_seconds", "Age of the oldest statement that is not sealed", ("shard",)
        )
        self._seconds_ahead = metrics.gauge("clock_ahead_seconds", "Our clock, less PostgreSQL's")
        self._rejected = metrics.gauge("outbox_rejected", "Statements that the ledger has rejected", ("shard",))
        metrics.at_scrape(self._measure, self._unsealed, self._waiting, self._rejected)
        self._sends = metrics.counter("outbox_sent_total", "Statements sent, repetitions included")
        self._resends = metrics.counter("outbox_resent_total", "Statements sent again because they were not sealed")

    def ready(self) -> dict[str, bool | str]:
        """For the readiness of the service: what does not work, by name. Another process may hold the relay."""
        late = sum(standing.waiting_seconds > self._resend_after for standing in self._standing.values())
        parts: dict[str, bool | str] = {"relay": ", ".join(sorted(self._failing)) or True}
        if abs(self._ahead) > _CLOCKS_DIFFER_SECONDS:
            parts["clock"] = f"{self._ahead:+.0f} s from PostgreSQL's"
        if self._holding and late:
            parts["outbox"] = f"unsealed for more than {self._resend_after:.0f} s on {late} shard(s)"
        return parts

    async def run(self) -> None:
        """Until cancelled. What PostgreSQL, Kafka or the ledger do only slows it down; Corrupt ends it."""
        backoff = Backoff()
        while True:
            try:
                async with self._database.lock(f"relay/{self._source}") as lock:
                    self._holding = self._interrupted = True
                    self._numbered_at = asyncio.get_running_loop().time()  # by whoever held it before us
                    backoff.reset()
                    await self._work(lock)
            except* Unavailable:
                if not backoff.failing:
                    self._log.warning("relay-lock-lost")
            finally:
                # What another process does now is in its own readiness.
                self._holding = False
                self._standing.clear()
                self._failing.clear()
            await backoff.pause()

    async def _work(self, lock: Lock) -> None:
        async with asyncio.TaskGroup() as group:
            # The lock is asked for in a task of its own: it must not wait for Kafka.
            group.create_task(self._keep_lock(lock), name="relay.lock")
            await self._persist("numbers", self._check_numbers, once=True)
            group.create_task(self._persist("send", self._send), name="relay.send")
            group.create_task(self._persist("alive", self._alive), name="relay.alive")
            group.create_task(self._persist("tidy", self._tidy), name="relay.tidy")
            for shard in self._origins:
                seal, resend = partial(self._seal, shard), partial(self._resend, shard)
                group.create_task(self._persist(f"sealed {shard}", seal), name="relay.sealed")
                group.create_task(self._persist(f"resend {shard}", resend), name="relay.resend")

    async def _keep_lock(self, lock: Lock) -> None:
        while True:
            await lock.still_held()
            await asyncio.sleep(1)

    async def _persist(self, name: str, step: Callable[[], Awaitable[None]], *, once: bool = False) -> None:
        """Repeat a step for ever (or until it succeeds), with growing pauses while something does not answer."""
        backoff = Backoff()
        while True:
            try:
                await step()
            except Unavailable as error:
                self._trouble(name, error.service, backoff)
            except Refused as error:
                # The ledger does not know us or this shard: a matter of installation that may still be put right.
                self._trouble(name, error.code, backoff)
            else:
                backoff.reset()
                self._failing = {failing for failing in self._failing if not failing.startswith(f"{name}: ")}
                if once:
                    return
                continue
            await backoff.pause()

    def _trouble(self, name: str, why: str, backoff: Backoff) -> None:
        if not backoff.failing:
            self._log.warning("relay-waits", step=name, why=why)
        self._failing.add(f"{name}: {why}")

    async def _check_numbers(self) -> None:
        """Before the first number is given: an outbox restored from a backup would give numbers again that the
        ledger knows, and then take "sealed" as said of statements that were never sent."""
        await self._database.execute(_KNOWN, sorted(self._origins))
        for shard in self._origins:
            last = await self._database.fetchval(_LAST, shard)
            answer = await self._ask(shard, last, wait=0)
            self._compare(shard, answer.sealed, last)

    def _compare(self, shard: int, sealed: int, last: int) -> None:
        if sealed > last:
            raise Corrupt(
                f"the ledger has sealed statement {sealed}, this outbox has numbered {last}: was it restored?",
                f"{self._source}/{shard}",
            )

    async def _send(self) -> None:
        """Number what is new, commit that, send it, and wait to be woken."""
        if self._interrupted:
            # Numbered by a relay that did not come to send them: us before a failure, or the one before us.
            left = await self._database.fetch(_UNSENT, _BATCH)
            if left:
                await self._deliver(left)
                return
        self._interrupted = True  # until everything numbered here is sent
        async with self._database.transaction() as tx:
            await tx.execute(_NUMBERING_ALONE)
            rows = await tx.fetch(_NUMBER, _BATCH)
        # If we stop here the numbers stand, and are sent by whoever comes next.
        if rows:
            await self._deliver(sorted(rows, key=lambda row: (row["shard"], row["sequence"])))
        self._interrupted = False
        if not rows:
            await self._wait()

    async def _wait(self) -> None:
        """Until there may be something to number.

        Who puts does not wake us if it sees a row that waits for its number. It may commit after we have numbered
        that row and looked again; but it began before we did, and PostgreSQL ends it two seconds later. So for that
        long after a number was given we look for such stragglers ourselves.
        """
        loop = asyncio.get_running_loop()
        while loop.time() - self._numbered_at < _ACCEPTANCE.total_seconds():
            if await self._put.wait(_STRAGGLERS_SECONDS) or await self._database.fetchval(_UNNUMBERED):
                return
        await self._put.wait(_SAFETY_NET_SECONDS)

    async def _deliver(self, rows: Sequence[Row]) -> None:
        self._numbered_at = asyncio.get_running_loop().time()  # or before: never after
        await self._producer.send_many([self._message(row) for row in rows])
        # If we stop here they are sent again, and dropped as exact repetitions.
        upto = {row["shard"]: row["sequence"] for row in rows}
        await self._database.execute(_SENT, list(upto), list(upto.values()))
        self._sends.inc(len(rows))
        for shard in upto:
            self._sent[shard].set()

    def _message(self, row: Row) -> Outgoing:
        shard, sequence, statement = row["shard"], row["sequence"], row["statement"]
        if shard not in self._origins:
            raise Corrupt("a statement's shard has no log in this installation", f"{self._source}/{shard}/{sequence}")
        mac = wire.stated_mac(self._key, self._origins[shard], sequence, statement)
        return Outgoing(
            self._topic,
            shard,
            json.loads(statement)["subject"].encode("ascii"),
            statement,
            wire.stated_headers("statement", sequence, self._key_id, mac),
        )

    async def _resend(self, shard: int) -> None:
        """What is not sealed in time is sent again, the lowest numbers first: they are what the rest waits for.

        The ledger seals without a gap, so as long as it gets on, nothing that was sent is missing there. While it
        stands still the pauses grow, so that a long outage does not fill the topic with repetitions."""
        stuck = self._stuck[shard]
        await asyncio.sleep(min(stuck.pause, 1.0))
        progress = await self._database.fetchrow(_PROGRESS, shard)
        sent, sealed = progress or (0, 0)
        now = asyncio.get_running_loop().time()
        if sealed != stuck.sealed or sealed == sent:
            self._stuck[shard] = _Stuck(sealed, now, self._resend_after)
            return
        rows = [] if now - stuck.since < stuck.pause else await self._database.fetch(_UNSEALED, shard, _BATCH)
        if not rows:
            return
        longest = max(_LONGEST_RESEND_SECONDS, self._resend_after)
        self._stuck[shard] = _Stuck(sealed, now, min(stuck.pause * 2, longest))
        self._log.error("not-sealed-in-time", shard=shard, first=rows[0]["sequence"], count=len(rows))
        self._resends.inc(len(rows))
        await self._deliver(rows)

    async def _seal(self, shard: int) -> None:
        """Ask how far the ledger has sealed, and tick off. The question waits at the ledger, not here."""
        # Cleared before looking: what is sent from here on sets it again, what was sent before is seen.
        self._sent[shard].clear()
        progress = await self._database.fetchrow(_PROGRESS, shard)
        sent, above = progress or (0, 0)
        if above == sent:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SAFETY_NET_SECONDS):
                    await self._sent[shard].wait()
            return
        asked = asyncio.get_running_loop().time()
        answer = await self._ask(shard, above, wait=_POLL_SECONDS)
        if answer.sealed <= above:
            # A ledger that answers at once without news must not be asked in a tight loop.
            if asyncio.get_running_loop().time() - asked < _POLL_SECONDS / 4:
                await asyncio.sleep(_POLL_SECONDS / 8)
            return
        self._compare(shard, answer.sealed, await self._database.fetchval(_LAST, shard))
        told = answer.results
        row = await self._database.fetchrow(
            _DONE,
            shard,
            above,
            min(answer.sealed, above + _DONE_AT_ONCE),
            [item.sequence for item in told],
            [item.result for item in told],
            [item.reason for item in told],
            [item.index for item in told],
        )
        if row is not None and row["rejected"]:
            self._log.error("rejected", shard=shard, count=row["rejected"])
        if self._on_sealed is not None:
            await self._on_sealed()

    async def _ask(self, shard: int, above: int, wait: int) -> _Sealed:
        answer = await self._ledger.get(
            f"/ledger/sources/{self._source}/sealed",
            params={"wait": wait, "shard": shard, "above": above},
            timeout=wait + 5,
        )
        return _Sealed.read(answer.json(), shard)

    async def _alive(self) -> None:
        """Once a second and shard: up to when everything that was accepted is sealed."""
        began = asyncio.get_running_loop().time()
        standing = await self.standing()
        await self._producer.send_many([self._alive_message(standing[shard]) for shard in sorted(standing)])
        self._standing = standing
        await asyncio.sleep(max(0.0, began + _ALIVE_SECONDS - asyncio.get_running_loop().time()))

    async def _measure(self) -> None:
        """From the rows, whoever holds the relay and whether or not it works."""
        for shard, one in (await self.standing()).items():
            self._unsealed.labels(str(shard)).set(one.unsealed)
            self._waiting.labels(str(shard)).set(one.waiting_seconds)
            self._rejected.labels(str(shard)).set(0)
        for row in await self._database.fetch(_REJECTED):
            self._rejected.labels(str(row["shard"])).set(row["number"])

    async def standing(self) -> dict[int, Standing]:
        """The marks. `all_before` = the least of: the oldest unsealed row's acceptance, the start of the oldest
        transaction still writing, the database's time minus two seconds.

        The order of the reads makes it true. Take a row accepted before the mark. Its transaction was ended by
        PostgreSQL within two seconds of acceptance (transaction_timeout), so at `at` it had ended, and the rows,
        read in a later snapshot, include it; as unsealed it would itself hold the mark back. Read the clock after
        the rows instead, and a pause between the two would let a row slip in unseen. (`now()` is the time at which
        the first query's transaction began, before its snapshot; clock_timestamp() would be after it.) The oldest
        unsealed row alone is not enough either: a younger row may be visible while an older one still commits.
        A commit that hangs on the disk is not ended by the timeout; such transactions are seen to run, and hold
        the mark back by their start. They are read before the rows, so that none ends unseen in between.
        """
        running = await self._database.fetchrow(_RUNNING)
        rows = await self._database.fetch(_STANDING, sorted(self._origins))
        if running is None:
            raise Unavailable("postgresql")
        at: datetime = running["at"]
        self._ahead = (self._clock() - at).total_seconds()
        self._seconds_ahead.set(self._ahead)
        found = {}
        for row in rows:
            moments = [moment for moment in (row["oldest"], running["oldest"], at - _ACCEPTANCE) if moment is not None]
            waiting = (at - row["oldest"]).total_seconds() if row["oldest"] is not None else 0.0
            found[row["shard"]] = Standing(row["shard"], row["last"], row["unsealed"], min(moments), max(waiting, 0.0))
        return found

    def _alive_message(self, standing: Standing) -> Outgoing:
        value = wire.alive_value(self._source, standing.shard, standing.last, rfc3339(standing.all_before))
        mac = wire.alive_mac(self._key, self._origins[standing.shard], standing.last, value)
        headers = wire.stated_headers("alive", standing.last, self._key_id, mac)
        return Outgoing(self._topic, standing.shard, None, value, headers)

    async def _tidy(self) -> None:
        """Done rows are kept for one backup cycle: `log restore` of a ledger from a backup reads them."""
        aged = [await self._database.execute(_TIDY, shard, self._keep) for shard in self._origins]
        await asyncio.sleep(0.1 if "UPDATE 1" in aged else _TIDY_SECONDS)


@dataclass(frozen=True, slots=True)
class _Told:
    sequence: int
    result: str
    reason: str | None
    index: int | None


@dataclass(frozen=True, slots=True)
class _Sealed:
    """The ledger's answer for one shard: sealed up to here, and what of it was not simply recorded."""

    sealed: int
    results: list[_Told]

    @classmethod
    def read(cls, answer: Any, shard: int) -> _Sealed:
        try:
            sealed = max((int(item["sealed"]) for item in answer["shards"] if int(item["shard"]) == shard), default=0)
            results = [
                _Told(int(item["sequence"]), "rejected", str(item["reason"])[:500], None)
                for item in answer["rejected"]
                if int(item["shard"]) == shard
            ] + [
                _Told(int(item["sequence"]), "overtaken", None, int(item["index"]))
                for item in answer["overtaken"]
                if int(item["shard"]) == shard
            ]
        except (KeyError, TypeError, ValueError):
            raise Unavailable("ledger") from None
        return cls(sealed, results)
