"""What an erasure takes at subjects, what it leaves, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from services.subjects import store
from shared.clock import rfc3339, utc_now
from tests.integration.subjects.conftest import Subjects

Item = Callable[..., dict[str, Any]]

ADA = "ada@example.org"
FAR = "2999-01-01T00:00:00.000Z"
EVERYTHING: dict[str, Any] = {"scope": "everything", "purpose": None, "channel": None}


async def keys(subjects: Subjects, subject: str) -> set[str]:
    rows = await subjects.superuser.fetch("select use from subjects.subject_key where subject = $1", subject)
    return {row["use"] for row in rows}


async def receipts(subjects: Subjects) -> list[str]:
    rows = await subjects.superuser.fetch("select convert_from(statement, 'UTF8')::jsonb as said from subjects.outbox")
    return [row["said"] for row in rows]


async def test_the_content_key_goes_at_once_and_the_evidence_key_when_its_period_is_over(
    subjects: Subjects, item: Item
) -> None:
    one = item(email=ADA)
    subject = (await subjects.seal(ADA, one))["subject"]
    answer = await subjects.erase(subject, until=FAR)
    assert (answer["state"], answer["found"]) == ("erased", 3)
    assert await keys(subjects, subject) == {"evidence"}
    assert (await subjects.open(subject, "transactional")).status_code == 410
    place = {"statement": one["statement"], "compartment": "evidence"}
    body = {"subject": subject, "scope": "evidence", "reason": "a court asks", "items": [place]}
    assert (await subjects.post("disclose", body, "compliance")).status_code == 200
    assert await store.destroy_evidence_keys(subjects.parts.db) == 0
    await subjects.superuser.execute("update subjects.erased set evidence_until = now()")
    assert await store.destroy_evidence_keys(subjects.parts.db) == 1
    assert await keys(subjects, subject) == set()
    assert (await subjects.post("disclose", body, "compliance")).status_code == 410


async def test_without_a_period_both_keys_go_at_once(subjects: Subjects) -> None:
    subject = await subjects.subject(ADA)
    await subjects.erase(subject)
    assert await keys(subjects, subject) == set()


async def test_a_longer_period_that_comes_later_counts_and_a_shorter_one_does_not(subjects: Subjects) -> None:
    subject = await subjects.subject(ADA)
    await subjects.erase(subject, until=FAR)
    await subjects.erase(subject, until=rfc3339(utc_now()))
    await subjects.erase(subject)
    assert await keys(subjects, subject) == {"evidence"}


@pytest.mark.parametrize("use", ["content", "evidence"])
async def test_no_key_is_deleted_that_is_not_due_whoever_tries(subjects: Subjects, use: str) -> None:
    subject = await subjects.subject(ADA)
    delete = f"delete from subjects.subject_key where subject = '{subject}' and use = '{use}'"
    for connection in (subjects.superuser, subjects.parts.db):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="no erasure of this key is due"):
            await connection.execute(delete)
    assert await keys(subjects, subject) == {"content", "evidence"}


async def test_it_waits_until_the_withdrawal_keeps_the_address_from_being_written_to(subjects: Subjects) -> None:
    subject = await subjects.subject(ADA)
    await subjects.record(subject, "ConsentGiven", 1)
    ended = "2026-11-22T12:00:05.000Z"
    assert (await subjects.erase(subject, ended, FAR))["state"] == "working"
    assert await keys(subjects, subject) == {"content", "evidence"}
    # An older withdrawal is not the one that is waited for.
    await subjects.record(subject, "ConsentWithdrawn", 3, **EVERYTHING)
    assert (await subjects.erase(subject, ended, FAR))["state"] == "working"
    await subjects.record(subject, "ConsentWithdrawn", 5, **EVERYTHING)
    assert (await subjects.erase(subject, ended, FAR))["state"] == "erased"
    # Whoever comes back is somebody new, and still not written to.
    again = await subjects.subject(ADA)
    assert again != subject
    assert not await subjects.may_advertise(again)
    await subjects.record(again, "ConsentGiven", 9)
    assert await subjects.may_advertise(again)


async def test_asked_again_it_states_nothing_twice_and_takes_what_a_backup_has_brought_back(subjects: Subjects) -> None:
    subject = await subjects.subject(ADA)
    kept = await subjects.superuser.fetchrow("select * from subjects.contact_point where subject = $1", subject)
    first = await subjects.erase(subject)
    assert kept is not None
    await subjects.superuser.execute("insert into subjects.contact_point values ($1, $2)", *kept)
    second, third = await subjects.erase(subject), await subjects.erase(subject)
    assert first["statement"] == second["statement"] == third["statement"]
    assert (second["found"], third["found"]) == (1, 0)
    assert len(await receipts(subjects)) == 1


async def test_a_receipt_counts_as_recorded_when_it_is_sealed_and_a_rejected_one_never(subjects: Subjects) -> None:
    subject = await subjects.subject(ADA)
    assert (await subjects.erase(subject))["state"] == "erased"
    await subjects.superuser.execute(
        "update subjects.outbox set sequence = 1, sealed_at = now(), result = 'rejected', reason = 'unknown-key'"
    )
    assert (await subjects.erase(subject))["state"] == "rejected"
    await subjects.superuser.execute("update subjects.outbox set result = 'recorded', reason = null")
    assert (await subjects.erase(subject))["state"] == "recorded"
    # The row is deleted after a few days; the mark stays.
    await subjects.superuser.execute("delete from subjects.outbox")
    assert (await subjects.erase(subject))["state"] == "recorded"


async def test_somebody_who_asks_for_their_rights_is_found_by_their_address_and_nobody_is_made(
    subjects: Subjects,
) -> None:
    body = {"controller": "controller", "identifier": {"kind": "email", "value": "ADA@Example.org"}}
    assert (await subjects.post("find", body, "compliance")).status_code == 404
    assert await subjects.superuser.fetchval("select count(*) from subjects.subject") == 0
    subject = await subjects.subject(ADA)
    assert (await subjects.post("find", body, "compliance")).json() == {"subject": subject}
    assert (await subjects.post("find", body, "newsletter")).status_code == 403
    await subjects.erase(subject)
    assert (await subjects.post("find", body, "compliance")).status_code == 404
