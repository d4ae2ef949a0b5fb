"""The growing end of the Merkle tree: its right edge, and the tiles that are not full yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from services.ledger.log.leaf import HASH_SIZE, node_hash
from shared.errors import Corrupt

TILE_WIDTH = 256
TILE_HEIGHT = 8
TILE_SIZE = TILE_WIDTH * HASH_SIZE

_EMPTY_ROOT = sha256(b"").digest()

GetHashes = Callable[[int, int, int], Awaitable[bytes]]
"""`await get_hashes(level, n, width)`: the first `width` hashes of tile `n` of a level, joined."""


class Tile(NamedTuple):
    """A full tile: 256 hashes, 8192 bytes, which never change again."""

    level: int
    n: int
    hashes: bytes


class Edge:
    """The roots of the perfect subtrees a tree of this size is made of, biggest first: all a root needs."""

    __slots__ = ("_hashes", "size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self._hashes = list(hashes)
        if size < 0 or len(self._hashes) != size.bit_count() or any(len(h) != HASH_SIZE for h in self._hashes):
            raise Corrupt("edge", f"size {size}")

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Biggest subtree first."""
        return tuple(self._hashes)

    def root(self) -> bytes:
        """RFC 9162 §2.1.1: SHA-256 of nothing for the empty tree."""
        if not self._hashes:
            return _EMPTY_ROOT
        root = self._hashes[-1]
        for left in self._hashes[-2::-1]:
            root = node_hash(left, root)
        return root

    def append(self, leaf_hash: bytes) -> None:
        """Add one leaf."""
        self.extend([leaf_hash])

    def extend(self, leaf_hashes: Sequence[bytes]) -> list[Sequence[bytes]]:
        """Add leaves; answers, per tile level, the hashes that this completed, in order.

        A hash of tile level L is the root of a perfect subtree of 256^L leaves, so row 0 is the argument itself.
        """
        rows: list[Sequence[bytes]] = []
        grown: list[bytes] = []
        row = leaf_hashes
        height = 0
        while row:
            if height % TILE_HEIGHT == 0:
                rows.append(row)
            if self.size >> height & 1:
                row = [self._hashes.pop(), *row]
            if len(row) & 1:
                grown.append(row[-1])
            row = [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=False)]
            height += 1
        self._hashes += reversed(grown)
        self.size += len(leaf_hashes)
        return rows

    def to_bytes(self) -> bytes:
        """The hashes joined, biggest first."""
        return b"".join(self._hashes)

    @classmethod
    def from_bytes(cls, size: int, joined: bytes) -> Edge:
        """The edge as it was stored; Corrupt if its length cannot belong to this size."""
        return cls(size, split_hashes(joined))

    def copy(self) -> Edge:
        """An edge that grows on its own."""
        return Edge(self.size, self._hashes)


class TileWriter:
    """The tree as its appender grows it: the edge, and at each level the tile that is not full.

    Only full tiles are ever stored. What an unfinished tile holds can always be read again: level 0 is the hashes of
    the newest leaves, level L the roots of the newest full tiles of level L-1.
    """

    __slots__ = ("_unfinished", "edge")

    def __init__(self, size: int = 0, unfinished: Sequence[Sequence[bytes]] = ()) -> None:
        """`unfinished[level]` are the hashes of the partial tile of that level for a tree of this size."""
        if [len(hashes) for hashes in unfinished] != partial_widths(size):
            raise Corrupt("unfinished tiles", f"size {size}")
        self._unfinished = [list(hashes) for hashes in unfinished]
        self.edge = Edge(size, _edge_hashes(self._unfinished))

    @classmethod
    async def restore(cls, size: int, get_hashes: GetHashes) -> TileWriter:
        """The writer of a stored tree; its edge is computed anew, so compare it with the stored one."""
        unfinished = []
        for level, width in enumerate(partial_widths(size)):
            n = size >> TILE_HEIGHT * (level + 1)
            unfinished.append(split_hashes(await get_hashes(level, n, width)) if width else [])
        return cls(size, unfinished)

    @property
    def size(self) -> int:
        """How many leaves the tree has."""
        return self.edge.size

    def root(self) -> bytes:
        """The root of the tree."""
        return self.edge.root()

    def extend(self, leaf_hashes: Sequence[bytes]) -> list[Tile]:
        """Add leaves; answers the tiles that became full, lowest level first and in order."""
        size = self.edge.size
        tiles: list[Tile] = []
        for level, row in enumerate(self.edge.extend(leaf_hashes)):
            if level == len(self._unfinished):
                self._unfinished.append([])
            hashes = self._unfinished[level] + list(row)
            n = size >> TILE_HEIGHT * (level + 1)
            full = len(hashes) - len(hashes) % TILE_WIDTH
            tiles.extend(
                Tile(level, n + at // TILE_WIDTH, b"".join(hashes[at : at + TILE_WIDTH]))
                for at in range(0, full, TILE_WIDTH)
            )
            self._unfinished[level] = hashes[full:]
        return tiles

    def unfinished(self, level: int) -> Sequence[bytes]:
        """The hashes of the tile of this level that is not full yet; it is tile number size >> 8 * (level + 1)."""
        return self._unfinished[level] if level < len(self._unfinished) else ()

    def copy(self) -> TileWriter:
        """A writer that grows on its own: keep one from before a batch until the batch is known to be durable."""
        copied = TileWriter()
        copied.edge = self.edge.copy()
        # extend() replaces these lists and never changes one, so both writers may hold them.
        copied._unfinished = list(self._unfinished)
        return copied


def partial_widths(size: int) -> list[int]:
    """Per level, how many hashes the tile that is not full has (0 to 255) in a tree of this size."""
    widths = []
    while size:
        widths.append(size % TILE_WIDTH)
        size //= TILE_WIDTH
    return widths


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """The root over 1, 2, 4, 8 … hashes."""
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


def tile_root(hashes: bytes) -> bytes:
    """The hash of one full tile, which is its entry in the level above."""
    if len(hashes) != TILE_SIZE:
        raise Corrupt("length of a tile", f"{len(hashes)} bytes")
    return perfect_root(split_hashes(hashes))


def split_hashes(joined: bytes) -> list[bytes]:
    """Hashes that were stored joined."""
    if len(joined) % HASH_SIZE:
        raise Corrupt("length of joined hashes", f"{len(joined)} bytes")
    return [joined[at : at + HASH_SIZE] for at in range(0, len(joined), HASH_SIZE)]


def _edge_hashes(unfinished: Sequence[Sequence[bytes]]) -> list[bytes]:
    hashes = []
    for level in reversed(unfinished):
        at = 0
        for bit in reversed(range(TILE_HEIGHT)):
            width = 1 << bit
            if len(level) & width:
                hashes.append(perfect_root(level[at : at + width]))
                at += width
    return hashes
