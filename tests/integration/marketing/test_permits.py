"""Permits on a real PostgreSQL: what is granted, used once, voided, and never live after a withdrawal took effect."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from services.marketing import handlers, projection, store
from services.marketing.permits import GROUPS
from services.marketing.store import Ask, Permit
from shared.clock import rfc3339
from shared.errors import Refused
from shared.events import Statement
from shared.register import Grade
from tests.integration.marketing.conftest import Marketing
from tests.unit.marketing.history import given, person, recorded, said, withdrawn, withdrawn_all

MESSAGE = "<01a20320-a202-7d4e-8f50-000000000002@example.org>"


async def permits(marketing: Marketing) -> list[asyncpg.Record]:
    return await marketing.db.fetch("select * from permit order by issued_at, id")


async def look(marketing: Marketing, subject: str) -> store.Seen:
    [seen] = await store.look(marketing.db, [store.Ask(subject, "newsletter", "email", MESSAGE, 1)])
    return seen


async def live(marketing: Marketing, subject: str) -> int:
    found = await marketing.db.fetchval(
        "select count(*) from permit where subject = $1 and decision = 'granted'"
        " and redeemed_at is null and voided_at is null",
        subject,
    )
    return int(found)


async def test_a_consent_is_granted_a_permit_that_says_what_it_rests_on(marketing: Marketing) -> None:
    subject = person()
    consent = given(subject)
    await marketing.record(consent)
    permit = await marketing.ask(subject)
    assert (permit.decision, permit.reason, permit.relied_on) == ("granted", "consent-in-force", consent.id)
    assert (permit.shard, permit.size, permit.issued_at) == (0, 1, marketing.now)
    assert permit.all_before is not None
    assert permit.all_before < rfc3339(marketing.now)


async def test_a_stranger_is_refused(marketing: Marketing) -> None:
    permit = await marketing.ask(person())
    assert (permit.decision, permit.reason) == ("refused", "unknown")


async def test_a_withdrawal_refuses_what_is_asked_after_it(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    await marketing.record(withdrawn(subject, 1))
    assert (await marketing.ask(subject)).reason == "no-consent-in-force"
    assert await live(marketing, subject) == 0


async def test_consent_to_one_purpose_permits_no_other(marketing: Marketing) -> None:
    subject = await marketing.subscriber("newsletter")
    assert (await marketing.ask(subject, purpose="newsletter-clicks")).reason == "unknown"


async def test_without_a_heartbeat_nothing_is_granted(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    marketing.silent = True
    assert (await marketing.ask(subject)).reason == "no-heartbeat"


async def test_while_records_are_missing_nothing_is_granted(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    marketing.applied += 1
    assert (await marketing.ask(subject)).reason == "behind"


async def test_a_consent_without_a_verified_notice_is_too_weak(marketing: Marketing) -> None:
    subject = person()
    await marketing.record(given(subject, served=None))
    assert (await marketing.ask(subject)).reason == "evidence-too-weak"


async def test_the_grade_counts_the_request_and_the_archived_mail_only_if_they_are_recorded(
    marketing: Marketing,
) -> None:
    subject, other = person(), person()
    consent = given(subject, 2)
    request, mail = consent.data.follows
    steps = [
        said(subject, "ConsentRequested", 0).model_copy(update={"id": request}),
        said(subject, "MessageSent", 1, purpose=None, permit=None).model_copy(update={"id": mail}),
    ]
    await marketing.record(given(other), *steps, consent)

    async def grade(whose: str) -> Grade | None:
        return (await look(marketing, whose)).grade

    assert await grade(other) is Grade.B
    assert await grade(subject) is Grade.A


async def test_a_permit_is_used_once(marketing: Marketing) -> None:
    permit = await marketing.ask(await marketing.subscriber())
    assert await marketing.redeem(permit)
    assert not await marketing.redeem(permit)


async def test_of_two_who_use_a_permit_at_once_one_succeeds(marketing: Marketing) -> None:
    permit = await marketing.ask(await marketing.subscriber())
    assert sorted(await asyncio.gather(marketing.redeem(permit), marketing.redeem(permit))) == [False, True]


async def test_a_permit_lives_five_seconds(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    first, second = await marketing.ask(subject), await marketing.ask(subject)
    marketing.later(seconds=5)
    assert await marketing.redeem(first)
    marketing.later(milliseconds=1)
    assert not await marketing.redeem(second)


async def test_a_refusal_cannot_be_used(marketing: Marketing) -> None:
    assert not await marketing.redeem(await marketing.ask(person()))


async def test_a_withdrawal_voids_what_was_granted_and_not_used(marketing: Marketing) -> None:
    subject = await marketing.subscriber("newsletter", "newsletter-clicks")
    mine, other = await marketing.ask(subject), await marketing.ask(subject, purpose="newsletter-clicks")
    stranger = await marketing.ask(await marketing.subscriber())
    await marketing.record(withdrawn(subject, 1))
    assert not await marketing.redeem(mine)
    assert await marketing.redeem(other)
    assert await marketing.redeem(stranger)


async def test_withdrawing_everything_voids_every_permit(marketing: Marketing) -> None:
    subject = await marketing.subscriber("newsletter", "newsletter-clicks")
    granted = [await marketing.ask(subject), await marketing.ask(subject, purpose="newsletter-clicks")]
    await marketing.record(withdrawn_all(subject, 1))
    assert [await marketing.redeem(permit) for permit in granted] == [False, False]


async def test_a_late_grant_revives_nothing(marketing: Marketing) -> None:
    subject = person()
    await marketing.record(withdrawn_all(subject, 5), given(subject, 4))
    assert (await marketing.ask(subject)).reason == "unknown"


async def test_the_same_attempt_has_one_permit(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    first = await marketing.ask(subject, MESSAGE)
    marketing.later(seconds=1)
    again, next_attempt = await marketing.ask(subject, MESSAGE), await marketing.ask(subject, MESSAGE, 2)
    assert (again.id, again.issued_at) == (first.id, first.issued_at)
    assert next_attempt.id != first.id
    assert len(await permits(marketing)) == 2


async def test_a_refused_attempt_stays_refused(marketing: Marketing) -> None:
    subject = person()
    assert (await marketing.ask(subject, MESSAGE)).reason == "unknown"
    await marketing.record(given(subject))
    assert (await marketing.ask(subject, MESSAGE)).reason == "unknown"
    assert (await marketing.ask(subject, MESSAGE, 2)).decision == "granted"


@pytest.mark.parametrize("reason", ["used", "void", "too-old"])
async def test_asked_again_a_permit_that_cannot_be_used_any_more_is_no_grant(marketing: Marketing, reason: str) -> None:
    subject = await marketing.subscriber()
    permit = await marketing.ask(subject, MESSAGE)
    match reason:
        case "used":
            await marketing.redeem(permit)
        case "void":
            await marketing.record(withdrawn(subject, 1))
        case "too-old":
            marketing.later(seconds=6)
    again = await marketing.ask(subject, MESSAGE)
    assert (again.id, again.decision, again.reason) == (permit.id, "refused", reason)


async def test_anothers_attempt_is_refused_and_says_nothing_about_it(marketing: Marketing) -> None:
    first, second = await marketing.subscriber("newsletter", "newsletter-clicks"), await marketing.subscriber()
    await marketing.ask(first, MESSAGE)
    for subject, purpose in ((second, "newsletter"), (first, "newsletter-clicks")):
        with pytest.raises(Refused) as refused:
            await marketing.ask(subject, MESSAGE, purpose=purpose)
        assert (refused.value.code, refused.value.status, refused.value.facts) == ("attempt-of-another", 409, {})


async def test_of_many_who_ask_for_one_attempt_all_get_the_same_permit(marketing: Marketing, second: Marketing) -> None:
    subject = await marketing.subscriber()
    asked = await asyncio.gather(*(one.ask(subject, MESSAGE) for one in (marketing, second) * 8))
    assert len({permit.id for permit in asked}) == 1
    assert len(await permits(marketing)) == 1


# A withdrawal and a request for a permit at the same time, in each order they can really take. The two transactions are
# held open by hand; "waits" is what PostgreSQL itself says about the other one.


@asynccontextmanager
async def folding(marketing: Marketing, statement: Statement) -> AsyncIterator[Any]:
    """The fold of a statement, everything done and not yet committed; the caller commits by leaving."""
    index = next(marketing.indexes)
    async with marketing.db.transaction() as tx:
        await projection.apply(tx, [recorded(statement, index)], marketing.register, marketing.now)
        await marketing.move(tx, index + 1)
        yield tx
    marketing.applied = index + 1


async def waits_for_a_lock(marketing: Marketing) -> None:
    """Until another session of marketing waits for a lock."""
    waiting = (
        "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
    )
    while not await marketing.db.fetchval(waiting):  # noqa: ASYNC110 - PostgreSQL does not say it
        await asyncio.sleep(0.005)


WORDS = pytest.mark.parametrize("word", [withdrawn, withdrawn_all], ids=["one purpose", "everything"])


@WORDS
async def test_a_permit_asked_while_a_withdrawal_is_folded_waits_and_is_refused(
    marketing: Marketing, second: Marketing, word: Any
) -> None:
    subject = await marketing.subscriber()
    async with folding(marketing, word(subject, 1)):
        # It sees the old word, decides to grant, and must not be able to store that.
        asking = asyncio.create_task(second.ask(subject))
        await waits_for_a_lock(marketing)
    permit = await asking
    assert (permit.decision, permit.reason) == ("refused", "no-consent-in-force")
    assert permit.size == marketing.applied
    assert await live(marketing, subject) == 0


@WORDS
async def test_a_permit_decided_before_a_withdrawal_is_folded_is_not_stored_after_it(
    marketing: Marketing, second: Marketing, word: Any
) -> None:
    subject = await marketing.subscriber()
    seen = await look(second, subject)
    granted = _permit(subject, marketing)
    await marketing.record(word(subject, 1))
    assert not await store.put_permits(second.db, [granted], [seen.newest])
    assert await live(marketing, subject) == 0


@WORDS
async def test_a_withdrawal_folded_while_a_permit_is_stored_waits_and_voids_it(
    marketing: Marketing, second: Marketing, word: Any
) -> None:
    subject = await marketing.subscriber()
    seen = await look(second, subject)
    statement = word(subject, 1)
    async with second.db.transaction() as tx:
        assert await store.put_permits(tx, [_permit(subject, marketing)], [seen.newest])
        withdrawing = asyncio.create_task(marketing.record(statement))
        await waits_for_a_lock(second)
        assert not withdrawing.done()
    await withdrawing
    assert await live(marketing, subject) == 0
    effect = await store.effect(marketing.db, statement.id)
    assert effect is not None
    assert effect["in_transmission"] == []


async def test_a_withdrawal_folded_while_a_permit_is_used_waits_and_names_the_mail(
    marketing: Marketing, second: Marketing
) -> None:
    subject = await marketing.subscriber()
    permit = await marketing.ask(subject)
    statement = withdrawn(subject, 1)
    async with second.db.transaction() as tx:
        assert await store.redeem(tx, permit.id, permit.issued_at, marketing.now)
        withdrawing = asyncio.create_task(marketing.record(statement))
        await waits_for_a_lock(second)
    await withdrawing
    effect = await store.effect(marketing.db, statement.id)
    assert effect is not None
    assert effect["in_transmission"] == [permit.message_id]


async def test_a_permit_used_while_a_withdrawal_is_folded_waits_and_is_void(
    marketing: Marketing, second: Marketing
) -> None:
    subject = await marketing.subscriber()
    permit = await marketing.ask(subject)
    statement = withdrawn(subject, 1)
    async with folding(marketing, statement):
        redeeming = asyncio.create_task(second.redeem(permit))
        await waits_for_a_lock(marketing)
    assert not await redeeming
    effect = await store.effect(marketing.db, statement.id)
    assert effect is not None
    assert effect["in_transmission"] == []


async def test_nobody_asks_in_vain_while_others_are_folded(marketing: Marketing, second: Marketing) -> None:
    subject, other = await marketing.subscriber(), await marketing.subscriber()
    async with folding(marketing, withdrawn(other, 1)):
        assert (await second.ask(subject)).decision == "granted"


def _permit(subject: str, marketing: Marketing) -> Permit:
    return Permit(
        id="01a20320-a202-7d4e-8f50-0000000000aa",
        subject=subject,
        matter="purpose:newsletter/email",
        message_id=MESSAGE,
        attempt=1,
        decision="granted",
        reason="consent-in-force",
        relied_on="01a20320-a202-7d4e-8f50-0000000000ab",
        shard=0,
        size=marketing.applied,
        all_before=rfc3339(marketing.now),
        issued_at=marketing.now,
    )


async def test_random_permits_and_withdrawals_at_once_leave_no_live_permit(
    marketing: Marketing, second: Marketing
) -> None:
    people = [await marketing.subscriber() for _ in range(20)]

    async def keep_asking(subject: str) -> list[Permit]:
        asked = [await second.ask(subject) for _ in range(5)]
        while asked[-1].decision == "granted":
            asked.append(await second.ask(subject))
        return asked

    asking = [asyncio.create_task(keep_asking(subject)) for subject in people]
    for second_of_day, subject in enumerate(people, 1):
        await marketing.record(withdrawn(subject, second_of_day))
    answers = await asyncio.gather(*asking)
    assert any(asked[0].decision == "granted" for asked in answers)
    for subject in people:
        assert await live(marketing, subject) == 0


def asks(subjects: Sequence[str], attempt: int = 1) -> list[Ask]:
    return [Ask(subject, "newsletter", "email", f"<{subject}@example.org>", attempt) for subject in subjects]


async def test_of_those_who_ask_together_only_the_one_who_withdraws_meanwhile_is_refused(
    marketing: Marketing, second: Marketing
) -> None:
    people = [await marketing.subscriber() for _ in range(5)]
    async with folding(marketing, withdrawn(people[2], 1)):
        asking = asyncio.create_task(second.permits.ask_all(asks(people)))
        await waits_for_a_lock(marketing)
    answers = await asking
    assert [one.decision for one in answers if isinstance(one, Permit)] == [
        "refused" if subject == people[2] else "granted" for subject in people
    ]
    assert [await live(marketing, subject) for subject in people] == [1, 1, 0, 1, 1]


async def test_those_who_ask_at_once_are_answered_by_few_commits(marketing: Marketing) -> None:
    people = [await marketing.subscriber() for _ in range(100)]
    answers = await asyncio.gather(*(marketing.permits.ask(one) for one in asks(people)))
    assert {one.decision for one in answers} == {"granted"}
    assert [one.subject for one in answers] == people
    # xmin: the transaction that stored the row. One for each that found nobody waiting, one for all the others.
    assert await marketing.db.fetchval("select count(distinct xmin::text) from permit") <= GROUPS + 1


async def test_one_who_asks_for_anothers_attempt_spoils_nothing_for_the_others(marketing: Marketing) -> None:
    first, thief, other = [await marketing.subscriber() for _ in range(3)]
    [granted] = await marketing.permits.ask_all(asks([first]))
    stolen = replace(asks([thief])[0], message_id=asks([first])[0].message_id)
    again, refused, fine = await marketing.permits.ask_all([*asks([first]), stolen, *asks([other])])
    assert isinstance(granted, Permit)
    assert isinstance(again, Permit)
    assert again.id == granted.id
    assert isinstance(refused, Refused)
    assert refused.code == "attempt-of-another"
    assert isinstance(fine, Permit)
    assert fine.decision == "granted"


@pytest.mark.parametrize("seed", range(3))
async def test_many_permits_together_and_many_withdrawals_together_leave_no_live_permit(
    marketing: Marketing, second: Marketing, seed: int
) -> None:
    """In any order of the names, so that whoever took locks in the order given would wait for each other."""
    chance = random.Random(seed)
    people = [await marketing.subscriber() for _ in range(60)]
    granting, stopping = asyncio.Event(), asyncio.Event()

    async def keep_asking(one: Marketing) -> None:
        attempt = 0
        while not stopping.is_set():
            attempt += 1
            answers = await one.permits.ask_all(asks(chance.sample(people, 40), attempt))
            if any(isinstance(answer, Permit) and answer.decision == "granted" for answer in answers):
                granting.set()

    asking = [asyncio.create_task(keep_asking(one)) for one in (marketing, second, second)]
    async with asyncio.timeout(60):
        await granting.wait()
    for start in range(0, len(people), 12):
        leaving = people[start : start + 12]
        chance.shuffle(leaving)
        people[start : start + 12] = leaving
        await marketing.record(*(withdrawn(subject, start + 1) for subject in leaving))
        for subject in leaving:
            assert await live(marketing, subject) == 0
    stopping.set()
    await asyncio.gather(*asking)
    assert [await live(marketing, subject) for subject in people] == [0] * len(people)


async def test_folding_a_record_again_changes_nothing(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    statement = withdrawn(subject, 1)
    [index] = await marketing.record(statement)
    before = await store.effect(marketing.db, statement.id)
    marketing.later(seconds=1)
    async with marketing.db.transaction() as tx:
        await projection.apply(tx, [recorded(statement, index)], marketing.register, marketing.now)
    assert await store.effect(marketing.db, statement.id) == before
    assert (await marketing.ask(subject)).reason == "no-consent-in-force"


async def test_old_permits_are_forgotten_unless_their_mail_is_still_on_its_way(marketing: Marketing) -> None:
    subject = await marketing.subscriber()
    unused, used, ended, refused = [await marketing.ask(subject) for _ in range(3)] + [await marketing.ask(person())]
    await marketing.redeem(used)
    await marketing.redeem(ended)
    async with marketing.db.transaction() as tx:
        await store.finish_permit(tx, ended.id, marketing.now)
    marketing.later(days=2)
    young = await marketing.ask(subject)
    await store.forget_permits(marketing.db, marketing.now - handlers.PERMIT_LIVES)
    assert {str(row["id"]) for row in await permits(marketing)} == {used.id, young.id}
    assert unused.id != refused.id
