"""Keys and peppers in rotation: nobody becomes a stranger, nobody on the list gets off it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from services.subjects import handlers
from services.subjects.keys import KeyEncryption, Peppers
from shared.errors import Corrupt
from tests.integration.subjects.conftest import Subjects, key

Item = Callable[..., dict[str, Any]]

OLD = Peppers({1: key("pepper-1")})
BOTH = Peppers({1: key("pepper-1"), 2: key("pepper-2")})


def wrapping(*numbers: int) -> KeyEncryption:
    return KeyEncryption(lambda: {number: key(f"kek-{number}") for number in numbers}, os.urandom)


async def test_a_subject_is_found_under_an_older_pepper_and_indexed_under_the_newest_when_touched(
    subjects: Subjects,
) -> None:
    ada, eve = await subjects.subject("ada@example.org"), await subjects.subject("eve@example.org")
    subjects.use(await subjects.with_keys(peppers=BOTH))
    assert await subjects.subject("Ada@example.org") == ada
    rows = await subjects.superuser.fetch("select subject, pepper from subjects.identifier order by pepper, subject")
    assert {(row["subject"], row["pepper"]) for row in rows} == {(ada, 1), (eve, 1), (ada, 2)}


async def test_processes_with_and_without_the_newest_pepper_agree_on_new_addresses(subjects: Subjects) -> None:
    old = subjects.parts
    new = await subjects.with_keys(peppers=BOTH)
    for number in range(6):
        address = f"ada{number}@example.org"
        found = []
        for parts in (new, old) if number % 2 else (old, new):
            subjects.use(parts)
            found.append(await subjects.subject(address))
        assert len(set(found)) == 1


async def test_processes_with_and_without_the_newest_pepper_agree_at_the_same_moment(subjects: Subjects) -> None:
    from shared.contact_points import parse_email  # noqa: PLC0415

    new = await subjects.with_keys(peppers=BOTH)
    contact = parse_email("ada@example.org")
    answers = await asyncio.gather(
        *(handlers.seal(new if number % 2 else subjects.parts, "controller", contact, []) for number in range(20))
    )
    assert len({subject for subject, _ in answers}) == 1


async def test_a_suppression_is_found_across_peppers_in_every_order(subjects: Subjects) -> None:
    old, new = subjects.parts, await subjects.with_keys(peppers=BOTH)
    ada = await subjects.subject("ada@example.org")
    await subjects.record(ada, "ConsentWithdrawn", 1)
    subjects.use(new)
    assert not await subjects.may_advertise(ada)
    await subjects.subject("ada@example.org")
    assert not await subjects.may_advertise(ada)
    await subjects.record(ada, "ConsentGiven", 2)
    for parts in (old, new):
        subjects.use(parts)
        assert await subjects.may_advertise(ada)
    subjects.use(old)
    await subjects.record(ada, "ConsentWithdrawn", 3)
    subjects.use(new)
    assert not await subjects.may_advertise(ada)


async def test_somebody_erased_who_comes_back_after_a_rotation_is_still_suppressed(subjects: Subjects) -> None:
    ada = await subjects.subject("ada@example.org")
    await subjects.record(ada, "ConsentWithdrawn", 1)
    await subjects.delete(ada)
    subjects.use(await subjects.with_keys(peppers=BOTH))
    again = await subjects.subject("ada@example.org")
    assert not await subjects.may_advertise(again)
    peppers = await subjects.superuser.fetch("select pepper from subjects.suppression order by pepper")
    assert [row["pepper"] for row in peppers] == [1, 2]


async def test_rotation_brings_every_living_subject_to_the_newest_keys(subjects: Subjects, item: Item) -> None:
    one = item(a=1)
    sealed = await subjects.seal("ada@example.org", one)
    for number in range(5):
        await subjects.subject(f"eve{number}@example.org")
    gone = await subjects.subject("bob@example.org")
    await subjects.delete(gone)
    await subjects.record(sealed["subject"], "ConsentWithdrawn", 1)
    new = await subjects.with_keys(peppers=BOTH, encryption=wrapping(1, 2))
    assert await handlers.rotate(new) == 12 + 6
    assert await handlers.rotate(new) == 0
    assert await subjects.superuser.fetchval("select array_agg(distinct kek) from subjects.subject_key") == [2]
    assert await subjects.superuser.fetchval("select count(*) from subjects.identifier where pepper = 2") == 6
    assert await subjects.superuser.fetchval("select count(*) from subjects.suppression where pepper = 2") == 1
    subjects.use(await subjects.with_keys(peppers=BOTH, encryption=wrapping(2)))
    assert await subjects.seal("ada@example.org", one) == sealed
    assert not await subjects.may_advertise(sealed["subject"])


async def test_a_key_that_was_wrapped_under_a_destroyed_key_stops_the_process(subjects: Subjects) -> None:
    ada = await subjects.subject("ada@example.org")
    subjects.use(await subjects.with_keys(encryption=wrapping(2)))
    answer = await subjects.open(ada, scope="transactional")
    assert answer.status_code == 500
    with pytest.raises(Corrupt):
        await handlers.open_subject(subjects.parts, ada, [], None)


@pytest.mark.parametrize(
    "peppers", [Peppers({2: key("pepper-2")}), Peppers({1: key("another")}), Peppers({1: key("pepper-2")})]
)
async def test_nothing_starts_without_a_pepper_that_was_used(subjects: Subjects, peppers: Peppers) -> None:
    with pytest.raises(Corrupt):
        await subjects.with_keys(peppers=peppers)


async def test_a_start_with_the_same_or_more_peppers_is_fine_and_can_be_repeated(subjects: Subjects) -> None:
    for peppers in (OLD, BOTH, BOTH):
        await subjects.with_keys(peppers=peppers)
    assert await subjects.superuser.fetchval("select count(*) from subjects.pepper") == 2
