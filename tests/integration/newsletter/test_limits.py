"""Limits: how many mails an address gets, how much one network may, and what nobody is ever refused."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.newsletter import store
from shared.limits import Limit, _While
from tests.integration.newsletter.conftest import Form, World, links
from tests.integration.newsletter.test_sign_up import CLICKS, NEWSLETTER

if TYPE_CHECKING:
    import httpx

MARA = "mara@example.net"


def limit(world: World, which: str, network: int, everybody: int | None = None) -> None:
    """From here on, so often within ten minutes."""
    numbers = Limit(seconds=600, network=network, everybody=everybody)
    world.newsletter.limits._whiles[which] = _While(numbers, world.clock, os.urandom)


def told(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    """All that an answer tells, but for the clock and what it is signed for: its own statements."""
    length = len(answer.headers["consent-acceptance"])
    headers = {name: text for name, text in answer.headers.items() if name not in {"date", "consent-acceptance"}}
    return answer.status_code, answer.content, headers | {"consent-acceptance": f"{length} characters"}


async def mails_that_left(world: World) -> int:
    await world.no_mail_waits()
    return len(world.mailbox.to(MARA))


async def test_five_sign_ups_in_a_row_are_five_requests_and_one_mail(world: World) -> None:
    answers = [told(await world.sign_up(MARA)) for _ in range(5)]
    assert answers[0][0] == 200
    assert answers == answers[:1] * 5
    assert await mails_that_left(world) == 1
    requested = await world.stated("ConsentRequested")
    assert len({one.data.act for one in requested}) == 5
    [sent] = await world.stated("MessageSent")
    assert sent.data.follows == [requested[0].id]
    assert b'newsletter_acts_total{act="capped"} 4.0' in world.newsletter.metrics.render()
    # The one link is bound to the one request that it was made for.
    [link] = links(await world.mail(MARA), "/newsletter/confirm/")
    assert (await world.http.post(link)).status_code == 200
    [given] = await world.stated("ConsentGiven")
    assert given.data.follows == [requested[0].id, sent.id]


async def test_twenty_sign_ups_at_once_send_one_mail(world: World) -> None:
    forms = [await world.form() for _ in range(20)]
    answers = await asyncio.gather(*(world.send(form, MARA, NEWSLETTER) for form in forms))
    assert len({told(answer)[:2] for answer in answers}) == 1
    assert await mails_that_left(world) == 1
    assert len(await world.stated("ConsentRequested")) == 20


async def test_who_ticks_other_boxes_gets_a_mail_that_asks_for_those(world: World) -> None:
    first = await world.asked(MARA, NEWSLETTER)
    second = await world.asked(MARA, NEWSLETTER, CLICKS, count=2)
    await world.sign_up(MARA, NEWSLETTER, CLICKS)
    assert await mails_that_left(world) == 2
    agreed = [(await world.http.get(link)).text.count("<li>") for link in (first, second)]
    assert agreed[1] == agreed[0] + 1
    assert (await world.http.post(second)).status_code == 200
    assert {one.data.purpose for one in await world.stated("ConsentGiven")} == {"newsletter", "newsletter-clicks"}


async def test_who_looked_in_vain_gets_another_mail_and_three_a_day_at_most(world: World) -> None:
    for quarters in range(8):
        world.clock.ahead = timedelta(minutes=16 * quarters)
        await world.sign_up(MARA)
    assert await mails_that_left(world) == 3
    world.clock.ahead = timedelta(hours=25)
    await world.sign_up(MARA)
    assert await mails_that_left(world) == 4
    assert len(await world.stated("ConsentRequested")) == 9


async def test_a_mail_that_was_confirmed_counts_no_more_and_one_taken_back_still_does(world: World) -> None:
    for count in range(1, 5):
        link = await world.asked(MARA, count=2 * count - 1)
        assert (await world.http.post(link)).status_code == 200
        await world.record()
        await world.mail(MARA, 2 * count)
    world.down.add("marketing")  # nobody needs to wait here until a withdrawal has taken effect
    for _ in range(4):
        await world.sign_up(MARA)
        await world.no_mail_waits()
        newest = world.mailbox.to(MARA)[-1]
        way_out = str(newest["List-Unsubscribe"]).strip("<>")
        await world.http.post(way_out, data={"List-Unsubscribe": "One-Click"})
    assert await mails_that_left(world) == 8 + 3


async def test_a_mail_that_never_left_counts_for_nothing(world: World) -> None:
    await world.mailbox.stop()
    await world.sign_up(MARA)
    subject = await world.superuser.fetchval("select subject from newsletter.request")
    await world.superuser.execute("update newsletter.mail set cancelled = true")
    await world.superuser.execute("notify newsletter_mail")
    await world.no_mail_waits()
    assert await world.superuser.fetchval("select state from newsletter.mail") == "dropped"
    await world.mailbox.start()
    await world.asked(MARA)
    assert {one.subject for one in await world.stated("ConsentRequested")} == {subject}


async def test_a_sign_up_without_a_mail_expires_and_goes_like_any_other(world: World) -> None:
    for _ in range(3):
        await world.sign_up(MARA)
    await world.no_mail_waits()
    world.clock.ahead = timedelta(hours=49)
    await world.sweeper.sweep()
    assert len(await world.stated("ConsentExpired")) == 3
    world.clock.ahead = timedelta(days=15)
    await world.sweeper.sweep()
    assert len(await world.stated("RetentionExecuted")) == 3
    assert await world.superuser.fetchval("select count(*) from newsletter.request") == 0


async def test_a_withdrawal_takes_back_every_sign_up_that_is_open(world: World) -> None:
    for _ in range(3):
        await world.sign_up(MARA)
    way_out = str((await world.mail(MARA))["List-Unsubscribe"]).strip("<>")
    assert (await world.http.post(way_out, data={"List-Unsubscribe": "One-Click"})).status_code == 200
    states = await world.superuser.fetch("select distinct state from newsletter.request")
    assert [row["state"] for row in states] == ["voided"]


async def test_the_sweeper_does_not_ask_again_and_again_for_what_waits_for_a_mail(world: World) -> None:
    await world.mailbox.stop()
    await world.sign_up(MARA)
    await world.stop_mails()
    world.clock.ahead = timedelta(days=15)
    await world.sweeper.sweep()
    assert await world.superuser.fetchval("select state from newsletter.request") == "expired"
    assert await store.next_deadline(world.db) is None
    await world.mailbox.start()
    await world.restart_mails()
    await world.no_mail_waits()
    deadline = await store.next_deadline(world.db)
    assert deadline is not None
    assert deadline < world.clock()
    await world.sweeper.sweep()
    assert await world.superuser.fetchval("select count(*) from newsletter.request") == 0


@pytest.mark.parametrize("lang", ["de", "en"])
async def test_one_sign_up_too_many_is_told_to_wait_and_loses_nothing(world: World, lang: str) -> None:
    limit(world, "sign-ups", 2)
    for number in range(2):
        assert (await world.sign_up(f"p{number}@example.net")).status_code == 200
    form = await world.form(lang)
    answer = await world.send(form, MARA, NEWSLETTER, lang=lang)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 600
    assert {"de": "zu viele Anmeldungen", "en": "Too many sign-ups"}[lang] in answer.text
    again = Form(answer.text)
    assert again.text["email"] == MARA
    assert again.boxes == {NEWSLETTER: True, CLICKS: False}
    assert again.hidden == form.hidden
    assert len(await world.stated("ConsentRequested")) == 2
    # What is wrong with a form is still said, and costs nobody anything.
    assert (await world.send(form, "no address", NEWSLETTER, lang=lang)).status_code == 422
    world.clock.ahead = timedelta(minutes=10)
    assert (await world.send(again, MARA, NEWSLETTER, lang=lang)).status_code == 200
    assert len(await world.stated("ConsentRequested")) == 3


async def test_everybody_together_has_a_limit_too(world: World) -> None:
    limit(world, "sign-ups", 100, everybody=2)
    answers = [(await world.sign_up(f"p{number}@example.net")).status_code for number in range(3)]
    assert answers == [200, 200, 429]


async def test_guessed_links_are_slowed_and_a_correct_one_always_works(world: World) -> None:
    limit(world, "unknown-links", 5)
    link = await world.asked(MARA)
    way_out = str((await world.mail(MARA))["List-Unsubscribe"]).strip("<>")
    guessed = [link[:-4] + f"{number:04d}" for number in range(8)]
    seen = [(await world.http.get(one)).status_code for one in guessed[:4]]
    seen += [(await world.http.post(one)).status_code for one in guessed[4:]]
    assert seen == [404] * 5 + [429] * 3
    refused = await world.http.get(guessed[0], headers={"Accept-Language": "en"})
    assert int(refused.headers["retry-after"]) > 0
    assert "Too many links that do not exist" in refused.text
    assert (await world.http.get(link)).status_code == 200
    assert (await world.http.post(link)).status_code == 200
    # Nobody is ever kept from leaving: neither by this limit nor by one of the way out's own.
    for number in range(20):
        assert (await world.http.post(way_out[:-4] + f"{number:04d}")).status_code == 404
    assert (await world.http.post(way_out, data={"List-Unsubscribe": "One-Click"})).status_code == 200
    shown = world.newsletter.metrics.render()
    assert b'newsletter_unknown_links_total{link="way-out"} 20.0' in shown
    assert b'newsletter_limited_total{limit="unknown-links"} 4.0' in shown


async def test_a_forged_header_makes_nobody_another_network(world: World) -> None:
    limit(world, "sign-ups", 2)
    seen = []
    for number in range(3):
        form = await world.form()
        data = {**form.hidden, "email": f"p{number}@example.net", "purpose": NEWSLETTER}
        headers = {"X-Forwarded-For": f"198.51.{number}.7", "Forwarded": f"for=198.51.{number}.7"}
        seen.append((await world.http.post("/newsletter", data=data, headers=headers)).status_code)
    assert seen == [200, 200, 429]
