"""`log rotate-key` and `log retire-key`: another key takes over a log; what the old one signed holds for ever."""

from __future__ import annotations

import os
from dataclasses import dataclass

from services.ledger import store
from services.ledger.log_keys import known_keys, published, signers
from services.ledger.procedures.owner import as_owner
from services.ledger.reader.checkpoint import parse_checkpoint
from services.ledger.reader.handover import format_handover
from services.ledger.reader.note import Signer, Verifier, parse_note
from services.ledger.reader.policy import format_log_keys
from shared.database import Queries
from shared.errors import Refused
from shared.secrets import Secrets, create_log_key
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Rotated:
    """A key that was added or retired."""

    number: int
    vkey: str
    keys: str
    """All keys of the log by now, as verifiers are given them."""


async def rotate_key(settings: Settings, shard: int) -> Rotated:
    """Make the next key, have old and new say so together, write it down. Both sign from the signer's next start."""
    secrets = Secrets(settings.secrets_dir)
    async with as_owner(settings.superuser_dsn) as tx:
        origin = await store.origin(tx, shard)
        await tx.execute("lock table log_key in share row exclusive mode")
        keys = await known_keys(tx, shard)
        if keys[-1].since is None:
            raise Refused("key-not-used", "The newest key has not signed yet. Restart ledger-seal with it first.")
        number = keys[-1].number + 1
        # If we stop before the commit, the file is found again the next time.
        create_log_key(settings.secrets_dir, os.urandom, shard, number)
        old = signers(origin, keys, secrets.log_keys(shard))[-1]
        new = Signer(origin, secrets.log_keys(shard)[number])
        newest = await store.newest_checkpoint(tx, shard)
        if newest is None:
            raise Refused("no-log", "There is no checkpoint of this log.")
        checkpoint = parse_checkpoint(parse_note(newest["note"].encode()).text)
        handover = format_handover(checkpoint, old, new).decode()
        await tx.execute(
            "insert into log_key (shard, number, vkey, handover) values ($1, $2, $3, $4)",
            shard,
            number,
            new.vkey,
            handover,
        )
        return Rotated(number, new.vkey, format_log_keys(published(await known_keys(tx, shard))))


async def retire_key(settings: Settings, shard: int, number: int) -> Rotated:
    """Write down that a key signs no more after the newest checkpoint it has signed. Refused if it is the only one."""
    async with as_owner(settings.superuser_dsn) as tx:
        await store.origin(tx, shard)
        # The signer's next checkpoint waits for this, and then for its restart.
        await tx.execute("lock table checkpoint, log_key in share row exclusive mode")
        keys = {key.number: key for key in await known_keys(tx, shard)}
        if number not in keys or keys[number].until is not None:
            raise Refused("no-such-key", "No key of this number signs this log.")
        others = [key for key in keys.values() if key.number != number and key.until is None and key.since is not None]
        if not others:
            raise Refused("only-key", "No other key has signed yet. Rotate first, and restart ledger-seal.")
        until = await _last_signed(tx, shard, keys[number].vkey)
        await tx.execute("update log_key set until = $3 where shard = $1 and number = $2", shard, number, until)
        left = await known_keys(tx, shard)
        return Rotated(number, keys[number].vkey, format_log_keys(published(left)))


async def _last_signed(db: Queries, shard: int, vkey: str) -> int:
    """The size of the newest checkpoint with a line of this key."""
    verifier = Verifier(vkey)
    size = None
    while True:
        row = await db.fetchrow(
            """select size, note from checkpoint where shard = $1 and ($2::bigint is null or size < $2)
               order by size desc limit 1""",
            shard,
            size,
        )
        if row is None:
            raise Refused("key-not-used", "This key has signed no checkpoint.")
        size = int(row["size"])
        lines = parse_note(row["note"].encode()).signatures
        if any((one.name, one.key_id) == (verifier.name, verifier.key_id) for one in lines):
            return size
