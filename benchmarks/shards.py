"""Two shards beside one: provable records a second, append and seal running, in the ways an operator can run them.

The same installation of two shards throughout: first only shard 0 has anything to do; then both, in the same two
processes; then both, with two processes for each. A record counts as in throughput.py, when a checkpoint covers it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import machine, running
from benchmarks.processor import Usage, Watch
from benchmarks.report import Result, Seen, rate
from benchmarks.statements import SOURCE
from benchmarks.throughput import BARE, Counted, fill
from infra.local.installation import Installation
from infra.local.processes import Process
from services.ledger.reader.checkpoint import verify_checkpoint
from services.ledger.store import served_checkpoint
from shared.database import Database

SHARDS: Final = (0, 1)
_LOOK_SECONDS: Final = 0.05
_SEAL, _APPEND = BARE


@dataclass(frozen=True, slots=True)
class Setting:
    """Which shards have something to do, and which shards each pair of processes serves."""

    said: str
    busy: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]


SETTINGS: Final = (
    Setting("one shard", (0,), (SHARDS,)),
    Setting("two shards, one process to append both and one to seal both", SHARDS, (SHARDS,)),
    Setting("two shards, two processes to append and two to seal", SHARDS, ((0,), (1,))),
)


class Ledgers:
    """The processes of one setting, each told which shards are its own."""

    def __init__(self, made: Installation) -> None:
        self._made = made
        self.running: dict[str, Process] = {}

    def start(self, role: str, shards: Sequence[int]) -> None:
        """Return at once; nobody asks it whether it is ready, the log shows it."""
        own = ",".join(str(shard) for shard in shards)
        name = f"{role} {own}"
        process = self.running.setdefault(name, Process(self._made.folder, name.replace(" ", "-").replace(",", "-")))
        environment = {
            **os.environ,
            **self._made.environment(),
            "CONSENT_LEDGER_WORKER_PORT": "0",
            "CONSENT_LEDGER_LEDGER_SHARDS": own,
        }
        log = self._made.logs / f"{process.name}.log"
        process.start(self._made.command_of(role), directory=self._made.folder, log=log, environment=environment)

    def stop(self) -> None:
        """All of them."""
        for process in self.running.values():
            process.stop()
        self.running = {}

    def still_running(self) -> None:
        """Raise if one has ended."""
        for name, process in self.running.items():
            if not process.running:
                raise RuntimeError(f"{name} ended with {process.status}; its log is in {self._made.logs}")

    def watch(self) -> Watch:
        """Begin to count what each of them uses."""
        pids = {name: process.pid for name, process in self.running.items()}
        return Watch({**pids, "Kafka": self._made.kafka.pid}, self._made.postgres.pid)


class Logs:
    """How far each shard's log can be proven."""

    def __init__(self, db: Database, eyes: Any) -> None:
        self._db, self._eyes = db, eyes

    async def sizes(self) -> list[int]:
        """Of the newest checkpoints, their signatures verified."""
        found = []
        for shard in SHARDS:
            vkey = str(await self._eyes.fetchval("select vkey from ledger.log where shard = $1", shard))
            checkpoint = await served_checkpoint(self._db, shard)
            found.append(verify_checkpoint(checkpoint[1].encode(), vkey).size if checkpoint else 0)
        return found

    async def counted(self, looks: Sequence[Sequence[Seen]]) -> list[Seen]:
        """Looks at the shards side by side as looks at all of them together, counted in statements from the first."""
        by_shard = []
        for shard, seen in zip(SHARDS, looks, strict=True):
            rows = await self._eyes.fetch(
                "select first, n from ledger.leaf_batch where shard = $1 order by first", shard
            )
            by_shard.append(Counted([(row["first"], row["n"]) for row in rows])(seen))
        return together(by_shard)


def together(by_shard: Sequence[Sequence[Seen]]) -> list[Seen]:
    """The sum over the shards of what was done since the first look; a look counts from its last shard."""
    return [
        Seen(
            max(one.at for one in look),
            sum(one.done - first[0].done for one, first in zip(look, by_shard, strict=True)),
        )
        for look in zip(*by_shard, strict=True)
    ]


async def _follow(
    ledgers: Ledgers, logs: Logs, eyes: Any, lasts: Sequence[str], limit: float
) -> tuple[list[Seen], Usage]:
    """Look until the last statement of each busy shard is provable."""
    looks: list[list[Seen]] = [[] for _ in SHARDS]
    before, watch, until = await logs.sizes(), None, time.monotonic() + limit
    left = set(lasts)
    while True:
        ledgers.still_running()
        sizes, now = await logs.sizes(), time.monotonic()
        for seen, size in zip(looks, sizes, strict=True):
            seen.append(Seen(now, size))
        if watch is None and sizes != before:
            watch = ledgers.watch()
        found = await eyes.fetch(
            "select id::text as id, shard, index from ledger.seen where source = $1 and id = any($2::text[]::uuid[])",
            SOURCE,
            list(left),
        )
        left -= {row["id"] for row in found if sizes[row["shard"]] > row["index"]}
        if watch is not None and not left:
            return await logs.counted(looks), watch.usage()
        if time.monotonic() > until:
            raise RuntimeError(f"the logs stood at {sizes} when the time was over")
        await asyncio.sleep(_LOOK_SECONDS)


async def measure(made: Installation, count: int, limit: float) -> list[Result]:
    """`count` statements a busy shard and setting."""
    await asyncio.to_thread(made.command, "log", "create", "--shard", "1")
    settings, ledgers = made.settings(), Ledgers(made)
    eyes = await running.connect(made)
    db = await Database.connect(settings.dsn("ledger"), "ledger")
    logs, stated = Logs(db, eyes), dict.fromkeys(SHARDS, 0)
    rates: list[float] = []
    found: list[Result] = []
    try:
        for setting in SETTINGS:
            running.say(f"  {setting.said}: {count:,} statements each into Kafka …")
            lasts = []
            for shard in setting.busy:
                _, last = await fill(settings, made, count, short=True, shard=shard, after=stated[shard])
                stated[shard] += count
                lasts.append(last)
            load = machine.load()
            for group in setting.groups:
                ledgers.start(_SEAL, group)
                ledgers.start(_APPEND, group)
            seen, usage = await _follow(ledgers, logs, eyes, lasts, limit)
            await asyncio.to_thread(ledgers.stop)
            rates.append(rate(seen))
            found.append(result(setting, rates, count * len(setting.busy), usage, load))
    finally:
        await asyncio.to_thread(ledgers.stop)
        await db.close()
        await eyes.close()
    return found


def result(setting: Setting, rates: Sequence[float], count: int, usage: Usage, load: float) -> Result:
    """A row; from the second on, with how much it is of the first."""
    ratio = rates[-1] / rates[0]
    beside = f", {ratio:.2f} of one shard" if len(rates) > 1 else ""
    return Result(
        part="shards",
        measured=f"provable records a second, {setting.said}, {count:,}, append and seal running",
        figure=f"**{rates[-1]:,.0f}/s**{beside}",
        aim="",
        met=None,
        bound=usage.bound(),
        values={
            "a_second": round(rates[-1]),
            "of_one_shard": round(ratio, 3),
            "records": count,
            "load_before": load,
            "processor": {name: round(share, 3) for name, share in usage.shares.items()},
            "others": round(usage.others, 3),
        },
    )
