"""The log's leaves and hashes as the writer's code reads them back from its tables: for proofs, tiles and a restart."""

from __future__ import annotations

from typing import Final

from services.ledger import store
from services.ledger.log.leaf import leaf_hash, split_leaves
from services.ledger.log.tree import TILE_WIDTH, tile_root
from shared.database import Queries
from shared.errors import Corrupt

_TILE_ROOTS_KEPT: Final = 65_536


async def leaves(db: Queries, shard: int, start: int, end: int) -> list[bytes]:
    """Leaves start … end-1; Corrupt if one of them is missing."""
    found = await store.batches_between(db, shard, start, end)
    result: list[bytes] = []
    expected = found[0].first if found else start
    for batch in found:
        parts = split_leaves(batch.leaves)
        if batch.first != expected or len(parts) != batch.n:
            raise Corrupt("leaf_batch", f"shard {shard}, first {batch.first}")
        expected += batch.n
        result += parts[max(0, start - batch.first) : end - batch.first]
    if len(result) != end - start:
        raise Corrupt("leaf_batch", f"shard {shard}, a leaf of {start} to {end - 1} is missing")
    return result


class StoredHashes:
    """`await hashes(level, n, width)`: what services.ledger.log calls GetHashes, from full tiles and leaves.

    The roots of full tiles never change and are remembered.
    """

    def __init__(self, db: Queries, shard: int) -> None:
        self._db = db
        self._shard = shard
        self._roots: dict[tuple[int, int], bytes] = {}

    async def __call__(self, level: int, n: int, width: int) -> bytes:
        """The first `width` hashes of a tile, joined. The caller knows that the tree has them."""
        full = await store.tile(self._db, self._shard, level, n)
        if full is not None:
            return full[: 32 * width]
        start = n * TILE_WIDTH
        if level == 0:
            return b"".join([leaf_hash(leaf) for leaf in await leaves(self._db, self._shard, start, start + width)])
        return b"".join(await self._tile_roots(level - 1, start, width))

    async def _tile_roots(self, level: int, start: int, count: int) -> list[bytes]:
        wanted = [n for n in range(start, start + count) if (level, n) not in self._roots]
        if len(self._roots) + len(wanted) > _TILE_ROOTS_KEPT:
            self._roots.clear()
            wanted = list(range(start, start + count))
        if wanted:
            for row in await store.tiles(self._db, self._shard, level, wanted):
                self._roots[level, row["n"]] = tile_root(row["hashes"])
        try:
            return [self._roots[level, n] for n in range(start, start + count)]
        except KeyError as missing:
            raise Corrupt("tile", f"shard {self._shard}, level and number {missing.args[0]}") from None
