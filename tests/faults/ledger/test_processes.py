"""The ledger's real processes, killed under load and stopped in the middle of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.ledger.world import World, given, leaf_values, new_subject

COMMAND = Path(sys.executable).with_name("consent-ledger")
PATIENCE_SECONDS = 100
# The only one that the ledger's processes take, in this database of the test's own.
THE_LOCK = "locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"

pytestmark = pytest.mark.timeout(300)


@contextmanager
def process(world: World, role: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one role of the ledger as an installation runs it, and end it whatever happens."""
    settings = world.settings
    environment = os.environ | {
        f"CONSENT_LEDGER_{name.upper()}": str(getattr(settings, name))
        for name in ("database", "kafka", "topic_prefix", "log_host", "secrets_dir", "signer_dir")
    }
    with (settings.secrets_dir.parent / f"{role}.log").open("ab") as log:
        child = subprocess.Popen([COMMAND, "serve", role], env=environment, stderr=log)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.01)


class Load:
    """Statements that keep coming while processes die."""

    def __init__(self, world: World, waves: int, size: int) -> None:
        self.world = world
        self.waves = waves
        self.size = size
        self.said: list[bytes] = []

    async def send(self) -> None:
        await self._send(self.waves)

    async def send_more(self, waves: int) -> None:
        self.waves += waves
        await self._send(waves)

    async def _send(self, waves: int) -> None:
        for _ in range(waves):
            said = [given(new_subject()) for _ in range(self.size)]
            self.said += said
            await self.world.state(*said)
            await asyncio.sleep(0)

    @property
    def messages(self) -> int:
        return self.waves * self.size

    async def judge(self) -> None:
        """All of it is recorded once, in order, sealed, and published without a gap."""
        judged = await self.world.judge()
        assert judged.statements == self.said
        assert judged.sealed == judged.size
        values = {value.index: value for value in leaf_values(await self.world.recorded())}
        assert list(values) == list(range(judged.size))
        assert [value.statement for value in values.values() if value.statement] == self.said
        assert await self.world.rows("select * from rejected") == []
        assert await self.world.rows("select * from incident where closed_at is null") == []

    async def finish(self) -> None:
        """Wait until everything is appended, sealed and published."""
        await until(lambda: self._is_at("next_offset from head", self.messages))
        await until(self._is_published)

    async def _is_at(self, what: str, least: int) -> bool:
        return int(await self.world.value(f"select {what}")) >= least

    async def _is_published(self) -> bool:
        return bool(await self.world.value("select cursor.next = head.size from cursor join head using (shard)"))

    async def has_reached(self, part: float) -> None:
        await until(lambda: self._is_at("next_offset from head", int(self.messages * part)))

    async def is_sealed_to(self, part: float) -> None:
        await until(lambda: self._is_at("max(size) from checkpoint", int(self.messages * part)))


async def test_an_appender_killed_under_load_loses_nothing_and_doubles_nothing(world: World) -> None:
    load = Load(world, 40, 50)
    with process(world, "ledger-seal"):
        with process(world, "ledger-append") as first:
            sending = asyncio.create_task(load.send())
            await load.has_reached(0.2)
            first.send_signal(signal.SIGKILL)
            first.wait()
        with process(world, "ledger-append") as second:
            await load.has_reached(0.6)
            second.send_signal(signal.SIGKILL)
            second.wait()
        with process(world, "ledger-append"):
            await sending
            await load.finish()
    await load.judge()


async def test_a_signer_and_publisher_killed_under_load_lose_nothing_and_sign_one_history(world: World) -> None:
    load = Load(world, 40, 50)
    with process(world, "ledger-append"):
        sending = asyncio.create_task(load.send())
        for part in (0.2, 0.6):
            with process(world, "ledger-seal") as signer:
                await load.is_sealed_to(part)
                signer.send_signal(signal.SIGKILL)
                signer.wait()
        with process(world, "ledger-seal"):
            await sending
            await load.finish()
    await load.judge()


async def owner(world: World) -> tuple[int, int]:
    """The session of PostgreSQL that holds the shard's lock, and the epoch that its process has claimed."""
    [row] = await world.rows(f"select epoch, (select pid from pg_locks where granted and {THE_LOCK}) as pid from head")
    return row["pid"], row["epoch"]


async def test_a_stalled_appender_that_wakes_up_again_writes_nothing_more(world: World) -> None:
    load = Load(world, 40, 50)
    with process(world, "ledger-seal"), process(world, "ledger-append") as stalled:
        sending = asyncio.create_task(load.send())
        await load.has_reached(0.2)
        stalled.send_signal(signal.SIGSTOP)
        first = await owner(world)
        await sending
        # It may have appended all that was said before it was stopped; this can only be another.
        await load.send_more(10)
        # PostgreSQL ends the session that holds the lock, and whoever waits for it takes over.
        with process(world, "ledger-append"):
            await load.finish()
            second = await owner(world)
            assert second[0] != first[0]
            assert second[1] > first[1]
            stalled.send_signal(signal.SIGCONT)
            # It holds a batch that it has prepared or sent, and neither lock nor epoch. It ends, or waits its turn.
            await load.send_more(10)
            await load.finish()

            async def has_noticed() -> bool:
                waiting = await world.value(f"select count(*) from pg_locks where not granted and {THE_LOCK}")
                return stalled.poll() == 1 or waiting == 1

            await until(has_noticed)
            # Nobody has claimed the shard since, unless the second lost its lock, as anybody may on a busy machine.
            last = await owner(world)
            assert last == second or last[0] != second[0]
    await load.judge()


@pytest.mark.parametrize("role", ["ledger-append", "ledger-seal"])
async def test_a_process_of_the_ledger_ends_well_when_asked_to(world: World, role: str) -> None:
    with process(world, "ledger-seal" if role == "ledger-append" else "ledger-append"), process(world, role) as asked:
        load = Load(world, 1, 10)
        await load.send()
        await load.finish()
        asked.terminate()
        assert await asyncio.to_thread(asked.wait, PATIENCE_SECONDS) == 0
    await load.judge()
