"""The way out: every link we ever mailed withdraws, is recorded before it is answered, and says what is true."""

from __future__ import annotations

import asyncio
import hashlib
import re

from shared.sealing import from_base64url
from shared.way_out import WayOut, mint
from tests.integration.newsletter.conftest import World
from tests.integration.newsletter.test_confirmation import MARA
from tests.integration.newsletter.test_sign_up import CLICKS, NEWSLETTER

ONE_CLICK = {"List-Unsubscribe": "One-Click"}


def way_out_of(message: object) -> str:
    return str(message["list-unsubscribe"]).strip("<>")  # type: ignore[index]


async def post_and_record(world: World, url: str, data: dict[str, str]) -> object:
    """Post a withdrawal while the ledger does its work."""
    posted = asyncio.create_task(world.http.post(url, data=data))
    before = len(await world.stated("ConsentWithdrawn"))

    async def stated() -> bool:
        return posted.done() or len(await world.stated("ConsentWithdrawn")) > before

    await world.until(stated)
    await world.record()
    return await posted


async def test_opening_the_way_out_changes_nothing(world: World) -> None:
    url = way_out_of(await world.subscribed(MARA))
    await world.no_mail_waits()
    before = len(await world.stated())
    for method in ("GET", "HEAD"):
        assert (await world.http.request(method, url)).status_code == 200
    assert len(await world.stated()) == before


async def test_one_click_withdraws_and_is_answered_stopped_once_marketing_refuses(world: World) -> None:
    url = way_out_of(await world.subscribed(MARA, NEWSLETTER, CLICKS))
    answer = await post_and_record(world, url, ONE_CLICK)
    assert answer.status_code == 200
    assert answer.headers["consent-effect"] == "stopped"
    withdrawn = await world.stated("ConsentWithdrawn")
    assert {one.data.purpose for one in withdrawn} == {"newsletter", "newsletter-clicks"}
    assert {one.data.method for one in withdrawn} == {"one-click"}
    assert {one.data.scope for one in withdrawn} == {"purpose"}
    sent = (await world.stated("MessageSent"))[-1]
    assert all(one.data.follows == [sent.id] for one in withdrawn)


async def test_after_a_withdrawal_the_old_confirmation_link_says_that_it_renews_nothing(world: World) -> None:
    link = await world.asked(MARA, NEWSLETTER)
    await world.http.post(link)
    await world.record()
    await world.http.post(way_out_of(await world.mail(MARA, 2)), data=ONE_CLICK)
    for answer in (await world.http.get(link), await world.http.post(link)):
        assert answer.status_code == 410
        assert "Dieser Link erneuert nichts" in answer.text
    assert len(await world.stated("ConsentGiven")) == 1
    await world.http.post(await world.asked(MARA, NEWSLETTER, count=3))
    assert "Sie haben schon bestätigt" in (await world.http.get(link)).text


async def test_until_marketing_has_applied_it_the_answer_is_accepted(world: World) -> None:
    url = way_out_of(await world.subscribed(MARA))
    answer = await world.http.post(url, data=ONE_CLICK)
    assert answer.status_code == 200
    assert answer.headers["consent-effect"] == "accepted"
    assert len(await world.stated("ConsentWithdrawn")) == 1
    await world.record()
    assert (await world.http.post(url, data=ONE_CLICK)).headers["consent-effect"] == "stopped"


async def test_a_withdrawal_needs_neither_subjects_nor_marketing_nor_the_ledger(world: World) -> None:
    url = way_out_of(await world.subscribed(MARA))
    world.down |= {"subjects", "marketing", "ledger"}
    answer = await world.http.post(url, data=ONE_CLICK)
    assert answer.status_code == 200
    assert answer.headers["consent-effect"] == "accepted"
    assert len(await world.stated("ConsentWithdrawn")) == 1


async def test_when_postgresql_is_down_no_withdrawal_is_claimed(world: World) -> None:
    world.down.add("marketing")  # no answer to wait for
    url = way_out_of(await world.subscribed(MARA))
    async with world.postgresql_down():
        answer = await world.http.post(url, data=ONE_CLICK)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
    assert (await world.http.post(url, data=ONE_CLICK)).status_code == 200


async def test_posting_again_answers_the_same_and_states_nothing(world: World) -> None:
    url = way_out_of(await world.subscribed(MARA))
    first = await post_and_record(world, url, ONE_CLICK)
    again = await world.http.post(url, data=ONE_CLICK)
    assert again.content == first.content
    assert len(await world.stated("ConsentWithdrawn")) == 1


