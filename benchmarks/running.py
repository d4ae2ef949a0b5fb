"""An installation of its own for each part of the benchmark, and what can be asked of it while it runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import asyncpg

from benchmarks.processor import Watch
from infra.local.installation import Installation
from infra.local.state import LOCAL, State

DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")

Say = Callable[[str], None]


def say(text: str) -> None:
    """Progress, for who waits; results go to the standard output."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def installation(settings: Mapping[str, str] | None = None) -> Iterator[Installation]:
    """Kafka, PostgreSQL and an empty log; no service runs yet. Nothing of it is left behind."""
    with State(LOCAL / "benchmark", "make benchmark") as state:
        state.empty()
        with contextlib.ExitStack() as ending:
            made = Installation(state.folder, settings=settings)
            ending.callback(state.empty)
            ending.callback(made.stop)
            made.prepare()
            yield made


def watch(made: Installation) -> Watch:
    """Begin to count what each process uses of the processor."""
    pids = {name: process.pid for name, process in made.processes.items() if process.running}
    return Watch({**pids, "Kafka": made.kafka.pid}, made.postgres.pid)


class NotDurable(RuntimeError):
    """A figure without fsync would be none."""


async def connect(made: Installation, **session: str) -> asyncpg.Connection[Any]:
    """The superuser's eyes; what is measured never passes through here."""
    return await asyncpg.connect(made.postgres.dsn(database=made.database), server_settings=session)


async def version(made: Installation) -> str:
    """PostgreSQL's version, once it is sure that it keeps what it acknowledges."""
    connection = await connect(made)
    try:
        for setting in DURABLE:
            if await connection.fetchval(f"show {setting}") != "on":
                raise NotDurable(setting)
        return str(await connection.fetchval("show server_version")).split()[0]
    finally:
        await connection.close()


def still_running(made: Installation, names: Sequence[str]) -> None:
    """Raise if one of these processes has ended: then nothing that follows would be a figure."""
    for name in names:
        if not made.processes[name].running:
            raise RuntimeError(f"{name} ended with {made.processes[name].status}; its log is in {made.logs}")
