"""All of marketing's SQL, one function a query."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.database import Queries, Row, Transaction, affected
from shared.events import EVERYTHING, Standing, Word, purpose_matter
from shared.events.standing import VALID_STATUS
from shared.events.types import Attachment
from shared.identifiers import shard_of
from shared.register import Grade

# What is known of people


def _words(rows: Sequence[Row]) -> dict[str, Word]:
    return {
        row["matter"]: Word(row["status"], str(row["statement"]), row["index"], row["restricted_at"])
        for row in rows
        if row["matter"] is not None
    }


async def take_standings(tx: Transaction, newest: Mapping[str, int]) -> dict[str, Standing]:
    """Lock these people's words for the rest of this transaction, and read them; `newest` is subject -> index.

    The locks are taken in the order of the names, as everybody does who takes several. They are waited for inside
    this statement while its snapshot is older; that is fine, because only folds write words and the position's lock
    lets one fold run at a time.
    """
    subjects = sorted(newest)
    rows = await tx.fetch(
        """
        with taken as (
            insert into standing (subject, newest) select * from unnest($1::text[], $2::bigint[])
            on conflict (subject) do update set newest = greatest(standing.newest, excluded.newest)
        )
        select * from word where subject = any($1::text[])
        """,
        subjects, [newest[subject] for subject in subjects],
    )  # fmt: skip
    found: dict[str, list[Row]] = {subject: [] for subject in subjects}
    for row in rows:
        found[row["subject"]].append(row)
    return {subject: Standing(_words(of_one)) for subject, of_one in found.items()}


@dataclass(frozen=True, slots=True)
class Put:
    """A word as it is stored: with the grade of a consent's evidence, and the language if this word says one."""

    word: Word
    grade: str | None
    language: str | None


async def put_words(tx: Transaction, puts: Mapping[tuple[str, str], Put]) -> None:
    """(subject, matter) -> its newest word. A language that is not said again stays."""
    said = puts.values()
    await tx.execute(
        """
        insert into word (subject, matter, status, statement, index, restricted_at, grade, language)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::text[], $7::text[],
                             $8::text[])
        on conflict (subject, matter) do update
        set status = excluded.status, statement = excluded.statement, index = excluded.index,
            restricted_at = excluded.restricted_at, grade = excluded.grade,
            language = coalesce(excluded.language, word.language)
        """,
        [subject for subject, _ in puts], [matter for _, matter in puts],
        [put.word.status for put in said], [put.word.statement for put in said], [put.word.index for put in said],
        [put.word.restricted_at for put in said], [put.grade for put in said], [put.language for put in said],
    )  # fmt: skip


async def put_followed(tx: Transaction, types: Mapping[str, str]) -> None:
    """Statement -> type."""
    await tx.execute(
        "insert into followed select * from unnest($1::uuid[], $2::text[]) on conflict do nothing",
        list(types), list(types.values()),
    )  # fmt: skip


async def followed(tx: Transaction, statements: Sequence[str]) -> dict[str, str]:
    """Which of these statements are recorded, with their types."""
    rows = await tx.fetch("select * from followed where statement = any($1::uuid[])", statements)
    return {str(row["statement"]): row["type"] for row in rows}


# Permits


@dataclass(frozen=True, slots=True)
class Restriction:
    """A restrictive statement as it was recorded; `matter` None is everything."""

    statement: str
    shard: int
    index: int
    subject: str
    matter: str | None
    spoken: datetime


async def void_permits(tx: Transaction, restrictions: Sequence[Restriction], now: datetime) -> None:
    """Void what was granted and not yet used."""
    await tx.execute(
        """
        update permit set voided_at = $3 from unnest($1::text[], $2::text[]) as said (subject, matter)
        where permit.subject = said.subject and (said.matter is null or permit.matter = said.matter)
          and decision = 'granted' and redeemed_at is null and voided_at is null
        """,
        [one.subject for one in restrictions], [one.matter for one in restrictions], now,
    )  # fmt: skip


