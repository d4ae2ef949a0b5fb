"""The ledger's queries: one function each, nothing decided here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from shared.database import Queries, Row
from shared.errors import Corrupt

SIGNER_DISAGREES: Final = "signer-disagrees"
SEQUENCE_GAP: Final = "sequence-gap"
POSITION_GONE: Final = "position-gone"
TAIL_DROPPED: Final = "tail-dropped"
RECORDS_LOST: Final = "records-lost"
WRONG_ROW: Final = "wrong-row"

_REPLAYED_ROWS: Final = 64
_KEYS_AT_ONCE: Final = 5000


@dataclass(frozen=True, slots=True)
class Batch:
    """One stored row of leaves: index of the first, and their bytes joined."""

    first: int
    n: int
    leaves: bytes
    root: bytes
    """of the tree up to its last leaf, by the appender's account"""


async def origin(db: Queries, shard: int) -> str:
    """The name the log was created under; Corrupt if there is no such log."""
    found = await db.fetchval("select origin from log where shard = $1", shard)
    if found is None:
        raise Corrupt("log", f"shard {shard} was never created")
    return str(found)


_LOGS: Final = """
select l.shard, l.origin, coalesce(k.vkey, l.vkey) as vkey, l.fresh_vkey
from log l left join lateral (
    select vkey from log_key where shard = l.shard and since is not null and until is null
    order by number desc limit 1) k on true
"""


async def logs(db: Queries) -> list[Row]:
    """Every log: shard, origin, vkey (of the newest key that signs), fresh_vkey."""
    return await db.fetch(f"{_LOGS} order by l.shard")


async def head(db: Queries, shard: int) -> Row:
    """The head row of a shard; Corrupt if there is none."""
    row = await db.fetchrow(
        "select epoch, size, next_offset, edge, map_root, recorded_at from head where shard = $1", shard
    )
    if row is None:
        raise Corrupt("head", f"shard {shard} has none")
    return row


async def claim(db: Queries, shard: int) -> int:
    """Raise the epoch: from now on no earlier owner of this shard can append."""
    epoch = await db.fetchval("update head set epoch = epoch + 1 where shard = $1 returning epoch", shard)
    if epoch is None:
        raise Corrupt("log", f"shard {shard} was never created")
    return int(epoch)


async def go_on_from(db: Queries, shard: int, epoch: int | None, gone: int, beginning: int) -> None:
    """The offset to go on from is not there any more: take this one instead, and leave a word for a person."""
    detail = (
        f"offset {gone} of consent.stated is not there any more; went on from {beginning}."
        " What was not sealed comes again from the outboxes; statements over HTTP come again from their senders."
    )
    await db.execute(
        """with moved as (
               update head set next_offset = $4 where shard = $1 and epoch = $2 and next_offset = $3 returning 1
           )
           insert into incident (shard, kind, about, detail) select $1, $5, 'consent.stated', $6 from moved
           on conflict do nothing""",
        shard,
        epoch,
        gone,
        beginning,
        POSITION_GONE,
        detail,
    )


async def clock(db: Queries) -> datetime:
    """What PostgreSQL takes for the time."""
    found: datetime = await db.fetchval("select clock_timestamp()")
    return found


async def batches(db: Queries, shard: int, first: int, rows: int) -> list[Batch]:
    """The stored batches that begin at leaf `first` or later, at most `rows` of them."""
    found = await db.fetch(
        "select first, n, leaves, root from leaf_batch where shard = $1 and first >= $2 order by first limit $3",
        shard,
        first,
        rows,
    )
    return [Batch(row["first"], row["n"], row["leaves"], row["root"]) for row in found]


async def replay(db: Queries, shard: int, start: int, end: int) -> AsyncIterator[Batch]:
    """Every batch from the one that begins at `start` to the one that ends at `end`; Corrupt if they do not join."""
    while start < end:
        found = await batches(db, shard, start, _REPLAYED_ROWS)
        for batch in found:
            if batch.first != start or batch.first + batch.n > end:
                raise Corrupt("leaf_batch", f"shard {shard}, no batch begins at {start} or none ends at {end}")
            yield batch
            start += batch.n
            if start == end:
                return
        if not found:
            raise Corrupt("leaf_batch", f"shard {shard}, leaf {start} is missing")


