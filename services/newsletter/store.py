"""All of the newsletter's SQL, one function a query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from services.newsletter.domain import Asked, Request, Scope, SignUp
from shared.acceptance import Accepted
from shared.database import Queries, Row, Transaction, affected
from shared.events.types import Attachment, Served
from shared.limits import MailCap
from shared.sealing import Compartment

MailKind = Literal["confirmation", "welcome"]

# asyncpg reads uuid as UUID; statements and everything else here write it as text.
_REQUEST = """
select r.id::text as id, r.subject, r.language, r.notice, r.served, r.verified, r.state, r.requested_at, r.expires_at,
       r.decided_at, c.id::text as confirmation, a.purposes, a.channels, a.asked
from request r
join mail c on c.request = r.id and c.kind = 'confirmation'
cross join lateral (
    select array_agg(p.purpose order by p.position) as purposes, array_agg(p.channel order by p.position) as channels,
           array_agg(p.asked::text order by p.position) as asked
    from request_purpose p where p.request = r.id
) a
"""


def _request(row: Row) -> Request:
    asked = zip(row["purposes"], row["channels"], row["asked"], strict=True)
    return Request(
        id=row["id"],
        subject=row["subject"],
        language=row["language"],
        notice=row["notice"],
        served=None if row["served"] is None else Served(token=row["served"], verified=row["verified"]),
        state=row["state"],
        requested_at=row["requested_at"],
        expires_at=row["expires_at"],
        decided_at=row["decided_at"],
        confirmation=row["confirmation"],
        asked=tuple(Asked(*one) for one in asked),
    )


async def lock_subject(tx: Transaction, subject: str) -> None:
    """Confirmations and withdrawals of one person come one after the other: neither may miss the other's rows."""
    await tx.execute("select pg_advisory_xact_lock(hashtextextended($1, 1))", subject)


async def put_notice(tx: Transaction, notice: str, statement: str, now: datetime) -> bool:
    """Whether this notice was not published before."""
    row = await tx.fetchrow(
        "insert into notice (hash, statement, published_at) values ($1, $2, $3) on conflict do nothing returning 1",
        notice, statement, now,
    )  # fmt: skip
    return row is not None


async def put_request(tx: Transaction, sign_up: SignUp) -> bool:
    """Whether the form is new; a form that was sent before changes nothing."""
    request = sign_up.request
    row = await tx.fetchrow(
        """
        with new as (
            insert into request (id, form_key, subject, language, notice, served, verified, token_hash, requested_at,
                                 expires_at, purge_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
            on conflict (form_key) do nothing returning id
        ), asked as (
            insert into request_purpose (request, position, purpose, channel, asked)
            select new.id, position, purpose, channel, asked
            from new, unnest($12::text[], $13::text[], $14::uuid[]) with ordinality
                 as one (purpose, channel, asked, position)
        )
        select 1 from new
        """,
        request.id, sign_up.form_key, request.subject, request.language, request.notice,
        request.served and request.served.token, request.served is not None and request.served.verified,
        sign_up.token_hash, request.requested_at, request.expires_at, sign_up.purge_at,
        [one.purpose for one in request.asked], [one.channel for one in request.asked],
        [one.statement for one in request.asked],
    )  # fmt: skip
    return row is not None


async def is_capped(tx: Transaction, request: Request, cap: MailCap) -> bool:
    """Whether this address has had its share of confirmation mails that nobody confirmed: so many in a while, or one
    just now that asks the same and can still be answered.

    Under `lock_subject`, or two forms at once would both be the first. Mails that never left do not count.
    """
    now, same = request.requested_at, [one.key for one in request.asked]
    capped = await tx.fetchval(
        """
        select count(*) filter (where r.requested_at > $2) >= $3
            or count(*) filter (where r.requested_at > $4 and r.state = 'open' and r.expires_at > $5 and r.notice = $6
                and $7::text[] = array(select p.purpose || '/' || p.channel from request_purpose p
                                       where p.request = r.id order by p.position)) > 0
        from request r join mail m on m.request = r.id and m.kind = 'confirmation' and m.state <> 'dropped'
        where r.subject = $1 and r.state <> 'confirmed' and r.requested_at > least($2, $4)
        """,
        request.subject, now - cap.period, cap.address, now - cap.same_after, now, request.notice, same,
    )  # fmt: skip
    return bool(capped)


async def request_by_token(db: Queries, token_hash: bytes) -> Request | None:
    row = await db.fetchrow(_REQUEST + "where r.token_hash = $1", token_hash)
    return None if row is None else _request(row)


