"""How long a person's withdrawal takes from accepted until marketing refuses every permit, idle and under load.

Each is one that matters: a permit was granted for this person just before, and is asked for again just after.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks import machine, running
from benchmarks.collector import Collector
from benchmarks.report import Result, milliseconds, percentile
from benchmarks.statements import CHANNEL, PURPOSE, Forms, Made, Population
from infra.local.installation import PROCESSES, Installation
from shared import register
from shared.client import ServiceClient
from shared.mail import message_id

AIM: Final = 0.250
"""Seconds, p99, without other load."""

_CALLER: Final = "demo"
_CALM_SECONDS: Final = 3.0
_LONGEST_WAIT: Final = 120.0
_ATTEMPTS: Final = 200
_PAUSE_SECONDS: Final = (0.02, 0.12)
_AT_ONCE: Final = 20


class NotPermitted(RuntimeError):
    """A person whose consent is recorded was refused for too long: nothing could be measured."""


class Marketing:
    """The two doors of marketing that matter here."""

    def __init__(self, made: Installation) -> None:
        self._client = ServiceClient(made.base_url, made.secrets.credential(_CALLER), "marketing")

    async def permit(self, subject: str, message: str, attempt: int) -> tuple[str, str]:
        """Decision and reason."""
        asked = {
            "subject": subject,
            "purpose": PURPOSE,
            "channel": CHANNEL,
            "message_id": message,
            "attempt": attempt,
        }
        answer = (await self._client.post("/marketing/permits", json=asked)).json()
        return answer["decision"], answer["reason"]

    async def granted(self, subject: str, message: str) -> int:
        """Ask until a permit is granted (a heartbeat may be a moment behind); the attempts it took."""
        reason = ""
        for attempt in range(1, _ATTEMPTS + 1):
            decision, reason = await self.permit(subject, message, attempt)
            if decision == "granted":
                return attempt
            await asyncio.sleep(0.05)
        raise NotPermitted(reason)

    async def stopped(self, statement: str) -> None:
        """Return when the withdrawal has taken effect."""
        until = time.monotonic() + _LONGEST_WAIT
        while (await self._client.get(f"/marketing/effects/{statement}", params={"wait": 2})).status != 200:
            if time.monotonic() > until:
                raise RuntimeError(f"a withdrawal had no effect within {_LONGEST_WAIT:.0f} s")

    async def close(self) -> None:
        """End the connections."""
        await self._client.close()


async def opted_in(eyes: Any, collector: Collector, population: Population, count: int) -> list[Made]:
    """The ConsentGiven of so many people, each after a whole double opt-in, once marketing knows of them."""
    given = []
    for _ in range(count):
        story = population.opt_in()
        await collector.accept(*story)
        given.append(story[-1])
    until = time.monotonic() + _LONGEST_WAIT
    known = "select count(*) from marketing.word where statement = any($1::uuid[])"
    while await eyes.fetchval(known, [one.id for one in given]) < count:
        if time.monotonic() > until:
            raise RuntimeError(f"marketing did not know {count} consents within {_LONGEST_WAIT:.0f} s")
        await asyncio.sleep(0.1)
    return given


async def withdraw(eyes: Any, collector: Collector, population: Population, marketing: Marketing, given: Made) -> float:
    """Seconds from the acceptance of one withdrawal to the answer that it has taken effect."""
    message = message_id(given.id, "example.org")
    attempt = await marketing.granted(given.subject, message)
    withdrawn = population.about("ConsentWithdrawn", given.subject, (given.id.encode(), given.id.encode()))
    await collector.accept(withdrawn)
    await marketing.stopped(withdrawn.id)
    stopped = time.time()
    decision, _ = await marketing.permit(given.subject, message, attempt + 1)
    if decision != "refused":
        raise RuntimeError("a permit was granted after a withdrawal had taken effect")
    accepted = await eyes.fetchval(
        "select extract(epoch from accepted_at)::float8 from newsletter.outbox where id = $1::text::uuid", withdrawn.id
    )
    return stopped - float(accepted)


async def measure(made: Installation, count: int, load_rate: int) -> list[Result]:
    """Idle first, then beside a collector that states at `load_rate`."""
    forms = Forms(register.load(), made.secrets, datetime.now(UTC), short=False)
    population, others = Population(forms), Population(forms, seed=2)
    pause = random.Random(3)
    marketing, eyes = Marketing(made), await running.connect(made)
    found: list[Result] = []
    try:
        async with Collector(made) as collector:
            running.say(f"  {2 * count} people opt in …")
            people = await opted_in(eyes, collector, population, 2 * count)
            for beside in (0, load_rate):
                running.say(f"  {count} withdrawals beside {beside} statements a second …")
                loading = asyncio.create_task(collector.state(beside, _LONGEST_WAIT * 5, others.statement))
                await asyncio.sleep(_CALM_SECONDS)
                load, watch = machine.load(), running.watch(made)
                waits = []
                for given in [people.pop() for _ in range(count)]:
                    waits.append(await withdraw(eyes, collector, population, marketing, given))
                    await asyncio.sleep(pause.uniform(*_PAUSE_SECONDS))
                usage = watch.usage()
                if loading.done() and beside:
                    loading.result()
                loading.cancel()
                with suppress(asyncio.CancelledError):
                    await loading
                running.still_running(made, PROCESSES)
                p50, p99 = percentile(waits, 0.50), percentile(waits, 0.99)
                found.append(
                    Result(
                        part="withdrawal",
                        measured=f"withdrawal accepted → permit refused, {count} of them, "
                        + (f"beside {beside} statements a second" if beside else "nothing else going on"),
                        figure=f"p50 {milliseconds(p50)}, **p99 {milliseconds(p99)}**",
                        aim=f"p99 {milliseconds(AIM)}",
                        met=p99 <= AIM,
                        bound=usage.bound(),
                        values={
                            "withdrawals": count,
                            "beside_per_second": beside,
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
        await marketing.close()
        await eyes.close()
    return found