async def batches_between(db: Queries, shard: int, start: int, end: int) -> list[Batch]:
    """The stored batches that hold leaves start … end-1."""
    found = await db.fetch(
        """select first, n, leaves, root from leaf_batch
           where shard = $1
             and first >= coalesce((select max(first) from leaf_batch where shard = $1 and first <= $2), 0)
             and first < $3
           order by first""",
        shard,
        start,
        end,
    )
    return [Batch(row["first"], row["n"], row["leaves"], row["root"]) for row in found]


async def tile(db: Queries, shard: int, level: int, n: int) -> bytes | None:
    """A full tile, 8192 bytes, if the tree has it."""
    found = await db.fetchval("select hashes from tile where shard = $1 and level = $2 and n = $3", shard, level, n)
    return None if found is None else bytes(found)


async def tiles(db: Queries, shard: int, level: int, numbers: Sequence[int]) -> list[Row]:
    """Those full tiles of one level that exist: n, hashes."""
    return await db.fetch(
        "select n, hashes from tile where shard = $1 and level = $2 and n = any($3)", shard, level, numbers
    )


async def snapshots(db: Queries, shard: int, size: int) -> list[int]:
    """Of which sizes, at most this one, there are map snapshots or parts of them; the newest first."""
    rows = await db.fetch(
        "select distinct size from map_snapshot where shard = $1 and size <= $2 order by size desc", shard, size
    )
    return [row["size"] for row in rows]


async def snapshot_part(db: Queries, shard: int, size: int, part: int) -> bytes | None:
    """The records of one part, joined; parts count from 0."""
    found = await db.fetchval(
        "select records from map_snapshot where shard = $1 and size = $2 and part = $3", shard, size, part
    )
    return None if found is None else bytes(found)


async def add_snapshot_part(db: Queries, shard: int, size: int, part: int, records: bytes) -> None:
    """Keep one part; one that is there already is replaced."""
    await db.execute(
        """insert into map_snapshot (shard, size, part, records) values ($1, $2, $3, $4)
           on conflict (shard, size, part) do update set records = excluded.records""",
        shard,
        size,
        part,
        records,
    )


async def forget_other_snapshots(db: Queries, shard: int, size: int) -> None:
    """Keep this snapshot of the shard and no other."""
    await db.execute("delete from map_snapshot where shard = $1 and size <> $2", shard, size)


async def subjects(db: Queries, names: Sequence[str]) -> list[Row]:
    """Wrapped key and matters of the subjects that are known: subject, wrapped, matters[], restricted_at[]."""
    return await db.fetch(
        """select k.subject, k.wrapped, array_agg(m.matter) as matters, array_agg(m.restricted_at) as restricted_at
           from subject_key k left join matter m on m.subject = k.subject
           where k.subject = any($1) group by k.subject""",
        names,
    )


async def subject_in_log(db: Queries, name: str, shard: int) -> Row | None:
    """A log as `logs` has it, with the wrapped key and the matters of one subject that is known in it."""
    return await db.fetchrow(
        f"""select l.*, k.wrapped, (select array_agg(matter) from matter where subject = k.subject) as matters
            from ({_LOGS} where l.shard = $2) l join subject_key k on k.subject = $1 and k.shard = l.shard""",
        name,
        shard,
    )


async def subjects_to_append(db: Queries, names: Sequence[str]) -> list[Row]:
    """As `subjects`, with `ended`; of those of whom nothing may be recorded any more there is a row that says so."""
    return await db.fetch(
        """select k.subject, k.wrapped, array_agg(m.matter) as matters, array_agg(m.restricted_at) as restricted_at,
                  false as ended
           from subject_key k left join matter m on m.subject = k.subject
           where k.subject = any($1) group by k.subject
           union all
           select subject, null, null, null, true from erasure where subject = any($1) and ending_at is not null""",
        names,
    )


