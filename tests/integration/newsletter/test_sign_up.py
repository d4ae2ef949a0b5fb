"""Signing up: what the form asks, what is recorded, and that the answer says nothing about the address."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.newsletter.domain import MAX_TYPED
from shared import register
from shared.events import Statement
from shared.sealing import from_base64url
from shared.served_notice import verify
from tests.integration.newsletter.conftest import World

NEWSLETTER, CLICKS = "newsletter/email", "newsletter-clicks/email"
ACTIVITY = register.load().activity("newsletter")


async def opened(world: World, statement: Statement, compartment: str = "evidence") -> bytes:
    """What a compartment says, as evidence opens it: by its disclosed key alone (docs/formats.md §16)."""
    answer = await world.http.post(
        "/subjects/disclose",
        json={
            "subject": statement.subject,
            "scope": "evidence",
            "reason": "a test",
            "items": [{"statement": statement.id, "compartment": compartment}],
        },
        headers={"Authorization": f"Bearer {world.secrets.credential('compliance')}"},
    )
    assert answer.status_code == 200, answer.text
    key = from_base64url(answer.json()["keys"][0]["key"])
    if compartment == "evidence":
        sealed = statement.data.sealed["evidence"]
        ciphertext, key_hash = from_base64url(sealed.ciphertext), sealed.key_hash
    else:
        attachment = next(one for one in statement.data.attachments if one.compartment == compartment)
        stored = await world.http.get(
            f"/ledger/attachments/{attachment.hash}",
            headers={"Authorization": f"Bearer {world.secrets.credential('compliance')}"},
        )
        ciphertext, key_hash = stored.content, attachment.key_hash
        assert hashlib.sha256(ciphertext).hexdigest() == attachment.hash
        assert len(ciphertext) == attachment.size
    assert hashlib.sha256(b"consent-ledger/v1/key" + key).hexdigest() == key_hash
    aad = b"\x00".join(
        [b"consent-ledger/v1/seal", statement.subject.encode(), compartment.encode(), statement.id.encode()]
    )
    return AESGCM(key).decrypt(ciphertext[:12], ciphertext[12:], aad)


async def everything_stored(world: World) -> str:
    """All rows of the newsletter's schema as text, bytes as what they are."""
    found = []
    for table in ("notice", "request", "request_purpose", "mail", "withdrawal", "outbox"):
        for row in await world.superuser.fetch(f"select * from newsletter.{table}"):
            found += [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in row.values()]
    return "\n".join(found)


async def test_signing_up_is_answered_with_the_same_bytes_for_a_known_and_an_unknown_address(world: World) -> None:
    await world.subscribed("known@example.net")
    known = await world.sign_up("known@example.net")
    unknown = await world.sign_up("unknown@example.net")
    assert known.status_code == unknown.status_code == 200
    assert known.content == unknown.content
    # The acceptance is random, and of one length (ADR 0022).
    varies = {"date": "", "consent-acceptance": ""}
    assert dict(known.headers) | varies == dict(unknown.headers) | varies
    assert len(known.headers["consent-acceptance"]) == len(unknown.headers["consent-acceptance"])


async def test_the_form_asks_for_each_purpose_by_a_box_of_its_own_and_ticks_none(world: World) -> None:
    for lang in ("de", "en"):
        form = await world.form(lang)
        assert form.boxes == {NEWSLETTER: False, CLICKS: False}
        served = verify(world.secrets.notice_public_keys(), form.hidden["served"])
        notice = ACTIVITY.notice(lang)
        assert served is not None
        assert (served.notice, served.language, served.button) == (notice.hash, lang, notice.button)
        assert {f"{one.purpose}/{one.channel}": one.label for one in served.purposes} == notice.labels
        assert not any(one.default for one in served.purposes)


async def test_the_language_follows_the_reader_and_can_be_switched(world: World) -> None:
    english = await world.http.get("/newsletter", headers={"Accept-Language": "fr, en;q=0.8, de;q=0.5"})
    german = await world.http.get("/newsletter?lang=de", headers={"Accept-Language": "en"})
    assert '<html lang="en">' in english.text
    assert ACTIVITY.notice("en").title in english.text
    assert '<html lang="de">' in german.text
    assert 'href="?lang=en"' in german.text


async def test_the_page_shows_the_notice_word_for_word(world: World) -> None:
    page = re.sub(r"<[^>]+>", "", (await world.http.get("/newsletter?lang=de")).text)
    for line in ACTIVITY.notice("de").text().decode().splitlines():
        words = re.sub(r"^(# |## |- |\[____\] \S+: |\[ \] \S+: |\[>\] )", "", line)
        assert words in page, words


