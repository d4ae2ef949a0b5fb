"""What nobody confirms ends when the register says, is recorded, and goes."""

from __future__ import annotations

from datetime import timedelta

from tests.integration.newsletter.conftest import World
from tests.integration.newsletter.test_confirmation import MARA
from tests.integration.newsletter.test_sign_up import CLICKS, NEWSLETTER


async def test_a_request_expires_after_its_period_and_not_before(world: World) -> None:
    await world.asked(MARA, NEWSLETTER, CLICKS)
    world.clock.ahead = timedelta(hours=47)
    await world.sweeper.sweep()
    assert not await world.stated("ConsentExpired")
    world.clock.ahead = timedelta(hours=48, seconds=5)
    await world.sweeper.sweep()
    await world.sweeper.sweep()
    expired = await world.stated("ConsentExpired")
    requested = {one.id: one.data.purpose for one in await world.stated("ConsentRequested")}
    assert {(one.data.stage, one.data.follows[0]) for one in expired} == {("asked", one) for one in requested}
    assert len(expired) == 2


async def test_an_expired_request_goes_when_its_retention_ends(world: World) -> None:
    link = await world.asked(MARA)
    await world.no_mail_waits()
    world.clock.ahead = timedelta(days=3)
    await world.sweeper.sweep()
    assert (await world.http.get(link)).status_code == 410
    world.clock.ahead = timedelta(days=14, seconds=5)
    await world.sweeper.sweep()
    [executed] = await world.stated("RetentionExecuted")
    [requested] = await world.stated("ConsentRequested")
    assert (executed.data.rule, executed.data.deleted) == ("unconfirmed-request", ["request", "mail"])
    assert executed.data.follows == [requested.id]
    assert await world.superuser.fetchval("select count(*) from newsletter.request") == 0
    assert await world.superuser.fetchval("select count(*) from newsletter.mail") == 0
    assert (await world.http.get(link)).status_code == 404


async def test_what_was_confirmed_stays(world: World) -> None:
    await world.subscribed(MARA)
    world.clock.ahead = timedelta(days=400)
    await world.sweeper.sweep()
    assert not await world.stated("ConsentExpired", "RetentionExecuted")
    assert await world.superuser.fetchval("select count(*) from newsletter.request") == 1


async def test_a_mail_that_could_not_be_sent_in_time_is_dropped(world: World) -> None:
    await world.mailbox.stop()
    await world.sign_up(MARA)
    world.clock.ahead = timedelta(hours=49)
    await world.sweeper.sweep()
    await world.no_mail_waits()
    assert await world.superuser.fetchval("select state from newsletter.mail") == "dropped"
    await world.mailbox.start()
    assert len(await world.stated("ConsentExpired")) == 1
    assert not await world.stated("MessageSent")


async def test_a_strangers_sign_up_that_expires_does_not_touch_a_consent(world: World) -> None:
    await world.subscribed(MARA)
    [given] = await world.stated("ConsentGiven")
    await world.asked(MARA, count=3)
    world.clock.ahead = timedelta(hours=49)
    await world.sweeper.sweep()
    await world.record()
    assert len(await world.stated("ConsentExpired")) == 1
    assert world.standings[given.subject].permits("newsletter", "email")
