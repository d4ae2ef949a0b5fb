"""All SQL of erasure, one function per query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.database import Queries, Row


@dataclass(frozen=True, slots=True)
class Order:
    """One order as its row has it."""

    request: str
    subject: str
    statement: str
    evidence_until: datetime | None
    ended: str | None
    ordered_at: datetime
    completed: str | None
    completed_at: datetime | None
    receipt_key: bytes | None


@dataclass(frozen=True, slots=True)
class Task:
    """How far one holder is."""

    holder: str
    state: str
    statement: str | None
    found: int | None


def _order(row: Row) -> Order:
    return Order(
        str(row["request"]),
        row["subject"],
        str(row["statement"]),
        row["evidence_until"],
        row["ended"],
        row["ordered_at"],
        None if row["completed"] is None else str(row["completed"]),
        row["completed_at"],
        row["receipt_key"],
    )


async def lock_subject(tx: Queries, subject: str) -> None:
    """Two orders for one person come one after the other."""
    await tx.execute("select pg_advisory_xact_lock(hashtextextended($1, 3))", subject)


async def order_of(db: Queries, subject: str) -> Order | None:
    row = await db.fetchrow("select * from erasure_order where subject = $1", subject)
    return None if row is None else _order(row)


async def order(db: Queries, request: str) -> Order | None:
    row = await db.fetchrow("select * from erasure_order where request = $1", request)
    return None if row is None else _order(row)


async def put_order(tx: Queries, new: Order, holders: Sequence[str]) -> None:
    await tx.execute(
        """
        with ordered as (
            insert into erasure_order
                (request, subject, statement, evidence_until, ordered_at, receipt_key)
            values ($1, $2, $3, $4, $5, $6)
        )
        insert into task (request, holder) select $1, * from unnest($7::text[])
        """,
        new.request,
        new.subject,
        new.statement,
        new.evidence_until,
        new.ordered_at,
        new.receipt_key,
        list(holders),
    )


async def open_orders(db: Queries, limit: int) -> list[Order]:
    """Orders that stand in the log and of which a holder is not done, or it is not said yet that all are."""
    rows = await db.fetch(
        """
        select o.* from (
            select request from erasure_order where completed is null
            union select request from task where state <> 'recorded' or found is distinct from 0
        ) wanted join erasure_order o using (request) left join outbox s on s.id = o.statement
        where s.id is null or (s.sealed_at is not null and s.result <> 'rejected')
        order by o.ordered_at limit $1
        """,
        limit,
    )
    return [_order(row) for row in rows]


async def tasks(db: Queries, request: str) -> list[Task]:
    rows = await db.fetch("select holder, state, statement, found from task where request = $1", request)
    return [
        Task(row["holder"], row["state"], None if row["statement"] is None else str(row["statement"]), row["found"])
        for row in rows
    ]


async def put_answer(
    db: Queries, request: str, holder: str, state: str, statement: str | None, found: int, now: datetime
) -> None:
    await db.execute(
        "update task set state = $3, statement = $4, found = $5, asked_at = $6 where request = $1 and holder = $2",
        request,
        holder,
        state,
        statement,
        found,
        now,
    )


async def hold(tx: Queries, request: str, until: datetime) -> Order | None:
    """Hold what proves until then at least, and have every holder told; None if there is no such order, or nothing is
    held any more."""
    row = await tx.fetchrow(
        """
        with again as (update task set state = 'waiting', found = null where request = $1)
        update erasure_order set evidence_until = greatest(evidence_until, $2)
        where request = $1 and evidence_until > clock_timestamp() returning *
        """,
        request,
        until,
    )
    return None if row is None else _order(row)


async def ask_again(db: Queries, request: str) -> None:
    """Have every holder looked at once more: a backup may have brought something back."""
    await db.execute("update task set state = 'waiting', found = null where request = $1", request)


async def put_ended(db: Queries, request: str, ended: str) -> None:
    await db.execute("update erasure_order set ended = $2 where request = $1 and ended is null", request, ended)


async def put_completed(tx: Queries, request: str, statement: str, now: datetime) -> bool:
    """False if it was completed already."""
    row = await tx.fetchrow(
        """update erasure_order set completed = $2, completed_at = $3
           where request = $1 and completed is null returning 1""",
        request,
        statement,
        now,
    )
    return row is not None


async def waiting(db: Queries, holders: Sequence[str]) -> list[Row]:
    """Of how many orders each holder still owes its receipt: holder, number."""
    return await db.fetch(
        """
        select h.holder, count(o.request) as number
        from unnest($1::text[]) h (holder)
            left join task t on t.holder = h.holder and t.state <> 'recorded'
            left join erasure_order o on o.request = t.request and o.completed is null
        group by h.holder
        """,
        holders,
    )


async def oldest_open(db: Queries) -> float:
    """For how many seconds the oldest order that is not completed waits; 0 if none does."""
    return float(
        await db.fetchval(
            """select coalesce(extract(epoch from clock_timestamp() - min(ordered_at)), 0)::float8
               from erasure_order where completed is null"""
        )
    )
