"""What an erasure takes at marketing: from the first question on no permit is granted, whatever else is folded."""

from __future__ import annotations

import os
from typing import Any

import pytest

from services.marketing import handlers
from services.marketing.domain import ACTIVITY
from shared.errors import Refused
from shared.holder import Holder, Task
from shared.register import load
from shared.software import software
from tests.integration.marketing.conftest import Marketing
from tests.unit.marketing.history import given, person, withdrawn_all

REQUEST = "01a20320-a209-7d4e-8f50-0000000000aa"
ORDER = "01a20320-a209-7d4e-8f50-000000000009"


async def erase(marketing: Marketing, subject: str, ended: str | None = None) -> dict[str, Any]:
    step = handlers.erasing(marketing.clock)
    holder = Holder("marketing", marketing.db, load(), ACTIVITY, software(), 1, step, marketing.clock, os.urandom)
    return dict(await holder.erase(Task(request=REQUEST, order=ORDER, subject=subject, ended=ended)))


async def rows(marketing: Marketing, subject: str) -> int:
    counted = [
        await marketing.db.fetchval(f"select count(*) from {table} where subject = $1", subject)
        for table in ("word", "standing", "permit", "delivery")
    ]
    return sum(counted)


async def test_everything_of_an_erased_person_goes_and_a_permit_says_why_not(marketing: Marketing) -> None:
    subject = person()
    await marketing.record(given(subject))
    unused = await marketing.ask(subject)
    assert (await erase(marketing, subject))["state"] == "erased"
    assert await rows(marketing, subject) == 0
    assert not await marketing.redeem(unused)
    refused = await marketing.ask(subject)
    assert (refused.decision, refused.reason) == ("refused", "erased")


async def test_it_stops_at_once_and_waits_with_its_receipt_for_the_withdrawal(marketing: Marketing) -> None:
    subject = person()
    await marketing.record(given(subject))
    unused = await marketing.ask(subject)
    end = withdrawn_all(subject)
    first = await erase(marketing, subject, end.time)
    assert (first["state"], first["statement"]) == ("working", None)
    assert not await marketing.redeem(unused)
    assert (await marketing.ask(subject)).reason == "erased"
    await marketing.record(end)
    assert await marketing.db.fetchval("select count(*) from effect where statement = $1", end.id) == 1
    second = await erase(marketing, subject, end.time)
    assert second["state"] == "erased"
    third = await erase(marketing, subject, end.time)
    assert third["statement"] == second["statement"]
    # The answer that was given meanwhile went with the rest.
    assert await rows(marketing, subject) == 0


async def test_a_consent_that_arrives_late_gives_nobody_a_permit(marketing: Marketing) -> None:
    subject = person()
    await marketing.record(given(subject))
    await erase(marketing, subject)
    await marketing.record(given(subject))
    assert (await marketing.ask(subject)).reason == "erased"
    assert (await erase(marketing, subject))["found"] > 0
    assert await rows(marketing, subject) == 0


async def test_a_mail_on_its_way_comes_to_its_end_first(marketing: Marketing) -> None:
    subject, now = person(), marketing.now
    await marketing.record(given(subject))
    await marketing.db.execute("insert into campaign values ('issue', 'newsletter', 'email', '{}', $1)", now)
    await marketing.db.execute(
        """insert into delivery (statement, campaign, subject, language, state, not_before, permit, used, archived)
           select gen_random_uuid(), 'issue', $1, 'de', 'attempted', $2, gen_random_uuid(), gen_random_uuid(), '{}'""",
        subject,
        now,
    )
    assert (await erase(marketing, subject))["state"] == "working"
    assert (await marketing.ask(subject)).reason == "erased"
    await marketing.db.execute("update delivery set state = 'sent'")
    assert (await erase(marketing, subject))["state"] == "erased"


async def test_a_subject_of_a_shard_without_a_log_is_refused_before_a_receipt_is_stated(marketing: Marketing) -> None:
    with pytest.raises(Refused, match="unknown-subject"):
        await erase(marketing, f"1{person()[1:]}")
    assert await marketing.db.fetchval("select count(*) from outbox") == 0
