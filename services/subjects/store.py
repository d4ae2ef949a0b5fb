"""All SQL of subjects, one function per query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from services.subjects.domain import EVERYTHING as ALL
from shared.database import Queries, affected
from shared.events import Standing, Word

Item = tuple[str, str]
"""(statement id, compartment)."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored of a subject. Without its content key it is erased."""

    subject: str
    controller: str
    wrapped: Mapping[str, bytes] = field(repr=False)
    contact_point: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Row:
    """What is stored of a sealed compartment."""

    subject: str
    nonce: bytes = field(repr=False)
    plaintext_mac: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Suppression:
    """One row of the suppression list."""

    suppressed: bool
    ordinal: int
    since: date


# Peppers


async def known_peppers(db: Queries) -> dict[int, bytes]:
    return {row["number"]: row["fingerprint"] for row in await db.fetch("select number, fingerprint from pepper")}


async def add_pepper(db: Queries, number: int, fingerprint: bytes) -> None:
    await db.execute("insert into pepper values ($1, $2) on conflict do nothing", number, fingerprint)


# Subjects


async def find_subjects(db: Queries, contacts: Sequence[Mapping[int, bytes]]) -> list[str | None]:
    """For each contact point, given as its digests by pepper, the subject it is known as; the newest pepper's word."""
    places = [place for place, digests in enumerate(contacts) for _ in digests]
    rows = await db.fetch(
        """
        select distinct on (place) place, identifier.subject
        from unnest($1::int[], $2::int[], $3::bytea[]) as wanted(place, pepper, digest)
        join identifier using (pepper, digest)
        order by place, pepper desc
        """,
        places,
        [pepper for digests in contacts for pepper in digests],
        [digest for digests in contacts for digest in digests.values()],
    )
    found: dict[int, str] = {row["place"]: row["subject"] for row in rows}
    return [found.get(place) for place in range(len(contacts))]


async def load(db: Queries, subject: str) -> Known | None:
    return (await load_several(db, [subject])).get(subject)


async def load_several(db: Queries, subjects: Sequence[str]) -> dict[str, Known]:
    """What is stored of those of them that there are."""
    rows = await db.fetch(
        """
        select subject.id, subject.controller, contact_point.sealed,
               (select wrapped from subject_key where subject = id and use = 'content') as content,
               (select wrapped from subject_key where subject = id and use = 'evidence') as evidence
        from subject left join contact_point on contact_point.subject = subject.id
        where subject.id = any($1::text[])
        """,
        subjects,
    )
    known = {}
    for row in rows:
        wrapped = {use: row[use] for use in ("content", "evidence") if row[use] is not None}
        known[row["id"]] = Known(row["id"], row["controller"], wrapped, row["sealed"])
    return known


async def create_subjects(tx: Queries, new: Sequence[tuple[Known, Mapping[int, bytes]]]) -> bool:
    """Insert new subjects with all that belongs to them; False if another transaction was first with an identifier:
    then the caller must roll back. By pepper and digest, in every process, so that two of them cannot deadlock."""
    identifiers = sorted(
        (pepper, digest, known.subject) for known, digests in new for pepper, digest in digests.items()
    )
    keys = [(known.subject, use, wrapped) for known, _ in new for use, wrapped in known.wrapped.items()]
    inserted = await tx.fetchval(
        """
        with subjects as (
            insert into subject (id, controller) select * from unnest($1::text[], $2::text[])
        ), identifiers as (
            insert into identifier (pepper, digest, subject)
            select pepper, digest, subject
            from unnest($3::int[], $4::bytea[], $5::text[]) with ordinality as new(pepper, digest, subject, place)
            order by place on conflict do nothing returning 1
        ), keys as (
            insert into subject_key (subject, use, kek, wrapped)
            select * from unnest($6::text[], $7::text[], $8::bigint[], $9::bytea[])
        ), contact_points as (
            insert into contact_point (subject, sealed) select * from unnest($1::text[], $10::bytea[])
        )
        select count(*) from identifiers
        """,
        [known.subject for known, _ in new],
        [known.controller for known, _ in new],
        [pepper for pepper, _, _ in identifiers],
        [digest for _, digest, _ in identifiers],
        [subject for _, _, subject in identifiers],
        [subject for subject, _, _ in keys],
        [use for _, use, _ in keys],
        [int.from_bytes(wrapped[:4], "big") for _, _, wrapped in keys],
        [wrapped for _, _, wrapped in keys],
        [known.contact_point for known, _ in new],
    )
    return bool(inserted == len(identifiers))


