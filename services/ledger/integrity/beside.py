"""What is kept under its hash: statements that were rejected, and attachments."""

from __future__ import annotations

from services.ledger.integrity.finding import Finding, Pace
from shared.database import Queries


async def check_rejects(db: Queries, shard: int, pace: Pace) -> list[Finding]:
    """Rejected statements that do not have the hash they are noted under."""
    found, after = [], 0
    while rows := await db.fetch(
        """select number, sha256(statement) <> statement_hash as wrong from rejected
           where shard = $1 and number > $2 order by number limit 200""",
        shard,
        after,
    ):
        after, wrong = rows[-1]["number"], [row["number"] for row in rows if row["wrong"]]
        found += [Finding("rejected", shard, f"number {one}", "the statement does not have its hash") for one in wrong]
        await pace.rest()
    return found


async def check_attachments(db: Queries) -> list[Finding]:
    """Ciphertexts that do not have the hash they are found by; they belong to no shard, and count as the first's."""
    rows = await db.fetch("select encode(hash, 'hex') as hash from attachment where sha256(content) <> hash")
    return [Finding("attachment", 0, f"hash {row['hash']}", "the content has another hash") for row in rows]


async def attachments_behind(db: Queries, after: bytes, limit: int) -> tuple[bytes | None, list[Finding]]:
    """As `check_attachments`, of the next ones by their hashes; and the last of these, or None if there are no more."""
    rows = await db.fetch(
        """select hash, encode(hash, 'hex') as name, sha256(content) <> hash as wrong
           from attachment where hash > $1 order by hash limit $2""",
        after,
        limit,
    )
    found = [Finding("attachment", 0, f"hash {row['name']}", "the content has another hash") for row in rows]
    return (rows[-1]["hash"] if rows else None), [one for one, row in zip(found, rows, strict=True) if row["wrong"]]
