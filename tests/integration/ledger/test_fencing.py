"""One owner per shard: whoever raised the epoch last appends, everybody else writes nothing."""

from __future__ import annotations

import asyncio

import pytest

from services.ledger.append import Appender, Fenced
from tests.integration.ledger.world import World, given, new_subject


async def test_an_appender_that_was_overtaken_writes_nothing_more(world: World) -> None:
    first, second = await world.appender(), await world.appender()
    said = [given(new_subject()) for _ in range(3)]
    await world.state(said[0])
    await world.append(first)
    await second.claim()
    await world.state(said[1])
    with pytest.raises(Fenced):
        await world.append(first)
    assert await world.next_offset() == 1
    await world.append(second)
    await world.state(said[2])
    await world.append(second)
    assert (await world.judge()).statements == said


async def test_two_appenders_that_fetched_the_same_batch_append_it_once(world: World) -> None:
    said = [given(new_subject()) for _ in range(50)]
    await world.state(*said)
    first, second = await world.appender(), await world.appender()
    await first.claim()
    await first._load()
    await second.claim()
    await second._load()

    async def drive(appender: Appender) -> str:
        try:
            await appender.step()
            await appender.settled()
        except Fenced:
            return "fenced"
        return "appended"

    assert await asyncio.gather(drive(first), drive(second)) == ["fenced", "appended"]
    assert (await world.judge()).statements == said


async def test_a_second_appender_waits_until_the_first_ends(world: World) -> None:
    first, second = await world.appender(), await world.appender()
    running = asyncio.create_task(first.run())
    said = [given(new_subject()) for _ in range(2)]
    await world.state(said[0])
    await until(world, 1)
    waiting = asyncio.create_task(second.run())
    await world.state(said[1])
    await until(world, 2)
    assert await world.value("select epoch from head") == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    said.append(given(new_subject()))
    await world.state(said[2])
    await until(world, 3)
    assert await world.value("select epoch from head") == 2
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (await world.judge()).statements == said


async def test_an_appender_that_runs_ends_when_it_is_fenced(world: World) -> None:
    appender = await world.appender()
    running = asyncio.create_task(appender.run())
    await world.state(given(new_subject()))
    await until(world, 1)
    await (await world.appender()).claim()
    await world.state(given(new_subject()))
    with pytest.raises(ExceptionGroup) as ended:
        await running
    assert ended.group_contains(Fenced)
    assert await world.next_offset() == 1


async def until(world: World, offset: int) -> None:
    """Wait until the shard has consumed this far."""
    async with asyncio.timeout(20):
        while await world.next_offset() < offset:  # noqa: ASYNC110 - another connection's commit is what we wait for
            await asyncio.sleep(0.02)
