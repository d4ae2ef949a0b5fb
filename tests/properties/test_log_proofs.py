"""Proofs made from tiles convince a verifier that only knows the recursion of RFC 9162."""

from collections.abc import Coroutine
from functools import cache
from hashlib import sha256
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.ledger.log.tiles import consistency_proof, inclusion_proof, parse_tile_path, tile_path
from services.ledger.log.tree import Edge, Tile, TileWriter

LARGEST = 70_000
LEAVES = [sha256(index.to_bytes(8, "big")).digest() for index in range(LARGEST)]
TILES = {(tile.level, tile.n): tile.hashes for tile in TileWriter().extend(LEAVES)}


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def left_size(size: int) -> int:
    k = 1
    while k * 2 < size:
        k *= 2
    return k


@cache
def root(start: int, end: int) -> bytes:
    if end - start == 1:
        return LEAVES[start]
    k = left_size(end - start)
    return node(root(start, start + k), root(start + k, end))


async def get_hashes(level: int, n: int, width: int) -> bytes:
    """Full tiles as they were written; what is partial at this size from plain recursion."""
    if width == 256:
        return TILES[level, n]
    below = 256**level
    return b"".join(root((n * 256 + i) * below, (n * 256 + i + 1) * below) for i in range(width))


def run(coroutine: Coroutine[Any, Any, list[bytes]]) -> list[bytes]:
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


def included_root(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to, by following the recursion downwards."""
    if size == 1:
        assert not proof, "surplus hashes"
        return leaf
    *inner, sibling = proof
    k = left_size(size)
    if index < k:
        return node(included_root(leaf, index, k, inner), sibling)
    return node(sibling, included_root(leaf, index - k, size - k, inner))


def consistent_roots(old: int, size: int, proof: list[bytes], old_root: bytes | None) -> tuple[bytes, bytes]:
    """The (old, new) roots that a consistency proof leads to; `old_root` where the old tree is a node of the new."""
    if old == size:
        if old_root is None:
            (shared,) = proof
            return shared, shared
        assert not proof, "surplus hashes"
        return old_root, old_root
    *inner, sibling = proof
    k = left_size(size)
    if old <= k:
        before, after = consistent_roots(old, k, inner, old_root)
        return before, node(after, sibling)
    before, after = consistent_roots(old - k, size - k, inner, None)
    return node(sibling, before), node(sibling, after)


def check_inclusion(index: int, size: int) -> None:
    proof = run(inclusion_proof(index, size, get_hashes))
    assert included_root(LEAVES[index], index, size, proof) == root(0, size)


def check_consistency(old: int, size: int) -> None:
    proof = run(consistency_proof(old, size, get_hashes))
    assert consistent_roots(old, size, proof, root(0, old)) == (root(0, old), root(0, size))


def test_every_leaf_is_proven_in_every_small_tree_and_around_tile_borders() -> None:
    for size in [*range(1, 40), 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1100]:
        for index in range(size):
            check_inclusion(index, size)


def test_every_earlier_size_is_proven_in_every_small_tree_and_around_tile_borders() -> None:
    for size in [*range(1, 40), 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1100]:
        for old in range(1, size + 1):
            check_consistency(old, size)


@given(st.data())
def test_any_leaf_is_proven_in_any_tree(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, LARGEST))
    check_inclusion(data.draw(st.integers(0, size - 1)), size)


@given(st.data())
def test_any_tree_is_proven_to_begin_with_any_smaller_one(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, LARGEST))
    check_consistency(data.draw(st.integers(1, size)), size)


@given(st.lists(st.integers(0, 600), max_size=12), st.integers(0, 70))
def test_however_leaves_arrive_in_batches_edge_and_tiles_are_the_same(batches: list[int], taken_back: int) -> None:
    writer, edge, tiles = TileWriter(), Edge(), []
    for count in batches:
        # A batch that did not become durable is prepared again, perhaps with other leaves.
        writer.copy().extend(LEAVES[:taken_back])
        tiles += writer.extend(LEAVES[writer.size : writer.size + count])
        edge.extend(LEAVES[edge.size : edge.size + count])
    size = sum(batches)
    assert tiles == [Tile(0, n, TILES[0, n]) for n in range(size // 256)]
    assert writer.size == edge.size == size
    assert writer.root() == edge.root() == (root(0, size) if size else sha256(b"").digest())
    assert Edge.from_bytes(size, edge.to_bytes()).hashes == writer.edge.hashes


@given(st.one_of(st.none(), st.integers(0, 63)), st.integers(0, 2**63 - 1), st.integers(1, 256))
def test_every_tile_path_reads_back_as_what_it_was_written_from(level: int | None, n: int, width: int) -> None:
    path = tile_path("entries" if level is None else level, n, width)
    assert parse_tile_path(path) == (level, n, width)


@given(st.from_regex(r"tile/(entries|[0-9]{1,2})/(x[0-9]{3}/){0,3}[0-9]{3}(\.p/[0-9]{1,3})?", fullmatch=True))
def test_whatever_reads_as_a_tile_path_is_the_one_spelling_of_it(path: str) -> None:
    try:
        level, n, width = parse_tile_path(path)
    except ValueError:
        return
    assert tile_path("entries" if level is None else level, n, width) == path
