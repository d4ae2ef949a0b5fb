"""What others notice while a follower is built again from index 0: permits, and statements on their way to the record.

Marketing's fold is emptied and its position set to 0 while everything runs. Until it has folded the whole log again it
refuses every permit, because it cannot know: so that refusals last is measured, and that answers stay quick.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks import machine, running
from benchmarks.clients import Answer, Driven, drive_steadily
from benchmarks.collector import Collector
from benchmarks.latency import Observed, observing, places
from benchmarks.permits import Asks
from benchmarks.report import Result, milliseconds, percentile
from benchmarks.statements import SHARD, Forms, Population
from benchmarks.throughput import fill
from benchmarks.withdrawal import Marketing, opted_in
from infra.local.installation import PROCESSES, Installation
from shared import register
from shared.mail import message_id

RATE: Final = 50
"""Statements a second, and permits a second, before and meanwhile."""

_PEOPLE: Final = 100
_LONGEST: Final = 600.0
_EMPTY: Final = """
begin;
truncate marketing.word, marketing.standing, marketing.followed;
update marketing.position set next = 0;
commit
"""
_FOLDED: Final = """
select (select next from marketing.position where shard = $1) as folded,
       (select size from ledger.head where shard = $1) as size
"""


@dataclass(slots=True)
class Noticed:
    """What was answered in one of the two spans."""

    permits: Driven = field(default_factory=Driven)
    recorded: list[float] = field(default_factory=list)
    granted: int = 0
    refused: int = 0

    def look(self, answer: Answer) -> None:
        """Count what was decided."""
        if answer.status != 200:
            raise RuntimeError(f"a permit was answered with {answer.status}")
        if b'"granted"' in answer.body:
            self.granted += 1
        else:
            self.refused += 1


class _Load:
    """Statements and requests for permits, at one rate, until it is told to end."""

    def __init__(self, made: Installation, collector: Collector, population: Population, asks: Asks) -> None:
        self._made, self._collector, self._population, self._asks = made, collector, population, asks

    async def during(self, span: Any, eyes: Any, seen: Observed) -> Noticed:
        """Go on while this coroutine runs."""
        noticed, over, ids = Noticed(), asyncio.Event(), list[str]()

        async def state() -> None:
            while not over.is_set():
                ids.extend(await self._collector.state(RATE, 1.0, self._population.statement))

        async def end() -> None:
            try:
                await span
            finally:
                over.set()

        def requests() -> Iterator[bytes]:
            return itertools.takewhile(lambda _: not over.is_set(), self._asks.requests())

        async with asyncio.TaskGroup() as group:
            group.create_task(state())
            group.create_task(end())
            asking = group.create_task(
                drive_steadily(self._made.port, RATE, requests(), _LONGEST, noticed.look), name="permits"
            )
        noticed.permits = asking.result()
        noticed.recorded = [seen.published.of(index) - accepted for accepted, index in await places(eyes, ids, seen)]
        return noticed


async def _folded(eyes: Any) -> None:
    """Return when marketing has folded all there is, but for what is on its way."""
    until = time.monotonic() + _LONGEST
    while True:
        row = await eyes.fetchrow(_FOLDED, SHARD)
        if row["folded"] is not None and row["folded"] + RATE >= row["size"]:
            return
        if time.monotonic() > until:
            raise RuntimeError(f"marketing has folded {row['folded']} of {row['size']} leaves in all that time")
        await asyncio.sleep(0.1)


async def measure(made: Installation, leaves: int, seconds: float) -> list[Result]:
    """Fill the log with everything on, look for so many seconds, then while marketing is built again."""
    forms = Forms(register.load(), made.secrets, datetime.now(UTC), short=False)
    population = Population(forms)
    running.say(f"  {leaves:,} statements into Kafka …")
    await fill(made.settings(), made, leaves, short=True)
    await asyncio.to_thread(made.serve)
    eyes, marketing = await running.connect(made), Marketing(made)
    try:
        running.say("  until all of them are folded …")
        until = time.monotonic() + _LONGEST
        while await eyes.fetchval("select size from ledger.head where shard = $1", SHARD) < leaves:
            if time.monotonic() > until:
                raise RuntimeError("the log did not grow to its size in time")
            await asyncio.sleep(0.2)
        await _folded(eyes)
        async with Collector(made) as collector, observing(made) as seen:
            people = await opted_in(eyes, collector, population, _PEOPLE)
            await marketing.granted(people[-1].subject, message_id(people[-1].id, "example.org"))
            load = _Load(made, collector, population, Asks(made, [one.subject for one in people]))
            running.say("  before …")
            before = await load.during(asyncio.sleep(seconds), eyes, seen)
            size = await eyes.fetchval("select size from ledger.head where shard = $1", SHARD)
            running.say(f"  marketing is built again from {size:,} leaves …")
            busy, watch = machine.load(), running.watch(made)
            began = time.monotonic()
            await eyes.execute(_EMPTY)
            meanwhile = await load.during(_folded(eyes), eyes, seen)
            took, usage = time.monotonic() - began, watch.usage()
            running.still_running(made, PROCESSES)
            began = time.monotonic()
            await marketing.granted(people[0].subject, message_id(people[0].id, "example.org"))
    finally:
        await marketing.close()
        await eyes.close()
    values = {
        "leaves": size,
        "seconds": round(took, 1),
        "granted": meanwhile.granted,
        "refused": meanwhile.refused,
        "load_before": busy,
        "processor": {name: round(share, 3) for name, share in usage.shares.items()},
        "others": round(usage.others, 3),
    }
    return [
        changed(
            f"a permit is answered, {RATE} a second, before and while marketing is built again from {size:,} leaves "
            f"({took:.0f} s, {size / took:,.0f} a second; {meanwhile.refused} refused, {meanwhile.granted} granted)",
            before.permits.waits,
            meanwhile.permits.waits,
            usage.bound(),
            values,
        ),
        changed(
            f"accepted → published at {RATE} a second, before and meanwhile",
            before.recorded,
            meanwhile.recorded,
            "as above",
            values,
        ),
    ]


def changed(measured: str, before: list[float], meanwhile: list[float], bound: str, values: dict[str, Any]) -> Result:
    """Two spans side by side."""
    was, p50_was = percentile(before, 0.99), percentile(before, 0.50)
    is_now, p50_is = percentile(meanwhile, 0.99), percentile(meanwhile, 0.50)
    return Result(
        part="rebuild",
        measured=measured,
        figure=f"p50 {milliseconds(p50_was)} → {milliseconds(p50_is)}, "
        f"**p99 {milliseconds(was)} → {milliseconds(is_now)}**",
        aim="",
        met=None,
        bound=bound,
        values={
            **values,
            "p50_seconds_before": round(p50_was, 4),
            "p99_seconds_before": round(was, 4),
            "p50_seconds": round(p50_is, 4),
            "p99_seconds": round(is_now, 4),
        },
    )
