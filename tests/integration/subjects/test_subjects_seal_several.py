"""Sealing for several people in one call: each as if it had been asked for alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.subjects.keys import Peppers
from shared.client import Response
from shared.errors import Refused, Unavailable
from shared.sealing import SealTogether, base64url
from tests.integration.subjects.conftest import Subjects, key

Item = Callable[..., dict[str, Any]]


def ask(address: str, *items: dict[str, Any]) -> dict[str, Any]:
    return {"identifier": {"kind": "email", "value": address}, "items": list(items)}


async def several(subjects: Subjects, *asks: dict[str, Any]) -> list[Any]:
    answer = await subjects.post("seal/several", {"controller": "controller", "asks": list(asks)})
    assert answer.status_code == 200, answer.text
    answers: list[Any] = answer.json()["answers"]
    return answers


async def test_each_is_answered_as_if_it_were_alone(subjects: Subjects, item: Item) -> None:
    known = await subjects.subject("known@example.org")
    asks = [ask(f"{name}@example.org", item(of=name), item("brief", of=name)) for name in ("ada", "known", "bob")]
    answers = await several(subjects, *asks)
    assert answers[1]["subject"] == known
    assert len({one["subject"] for one in answers}) == 3
    for one, answer in zip(asks, answers, strict=True):
        assert await subjects.seal(one["identifier"]["value"], *one["items"]) == answer
    assert await several(subjects, *asks) == answers


async def test_one_that_is_refused_leaves_the_others_alone(subjects: Subjects, item: Item) -> None:
    sealed, taken = item(a=1), item(a=2)
    await subjects.seal("ada@example.org", sealed)
    answers = await several(
        subjects,
        ask("bob@example.org", taken),
        ask("ada@example.org", {**sealed, "fields": {"a": 3}}),
        ask("eve@example.org", item(a=4)),
    )
    assert [one is None for one in answers] == [False, True, False]
    assert await subjects.superuser.fetchval("select count(*) from subjects.compartment") == 3


async def test_one_address_twice_is_one_person(subjects: Subjects, item: Item) -> None:
    answers = await several(subjects, ask("ada@example.org", item(a=1)), ask(" Ada@EXAMPLE.org", item(a=2)))
    assert answers[0]["subject"] == answers[1]["subject"]
    assert await subjects.superuser.fetchval("select count(*) from subjects.subject") == 1


async def test_one_compartment_twice_is_sealed_once(subjects: Subjects, item: Item) -> None:
    one = item(a=1)
    answers = await several(subjects, ask("ada@example.org", one), ask("bob@example.org", {**one, "fields": {"a": 2}}))
    assert [answer is None for answer in answers] == [False, True]


async def test_many_calls_for_the_same_new_people_make_one_pseudonym_each(subjects: Subjects, item: Item) -> None:
    people = [f"p{number}@example.org" for number in range(6)]

    async def call(turn: int) -> list[Any]:
        return await several(subjects, *(ask(one, item(n=turn)) for one in (people if turn % 2 else people[::-1])))

    answers = await asyncio.gather(*(call(turn) for turn in range(8)))
    assert len({one["subject"] for answer in answers for one in answer}) == len(people)
    assert await subjects.superuser.fetchval("select count(*) from subjects.subject") == len(people)


async def test_while_a_pepper_rotates_everybody_is_found_under_both(subjects: Subjects, item: Item) -> None:
    before = await subjects.subject("ada@example.org")
    peppers = Peppers({**subjects.parts.peppers.by_number, 9: key("a newer pepper")})
    await subjects.superuser.execute("insert into subjects.pepper values (9, $1)", peppers.fingerprints()[9])
    subjects.use(replace(subjects.parts, peppers=peppers))
    answers = await several(subjects, ask("ada@example.org", item(a=1)), ask("bob@example.org", item(a=2)))
    assert answers[0]["subject"] == before
    assert await subjects.superuser.fetchval("select count(*) from subjects.identifier") == 4


async def test_what_is_no_address_seals_nothing(subjects: Subjects, item: Item) -> None:
    asks = [ask("ada@example.org", item(a=1)), ask("no address", item(a=2))]
    answer = await subjects.post("seal/several", {"controller": "controller", "asks": asks})
    assert answer.status_code == 400
    assert await subjects.superuser.fetchval("select count(*) from subjects.subject") == 0


@dataclass
class Caller:
    """The real door, and how it was asked."""

    subjects: Subjects
    paths: list[str] = field(default_factory=list)
    down: bool = False

    async def post(self, path: str, *, json: object = None) -> Response:
        self.paths.append(path)
        if self.down:
            raise Unavailable("subjects")
        answer = await self.subjects.post(path.removeprefix("/subjects/"), json)
        if answer.status_code >= 400:
            raise Refused(answer.json()["error"], answer.json()["message"], status=answer.status_code)
        return Response(answer.status_code, answer.content)

    async def put(self, path: str, *, data: bytes | None = None) -> Response:  # noqa: ARG002
        raise AssertionError(path)


def identifier(address: str) -> dict[str, str]:
    return {"kind": "email", "value": address}


async def sealed(together: SealTogether, items: Sequence[dict[str, Any]], address: str) -> tuple[str, list[str]]:
    subject, parts = await together.seal(items, identifier(address))
    return subject, [base64url(one.ciphertext) for one in parts]


async def test_who_comes_while_others_are_sealed_for_goes_with_the_next(subjects: Subjects, item: Item) -> None:
    caller = Caller(subjects)
    together = SealTogether(caller, "controller")
    people = {f"p{number}@example.org": [item(n=number), item("brief", n=number)] for number in range(20)}
    answers = await asyncio.gather(*(sealed(together, items, one) for one, items in people.items()))
    assert len(caller.paths) < len(people) / 2
    for (one, items), (subject, ciphertexts) in zip(people.items(), answers, strict=True):
        alone = await subjects.seal(one, *items)
        assert (subject, ciphertexts) == (alone["subject"], [part["ciphertext"] for part in alone["items"]])


async def test_each_hears_its_own_refusal_and_nobody_anothers(subjects: Subjects, item: Item) -> None:
    one = item(a=1)
    await subjects.seal("ada@example.org", one)
    together = SealTogether(Caller(subjects), "controller")
    answers = await asyncio.gather(
        *(sealed(together, [item(n=number)], f"p{number}@example.org") for number in range(4)),
        sealed(together, [{**one, "fields": {"a": 2}}], "ada@example.org"),
        sealed(together, [item(a=3)], "no address"),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [tuple] * 4 + [Refused] * 2
    assert [answer.status for answer in answers[4:] if isinstance(answer, Refused)] == [409, 400]


async def test_when_subjects_are_down_everybody_hears_it_and_the_next_are_sealed_for(
    subjects: Subjects, item: Item
) -> None:
    caller = Caller(subjects, down=True)
    together = SealTogether(caller, "controller")
    answers = await asyncio.gather(
        *(sealed(together, [item(n=number)], f"p{number}@example.org") for number in range(5)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [Unavailable] * 5
    caller.down = False
    subject, _ = await sealed(together, [item(n=9)], "p0@example.org")
    assert subject == await subjects.subject("p0@example.org")


async def test_who_gives_up_takes_nobody_along(subjects: Subjects, item: Item) -> None:
    together = SealTogether(Caller(subjects), "controller")
    waiting = [asyncio.create_task(sealed(together, [item(n=number)], f"p{number}@example.org")) for number in range(6)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[4].cancel()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(answer, tuple) for answer in answers] == [False, True, True, True, False, True]
    with pytest.raises(asyncio.CancelledError):
        waiting[0].result()
