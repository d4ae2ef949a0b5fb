"""A collector that states at a steady rate: every statement is one committed row of the newsletter's outbox.

From there on all is the installation's own: the newsletter's relay, in the running web process, takes it along.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Self

import asyncpg

from benchmarks.statements import Made
from infra.local.installation import Installation
from shared import outbox

SESSIONS: Final = 8
SCHEMA: Final = "newsletter"


class Collector:
    """`async with Collector(installation) as collector: await collector.state(rate, seconds, make)`."""

    def __init__(self, made: Installation) -> None:
        self._dsn = made.settings().dsn(SCHEMA)
        self._free: asyncio.Queue[asyncpg.Connection[Any]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        for _ in range(SESSIONS):
            # A row is accepted only under a timeout of two seconds; here each statement is its own transaction.
            session = {"search_path": SCHEMA, "transaction_timeout": "2s"}
            self._free.put_nowait(await asyncpg.connect(self._dsn, server_settings=session))
        return self

    async def __aexit__(self, *_: object) -> None:
        while not self._free.empty():
            await self._free.get_nowait().close()

    async def accept(self, *statements: Made) -> None:
        """Commit these rows; when this returns they are accepted."""
        session = await self._free.get()
        try:
            await outbox.put(session, [one.raw for one in statements])
        finally:
            self._free.put_nowait(session)

    async def state(self, rate: float, seconds: float, make: Callable[[], Made]) -> list[str]:
        """State at this rate for so long, whether or not anything keeps up; the ids, in order."""
        began = time.monotonic()
        ids: list[str] = []
        async with asyncio.TaskGroup() as group:
            for number in range(round(rate * seconds)):
                wait = began + number / rate - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                one = make()
                ids.append(one.id)
                group.create_task(self.accept(one))
        return ids
