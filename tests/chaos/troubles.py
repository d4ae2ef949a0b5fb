"""What can happen to an installation in a bad hour, one entry each: how it begins and how it ends."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from infra.local.installation import PROCESSES
from tests.faults.breakable import Breakable

LONGEST_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Trouble:
    """`begin` breaks something and `end` mends it; two troubles of one `part` never overlap."""

    name: str
    part: str
    begin: Callable[[], object]
    end: Callable[[], object]
    longest: float = LONGEST_SECONDS


def all_of(installation: Breakable, chance: random.Random) -> list[Trouble]:
    """Every trouble this installation can be in."""
    troubles: list[Trouble] = []
    for name in PROCESSES:
        troubles += _of_a_process(installation, name)
    for name in installation.ways.all:
        troubles += _of_a_way(installation, name, chance)
    return [*troubles, *_of_the_parts(installation)]


def _of_a_process(installation: Breakable, name: str) -> list[Trouble]:
    def send(number: int) -> Callable[[], None]:
        return lambda: installation.processes[name].send(number)

    def start() -> None:
        installation.start_process(name)

    return [
        Trouble(f"{name} killed", name, installation.processes[name].kill, start, 5.0),
        Trouble(f"{name} asked to stop", name, installation.processes[name].stop, start, 5.0),
        Trouble(f"{name} stalled", name, send(signal.SIGSTOP), send(signal.SIGCONT)),
    ]


def _of_a_way(installation: Breakable, name: str, chance: random.Random) -> list[Trouble]:
    way = installation.ways[name]
    process = name.partition(".")[0]
    troubles = [
        Trouble(f"{name} cut", process, way.cut, way.heal),
        Trouble(f"{name} silent", process, way.hang, way.heal),
        Trouble(f"{name} without answers", process, way.lose_answers, way.heal),
        Trouble(f"{name} reset", process, way.reset, way.heal, 1.0),
        Trouble(f"{name} slow", process, lambda: way.slow(chance.uniform(0.02, 0.4)), way.heal),
        Trouble(f"{name} ends in mid-word", process, lambda: way.end_after(chance.randrange(20_000)), way.heal, 8.0),
    ]
    if name.endswith(".mail"):
        troubles.append(Trouble(f"{name} hangs up", process, way.hang_up, way.heal))
    return troubles


def _of_the_parts(installation: Breakable) -> list[Trouble]:
    kafka, postgres = installation.kafka, installation.postgres

    def jump(process: str, by: timedelta) -> Callable[[], None]:
        return lambda: setattr(installation.clocks[process], "ahead", by)

    return [
        Trouble("Kafka killed", "parts", kafka.kill, kafka.start),
        Trouble("Kafka restarted", "parts", kafka.stop, kafka.start, 1.0),
        Trouble("PostgreSQL killed", "parts", postgres.kill, postgres.start),
        Trouble("PostgreSQL restarted", "parts", postgres.stop, postgres.start, 1.0),
        *(
            Trouble(
                f"{process}'s clock an hour behind",
                "parts",
                jump(process, timedelta(hours=-1)),
                jump(process, timedelta()),
            )
            for process in ("ledger-append", "ledger-seal")
        ),
    ]