async def begin_endings(db: Queries, shard: int, epoch: int, spread: timedelta) -> list[str]:
    """Give each label of whoever is due a moment of its own within the spread; answers the subjects. From here on
    nothing is recorded of them."""
    rows = await db.fetch(
        """with due as (
               update erasure set ending_at = clock_timestamp()
               where shard = $1 and ending_at is null and hold_until <= clock_timestamp()
                 and completed < (select max(size) from checkpoint where shard = $1)
                 and exists (select from head where shard = $1 and epoch = $2)
               returning subject
           ), strewn as (
               insert into ending (subject, matter, shard, end_at)
               select m.subject, m.matter, m.shard, clock_timestamp() + random() * $3::interval
               from due join matter m using (subject)
           )
           select subject from due""",
        shard,
        epoch,
        spread,
    )
    return [row["subject"] for row in rows]


async def due_endings(db: Queries, shard: int, limit: int) -> list[tuple[str, str]]:
    """(subject, matter) of the labels whose moment has come."""
    rows = await db.fetch(
        """select subject, matter from ending
           where shard = $1 and ended is null and end_at <= clock_timestamp() order by end_at limit $2""",
        shard,
        limit,
    )
    return [(row["subject"], row["matter"]) for row in rows]


async def to_destroy(db: Queries, shard: int) -> dict[str, list[int]]:
    """Subjects all of whose labels are ended and sealed, with the indexes of their ERASURE leaves."""
    rows = await db.fetch(
        """select e.subject, array_agg(n.ended) as ended
           from erasure e join ending n using (subject)
           where e.shard = $1 and e.destroyed_at is null and e.ending_at is not null
           group by e.subject
           having bool_and(coalesce(n.ended < (select max(size) from checkpoint where shard = $1), false))""",
        shard,
    )
    return {row["subject"]: list(row["ended"]) for row in rows}


async def payloads_of(db: Queries, shard: int, subject: str, indexes: Sequence[int]) -> list[Row]:
    """A subject's payloads at these indexes, with its wrapped key: index, payload, wrapped."""
    return await db.fetch(
        """select p.index, p.payload, k.wrapped from payload p join subject_key k using (subject)
           where p.shard = $1 and p.subject = $2 and p.index = any($3)""",
        shard,
        subject,
        indexes,
    )


async def destroy_subject(db: Queries, subject: str, indexes: Sequence[int], attachments: Sequence[bytes]) -> int:
    """The one procedure that may; how many payloads went. It raises where a hold stands or a leaf is not sealed."""
    return int(await db.fetchval("select destroy_subject($1, $2, $3)", subject, indexes, attachments))


async def wrapped_keys(db: Queries, shard: int, after: str, limit: int) -> list[Row]:
    """Wrapped keys by subject, from the one behind `after`: subject, wrapped."""
    return await db.fetch(
        "select subject, wrapped from subject_key where shard = $1 and subject > $2 order by subject limit $3",
        shard,
        after,
        limit,
    )


async def rewrap(db: Queries, before: Sequence[tuple[str, bytes]], after: Sequence[bytes]) -> None:
    """Replace wrapped keys that are still what they were; one that was destroyed meanwhile stays destroyed."""
    await db.execute(
        """update subject_key k set wrapped = n.after
           from unnest($1::text[], $2::bytea[], $3::bytea[]) n (subject, before, after)
           where k.subject = n.subject and k.wrapped = n.before""",
        [subject for subject, _ in before],
        [wrapped for _, wrapped in before],
        after,
    )


async def lost_records(db: Queries, shard: int) -> list[Row]:
    """What a restore could not get back: index, reason."""
    return await db.fetch("select index, reason from lost_record where shard = $1", shard)


async def keys_at(db: Queries, shard: int, indexes: Sequence[int]) -> list[tuple[str, bytes]]:
    """The wrapped keys of the subjects whose statements stand at these indexes: subject, wrapped."""
    rows = await db.fetch(
        """select distinct k.subject, k.wrapped from payload p join subject_key k on k.subject = p.subject
           where p.shard = $1 and p.index = any($2)""",
        shard,
        indexes,
    )
    return [(row["subject"], row["wrapped"]) for row in rows]


