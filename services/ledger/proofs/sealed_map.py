"""The state map as the newest checkpoint has it, for proofs: a replica fed from sealed leaves, and from nothing else.

The appender's map is ahead of what is signed, and in another process. This one moves from checkpoint to checkpoint; a
proof is made of it only where its root is the MAP_ROOT's, and the tree's the checkpoint's.
"""

from __future__ import annotations

import asyncio
import gc
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from services.ledger import snapshot, store
from services.ledger.log.leaf import MAP_ROOT, leaf_hash, map_root_leaf, split_leaves
from services.ledger.log.state_map import StateMap
from services.ledger.log.tiles import inclusion_proof
from services.ledger.log.tree import TILE_HEIGHT, TILE_WIDTH, TileWriter
from services.ledger.store import Batch
from services.ledger.stored_tree import StoredHashes
from shared import logs
from shared.database import Database, Signal
from shared.errors import Corrupt, Unavailable

LOOK_SECONDS: Final = 5.0
"""How often somebody looks for a log that was created since; leaves are followed as they are sealed."""
REST_SECONDS: Final = 0.2
"""Between two steps of the follower: a step takes what was sealed meanwhile at once, which hashes less."""
REST_SHARE: Final = 4.0
"""It rests so many times as long as a step took: when records rush in, appending them comes first, and the follower
falls behind. Whoever asks for a proof then does the rest of its work."""

_TILES_KEPT: Final = 1024  # 8 kB each
_LEAVES_AT_ONCE: Final = 128  # about 3 ms
_FROZEN_FROM: Final = 50_000
_AGAIN_SECONDS: Final = 60.0

log = logs.logger("proofs")


@dataclass(frozen=True, slots=True)
class Found:
    """Where one label leads: the siblings, deepest first, and the record that stands there, 80 bytes, or None."""

    siblings: Sequence[bytes]
    record: bytes | None


@dataclass(frozen=True, slots=True)
class Under:
    """What is needed to prove anything of the tree and the map under one checkpoint."""

    size: int
    note: str
    """The checkpoint as it is served."""
    map_root: bytes
    """The MAP_ROOT leaf, at size - 1."""
    map_root_hashes: Sequence[bytes]
    found: Sequence[Found]
    """In the order of the labels asked about."""
    hashes: Hashes


class Hashes:
    """The hashes of one size of the tree, as services.ledger.log asks for them: its edge from memory, full tiles from
    the tables, and those lately asked for from memory too."""

    __slots__ = ("_full", "_stored", "_tree")

    def __init__(self, tree: TileWriter, stored: StoredHashes, full: OrderedDict[tuple[int, int], bytes]) -> None:
        self._tree = tree
        self._stored = stored
        self._full = full

    async def __call__(self, level: int, n: int, width: int) -> bytes:
        if n == self._tree.size >> TILE_HEIGHT * (level + 1):
            return b"".join(self._tree.unfinished(level)[:width])
        tile = self._full.get((level, n))
        if tile is None:
            tile = self._full[level, n] = await self._stored(level, n, TILE_WIDTH)
            while len(self._full) > _TILES_KEPT:
                self._full.popitem(last=False)
        else:
            self._full.move_to_end((level, n))
        return tile[: 32 * width]


