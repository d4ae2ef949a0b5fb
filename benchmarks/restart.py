"""How long appender, proofs and signer take from their start until they can work, in a log of a million labels.

Three times each: with a snapshot of the map as new as it can be, with one as old as it gets before the next is due, and
with none, which replays the whole log. The log is that of `proofs`; what is timed is what the processes do to begin, in
this one process, on the tables and files of an installation. (Starting Python itself is in `footprint`.)
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from benchmarks import machine, running
from benchmarks.proofs import Log
from benchmarks.report import Result
from benchmarks.statements import SHARD
from infra.local.installation import Installation
from services.ledger import head, signer_map, snapshot, store
from services.ledger.log.leaf import split_leaves
from services.ledger.proofs.sealed_map import SealedMap
from services.ledger.reader.note import CosignatureSigner, Signer
from services.ledger.reader.replica import Replica
from services.ledger.seal import Sealer
from services.ledger.signer_files import Signed, SignerFiles
from shared.clock import utc_now
from shared.database import Database

AIM_SECONDS: Final = 10.0

_NEWEST, _OLDEST, _NONE = "the newest snapshot", "the oldest", "none"


class Took(NamedTuple):
    """How long one start took, and how much processor time of ours it needed."""

    seconds: float
    processor: float


Start = Callable[[], Awaitable[int]]
"""Makes somebody begin; answers the size of the snapshot it used."""


async def measure(made: Installation, labels: int) -> list[Result]:
    """Write the log and time who begins on it."""
    superuser = await running.connect(made)
    try:
        running.say(f"  a log of {labels:,} labels …")
        await Log(made, labels).write(superuser)
        size = await superuser.fetchval("select size from ledger.head where shard = $1", SHARD)
        # The last border of a batch at which there were so few labels that the next snapshot is due only at the end.
        old = await superuser.fetchval("select max(first) from ledger.leaf_batch where first <= $1", size * 2 // 3 + 1)
    finally:
        await superuser.close()
    settings = made.settings()
    roles = ("ledger", "ledger_append", "ledger_seal", "ledger_publish")
    web, append, seal, publish = [await Database.connect(settings.dsn(role), "ledger", max_size=4) for role in roles]
    try:
        parts: dict[str, Start] = {
            "appender": lambda: _appender(append, made),
            "proofs": lambda: _proofs(web),
            "signer": lambda: _signer(made, seal, publish),
        }
        running.say("  the signer's files …")
        replica = await _signer_files(made, web, old, size)
        took: dict[tuple[str, str], Took] = {}
        for kept, at in ((_OLDEST, old), (_NEWEST, size), (_NONE, 0)):
            running.say(f"  {kept}, of size {at:,} of {size:,} …")
            await _keep(made, append, web, replica, at, newest=kept == _NEWEST)
            for part, start in parts.items():
                gc.collect()
                began = Took(time.monotonic(), time.process_time())
                used = await start()
                took[part, kept] = Took(time.monotonic() - began.seconds, time.process_time() - began.processor)
                if used not in {at, _NOT_SAID}:
                    raise RuntimeError(f"{part} began with a snapshot of {used}, not of {at}")
    finally:
        for db in (web, append, seal, publish):
            await db.close()
    return [
        _result(part, labels, size - old, {kept: took[part, kept] for kept in (_NEWEST, _OLDEST, _NONE)})
        for part in parts
    ]


_NOT_SAID: Final = -1


async def _appender(db: Database, made: Installation) -> int:
    found = await head.load(db, SHARD, 1, made.secrets.keks(), subjects_kept=head.SUBJECTS_KEPT)
    return found.snapshot_at


async def _proofs(db: Database) -> int:
    sealed = SealedMap(db, SHARD)
    await sealed.catch_up()
    gc.unfreeze()
    return _NOT_SAID


async def _signer(made: Installation, db: Database, keys_db: Database) -> int:
    sealer = _sealer(made, db, keys_db)
    await sealer.open()
    used = sealer.map_kept_at
    sealer.close()
    return used


def _sealer(made: Installation, db: Database, keys_db: Database) -> Sealer:
    settings, secrets = made.settings(), made.secrets
    origin = settings.origin(SHARD)
    fresh = CosignatureSigner(f"{origin}/fresh", secrets.fresh_key(SHARD))
    keys = [Signer(origin, secrets.log_key(SHARD))]
    return Sealer(SHARD, origin, db, keys_db, settings.signer_dir, keys, fresh, utc_now)


async def _signer_files(made: Installation, db: Database, old: int, size: int) -> Replica:
    """Begin them anew as if the signer had signed the log twice, at the old size and at the end; its replica then."""
    replica = Replica()
    directory = made.settings().signer_dir
    folder = directory / str(SHARD)
    leaves: list[bytes] = []
    async for batch in store.replay(db, SHARD, 0, size):
        for leaf in split_leaves(batch.leaves):
            replica.apply(leaf)
            leaves.append(leaf)
        if replica.size == old:
            joined = b"".join(leaves)
            SignerFiles.create(directory, SHARD, joined, Signed(old, replica.tree_root()))
            await signer_map.begin(folder, replica, len(joined))
            leaves = []
    files = SignerFiles.open(directory, SHARD)
    files.add(leaves, Signed(size, replica.tree_root()))
    files.close()
    return replica


async def _keep(
    made: Installation, append: Database, web: Database, replica: Replica, at: int, *, newest: bool
) -> None:
    """Have snapshots of this size and no others; the signer has its old one already."""
    folder = made.settings().signer_dir / str(SHARD)
    await append.execute("delete from map_snapshot")
    if at:
        state_map, _ = await snapshot.state_map_at(web, SHARD, at)
        began = time.monotonic()
        await snapshot.write(append, SHARD, at, state_map.records())
        running.say(f"  written in {time.monotonic() - began:.0f} s")
    else:
        (folder / "map").unlink()
    if newest:
        await signer_map.begin(folder, replica, (folder / "leaves").stat().st_size)


def _result(part: str, labels: int, behind: int, took: dict[str, Took]) -> Result:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    newest, oldest, none = took[_NEWEST], took[_OLDEST], took[_NONE]
    return Result(
        part="restart",
        measured=f"{part}: start at {labels:,} labels, from {_NEWEST}, from {_OLDEST} ({behind:,} leaves behind it), "
        "from the whole log",
        figure=f"**{newest.seconds:.1f} s**, {oldest.seconds:.1f} s, {none.seconds:.1f} s",
        aim=f"{AIM_SECONDS:.0f} s from a snapshot",
        met=max(newest.seconds, oldest.seconds) < AIM_SECONDS,
        bound=f"hashing: {newest.processor:.1f}, {oldest.processor:.1f}, {none.processor:.1f} s of processor time",
        values={
            "labels": labels,
            "seconds": {kept: round(one.seconds, 2) for kept, one in took.items()},
            "processor_seconds": {kept: round(one.processor, 2) for kept, one in took.items()},
            "megabytes_at_most": memory,
            "load": machine.load(),
        },
    )
