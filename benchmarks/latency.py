"""How long a statement takes from accepted to appended and to published, at a steady rate, with everything on.

Accepted is the acceptance time in the outbox row, read inside the collector's transaction: so the commit of that row is
in the figure. Appended is when we, woken by the ledger, first read a head that covers it. Published is when our
consumer holds its leaf. All clocks are this machine's.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks import machine, running
from benchmarks.collector import Collector
from benchmarks.report import Result, Seen, milliseconds, percentile
from benchmarks.statements import SHARD, SOURCE, Forms, Population
from infra.local.installation import PROCESSES, Installation
from shared import register
from shared.database import Database
from shared.kafka import Consumer
from shared.topics import RECORDED
from shared.wire import RecordedValue

AIM_RATE: Final = 1_000
AIMS: Final = {"appended": 0.050, "published": 0.150}
"""Seconds, p99, at AIM_RATE."""

KEPT_UP: Final = 0.98
"""Of the rate that was wanted: with less accepted, the latency is not that of this rate."""

_WARM_SECONDS: Final = 3.0
_LONGEST_WAIT: Final = 180.0
_FETCH_MS: Final = 200


class Moments:
    """When a log was first seen to have reached each size; wall-clock seconds."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._at: list[float] = []

    def note(self, seen: Seen) -> None:
        """Another look."""
        if not self._sizes or seen.done > self._sizes[-1]:
            self._sizes.append(seen.done)
            self._at.append(seen.at)

    def covers(self, index: int) -> bool:
        """Whether this leaf was seen."""
        return bool(self._sizes) and self._sizes[-1] > index

    def of(self, index: int) -> float:
        """The first look that saw this leaf."""
        return self._at[bisect.bisect_right(self._sizes, index)]


@dataclass(slots=True)
class Observed:
    """What two observers see while statements pass."""

    appended: Moments
    published: Moments


@contextlib.asynccontextmanager
async def observing(made: Installation) -> AsyncIterator[Observed]:
    """Look at the head whenever the ledger says that it has appended, and read consent.recorded as followers do."""
    settings = made.settings()
    seen = Observed(Moments(), Moments())
    db = await Database.connect(settings.dsn("ledger"), "ledger")
    consumer = Consumer(settings.kafka, settings.topic(RECORDED), [SHARD])
    await consumer.start()
    for partition, end in (await consumer.end_offsets()).items():
        consumer.seek(partition, end)

    async def heads() -> None:
        signal = db.listen("ledger_appended")
        while True:
            before = signal.changed
            size = await db.fetchval("select size from head where shard = $1", SHARD)
            seen.appended.note(Seen(time.time(), size))
            await signal.wait(1.0, since=before)

    async def leaves() -> None:
        while True:
            messages = await consumer.fetch(timeout_ms=_FETCH_MS)
            now = time.time()
            for message in reversed(messages):
                if message.headers.get("kind") == b"leaf":
                    seen.published.note(Seen(now, RecordedValue.decode(message.value).index + 1))
                    break

    tasks = [asyncio.create_task(heads()), asyncio.create_task(leaves())]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await consumer.stop()
        await db.close()


_UNSEALED: Final = "select count(*) from newsletter.outbox where sealed_at is null"
_PLACES: Final = """
select extract(epoch from o.accepted_at)::float8 as accepted, s.index
from newsletter.outbox o join ledger.seen s on s.shard = $1 and s.source = $2 and s.id = o.id
where o.id = any($3::uuid[])
"""


async def places(eyes: Any, ids: Sequence[str], seen: Observed) -> list[tuple[float, int]]:
    """Acceptance time and index of each of these statements, once all were seen on both sides."""
    until = time.monotonic() + _LONGEST_WAIT
    while left := await eyes.fetchval(_UNSEALED):
        if time.monotonic() > until:
            raise RuntimeError(f"{left} statements were not recorded within {_LONGEST_WAIT:.0f} s")
        await asyncio.sleep(0.5)
    while True:
        rows = await eyes.fetch(_PLACES, SHARD, SOURCE, ids)
        if len(rows) == len(ids):
            highest = max(row["index"] for row in rows)
            if seen.appended.covers(highest) and seen.published.covers(highest):
                return [(row["accepted"], row["index"]) for row in rows]
        if time.monotonic() > until:
            raise RuntimeError(f"not all {len(ids)} statements were published within {_LONGEST_WAIT:.0f} s")
        await asyncio.sleep(0.5)


async def measure(made: Installation, rates: Sequence[int], seconds: float) -> list[Result]:
    """Each rate in turn on one running installation."""
    population = Population(Forms(register.load(), made.secrets, datetime.now(UTC), short=False))
    found: list[Result] = []
    eyes = await running.connect(made)
    try:
        async with Collector(made) as collector, observing(made) as seen:
            for rate in rates:
                running.say(f"  {rate}/s for {seconds:.0f} s …")
                await collector.state(rate, _WARM_SECONDS, population.statement)
                load, watch = machine.load(), running.watch(made)
                began = time.monotonic()
                ids = await collector.state(rate, seconds, population.statement)
                accepted_rate = len(ids) / (time.monotonic() - began)
                kept_up = accepted_rate >= KEPT_UP * rate
                usage = watch.usage()
                stood = await places(eyes, ids, seen)
                running.still_running(made, PROCESSES)
                for stage, moments in (("appended", seen.appended), ("published", seen.published)):
                    waits = [moments.of(index) - accepted for accepted, index in stood]
                    p50, p99 = percentile(waits, 0.50), percentile(waits, 0.99)
                    aimed = rate == AIM_RATE
                    found.append(
                        Result(
                            part="latency",
                            measured=f"accepted → {stage} at {rate:,}/s ({seconds:.0f} s, everything on)"
                            + ("" if kept_up else f"; only {accepted_rate:,.0f}/s could be accepted"),
                            figure=f"p50 {milliseconds(p50)}, **p99 {milliseconds(p99)}**",
                            aim=f"p99 {milliseconds(AIMS[stage])}" if aimed else "",
                            met=kept_up and p99 <= AIMS[stage] if aimed else None,
                            bound=usage.bound() if stage == "appended" else "as above",
                            values={
                                "rate": rate,
                                "accepted_per_second": round(accepted_rate, 1),
                                "statements": len(ids),
                                "p50_seconds": round(p50, 4),
                                "p99_seconds": round(p99, 4),
                                "most_seconds": round(max(waits), 4),
                                "load_before": load,
                                "processor": {name: round(share, 3) for name, share in usage.shares.items()},
                                "others": round(usage.others, 3),
                            },
                        )
                    )
    finally:
        await eyes.close()
    return found