class SealedMap:
    """The replica of one shard."""

    def __init__(self, db: Database, shard: int) -> None:
        self._db = db
        self._shard = shard
        self._stored = StoredHashes(db, shard)
        self._full: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._map: StateMap | None = None
        self._tree = TileWriter()
        self._last = b""
        """The leaf that ends the tree."""
        self._path: tuple[int, Sequence[bytes]] = (0, ())
        """Of which size, and the way from that leaf to the root."""
        self._moving = asyncio.Lock()

    @property
    def size(self) -> int:
        """How many leaves it reflects; 0 while it is being built."""
        return 0 if self._map is None else self._tree.size

    async def catch_up(self) -> None:
        """Move to the newest checkpoint; the first time, build what is there. Corrupt if the leaves contradict it."""
        async with self._moving:
            await self._move()

    async def under(self, labels: Sequence[bytes]) -> Under:
        """Where these labels lead under the newest checkpoint; Unavailable while the map is being built."""
        if self._map is None:
            raise Unavailable("the state map, which is being built", retry_after=5)
        async with self._moving:
            try:
                note = await self._move()
            except Corrupt as error:
                # Whoever asks can mend nothing; the follower says so again and again, until somebody does.
                log.critical("contradicts", what=error.what, where=error.where)
                raise Unavailable("the state map, which contradicts the log", retry_after=60) from None
            # Map, tree and checkpoint are of one size as long as the lock is held.
            found = [Found(*self._map.prove(label)) for label in labels]
            tree = self._tree.copy()
            hashes = Hashes(tree, self._stored, self._full)
            if self._path[0] != tree.size:
                self._path = (tree.size, await inclusion_proof(tree.size - 1, tree.size, hashes))
            return Under(tree.size, note, self._last, self._path[1], found, hashes)

    async def newest(self, labels: Iterable[bytes]) -> dict[bytes, int] | None:
        """Where the newest leaf of each label stands, of those that have one; None if the map cannot say now."""
        if self._map is None:
            return None
        async with self._moving:
            try:
                await self._move()
            except Corrupt as error:
                log.critical("contradicts", what=error.what, where=error.where)
                return None
            return {label: record[1] for label in labels if (record := self._map.get(label)) is not None}

    async def _move(self) -> str:
        served = await store.served_checkpoint(self._db, self._shard)
        if served is None:
            raise Corrupt("checkpoint", f"shard {self._shard} has none")
        size, note = served
        try:
            if self._map is None:
                await self._build(size)
            elif size > self._tree.size:
                async for batch in store.replay(self._db, self._shard, self._tree.size, size):
                    await self._apply(batch)
            self._compare(size, note)
        except Corrupt:
            # What it holds now may be half of a batch.
            self._map = None
            raise
        return note

    async def _build(self, size: int) -> None:
        state_map, _ = await snapshot.state_map_at(self._db, self._shard, size)
        tree = await TileWriter.restore(size, self._stored)
        [batch] = await store.batches_between(self._db, self._shard, size - 1, size)
        self._map, self._tree, self._last = state_map, tree, split_leaves(batch.leaves)[-1]
        if len(state_map) > _FROZEN_FROM:
            # Lists of millions of slots without a cycle among them: collections need not walk them again and again.
            gc.collect()
            gc.freeze()

    async def _apply(self, batch: Batch) -> None:
        assert self._map is not None  # noqa: S101 - _move has built it
        leaves = split_leaves(batch.leaves)
        for start in range(0, len(leaves), _LEAVES_AT_ONCE):
            for index, leaf in enumerate(leaves[start : start + _LEAVES_AT_ONCE], batch.first + start):
                self._map.apply(index, leaf)
            self._map.root()
            await asyncio.sleep(0)
        self._map.commit()
        self._tree.extend([leaf_hash(leaf) for leaf in leaves])
        self._last = leaves[-1]

    def _compare(self, size: int, note: str) -> None:
        """Hold tree and map against what was signed."""
        assert self._map is not None  # noqa: S101 - _move has built it
        leaf = self._last
        if leaf[0] != MAP_ROOT or leaf[:-8] != map_root_leaf(size - 1, self._map.root(), len(self._map), 0)[:-8]:
            raise Corrupt("state map", f"shard {self._shard}, the MAP_ROOT at {size - 1} is another")
        if self._tree.size != size or self._tree.root() != b64decode(note.split("\n")[2]):
            raise Corrupt("checkpoint", f"shard {self._shard}, size {size}: the tree has another root")


@dataclass
class SealedMaps:
    """The replicas of all shards, one for each log that there is."""

    db: Database
    sealed: Signal
    _maps: dict[int, SealedMap] = field(default_factory=dict)

    def of(self, shard: int) -> SealedMap:
        """That of one shard, which the caller knows to exist."""
        if shard not in self._maps:
            self._maps[shard] = SealedMap(self.db, shard)
        return self._maps[shard]

    async def run(self) -> None:
        """Follow every log close behind its signer, until cancelled; whoever asks for a proof need not wait for it."""
        while True:
            seen, began = self.sealed.changed, monotonic()
            try:
                for row in await store.logs(self.db):
                    await self.of(row["shard"]).catch_up()
                took = monotonic() - began
                await self.sealed.wait(LOOK_SECONDS, since=seen)
                await asyncio.sleep(max(REST_SECONDS, min(REST_SHARE * took, LOOK_SECONDS)))
            except Unavailable as error:
                log.warning("waiting", service=error.service)
                await asyncio.sleep(0.5)
            except Corrupt as error:
                # The pages of this process have nothing to do with it and go on; proofs answer 503 until it is mended.
                log.critical("contradicts", what=error.what, where=error.where)
                await asyncio.sleep(_AGAIN_SECONDS)