async def living_keys(db: Queries, shard: int) -> AsyncIterator[list[tuple[str, bytes]]]:
    """Every wrapped key of a shard, some thousands at a time: subject, wrapped."""
    after = ""
    while rows := await wrapped_keys(db, shard, after, _KEYS_AT_ONCE):
        yield [(row["subject"], row["wrapped"]) for row in rows]
        after = rows[-1]["subject"]


async def newest_kek(db: Queries, shard: int) -> int:
    """The number of the key-encryption key that the newest subject's key hangs on: cheap, and enough to see that
    another came."""
    found = await db.fetchval(
        """select encode(substring(wrapped for 4), 'hex') from subject_key where shard = $1
           order by subject desc limit 1""",
        shard,
    )
    return 0 if found is None else int(found, 16)


async def put_key_file(db: Queries, shard: int, oldest_kek: int) -> None:
    """Say which key-encryption key the file of keys still hangs on; 0 is none, because it is empty."""
    await db.execute(
        """insert into key_file (shard, oldest_kek) values ($1, $2)
           on conflict (shard) do update set oldest_kek = excluded.oldest_kek
           where key_file.oldest_kek <> excluded.oldest_kek""",
        shard,
        oldest_kek,
    )


async def oldest_kek(db: Queries, shard: int) -> int:
    """The lowest number of a key-encryption key that a subject's key of this shard hangs on; 0 if there is none."""
    found = await db.fetchval(
        "select substring(wrapped for 4) from subject_key where shard = $1 order by substring(wrapped for 4) limit 1",
        shard,
    )
    return 0 if found is None else int.from_bytes(found, "big")


async def seen(db: Queries, shard: int, sources: Sequence[str], ids: Sequence[str]) -> list[Row]:
    """Which of these statements stand in the log: source, id, statement_hash."""
    return await db.fetch(
        """select s.source, s.id::text as id, s.statement_hash
           from unnest($2::text[], $3::uuid[]) w (source, id)
           join seen s on s.shard = $1 and s.id = w.id and s.source = w.source""",
        shard,
        sources,
        ids,
    )


async def rejected_hashes(db: Queries, shard: int, hashes: Sequence[bytes]) -> set[bytes]:
    """Which of these statements, by the hash of their bytes, were rejected before."""
    rows = await db.fetch(
        "select distinct statement_hash from rejected where shard = $1 and source is not null"
        " and statement_hash = any($2)",
        shard,
        hashes,
    )
    return {row["statement_hash"] for row in rows}


async def progress(db: Queries, shard: int) -> dict[str, int]:
    """The highest contiguous sequence of each source."""
    rows = await db.fetch(
        "select source, max(contiguous) as contiguous from progress where shard = $1 group by source", shard
    )
    return {row["source"]: row["contiguous"] for row in rows}


async def arrived(db: Queries, shard: int) -> list[Row]:
    """Sequences that arrived beyond a gap: source, sequence."""
    return await db.fetch("select source, sequence from arrived where shard = $1", shard)


async def open_incidents(db: Queries, shard: int, kind: str) -> list[str]:
    """What the open incidents of one kind are about."""
    rows = await db.fetch(
        "select about from incident where shard = $1 and kind = $2 and closed_at is null", shard, kind
    )
    return [row["about"] for row in rows]


async def forget_sealed_progress(db: Queries, shard: int) -> None:
    """Keep, of the progress that is sealed, only the newest row of each source."""
    await db.execute(
        """delete from progress p using (
               select source, max(size) as size from progress
               where shard = $1 and size <= (select max(size) from checkpoint where shard = $1)
               group by source) newest
           where p.shard = $1 and p.source = newest.source and p.size < newest.size""",
        shard,
    )


async def pass_over_gap(db: Queries, shard: int, source: str, size: int, missing: int, upto: int) -> None:
    """Count every sequence of a source as arrived, from the first that is missing, `upto` included: a person has given
    up what is missing among them."""
    await db.fetch(
        """with passed as (
               insert into progress (shard, source, size, contiguous) values ($1, $2, $3, $4)
               on conflict (shard, source, size) do update
                   set contiguous = greatest(progress.contiguous, excluded.contiguous) returning 1
           ), filled as (delete from arrived where shard = $1 and source = $2 and sequence <= $4
           ), given_up as (
               insert into empty_number (shard, source, first, last, why) values ($1, $2, $5, $4, 'given-up')
               on conflict do nothing)
           select pg_notify('ledger_sealed', '') from passed""",
        shard,
        source,
        size,
        upto,
        missing,
    )


