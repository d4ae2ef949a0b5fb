"""What is kept under its hash: statements that were rejected, and attachments."""

from __future__ import annotations

from services.ledger.integrity.finding import Finding
from shared.database import Queries


async def check_rejects(db: Queries, shard: int) -> list[Finding]:
    """Rejected statements that do not have the hash they are noted under."""
    rows = await db.fetch(
        "select number from rejected where shard = $1 and sha256(statement) <> statement_hash order by number", shard
    )
    return [
        Finding("rejected", shard, f"number {row['number']}", "the statement does not have its hash") for row in rows
    ]


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