async def identifiers(db: Queries, subject: str) -> dict[int, bytes]:
    """A subject's index digests by pepper; empty once its rows are deleted."""
    rows = await db.fetch("select pepper, digest from identifier where subject = $1 order by pepper", subject)
    return {row["pepper"]: row["digest"] for row in rows}


async def add_identifiers(tx: Queries, subject: str, digests: Mapping[int, bytes]) -> None:
    await tx.execute(
        """
        insert into identifier (pepper, digest, subject)
        select pepper, digest, $3 from unnest($1::int[], $2::bytea[]) as new(pepper, digest) order by pepper
        on conflict do nothing
        """,
        *_columns(digests),
        subject,
    )


# Rotation


async def wrapped_under_older(tx: Queries, kek: int, limit: int) -> list[tuple[str, str, bytes]]:
    """Keys wrapped under an older key-encryption key than the newest; rows another process works on are passed over.

    By key first, as the index has them: each batch begins where the last one ended.
    """
    rows = await tx.fetch(
        """
        select subject, use, wrapped from subject_key where kek < $1
        order by kek limit $2 for update skip locked
        """,
        kek,
        limit,
    )
    return [(row["subject"], row["use"], row["wrapped"]) for row in rows]


async def rewrap(tx: Queries, subject: str, use: str, wrapped: bytes) -> None:
    await tx.execute(
        "update subject_key set wrapped = $3, kek = $4 where subject = $1 and use = $2",
        subject,
        use,
        wrapped,
        int.from_bytes(wrapped[:4], "big"),
    )


async def without_pepper(db: Queries, pepper: int, limit: int) -> list[str]:
    """Living subjects that cannot be found under this pepper yet."""
    rows = await db.fetch(
        """
        select subject from contact_point
        where exists (
            select from subject_key where subject_key.subject = contact_point.subject and use = 'content'
        ) and not exists (
            select from identifier where identifier.subject = contact_point.subject and identifier.pepper = $1
        )
        order by subject limit $2
        """,
        pepper,
        limit,
    )
    return [row["subject"] for row in rows]


# Compartments


async def keep_compartments(tx: Queries, items: Mapping[Item, Row]) -> dict[Item, Row]:
    """Store each where nothing is stored yet; returns what *is* stored for each.

    Whoever commits first decides nonce and plaintext for ever. A concurrent insert of the same item waits here for
    the other's commit, and then reads the other's row. Sorted, so that two requests cannot deadlock.
    """
    ordered = sorted(items)
    rows = await tx.fetch(
        """
        insert into compartment (statement, name, subject, nonce, plaintext_mac)
        select statement, name, subject, nonce, mac
        from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::bytea[]) with ordinality
             as new(statement, name, subject, nonce, mac, place)
        order by place
        on conflict do nothing returning statement, name, subject, nonce, plaintext_mac
        """,
        [statement for statement, _ in ordered],
        [name for _, name in ordered],
        [items[item].subject for item in ordered],
        [items[item].nonce for item in ordered],
        [items[item].plaintext_mac for item in ordered],
    )
    kept = _compartments(rows)
    return kept if len(kept) == len(items) else await compartments(tx, ordered)


async def compartments(db: Queries, items: Sequence[Item]) -> dict[Item, Row]:
    rows = await db.fetch(
        """
        select statement, name, subject, nonce, plaintext_mac
        from unnest($1::uuid[], $2::text[]) as wanted(statement, name) join compartment using (statement, name)
        """,
        [item[0] for item in items],
        [item[1] for item in items],
    )
    return _compartments(rows)


