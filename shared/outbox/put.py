"""What a handler calls, inside its transaction: from its commit on the statements are ours to deliver."""

from __future__ import annotations

from collections.abc import Sequence

from shared import events
from shared.database import Queries
from shared.events import Statement
from shared.identifiers import shard_of

# PostgreSQL lets one transaction that notifies commit at a time, with a wait for the disk each: if every one did, that
# would be the speed of the whole database. Where a row waits to be numbered already, the relay was told, or looks.
_PUT = """
with accepted as (
    insert into outbox (id, shard, statement) select * from unnest($1::uuid[], $2::integer[], $3::bytea[]) returning 1
)
select pg_notify(current_schema() || '_outbox', '') from (select count(*) from accepted) as counted
where not exists (select from outbox where sequence is null and sealed_at is null)
"""


async def put(tx: Queries, statements: Sequence[Statement | bytes]) -> None:
    """Accept statements; bytes are checked and kept exactly. The relay is woken when the transaction commits, unless
    it is at work: then it looks again by itself (relay.py, `_wait`)."""
    ids: list[str] = []
    shards: list[int] = []
    raws: list[bytes] = []
    for given in statements:
        statement, raw = (given, events.encode(given)) if isinstance(given, Statement) else (events.parse(given), given)
        if len(raw) > events.MAX_STATEMENT_BYTES:
            reason = "too-large"
            raise events.Malformed(reason)
        ids.append(str(statement.id))
        shards.append(shard_of(statement.subject))
        raws.append(raw)
    if raws:
        await tx.execute(_PUT, ids, shards, raws)
