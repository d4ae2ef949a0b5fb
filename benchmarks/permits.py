"""Permits a second and how long one takes, asked over HTTP by kept connections; followers idle, and busy.

Each is for a message of its own and for a person whose consent is recorded, and each must be granted: a refusal is
stored the same, but decided sooner.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks import machine, running
from benchmarks.clients import Answer, Driven, drive, post
from benchmarks.collector import Collector
from benchmarks.processor import Usage
from benchmarks.report import Result, milliseconds, percentile
from benchmarks.statements import CHANNEL, PURPOSE, Forms, Population
from benchmarks.withdrawal import Marketing, opted_in
from infra.local.installation import PROCESSES, Installation
from shared import register
from shared.identifiers import uuid7
from shared.mail import message_id

AIM: Final = 5_000
AIM_P99: Final = 0.005
"""Seconds."""
TOGETHER: Final = 20

_CALLER: Final = "demo"
_PEOPLE: Final = 500
_WARM_SECONDS: Final = 1.0
_CALM_SECONDS: Final = 2.0
_LONG: Final = 600.0


class Asks:
    """Requests for permits, one a message; several in one request where the sender has many mails to send."""

    def __init__(self, made: Installation, subjects: Sequence[str]) -> None:
        self._subjects = subjects
        self._chance = random.Random(5)
        self._headers = {"Authorization": f"Bearer {made.secrets.credential(_CALLER)}", "Accept": "application/json"}

    def one(self) -> dict[str, object]:
        """A message that nobody asked for before."""
        return {
            "subject": self._chance.choice(self._subjects),
            "purpose": PURPOSE,
            "channel": CHANNEL,
            "message_id": message_id(uuid7(datetime.now(UTC), os.urandom), "example.org"),
            "attempt": 1,
        }

    def requests(self, together: int = 1) -> Iterator[bytes]:
        """As many as anybody takes."""
        for _ in itertools.count():
            if together == 1:
                path, body = "/marketing/permits", self.one()
            else:
                path, body = "/marketing/permits/several", {"asks": [self.one() for _ in range(together)]}
            yield post(path, json.dumps(body).encode(), "application/json", self._headers)


@dataclass(frozen=True, slots=True)
class Way:
    """How permits are asked for."""

    clients: int
    together: int
    beside: int
    """Statements a second that followers fold meanwhile."""

    def said(self) -> str:
        asked = "one a request" if self.together == 1 else f"{self.together} a request"
        beside = f"beside {self.beside} statements a second" if self.beside else "nothing else going on"
        return f"permits granted a second, {self.clients} clients, {asked}, {beside}"


def granted(together: int) -> Any:
    """Whether an answer grants as many as were asked for."""

    def fine(answer: Answer) -> bool:
        return answer.status == 200 and answer.body.count(b'"granted"') == together

    return fine


def result(way: Way, driven: Driven, usage: Usage, load: float) -> Result:
    """One row."""
    rate = driven.rate * way.together
    p50, p99 = percentile(driven.waits, 0.50), percentile(driven.waits, 0.99)
    each = {name: round(share / rate * 1e6) for name, share in usage.shares.items() if share / rate >= 1e-6}
    costs = ", ".join(f"{name} {cost} µs" for name, cost in sorted(each.items(), key=lambda one: -one[1]))
    return Result(
        part="permits",
        measured=way.said(),
        figure=f"**{rate:,.0f}/s**, an answer p50 {milliseconds(p50)}, **p99 {milliseconds(p99)}**",
        aim=f"{AIM:,}/s, p99 {milliseconds(AIM_P99)}",
        met=rate >= AIM and p99 <= AIM_P99,
        bound=f"{usage.bound()}; processor time a permit: {costs}",
        values={
            "clients": way.clients,
            "together": way.together,
            "beside_per_second": way.beside,
            "a_second": round(rate),
            "p50_seconds": round(p50, 4),
            "p99_seconds": round(p99, 4),
            "load_before": load,
            "microseconds_each": each,
            "others": round(usage.others, 3),
        },
    )


async def measure(made: Installation, clients: Sequence[int], seconds: float, beside: int) -> list[Result]:
    """Each number of clients, alone and with many at once; idle first, then beside a collector at `beside` a second."""
    forms = Forms(register.load(), made.secrets, datetime.now(UTC), short=False)
    population, others = Population(forms), Population(forms, seed=2)
    eyes, marketing = await running.connect(made), Marketing(made)
    found: list[Result] = []
    try:
        async with Collector(made) as collector:
            people = await opted_in(eyes, collector, population, _PEOPLE)
            await marketing.granted(people[-1].subject, message_id(people[-1].id, "example.org"))
            asks = Asks(made, [one.subject for one in people])
            for load_rate in (0, beside):
                loading = asyncio.create_task(collector.state(load_rate, _LONG, others.statement))
                await asyncio.sleep(_CALM_SECONDS)
                for number, together in (*((number, 1) for number in clients), (clients[0], TOGETHER)):
                    way = Way(number, together, load_rate)
                    running.say(f"  {way.said()} …")
                    fine = granted(together)
                    await drive(made.port, number, asks.requests(together), _WARM_SECONDS, fine)
                    load, watch = machine.load(), running.watch(made)
                    driven = await drive(made.port, number, asks.requests(together), seconds, fine)
                    found.append(result(way, driven, watch.usage(), load))
                if loading.done() and load_rate:
                    loading.result()
                loading.cancel()
                with suppress(asyncio.CancelledError):
                    await loading
        running.still_running(made, PROCESSES)
    finally:
        await marketing.close()
        await eyes.close()
    return found