async def sealed_size(db: Queries, shard: int) -> int:
    """How many leaves the newest checkpoint covers; 0 if there is no such log."""
    return int(await db.fetchval("select coalesce(max(size), 0) from checkpoint where shard = $1", shard))


async def served_checkpoint(db: Queries, shard: int) -> tuple[int, str] | None:
    """Size and text of the newest checkpoint as it is served: with the fresh line and what witnesses cosigned, as far
    as these are of the same size."""
    row = await db.fetchrow(
        """select c.size, c.note || coalesce(f.line, '') || coalesce(
                      (select string_agg(line, '' order by key) from witness
                       where shard = c.shard and size = c.size), '') as note
           from checkpoint c left join fresh f on f.shard = c.shard and f.size = c.size
           where c.shard = $1 order by c.size desc limit 1""",
        shard,
    )
    return None if row is None else (row["size"], row["note"])


async def payloads(db: Queries, shard: int, start: int, end: int) -> list[Row]:
    """What is stored of the statements at start … end-1: index, subject, payload, wrapped (null once destroyed)."""
    return await db.fetch(
        """select p.index, p.subject, p.payload, k.wrapped
           from payload p left join subject_key k on k.subject = p.subject
           where p.shard = $1 and p.index >= $2 and p.index < $3 order by p.index""",
        shard,
        start,
        end,
    )


async def newest_checkpoint(db: Queries, shard: int) -> Row | None:
    """The last checkpoint that was signed: size, root, note."""
    return await db.fetchrow(
        "select size, root, note from checkpoint where shard = $1 order by size desc limit 1", shard
    )


async def checkpoints_behind(db: Queries, shard: int, size: int, limit: int | None = None) -> list[Row]:
    """The checkpoints of larger sizes than this, the smallest first: size, previous, root, note."""
    return await db.fetch(
        """select size, previous, root, note from checkpoint
           where shard = $1 and size > $2 order by size limit $3""",
        shard,
        size,
        limit,
    )


async def add_checkpoint(
    db: Queries, shard: int, size: int, previous: int | None, root: bytes, note: str, fresh: str, signed_at: datetime
) -> None:
    """Store a signed checkpoint behind `previous`, and its first fresh line.

    Raises UniqueViolationError, and stores nothing, unless `previous` is the newest.
    """
    await db.fetch(
        """with added as (
               insert into checkpoint (shard, size, previous, root, note) values ($1, $2, $3, $4, $5) returning 1
           ), renewed as (
               insert into fresh (shard, size, line, signed_at) select $1, $2, $6, $7 from added
               on conflict (shard) do update
                   set size = excluded.size, line = excluded.line, signed_at = excluded.signed_at
           )
           select pg_notify('ledger_sealed', '') from added""",
        shard,
        size,
        previous,
        root,
        note,
        fresh,
        signed_at,
    )


async def renew_fresh(db: Queries, shard: int, size: int, line: str, signed_at: datetime) -> None:
    """Replace the fresh line of the newest checkpoint."""
    await db.execute(
        "update fresh set line = $3, signed_at = $4 where shard = $1 and size = $2 and signed_at <= $4",
        shard,
        size,
        line,
        signed_at,
    )


async def open_incident(db: Queries, shard: int, kind: str, about: str, detail: str) -> None:
    """Say that a person should look; saying it twice is saying it once."""
    await db.execute(
        "insert into incident (shard, kind, about, detail) values ($1, $2, $3, $4) on conflict do nothing",
        shard,
        kind,
        about,
        detail,
    )


async def close_incident(db: Queries, shard: int, kind: str, about: str, reason: str) -> None:
    """Say that what an incident told of is over."""
    await db.execute(
        """update incident set closed_at = clock_timestamp(), closed_by = 'ledger', closed_reason = $4
           where shard = $1 and kind = $2 and about = $3 and closed_at is null""",
        shard,
        kind,
        about,
        reason,
    )