async def request_for_update(tx: Transaction, request: str) -> Request | None:
    row = await tx.fetchrow(_REQUEST + "where r.id = $1 for update of r", request)
    return None if row is None else _request(row)


async def request(db: Queries, request_id: str) -> Request:
    row = await db.fetchrow(_REQUEST + "where r.id = $1", request_id)
    if row is None:
        raise LookupError
    return _request(row)


async def decide(tx: Transaction, request_id: str, state: str, now: datetime) -> None:
    await tx.execute("update request set state = $2, decided_at = $3 where id = $1", request_id, state, now)


async def put_given(tx: Transaction, request_id: str, given: Sequence[tuple[Asked, str]]) -> None:
    await tx.execute(
        """
        update request_purpose set given = new.given
        from unnest($2::uuid[], $3::uuid[]) as new (asked, given)
        where request = $1 and request_purpose.asked = new.asked
        """,
        request_id, [asked.statement for asked, _ in given], [statement for _, statement in given],
    )  # fmt: skip


async def open_requests(tx: Transaction, subject: str, purposes: Sequence[tuple[str, str]] | None) -> list[str]:
    """Open requests of a person that ask for one of these purposes, or all; locked."""
    rows = await tx.fetch(
        """
        select r.id::text as id from request r
        where r.subject = $1 and r.state = 'open' and ($2::text[] is null or exists (
            select from request_purpose p
            where p.request = r.id and (p.purpose, p.channel) in (select * from unnest($2::text[], $3::text[]))))
        order by r.id for update of r
        """,
        subject, None if purposes is None else [purpose for purpose, _ in purposes],
        None if purposes is None else [channel for _, channel in purposes],
    )  # fmt: skip
    return [row["id"] for row in rows]


async def overdue(tx: Transaction, now: datetime, limit: int) -> list[Request]:
    """Open requests past their end; those that somebody is deciding right now are left alone."""
    rows = await tx.fetch(
        _REQUEST + "where r.state = 'open' and r.expires_at <= $1 order by r.expires_at limit $2"
        " for update of r skip locked",
        now, limit,
    )  # fmt: skip
    return [_request(row) for row in rows]


async def to_purge(tx: Transaction, now: datetime, limit: int) -> list[Request]:
    """Unconfirmed requests whose time is over and whose mails are all at an end."""
    rows = await tx.fetch(
        _REQUEST + """
        where r.state in ('expired', 'voided') and r.purge_at <= $1
          and not exists (select from mail m where m.request = r.id and m.ended_at is null)
        order by r.purge_at limit $2 for update of r skip locked
        """,
        now, limit,
    )  # fmt: skip
    return [_request(row) for row in rows]


async def delete_requests(tx: Transaction, requests: Sequence[str]) -> None:
    await tx.execute("delete from request where id = any($1::uuid[])", requests)


async def requests_of(tx: Transaction, subject: str) -> list[str]:
    """Every request of a subject."""
    rows = await tx.fetch("select id::text as id from request where subject = $1", subject)
    return [row["id"] for row in rows]


async def has_unended_mail(tx: Transaction, requests: Sequence[str]) -> bool:
    """Whether a mail of these waits or is on its way."""
    return bool(
        await tx.fetchval(
            "select exists (select from mail where request = any($1::uuid[]) and ended_at is null)", requests
        )
    )


async def given(tx: Transaction, subject: str) -> list[tuple[str, str]]:
    """(purpose, channel) of what a subject ever agreed to here."""
    rows = await tx.fetch(
        """select distinct p.purpose, p.channel from request_purpose p join request r on r.id = p.request
           where r.subject = $1 and p.given is not null order by p.purpose, p.channel""",
        subject,
    )
    return [(row["purpose"], row["channel"]) for row in rows]


async def is_erased(tx: Queries, subject: str) -> bool:
    return bool(await tx.fetchval("select exists (select from erased where subject = $1)", subject))


async def note_ended(tx: Transaction, subject: str, now: datetime) -> None:
    """Since when the words of a subject that is being erased are withdrawn."""
    await tx.execute("update erased set ended_at = $2 where subject = $1", subject, now)


async def clear(tx: Transaction, subject: str) -> dict[str, int]:
    """Delete everything of a subject; how much there was, by name."""
    return {
        "links": affected(await tx.execute("delete from withdrawal where subject = $1", subject)),
        "requests": affected(await tx.execute("delete from request where subject = $1", subject)),
        "unclaimed": affected(await tx.execute("delete from unclaimed where subject = $1", subject)),
    }