async def clear(tx: Transaction, subject: str, ended: str | None, now: datetime) -> dict[str, int] | None:
    """Forget a subject; how much there was, by name. None while a mail is on its way, or while a withdrawal that was
    spoken at `ended` is not folded: its effect must be noted, and it would bring back what is deleted here.

    What is unused is void from here on, and without its row in `standing` no grant can be stored (`put_permits`).
    """
    folded = ended is None or await tx.fetchval(
        "select exists (select from word where subject = $1 and matter = $2 and restricted_at >= $3)",
        subject, EVERYTHING, ended,
    )  # fmt: skip
    await void_permits(tx, [Restriction("", 0, 0, subject, None, now)], now)
    found = {
        "words": affected(await tx.execute("delete from word where subject = $1", subject)),
        "standing": affected(await tx.execute("delete from standing where subject = $1", subject)),
        "deliveries": affected(
            await tx.execute("delete from delivery where subject = $1 and state <> 'attempted'", subject)
        ),
    }
    attempted = await tx.fetchval("select exists (select from delivery where subject = $1)", subject)
    if attempted or not folded:
        return None
    found["permits"] = affected(await tx.execute("delete from permit where subject = $1", subject))
    return found


async def put_effects(tx: Transaction, restrictions: Sequence[Restriction], now: datetime) -> None:
    """Note that these have taken effect, each with the mails that were on their way when it was spoken or after.
    Asked after `void_permits`, in a statement of its own: only so it sees every permit that was used before."""
    await tx.execute(
        """
        with added as (
            insert into effect (statement, shard, index, applied_at, in_transmission)
            select said.statement, said.shard, said.index, $7, coalesce((
                select array_agg(message_id order by redeemed_at, message_id) from permit
                where permit.subject = said.subject and (said.matter is null or permit.matter = said.matter)
                  and decision = 'granted' and redeemed_at is not null and voided_at is null
                  and (finished_at is null or finished_at >= said.spoken)), '{}')
            from unnest($1::uuid[], $2::integer[], $3::bigint[], $4::text[], $5::text[], $6::timestamptz[])
                 as said (statement, shard, index, subject, matter, spoken)
            on conflict (statement) do nothing returning 1
        )
        select pg_notify('marketing_applied', '') from (select count(*) as number from added) as counted
        where number > 0
        """,
        [one.statement for one in restrictions], [one.shard for one in restrictions],
        [one.index for one in restrictions], [one.subject for one in restrictions],
        [one.matter for one in restrictions], [one.spoken for one in restrictions], now,
    )  # fmt: skip


async def effect(db: Queries, statement: str) -> Row | None:
    return await db.fetchrow("select * from effect where statement = $1", statement)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a decision was taken from: words and position under one snapshot, `newest` is None for a stranger."""

    standing: Standing
    grade: Grade | None
    applied: int
    newest: int | None
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One message, one attempt, for one purpose on one channel."""

    subject: str
    purpose: str
    channel: str
    message_id: str
    attempt: int


async def look(db: Queries, asks: Sequence[Ask]) -> list[Seen]:
    """Everything that the decisions on these need, in one round trip; in their order."""
    matters = [purpose_matter(ask.purpose, ask.channel) for ask in asks]
    rows = await db.fetch(
        """
        select asked.place, position.next, standing.newest, erased.subject is not null as erased, word.*
        from unnest($1::text[], $2::integer[], $3::text[]) with ordinality as asked (subject, shard, matter, place)
        left join position on position.shard = asked.shard
        left join standing on standing.subject = asked.subject
        left join erased on erased.subject = asked.subject
        left join word on word.subject = asked.subject and word.matter in (asked.matter, $4)
        """,
        [ask.subject for ask in asks], [shard_of(ask.subject) for ask in asks], matters, EVERYTHING,
    )  # fmt: skip
    found: list[list[Row]] = [[] for _ in asks]
    for row in rows:
        found[row["place"] - 1].append(row)
    return [_seen(of_one, matter) for of_one, matter in zip(found, matters, strict=True)]


def _seen(rows: Sequence[Row], matter: str) -> Seen:
    grade = next((row["grade"] for row in rows if row["matter"] == matter), None)
    return Seen(
        Standing(_words(rows)),
        Grade(grade) if grade else None,
        rows[0]["next"] or 0,
        rows[0]["newest"],
        rows[0]["erased"],
    )


