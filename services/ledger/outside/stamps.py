"""The queries about timestamps of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from shared.database import Queries, Row


async def newest_stamp(db: Queries, shard: int) -> Row | None:
    """The last one that was stored: size, stamped_at."""
    return await db.fetchrow("select size, stamped_at from stamp where shard = $1 order by size desc limit 1", shard)


async def add_stamp(db: Queries, shard: int, size: int, answer: bytes, stamped_at: datetime) -> None:
    """Keep the timestamp of a checkpoint; a second one for the same says nothing more."""
    await db.execute(
        "insert into stamp (shard, size, answer, stamped_at) values ($1, $2, $3, $4) on conflict do nothing",
        shard,
        size,
        answer,
        stamped_at,
    )


async def covering_stamp(db: Queries, shard: int, index: int | None) -> Row | None:
    """The first timestamp of a checkpoint that has the leaf `index`; without one the newest: size, note, answer."""
    return await db.fetchrow(
        """select s.size, c.note, s.answer from stamp s join checkpoint c using (shard, size)
           where s.shard = $1 and ($2::bigint is null or s.size > $2)
           order by case when $2 is null then -s.size else s.size end limit 1""",
        shard,
        index,
    )


async def first_stamps(db: Queries, shard: int, indexes: Sequence[int], size: int, limit: int) -> list[Row]:
    """The first timestamp that covers each of these leaves, of checkpoints up to this size: size, note, answer."""
    return await db.fetch(
        """select s.size, c.note, s.answer
           from (select distinct f.size
                 from unnest($2::bigint[]) i (index)
                      cross join lateral (select size from stamp where shard = $1 and size > i.index and size <= $3
                                          order by size limit 1) f
                 order by f.size limit $4) w
                join stamp s on s.shard = $1 and s.size = w.size
                join checkpoint c on c.shard = $1 and c.size = w.size
           order by s.size""",
        shard,
        indexes,
        size,
        limit,
    )


async def stamp_ages(db: Queries) -> list[Row]:
    """Since when each log that has timestamps, or is to have them, has leaves that none covers: shard, seconds."""
    return await db.fetch(
        """select s.shard, case when s.size = c.size then 0.0
                  else extract(epoch from clock_timestamp() - s.stamped_at)::float8 end as seconds
           from log l
                cross join lateral (
                    select shard, size, stamped_at from stamp where shard = l.shard order by size desc limit 1) s
                cross join lateral (select max(size) as size from checkpoint where shard = s.shard) c"""
    )
