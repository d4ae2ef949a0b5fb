"""The fold on a real PostgreSQL: many records at once amount to what they amount to one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from services.marketing import projection, store
from shared.database import Transaction
from shared.events import Statement
from shared.follower import Recorded
from tests.integration.marketing.conftest import Marketing
from tests.unit.marketing.history import given, person, recorded, said, withdrawn, withdrawn_all

TABLES = {
    "standing": "subject",
    "word": "subject, matter",
    "followed": "statement",
    "effect": "statement",
    "permit": "id",
}


class _Enough(Exception):
    """Roll back."""


def history(chance: random.Random, people: Sequence[str], length: int) -> list[Statement | None]:
    """Words of several people, in no order of time, with the requests and mails that consents follow among them."""
    statements: list[Statement | None] = []
    for _ in range(length):
        subject, second = chance.choice(people), chance.randrange(length)
        purpose = chance.choice(["newsletter", "newsletter-clicks"])
        consent = given(subject, second, purpose, served=None) if chance.random() < 0.3 else given(subject, second)
        request, mail = consent.data.follows
        made: list[Callable[[], list[Statement | None]]] = [
            lambda consent=consent: [consent],
            lambda second=second, subject=subject, purpose=purpose: [withdrawn(subject, second, purpose)],
            lambda second=second, subject=subject: [withdrawn_all(subject, second)],
            lambda second=second, subject=subject: [said(subject, "ConsentExpired", second, stage="proven")],
            lambda second=second, subject=subject: [said(subject, "ConsentUsed", second)],
            lambda second=second, subject=subject, request=request, mail=mail, consent=consent: [
                said(subject, "ConsentRequested", second).model_copy(update={"id": request}),
                said(subject, "MessageSent", second, purpose=None, permit=None).model_copy(update={"id": mail}),
                consent,
            ],
            lambda: [None],
        ]
        statements += chance.choice(made)()
    return statements


async def folded(marketing: Marketing, batches: Sequence[Sequence[Recorded]]) -> dict[str, list[dict[str, Any]]]:
    """What the tables hold after these transactions' worth of records; then they are as they were."""
    found = {}
    with suppress(_Enough):
        async with marketing.db.transaction() as tx:
            for batch in batches:
                await projection.apply(tx, batch, marketing.register, marketing.now)
            found = {table: await _rows(tx, table, order) for table, order in TABLES.items()}
            raise _Enough
    return found


async def _rows(tx: Transaction, table: str, order: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await tx.fetch(f"select * from {table} order by {order}")]


@pytest.mark.parametrize("seed", range(8))
async def test_records_folded_at_once_amount_to_what_they_amount_to_one_after_the_other(
    marketing: Marketing, seed: int
) -> None:
    chance = random.Random(seed)
    people = [person() for _ in range(3)]
    await marketing.record(*(given(subject) for subject in people))
    for subject in people:
        for used in (True, False, True):
            permit = await marketing.ask(subject)
            if used and await marketing.redeem(permit) and chance.random() < 0.5:
                async with marketing.db.transaction() as tx:
                    await store.finish_permit(tx, permit.id, marketing.now - timedelta(hours=chance.randrange(2)))
    records = [recorded(one, index) for index, one in enumerate(history(chance, people, 30), len(people))]
    cuts = sorted(chance.sample(range(1, len(records)), 4))
    one_by_one = await folded(marketing, [[record] for record in records])
    assert await folded(marketing, [records]) == one_by_one
    assert await folded(marketing, [records[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]) == one_by_one
    assert all(one_by_one.values())


async def test_a_thousand_records_take_no_more_queries_than_one(marketing: Marketing) -> None:
    people = [person() for _ in range(100)]
    one = [given(people[0]), withdrawn(people[0], 1), said(people[0], "ConsentRequested")]
    many = [made for subject in people for made in (given(subject), withdrawn(subject, 1), *one[2:])]

    async def queries(statements: Sequence[Statement]) -> int:
        records = [recorded(statement, index) for index, statement in enumerate(statements)]
        counting = _Counting()
        async with marketing.db.transaction() as tx:
            counting.tx = tx
            await projection.apply(counting, records, marketing.register, marketing.now)  # type: ignore[arg-type]
        return counting.number

    assert await queries(one) == await queries(many)


class _Counting:
    """A transaction that counts what it is asked."""

    def __init__(self) -> None:
        self.tx: Any = None
        self.number = 0

    def __getattr__(self, name: str) -> Any:
        self.number += 1
        return getattr(self.tx, name)