async def words(db: Queries, shard: int, indexes: Sequence[int]) -> list[Row]:
    """EVENT and ERASURE leaves by their indexes, each with what is stored of its statement: index, leaf, payload."""
    return await db.fetch(
        """select w.index, substr(b.leaves, ((w.index - b.first) * 89 + 1)::int, 89) as leaf, p.payload
           from unnest($2::bigint[]) w (index)
               cross join lateral (
                   select first, leaves from leaf_batch
                   where shard = $1 and first <= w.index order by first desc limit 1) b
               left join payload p on p.shard = $1 and p.index = w.index
           order by w.index""",
        shard,
        indexes,
    )


async def checkpoint_of_size(db: Queries, shard: int, size: int) -> str | None:
    """The checkpoint that was signed at this size, without a fresh line."""
    found = await db.fetchval("select note from checkpoint where shard = $1 and size = $2", shard, size)
    return None if found is None else str(found)


async def published(db: Queries, shard: int) -> int:
    """The index of the next leaf to publish."""
    found = await db.fetchval("select next from cursor where shard = $1", shard)
    if found is None:
        raise Corrupt("cursor", f"shard {shard} has none")
    return int(found)


async def to_publish(db: Queries, shard: int) -> tuple[int, int, str, dict[str, datetime]]:
    """Index of the next leaf to publish; size and text of the newest checkpoint, as it is served; the newest mark of
    each source: everything it accepted before is sealed. One query, because every batch asks it."""
    row = await db.fetchrow(
        """
        select n.next, c.size, c.note || coalesce(f.line, '') as note, m.sources, m.marks
        from cursor n
            left join lateral (
                select size, note from checkpoint where shard = $1 order by size desc limit 1) c on true
            left join fresh f on f.shard = $1 and f.size = c.size
            cross join lateral (
                select array_agg(source order by source) as sources, array_agg(all_before order by source) as marks
                from source_mark where shard = $1) m
        where n.shard = $1
        """,
        shard,
    )
    if row is None:
        raise Corrupt("cursor", f"shard {shard} has none")
    if row["size"] is None:
        raise Corrupt("checkpoint", f"shard {shard} has none")
    marks = dict(zip(row["sources"] or [], row["marks"] or [], strict=True))
    return int(row["next"]), row["size"], row["note"], marks


async def advance_cursor(db: Queries, shard: int, start: int, end: int) -> bool:
    """Everything before `end` is published; False if another publisher was here since."""
    row = await db.fetchrow(
        "update cursor set next = $3 where shard = $1 and next = $2 returning 1",
        shard,
        start,
        end,
    )
    return row is not None


async def sealed_sequences(db: Queries, source: str) -> dict[int, int]:
    """Per shard, the highest sequence up to which everything of this source is sealed, or was rejected."""
    rows = await db.fetch(
        """select l.shard, coalesce((
               select p.contiguous from progress p
               where p.shard = l.shard and p.source = $1
                 and p.size <= (select max(size) from checkpoint c where c.shard = l.shard)
               order by p.size desc limit 1), 0) as sealed
           from log l order by l.shard""",
        source,
    )
    return {row["shard"]: row["sealed"] for row in rows}


async def rejected_between(db: Queries, shard: int, source: str, above: int, upto: int) -> list[Row]:
    """What was rejected of a source, its sequence in above < … <= upto: sequence, id, reason."""
    return await db.fetch(
        """select distinct on (sequence) sequence, statement_id as id, reason from rejected
           where shard = $1 and source = $2 and sequence > $3 and sequence <= $4
           order by sequence, number""",
        shard,
        source,
        above,
        upto,
    )