@dataclass(frozen=True, slots=True)
class Permit:
    """The answer to one attempt, as stored."""

    id: str
    subject: str
    matter: str
    message_id: str
    attempt: int
    decision: str
    reason: str
    relied_on: str | None
    shard: int
    size: int
    all_before: str | None
    issued_at: datetime
    redeemed_at: datetime | None = None
    finished_at: datetime | None = None
    voided_at: datetime | None = None


_PERMIT = "id, subject, matter, message_id, attempt, decision, reason, relied_on, shard, size, all_before, issued_at"


async def put_permits(db: Queries, permits: Sequence[Permit], newest: Sequence[int | None]) -> set[str]:
    """Store answers; the ids of those that were. One is not if its attempt was answered before, or if it is a grant
    that was decided before the person's newest word, which is then another than this `newest`.

    One statement and so one transaction: from reading the words' rows under their locks to the commit no fold can
    pass. All locks are held before the first answer is stored, and both are taken in order: else two of these, or one
    and a fold, could wait for each other.
    """
    rows = await db.fetch(
        f"""
        with asked as (
            select * from unnest(
                $1::uuid[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::text[], $7::text[], $8::uuid[],
                $9::integer[], $10::bigint[], $11::text[], $12::timestamptz[], $13::bigint[]
            ) as asked ({_PERMIT}, newest)
        ), locked as (
            select subject, newest from standing
            where subject in (select subject from asked where decision = 'granted')
            order by subject for share
        ), unchanged as (
            select coalesce(array_agg(asked.id), '{{}}') as ids
            from asked join locked on locked.subject = asked.subject and locked.newest = asked.newest
        )
        insert into permit ({_PERMIT})
        select {_PERMIT} from asked, unchanged where decision = 'refused' or id = any(ids)
        order by message_id, attempt
        on conflict (message_id, attempt) do nothing
        returning id::text as id
        """,
        *([getattr(permit, column) for permit in permits] for column in _PERMIT.split(", ")), newest,
    )  # fmt: skip
    return {row["id"] for row in rows}


async def permits_of_attempts(db: Queries, attempts: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Permit]:
    """Those of these (message id, attempt) that were answered before."""
    rows = await db.fetch(
        """
        select permit.* from unnest($1::text[], $2::integer[]) as asked (message_id, attempt)
        join permit using (message_id, attempt)
        """,
        [message_id for message_id, _ in attempts], [attempt for _, attempt in attempts],
    )  # fmt: skip
    return {(row["message_id"], row["attempt"]): _stored(row) for row in rows}


def _stored(row: Row) -> Permit:
    stored = dict(row)
    stored["id"], stored["relied_on"] = str(row["id"]), str(row["relied_on"]) if row["relied_on"] else None
    return Permit(**stored)


async def redeem(tx: Transaction, permit: str, not_older_than: datetime, now: datetime) -> bool:
    """Use a permit, once: False if it is voided, used or too old."""
    return bool(
        await tx.fetchval(
            """
            update permit set redeemed_at = $3
            where id = $1 and decision = 'granted' and redeemed_at is null and voided_at is null and issued_at >= $2
            returning true
            """,
            permit, not_older_than, now,
        )
    )  # fmt: skip


async def finish_permit(
    tx: Transaction, permit: str, now: datetime, *, at_least: timedelta = timedelta(0), nothing_left: bool = False
) -> None:
    """The use has ended, `at_least` so long after the permit was issued; `nothing_left` if no mail has, for certain."""
    await tx.execute(
        """
        update permit set finished_at = greatest($2, issued_at + $3), voided_at = case when $4 then $2::timestamptz end
        where id = $1
        """,
        permit, now, at_least, nothing_left,
    )  # fmt: skip


async def forget_permits(db: Queries, before: datetime) -> None:
    """Delete old permits whose use, if any, has ended."""
    await db.execute(
        "delete from permit where issued_at < $1 and (redeemed_at is null or finished_at is not null)", before
    )


# Campaigns


async def put_campaign(
    tx: Transaction, name: str, purpose: str, channel: str, texts: Mapping[str, Any], now: datetime
) -> bool:
    """Store a campaign; False if one of this name exists."""
    return bool(
        await tx.fetchval(
            "insert into campaign values ($1, $2, $3, $4::jsonb, $5) on conflict (name) do nothing returning true",
            name, purpose, channel, json.dumps(texts), now,
        )
    )  # fmt: skip


