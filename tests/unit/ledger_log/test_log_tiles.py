"""One tile has one path, one bundle has one spelling, and a proof asks for no tile it could do without."""

from collections.abc import Coroutine
from hashlib import sha256
from typing import Any, Literal

import pytest

from services.ledger.log.tiles import (
    consistency_proof,
    entry_bundle,
    inclusion_proof,
    parse_tile_path,
    tile_path,
)
from shared.errors import Corrupt

PATHS: list[tuple[int | Literal["entries"], int, int, str]] = [
    (0, 0, 256, "tile/0/000"),
    (0, 5, 256, "tile/0/005"),
    (0, 999, 256, "tile/0/999"),
    (0, 1000, 256, "tile/0/x001/000"),
    (1, 1_234_067, 256, "tile/1/x001/x234/067"),
    (63, 1_000_000, 1, "tile/63/x001/x000/000.p/1"),
    (2, 0, 255, "tile/2/000.p/255"),
    ("entries", 273, 112, "tile/entries/273.p/112"),
    ("entries", 67, 256, "tile/entries/067"),
    (0, 2**63 - 1, 256, "tile/0/x009/x223/x372/x036/x854/x775/807"),
]


@pytest.mark.parametrize(("level", "n", "width", "path"), PATHS)
def test_a_tile_has_the_path_of_the_specification_both_ways(
    level: int | Literal["entries"], n: int, width: int, path: str
) -> None:
    assert tile_path(level, n, width) == path
    assert parse_tile_path(path) == (None if level == "entries" else level, n, width)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/1000",
        "tile/0/x000/000",
        "tile/0/x000/x001/000",
        "tile/0/001/000",
        "tile/0/x001",
        "tile/0/x001/x000",
        "tile/0/X001/000",
        "tile/0/x01/000",
        "tile/00/000",
        "tile/01/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/+1/000",
        "tile/0/-01",
        "tile/0/00\u0663",
        "tile/\u0660/000",
        "tile/0/000.p/0",
        "tile/0/000.p/00",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1/2",
        "tile/0/000p/1",
        "tile/entry/000",
        "tile/Entries/000",
        "tile/data/000",
        "tile/0/x009/x223/x372/x036/x854/x775/808",
        "tile/0/x001/x000/x000/x000/x000/x000/x000/000",
        "tile//000",
        "tile/0//000",
        "tile/0/../000",
        "tile/0/000?x",
        "tile/0/000%2ep/1",
    ],
)
def test_any_other_spelling_is_no_tile_path(path: str) -> None:
    with pytest.raises(ValueError, match="tile"):
        parse_tile_path(path)


@pytest.mark.parametrize(
    ("level", "n", "width"), [(-1, 0, 256), (64, 0, 256), (0, -1, 256), (0, 2**63, 256), (0, 0, 0), (0, 0, 257)]
)
def test_a_tile_that_cannot_exist_has_no_path(level: int, n: int, width: int) -> None:
    with pytest.raises(ValueError, match="tile"):
        tile_path(level, n, width)


def test_a_bundle_is_each_leaf_behind_its_length() -> None:
    assert entry_bundle([b"abc", b"", bytes(300)]).hex() == "0003616263" + "0000" + "012c" + "00" * 300
    assert len(entry_bundle([bytes(89)] * 256)) == 256 * 91


@pytest.mark.parametrize("count", [0, 257])
def test_a_bundle_has_1_to_256_leaves(count: int) -> None:
    with pytest.raises(ValueError, match="256"):
        entry_bundle([b"leaf"] * count)


# A tree over made-up leaf hashes, and the tiles of it by level.
SIZE = 70_000
LEVELS: list[list[bytes]] = [[sha256(index.to_bytes(8, "big")).digest() for index in range(SIZE)]]
while len(LEVELS[-1]) >= 256:
    full = len(LEVELS[-1]) // 256 * 256
    row = LEVELS[-1][:full]
    for _ in range(8):
        row = [sha256(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row), 2)]
    LEVELS.append(row)


class Store:
    """Serves the tiles of a tree of this size, and remembers which were asked for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked: list[tuple[int, int]] = []

    async def __call__(self, level: int, n: int, width: int) -> bytes:
        exists = self.size // 256**level - n * 256
        assert width == min(256, exists), "only what a tree of this size serves"
        self.asked.append((level, n))
        return b"".join(LEVELS[level][n * 256 : n * 256 + width])


def run(coroutine: Coroutine[Any, Any, list[bytes]]) -> list[bytes]:
    """Nothing here ever waits, so no event loop is needed."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


@pytest.mark.parametrize(
    ("index", "size", "tiles"),
    [
        (0, 1, []),
        (0, 2, [(0, 0)]),
        (255, 256, [(0, 0)]),
        (0, 257, [(0, 0), (0, 1)]),
        (0, 512, [(0, 0), (1, 0)]),
        (256, 257, [(1, 0)]),
        (1000, 70_000, [(0, 3), (0, 273), (1, 0), (1, 1)]),
        (69_999, 70_000, [(0, 273), (1, 1), (2, 0)]),
    ],
)
def test_an_inclusion_proof_asks_only_for_these_tiles(index: int, size: int, tiles: list[tuple[int, int]]) -> None:
    store = Store(size)
    run(inclusion_proof(index, size, store))
    assert sorted(store.asked) == tiles


@pytest.mark.parametrize(
    ("old", "size", "tiles"),
    [
        (0, 70_000, []),
        (512, 512, []),
        (70_000, 70_000, []),
        (1, 2, [(0, 0)]),
        (256, 512, [(1, 0)]),
        (257, 512, [(0, 1), (1, 0)]),
        (65_536, 70_000, [(0, 273), (1, 1)]),
        (1000, 70_000, [(0, 3), (0, 273), (1, 0), (1, 1)]),
    ],
)
def test_a_consistency_proof_asks_only_for_these_tiles(old: int, size: int, tiles: list[tuple[int, int]]) -> None:
    store = Store(size)
    run(consistency_proof(old, size, store))
    assert sorted(store.asked) == tiles


def test_no_proof_is_made_of_a_leaf_or_a_size_that_is_not_there() -> None:
    for index, size in ((0, 0), (5, 5), (-1, 5)):
        with pytest.raises(ValueError, match="index"):
            run(inclusion_proof(index, size, Store(size)))
    for old, size in ((6, 5), (-1, 5)):
        with pytest.raises(ValueError, match="size"):
            run(consistency_proof(old, size, Store(size)))


def test_a_tile_of_another_width_than_asked_for_never_becomes_a_proof() -> None:
    async def short(level: int, n: int, width: int) -> bytes:
        return b"".join(LEVELS[level][n * 256 : n * 256 + width - 1])

    with pytest.raises(Corrupt):
        run(inclusion_proof(3, 300, short))
    with pytest.raises(Corrupt):
        run(consistency_proof(3, 300, short))
