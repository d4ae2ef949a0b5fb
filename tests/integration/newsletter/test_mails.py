"""The mail queue: nothing is lost while a server is down, nothing goes out twice unsaid, nothing unarchived."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from services.newsletter.worker import pause_after
from tests.integration.newsletter.conftest import World
from tests.integration.newsletter.test_confirmation import MARA
from tests.integration.newsletter.test_sign_up import opened


async def test_a_mail_server_that_is_down_delays_the_mail_and_not_the_person(world: World) -> None:
    await world.mailbox.stop()
    assert (await world.sign_up(MARA)).status_code == 200

    async def tried() -> bool:
        return bool(await world.superuser.fetchval("select attempts > 0 from newsletter.mail"))

    await world.until(tried)
    assert not await world.stated("MessageSent")
    await world.mailbox.start()
    await world.mail(MARA)
    await world.no_mail_waits()
    [sent] = await world.stated("MessageSent")
    assert sent.data.outcome == "accepted"
    assert sent.data.attempts > 1


async def test_a_mail_that_is_tried_again_is_the_same_mail(world: World) -> None:
    world.mailbox.answers = ["451 4.3.0 not now", "451 4.3.0 not now"]
    await world.sign_up(MARA)
    await world.mail(MARA)
    await world.no_mail_waits()
    [sent] = await world.stated("MessageSent")
    assert (sent.data.attempts, sent.data.delivery) == (3, "at-least-once")
    assert len(sent.data.attachments) == 1
    assert await opened(world, sent, "attachment/0") == world.mailbox.received[0][1]


async def test_a_refused_mail_is_recorded_as_refused_with_the_answer_sealed(world: World) -> None:
    world.mailbox.answers = [f"550 5.1.1 <{MARA}> unknown"]
    await world.sign_up(MARA)
    await world.no_mail_waits()
    [sent] = await world.stated("MessageSent")
    assert sent.data.outcome == "refused"
    assert MARA.encode() in await opened(world, sent)
    assert MARA not in str(sent)
    assert world.mailbox.attempts == 1


async def test_nothing_is_sent_before_it_is_archived(world: World) -> None:
    world.down.add("ledger")
    await world.sign_up(MARA)

    async def waited() -> bool:
        return bool(await world.superuser.fetchval("select next_attempt_at > created_at from newsletter.mail"))

    await world.until(waited)
    assert world.mailbox.attempts == 0
    world.down.clear()
    await world.mail(MARA)


async def test_a_worker_that_dies_on_the_wire_sends_the_same_bytes_again_and_says_so(world: World) -> None:
    world.mailbox.hold = asyncio.Event()
    await world.sign_up(MARA)
    await world.until(lambda: world.mailbox.attempts == 1)
    await world.restart_mails()
    world.mailbox.hold.set()
    await world.until(lambda: len(world.mailbox.to(MARA)) >= 2)
    await world.no_mail_waits()
    first, second = world.mailbox.received[:2]
    assert first == second
    [sent] = await world.stated("MessageSent")
    assert sent.data.attempts == 2


async def test_a_mail_confirmed_meanwhile_is_not_sent_again_and_its_record_says_unknown(world: World) -> None:
    world.mailbox.hold = asyncio.Event()
    await world.sign_up(MARA)
    await world.until(lambda: world.mailbox.attempts == 1)
    await world.stop_mails()
    await world.superuser.execute("update newsletter.request set state = 'confirmed', decided_at = now()")
    world.mailbox.hold.set()
    world.start_mails()
    await world.no_mail_waits()
    [sent] = await world.stated("MessageSent")
    assert (sent.data.outcome, sent.data.attempts) == ("unknown", 1)
    assert len(sent.data.attachments) == 1
    assert world.mailbox.attempts == 1


async def test_a_second_worker_waits_until_the_first_is_gone(world: World) -> None:
    second = asyncio.create_task(world.another_mails().run())
    for number in range(5):
        await world.sign_up(f"person{number}@example.net")
    await world.no_mail_waits()
    assert len(world.mailbox.received) == 5
    await world.stop_mails()
    await world.sign_up(MARA)
    await world.mail(MARA)
    second.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await second


def test_pauses_grow_and_stay_bounded() -> None:
    pauses = [pause_after(attempt) for attempt in range(1, 40)]
    assert pauses[:4] == [timedelta(seconds=seconds) for seconds in (1, 2, 4, 8)]
    assert pauses == sorted(pauses)
    assert max(pauses) == timedelta(minutes=5)
