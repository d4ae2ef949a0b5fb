"""`python -m benchmarks`: measure on real parts of this machine, print Markdown rows or lines of JSON."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import uvloop

from benchmarks import (
    evidence,
    footprint,
    growth,
    latency,
    machine,
    permits,
    proofs,
    rebuild,
    replay,
    restart,
    running,
    shards,
    subscriptions,
    throughput,
    withdrawal,
)
from benchmarks.report import HEADER, Result
from infra.local.installation import Installation
from infra.local.processes import InUse, NotStarted

PARTS: Final = ("throughput", "latency", "withdrawal")
COMPARISONS: Final = (
    "subscriptions",
    "permits",
    "shards",
    "rebuild",
    "footprint",
    "growth",
    "proofs",
    "restart",
    "audit",
    "evidence",
)
START_SECONDS: Final = 120
SLOWEST: Final = 250
"""Records a second: a run that is slower than this is ended."""

Measure = Callable[[Installation], Coroutine[Any, Any, list[Result]]]


class Run(NamedTuple):
    """One installation, and what is done with it."""

    part: str
    title: str
    serving: bool
    """Whether all services run from the start."""
    limit: float
    """Seconds at most."""
    measure: Measure
    settings: Mapping[str, str] | None = None


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What to measure, and how much of it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures the promises about speed on real Kafka and PostgreSQL, started for this run.",
        epilog="The whole of it, as the aims are set: --records 500000 (about 20 minutes on two cores).",
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"any of {', '.join(PARTS)} (none is these), {', '.join(COMPARISONS)} (--compare is these)",
    )
    parser.add_argument("--compare", action="store_true", help="what stands beside what: all of the latter")
    parser.add_argument("--records", type=_positive, default=100_000, help="for throughput (%(default)s)")
    parser.add_argument("--full", action="store_true", help="throughput with served-notice tokens: 1.9 kB each")
    parser.add_argument("--rates", type=_rates, default=[200, 1000], help="statements a second for latency (200,1000)")
    parser.add_argument("--seconds", type=_positive, default=20, help="of each rate (%(default)s)")
    parser.add_argument("--withdrawals", type=_positive, default=200, help="idle, and again under load (%(default)s)")
    parser.add_argument("--beside", type=_positive, default=200, help="statements a second beside them (%(default)s)")
    parser.add_argument("--clients", type=_rates, default=[16, 64], help="for permits; the first for subscriptions")
    parser.add_argument("--rounds", type=_positive, default=3, help="of subscriptions, ours and theirs in turn")
    parser.add_argument("--block", type=_positive, default=6, help="seconds of each block (%(default)s)")
    parser.add_argument("--leaves", type=_positive, default=100_000, help="of the log for rebuild (%(default)s)")
    parser.add_argument(
        "--labels",
        type=_positive,
        default=1_000_000,
        help="of the log for proofs and restart; a quarter for audit (%(default)s)",
    )
    parser.add_argument("--evidence", type=_positive, default=50, help="of each shape (%(default)s)")
    parser.add_argument("--rows", type=_positive, default=1_000_000, help="of each table for growth (%(default)s)")
    parser.add_argument("--json", action="store_true", help="lines of JSON instead of Markdown")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.parts) - {*PARTS, *COMPARISONS}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join((*PARTS, *COMPARISONS))}")
    chosen.parts = [*chosen.parts, *(COMPARISONS if chosen.compare else ())] or list(PARTS)
    return chosen


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _rates(text: str) -> list[int]:
    return [_positive(one) for one in text.split(",")]


def runs(chosen: argparse.Namespace) -> list[Run]:
    """All that was chosen, each on an installation of its own."""
    records, short = chosen.records, not chosen.full
    limit = START_SECONDS + records / SLOWEST
    bare = partial(throughput.measure, names=throughput.BARE, count=records, short=short, limit=limit)
    everything = partial(throughput.measure, names=throughput.EVERYTHING, count=records, short=short, limit=limit)
    steady = partial(latency.measure, rates=chosen.rates, seconds=chosen.seconds)
    leaving = partial(withdrawal.measure, count=chosen.withdrawals, load_rate=chosen.beside)
    beside = partial(subscriptions.measure, clients=chosen.clients[0], seconds=chosen.block, rounds=chosen.rounds)
    asking = partial(permits.measure, clients=chosen.clients, seconds=chosen.block, beside=chosen.beside)
    two = partial(shards.measure, count=records // 2, limit=limit)
    again = partial(rebuild.measure, leaves=chosen.leaves, seconds=chosen.seconds)
    held = partial(footprint.measure, seconds=chosen.seconds)
    proving = partial(proofs.measure, labels=chosen.labels, seconds=chosen.seconds)
    beginning = partial(restart.measure, labels=chosen.labels)
    often, seldom = [partial(replay.measure, labels=chosen.labels // 4, batch=batch) for batch in (10, 1_000)]
    showing = partial(evidence.measure, count=chosen.evidence)
    growing = partial(growth.measure, rows=chosen.rows)
    in_turn = 3 * (chosen.rounds + 1)
    all_runs = [
        Run("throughput", "throughput, append and seal running", serving=False, limit=2 * limit, measure=bare),
        Run("throughput", "throughput, everything on", serving=False, limit=2 * limit, measure=everything),
        Run("latency", "latency", True, START_SECONDS + len(chosen.rates) * (chosen.seconds + 200), steady),
        Run("withdrawal", "withdrawal", True, START_SECONDS + 5 * chosen.withdrawals, leaving),
        Run("subscriptions", "subscriptions", True, START_SECONDS + in_turn * (chosen.block + 100), beside),
        Run("permits", "permits", True, START_SECONDS + 4 * len(chosen.clients) * (chosen.block + 10), asking),
        Run("shards", "two shards beside one", False, 4 * limit, two, {"shards": str(len(shards.SHARDS))}),
        Run("rebuild", "a follower is rebuilt", False, START_SECONDS + chosen.leaves / 20, again),
        Run("footprint", "memory and start", False, START_SECONDS + 10 * chosen.seconds, held),
        Run("growth", "many rows beside few", False, START_SECONDS + 240 + chosen.rows / 400, growing),
        Run("proofs", "proofs", False, START_SECONDS + 240 + chosen.labels / 2_000 + 4 * chosen.seconds, proving),
        Run("restart", "who begins anew", False, START_SECONDS + 240 + chosen.labels / 1_000, beginning),
        Run("audit", "an audit, seldom a MAP_ROOT", False, START_SECONDS + 240 + chosen.labels / 1_000, seldom),
        Run("audit", "an audit, often a MAP_ROOT", False, START_SECONDS + 240 + chosen.labels / 1_000, often),
        Run("evidence", "evidence", True, START_SECONDS + 10 * chosen.evidence, showing),
    ]
    return [run for run in all_runs if run.part in chosen.parts]


def main() -> int:
    """Exit status 0 if everything was measured, whether or not it was fast; 1 if something could not be; 2 in use."""
    chosen = options()
    failed = named = False
    for run in runs(chosen):
        running.say(f"{run.title}, load {machine.load():.1f} …")
        began = time.monotonic()
        try:
            with running.installation(run.settings) as made:
                postgres = asyncio.run(running.version(made))
                if run.serving:
                    made.serve()
                results = uvloop.run(asyncio.wait_for(run.measure(made), run.limit))
        except InUse as error:
            running.say(f"benchmark: {error}")
            return 2
        except (NotStarted, RuntimeError, TimeoutError, ExceptionGroup) as error:
            running.say(f"benchmark: {run.title}: {type(error).__name__}: {error}")
            failed = True
            continue
        if not named and not chosen.json:
            when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
            print(f"{machine.described(postgres)}; {when}; fsync and synchronous_commit on.\n\n{HEADER}")
        named = True
        for result in results:
            if chosen.json:
                print(result.line(machine=machine.described(postgres)))
            else:
                print(result.row())
        sys.stdout.flush()
        running.say(f"  {time.monotonic() - began:.0f} s, load {machine.load():.1f}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
