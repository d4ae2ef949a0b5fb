"""The edge and the tiles of every size up to 1100 equal plain recursion, and a writer can start again from any."""

from collections.abc import Coroutine, Sequence
from functools import cache
from hashlib import sha256
from typing import Any

import pytest

from services.ledger.log.tree import Edge, Tile, TileWriter, partial_widths, tile_root
from shared.errors import Corrupt

SIZES = range(1101)
HASHES = [sha256(index.to_bytes(8, "big")).digest() for index in range(70_000)]


@cache
def root(start: int, end: int) -> bytes:
    """MTH(D[start:end]) exactly as RFC 9162 §2.1.1 writes it."""
    if start == end:
        return sha256(b"").digest()
    if end - start == 1:
        return HASHES[start]
    k = 1
    while k * 2 < end - start:
        k *= 2
    return sha256(b"\x01" + root(start, start + k) + root(start + k, end)).digest()


def tile(level: int, n: int, width: int) -> bytes:
    below = 256**level
    return b"".join(root((n * 256 + i) * below, (n * 256 + i + 1) * below) for i in range(width))


async def get_hashes(level: int, n: int, width: int) -> bytes:
    return tile(level, n, width)


def run(coroutine: Coroutine[Any, Any, TileWriter]) -> TileWriter:
    """Nothing here ever waits, so no event loop is needed."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


def test_the_edge_has_the_root_of_plain_recursion_at_every_size() -> None:
    edge = Edge()
    for size in SIZES:
        assert edge.size == size
        assert edge.root() == root(0, size)
        edge.append(HASHES[size])


def test_an_edge_restored_from_its_bytes_goes_on_as_if_nothing_had_happened() -> None:
    edge = Edge()
    for size in SIZES:
        restored = Edge.from_bytes(size, edge.to_bytes())
        assert restored.hashes == edge.hashes
        restored.append(HASHES[size])
        assert restored.root() == root(0, size + 1)
        edge.append(HASHES[size])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 255, 256, 257, 1000])
def test_an_edge_grown_in_batches_equals_one_grown_leaf_by_leaf(count: int) -> None:
    edge = Edge()
    for start in range(0, 1100, count):
        edge.extend(HASHES[start : start + count])
        assert edge.root() == root(0, start + count)


def test_a_copied_edge_grows_on_its_own() -> None:
    edge = Edge()
    edge.extend(HASHES[:7])
    copied = edge.copy()
    copied.extend(HASHES[7:20])
    assert (edge.size, edge.root()) == (7, root(0, 7))
    assert (copied.size, copied.root()) == (20, root(0, 20))


@pytest.mark.parametrize(("size", "joined"), [(0, bytes(32)), (3, bytes(32)), (4, bytes(31)), (1, b"")])
def test_an_edge_whose_length_cannot_belong_to_its_size_is_corrupt(size: int, joined: bytes) -> None:
    with pytest.raises(Corrupt):
        Edge.from_bytes(size, joined)


@pytest.mark.parametrize("count", [1, 3, 255, 256, 257, 1000])
def test_every_full_tile_is_written_once_and_equals_plain_recursion(count: int) -> None:
    writer = TileWriter()
    tiles: list[Tile] = []
    for start in range(0, 1100, count):
        tiles += writer.extend(HASHES[start : start + count])
    assert [(level, n) for level, n, _ in tiles] == [(0, n) for n in range(writer.size // 256)]
    assert all(hashes == tile(level, n, 256) for level, n, hashes in tiles)


def test_a_tree_of_70000_leaves_has_the_tiles_the_specification_counts() -> None:
    writer = TileWriter()
    tiles: list[Tile] = []
    for start in range(0, 70_000, 9_999):
        tiles += writer.extend(HASHES[start : start + 9_999])
    assert sorted((level, n) for level, n, _ in tiles) == [(0, n) for n in range(273)] + [(1, 0)]
    assert all(len(hashes) == 8192 and hashes == tile(level, n, 256) for level, n, hashes in tiles)
    assert partial_widths(70_000) == [112, 17, 1]
    assert writer.root() == root(0, 70_000)


def test_a_writer_restored_at_any_size_goes_on_with_the_same_edge_and_tiles() -> None:
    for size in [*SIZES[::7], 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537]:
        restored = run(TileWriter.restore(size, get_hashes))
        assert restored.size == size
        assert restored.root() == root(0, size)
        tiles = restored.extend(HASHES[size : size + 300])
        assert [t for t in tiles if t.level == 0] == [
            Tile(0, n, tile(0, n, 256)) for n in range(size // 256, (size + 300) // 256)
        ]
        assert [t for t in tiles if t.level == 1] == [
            Tile(1, n, tile(1, n, 256)) for n in range(size // 65_536, (size + 300) // 65_536)
        ]
        assert restored.root() == root(0, size + 300)


def test_a_batch_taken_back_by_keeping_a_copy_leaves_no_trace() -> None:
    writer = TileWriter()
    writer.extend(HASHES[:250])
    kept = writer.copy()
    assert len(writer.extend(HASHES[300:900])) == 3
    assert (kept.size, kept.root()) == (250, root(0, 250))
    assert kept.extend(HASHES[250:260]) == [Tile(0, 0, tile(0, 0, 256))]
    assert kept.root() == root(0, 260)


@pytest.mark.parametrize(
    ("size", "unfinished"),
    [(3, [HASHES[:2]]), (3, []), (0, [[]]), (256, [[]]), (256, [HASHES[:256]]), (256, [HASHES[:1], HASHES[:1]])],
)
def test_unfinished_tiles_that_do_not_belong_to_the_size_are_corrupt(
    size: int, unfinished: Sequence[Sequence[bytes]]
) -> None:
    with pytest.raises(Corrupt):
        TileWriter(size, unfinished)


def test_the_root_of_a_tile_is_its_entry_one_level_higher() -> None:
    assert tile_root(tile(0, 2, 256)) == root(512, 768)
    with pytest.raises(Corrupt):
        tile_root(tile(0, 2, 255))
