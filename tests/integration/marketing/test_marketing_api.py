"""The front door: permits as callers see them, effects that are waited for, campaigns, and the page of the audience."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from services.marketing import projection
from services.marketing.store import Counted, put_counted
from shared.clock import rfc3339
from tests.integration.marketing.conftest import Marketing
from tests.unit.marketing.history import NOON, given, person, recorded, withdrawn

MESSAGE = "<01a20320-a202-7d4e-8f50-000000000002@example.org>"
TEXTS = {"de": {"subject": "Ausgabe 1", "text": "Guten Tag"}, "en": {"subject": "Issue 1", "text": "Hello"}}


def asking(subject: str, **changes: Any) -> dict[str, Any]:
    body = {"subject": subject, "purpose": "newsletter", "channel": "email", "message_id": MESSAGE, "attempt": 1}
    return {**body, **changes}


def campaign(**changes: Any) -> dict[str, Any]:
    return {"campaign": "issue-1", "purpose": "newsletter", "channel": "email", "texts": TEXTS, **changes}


async def test_a_permit_is_answered_with_what_it_rests_on(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    answer = await marketing.post("permits", asking(subject))
    assert answer.status_code == 200
    document = answer.json()
    assert document.pop("permit")
    assert document == {
        "decision": "granted",
        "reason": "consent-in-force",
        "shard": 0,
        "size": "1",
        "all_before": rfc3339(marketing.now - timedelta(seconds=2)),
        "issued_at": rfc3339(marketing.now),
    }


async def test_a_refusal_is_no_permit(marketing: Marketing) -> None:
    document = (await marketing.post("permits", asking(person()))).json()
    assert (document["permit"], document["decision"], document["reason"]) == (None, "refused", "unknown")


async def test_after_stopped_the_same_question_is_refused(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    assert (await marketing.post("permits", asking(subject))).json()["decision"] == "granted"
    await marketing.record(withdrawn(subject, 1))
    for attempt in (1, 2):
        answer = (await marketing.post("permits", asking(subject, attempt=attempt))).json()
        assert (answer["decision"], answer["permit"]) == ("refused", None)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"purpose": "telephone"}, 422, "unknown-purpose"),
        ({"channel": "post"}, 422, "unknown-purpose"),
        ({"subject": "ada@example.org"}, 400, "invalid-body"),
        ({"message_id": "no brackets"}, 400, "invalid-body"),
        ({"attempt": 0}, 400, "invalid-body"),
        ({"attempt": "1"}, 400, "invalid-body"),
        ({"more": 1}, 400, "invalid-body"),
    ],
)
async def test_a_question_of_another_form_is_refused(
    marketing: Marketing, change: dict[str, Any], status: int, code: str
) -> None:
    answer = await marketing.post("permits", {**asking(person()), **change})
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert "ada" not in answer.text


@pytest.mark.parametrize("path", ["permits", "campaigns"])
async def test_who_has_no_grant_is_denied(marketing: Marketing, path: str) -> None:
    assert (await marketing.post(path, {}, "newsletter")).status_code == 403


async def test_an_effect_is_there_as_soon_as_the_withdrawal_is_folded(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    statement = withdrawn(subject, 1)
    waiting = await marketing.get(f"effects/{statement.id}", "newsletter")
    assert (waiting.status_code, waiting.json()) == (202, {})
    [index] = await marketing.record(statement)
    answer = await marketing.get(f"effects/{statement.id}", "newsletter")
    assert answer.status_code == 200
    assert answer.json() == {"index": str(index), "applied_at": rfc3339(marketing.now), "in_transmission": []}


async def test_who_waits_for_an_effect_is_woken_by_the_fold(marketing: Marketing, second: Marketing) -> None:
    subject = await marketing.subscriber()
    statements = [withdrawn(subject, number) for number in range(3)]
    loop = asyncio.get_running_loop()
    waiting = [
        asyncio.create_task(marketing.get(f"effects/{statement.id}?wait=5", "newsletter")) for statement in statements
    ]
    await until_listening(marketing)
    began = loop.time()
    # Folded by another process: the word reaches us by PostgreSQL's notification alone.
    await second.record(*statements)
    answers = await asyncio.gather(*waiting)
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert loop.time() - began < 2


async def until_listening(marketing: Marketing) -> None:
    """Until marketing's notifications are heard; whoever waits has looked into the table by then."""
    query = "select exists (select from pg_stat_activity where datname = current_database() and query ilike 'listen%')"
    while not await marketing.db.fetchval(query):  # noqa: ASYNC110 - PostgreSQL does not say it
        await asyncio.sleep(0.005)