async def test_two_visits_have_two_nonces(world: World) -> None:
    first, second = await world.form(), await world.form()
    keys = world.secrets.notice_public_keys()
    one, other = verify(keys, first.hidden["served"]), verify(keys, second.hidden["served"])
    assert one is not None
    assert other is not None
    assert one.nonce != other.nonce


async def test_a_notice_is_published_once_before_it_is_first_served(world: World) -> None:
    for _ in range(2):
        for lang in ("de", "en"):
            await world.form(lang)
    published = await world.stated("NoticePublished")
    assert [one.data.notice.language for one in published] == ["de", "en"]
    assert {one.data.notice.hash for one in published} == {ACTIVITY.notice(lang).hash for lang in ("de", "en")}
    assert {one.subject for one in published} == {"0.system"}


async def test_each_ticked_box_is_a_request_and_each_empty_one_a_refusal_in_one_act(world: World) -> None:
    form = await world.form()
    await world.send(form, "mara@example.net", NEWSLETTER)
    requested, refused = await world.stated("ConsentRequested", "ConsentRefused")
    assert (requested.type, requested.data.purpose) == ("ConsentRequested", "newsletter")
    assert (refused.type, refused.data.purpose) == ("ConsentRefused", "newsletter-clicks")
    assert refused.data.stage == requested.data.stage == "asked"
    assert requested.data.act == refused.data.act
    assert requested.subject == refused.subject
    assert requested.data.served.token == form.hidden["served"]
    assert requested.data.served.verified
    assert requested.data.notice.hash == ACTIVITY.notice("de").hash
    assert requested.data.legal_basis == "eu-gdpr:A6-1-a-explicit-consent"
    assert requested.data.expression == "explicit"


async def test_both_boxes_ticked_are_two_requests_with_one_token(world: World) -> None:
    await world.sign_up("mara@example.net", NEWSLETTER, CLICKS)
    first, second = await world.stated("ConsentRequested")
    assert first.data.token_hash == second.data.token_hash
    assert {first.data.purpose, second.data.purpose} == {"newsletter", "newsletter-clicks"}
    assert not await world.stated("ConsentRefused")


async def test_the_request_ends_when_the_register_says(world: World) -> None:
    await world.sign_up("mara@example.net")
    [requested] = await world.stated("ConsentRequested")
    row = await world.superuser.fetchrow("select requested_at, expires_at, purge_at from newsletter.request")
    assert row["expires_at"] - row["requested_at"] == timedelta(hours=48)
    assert row["purge_at"] - row["requested_at"] == timedelta(days=14)
    assert requested.data.expires_at[:19] == row["expires_at"].isoformat()[:19]


async def test_the_evidence_says_who_typed_what_and_has_no_ip_address(world: World) -> None:
    await world.sign_up("Mara.Beispiel@Example.NET")
    [requested] = await world.stated("ConsentRequested")
    evidence = (await opened(world, requested)).decode()
    assert '"Mara.Beispiel@Example.NET"' in evidence
    assert '"mara.beispiel@example.net"' in evidence
    assert requested.data.token_hash in evidence
    assert '"Browser/1"' in evidence
    assert "127.0.0.1" not in evidence


async def test_no_table_of_the_newsletter_holds_the_address_or_the_token(world: World) -> None:
    link = await world.asked("Mara.Beispiel@example.net", NEWSLETTER, CLICKS)
    await world.http.post(link)
    await world.record()
    await world.mail("Mara.Beispiel@example.net", 2)
    stored = await everything_stored(world)
    assert "mara.beispiel" not in stored.lower()
    assert link.rsplit("/", 1)[1] not in stored


async def test_a_form_sent_twice_counts_once(world: World) -> None:
    form = await world.form()
    first = await world.send(form, "mara@example.net", NEWSLETTER)
    second = await world.send(form, "mara@example.net", NEWSLETTER)
    assert first.content == second.content
    await world.no_mail_waits()
    assert len(await world.stated("ConsentRequested")) == 1
    assert len(world.mailbox.to("mara@example.net")) == 1


async def test_a_mistyped_address_can_be_corrected_on_the_same_page(world: World) -> None:
    form = await world.form()
    await world.send(form, "mara@exmaple.net", NEWSLETTER)
    await world.send(form, "mara@example.net", NEWSLETTER)
    assert (await world.mail("mara@example.net"))["to"] == "mara@example.net"


async def test_what_is_wrong_stands_beside_the_field_and_nothing_typed_is_lost(world: World) -> None:
    form = await world.form()
    answer = await world.send(form, "mara@@example", CLICKS)
    assert answer.status_code == 422
    again = type(form)(answer.text)
    assert again.text["email"] == "mara@@example"
    assert again.boxes == {NEWSLETTER: False, CLICKS: True}
    assert again.hidden == form.hidden
    for anchor in ("email", "purpose-2"):
        assert f'<a href="#{anchor}">' in answer.text
        assert f'id="{anchor}-problem"' in answer.text
    assert answer.text.count('aria-invalid="true"') == 2
    corrected = await world.send(again, "mara@example.net", NEWSLETTER, CLICKS)
    assert corrected.status_code == 200
    assert len(await world.stated("ConsentRequested")) == 2


