"""All of marketing's SQL, one function a query."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shared.events import EVERYTHING, Standing, Word, purpose_matter
from shared.events.standing import VALID_STATUS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from shared.database import Database, Transaction

Row = Any


def _standing(rows: Sequence[Row]) -> Standing:
    return Standing(
        {row["matter"]: Word(row["status"], str(row["statement"]), row["index"], row["restricted_at"]) for row in rows}
    )


async def standing_for_update(tx: Transaction, subject: str) -> Standing:
    return _standing(await tx.fetch("select * from word where subject = $1 order by matter for update", subject))


async def standing_for_share(tx: Transaction, subject: str) -> Standing:
    return _standing(await tx.fetch("select * from word where subject = $1 order by matter for share", subject))


async def put_word(tx: Transaction, subject: str, matter: str, word: Word, language: str | None) -> None:
    await tx.execute(
        """
        insert into word (subject, matter, status, statement, index, restricted_at, language)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (subject, matter) do update
        set status = excluded.status, statement = excluded.statement, index = excluded.index,
            restricted_at = excluded.restricted_at, language = coalesce(excluded.language, word.language)
        """,
        subject, matter, word.status, word.statement, word.index, word.restricted_at, language,
    )  # fmt: skip


async def void_permits(tx: Transaction, subject: str, matter: str | None, now: datetime) -> None:
    """Void what was granted and not yet used; `matter` None is everything."""
    await tx.execute(
        """
        update permit set voided_at = $3
        where subject = $1 and ($2::text is null or matter = $2)
          and decision = 'granted' and redeemed_at is null and voided_at is null and finished_at is null
        """,
        subject, matter, now,
    )  # fmt: skip


async def in_transmission(tx: Transaction, subject: str, matter: str | None) -> Sequence[Row]:
    """Messages whose permit was used and whose end is not known yet: they may still arrive."""
    return await tx.fetch(
        """
        select message_id from permit
        where subject = $1 and ($2::text is null or matter = $2)
          and decision = 'granted' and redeemed_at is not null and finished_at is null and voided_at is null
        order by redeemed_at
        """,
        subject, matter,
    )  # fmt: skip


async def put_effect(
    tx: Transaction, statement: str, shard: int, index: int, now: datetime, message_ids: list[str]
) -> None:
    await tx.execute(
        "insert into effect values ($1, $2, $3, $4, $5) on conflict (statement) do nothing",
        statement, shard, index, now, message_ids,
    )  # fmt: skip


async def effect(db: Database, statement: str) -> Row | None:
    return await db.fetchrow("select * from effect where statement = $1", statement)


async def applied(tx: Transaction, shard: int) -> int:
    """How many leaves of a shard are folded."""
    return int(await tx.fetchval("select next from position where shard = $1", shard) or 0)


async def permit_of_attempt(tx: Transaction, message_id: str, attempt: int) -> Row | None:
    return await tx.fetchrow("select * from permit where message_id = $1 and attempt = $2", message_id, attempt)


async def put_permit(tx: Transaction, permit: Mapping[str, Any]) -> bool:
    """Store the answer to a request for a permit; False if this attempt was answered meanwhile."""
    return (
        await tx.fetchval(
            """
            insert into permit (id, subject, matter, message_id, attempt, decision, reason, relied_on,
                                shard, size, all_before, issued_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
            on conflict (message_id, attempt) do nothing returning true
            """,
            permit["id"], permit["subject"], permit["matter"], permit["message_id"], permit["attempt"],
            permit["decision"], permit["reason"], permit["relied_on"], permit["shard"], permit["size"],
            permit["all_before"], permit["issued_at"],
        )
        is not None
    )  # fmt: skip


async def redeem(tx: Transaction, permit: str, not_older_than: datetime, now: datetime) -> Row | None:
    """Use a permit, once: None if it is voided, used or too old."""
    return await tx.fetchrow(
        """
        update permit set redeemed_at = $3
        where id = $1 and decision = 'granted' and redeemed_at is null and voided_at is null and finished_at is null
          and issued_at >= $2
        returning *
        """,
        permit, not_older_than, now,
    )  # fmt: skip


async def finish_permit(tx: Transaction, permit: str, now: datetime) -> None:
    await tx.execute("update permit set finished_at = $2 where id = $1", permit, now)


async def put_campaign(
    tx: Transaction, name: str, purpose: str, channel: str, texts: dict[str, Any], now: datetime
) -> bool:
    """Store a campaign; False if one of this name exists."""
    return (
        await tx.fetchval(
            "insert into campaign values ($1, $2, $3, $4::jsonb, $5) on conflict (name) do nothing returning true",
            name, purpose, channel, json.dumps(texts), now,
        )
        is not None
    )  # fmt: skip


async def campaign(db: Database | Transaction, name: str) -> Row | None:
    return await db.fetchrow("select * from campaign where name = $1", name)


async def audience(tx: Transaction, purpose: str, channel: str) -> Sequence[Row]:
    """Subjects whose consent for this purpose and channel is in force, with their language."""
    return await tx.fetch(
        """
        select w.subject, w.language from word w
        left join word e on e.subject = w.subject and e.matter = $2
        where w.matter = $1 and w.status = any($3::text[])
          and (e.subject is null or e.status = any($3::text[]) or e.index < w.index)
        order by w.subject
        """,
        purpose_matter(purpose, channel), EVERYTHING, sorted(VALID_STATUS),
    )  # fmt: skip


async def put_deliveries(tx: Transaction, name: str, rows: Sequence[tuple[str, str, str]], now: datetime) -> None:
    """One waiting delivery per (statement id, subject, language)."""
    await tx.execute(
        """
        insert into delivery (statement, campaign, subject, language, not_before)
        select s, $1, u, l, $5 from unnest($2::uuid[], $3::text[], $4::text[]) as t(s, u, l)
        """,
        name, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], now,
    )  # fmt: skip


async def campaign_counts(db: Database | Transaction, name: str) -> dict[str, int]:
    rows = await db.fetch("select state, count(*) as n from delivery where campaign = $1 group by state", name)
    return {row["state"]: row["n"] for row in rows}


async def next_delivery(db: Database, now: datetime) -> Row | None:
    return await db.fetchrow(
        """
        select d.*, c.purpose, c.channel, c.texts, c.created_at from delivery d join campaign c on c.name = d.campaign
        where d.state = 'waiting' and d.not_before <= $1 order by d.not_before, d.statement limit 1
        """,
        now,
    )


async def next_delivery_at(db: Database) -> datetime | None:
    at: datetime | None = await db.fetchval("select min(not_before) from delivery where state = 'waiting'")
    return at


async def interrupted(db: Database) -> Sequence[Row]:
    """Deliveries whose process died between handing the mail over and storing the answer."""
    return await db.fetch(
        "select d.*, c.purpose, c.channel from delivery d join campaign c on c.name = d.campaign"
        " where d.state = 'attempted' order by d.statement"
    )


async def postpone(tx: Database | Transaction, statement: str, attempt: int, not_before: datetime, reason: str) -> None:
    await tx.execute(
        "update delivery set state = 'waiting', attempt = $2, not_before = $3, reason = $4 where statement = $1",
        statement, attempt, not_before, reason,
    )  # fmt: skip


async def mark_attempted(tx: Transaction, statement: str, attempt: int, permit: str, used: str) -> None:
    await tx.execute(
        "update delivery set state = 'attempted', attempt = $2, permit = $3, used = $4 where statement = $1",
        statement, attempt, permit, used,
    )  # fmt: skip


async def finish_delivery(tx: Database | Transaction, statement: str, state: str, reason: str | None) -> None:
    await tx.execute("update delivery set state = $2, reason = $3 where statement = $1", statement, state, reason)


async def forget_permits(db: Database, before: datetime) -> None:
    """Delete old permits whose use, if any, has ended."""
    await db.execute(
        "delete from permit where issued_at < $1 and (redeemed_at is null or finished_at is not null)", before
    )


async def audience_snapshot(db: Database) -> tuple[Sequence[Row], Sequence[Row], Sequence[Row]]:
    """Opted-in per purpose, statements per hour (the last 24), and how far Faust has counted, per shard."""
    opted_in = await db.fetch(
        "select purpose, channel, sum(opted_in)::bigint as opted_in from audience group by 1, 2 order by 1, 2"
    )
    hours = await db.fetch(
        "select hour, type, sum(count)::bigint as count from audience_hour"
        " where hour > now() - interval '24 hours' group by 1, 2 order by 1 desc, 2"
    )
    positions = await db.fetch("select shard, next, counted_at from audience_position order by shard")
    return opted_in, hours, positions