def _compartments(rows: Iterable[Any]) -> dict[Item, Row]:
    return {
        (str(row["statement"]), row["name"]): Row(row["subject"], row["nonce"], row["plaintext_mac"]) for row in rows
    }


# Words and suppression


async def people(db: Queries, subjects: Iterable[str]) -> dict[str, tuple[Standing, dict[int, bytes]]]:
    """The words of each of these subjects, and its identifiers by pepper. One query, because every batch asks it."""
    found: dict[str, tuple[dict[str, Word], dict[int, bytes]]] = {subject: ({}, {}) for subject in subjects}
    rows = await db.fetch(
        """
        select subject, matter, status, statement, index, restricted_at, null::int as pepper, null::bytea as digest
        from word where subject = any($1::text[])
        union all
        select subject, null, null, null, null, null, pepper, digest from identifier where subject = any($1::text[])
        """,
        list(found),
    )
    for row in rows:
        words, digests = found[row["subject"]]
        if row["matter"] is None:
            digests[row["pepper"]] = row["digest"]
        else:
            words[row["matter"]] = Word(row["status"], str(row["statement"]), row["index"], row["restricted_at"])
    return {subject: (Standing(words), digests) for subject, (words, digests) in found.items()}


async def put_words(tx: Queries, words: Mapping[tuple[str, str], Word]) -> None:
    """(subject, matter) → its newest word."""
    await tx.execute(
        """
        insert into word (subject, matter, status, statement, index, restricted_at)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::text[])
        on conflict (subject, matter) do update
        set status = excluded.status, statement = excluded.statement, index = excluded.index,
            restricted_at = excluded.restricted_at
        """,
        [subject for subject, _ in words],
        [matter for _, matter in words],
        [word.status for word in words.values()],
        [word.statement for word in words.values()],
        [word.index for word in words.values()],
        [word.restricted_at for word in words.values()],
    )


