"""What a handler calls, inside its transaction: from its commit on the statements are ours to deliver."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from shared import events
from shared.clock import parse_rfc3339
from shared.database import Queries
from shared.errors import Unavailable
from shared.events import Statement
from shared.identifiers import shard_of

# PostgreSQL lets one transaction that notifies commit at a time, with a wait for the disk each: if every one did, that
# would be the speed of the whole database. Where a row waits to be numbered already, the relay was told, or looks.
_PUT = """
with accepted as (
    insert into outbox (id, shard, statement) select * from unnest($1::uuid[], $2::integer[], $3::bytea[])
    where $4::timestamptz < clock_timestamp() + $5::interval
    returning 1
), told as (
    select pg_notify(current_schema() || '_outbox', '') from (select count(*) from accepted) as counted
    where (
        select id from outbox
        where sequence is null and sealed_at is null and accepted_at > statement_timestamp() - interval '1 second'
        order by accepted_at desc limit 1
    ) is null
)
select (select count(*) from accepted) as accepted, (select count(*) from told) as told
"""
AHEAD: Final = timedelta(minutes=1)
"""How far our clock may be ahead of PostgreSQL's. The ledger rejects what is two minutes ahead of its own: a person
would have been thanked for a withdrawal that is none."""


async def put(tx: Queries, statements: Sequence[Statement | bytes]) -> list[tuple[str, str]]:
    """Accept statements; bytes are checked and kept exactly. The id and SHA-256 of each.

    The relay is woken when the transaction commits, unless it is at work: then it looks again by itself (relay.py,
    `_wait`). Unavailable if our clock is ahead of PostgreSQL's: nothing is accepted then.
    """
    ids: list[str] = []
    shards: list[int] = []
    raws: list[bytes] = []
    latest = ""
    for given in statements:
        statement, raw = (given, events.encode(given)) if isinstance(given, Statement) else (events.parse(given), given)
        if len(raw) > events.MAX_STATEMENT_BYTES:
            reason = "too-large"
            raise events.Malformed(reason)
        ids.append(str(statement.id))
        shards.append(shard_of(statement.subject))
        raws.append(raw)
        latest = max(latest, statement.time)
    if raws:
        row = await tx.fetchrow(_PUT, ids, shards, raws, parse_rfc3339(latest), AHEAD)
        if row is None or row["accepted"] != len(raws):
            raise Unavailable("clock")
    return [(name, hashlib.sha256(raw).hexdigest()) for name, raw in zip(ids, raws, strict=True)]