async def is_campaign(tx: Transaction, name: str, purpose: str, channel: str, texts: Mapping[str, Any]) -> bool:
    """Whether the campaign of this name is exactly this one."""
    return bool(
        await tx.fetchval(
            "select true from campaign where name = $1 and purpose = $2 and channel = $3 and texts = $4::jsonb",
            name, purpose, channel, json.dumps(texts),
        )
    )  # fmt: skip


async def audience(tx: Transaction, purpose: str, channel: str) -> Sequence[Row]:
    """Subjects whose consent for this purpose and channel is in force (Standing.permits), with their language."""
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
    """One waiting delivery per (statement id, subject, language); the sender is woken."""
    await tx.execute(
        """
        with queued as (
            insert into delivery (statement, campaign, subject, language, not_before)
            select s, $1, u, l, $5 from unnest($2::uuid[], $3::text[], $4::text[]) as t(s, u, l) returning 1
        )
        select pg_notify('marketing_campaign', '') from (select count(*) from queued) as counted
        """,
        name, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], now,
    )  # fmt: skip


async def deliveries(db: Queries, name: str) -> list[tuple[str, str | None, int]] | None:
    """How many deliveries of a campaign are in which state for which reason; None if there is no such campaign."""
    rows = await db.fetch(
        """
        select d.state, d.reason, count(d.state) as number from campaign c left join delivery d on d.campaign = c.name
        where c.name = $1 group by 1, 2 order by 1, 2
        """,
        name,
    )
    return [(row["state"], row["reason"], row["number"]) for row in rows if row["state"]] if rows else None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One mail of a campaign to one person; `statement` is the id of its MessageSent."""

    statement: str
    subject: str
    language: str
    attempt: int
    purpose: str
    channel: str
    text: Mapping[str, str]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Use:
    """What an attempted delivery went out under: its permit, its ConsentUsed, the mail as it was archived."""

    permit: str
    used: str
    archived: Attachment


_DELIVERY = """
select d.statement::text as statement, d.subject, d.language, d.attempt, c.purpose, c.channel,
       c.texts -> d.language as text, c.created_at, d.permit::text as permit, d.used::text as used, d.archived
