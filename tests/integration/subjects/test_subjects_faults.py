"""Sealing when PostgreSQL fails at any call, or obeys and then fails: asking again always ends well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

import pytest

from services.subjects import handlers
from services.subjects.handlers import Parts, Plaintext
from shared.contact_points import parse_email
from shared.database import Database, Row, Transaction
from shared.errors import Unavailable
from tests.integration.subjects.conftest import Subjects, statement_id

Mode = Literal["failed", "took effect, then failed"]

MODES: Final[tuple[Mode, ...]] = ("failed", "took effect, then failed")


@dataclass
class Fault:
    """Strikes at the `at`th call, counted from 1; 0 never strikes and only counts."""

    at: int
    mode: Mode
    calls: int = 0

    async def around(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls == self.at and self.mode == "failed":
            raise Unavailable("postgresql")
        answer = await call()
        if self.calls == self.at:
            raise Unavailable("postgresql")
        return answer


class FaultyTransaction:
    """A transaction whose calls may fail."""

    def __init__(self, inner: Transaction, fault: Fault) -> None:
        self._inner, self._fault = inner, fault

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        return cast("list[Row]", await self._fault.around(lambda: self._inner.fetch(sql, *arguments)))

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        return cast("Row | None", await self._fault.around(lambda: self._inner.fetchrow(sql, *arguments)))

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self._fault.around(lambda: self._inner.fetchval(sql, *arguments))

    async def execute(self, sql: str, *arguments: Any) -> str:
        return cast("str", await self._fault.around(lambda: self._inner.execute(sql, *arguments)))


class FaultyDatabase:
    """A database whose transactions may fail to begin, in their midst, or in their commit."""

    def __init__(self, inner: Database, fault: Fault) -> None:
        self._inner, self._fault = inner, fault

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[FaultyTransaction]:
        self._fault.calls += 1
        fails_at_commit = self._fault.calls == self._fault.at
        if fails_at_commit and self._fault.mode == "failed":
            raise Unavailable("postgresql")
        async with self._inner.transaction() as tx:
            yield FaultyTransaction(tx, self._fault)
        if fails_at_commit:
            raise Unavailable("postgresql")


def faulty(parts: Parts, fault: Fault) -> Parts:
    return replace(parts, db=cast("Database", FaultyDatabase(parts.db, fault)))


async def test_a_seal_that_fails_anywhere_and_is_asked_again_answers_once_and_for_all(subjects: Subjects) -> None:
    async def scenario(number: int, fault: Fault) -> None:
        contact = parse_email(f"ada{number}@example.org")
        items = [Plaintext(statement_id(), name, b"{}") for name in ("evidence", "brief")]
        answers = []
        try:
            answers.append(await handlers.seal(faulty(subjects.parts, fault), "controller", contact, items))
        except Unavailable:
            assert fault.at > 0
        answers += [await handlers.seal(subjects.parts, "controller", contact, items) for _ in range(2)]
        assert all(answer == answers[0] for answer in answers)
        rows = await subjects.superuser.fetch(
            "select subject from subjects.compartment where statement = any($1::uuid[])",
            [item.statement for item in items],
        )
        assert [row["subject"] for row in rows] == [answers[0][0]] * 2

    counted = Fault(0, "failed")
    await scenario(0, counted)
    assert counted.calls > 3
    number = 0
    for mode in MODES:
        for at in range(1, counted.calls + 1):
            number += 1
            await scenario(number, Fault(at, mode))
    orphans = await subjects.superuser.fetchval(
        "select count(*) from subjects.subject where id not in (select subject from subjects.identifier)"
    )
    assert orphans == 0
    assert await subjects.superuser.fetchval("select count(*) from subjects.subject") == number + 1


async def test_several_seals_that_fail_anywhere_are_all_kept_or_none(subjects: Subjects) -> None:
    async def scenario(number: int, fault: Fault) -> None:
        asks = [
            (parse_email(f"{name}{number}@example.org"), [Plaintext(statement_id(), "evidence", b"{}")])
            for name in ("ada", "bob", "eve")
        ]
        count = "select count(*) from subjects.compartment where statement = any($1::uuid[])"
        try:
            await handlers.seal_several(faulty(subjects.parts, fault), "controller", asks)
        except Unavailable:
            kept = await subjects.superuser.fetchval(count, [items[0].statement for _, items in asks])
            assert kept in {0, 3}
        first = await handlers.seal_several(subjects.parts, "controller", asks)
        assert None not in first
        assert first == [await handlers.seal(subjects.parts, "controller", *ask) for ask in asks]

    counted = Fault(0, "failed")
    await scenario(0, counted)
    assert counted.calls > 3
    number = 0
    for mode in MODES:
        for at in range(1, counted.calls + 1):
            number += 1
            await scenario(number, Fault(at, mode))
    assert await subjects.superuser.fetchval("select count(*) from subjects.subject") == 3 * (number + 1)


async def test_a_disclosure_that_may_not_be_stored_gives_no_key(subjects: Subjects) -> None:
    item = Plaintext(statement_id(), "evidence", b"{}")
    subject, _ = await handlers.seal(subjects.parts, "controller", parse_email("ada@example.org"), [item])

    async def disclose(fault: Fault) -> list[bytes]:
        parts = faulty(subjects.parts, fault)
        places = [(item.statement, item.compartment)]
        return await handlers.disclose(parts, "compliance", subject, "evidence", "a test", places)

    counted = Fault(0, "failed")
    assert len(await disclose(counted)) == 1
    for mode in MODES:
        for at in range(1, counted.calls + 1):
            with pytest.raises(Unavailable):
                await disclose(Fault(at, mode))
    assert await subjects.superuser.fetchval("select count(*) from subjects.disclosure") == 2
