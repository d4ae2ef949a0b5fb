"""Being woken: no call is missed between looking and waiting, and nobody waits for ever."""

from __future__ import annotations

import asyncio

from shared.backoff import Backoff
from shared.database import Signal


async def test_what_was_said_before_waiting_is_not_missed() -> None:
    signal = Signal()
    signal.notify()
    assert await signal.wait(10) is True
    assert await signal.wait(0.01) is False


async def test_several_waiters_each_look_and_then_wait_from_where_they_looked() -> None:
    signal = Signal()
    seen = signal.changed
    waiting = [asyncio.create_task(signal.wait(10, since=seen)) for _ in range(3)]
    await asyncio.sleep(0)
    signal.notify()
    assert await asyncio.gather(*waiting) == [True, True, True]
    assert await signal.wait(10, since=seen) is True
    assert await signal.wait(0.01, since=signal.changed) is False


async def test_a_waiter_that_is_cancelled_leaves_nothing_behind() -> None:
    signal = Signal()
    waiting = asyncio.create_task(signal.wait(10))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not signal._waiting
    signal.notify()
    assert await signal.wait(10) is True


async def test_pauses_grow_to_their_limit_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(first=0.001, longest=0.004)
    states = [backoff.failing]
    for _ in range(4):
        await backoff.pause()
        states.append(backoff.failing)
    assert backoff._next == 0.004
    backoff.reset()
    assert [*states, backoff.failing] == [False, True, True, True, True, False]
