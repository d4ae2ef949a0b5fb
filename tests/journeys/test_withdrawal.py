"""Leaving: by every link we ever mailed, in the middle of an issue, again, and for good."""

from __future__ import annotations

import copy
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from os import urandom
from typing import TYPE_CHECKING

import pytest

from infra.local.browser import Browser
from infra.local.screen import until
from shared.identifiers import uuid7
from shared.outbox import put
from tests.journeys.people import CLICKS, NEWSLETTER, granted, stopped, types

if TYPE_CHECKING:
    from shared.database import Database
    from tests.journeys.people import Entry, Mail, Person, World


def withdrawals(world: World, subject: str) -> list[Entry]:
    return [entry for entry in world.history(subject) if entry.type == "ConsentWithdrawn"]


def all_mails(world: World, person: Person) -> list[Mail]:
    """One of every kind of mail we send: confirmation, welcome, issue."""
    confirmation, welcome = person.subscribe(clicks=True)
    world.issue_is_out(world.begin_issue())
    return [confirmation, welcome, person.mail(3)]


def recorded_as(world: World, subject: str, known: set[str], mail: Mail, keys: set[str]) -> set[str]:
    """The withdrawal by this mail's link is in the ledger: one word for each purpose, following this very mail."""
    new = [entry for entry in withdrawals(world, subject) if entry.id not in known]
    assert {entry.key for entry in new} == keys
    mailed = {entry.id for entry in world.history(subject) if entry.data.get("message_id") == mail.message_id}
    for entry in new:
        assert entry.matter == f"purpose:{entry.key}"
        assert set(entry.data["follows"]) <= mailed
        assert entry.data["by"] == "person"
    return known | {entry.id for entry in new}


def test_the_way_out_of_every_mail_we_send_works(world: World) -> None:
    person = world.person()
    mails = all_mails(world, person)
    subject = person.subject(mails[0])
    known: set[str] = set()
    for mail in mails:
        assert mail.message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        assert mail.way_out in mail.text
        assert mail.way_out.startswith(world.base)
    assert len({mail.way_out for mail in mails}) == len(mails)
    asked = {NEWSLETTER, CLICKS}
    for mail, keys in zip(mails, (asked, asked, {NEWSLETTER}), strict=True):
        granted(world, subject)
        answer = person.one_click(mail.way_out)
        assert stopped(answer), mail.message["Subject"]
        assert world.permit(subject)["decision"] == "refused"
        known = recorded_as(world, subject, known, mail, keys)
        before = person.count_mails()
        person.subscribe(clicks=True)
        assert person.count_mails() == before + 2


def test_after_every_200_to_a_withdrawal_there_is_a_row_even_if_nothing_was_left_to_withdraw(world: World) -> None:
    person = world.person()
    mails = all_mails(world, person)
    subject = person.subject(mails[0])
    asked = {NEWSLETTER, CLICKS}
    known: set[str] = set()
    for mail, keys in zip(reversed(mails), ({NEWSLETTER}, asked, asked), strict=True):
        assert person.press_unsubscribe(mail.way_out).status == 200
        known = recorded_as(world, subject, known, mail, keys)


def test_the_way_out_of_a_confirmation_mail_takes_the_open_sign_up_back(world: World) -> None:
    person = world.person()
    confirmation = person.sign_up()
    subject = person.subject(confirmation)
    page = person.browser.get(confirmation.confirm_link)
    assert stopped(person.one_click(confirmation.way_out))
    assert [entry.key for entry in withdrawals(world, subject)] == [NEWSLETTER]
    assert person.browser.get(confirmation.confirm_link).status == 410
    assert person.browser.submit(page, page.form(), page.form().filled()).status == 410
    person.quiet(subject)
    assert "ConsentGiven" not in types(world.history(subject))
    assert person.count_mails() == 1


def test_posting_the_way_out_again_answers_the_same_and_states_nothing(world: World) -> None:
    person = world.person()
    confirmation, welcome = person.subscribe()
    subject = person.subject(confirmation)
    first = person.one_click(welcome.way_out)
    assert stopped(first)
    stated = world.stated(subject)
    with ThreadPoolExecutor(3) as providers:
        again = list(providers.map(lambda _: person.one_click(welcome.way_out), range(3)))
    assert [(answer.status, answer.body) for answer in again] == [(200, first.body)] * 3
    assert world.stated(subject) == stated
    assert len(withdrawals(world, subject)) == 1


def test_providers_may_post_a_multipart_form(world: World) -> None:
    person = world.person()
    _, welcome = person.subscribe()
    body = b'--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--x--\r\n'
    request = urllib.request.Request(
        welcome.way_out, body, {"Content-Type": "multipart/form-data; boundary=x"}, method="POST"
    )
    assert stopped(Browser._send(request))


def test_signing_up_again_after_a_withdrawal_needs_a_new_confirmation(world: World) -> None:
    person = world.person()
    first, welcome = person.subscribe()
    subject = person.subject(first)
    assert stopped(person.one_click(welcome.way_out))
    second = person.sign_up()
    assert person.subject(second) == subject
    person.quiet(subject)
    assert world.permit(subject)["decision"] == "refused"
    before = person.count_mails()
    world.issue_is_out(world.begin_issue())
    assert person.count_mails() == before
    # The first link was used up by the first confirmation: pressing its button once more revives nothing.
    assert person.browser.post(first.confirm_link, []).status == 410
    person.quiet(subject)
    assert world.permit(subject)["decision"] == "refused"
    assert person.press_confirm(second.confirm_link).status == 200
    granted(world, subject)
    person.mail(before + 1)
    world.issue_is_out(world.begin_issue())
    assert person.count_mails() == before + 2
    decisive = [entry.type for entry in world.history(subject) if entry.matter == f"purpose:{NEWSLETTER}"]
    assert decisive == ["ConsentGiven", "ConsentWithdrawn", "ConsentGiven"]