async def overtaken_between(db: Queries, shard: int, source: str, above: int, upto: int) -> list[Row]:
    """What came too late to have effect, its sequence in above < … <= upto: sequence, id, index."""
    return await db.fetch(
        """select sequence, id::text as id, index from overtaken
           where shard = $1 and source = $2 and sequence > $3 and sequence <= $4 order by sequence""",
        shard,
        source,
        above,
        upto,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What has become of one statement, by its name and the hash of its bytes, that came without a number."""

    index: int | None
    same: bool
    """these bytes stand in the log under this name"""
    sealed: bool
    overtaken: bool
    rejections: int
    """how often these bytes were rejected"""
    reason: str | None
    """of the last rejection"""


@dataclass(frozen=True, slots=True)
class Name:
    """A statement without a number: its place, its name, the hash of its bytes."""

    shard: int
    source: str
    id: str
    statement_hash: bytes


async def verdicts(db: Queries, wanted: Sequence[Name]) -> list[Verdict]:
    """What is known of each of these, in one look."""
    rows = await db.fetch(
        """select s.index, coalesce(s.statement_hash = w.hash, false) as same,
                  coalesce(s.index < c.size, false) as sealed, o.index is not null as overtaken,
                  coalesce(r.times, 0) as rejections, r.reason
           from unnest($1::int[], $2::text[], $3::uuid[], $4::bytea[]) with ordinality
                w (shard, source, id, hash, place)
           left join (select shard, max(size) as size from checkpoint where shard = any($1) group by shard) c
               on c.shard = w.shard
           left join seen s on s.shard = w.shard and s.id = w.id and s.source = w.source
           left join overtaken o on o.shard = w.shard and o.index = s.index
           left join lateral (
               select reason, sum(times) over () as times from rejected
               where shard = w.shard and source = w.source and sequence = 0 and statement_hash = w.hash
               order by last_at desc limit 1) r on true
           order by w.place""",
        [name.shard for name in wanted],
        [name.source for name in wanted],
        [name.id for name in wanted],
        [name.statement_hash for name in wanted],
    )
    return [Verdict(**row) for row in rows]


async def unhandled_rejects(db: Queries, limit: int) -> list[Row]:
    """What could not be recorded and nobody has dealt with, newest first; without the statements' bytes."""
    return await db.fetch(
        """select number, shard, stated_offset, source, sequence, statement_id, reason,
                  encode(statement_hash, 'hex') as statement_hash, statement_size, times, first_at, last_at
           from rejected where handled_at is null order by number desc limit $1""",
        limit,
    )


async def troubles(db: Queries) -> Row:
    """How many incidents are open, how many rejects unhandled, how old the oldest fresh line is."""
    row = await db.fetchrow(
        """select (select count(*) from incident where closed_at is null) as incidents,
                  (select count(*) from rejected where handled_at is null) as rejected,
                  (select min(signed_at) from fresh) as fresh_at"""
    )
    assert row is not None  # noqa: S101 - aggregates always give a row
    return row


async def stages(db: Queries) -> list[Row]:
    """How far each log is: leaves appended, sealed, published, the oldest unsealed EVENT, ages in seconds."""
    return await db.fetch(
        """select l.shard, h.size as appended, c.size as sealed, u.next as published,
                  (select substring(b.leaves for 89) from leaf_batch b
                   where b.shard = l.shard and b.first >= c.size order by b.first limit 1) as oldest_unsealed,
                  extract(epoch from clock_timestamp() - coalesce(f.signed_at, l.created_at))::float8 as fresh_seconds,
                  extract(epoch from clock_timestamp() - coalesce(k.checked_at, l.created_at))::float8 as check_seconds,
                  coalesce(k.findings, 0) as findings, coalesce(k.followed, 0) as checked,
                  extract(epoch from clock_timestamp() - coalesce(k.followed_at, l.created_at))::float8
                      as behind_seconds
           from log l join head h using (shard) join cursor u using (shard)
                left join fresh f using (shard) left join log_check k using (shard)
                cross join lateral (select coalesce(max(size), 0) as size from checkpoint where shard = l.shard) c"""
    )


async def mark_ages(db: Queries) -> list[Row]:
    """How old the newest mark of each source is: shard, source, seconds."""
    return await db.fetch(
        """select shard, source, greatest(extract(epoch from clock_timestamp() - all_before), 0)::float8 as seconds
           from source_mark"""
    )


async def open_incidents_by_kind(db: Queries) -> list[Row]:
    """Counts of what waits for a person: kind, number."""
    return await db.fetch("select kind, count(*) as number from incident where closed_at is null group by kind")


async def unhandled_rejects_by_reason(db: Queries) -> list[Row]:
    """Counts of what waits for a person: reason, number."""
    return await db.fetch("select reason, count(*) as number from rejected where handled_at is null group by reason")


async def put_check(db: Queries, shard: int, findings: int, now: datetime) -> None:
    """Note how many wrong rows a check of one log has named."""
    await db.execute(
        """insert into log_check (shard, findings, checked_at) values ($1, $2, $3)
           on conflict (shard) do update set findings = excluded.findings, checked_at = excluded.checked_at""",
        shard,
        findings,
        now,
    )


async def put_findings(db: Queries, shard: int, findings: int, now: datetime) -> None:
    """Note that there are wrong rows, until a check of the whole log has counted them."""
    await db.execute(
        """insert into log_check (shard, findings, checked_at) values ($1, $2, $3)
           on conflict (shard) do update set findings = greatest(log_check.findings, excluded.findings)""",
        shard,
        findings,
        now,
    )


async def put_followed(db: Queries, shard: int, size: int, now: datetime) -> None:
    """Note that everything that is signed now, so many leaves, has been checked."""
    await db.execute(
        """insert into log_check as c (shard, findings, checked_at, followed, followed_at)
           select shard, 0, created_at, $2, $3 from log where shard = $1
           on conflict (shard) do update set followed = excluded.followed, followed_at = excluded.followed_at""",
        shard,
        size,
        now,
    )


async def handle_reject(db: Queries, number: int, by: str, reason: str) -> bool:
    """Note who has dealt with a reject, and how; False if there is none or somebody has already."""
    done = await db.execute(
        """update rejected set handled_at = clock_timestamp(), handled_by = $2, handled_reason = $3
           where number = $1 and handled_at is null""",
        number,
        by,
        reason,
    )
    return done == "UPDATE 1"


async def reject(db: Queries, number: int) -> Row | None:
    """A reject that waits for a person: shard, source, statement (null if its bytes were not kept), reason."""
    return await db.fetchrow(
        """select shard, source, statement, statement_hash, reason from rejected
           where number = $1 and handled_at is null""",
        number,
    )


async def handle_rejects_of(db: Queries, source: str, statement_hash: bytes, by: str, reason: str) -> None:
    """Note who has dealt with a statement, on every row that tells of these bytes."""
    await db.execute(
        """update rejected set handled_at = clock_timestamp(), handled_by = $3, handled_reason = $4
           where source = $1 and statement_hash = $2 and handled_at is null""",
        source,
        statement_hash,
        by,
        reason,
    )


async def incidents(db: Queries) -> list[Row]:
    """Every open incident, oldest first."""
    return await db.fetch(
        "select number, shard, kind, about, detail, opened_at from incident where closed_at is null order by number"
    )


async def close_incident_by(db: Queries, number: int, by: str, reason: str) -> bool:
    """Note that a named person has closed an incident, and why; False if it is not open."""
    done = await db.execute(
        """update incident set closed_at = clock_timestamp(), closed_by = $2, closed_reason = $3
           where number = $1 and closed_at is null""",
        number,
        by,
        reason,
    )
    return done == "UPDATE 1"


async def add_attachment(db: Queries, digest: bytes, content: bytes) -> None:
    """Keep a ciphertext under its SHA-256; keeping it twice is keeping it once."""
    await db.execute("insert into attachment (hash, content) values ($1, $2) on conflict do nothing", digest, content)


async def kept(db: Queries, hashes: Collection[str]) -> set[str]:
    """Those of the hashes under which something is stored."""
    wanted = [bytes.fromhex(one) for one in hashes]
    rows = await db.fetch("select encode(hash, 'hex') as hash from attachment where hash = any($1)", wanted)
    return {row["hash"] for row in rows}


async def attachment(db: Queries, digest: bytes) -> bytes | None:
    """The ciphertext with this SHA-256."""
    found = await db.fetchval("select content from attachment where hash = $1", digest)
    return None if found is None else bytes(found)