async def put_unclaimed(tx: Transaction, subjects: Sequence[str], now: datetime) -> None:
    """Those of whom no request is left: their address is to go from everywhere."""
    await tx.execute(
        """insert into unclaimed (subject, since)
           select distinct s, $2::timestamptz from unnest($1::text[]) s
           where not exists (select from request where subject = s)
             and not exists (select from erased where subject = s)
           on conflict do nothing""",
        subjects,
        now,
    )


async def unclaimed(db: Queries, limit: int) -> list[str]:
    """Subjects whose erasure is to be ordered; of one who has signed up again meanwhile it is not."""
    rows = await db.fetch(
        """with again as (delete from unclaimed u using request r where r.subject = u.subject)
           select subject from unclaimed u where not exists (select from request r where r.subject = u.subject)
           order by since limit $1""",
        limit,
    )
    return [row["subject"] for row in rows]


async def forget_unclaimed(db: Queries, subject: str) -> None:
    """Its erasure is ordered, or is not to be."""
    await db.execute("delete from unclaimed where subject = $1", subject)


async def next_deadline(db: Queries) -> datetime | None:
    """When the sweeper has something to do again, if nothing else happens. What waits for a mail to end is not due:
    asking for it again and again would not end the mail."""
    value = await db.fetchval(
        """
        select least(
            (select min(since) from unclaimed),
            (select min(expires_at) from request where state = 'open'),
            (select min(purge_at) from request r where state in ('expired', 'voided')
                and not exists (select from mail m where m.request = r.id and m.ended_at is null))
        )
        """
    )
    return value if isinstance(value, datetime) else None


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What a way out did when it was used."""

    scope: Scope
    statements: tuple[str, ...]
    at: datetime
    accepted: Sequence[Accepted]


async def withdrawal(db: Queries, token_hash: bytes, scope: Scope) -> Withdrawn | None:
    """What this link did already; who withdrew everything by it has withdrawn the one thing too."""
    row = await db.fetchrow(
        """
        select scope, statements::text[] as statements, at from withdrawal
        where token_hash = $1 and scope in ($2, 'everything') order by scope limit 1
        """,
        token_hash, scope,
    )  # fmt: skip
    if row is None:
        return None
    return Withdrawn(row["scope"], tuple(row["statements"]), row["at"], await accepted(db, row["statements"]))


async def accepted(db: Queries, statements: Sequence[str]) -> list[Accepted]:
    """What was accepted under these ids, in their order; nothing once the outbox has let go of one (three days)."""
    rows = await db.fetch(
        """
        select o.id::text as id, encode(sha256(o.statement), 'hex') as sha256
        from unnest($1::uuid[]) with ordinality as named (id, position) join outbox o using (id) order by position
        """,
        statements,
    )
    return [(row["id"], row["sha256"]) for row in rows] if len(rows) == len(statements) else []


async def accepted_of_form(tx: Transaction, form_key: str) -> list[Accepted]:
    """The ConsentRequested of a form that was sent before."""
    rows = await tx.fetch(
        """
        select asked::text as asked from request_purpose
        where request = (select id from request where form_key = $1) order by position
        """,
        form_key,
    )
    return await accepted(tx, [row["asked"] for row in rows])


async def accepted_of_confirmation(db: Queries, request_id: str) -> tuple[list[Accepted], datetime | None]:
    """The ConsentGiven of a request that was confirmed, and when."""
    rows = await db.fetch(
        """
        select p.given::text as given, r.decided_at from request_purpose p join request r on r.id = p.request
        where p.request = $1 and p.given is not null order by p.position
        """,
        request_id,
    )
    at = rows[0]["decided_at"] if rows else None
    return await accepted(db, [row["given"] for row in rows]), at


async def given_of(db: Queries, request_id: str) -> list[str]:
    """The ids of the ConsentGiven of a request, in the order of its boxes; none before it is confirmed."""
    rows = await db.fetch(
        "select given::text as given from request_purpose where request = $1 and given is not null order by position",
        request_id,
    )
    return [row["given"] for row in rows]


async def put_withdrawal(
    tx: Transaction, token_hash: bytes, scope: Scope, subject: str, statements: Sequence[str], now: datetime
) -> None:
    await tx.execute(
        "insert into withdrawal (token_hash, scope, subject, statements, at) values ($1, $2, $3, $4, $5)",
        token_hash, scope, subject, statements, now,
    )  # fmt: skip


async def has_withdrawn(db: Queries, subject: str) -> bool:
    """Whether this person has withdrawn anything since the last confirmation, which forgets what was before."""
    return bool(await db.fetchval("select exists (select from withdrawal where subject = $1)", subject))


async def forget_withdrawals(tx: Transaction, subject: str) -> None:
    await tx.execute("delete from withdrawal where subject = $1", subject)


@dataclass(frozen=True, slots=True)
class Mail:
    """One transactional mail that is not at an end."""

    id: str
    kind: MailKind
    request: str
    cancelled: bool
    brief: Compartment | None
    letter: Compartment | None
    attachment: Attachment | None
    recorded: tuple[str, ...]
    attempts: int
    handed_at: datetime | None
    created_at: datetime


async def put_mail(
    tx: Transaction, mail: str, kind: MailKind, request_id: str, brief: Compartment, now: datetime
) -> None:
    """A confirmation waits to be sent, a welcome is held until its statements are sealed. The worker is woken."""
    await tx.execute(
        """
        with queued as (
            insert into mail (id, kind, request, state, brief, brief_key_hash, next_attempt_at, created_at)
            values ($1, $2, $3, $4, $5, $6, $7, $7) returning 1
        )
        select pg_notify('newsletter_mail', '') from queued
        """,
        mail, kind, request_id, "waiting" if kind == "confirmation" else "held", brief.ciphertext, brief.key_hash, now,
    )  # fmt: skip


async def put_capped_mail(tx: Transaction, mail: str, request_id: str, now: datetime) -> None:
    """The confirmation mail that is not sent: it is at its end, and never held anything."""
    await tx.execute(
        """
        insert into mail (id, kind, request, state, next_attempt_at, created_at, ended_at)
        values ($1, 'confirmation', $2, 'dropped', $3, $3, $3)
        """,
        mail, request_id, now,
    )  # fmt: skip


async def cancel_mails(tx: Transaction, requests: Sequence[str]) -> None:
    """From here on none of them is handed to the mail server; the worker clears them away."""
    await tx.execute(
        """
        with cancelled as (
            update mail set cancelled = true
            where request = any($1::uuid[]) and state in ('held', 'waiting') and not cancelled returning 1
        )
        select pg_notify('newsletter_mail', '') from (select count(*) from cancelled) as counted
        """,
        requests,
    )


async def cancel_welcomes(tx: Transaction, subject: str, purposes: Sequence[tuple[str, str]] | None) -> None:
    """A welcome has nothing left to say once all it would welcome to is withdrawn. None: everything is."""
    rows = await tx.fetch(
        """
        select r.id::text as id from request r join mail m on m.request = r.id
        where r.subject = $1 and m.kind = 'welcome' and m.state in ('held', 'waiting')
          and ($2::text[] is null or not exists (
            select from request_purpose p
            where p.request = r.id and (p.purpose, p.channel) not in (select * from unnest($2::text[], $3::text[]))))
        """,
        subject, None if purposes is None else [purpose for purpose, _ in purposes],
        None if purposes is None else [channel for _, channel in purposes],
    )  # fmt: skip
    await cancel_mails(tx, [row["id"] for row in rows])


async def release_welcomes(db: Queries, now: datetime) -> bool:
    """A welcome goes out when the ledger has answered for each of its consents, and only for those in effect.

    A consent that is overtaken has no effect, so there is nothing to welcome to. A row the outbox no longer has was
    answered days ago while we were down; a welcome that late would only confuse. True if any was released.
    """
    tag = await db.execute(
        """
        with answered as (
            select m.id, array_agg(p.given) filter (where o.result = 'recorded') as recorded
            from mail m
            join request_purpose p on p.request = m.request and p.given is not null
            left join outbox o on o.id = p.given
            where m.state = 'held' and not m.cancelled
            group by m.id
            having bool_and(o.id is null or o.result is not null)
        )
        update mail set
            state = case when answered.recorded is null then 'dropped' else 'waiting' end,
            ended_at = case when answered.recorded is null then $1::timestamptz end,
            brief = case when answered.recorded is not null then mail.brief end,
            brief_key_hash = case when answered.recorded is not null then mail.brief_key_hash end,
            recorded = answered.recorded,
            next_attempt_at = $1
        from answered where mail.id = answered.id and mail.state = 'held'
        """,
        now,
    )
    return tag != "UPDATE 0"


async def due_mails(db: Queries, now: datetime, limit: int) -> list[Mail]:
    """What is to be sent or cleared away now."""
    rows = await db.fetch(
        """
        select id::text as id, kind, request::text as request, cancelled, brief, brief_key_hash,
               letter_id::text as letter_id, letter, letter_key_hash, attachment, recorded::text[] as recorded,
               attempts, handed_at, created_at
        from mail
        where (state = 'waiting' and (next_attempt_at <= $1 or cancelled)) or (state = 'held' and cancelled)
        order by next_attempt_at, id limit $2
        """,
        now, limit,
    )  # fmt: skip
    return [
        Mail(
            id=row["id"],
            kind=row["kind"],
            request=row["request"],
            cancelled=row["cancelled"],
            brief=_compartment(row["id"], row["brief"], row["brief_key_hash"]),
            letter=_compartment(row["letter_id"], row["letter"], row["letter_key_hash"]),
            attachment=None if row["attachment"] is None else Attachment.model_validate_json(row["attachment"]),
            recorded=tuple(row["recorded"] or ()),
            attempts=row["attempts"],
            handed_at=row["handed_at"],
            created_at=row["created_at"],
        )
        for row in rows
    ]


def _compartment(statement: Any, ciphertext: Any, key_hash: Any) -> Compartment | None:
    return None if ciphertext is None else Compartment(statement, "brief", ciphertext, key_hash)


async def next_mail_at(db: Queries) -> datetime | None:
    value = await db.fetchval("select min(next_attempt_at) from mail where state = 'waiting'")
    return value if isinstance(value, datetime) else None


async def waiting_mails(db: Queries) -> list[Row]:
    """What of the queue waits in each state: state, number, seconds since the oldest was queued."""
    return await db.fetch(
        """
        select state, number,
            greatest(coalesce(extract(epoch from clock_timestamp() - oldest), 0), 0)::float8 as seconds
        from (
            select 'held' as state, count(*) as number, min(created_at) as oldest
            from mail where state = 'held' and not cancelled
            union all
            select 'waiting', count(*), min(created_at) from mail where state = 'waiting' and not cancelled
        ) as queue
        """
    )


async def sweep_overdue(db: Queries) -> Row | None:
    """For how many seconds the sweeper has had something to do: expiry, deletion."""
    return await db.fetchrow(
        """
        select greatest(coalesce(extract(epoch from clock_timestamp() -
            (select min(expires_at) from request where state = 'open')), 0), 0)::float8 as expiry,
        greatest(coalesce(extract(epoch from clock_timestamp() -
            (select min(purge_at) from request where state in ('expired', 'voided'))), 0), 0)::float8 as deletion
        """
    )


async def put_letter(db: Queries, mail: str, letter: Compartment, attachment: Attachment) -> None:
    """The mail's exact bytes are kept, sealed; what it was written from is not needed any more."""
    await db.execute(
        """
        update mail set letter_id = $2, letter = $3, letter_key_hash = $4, attachment = $5,
                        brief = null, brief_key_hash = null
        where id = $1 and ended_at is null
        """,
        mail, letter.statement, letter.ciphertext, letter.key_hash, json.dumps(attachment.model_dump(mode="json")),
    )  # fmt: skip