async def test_an_effect_that_does_not_come_is_answered_in_time(marketing: Marketing) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await marketing.get(f"effects/{withdrawn(person()).id}?wait=0.2", "newsletter")
    assert answer.status_code == 202
    assert 0.2 <= loop.time() - began < 2


@pytest.mark.parametrize("path", ["effects/not-an-id", "effects/01a20320-a202-7d4e-8f50-000000000002?wait=60"])
async def test_an_effect_of_something_else_is_refused(marketing: Marketing, path: str) -> None:
    assert (await marketing.get(path, "newsletter")).status_code == 400


async def test_a_campaign_goes_to_everybody_who_agrees_and_is_begun_once(marketing: Marketing) -> None:
    for _ in range(3):
        await marketing.subscriber()
    gone = await marketing.subscriber()
    await marketing.record(withdrawn(gone, 1))
    await marketing.subscriber("newsletter-clicks")
    for _ in range(2):
        answer = await marketing.post("campaigns", campaign())
        assert (answer.status_code, answer.json()) == (202, {"campaign": "issue-1", "recipients": 3})
    await marketing.subscriber()
    assert (await marketing.post("campaigns", campaign())).json()["recipients"] == 3
    assert (await marketing.get("campaigns/issue-1")).json() == {
        "campaign": "issue-1",
        "state": "sending",
        "recipients": 3,
        "deliveries": {"waiting": 3},
        "reasons": {},
    }


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"texts": {"de": {"subject": "Ausgabe 1", "text": "anders"}}}, 409, "campaign-exists"),
        ({"purpose": "newsletter-clicks"}, 409, "campaign-exists"),
        ({"texts": {"fr": TEXTS["en"]}}, 422, "unknown-language"),
        ({"texts": {}}, 400, "invalid-body"),
        ({"texts": {"de": {"subject": "zwei\r\nBcc: x", "text": "x"}}}, 400, "invalid-body"),
        ({"purpose": "telephone"}, 422, "unknown-purpose"),
        ({"campaign": "Issue 1"}, 400, "invalid-body"),
    ],
)
async def test_another_campaign_of_the_same_name_is_refused(
    marketing: Marketing, change: dict[str, Any], status: int, code: str
) -> None:
    await marketing.post("campaigns", campaign())
    answer = await marketing.post("campaigns", campaign(**change))
    assert (answer.status_code, answer.json()["error"]) == (status, code)


async def test_a_campaign_to_nobody_is_done(marketing: Marketing) -> None:
    await marketing.post("campaigns", campaign())
    assert (await marketing.get("campaigns/issue-1")).json()["state"] == "done"


async def test_an_unknown_campaign_is_not_found(marketing: Marketing) -> None:
    assert (await marketing.get("campaigns/issue-9")).status_code == 404


async def count(marketing: Marketing, position: int) -> None:
    people = {("newsletter", "email"): 12, ("newsletter-clicks", "email"): 3}
    hour = marketing.now.replace(minute=0, second=0)
    hours = {(hour, "ConsentGiven"): 2, (hour, "Unheard"): 1, (hour - timedelta(hours=30), "ConsentGiven"): 9}
    async with marketing.db.transaction() as tx:
        await put_counted(tx, Counted(0, position, marketing.now - timedelta(seconds=3), people, hours))


