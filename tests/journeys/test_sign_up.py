"""Signing up as people, mail scanners and impatient fingers do it."""

from __future__ import annotations

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from infra.local.browser import Browser
from infra.local.screen import until
from tests.journeys.people import CLICKS, NEWSLETTER, granted, types

if TYPE_CHECKING:
    from infra.local.browser import Page
    from tests.journeys.people import World


def told(page: Page) -> tuple[int, bytes, dict[str, str]]:
    """All that an answer tells, but for the clock and what it is signed for: its own statements."""
    length = len(page.headers["consent-acceptance"])
    headers = {name: value for name, value in page.headers.items() if name not in {"date", "consent-acceptance"}}
    return page.status, page.body, headers | {"consent-acceptance": f"{length} characters"}


def head(url: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, answer.read()


def expire(world: World, subject: str) -> None:
    """The time to confirm is over."""
    world.sql(
        "update newsletter.request set expires_at = clock_timestamp() - interval '1 second'"
        f" where subject = '{subject}' and state = 'open'"
    )


@pytest.mark.parametrize(("language", "word"), [("de", "bestätig"), ("en", "confirm")])
def test_a_double_opt_in_is_asked_confirmed_recorded_and_welcomed(world: World, language: str, word: str) -> None:
    person = world.person(language)
    confirmation, welcome = person.subscribe(clicks=True)
    assert confirmation.message["Content-Language"] == welcome.message["Content-Language"] == language
    assert word in confirmation.text.lower()
    assert {part.get_content_type() for part in confirmation.message.walk()} >= {"text/plain", "text/html"}
    subject = person.subject(confirmation)
    person.quiet(subject)  # the welcome is in the inbox before its record is in the ledger
    history = world.history(subject)
    assert types(history) == [
        "ConsentRequested", "ConsentRequested", "MessageSent", "ConsentGiven", "ConsentGiven", "MessageSent",
    ]  # fmt: skip
    assert {entry.matter for entry in history} == {
        f"ask:{NEWSLETTER}", f"ask:{CLICKS}", "data:newsletter", f"purpose:{NEWSLETTER}", f"purpose:{CLICKS}",
    }  # fmt: skip
    asked, mailed, given = history[0], history[2], next(one for one in history if one.matter == f"purpose:{NEWSLETTER}")
    assert set(given.data["follows"]) == {asked.id, mailed.id}
    assert given.data["stage"] == "proven"
    assert given.data["served"]["verified"] is True
    assert mailed.data["message_id"] == confirmation.message_id
    assert len(welcome.receipts) == 2


def test_boxes_are_decided_each_by_itself_and_an_empty_one_is_no_consent(world: World) -> None:
    person = world.person()
    assert not any(default for *_, default in person.open_form().form("email").boxes)
    confirmation, _ = person.subscribe(clicks=False)
    subject = person.subject(confirmation)
    left_empty = [entry for entry in world.history(subject) if entry.key == CLICKS]
    assert [(entry.type, entry.matter) for entry in left_empty] == [("ConsentRefused", f"ask:{CLICKS}")]
    assert world.permit(subject, CLICKS)["decision"] == "refused"
    assert world.permit(subject)["decision"] == "granted"


def test_a_form_with_mistakes_keeps_what_was_typed_and_states_nothing(world: World) -> None:
    person = world.person()
    page = person.open_form()
    form = page.form("email")
    before = world.sql("select count(*) from newsletter.outbox")
    for address, ticked in (("not an address", {NEWSLETTER}), (person.address, set()), (person.address, {CLICKS})):
        answer = person.browser.submit(page, form, form.filled(address, ticked))
        assert answer.status == 422
        assert address in answer.text
        assert {value for _, value, default in answer.form("email").boxes if default} == ticked
    assert world.sql("select count(*) from newsletter.outbox") == before
    assert person.count_mails() == 0


def test_the_answer_is_the_same_byte_for_byte_whoever_the_address_belongs_to(world: World) -> None:
    unknown, waiting, confirmed, gone = (world.person() for _ in range(4))
    waiting.sign_up()
    confirmed.subscribe()
    _, welcome = gone.subscribe()
    assert gone.one_click(welcome.way_out).status == 200
    answers = [told(one.send_form(one.open_form())) for one in (unknown, waiting, confirmed, gone)]
    assert answers[0][0] == 200
    assert all(answer == answers[0] for answer in answers)


def test_scanners_that_open_every_link_change_nothing(world: World) -> None:
    person = world.person()
    confirmation = person.sign_up()
    subject = person.subject(confirmation)
    person.quiet(subject)
    stated = world.stated(subject)
    links = [confirmation.confirm_link, confirmation.way_out]
    for link in [*links, *(f"{link}?confirm=true&List-Unsubscribe=One-Click" for link in links)]:
        for agent in ("LinkScanner/1.0", "Mozilla/5.0 (compatible; SafeLinks)"):
            answer = Browser("en", agent).get(link, **{"X-Forwarded-For": "203.0.113.66"})
            assert answer.status == 200
            assert "set-cookie" not in answer.headers
        assert head(link) == (200, b"")
    assert world.stated(subject) == stated
    assert world.sql(f"select state from newsletter.request where subject = '{subject}'") == "open"
    assert person.press_confirm(confirmation.confirm_link).status == 200
    granted(world, subject)
    until("the welcome mail", lambda: person.count_mails() > 1)
    _, welcome = person.mails()
    person.quiet(subject)
    stated = world.stated(subject)
    for link in (*links, welcome.way_out, *welcome.receipts):
        assert Browser("en", "LinkScanner/1.0").get(link).status == 200
        assert head(link) == (200, b"")
    assert world.stated(subject) == stated
    assert world.permit(subject)["decision"] == "granted"


def test_a_double_click_and_two_tabs_on_the_button_confirm_once(world: World) -> None:
    person = world.person()
    confirmation = person.sign_up()
    subject = person.subject(confirmation)
    tabs = [person.browser.get(confirmation.confirm_link) for _ in range(2)]
    clicks = [tab for tab in tabs for _ in range(2)]
    with ThreadPoolExecutor(len(clicks)) as fingers:
        answers = list(fingers.map(lambda tab: person.browser.submit(tab, tab.form(), tab.form().filled()), clicks))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    person.mail(2)
    person.quiet(subject)
    assert types(world.history(subject)).count("ConsentGiven") == 1
    assert person.count_mails() == 2
    # The link again, days later: it says what is confirmed and offers no button.
    later = person.browser.get(confirmation.confirm_link)
    assert later.status == 200
    with pytest.raises(LookupError):
        later.form()


def test_going_back_and_sending_the_form_again_counts_once(world: World) -> None:
    person = world.person()
    page = person.open_form()
    answers = [person.send_form(page) for _ in range(3)]
    assert len({told(answer)[:2] for answer in answers}) == 1
    confirmation = person.mail(1)
    subject = person.subject(confirmation)
    person.quiet(subject)
    assert types(world.history(subject)).count("ConsentRequested") == 1
    assert person.count_mails() == 1


def test_a_mistyped_address_is_corrected_by_going_back(world: World) -> None:
    person, mistyped = world.person(), world.person()
    page = person.open_form()
    form = page.form("email")
    assert person.browser.submit(page, form, form.filled(mistyped.address, {NEWSLETTER})).status == 200
    assert person.send_form(page).status == 200
    assert person.mail(1).confirm_link != mistyped.mail(1).confirm_link


def test_two_tabs_with_other_boxes_are_two_sign_ups_and_either_link_works(world: World) -> None:
    person = world.person()
    pages = [person.open_form(), person.open_form()]
    for page, clicks in zip(pages, (False, True), strict=True):
        assert person.send_form(page, clicks=clicks).status == 200
    first, second = person.mail(1), person.mail(2)
    subject = person.subject(first)
    assert person.subject(second) == subject
    assert person.press_confirm(second.confirm_link).status == 200
    granted(world, subject)
    assert person.press_confirm(first.confirm_link).status == 200
    person.quiet(subject)
    assert world.permit(subject)["decision"] == "granted"


def test_an_expired_link_says_so_confirms_nothing_and_its_end_is_recorded(world: World) -> None:
    person = world.person()
    confirmation = person.sign_up()
    subject = person.subject(confirmation)
    form_while_open = person.browser.get(confirmation.confirm_link)
    expire(world, subject)
    assert person.browser.get(confirmation.confirm_link).status == 410
    pressed = person.browser.submit(form_while_open, form_while_open.form(), form_while_open.form().filled())
    assert pressed.status == 410
    world.sweep()
    until("ConsentExpired", lambda: "ConsentExpired" in types(world.history(subject)))
    assert [one.matter for one in world.history(subject) if one.type == "ConsentExpired"] == [f"ask:{NEWSLETTER}"]
    again = person.browser.submit(form_while_open, form_while_open.form(), form_while_open.form().filled())
    assert again.body == pressed.body
    person.quiet(subject)
    assert "ConsentGiven" not in types(world.history(subject))
    assert world.permit(subject)["decision"] == "refused"
    # Whoever still wants it signs up anew.
    granted(world, person.subject(person.subscribe()[0]))


def test_forged_tokens_open_nothing(world: World) -> None:
    person = world.person()
    confirmation = person.sign_up()
    subject = person.subject(confirmation)
    person.quiet(subject)
    stated = world.stated(subject)
    for link in (confirmation.confirm_link, confirmation.way_out):
        start, token = link.rsplit("/", 1)
        places = {0, 1, len(token) // 2, len(token) - 1}
        forged = {token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :] for place in places}
        forged |= {token[:-1], token + "A", token[::-1], "A" * len(token), "..%2F" + token, token + "%00", token + "="}
        for each in forged:
            assert person.browser.get(f"{start}/{each}").status == 404, each
            assert person.browser.post(f"{start}/{each}", []).status == 404, each
            assert person.one_click(f"{start}/{each}").status == 404, each
    assert world.stated(subject) == stated
    assert person.press_confirm(confirmation.confirm_link).status == 200


def test_a_page_of_another_site_cannot_press_our_buttons(world: World) -> None:
    person = world.person()
    confirmation = person.sign_up()
    subject = person.subject(confirmation)
    person.quiet(subject)
    stated = world.stated(subject)
    for url, body in (
        (confirmation.confirm_link, b""),
        (confirmation.way_out, b"scope=everything"),
        (f"{world.base}/newsletter", b"email=a%40example.org&purpose=newsletter%2Femail"),
    ):
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            request = urllib.request.Request(
                url, body, {"Content-Type": "application/x-www-form-urlencoded", **headers}, method="POST"
            )
            assert Browser._send(request).status == 403
    assert world.stated(subject) == stated
