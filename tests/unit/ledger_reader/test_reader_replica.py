"""A replayed log is taken leaf by leaf; each kind of wrong leaf is refused, naming its index and what is wrong."""

import struct
from collections.abc import Callable

import pytest

from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Erasure, Event, MapRoot
from services.ledger.reader.merkle import Tree, leaf_hash, root_of
from services.ledger.reader.replica import Replica
from services.ledger.reader.state_map import Map

FIRST = b"\x02" + bytes(56)
A, B, C = b"A" * 32, b"B" * 32, b"C" * 32
NOW = 1580895000000


def event(label: bytes, version: int, previous: int, at: int = NOW) -> bytes:
    return struct.pack(">B32sQQ32sQ", 1, label, version, previous, b"c" * 32, at)


def erasure(label: bytes, version: int, previous: int, at: int = NOW) -> bytes:
    return struct.pack(">B32sQQ32sQ", 3, label, version, previous, bytes(32), at)


def map_root(covers: int, root: bytes, labels: int, previous: int) -> bytes:
    return struct.pack(">BQ32sQQ", 2, covers, root, labels, previous)


def map_of(*words: tuple[bytes, int, int, bytes]) -> bytes:
    state_map = Map()
    for label, version, index, leaf in words:
        state_map.set(label, version, index, leaf_hash(leaf))
    return state_map.root()


def good_log() -> list[bytes]:
    """0 MAP_ROOT, 1 A1, 2 B1, 3 A2, 4 MAP_ROOT, 5 B erased."""
    leaves = [FIRST, event(A, 1, 0), event(B, 1, 0, NOW + 1), event(A, 2, 2, NOW + 1)]
    leaves.append(map_root(4, map_of((A, 2, 3, leaves[3]), (B, 1, 2, leaves[2])), 2, 1))
    leaves.append(erasure(B, 2, 3, NOW + 2))
    return leaves


def replay(leaves: list[bytes]) -> Replica:
    replica = Replica()
    for leaf in leaves:
        replica.apply(leaf)
    return replica


def good_end() -> bytes:
    leaves = good_log()
    return map_root(6, map_of((A, 2, 3, leaves[3]), (B, 2, 5, leaves[5])), 2, 5)


def test_a_good_log_is_taken_and_has_its_roots() -> None:
    leaves = [*good_log(), good_end()]
    replica = replay(leaves)
    assert replica.size == 7
    assert replica.tree_root() == root_of([leaf_hash(leaf) for leaf in leaves])
    assert replica.map.root() == map_of((A, 2, 3, leaves[3]), (B, 2, 5, leaves[5]))
    assert len(replica.map) == 2


def test_apply_returns_the_leaf_taken_apart() -> None:
    replica = Replica()
    kinds = [type(replica.apply(leaf)) for leaf in good_log()]
    assert kinds == [MapRoot, Event, Event, Event, MapRoot, Erasure]


WRONG_NEXT: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "an empty leaf": (lambda: b"", 2, "the leaf"),
    "a reserved type": (lambda: b"\x04" + event(C, 1, 0)[1:], 2, "type"),
    "an event too short": (lambda: event(C, 1, 0)[:-1], 2, "length"),
    "a map root too long": (lambda: good_end() + b"\x00", 2, "length"),
    "a new label at version 0": (lambda: event(C, 0, 0), 2, "version"),
    "a new label at version 2": (lambda: event(C, 2, 0, NOW + 2), 3, "version"),
    "a version repeated": (lambda: event(A, 2, 4, NOW + 2), 3, "version"),
    "a version left out": (lambda: event(A, 4, 4, NOW + 2), 3, "version"),
    "a label started anew": (lambda: event(A, 1, 0, NOW + 2), 3, "version"),
    "a previous index of another leaf": (lambda: event(A, 3, 2, NOW + 2), 3, "previous index"),
    "no previous index": (lambda: event(A, 3, 0, NOW + 2), 3, "previous index"),
    "a previous index on a new label": (lambda: event(C, 1, 4, NOW + 2), 3, "previous index"),
    "an erasure with a wrong version": (lambda: erasure(A, 2, 4, NOW + 2), 3, "version"),
    "an erasure with a wrong previous index": (lambda: erasure(A, 3, 3, NOW + 2), 3, "previous index"),
    "an erasure with a commitment": (lambda: b"\x03" + event(A, 3, 4, NOW + 2)[1:], 2, "commitment"),
    "an event after the erasure": (lambda: event(B, 3, 6, NOW + 2), 4, "label"),
    "an erasure after the erasure": (lambda: erasure(B, 3, 6, NOW + 2), 4, "label"),
    "the label started anew after the erasure": (lambda: event(B, 1, 0, NOW + 2), 4, "label"),
    "a time that goes back": (lambda: event(A, 3, 4, NOW + 1), 5, "recorded_at"),
    "an erasure's time that goes back": (lambda: erasure(A, 3, 4, NOW + 1), 5, "recorded_at"),
    "a map root that covers less": (lambda: map_root(5, good_end()[9:41], 2, 5), 6, "covers"),
    "a map root that covers more": (lambda: map_root(7, good_end()[9:41], 2, 5), 6, "covers"),
    "a map root of before": (lambda: map_root(6, good_log()[4][9:41], 2, 5), 6, "map root"),
    "a map root of zeros": (lambda: map_root(6, bytes(32), 2, 5), 6, "map root"),
    "a map root with too many labels": (lambda: map_root(6, good_end()[9:41], 3, 5), 6, "number of labels"),
    "a map root with too few labels": (lambda: map_root(6, good_end()[9:41], 1, 5), 6, "number of labels"),
    "a map root that names an older one": (lambda: map_root(6, good_end()[9:41], 2, 1), 6, "previous MAP_ROOT"),
    "a map root that names none": (lambda: map_root(6, good_end()[9:41], 2, 0), 6, "previous MAP_ROOT"),
}