async def test_the_audience_says_how_far_it_is_behind(marketing: Marketing) -> None:
    await count(marketing, 40)
    await count(marketing, 41)
    marketing.applied = 50
    document = (await marketing.get("audience")).json()
    assert document["purposes"] == [
        {"purpose": "newsletter", "channel": "email", "people": 12},
        {"purpose": "newsletter-clicks", "channel": "email", "people": 3},
    ]
    assert {(hour["type"], hour["number"]) for hour in document["hours"]} == {("ConsentGiven", 2), ("Unheard", 1)}
    assert document["shards"] == [
        {"shard": 0, "counted": "41", "sealed": "50", "behind": "9", "complete_seconds_ago": 3.0}
    ]


@pytest.mark.parametrize("language", ["de", "en"])
@pytest.mark.parametrize("state", ["uncounted", "complete", "behind", "unknown"])
async def test_the_page_shows_the_audience_in_every_state(marketing: Marketing, language: str, state: str) -> None:
    if state != "uncounted":
        await count(marketing, 50)
    marketing.applied = 59 if state == "behind" else 50
    marketing.silent = state == "unknown"
    page = await marketing.get("audience", **{"Accept": "text/html", "Accept-Language": language})
    assert page.status_code == 200
    expected = {
        ("uncounted", "de"): "Noch wurde nichts gezählt.",
        ("uncounted", "en"): "Nothing has been counted yet.",
        ("complete", "de"): "Vollständig bis vor 3 s",
        ("complete", "en"): "Complete as of 3 s ago",
        ("behind", "de"): "9 von 59 besiegelten Einträgen",
        ("behind", "en"): "9 of 59 sealed records",
        ("unknown", "de"): "50 Einträge sind gezählt",
        ("unknown", "en"): "50 records are counted",
    }
    assert expected[state, language] in page.text
    assert ("Unheard" in page.text) is (state != "uncounted")


async def test_several_permits_are_asked_for_at_once_and_answered_in_order(marketing: Marketing) -> None:
    subject, stranger = await marketing.subscriber(), person()
    asked = [
        {
            "subject": one,
            "purpose": "newsletter",
            "channel": "email",
            "message_id": f"<{one}@example.org>",
            "attempt": 1,
        }
        for one in (stranger, subject)
    ]
    answer = await marketing.post("permits/several", {"asks": asked})
    refused, granted = answer.json()["answers"]
    assert (refused["decision"], refused["reason"], refused["permit"]) == ("refused", "unknown", None)
    assert granted["decision"] == "granted"
    alone = await marketing.post("permits", asked[1])
    assert alone.json() == granted
    stolen = await marketing.post("permits/several", {"asks": [{**asked[1], "subject": stranger}, asked[0]]})
    assert [one.get("error", one.get("reason")) for one in stolen.json()["answers"]] == [
        "attempt-of-another",
        "unknown",
    ]
    unknown = await marketing.post("permits/several", {"asks": [{**asked[1], "channel": "fax"}]})
    assert (unknown.status_code, unknown.json()["error"]) == (422, "unknown-purpose")


async def test_the_page_names_a_purpose_the_register_has_dropped_by_its_key(marketing: Marketing) -> None:
    async with marketing.db.transaction() as tx:
        await put_counted(tx, Counted(0, 1, marketing.now, {("fax", "post"): 1}, {}))
    page = await marketing.get("audience", Accept="text/html")
    assert "fax/post" in page.text


async def test_folding_goes_on_after_a_statement_that_decides_nothing(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    async with marketing.db.transaction() as tx:
        await projection.apply(tx, [recorded(None, 7, at=NOON)], marketing.register, marketing.now)
    assert (await marketing.ask(subject)).decision == "granted"
    await marketing.record(given(subject, 3))
    assert (await marketing.ask(subject)).decision == "granted"