async def test_an_empty_form_is_told_what_is_missing(world: World) -> None:
    answer = await world.send(await world.form("en"), "", lang="en")
    assert answer.status_code == 422
    assert "Please enter your e-mail address." in answer.text
    assert "Please tick what you would like." in answer.text
    assert not await world.stated("ConsentRequested", "ConsentRefused")


async def test_what_was_typed_is_shown_as_text_and_never_as_markup(world: World) -> None:
    answer = await world.send(await world.form(), '"><script>alert(1)</script>', NEWSLETTER)
    assert answer.status_code == 422
    assert "<script>" not in answer.text


async def test_a_form_that_is_not_ours_is_refused(world: World) -> None:
    form = await world.form()
    for fields in (
        {"purpose": "everything/email"},
        {"email": ["a@example.net", "b@example.net"]},
        {"email": "a" * (MAX_TYPED + 1)},
    ):
        answer = await world.http.post("/newsletter", data={**form.hidden, "email": "a@example.net", **fields})
        assert answer.status_code == 400
    assert not await world.stated("ConsentRequested")


async def test_a_form_sent_from_another_site_is_refused(world: World) -> None:
    form = await world.form()
    data = {**form.hidden, "email": "mara@example.net", "purpose": NEWSLETTER}
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert (await world.http.post("/newsletter", data=data, headers=headers)).status_code == 403
    assert not await world.stated("ConsentRequested")


async def test_a_form_that_was_open_too_long_is_shown_again_with_what_was_typed(world: World) -> None:
    form = await world.form()
    world.clock.ahead = timedelta(hours=5)
    answer = await world.send(form, "mara@example.net", NEWSLETTER)
    assert answer.status_code == 422
    again = type(form)(answer.text)
    assert again.text["email"] == "mara@example.net"
    assert again.boxes[NEWSLETTER]
    assert again.hidden != form.hidden
    assert not await world.stated("ConsentRequested")
    assert (await world.send(again, "mara@example.net", NEWSLETTER)).status_code == 200


async def test_without_a_token_of_ours_the_record_says_so(world: World) -> None:
    form = await world.form()
    forged = form.hidden["served"][:-4] + "AAAA"
    answers = [
        await world.http.post("/newsletter", data={"email": "a@example.net", "purpose": NEWSLETTER}),
        await world.http.post("/newsletter", data={"served": forged, "email": "b@example.net", "purpose": NEWSLETTER}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    without, with_forged = await world.stated("ConsentRequested")
    assert without.data.served is None
    assert with_forged.data.served.token == forged
    assert not with_forged.data.served.verified


async def test_when_subjects_is_down_the_page_says_so_and_nothing_is_lost(world: World) -> None:
    form = await world.form()
    world.down.add("subjects")
    answer = await world.send(form, "mara@example.net", NEWSLETTER)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    again = type(form)(answer.text)
    assert again.text["email"] == "mara@example.net"
    assert again.boxes[NEWSLETTER]
    assert again.hidden == form.hidden
    world.down.clear()
    assert (await world.send(again, "mara@example.net", NEWSLETTER)).status_code == 200
    assert len(await world.stated("ConsentRequested")) == 1


async def test_when_postgresql_is_down_the_page_says_so_and_nothing_is_lost(world: World) -> None:
    form = await world.form()
    async with world.postgresql_down():
        assert (await world.http.get("/newsletter?lang=de")).status_code == 200
        answer = await world.send(form, "mara@example.net", NEWSLETTER)
        assert answer.status_code == 503
        assert type(form)(answer.text).text["email"] == "mara@example.net"
    assert (await world.send(form, "mara@example.net", NEWSLETTER)).status_code == 200


async def test_an_internationalised_address_is_written_to_as_typed(world: World) -> None:
    await world.sign_up("jörg@bücher.example")
    message = await world.mail("jörg@xn--bcher-kva.example")
    assert str(message["to"]) == "jörg@xn--bcher-kva.example"


async def test_keys_and_notices_are_there_for_whoever_checks(world: World) -> None:
    keys = (await world.http.get("/newsletter/notice-keys")).json()["keys"]
    assert [key["kid"] for key in keys] == list(world.secrets.notice_public_keys())
    notice = ACTIVITY.notice("en")
    answer = await world.http.get(f"/newsletter/notices/{notice.hash}")
    assert hashlib.sha256(answer.content).hexdigest() == notice.hash
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await world.http.get(f"/newsletter/notices/{'0' * 64}")).status_code == 404
