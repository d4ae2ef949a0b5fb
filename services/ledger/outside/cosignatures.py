"""The queries about witnesses and their cosignatures."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from shared.database import Queries, Row


async def keep_witnesses(db: Queries, shard: int, names: Mapping[str, str]) -> dict[str, int]:
    """Make these (key → name) the witnesses of a log; key → size of the newest checkpoint it cosigned, else 0."""
    rows = await db.fetch(
        """with gone as (delete from witness where shard = $1 and key <> all($2))
           insert into witness (shard, key, name, size, line, signed_at)
           select $1, w.key, w.name, c.size, c.line, c.signed_at
           from unnest($2::text[], $3::text[]) w (key, name)
                left join lateral (select size, line, signed_at from cosignature
                                   where shard = $1 and key = w.key order by size desc limit 1) c on true
           on conflict (shard, key) do update set name = excluded.name
           returning key, coalesce(size, 0) as size""",
        shard,
        list(names),
        list(names.values()),
    )
    return {row["key"]: row["size"] for row in rows}


async def keep_policy(db: Queries, shard: int, policy: str, *, asks: bool) -> None:
    """Note by which policy cosignatures are enough from now on, if it is another than before; none at all is not noted
    where there never was one."""
    await db.execute(
        """insert into witness_policy (shard, number, policy, since)
           select $1, coalesce(n.number, 0) + 1, $2,
                  case when n.number is null
                            and (select size from cosignature where shard = $1 order by size limit 1) is null then 0
                       else (select coalesce(max(size), 0) from checkpoint where shard = $1) end
           from (values (0)) one
                left join (select number, policy from witness_policy where shard = $1
                           order by number desc limit 1) n on true
           where n.policy is distinct from $2 and ($3 or n.number is not null)""",
        shard,
        policy,
        asks,
    )


async def add_cosignature(
    db: Queries, shard: int, size: int, key: str, line: str, signed_at: datetime, *, quorum: bool
) -> None:
    """Keep what a witness said: as the first over this checkpoint, if it is, and as its newest."""
    await db.execute(
        """with first as (
               insert into cosignature (shard, size, key, line, signed_at, quorum) values ($1, $2, $3, $4, $5, $6)
               on conflict do nothing
           )
           update witness set size = $2, line = $4, signed_at = $5
           where shard = $1 and key = $3 and (size is null or size <= $2)""",
        shard,
        size,
        key,
        line,
        signed_at,
        quorum,
    )


async def cosigners(db: Queries, shard: int, size: int) -> set[str]:
    """The keys that have cosigned this checkpoint."""
    return {
        row["key"] for row in await db.fetch("select key from cosignature where shard = $1 and size = $2", shard, size)
    }


async def cosigned_checkpoint(db: Queries, shard: int, at_least: int = 1) -> tuple[int, str] | None:
    """Size and text of the newest checkpoint that our witnesses' quorum has cosigned, if it has this size."""
    row = await db.fetchrow(
        """select c.size, c.note || coalesce(f.line, '') || (
                      select string_agg(coalesce(w.line, o.line), '' order by o.key)
                      from cosignature o left join witness w on w.shard = $1 and w.key = o.key and w.size = o.size
                      where o.shard = $1 and o.size = c.size) as note
           from (select max(size) as size from cosignature where shard = $1 and quorum) q
                join checkpoint c on c.shard = $1 and c.size = q.size
                left join fresh f on f.shard = $1 and f.size = c.size
           where c.size >= $2""",
        shard,
        at_least,
    )
    return None if row is None else (row["size"], row["note"])


async def witness_ages(db: Queries) -> list[Row]:
    """How long each witness has been silent, or has not yet said anything: shard, name, seconds."""
    return await db.fetch(
        """select shard, name,
                  greatest(extract(epoch from clock_timestamp() - coalesce(signed_at, added_at)), 0)::float8 as seconds
           from witness"""
    )
