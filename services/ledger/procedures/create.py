"""`log create`: begins the log of one shard, once; no other code ever makes one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from services.ledger import store
from services.ledger.log.leaf import leaf_hash, map_root_leaf
from services.ledger.log.tree import Edge
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.note import CosignatureSigner, Signer, format_note
from services.ledger.signer_files import Signed, SignerFiles
from shared.clock import utc_now
from shared.database import Database
from shared.errors import Refused
from shared.secrets import Secrets
from shared.settings import Settings

_EMPTY_MAP = bytes(32)


@dataclass(frozen=True, slots=True)
class Created:
    """What `log create` made: the line that verifiers need, and where the signer keeps its memory."""

    shard: int
    origin: str
    vkey: str
    fresh_vkey: str
    signer_files: Path


async def create_log(settings: Settings, shard: int) -> Created:
    """Begin the log of a shard: leaf 0, its checkpoint, the signer's files. Refused `log-exists` if it has begun."""
    secrets = Secrets(settings.secrets_dir)
    origin = settings.origin(shard)
    db = await Database.connect(settings.superuser_dsn, "ledger", max_size=1)
    try:
        return await _create(
            db,
            shard,
            Signer(origin, secrets.log_key(shard)),
            CosignatureSigner(f"{origin}/fresh", secrets.fresh_key(shard)),
            settings.signer_dir,
            utc_now(),
        )
    finally:
        await db.close()


async def _create(
    db: Database, shard: int, signer: Signer, fresh: CosignatureSigner, directory: Path, now: datetime
) -> Created:
    exists = Refused("log-exists", "This log exists already; a log is created once and never again.", shard=shard)
    if await db.fetchval("select 1 from log where shard = $1", shard) is not None:
        raise exists
    leaf = map_root_leaf(0, _EMPTY_MAP, 0, 0)
    edge = Edge()
    edge.append(leaf_hash(leaf))
    if SignerFiles.exist(directory, shard):
        # Begun by a `log create` that died before PostgreSQL had it, or the memory of a log that is not here.
        files = SignerFiles.open(directory, shard)
        try:
            begun = [(one.size, one.root) for one in files.signed] == [(1, edge.root())]
        finally:
            files.close()
        if not begun:
            message = "The signer has signed a log of this shard, but PostgreSQL does not hold it. Restore it instead."
            raise Refused("log-is-elsewhere", message, shard=shard)
    else:
        SignerFiles.create(directory, shard, leaf, Signed(1, edge.root()))
    # If we stop here, the same leaf 0 is found the next time, and goes on below.
    text = Checkpoint(signer.name, 1, edge.root()).text()
    note = format_note(text, [signer.sign(text)])
    async with db.transaction() as tx:
        inserted = await tx.execute(
            "insert into log (shard, origin, vkey, fresh_vkey) values ($1, $2, $3, $4) on conflict do nothing",
            shard,
            signer.name,
            signer.vkey,
            fresh.vkey,
        )
        if inserted != "INSERT 0 1":
            raise exists
        await tx.execute(
            """insert into head (shard, epoch, size, next_offset, edge, map_root, recorded_at)
               values ($1, 0, 1, 0, $2, $3, 0)""",
            shard,
            edge.to_bytes(),
            _EMPTY_MAP,
        )
        await tx.execute(
            "insert into leaf_batch (shard, first, n, leaves, root) values ($1, 0, 1, $2, $3)",
            shard,
            leaf,
            edge.root(),
        )
        line = fresh.sign(text, int(now.timestamp())).decode()
        await store.add_checkpoint(tx, shard, 1, None, edge.root(), note.decode(), line, now)
        await tx.execute("insert into cursor (shard, next) values ($1, 0)", shard)
    return Created(shard, signer.name, signer.vkey, fresh.vkey, directory / str(shard))