from delivery d join campaign c on c.name = d.campaign
"""


def _delivery(row: Row) -> Delivery:
    return Delivery(
        row["statement"],
        row["subject"],
        row["language"],
        row["attempt"],
        row["purpose"],
        row["channel"],
        json.loads(row["text"]),
        row["created_at"],
    )


async def due_deliveries(db: Queries, now: datetime, limit: int) -> list[Delivery]:
    rows = await db.fetch(
        _DELIVERY + "where d.state = 'waiting' and d.not_before <= $1 order by d.not_before, d.statement limit $2",
        now, limit,
    )  # fmt: skip
    return [_delivery(row) for row in rows]


async def next_delivery_at(db: Queries) -> datetime | None:
    value = await db.fetchval("select min(not_before) from delivery where state = 'waiting'")
    return value if isinstance(value, datetime) else None


async def waiting_deliveries(db: Queries) -> list[tuple[str, int]]:
    """How many mails of campaigns are not at an end, by state."""
    rows = await db.fetch(
        """
        select 'waiting' as state, count(*) as number from delivery where state = 'waiting'
        union all select 'attempted', count(*) from delivery where state = 'attempted'
        """
    )
    return [(row["state"], row["number"]) for row in rows]


async def attempted_deliveries(db: Queries) -> list[tuple[Delivery, Use]]:
    """Deliveries whose mail was, or was about to be, on its way when the sender stopped."""
    rows = await db.fetch(_DELIVERY + "where d.state = 'attempted' order by d.statement")
    return [
        (_delivery(row), Use(row["permit"], row["used"], Attachment.model_validate_json(row["archived"])))
        for row in rows
    ]


async def attempt(tx: Transaction, statement: str, number: int, use: Use) -> bool:
    """waiting -> attempted."""
    return bool(
        await tx.fetchval(
            """
            update delivery set state = 'attempted', attempt = $2, permit = $3, used = $4, archived = $5::jsonb
            where statement = $1 and state = 'waiting' returning true
            """,
            statement, number, use.permit, use.used, json.dumps(use.archived.model_dump(mode="json")),
        )
    )  # fmt: skip


async def wait_again(db: Queries, statement: str, number: int, not_before: datetime, reason: str) -> None:
    """waiting -> waiting: this attempt came to nothing before the mail was on its way."""
    await db.execute(
        """
        update delivery set attempt = $2, not_before = $3, reason = $4
        where statement = $1 and state = 'waiting' and attempt < $2
        """,
        statement, number, not_before, reason,
    )  # fmt: skip


async def skip(db: Queries, statement: str, number: int, reason: str) -> None:
    """waiting -> skipped."""
    await db.execute(
        "update delivery set state = 'skipped', attempt = $2, reason = $3 where statement = $1 and state = 'waiting'",
        statement, number, reason,
    )  # fmt: skip


async def take_back(tx: Transaction, statement: str, use: Use, not_before: datetime, reason: str) -> bool:
    """attempted -> waiting: the mail server said not now."""
    return bool(
        await tx.fetchval(
            """
            update delivery set state = 'waiting', not_before = $3, reason = $4
            where statement = $1 and state = 'attempted' and used = $2 returning true
            """,
            statement, use.used, not_before, reason,
        )
    )  # fmt: skip


async def end_delivery(tx: Transaction, statement: str, use: Use, state: str) -> bool:
    """attempted -> sent, refused or unknown."""
    return bool(
        await tx.fetchval(
            """
            update delivery set state = $3, reason = null
            where statement = $1 and state = 'attempted' and used = $2 returning true
            """,
            statement, use.used, state,
        )
    )  # fmt: skip


# The audience, as Faust counts it


@dataclass(frozen=True, slots=True)
class Counted:
    """One shard's figures: next index, people per (purpose, channel), statements per (hour, type)."""

    shard: int
    next: int
    complete_at: datetime
    people: Mapping[tuple[str, str], int]
    hours: Mapping[tuple[datetime, str], int]


async def put_counted(tx: Transaction, counted: Counted) -> None:
    """Replace a shard's figures."""
    people, hours = sorted(counted.people.items()), sorted(counted.hours.items())
    await tx.execute("delete from audience where shard = $1", counted.shard)
    await tx.execute(
        "insert into audience select $1, p, c, n from unnest($2::text[], $3::text[], $4::bigint[]) as t(p, c, n)",
        counted.shard, [pair[0] for pair, _ in people], [pair[1] for pair, _ in people], [n for _, n in people],
    )  # fmt: skip
    await tx.execute("delete from audience_hour where shard = $1", counted.shard)
    await tx.execute(
        """
        insert into audience_hour
        select $1, h, t, n from unnest($2::timestamptz[], $3::text[], $4::bigint[]) as x(h, t, n)
        """,
        counted.shard, [one[0] for one, _ in hours], [one[1] for one, _ in hours], [n for _, n in hours],
    )  # fmt: skip
    await tx.execute(
        """
        insert into audience_position values ($1, $2, $3) on conflict (shard) do update
        set next = excluded.next, complete_at = excluded.complete_at
        """,
        counted.shard, counted.next, counted.complete_at,
    )  # fmt: skip


async def audience_figures(db: Queries, since: datetime) -> tuple[list[Row], list[Row], list[Row]]:
    """People per purpose, statements per hour since then, and how far each shard is counted."""
    people = await db.fetch(
        "select purpose, channel, sum(opted_in)::bigint as people from audience group by 1, 2 order by 1, 2"
    )
    hours = await db.fetch(
        """
        select hour, type, sum(count)::bigint as number from audience_hour where hour > $1
        group by 1, 2 order by 1 desc, 2
        """,
        since,
    )
    return people, hours, await db.fetch("select * from audience_position order by shard")


async def audience_ages(db: Queries) -> list[tuple[int, float]]:
    """For how many seconds each shard's count has not been complete."""
    rows = await db.fetch(
        """
        select shard, greatest(extract(epoch from clock_timestamp() - complete_at), 0)::float8 as seconds
        from audience_position
        """
    )
    return [(row["shard"], row["seconds"]) for row in rows]
