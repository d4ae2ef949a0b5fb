"""Memory and start time of each process, Kafka and PostgreSQL included.

Memory is the proportional set size: pages that several processes share count once in the sum. Start time is from the
command to the answer that it is ready, one after the other, on data that was there before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import machine, processor, running
from benchmarks.collector import Collector
from benchmarks.report import Result
from benchmarks.statements import Forms, Population
from infra.local.installation import Installation
from shared import register

AIM: Final = 900
"""Megabytes (10^6), all of it."""
ORDER: Final = ("ledger-seal", "ledger-append", "web", "audience")

_RATE: Final = 200
_SETTLED_SECONDS: Final = 3.0


def proportional(rollup: str) -> int:
    """Bytes, from the text of /proc/<pid>/smaps_rollup."""
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def family(pid: int, parents: Mapping[int, int]) -> set[int]:
    """A process and all that descend from it; `parents` is process → parent."""
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def memory(pid: int) -> int:
    """Bytes of a process and its children."""
    parents = {}
    for other in processor.pids():
        one = processor.times(other)
        if one is not None:
            parents[other] = one.parent
    total = 0
    for member in family(pid, parents):
        try:
            total += proportional(Path(f"/proc/{member}/smaps_rollup").read_text("ascii"))
        except (OSError, StopIteration):
            continue  # it ended meanwhile
    return total


def _all_memory(made: Installation) -> dict[str, int]:
    pids = {name: process.pid for name, process in made.processes.items()}
    return {
        name: memory(pid) for name, pid in {"Kafka": made.kafka.pid, "PostgreSQL": made.postgres.pid, **pids}.items()
    }


def _timed(step: Callable[[], None]) -> float:
    began = time.monotonic()
    step()
    return time.monotonic() - began


def _start_each(made: Installation) -> dict[str, float]:
    made.kafka.stop()
    made.postgres.stop()
    took = {"Kafka": _timed(made.kafka.start), "PostgreSQL": _timed(made.postgres.start)}
    for name in ORDER:
        took[name] = _timed(partial(made.serve, [name]))
    return took


def held(measured: str, sizes: Mapping[str, int], bound: str) -> Result:
    """One row about memory."""
    total = sum(sizes.values()) / 1e6
    listed = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in sorted(sizes.items(), key=lambda one: -one[1]))
    return Result(
        part="footprint",
        measured=measured,
        figure=f"**{total:,.0f} MB** ({listed})",
        aim=f"{AIM} MB",
        met=total <= AIM,
        bound=bound,
        values={"megabytes": round(total, 1), "each": {name: round(size / 1e6, 1) for name, size in sizes.items()}},
    )


async def measure(made: Installation, seconds: float) -> list[Result]:
    """Start everything, look at it idle, and again after so many seconds of statements."""
    load = machine.load()
    took = await asyncio.to_thread(_start_each, made)
    await asyncio.sleep(_SETTLED_SECONDS)
    idle = _all_memory(made)
    population = Population(Forms(register.load(), made.secrets, datetime.now(UTC), short=False))
    async with Collector(made) as collector:
        running.say(f"  {_RATE} statements a second for {seconds:.0f} s …")
        await collector.state(_RATE, seconds, population.statement)
    worked = _all_memory(made)
    listed = ", ".join(f"{name} {one:.1f}" for name, one in took.items())
    return [
        held("memory of everything, just started (proportional set size)", idle, "Kafka's heap of 64 to 256 MB"),
        held(f"the same after {round(_RATE * seconds):,} statements in {seconds:.0f} s", worked, "as above"),
        Result(
            part="footprint",
            measured="start to ready, one after the other (data there already)",
            figure=f"**{sum(took.values()):.1f} s** ({listed})",
            aim="",
            met=None,
            bound=f"one core each: imports, and the first answers of the others; load before: {load:.1f}",
            values={"seconds": {name: round(one, 2) for name, one in took.items()}, "load_before": load},
        ),
    ]
