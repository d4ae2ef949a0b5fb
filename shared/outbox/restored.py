"""An outbox that was restored from a backup together with its database must not give numbers a second time."""

from __future__ import annotations

from shared.database import Queries


async def go_on_after(owner: Queries, source: str, shard: int, number: int) -> bool:
    """Let a source's next number be above one it is known to have given out; whether there was anything to do.

    `owner` may write in the schema of every service. A source with a database of its own is left alone: its outbox
    was not restored. Its numbers between are told apart by their statements: none is lost by being passed over.
    """
    table = await owner.fetchval("select to_regclass(format('%I.outbox_sequence', $1::text))::text", source)
    if table is None:
        return False
    # The name is PostgreSQL's own, quoted where it must be.
    done = await owner.execute(
        f"""insert into {table} as counter (shard, last) values ($1, $2)
            on conflict (shard) do update set last = excluded.last where counter.last < excluded.last""",
        shard,
        number,
    )
    return done == "INSERT 0 1"