async def test_a_burst_of_clicks_states_one_withdrawal(world: World) -> None:
    world.down.add("marketing")  # no answer to wait for
    url = way_out_of(await world.subscribed(MARA))
    answers = await asyncio.gather(*(world.http.post(url, data=ONE_CLICK) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(await world.stated("ConsentWithdrawn")) == 1


async def test_after_a_new_confirmation_an_old_link_is_a_new_act(world: World) -> None:
    world.down.add("marketing")  # no answer to wait for
    url = way_out_of(await world.subscribed(MARA))
    await world.http.post(url, data=ONE_CLICK)
    await world.record()
    await world.http.post(await world.asked(MARA, count=3))
    await world.record()
    assert (await world.http.post(url, data=ONE_CLICK)).status_code == 200
    given = (await world.stated("ConsentGiven"))[-1]
    withdrawn = await world.stated("ConsentWithdrawn")
    assert len(withdrawn) == 2
    assert withdrawn[-1].time > given.time


async def test_the_link_in_a_confirmation_mail_withdraws_what_was_asked_and_voids_the_request(world: World) -> None:
    world.down.add("marketing")  # no answer to wait for
    link = await world.asked(MARA, NEWSLETTER, CLICKS)
    answer = await world.http.post(way_out_of(await world.mail(MARA)), data=ONE_CLICK)
    assert answer.status_code == 200
    assert {one.data.purpose for one in await world.stated("ConsentWithdrawn")} == {"newsletter", "newsletter-clicks"}
    for method in ("GET", "POST"):
        late = await world.http.request(method, link)
        assert late.status_code == 410
        assert "zurückgezogen" in late.text
    assert not await world.stated("ConsentGiven")


async def test_the_link_in_a_confirmation_mail_withdraws_an_earlier_consent_too(world: World) -> None:
    await world.subscribed(MARA)
    await world.asked(MARA, count=3)
    answer = await post_and_record(world, way_out_of(await world.mail(MARA, 3)), ONE_CLICK)
    assert answer.headers["consent-effect"] == "stopped"
    [withdrawn] = await world.stated("ConsentWithdrawn")
    assert withdrawn.data.purpose == "newsletter"


async def test_a_link_of_any_other_sender_works_as_well(world: World) -> None:
    await world.subscribed(MARA)
    [given] = await world.stated("ConsentGiven")
    message = "0192f3a0-1111-7abc-8def-0123456789ab"
    token = mint(world.secrets.way_out_keys(), WayOut(given.subject, (("newsletter", "email"),), message))
    answer = await post_and_record(world, f"/newsletter/unsubscribe/{token}", ONE_CLICK)
    assert answer.headers["consent-effect"] == "stopped"
    [withdrawn] = await world.stated("ConsentWithdrawn")
    assert withdrawn.data.follows == [message]


async def test_everything_can_be_withdrawn_at_once(world: World) -> None:
    url = way_out_of(await world.subscribed(MARA))
    pending = await world.asked(MARA, CLICKS, NEWSLETTER, count=3)
    page = await world.http.get(url)
    assert 'name="scope"' in page.text
    answer = await post_and_record(world, url, {"scope": "everything"})
    assert answer.headers["consent-effect"] == "stopped"
    [withdrawn] = await world.stated("ConsentWithdrawn")
    assert (withdrawn.data.scope, withdrawn.data.purpose, withdrawn.data.method) == ("everything", None, "link")
    assert (await world.http.post(pending)).status_code == 410
    assert (await world.http.post(url, data=ONE_CLICK)).content == answer.content
    assert len(await world.stated("ConsentWithdrawn")) == 1


async def test_each_withdrawal_shows_a_receipt_that_its_statement_knows(world: World) -> None:
    world.down.add("marketing")  # no answer to wait for
    url = way_out_of(await world.subscribed(MARA, NEWSLETTER, CLICKS))
    answer = await world.http.post(url, data={"scope": "purpose"})
    found = dict(re.findall(r'/ledger/receipts/([0-9a-f-]{36})\?key=([A-Za-z0-9_-]{22})"', answer.text))
    withdrawn = {one.id: one.data.receipt_key_hash for one in await world.stated("ConsentWithdrawn")}
    assert found.keys() == withdrawn.keys()
    for statement, key in found.items():
        assert hashlib.sha256(from_base64url(key)).hexdigest() == withdrawn[statement]


async def test_a_link_that_is_not_ours_never_answers_200(world: World) -> None:
    token = way_out_of(await world.subscribed(MARA)).rsplit("/", 1)[1]
    for forged in ("x", "A" * 120, token[:-1] + ("A" if token[-1] != "A" else "Q"), token[:-8], token + "AAAA"):
        for method in ("GET", "POST"):
            answer = await world.http.request(method, f"/newsletter/unsubscribe/{forged}", data=ONE_CLICK)
            assert answer.status_code == 404
    assert not await world.stated("ConsentWithdrawn")


async def test_the_one_click_may_come_from_anywhere_and_as_multipart(world: World) -> None:
    world.down.add("marketing")  # no answer to wait for
    url = way_out_of(await world.subscribed(MARA))
    answer = await world.http.post(
        url, files={"List-Unsubscribe": (None, "One-Click")}, headers={"Origin": "https://mail.example"}
    )
    assert answer.status_code == 200
    assert len(await world.stated("ConsentWithdrawn")) == 1


async def test_the_page_of_another_site_cannot_press_our_button(world: World) -> None:
    url = way_out_of(await world.subscribed(MARA))
    answer = await world.http.post(url, data={"scope": "everything"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert not await world.stated("ConsentWithdrawn")


async def test_a_welcome_that_still_waits_is_not_sent_after_a_withdrawal(world: World) -> None:
    world.down.add("marketing")  # no answer to wait for
    await world.http.post(await world.asked(MARA))
    await world.http.post(way_out_of(await world.mail(MARA)), data=ONE_CLICK)
    await world.record()
    await world.no_mail_waits()
    assert len(world.mailbox.to(MARA)) == 1
    assert await world.superuser.fetchval("select state from newsletter.mail where kind = 'welcome'") == "dropped"


async def test_signing_up_again_needs_a_new_double_opt_in(world: World) -> None:
    url = way_out_of(await world.subscribed(MARA))
    await post_and_record(world, url, ONE_CLICK)
    [given] = await world.stated("ConsentGiven")
    link = await world.asked(MARA, count=3)
    await world.record()
    assert not world.standings[given.subject].permits("newsletter", "email")
    await world.http.post(link)
    await world.record()
    assert world.standings[given.subject].permits("newsletter", "email")
    assert (await world.mail(MARA, 4))["subject"] == "Ihre Anmeldung ist bestätigt, hier ist Ihre Quittung"