def test_an_old_link_is_a_new_act_once_the_person_has_confirmed_again(world: World) -> None:
    person = world.person()
    confirmation, welcome = person.subscribe()
    subject = person.subject(confirmation)
    assert stopped(person.one_click(welcome.way_out))
    person.subscribe()
    granted(world, subject)
    assert stopped(person.one_click(welcome.way_out))
    assert world.permit(subject)["decision"] == "refused"
    assert len(withdrawals(world, subject)) == 2


def test_withdrawing_everything_is_one_word_about_everything(world: World) -> None:
    person = world.person()
    confirmation, welcome = person.subscribe(clicks=True)
    waiting = person.sign_up()
    subject = person.subject(confirmation)
    assert stopped(person.press_unsubscribe(welcome.way_out, "everything"))
    assert [entry.matter for entry in withdrawals(world, subject)] == ["everything:all"]
    for purpose in (NEWSLETTER, CLICKS):
        assert world.permit(subject, purpose)["decision"] == "refused"
    assert person.browser.get(waiting.confirm_link).status == 410
    # It is no life sentence: a new double opt-in counts.
    granted(world, person.subject(person.subscribe()[0]))


def test_an_issue_in_progress_stops_for_whoever_withdraws(world: World) -> None:
    people = [world.person() for _ in range(8)]
    with ThreadPoolExecutor(4) as hands:
        welcomes = list(hands.map(lambda person: person.subscribe()[1], people))
    before = {person.address: person.count_mails() for person in people}
    issue = world.begin_issue()
    until("the first mail of the issue", lambda: any(one.count_mails() > before[one.address] for one in people))
    waiting = world.sql(
        f"select subject from marketing.delivery where campaign = '{issue}' and state = 'waiting'"
        " order by statement desc"
    ).split()
    subjects = {person.subject(person.mails()[0]): person for person in people}
    leaving = next(subjects[subject] for subject in waiting if subject in subjects)
    answer = leaving.one_click(welcomes[people.index(leaving)].way_out)
    assert stopped(answer)
    then = {person.address: person.count_mails() for person in people}
    world.issue_is_out(issue)
    now = {person.address: person.count_mails() for person in people}
    assert now[leaving.address] == then[leaving.address] == before[leaving.address]
    others = [person.address for person in people if person is not leaving]
    assert all(now[address] == before[address] + 1 for address in others)
    subject = leaving.subject(leaving.mails()[0])
    state = f"select state from marketing.delivery where campaign = '{issue}' and subject = '{subject}'"
    assert world.sql(state) == "skipped"


def test_a_strangers_sign_up_that_expires_leaves_the_consent_in_force(world: World) -> None:
    person = world.person()
    confirmation, _ = person.subscribe(clicks=True)
    subject = person.subject(confirmation)
    stranger = Browser("de")
    page = stranger.get(f"{world.base}/newsletter")
    before = person.count_mails()
    form = page.form("email")
    assert stranger.submit(page, form, form.filled(person.address, {NEWSLETTER})).status == 200
    unwanted = person.mail(before + 1)
    world.sql(
        "update newsletter.request set expires_at = clock_timestamp() - interval '1 second'"
        f" where subject = '{subject}' and state = 'open'"
    )
    world.sweep()
    until("ConsentExpired", lambda: "ConsentExpired" in types(world.history(subject)))
    assert person.browser.get(unwanted.confirm_link).status == 410
    person.quiet(subject)
    for purpose in (NEWSLETTER, CLICKS):
        granted(world, subject, purpose)
    before = person.count_mails()
    world.issue_is_out(world.begin_issue())
    assert person.count_mails() == before + 1


@pytest.mark.parametrize("scope", ["purpose", "everything"])
def test_a_grant_that_comes_late_is_overtaken_and_has_no_effect(world: World, scope: str) -> None:
    person = world.person()
    confirmation, welcome = person.subscribe(clicks=True)
    subject = person.subject(confirmation)
    given = [entry for entry in world.history(subject) if entry.type == "ConsentGiven"]
    assert stopped(person.press_unsubscribe(welcome.way_out, scope))
    mails = person.count_mails()
    late = [stated_again(entry) for entry in given]
    ids = {one["id"] for one in late}

    async def state(db: Database) -> None:
        async with db.transaction() as tx:
            await put(tx, [json.dumps(one).encode() for one in late])

    world.as_newsletter(state)
    until("the late grants", lambda: ids <= {entry.id for entry in world.history(subject)})
    recorded = [entry for entry in world.history(subject) if entry.id in ids]
    assert {entry.matter for entry in recorded} == {f"purpose:{NEWSLETTER}", f"purpose:{CLICKS}"}
    assert all(entry.overtaken for entry in recorded)
    assert not any(entry.overtaken for entry in world.history(subject) if entry.id not in ids)
    person.quiet(subject)
    quoted = ", ".join(f"'{one}'" for one in ids)
    assert world.sql(f"select distinct result from newsletter.outbox where id in ({quoted})") == "overtaken"
    for purpose in (NEWSLETTER, CLICKS):
        assert world.permit(subject, purpose)["reason"] == "no-consent-in-force"
    world.issue_is_out(world.begin_issue())
    assert person.count_mails() == mails
    granted(world, person.subject(person.subscribe()[0]))


def stated_again(entry: Entry) -> dict[str, object]:
    """The same grant as one more statement that was made at the same time and comes only now."""
    late = copy.deepcopy(entry.statement)
    late["id"] = uuid7(datetime.now(UTC), urandom)
    return late
