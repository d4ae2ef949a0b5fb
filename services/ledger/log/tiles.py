"""Tiles as the world reads them (C2SP tlog-tiles): paths, entry bundles, and proofs made from the fewest of them."""

import re
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

from services.ledger.log.leaf import HASH_SIZE, node_hash
from services.ledger.log.tree import TILE_HEIGHT, TILE_WIDTH, GetHashes, perfect_root, split_hashes
from shared.errors import Corrupt

MAX_LEVEL = 63
MAX_N = 2**63 - 1  # what a PostgreSQL bigint holds; no log gets there

_ROOTS_KEPT = (
    32_768  # 510 for each full tile, of which a million leaves have 16 above them; some 10 MB if all are in use
)

_PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<n>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)
_u16 = struct.Struct(">H").pack


def tile_path(level: int | Literal["entries"], n: int, width: int = TILE_WIDTH) -> str:
    """Where a tile is served, below the log's prefix: `tile/0/x001/067`, `tile/entries/000.p/7`."""
    if level != "entries" and not 0 <= level <= MAX_LEVEL:
        raise ValueError("a tile level is 0 to 63")
    if not 0 <= n <= MAX_N:
        raise ValueError("no tile has this number")
    if not 1 <= width <= TILE_WIDTH:
        raise ValueError("a tile has 1 to 256 hashes")
    groups = [f"{n % 1000:03}"]
    while n := n // 1000:
        groups.append(f"x{n % 1000:03}")
    suffix = "" if width == TILE_WIDTH else f".p/{width}"
    return "/".join(["tile", str(level), *reversed(groups)]) + suffix


def parse_tile_path(path: str) -> tuple[int | None, int, int]:
    """(level, or None for entries; n; width) of a path; ValueError unless it is exactly what tile_path writes.

    One tile has one path: a second spelling would be cached and signed for a second time.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError("not a tile path")
    level = None if match["level"] == "entries" else int(match["level"])
    n = int(match["n"].replace("/", "").replace("x", ""))
    width = TILE_WIDTH if match["width"] is None else int(match["width"])
    if tile_path("entries" if level is None else level, n, width) != path:
        raise ValueError("not the canonical tile path")
    return level, n, width


def entry_bundle(leaves: Sequence[bytes]) -> bytes:
    """The leaves of one tile, each behind its length as big-endian u16."""
    if not 1 <= len(leaves) <= TILE_WIDTH:
        raise ValueError("a bundle has 1 to 256 leaves")
    return b"".join([part for leaf in leaves for part in (_u16(len(leaf)), leaf)])


async def inclusion_proof(index: int, size: int, get_hashes: GetHashes) -> list[bytes]:
    """The proof that leaf `index` is in the tree of `size` leaves, sibling of the leaf first (RFC 9162 §2.1.3.1)."""
    if not 0 <= index < size:
        raise ValueError("the tree has no leaf with this index")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _left_size(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return await _roots(path[::-1], size, get_hashes)


async def consistency_proof(old: int, size: int, get_hashes: GetHashes) -> list[bytes]:
    """The proof that the tree of `size` leaves begins with the one of `old` leaves (RFC 9162 §2.1.4.1).

    Empty for old size 0 and for equal sizes, where nothing needs to be proven.
    """
    if not 0 <= old <= size:
        raise ValueError("the tree was never of this size")
    if old == 0:
        return []
    path = []
    start, end = 0, size
    while end != old:
        middle = start + _left_size(end - start)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:
        # The old root is not itself a node of the new tree, so the verifier needs where the two part.
        path.append((start, end))
    return await _roots(path[::-1], size, get_hashes)


async def _roots(ranges: Sequence[tuple[int, int]], size: int, get_hashes: GetHashes) -> list[bytes]:
    """The roots of subtrees of the tree, each tile fetched once and as wide as a tree of this size has it."""
    tiles: dict[tuple[int, int], bytes] = {}
    roots = []
    for start, end in ranges:
        parts = []
        for level, n, first, count in _perfect_subtrees(start, end):
            if (level, n) not in tiles:
                width = min(TILE_WIDTH, (size >> TILE_HEIGHT * level) - n * TILE_WIDTH)
                hashes = await get_hashes(level, n, width)
                if len(hashes) != width * HASH_SIZE:
                    raise Corrupt("tile", f"level {level}, number {n}, width {width}")
                tiles[level, n] = hashes
            below = tiles[level, n][HASH_SIZE * first : HASH_SIZE * (first + count)]
            parts.append(_known_root(below) if level else perfect_root(split_hashes(below)))
        root = parts.pop()
        while parts:
            root = node_hash(parts.pop(), root)
        roots.append(root)
    return roots


@lru_cache(_ROOTS_KEPT)
def _known_root(hashes: bytes) -> bytes:
    """The root over 1, 2, 4, 8 … hashes of a tile above the leaves, where the proofs of many leaves pass."""
    return perfect_root(split_hashes(hashes))


def _perfect_subtrees(start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(level, tile, first hash in it, how many) for each perfect subtree that leaves start..end are made of.

    Taking each from the highest level that has it makes every tile serve all subtrees below it, so none is fetched
    in vain: subtrees of one proof are disjoint, and one that fills a whole tile is a single hash a level higher.
    """
    while start < end:
        height = (end - start).bit_length() - 1
        level, rest = divmod(height, TILE_HEIGHT)
        n, first = divmod(start >> TILE_HEIGHT * level, TILE_WIDTH)
        yield level, n, first, 1 << rest
        start += 1 << height


def _left_size(size: int) -> int:
    """The largest power of two below `size`: where RFC 9162 divides a tree."""
    return 1 << (size - 1).bit_length() - 1
