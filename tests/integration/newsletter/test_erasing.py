"""What an erasure takes at the newsletter: words end, waiting mails do not leave, links say so, rows go."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from services.newsletter import handlers, store
from services.newsletter.domain import ACTIVITY, SOURCE
from shared.holder import Holder, Task
from shared.software import software
from tests.integration.newsletter.conftest import World, links
from tests.integration.newsletter.test_confirmation import MARA
from tests.integration.newsletter.test_sign_up import CLICKS, NEWSLETTER

REQUEST = "01a20320-a209-7d4e-8f50-0000000000aa"
ORDER = "01a20320-a209-7d4e-8f50-000000000009"


async def subject_of(world: World) -> str:
    return str(await world.superuser.fetchval("select subject from newsletter.request limit 1"))


async def erase(world: World, subject: str) -> dict[str, Any]:
    step = handlers.erasing(world.newsletter.speaker, world.clock, os.urandom)
    holder = Holder(
        SOURCE, world.db, world.newsletter.speaker.register, ACTIVITY, software(), 1, step, world.clock, os.urandom
    )
    return dict(await holder.erase(Task(request=REQUEST, order=ORDER, subject=subject)))


async def left(world: World, subject: str) -> int:
    counted = [
        await world.superuser.fetchval(f"select count(*) from newsletter.{table} where subject = $1", subject)
        for table in ("request", "withdrawal", "unclaimed")
    ]
    return sum(counted)


async def test_what_was_agreed_to_is_withdrawn_and_everything_with_it_and_the_rows_go(world: World) -> None:
    welcome = await world.subscribed(MARA, NEWSLETTER, CLICKS)
    subject = await subject_of(world)
    answer = await erase(world, subject)
    assert answer["state"] == "erased"
    withdrawn = await world.stated("ConsentWithdrawn")
    assert {(one.data.scope, one.data.purpose, one.data.method) for one in withdrawn} == {
        ("purpose", "newsletter", "erasure"),
        ("purpose", "newsletter-clicks", "erasure"),
        ("everything", None, "erasure"),
    }
    assert {one.time for one in withdrawn} == {answer["ended"]}
    assert all(one.data.follows == [ORDER] for one in withdrawn)
    assert await left(world, subject) == 0
    assert await world.superuser.fetchval("select count(*) from newsletter.mail") == 0
    again = await erase(world, subject)
    assert (again["statement"], again["ended"], again["found"]) == (answer["statement"], answer["ended"], 0)
    assert len(await world.stated("ConsentWithdrawn")) == 3
    assert len(await world.stated("DataErased")) == 1
    # The way out of an old mail says so, and states nothing.
    [link] = links(welcome, "/newsletter/unsubscribe/")
    page = await world.http.post(link, data={"List-Unsubscribe": "One-Click"})
    assert page.status_code == 200
    assert "gelöscht" in page.text or "erased" in page.text
    assert len(await world.stated("ConsentWithdrawn")) == 3


async def test_a_sign_up_that_waits_is_voided_and_its_mail_ends_before_the_receipt(world: World) -> None:
    await world.stop_mails()
    await world.sign_up(MARA)
    subject = await subject_of(world)
    assert (await erase(world, subject))["state"] == "working"
    world.start_mails()
    await world.no_mail_waits()
    answer = await erase(world, subject)
    # Nobody agreed to anything, so there is nothing to withdraw, and nobody is put on a list.
    assert (answer["state"], answer["ended"]) == ("erased", None)
    assert not await world.stated("ConsentWithdrawn")
    assert not world.mailbox.to(MARA)


async def test_of_somebody_who_is_being_erased_nothing_is_taken_in(world: World) -> None:
    await world.subscribed(MARA)
    subject = await subject_of(world)
    await erase(world, subject)
    # Here subjects still knows the address; in a moment it is somebody new.
    assert (await world.sign_up(MARA)).status_code == 503
    assert await left(world, subject) == 0


async def test_what_nobody_confirmed_is_noted_to_go_from_everywhere_unless_they_signed_up_again(world: World) -> None:
    await world.asked(MARA)
    subject = await subject_of(world)
    await world.no_mail_waits()
    for days in (3, 15):
        world.clock.ahead = timedelta(days=days)
        await world.sweeper.sweep()
    assert await store.unclaimed(world.db, 10) == [subject]
    await world.asked(MARA, count=2)
    assert await store.unclaimed(world.db, 10) == []
    assert await left(world, subject) == 1


async def test_who_agreed_to_something_is_never_taken_for_unclaimed(world: World) -> None:
    await world.subscribed(MARA)
    await world.asked(MARA, NEWSLETTER, CLICKS, count=3)
    await world.no_mail_waits()
    for days in (3, 15):
        world.clock.ahead = timedelta(days=days)
        await world.sweeper.sweep()
    assert await store.unclaimed(world.db, 10) == []
