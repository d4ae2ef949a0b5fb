"""Suppression: put up by every recorded no, taken down only by a recorded yes, and not forgotten with the person."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest

from services.subjects.worker import Fold
from shared.client import ServiceClient
from shared.events import EVERYTHING, Standing, purpose_matter
from shared.follower import Follower
from shared.follower import follower as follower_module
from shared.kafka import Consumer
from tests.integration.subjects.conftest import Subjects

WORDS = [("ConsentGiven", 1), ("ConsentWithdrawn", 2), ("ConsentGiven", 3), ("ConsentWithdrawn", 4)]


async def test_nobody_is_on_the_list_at_first_nor_by_agreeing(subjects: Subjects) -> None:
    ada = await subjects.subject("ada@example.org")
    assert await subjects.may_advertise(ada)
    await subjects.record(ada, "ConsentGiven", 1)
    assert await subjects.may_advertise(ada)
    assert await subjects.superuser.fetchval("select count(*) from subjects.suppression") == 0


async def test_a_withdrawal_suppresses_its_purpose_and_a_new_consent_lifts_it(subjects: Subjects) -> None:
    ada, eve = await subjects.subject("ada@example.org"), await subjects.subject("eve@example.org")
    await subjects.record(ada, "ConsentWithdrawn", 1)
    assert not await subjects.may_advertise(ada)
    assert await subjects.may_advertise(ada, "measurement")
    assert await subjects.may_advertise(eve)
    await subjects.record(ada, "ConsentGiven", 2)
    assert await subjects.may_advertise(ada)
    await subjects.record(ada, "ConsentWithdrawn", 3)
    assert not await subjects.may_advertise(ada)


async def test_a_confirmation_mail_is_not_advertising(subjects: Subjects) -> None:
    ada = await subjects.subject("ada@example.org")
    await subjects.record(ada, "ConsentWithdrawn", 1, scope="everything", purpose=None, channel=None)
    assert (await subjects.open(ada, scope="transactional")).status_code == 200
    refused = await subjects.open(ada)
    assert (refused.status_code, refused.json()["error"]) == (403, "suppressed")
    assert "ada" not in refused.text


async def test_a_proven_refusal_and_a_consent_that_ran_out_suppress(subjects: Subjects) -> None:
    for number, name in enumerate(("ConsentRefused", "ConsentExpired")):
        subject = await subjects.subject(f"ada{number}@example.org")
        await subjects.record(subject, name, 1, stage="asked")
        assert await subjects.may_advertise(subject)
        await subjects.record(subject, name, 1, stage="proven")
        assert not await subjects.may_advertise(subject)


async def test_a_consent_that_came_too_late_lifts_nothing(subjects: Subjects) -> None:
    ada = await subjects.subject("ada@example.org")
    await subjects.record(ada, "ConsentWithdrawn", 5)
    await subjects.record(ada, "ConsentGiven", 5)
    await subjects.record(ada, "ConsentGiven", 4)
    assert not await subjects.may_advertise(ada)


async def test_a_strangers_sign_up_lifts_nothing(subjects: Subjects) -> None:
    ada = await subjects.subject("ada@example.org")
    await subjects.record(ada, "ConsentWithdrawn", 1)
    await subjects.record(ada, "ConsentRequested", 2)
    await subjects.record(ada, "ConsentExpired", 3, stage="asked")
    assert not await subjects.may_advertise(ada)


async def test_after_a_withdrawal_of_everything_a_new_consent_exempts_its_purpose_only(subjects: Subjects) -> None:
    ada = await subjects.subject("ada@example.org")
    everything: dict[str, Any] = {"scope": "everything", "purpose": None, "channel": None}
    await subjects.record(ada, "ConsentWithdrawn", 1, **everything)
    for purpose in ("newsletter", "measurement", "a-purpose-of-next-year"):
        assert not await subjects.may_advertise(ada, purpose)
    await subjects.record(ada, "ConsentGiven", 1)
    assert not await subjects.may_advertise(ada)
    await subjects.record(ada, "ConsentGiven", 2)
    assert await subjects.may_advertise(ada)
    assert not await subjects.may_advertise(ada, "measurement")
    await subjects.record(ada, "ConsentWithdrawn", 3, **everything)
    assert not await subjects.may_advertise(ada)


async def test_an_index_folded_twice_changes_nothing(subjects: Subjects) -> None:
    ada = await subjects.subject("ada@example.org")
    await subjects.record(ada, "ConsentWithdrawn", 1, index=7)
    await subjects.record(ada, "ConsentGiven", 2, index=8)
    before = await subjects.superuser.fetch("select * from subjects.suppression")
    await subjects.record(ada, "ConsentWithdrawn", 1, index=7)
    await subjects.record(ada, "ConsentGiven", 2, index=8)
    assert await subjects.may_advertise(ada)
    assert await subjects.superuser.fetch("select * from subjects.suppression") == before


async def test_suppression_survives_the_deletion_of_everything_about_a_person(subjects: Subjects) -> None:
    ada, eve = await subjects.subject("ada@example.org"), await subjects.subject("eve@example.org")
    await subjects.record(ada, "ConsentWithdrawn", 1)
    await subjects.record(eve, "ConsentWithdrawn", 1, scope="everything", purpose=None, channel=None)
    await subjects.delete(ada)
    await subjects.delete(eve)
    again, eve_again = await subjects.subject("ada@example.org"), await subjects.subject("eve@example.org")
    assert again != ada
    assert not await subjects.may_advertise(again)
    assert await subjects.may_advertise(again, "measurement")
    assert not await subjects.may_advertise(eve_again, "measurement")
    await subjects.record(again, "ConsentGiven", 1)
    assert await subjects.may_advertise(again)


async def test_the_list_refers_to_no_subject_and_shows_no_two_rows_of_one_person(subjects: Subjects) -> None:
    ada = await subjects.subject("ada@example.org")
    await subjects.record(ada, "ConsentWithdrawn", 1)
    await subjects.record(ada, "ConsentWithdrawn", 1, purpose="measurement")
    rows = await subjects.superuser.fetch("select * from subjects.suppression")
    index = await subjects.superuser.fetchval("select digest from subjects.identifier")
    assert len({row["digest"] for row in rows} | {index}) == 3
    assert set(rows[0].keys()) == {"pepper", "digest", "purpose", "channel", "suppressed", "ordinal", "since"}
    references = await subjects.superuser.fetch(
        "select confrelid::regclass::text from pg_constraint where conrelid = 'subjects.suppression'::regclass "
        "and contype = 'f'"
    )
    assert [row[0] for row in references] == ["subjects.pepper"]


async def test_a_recorded_word_of_somebody_deleted_already_is_folded_without_a_trace(subjects: Subjects) -> None:
    ada = await subjects.subject("ada@example.org")
    await subjects.delete(ada)
    await subjects.record(ada, "ConsentWithdrawn", 1)
    assert await subjects.superuser.fetchval("select count(*) from subjects.suppression") == 0
    assert await subjects.superuser.fetchval("select count(*) from subjects.word") == 0


@pytest.mark.parametrize("seed", range(6))
async def test_suppression_agrees_with_the_standing_after_every_word_of_any_history(
    subjects: Subjects, seed: int
) -> None:
    chance = random.Random(seed)
    ada, standing = await subjects.subject("ada@example.org"), Standing({})
    for index in range(14):
        purpose = chance.choice(["newsletter", "measurement"])
        words: list[tuple[str, dict[str, Any]]] = [
            ("ConsentGiven", {"purpose": purpose}),
            ("ConsentGiven", {"purpose": purpose}),
            ("ConsentWithdrawn", {"purpose": purpose}),
            ("ConsentWithdrawn", {"scope": "everything", "purpose": None, "channel": None}),
            ("ConsentRefused", {"purpose": purpose, "stage": "proven"}),
            ("ConsentExpired", {"purpose": purpose, "stage": chance.choice(["asked", "proven"])}),
        ]
        name, data = chance.choice(words)
        statement = await subjects.record(ada, name, index + chance.randrange(4), index=index, **data)
        standing, _ = standing.apply(statement, index)
        for one in ("newsletter", "measurement"):
            said = standing.words.keys() & {EVERYTHING, purpose_matter(one, "email")}
            assert await subjects.may_advertise(ada, one) == (not said or standing.permits(one, "email"))


@pytest.mark.parametrize("seed", range(4))
async def test_words_folded_at_once_amount_to_what_they_amount_to_one_after_the_other(
    subjects: Subjects, seed: int
) -> None:
    chance = random.Random(seed)
    people = [await subjects.subject(f"{name}@example.org") for name in ("ada", "eve", "bob")]
    records = []
    for index in range(40):
        name, data = chance.choice(
            [
                ("ConsentGiven", {"purpose": chance.choice(["newsletter", "measurement"])}),
                ("ConsentWithdrawn", {"purpose": chance.choice(["newsletter", "measurement"])}),
                ("ConsentWithdrawn", {"scope": "everything", "purpose": None, "channel": None}),
                ("ConsentRequested", {}),
            ]
        )
        records.append(subjects.recorded(chance.choice(people), name, chance.randrange(40), index, **data))

    async def folded(size: int) -> list[list[tuple[object, ...]]]:
        fold, found = Fold(subjects.parts.peppers), []
        with suppress(LookupError):
            async with subjects.parts.db.transaction() as tx:
                for start in range(0, len(records), size):
                    await fold.apply(tx, records[start : start + size])
                words = await tx.fetch("select * from word order by subject, matter")
                # Ordinals are only compared with each other.
                listed = await tx.fetch("select digest, purpose, suppressed, since from suppression order by ordinal")
                found = [[tuple(row) for row in rows] for rows in (words, listed)]
                raise LookupError  # roll back
        return found

    one_by_one = await folded(1)
    assert await folded(7) == await folded(len(records)) == one_by_one
    assert all(one_by_one)


async def test_the_service_s_own_role_may_fold_and_folds_each_index_once(subjects: Subjects) -> None:
    """Position and suppression move in one transaction, under the grants of the migration."""
    ada = await subjects.subject("ada@example.org")
    history = [subjects.recorded(ada, name, second, index) for index, (name, second) in enumerate(WORDS)]
    follower = Follower(
        "subjects",
        subjects.parts.db,
        lambda _partitions, _positions: Consumer("127.0.0.1:9", "consent.recorded", [0]),
        ServiceClient("http://127.0.0.1:9", "subjects:none"),
        b"publisher key",
        {0: "localhost/ledger/log/0"},
        [0],
        Fold(subjects.parts.peppers).apply,
    )
    await subjects.parts.db.execute(follower_module._KNOWN, [0])
    for part in (history[:2], history[1:], history[:1], history):
        await follower._fold(0, part)
    assert await subjects.superuser.fetchval("select next from subjects.position") == len(history)
    assert not await subjects.may_advertise(ada)
    assert await subjects.superuser.fetchval("select count(*) from subjects.suppression") == 1