@pytest.mark.parametrize("name", WRONG_NEXT)
def test_a_wrong_leaf_is_refused_by_index_and_reason_and_changes_nothing(name: str) -> None:
    make, rule, what = WRONG_NEXT[name]
    replica = replay(good_log())
    before = (replica.size, replica.tree_root(), replica.map.root(), len(replica.map))
    with pytest.raises(Invalid) as caught:
        replica.apply(make())
    assert caught.value.index == 6
    assert caught.value.step == f"log rule {rule}"
    assert caught.value.what.startswith("leaf 6: ")
    assert what in caught.value.what
    assert (replica.size, replica.tree_root(), replica.map.root(), len(replica.map)) == before
    replica.apply(good_end())


@pytest.mark.parametrize(
    "leaf",
    [
        event(A, 1, 0),
        erasure(A, 1, 0),
        map_root(1, bytes(32), 0, 0),
        map_root(0, b"\x01" * 32, 0, 0),
        map_root(0, bytes(32), 1, 0),
        map_root(0, bytes(32), 0, 1),
    ],
)
def test_a_log_begins_with_the_map_root_of_nothing(leaf: bytes) -> None:
    with pytest.raises(Invalid, match="log rule 1: leaf 0"):
        Replica().apply(leaf)


def test_every_flipped_bit_of_a_map_root_is_refused() -> None:
    replica, good = replay(good_log()), good_end()
    for bit in range(8 * len(good)):
        leaf = bytearray(good)
        leaf[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Invalid):
            replica.apply(bytes(leaf))
    replica.apply(good)


def test_an_altered_earlier_leaf_shows_at_the_next_map_root() -> None:
    leaves = [*good_log(), good_end()]
    altered = bytearray(leaves[3])
    altered[60] ^= 1  # in the commitment, which no rule of its own ties down
    replica = replay([*leaves[:3], bytes(altered)])
    with pytest.raises(Invalid, match="log rule 6: leaf 4: the map root"):
        replica.apply(leaves[4])


def test_a_checkpoint_must_be_of_these_leaves_and_end_in_a_map_root() -> None:
    leaves = [*good_log(), good_end()]
    replica = replay(leaves)
    root = replica.tree_root()
    replica.check_checkpoint(Checkpoint("example.org/log", 7, root))
    with pytest.raises(Invalid, match="size is 6"):
        replica.check_checkpoint(Checkpoint("example.org/log", 6, root))
    with pytest.raises(Invalid, match="root"):
        replica.check_checkpoint(Checkpoint("example.org/log", 7, b"\x01" * 32))
    shorter = replay(leaves[:6])
    with pytest.raises(Invalid, match="does not end in a MAP_ROOT"):
        shorter.check_checkpoint(Checkpoint("example.org/log", 6, shorter.tree_root()))
    with pytest.raises(Invalid, match="does not end in a MAP_ROOT"):
        Replica().check_checkpoint(Checkpoint("example.org/log", 0, Replica().tree_root()))


@pytest.mark.parametrize("name", WRONG_NEXT)
def test_a_replica_that_was_resumed_takes_and_refuses_what_the_one_before_would(name: str) -> None:
    before = replay([*good_log()[:5]])
    before.erased.add(C)  # as if it had ended long ago
    state_map = Map.of(before.map.records())
    resumed = Replica.resume(
        Tree.of(before.size, before.perfect), state_map, before.erased, before.recorded_at, before.last_map_root
    )
    assert (resumed.size, resumed.tree_root(), resumed.map.root()) == (
        before.size,
        before.tree_root(),
        before.map.root(),
    )
    resumed.apply(good_log()[5])
    make, rule, _ = WRONG_NEXT[name]
    with pytest.raises(Invalid) as caught:
        resumed.apply(make())
    assert caught.value.step in {f"log rule {rule}", "log rule 4" if make()[1:33] == C else ""}
    with pytest.raises(Invalid, match="log rule 4"):
        resumed.apply(event(C, 1, 0, NOW + 2))
    resumed.apply(good_end())
