"""The confirmation: only the button confirms, once, and only what was asked of this address under this notice."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable
from datetime import timedelta

import dkim
import pytest
from cryptography.hazmat.primitives import serialization

from shared.sealing import from_base64url
from shared.way_out import open_token
from tests.integration.newsletter.conftest import Form, World, links
from tests.integration.newsletter.test_sign_up import ACTIVITY, CLICKS, NEWSLETTER, opened

MARA = "mara@example.net"


def dns_of(world: World) -> Callable[..., bytes]:
    _, pem = world.secrets.dkim()
    public = serialization.load_pem_private_key(pem, None).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def record(_name: bytes, **_options: int) -> bytes:
        return b"v=DKIM1; k=rsa; p=" + base64.b64encode(der)

    return record


async def test_the_confirmation_mail_says_only_what_is_needed_in_the_persons_language(world: World) -> None:
    await world.sign_up(MARA, NEWSLETTER, lang="en")
    message = await world.mail(MARA)
    text, html = [part.get_content() for part in message.iter_parts()]
    assert message.get_content_type() == "multipart/alternative"
    assert message["subject"] == "Please confirm that you want our newsletter"
    assert message["content-language"] == "en"
    assert ACTIVITY.notice("en").label("newsletter", "email") in text
    assert ACTIVITY.notice("en").label("newsletter-clicks", "email") not in text
    found = set(re.findall(r"https?://[^\s\"<>]+", text + html))
    assert {url.split("/")[4] for url in found} == {"confirm", "unsubscribe"}
    assert len(found) == 2


async def test_the_mail_is_signed_over_its_way_out(world: World) -> None:
    await world.sign_up(MARA)
    await world.mail(MARA)
    [(_, raw)] = world.mailbox.received
    assert dkim.verify(raw, dnsfunc=dns_of(world))
    message = await world.mail(MARA)
    assert message["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    names = re.search(r"h=([^;]+);", str(message["dkim-signature"]))
    assert names is not None
    assert {"list-unsubscribe", "list-unsubscribe-post"} <= set(re.sub(r"\s", "", names[1]).split(":"))


async def test_the_way_out_names_its_mail_and_what_was_asked(world: World) -> None:
    await world.sign_up(MARA, NEWSLETTER, CLICKS)
    message = await world.mail(MARA)
    way_out = open_token(world.secrets.way_out_keys(), message["list-unsubscribe"].strip("<>").rsplit("/", 1)[1])
    assert way_out.purposes == (("newsletter", "email"), ("newsletter-clicks", "email"))
    assert message["message-id"] == f"<{way_out.message_id}@example.org>"


async def test_the_exact_mail_is_archived_and_the_servers_answer_sealed(world: World) -> None:
    await world.sign_up(MARA)
    await world.mail(MARA)
    await world.no_mail_waits()
    [sent] = await world.stated("MessageSent")
    [requested] = await world.stated("ConsentRequested")
    assert (sent.data.kind, sent.data.outcome, sent.data.attempts) == ("confirmation", "accepted", 1)
    assert sent.data.message_id == f"<{sent.id}@example.org>"
    assert sent.data.follows == [requested.id]
    assert await opened(world, sent, "attachment/0") == world.mailbox.received[0][1]
    assert b"kept" in await opened(world, sent)
    row = await world.superuser.fetchrow("select * from newsletter.mail")
    assert (row["state"], row["brief"], row["letter"]) == ("accepted", None, None)


async def test_opening_the_link_changes_nothing_however_often(world: World) -> None:
    link = await world.asked(MARA)
    await world.no_mail_waits()
    before = len(await world.stated())
    for method in ("GET", "HEAD", "GET"):
        answer = await world.http.request(method, link, headers={"User-Agent": "Scanner"})
        assert answer.status_code == 200
    assert ACTIVITY.notice("de").label("newsletter", "email") in re.sub(r"</?span[^>]*>", "", answer.text)
    assert '<form class="form" method="post"' in answer.text
    assert len(await world.stated()) == before
    assert await world.superuser.fetchval("select state from newsletter.request") == "open"


async def test_the_button_confirms_each_purpose_asked_and_names_both_steps(world: World) -> None:
    answer = await world.http.post(await world.asked(MARA, NEWSLETTER, CLICKS))
    assert answer.status_code == 200
    requested = {one.data.purpose: one for one in await world.stated("ConsentRequested")}
    given = await world.stated("ConsentGiven")
    [sent] = await world.stated("MessageSent")
    assert {one.data.purpose for one in given} == set(requested)
    for one in given:
        assert one.data.stage == "proven"
        assert one.data.follows == [requested[one.data.purpose].id, sent.id]
        assert one.data.notice == requested[one.data.purpose].data.notice
        assert one.data.served == requested[one.data.purpose].data.served
        assert one.subject == requested[one.data.purpose].subject
        assert one.time > requested[one.data.purpose].time
    assert len({one.data.act for one in given}) == 1


async def test_what_is_given_says_when_the_page_with_the_button_was_fetched(world: World) -> None:
    link = await world.asked(MARA)
    await world.http.get(link, headers={"User-Agent": "Scanner"})
    page = Form((await world.http.get(link)).text)
    assert (await world.http.post(link, data=page.hidden)).status_code == 200
    [given] = await world.stated("ConsentGiven")
    said = json.loads(await opened(world, given))
    assert said["page_fetched_at"] == page.hidden["opened"].rpartition(".")[0] <= given.time


@pytest.mark.parametrize("body", ["", "opened=2026-11-23T12:00:00.000Z.AAAA", "=&%", "opened=a&opened=b"])
async def test_whoever_presses_without_our_page_confirms_and_nothing_is_said_of_a_page(world: World, body: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await world.http.post(await world.asked(MARA), content=body, headers=headers)
    assert answer.status_code == 200
    [given] = await world.stated("ConsentGiven")
    assert "page_fetched_at" not in json.loads(await opened(world, given))


async def test_only_the_purposes_that_were_asked_are_given(world: World) -> None:
    await world.http.post(await world.asked(MARA, NEWSLETTER))
    assert [one.data.purpose for one in await world.stated("ConsentGiven")] == ["newsletter"]


async def test_a_double_click_confirms_once_and_says_the_same_twice(world: World) -> None:
    link = await world.asked(MARA)
    answers = await asyncio.gather(*(world.http.post(link) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(await world.stated("ConsentGiven")) == 1
    assert (await world.http.post(link)).content == answers[0].content


async def test_going_back_shows_that_it_is_done(world: World) -> None:
    link = await world.asked(MARA)
    await world.http.post(link)
    answer = await world.http.get(link)
    assert answer.status_code == 200
    assert "Sie haben schon bestätigt" in answer.text
    assert "<form" not in answer.text


async def test_two_sign_ups_in_two_tabs_are_each_confirmed_by_their_own_link(world: World) -> None:
    first = await world.asked(MARA, NEWSLETTER)
    second = await world.asked(MARA, NEWSLETTER, CLICKS, count=2)
    assert first != second
    assert (await world.http.post(second)).status_code == 200
    assert (await world.http.post(first)).status_code == 200
    assert len(await world.stated("ConsentGiven")) == 3


async def test_a_token_we_never_made_is_unknown(world: World) -> None:
    for token in ("A" * 43, "x", "A" * 500, "%00", "ä" * 43):
        for method in ("GET", "POST"):
            answer = await world.http.request(method, f"/newsletter/confirm/{token}")
            assert answer.status_code == 404
            assert "lang=" in answer.text
    assert not await world.stated("ConsentGiven")


async def test_a_token_is_random_and_stored_only_as_its_hash(world: World) -> None:
    token = (await world.asked(MARA)).rsplit("/", 1)[1]
    assert len(from_base64url(token)) * 8 >= 128
    stored = await world.superuser.fetchval("select token_hash from newsletter.request")
    [requested] = await world.stated("ConsentRequested")
    assert stored == hashlib.sha256(token.encode()).digest()
    assert requested.data.token_hash == stored.hex()


async def test_an_expired_link_confirms_nothing_and_says_until_when_it_was_valid(world: World) -> None:
    link = await world.asked(MARA)
    world.clock.ahead = timedelta(hours=48, seconds=5)
    for method in ("GET", "POST"):
        answer = await world.http.request(method, link)
        assert answer.status_code == 410
        assert "Dieser Link ist abgelaufen" in answer.text
        assert 'href="/newsletter?lang=de"' in answer.text
    assert not await world.stated("ConsentGiven")


async def test_a_confirmation_from_another_site_is_refused(world: World) -> None:
    link = await world.asked(MARA)
    assert (await world.http.post(link, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert not await world.stated("ConsentGiven")


async def test_when_subjects_is_down_the_button_stays(world: World) -> None:
    link = await world.asked(MARA)
    world.down.add("subjects")
    answer = await world.http.post(link)
    assert answer.status_code == 503
    assert "<button" in answer.text
    world.down.clear()
    assert (await world.http.post(link)).status_code == 200
    assert len(await world.stated("ConsentGiven")) == 1


async def test_when_postgresql_is_down_the_answer_says_to_try_again(world: World) -> None:
    link = await world.asked(MARA)
    async with world.postgresql_down():
        answer = await world.http.post(link, headers={"Accept": "text/html"})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
    assert (await world.http.post(link)).status_code == 200


async def test_the_welcome_waits_until_its_statements_are_sealed(world: World) -> None:
    await world.http.post(await world.asked(MARA, NEWSLETTER, CLICKS))
    assert await world.superuser.fetchval("select state from newsletter.mail where kind = 'welcome'") == "held"
    assert len(world.mailbox.to(MARA)) == 1
    await world.record()
    welcome = await world.mail(MARA, 2)
    receipts = links(welcome, "/ledger/receipts/")
    given = {one.id: one.data.receipt_key_hash for one in await world.stated("ConsentGiven")}
    assert len(receipts) == len(given) == 2
    for receipt in receipts:
        statement, key = receipt.rsplit("/", 1)[1].split("?key=")
        assert hashlib.sha256(from_base64url(key)).hexdigest() == given[statement]


async def test_the_welcome_follows_what_it_welcomes_to_and_has_a_way_out(world: World) -> None:
    welcome = await world.subscribed(MARA)
    await world.no_mail_waits()
    sent = (await world.stated("MessageSent"))[-1]
    [given] = await world.stated("ConsentGiven")
    assert (sent.data.kind, sent.data.follows) == ("welcome", [given.id])
    assert welcome["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    assert welcome["message-id"] == f"<{sent.id}@example.org>"


async def test_nobody_is_welcomed_to_a_consent_that_was_overtaken(world: World) -> None:
    link = await world.asked(MARA, NEWSLETTER, CLICKS)
    await world.http.post(link)
    await world.superuser.execute(
        """
        update newsletter.outbox set sealed_at = now(),
            result = case when convert_from(statement, 'UTF8')::jsonb #>> '{data,purpose}' = 'newsletter-clicks'
                          and convert_from(statement, 'UTF8')::jsonb ->> 'type' = 'ConsentGiven'
                     then 'overtaken' else 'recorded' end
        """
    )
    await world.db.execute("select pg_notify('newsletter_sealed', '')")
    welcome = await world.mail(MARA, 2)
    [receipt] = links(welcome, "/ledger/receipts/")
    given = {one.data.purpose: one.id for one in await world.stated("ConsentGiven")}
    assert given["newsletter"] in receipt


async def test_no_welcome_at_all_goes_out_when_everything_was_overtaken(world: World) -> None:
    await world.http.post(await world.asked(MARA))
    await world.superuser.execute("update newsletter.outbox set sealed_at = now(), result = 'overtaken'")
    await world.db.execute("select pg_notify('newsletter_sealed', '')")
    await world.no_mail_waits()
    assert await world.superuser.fetchval("select state from newsletter.mail where kind = 'welcome'") == "dropped"
    assert len(world.mailbox.to(MARA)) == 1
