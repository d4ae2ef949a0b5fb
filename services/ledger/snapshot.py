"""Map snapshots: the state map as it was at one size, kept beside the log, so that nobody replays all of it to begin.

docs/formats.md §9. A snapshot is believed if its root is that of the MAP_ROOT at its end, and else as if it were not
there: whoever can write one can make us slow, not wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Final

from services.ledger import store, stored_tree
from services.ledger.log.leaf import MAP_ROOT, leaf_hash, split_leaves
from services.ledger.log.state_map import RECORD_SIZE, StateMap
from shared import logs
from shared.database import Database, Queries
from shared.errors import Corrupt

AT_LEAST: Final = 100_000
"""Leaves between two snapshots; with many labels half as many as there are labels, which replay in a few seconds."""

_RECORDS_IN_A_PART: Final = 2_500  # cutting them out takes the event loop a millisecond
_PAUSE_SECONDS: Final = 0.02
_YIELD_EVERY: Final = 1_000

log = logs.logger("snapshot")


def is_due(size: int, last: int, labels: int) -> bool:
    """Whether a snapshot is worth its writing at this size, after the last one."""
    return size - last >= max(AT_LEAST, labels // 2)


async def write(db: Database, shard: int, size: int, records: Iterator[bytes]) -> None:
    """Keep the map as it was at this size, in small steps, and then forget every other snapshot.

    If we stop before the end, what is there has fewer labels than its MAP_ROOT says, and is never believed.
    """
    part = 0
    while chunk := b"".join(islice(records, _RECORDS_IN_A_PART)):
        await store.add_snapshot_part(db, shard, size, part, chunk)
        part += 1
        await asyncio.sleep(_PAUSE_SECONDS)
    await store.forget_other_snapshots(db, shard, size)
    log.info("snapshot-written", shard=shard, size=size, parts=part)


async def state_map_at(db: Database, shard: int, size: int) -> tuple[StateMap, int]:
    """The map of the first `size` leaves, and the size of the snapshot it began with (0: none).

    Corrupt if a leaf does not fit the ones before. The caller compares the root with one that it knows.
    """
    for start in await store.snapshots(db, shard, size):
        found = await _read(db, shard, start)
        if found is not None:
            await _replay(db, shard, found, start, size)
            return found, start
        log.warning("snapshot-refused", shard=shard, size=start)
    return await _from_the_beginning(db, shard, size), 0


async def _read(db: Queries, shard: int, size: int) -> StateMap | None:
    """The map of a snapshot, or None if it is not what its MAP_ROOT says."""
    [leaf] = await stored_tree.leaves(db, shard, size - 1, size)
    if leaf[0] != MAP_ROOT:
        return None
    root, labels = leaf[9:41], int.from_bytes(leaf[41:49], "big")
    parts: list[bytes] = []
    while (part := await store.snapshot_part(db, shard, size, len(parts))) is not None:
        parts.append(part)
    if sum(len(part) for part in parts) != labels * RECORD_SIZE:
        return None
    records = (part[at : at + RECORD_SIZE] for part in parts for at in range(0, len(part), RECORD_SIZE))
    try:
        # Seconds of computing: in a thread, so that whoever asks us whether we live gets an answer.
        state_map = await asyncio.to_thread(StateMap.rebuild, records, labels)
    except Corrupt:
        return None
    return state_map if state_map.root() == root else None


async def _replay(db: Database, shard: int, state_map: StateMap, start: int, size: int) -> None:
    done = 0
    async for batch in store.replay(db, shard, start, size):
        for index, leaf in enumerate(split_leaves(batch.leaves), batch.first):
            state_map.apply(index, leaf)
        done += batch.n
        if done > _YIELD_EVERY:
            done = 0
            await asyncio.sleep(0)
    state_map.root()
    state_map.commit()


async def _from_the_beginning(db: Database, shard: int, size: int) -> StateMap:
    """The last leaf of each label, put together at once."""
    last: dict[bytes, tuple[int, bytes]] = {}
    async for batch in store.replay(db, shard, 0, size):
        for index, leaf in enumerate(split_leaves(batch.leaves), batch.first):
            if leaf[0] != MAP_ROOT:
                last[leaf[1:33]] = (index, leaf)
        await asyncio.sleep(0)
    records = (
        # label, version; then where and what: the record of docs/formats.md §9.
        leaf[1:41] + index.to_bytes(8, "big") + leaf_hash(leaf)
        for index, leaf in (last[label] for label in sorted(last))
    )
    return await asyncio.to_thread(StateMap.rebuild, records, len(last))
