"""Leaves in their order: as the signer's files have them, leading to the tree, the state map and the tiles stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from services.ledger import store
from services.ledger.integrity.finding import Finding, Pace
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Leaf, MapRoot, parse_leaf
from services.ledger.reader.merkle import HASH_SIZE, Tree, leaf_hash, root_of
from services.ledger.reader.replica import Replica
from shared.database import Queries

TILE: Final = 256
WORD: Final = 89

_LENGTHS: Final = {0x01: WORD, 0x02: 57, 0x03: WORD}
_AT_ONCE: Final = 100  # about 2 ms


class Replayed(Protocol):
    """What takes one leaf after the other; a Replica, or the tree alone."""

    @property
    def size(self) -> int: ...
    def tree_root(self) -> bytes: ...
    def apply(self, leaf: bytes) -> Leaf: ...


class TreeAlone:
    """For leaves that were replayed before: if they lead to the root that was signed then, they are the same bytes, and
    keep the same rules. It needs no state map."""

    def __init__(self) -> None:
        self._tree = Tree()

    @property
    def size(self) -> int:
        return self._tree.size

    def tree_root(self) -> bytes:
        return self._tree.root()

    def apply(self, leaf: bytes) -> Leaf:
        try:
            parsed = parse_leaf(leaf)
        except Invalid as invalid:
            raise Invalid(invalid.step, invalid.what, invalid.why, index=self.size) from None
        self._tree.append(leaf_hash(leaf))
        return parsed


class Leaves:
    """Where a replay stands, and what must come next."""

    def __init__(
        self,
        shard: int,
        replayed: Replayed,
        *,
        unfinished: Sequence[list[bytes]] = (),
        signed: Iterator[bytes] | None = None,
    ) -> None:
        """`unfinished`: per level the hashes of the tile that is not full; `signed`: the signer's leaves from here on,
        as far as its files are at hand."""
        self.shard = shard
        self.replayed = replayed
        self.signed = signed or iter(())
        self.full_tiles = 0
        """How many were compared."""
        self._unfinished = list(unfinished)

    def unlike_signed(self, batch: store.Batch, leaves: Sequence[bytes]) -> Finding | None:
        """The first leaf that is none, or not the one that the signer's own files have."""
        if len(leaves) != batch.n or b"" in leaves:
            where = f"index {batch.first} to {batch.first + batch.n - 1}"
            return Finding("leaf_batch", self.shard, where, "the bytes are not those of as many leaves")
        for index, leaf in enumerate(leaves, batch.first):
            if next(self.signed, leaf) != leaf:
                return Finding("leaf_batch", self.shard, f"index {index}", "is not the leaf that the signer has signed")
        return None

    async def apply(self, db: Queries, batch: store.Batch, leaves: Sequence[bytes], pace: Pace) -> Finding | None:
        """Replay one batch: what breaks a rule of docs/formats.md §10, or does not lead to the stored root."""
        end = batch.first + batch.n - 1
        where, what = f"index {batch.first} to {end}", ""
        try:
            for place, leaf in enumerate(leaves, 1):
                last = self.replayed.apply(leaf)
                if place % _AT_ONCE == 0:
                    await pace.rest()
            if not isinstance(last, MapRoot):
                what = "does not end in a MAP_ROOT"
            elif self.replayed.tree_root() != batch.root:
                what = "the tree up to here does not have the stored root"
        except Invalid as invalid:
            what = f"{invalid.what} {invalid.why}"
            # A map root that does not fit tells of some leaf before it; any other rule of the leaf itself.
            where = where if invalid.index in {None, end} else f"index {invalid.index}"
        if not what:
            return None
        altered = await self._altered(db, batch, leaves)
        if altered is not None:
            what = "is not the leaf whose hash its tile holds"
            return Finding("leaf_batch", self.shard, f"index {altered}", what)
        return Finding("leaf_batch", self.shard, where, what)

    async def tiles(self, db: Queries, leaves: Sequence[bytes]) -> list[Finding]:
        """Hold the tiles that these leaves, which were applied, have made full against those stored."""
        found: list[Finding] = []
        grown = [leaf_hash(leaf) for leaf in leaves]
        size, level = self.replayed.size - len(leaves), 0
        while grown:
            if level == len(self._unfinished):
                self._unfinished.append([])
            n = size // TILE ** (level + 1)
            hashes, grown = self._unfinished[level] + grown, []
            while len(hashes) >= TILE:
                tile, hashes = hashes[:TILE], hashes[TILE:]
                stored = await store.tile(db, self.shard, level, n)
                if stored != b"".join(tile):
                    what = "is missing" if stored is None else "does not hold the hashes of its leaves"
                    found.append(Finding("tile", self.shard, f"level {level}, number {n}", what))
                grown.append(root_of(tile))
                self.full_tiles += 1
                n += 1
            self._unfinished[level] = hashes
            level += 1
        return found

    async def _altered(self, db: Queries, batch: store.Batch, leaves: Sequence[bytes]) -> int | None:
        """The one leaf of a batch that its full tile on level 0 does not know, if that tile exists."""
        for n in range(batch.first // TILE, (batch.first + batch.n - 1) // TILE + 1):
            hashes = await store.tile(db, self.shard, 0, n)
            if hashes is None:
                continue
            for index in range(max(n * TILE, batch.first), min((n + 1) * TILE, batch.first + batch.n)):
                at = (index - n * TILE) * HASH_SIZE
                if leaf_hash(leaves[index - batch.first]) != hashes[at : at + HASH_SIZE]:
                    return index
        return None


async def resume(db: Queries, shard: int, size: int, root: bytes, pace: Pace) -> tuple[Leaves, Replica]:
    """The replay of a log as it stands at a size that was signed: its tree from the tiles, its map from all leaves.

    Invalid unless the tree has the root that was signed, and the map the root of the MAP_ROOT that ends it. No single
    leaf was looked at: that is for whoever replays from the beginning.
    """
    unfinished = await _unfinished(db, shard, size)
    tree = Tree.of(size, [one for level in reversed(unfinished) for one in perfect(level)])
    if tree.root() != root:
        raise Invalid("resume", "tile", f"they do not lead to the root that was signed for size {size}")
    fresh = Replica()
    last: Leaf | None = None
    recorded_at, index, erased = 0, 0, set[bytes]()
    async for batch in store.replay(db, shard, 0, size):
        for leaf in split(batch.leaves):
            last = parse_leaf(leaf)
            if not isinstance(last, MapRoot):
                fresh.map.set(last.label, last.version, index, leaf_hash(leaf))
                recorded_at = last.recorded_at
                if leaf[0] == 0x03:
                    erased.add(last.label)
            index += 1
            if index % _AT_ONCE == 0:
                await pace.rest()
    # In a thread: a second for a million labels, in which whoever shares this process must go on.
    map_root = await asyncio.to_thread(fresh.map.root)
    if not isinstance(last, MapRoot) or (last.map_root, last.labels) != (map_root, len(fresh.map)):
        raise Invalid("resume", "leaf_batch", f"the leaves do not lead to the MAP_ROOT at {size - 1}")
    replica = Replica.resume(tree, fresh.map, erased, recorded_at, size - 1)
    return Leaves(shard, replica, unfinished=unfinished), replica


async def _unfinished(db: Queries, shard: int, size: int) -> list[list[bytes]]:
    """Per level the hashes of the tile that is not full at this size, from the leaves and the full tiles below."""
    start = size - size % TILE
    tail: list[bytes] = []
    for batch in await store.batches_between(db, shard, start, size) if size > start else []:
        tail += list(split(batch.leaves))[max(0, start - batch.first) : size - batch.first]
    levels = [[leaf_hash(leaf) for leaf in tail]]
    while size >> 8 * len(levels):
        level = len(levels)
        first, width = size >> 8 * (level + 1) << 8, size >> 8 * level & (TILE - 1)
        rows = await store.tiles(db, shard, level - 1, list(range(first, first + width)))
        hashes = {row["n"]: bytes(row["hashes"]) for row in rows}
        if len(hashes) != width:
            raise Invalid("resume", "tile", f"one of level {level - 1} is missing")
        levels.append([root_of(_hashes(hashes[n])) for n in range(first, first + width)])
    if len(levels[0]) != size % TILE:
        raise Invalid("resume", "leaf_batch", f"not all leaves up to {size - 1} are there")
    return levels


def perfect(hashes: Sequence[bytes]) -> tuple[bytes, ...]:
    """Roots of the perfect subtrees of these, biggest first."""
    tree = Tree()
    for one in hashes:
        tree.append(one)
    return tree.perfect


def _hashes(joined: bytes) -> list[bytes]:
    return [joined[at : at + HASH_SIZE] for at in range(0, len(joined), HASH_SIZE)]


def split(joined: bytes) -> Iterator[bytes]:
    """The leaves of one stored batch; the last is empty if the bytes are not those of leaves."""
    at = 0
    while at < len(joined):
        length = _LENGTHS.get(joined[at], 0)
        if not length or at + length > len(joined):
            yield b""
            return
        yield joined[at : at + length]
        at += length