async def listed(db: Queries, digests: Sequence[tuple[int, bytes]]) -> set[tuple[int, bytes]]:
    """Those of these (pepper, digest) that have a row on the suppression list, whatever it says."""
    rows = await db.fetch(
        "select pepper, digest from unnest($1::int[], $2::bytea[]) as wanted(pepper, digest)"
        " join suppression using (pepper, digest)",
        [pepper for pepper, _ in digests],
        [digest for _, digest in digests],
    )
    return {(row["pepper"], row["digest"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Listing:
    """What the newest word makes of one row of the suppression list."""

    purpose: str
    channel: str
    since: date
    suppressed: bool


async def put_suppressions(tx: Queries, listings: Mapping[tuple[int, bytes], Listing]) -> None:
    """(pepper, digest) → the newest word from now on, the last of them the newest. The rows are taken in the order of
    their keys, whatever the order of the words, so that fewer transactions can deadlock."""
    await tx.execute(
        """
        with numbered as materialized (
            select *, nextval('suppression_ordinal') as ordinal
            from unnest($1::int[], $2::bytea[], $3::text[], $4::text[], $5::boolean[], $6::date[])
                 as new(pepper, digest, purpose, channel, suppressed, since)
        )
        insert into suppression (pepper, digest, purpose, channel, suppressed, ordinal, since)
        select pepper, digest, purpose, channel, suppressed, ordinal, since from numbered order by pepper, digest
        on conflict (pepper, digest) do update
        set suppressed = excluded.suppressed, ordinal = excluded.ordinal, since = excluded.since
        """,
        [pepper for pepper, _ in listings],
        [digest for _, digest in listings],
        [one.purpose for one in listings.values()],
        [one.channel for one in listings.values()],
        [one.suppressed for one in listings.values()],
        [one.since for one in listings.values()],
    )


async def copy_suppression(
    tx: Queries, digests: Mapping[int, bytes], purpose: str, channel: str, row: Suppression
) -> None:
    """The same word under further digests, unless there is a newer one."""
    await tx.execute(
        """
        insert into suppression (pepper, digest, purpose, channel, suppressed, ordinal, since)
        select pepper, digest, $3, $4, $5, $6, $7 from unnest($1::int[], $2::bytea[]) as new(pepper, digest)
        on conflict (pepper, digest) do update
        set suppressed = excluded.suppressed, ordinal = excluded.ordinal, since = excluded.since
        where suppression.ordinal < excluded.ordinal
        """,
        *_columns(digests),
        purpose,
        channel,
        row.suppressed,
        row.ordinal,
        row.since,
    )


async def newest_suppression(db: Queries, digests: Iterable[Mapping[int, bytes]]) -> Suppression | None:
    """Of the rows under any of these digests the one that was written last."""
    pairs = [pair for group in digests for pair in group.items()]
    row = await db.fetchrow(
        """
        select suppressed, ordinal, since from unnest($1::int[], $2::bytea[]) as wanted(pepper, digest)
        join suppression using (pepper, digest) order by ordinal desc limit 1
        """,
        [pepper for pepper, _ in pairs],
        [digest for _, digest in pairs],
    )
    return None if row is None else Suppression(row["suppressed"], row["ordinal"], row["since"])


async def suppression_scopes(db: Queries, peppers: Iterable[int]) -> set[tuple[str, str]]:
    """Every (purpose, channel) that anybody is suppressed for under these peppers; a handful."""
    rows = await db.fetch(
        "select distinct purpose, channel from suppression where pepper = any($1::int[])", list(peppers)
    )
    return {(row["purpose"], row["channel"]) for row in rows} | {(ALL, ALL)}


# Erasure


async def has_folded(tx: Queries, subject: str, matter: str, spoken: str) -> bool:
    """Whether a restriction of this moment, or a later one, is folded for the subject."""
    return bool(
        await tx.fetchval(
            "select exists (select from word where subject = $1 and matter = $2 and restricted_at >= $3)",
            subject,
            matter,
            spoken,
        )
    )


async def clear(tx: Queries, subject: str) -> dict[str, int]:
    """Destroy a subject's content key and all that leads to it; how much there was, by name."""
    return {
        "content-key": affected(
            await tx.execute("delete from subject_key where subject = $1 and use = 'content'", subject)
        ),
        "address": affected(await tx.execute("delete from contact_point where subject = $1", subject)),
        "identifier": affected(await tx.execute("delete from identifier where subject = $1", subject)),
        "words": affected(await tx.execute("delete from word where subject = $1", subject)),
    }


async def destroy_evidence_keys(db: Queries) -> int:
    """Destroy the evidence keys whose period is over; how many. A trigger asks the same again."""
    return affected(
        await db.execute(
            """with due as (
                   update erased set evidence_destroyed_at = clock_timestamp()
                   where evidence_destroyed_at is null
                     and (evidence_until is null or evidence_until <= clock_timestamp())
                   returning subject
               )
               delete from subject_key k using due where k.subject = due.subject and k.use = 'evidence'"""
        )
    )


async def destroy_evidence_key(tx: Queries, subject: str) -> int:
    """As above of one subject, and again of what a backup has brought back; how many."""
    return affected(
        await tx.execute(
            """with due as (
                   update erased set evidence_destroyed_at = clock_timestamp()
                   where subject = $1 and (evidence_until is null or evidence_until <= clock_timestamp())
                   returning subject
               )
               delete from subject_key k using due where k.subject = due.subject and k.use = 'evidence'""",
            subject,
        )
    )


# Disclosures


async def put_disclosures(
    tx: Queries,
    disclosure: str,
    at: datetime,
    caller: str,
    scope: str,
    reason: str,
    subject: str,
    items: Sequence[Item],
) -> None:
    """A row for each item; without any, one that says who asked and why."""
    places: Sequence[Item] | list[tuple[None, None]] = items or [(None, None)]
    await tx.execute(
        """
        insert into disclosure (id, at, caller, scope, reason, subject, statement, name)
        select $1, $2, $3, $4, $5, $6, statement, name from unnest($7::uuid[], $8::text[]) as item(statement, name)
        """,
        disclosure,
        at,
        caller,
        scope,
        reason,
        subject,
        [place[0] for place in places],
        [place[1] for place in places],
    )


def _columns(digests: Mapping[int, bytes]) -> tuple[list[Any], list[Any]]:
    return list(digests), list(digests.values())
