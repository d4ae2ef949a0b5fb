"""Map snapshots: the state map as it was at one size, kept beside the log, so that nobody replays all of it to begin.

docs/formats.md §9. A snapshot is believed if the map that begins with it is what a MAP_ROOT says, and else as if it
were not there: whoever can write one can make us slow, not wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from heapq import merge
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
_LABEL_SIZE: Final = 32

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

    The last of these leaves is a MAP_ROOT, and the map is what that says; Corrupt if no map is.
    """
    for start in await store.snapshots(db, shard, size):
        parts = await _parts(db, shard, start)
        if parts is not None and (found := await _built(db, shard, parts, start, size)) is not None:
            return found, start
        log.warning("snapshot-refused", shard=shard, size=start)
    whole = await _built(db, shard, [], 0, size)
    if whole is None:
        raise Corrupt("leaf_batch", f"shard {shard}: the MAP_ROOT at {size - 1} is not that of the leaves before")
    return whole, 0


async def _parts(db: Queries, shard: int, size: int) -> list[bytes] | None:
    """All of a snapshot, or None if it was not written to its end."""
    _, labels = await _map_root(db, shard, size)
    parts: list[bytes] = []
    while (part := await store.snapshot_part(db, shard, size, len(parts))) is not None:
        parts.append(part)
    return parts if sum(map(len, parts)) == labels * RECORD_SIZE else None


async def _built(db: Database, shard: int, parts: list[bytes], start: int, size: int) -> StateMap | None:
    """The map of these records and the leaves from `start` on, or None if it is not what its MAP_ROOT says.

    It is put together at once, of the last leaf of each label: no root on the way is needed, for what a snapshot says
    amiss is either said anew by a later leaf or changes the root at the end.
    """
    root, labels = await _map_root(db, shard, size)
    newest: dict[bytes, bytes] = {}
    async for batch in store.replay(db, shard, start, size):
        for index, leaf in enumerate(split_leaves(batch.leaves), batch.first):
            if leaf[0] != MAP_ROOT:
                # label, version; then where and what: the record of docs/formats.md §9.
                newest[leaf[1:33]] = leaf[1:41] + index.to_bytes(8, "big") + leaf_hash(leaf)
        await asyncio.sleep(0)
    at_most = sum(map(len, parts)) // RECORD_SIZE + len(newest)
    try:
        # Seconds of computing: in a thread, so that whoever asks us whether we live gets an answer.
        state_map = await asyncio.to_thread(StateMap.rebuild, _merged(parts, sorted(newest.values())), at_most)
    except Corrupt:
        return None
    return state_map if (state_map.root(), len(state_map)) == (root, labels) else None


def _merged(parts: list[bytes], newest: list[bytes]) -> Iterator[bytes]:
    """The records of both in the order of their labels; of a label's two the newer, which has the higher version."""
    older = (part[at : at + RECORD_SIZE] for part in parts for at in range(0, len(part), RECORD_SIZE))
    waiting = b""
    for record in merge(older, newest):
        if waiting and record[:_LABEL_SIZE] != waiting[:_LABEL_SIZE]:
            yield waiting
        waiting = record
    if waiting:
        yield waiting


async def _map_root(db: Queries, shard: int, size: int) -> tuple[bytes, int]:
    """Root and number of labels of the MAP_ROOT that ends a log of this size; no root if it ends in another leaf."""
    [leaf] = await stored_tree.leaves(db, shard, size - 1, size)
    return (leaf[9:41], int.from_bytes(leaf[41:49], "big")) if leaf[0] == MAP_ROOT else (b"", 0)