async def hand_over(db: Queries, mail: str, now: datetime) -> int | None:
    """Note that the mail is about to be on its way, unless it was cancelled meanwhile: then None."""
    value = await db.fetchval(
        """
        update mail set attempts = attempts + 1, handed_at = $2
        where id = $1 and state = 'waiting' and not cancelled returning attempts
        """,
        mail, now,
    )  # fmt: skip
    return None if value is None else int(value)


async def postpone(db: Queries, mail: str, until: datetime, *, uncertain: bool = False) -> None:
    """Try again later. `uncertain`: it may have arrived although no answer came, so it stays noted as handed over."""
    await db.execute(
        """
        update mail set next_attempt_at = $2, handed_at = case when $3 then handed_at end
        where id = $1 and state = 'waiting'
        """,
        mail, until, uncertain,
    )  # fmt: skip


async def end_mail(tx: Queries, mail: str, state: str, now: datetime) -> bool:
    """The mail is at an end and everything personal in its row is gone. False if it was at an end already."""
    row = await tx.fetchrow(
        """
        update mail set state = $2, ended_at = $3, brief = null, brief_key_hash = null, letter = null,
                        letter_key_hash = null
        where id = $1 and ended_at is null returning 1
        """,
        mail, state, now,
    )  # fmt: skip
    return row is not None
