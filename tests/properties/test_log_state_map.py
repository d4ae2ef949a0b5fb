"""The state map has the root that the three formulas give, whatever happened to it, and forgets what is undone."""

import struct
from collections.abc import Iterable
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.log.leaf import erasure_leaf, event_leaf, leaf_hash, map_root_leaf
from services.ledger.log.state_map import StateMap
from shared.errors import Corrupt

Records = dict[bytes, tuple[int, int, bytes]]


def naive_root(records: Records) -> bytes:
    """T of docs/formats.md §9, word for word."""
    return subtree([(int.from_bytes(label, "big"), pack(label, records[label])) for label in records], 0)


def subtree(records: list[tuple[int, bytes]], depth: int) -> bytes:
    if not records:
        return bytes(32)
    if len(records) == 1:
        return sha256(b"\x02" + records[0][1]).digest()
    left = [record for record in records if not record[0] >> (255 - depth) & 1]
    right = [record for record in records if record[0] >> (255 - depth) & 1]
    return sha256(b"\x03" + subtree(left, depth + 1) + subtree(right, depth + 1)).digest()


def pack(label: bytes, record: tuple[int, int, bytes]) -> bytes:
    version, last_index, leaf = record
    return label + struct.pack(">QQ", version, last_index) + leaf


def relatives(base: int, shared: int, tails: Iterable[int]) -> list[bytes]:
    """Labels that have their first `shared` bits in common."""
    mask = (1 << 256 - shared) - 1
    return [(base & ~mask | tail & mask).to_bytes(32, "big") for tail in tails]


WORDS = st.integers(0, 2**256 - 1)
FAMILIES = st.builds(
    relatives, WORDS, st.sampled_from([0, 1, 7, 8, 63, 64, 65, 200, 230, 250]), st.lists(WORDS, max_size=12)
)
LABELS = st.lists(FAMILIES, min_size=1, max_size=8).map(
    lambda families: sorted({x for family in families for x in family})
)
# A batch: which labels it updates, whether its root is asked for, and whether it is committed or undone.
BATCHES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2**16), max_size=40), st.booleans(), st.sampled_from(["commit", "commit", "undo"])
    ),
    max_size=12,
)


@given(LABELS.filter(bool), BATCHES)
def test_any_history_has_the_root_of_plain_recursion(
    labels: list[bytes], batches: list[tuple[list[int], bool, str]]
) -> None:
    state, committed = StateMap(), Records()
    for number, (updates, look, end) in enumerate(batches):
        state.begin()
        current = dict(committed)
        for update in updates:
            label = labels[update % len(labels)]
            record = (current.get(label, (0,))[0] + 1, number, sha256(b"%d %d" % (number, update)).digest())
            state.update(label, *record)
            current[label] = record
        assert len(state) == len(current)
        assert list(state.records()) == [pack(label, current[label]) for label in sorted(current)]
        # Whoever replays a log commits many batches before the root is asked for.
        if look:
            assert state.root() == naive_root(current)
        if end == "commit":
            state.commit()
            committed = current
        else:
            state.undo()
        assert {label: state.get(label) for label in labels} == {label: committed.get(label) for label in labels}
    assert len(state) == len(committed)
    assert state.root() == naive_root(committed)


@given(LABELS, st.integers(0, 500))
def test_a_map_rebuilt_from_its_records_is_the_same_map_and_goes_on(labels: list[bytes], expected: int) -> None:
    state, known = StateMap(), Records()
    for index, label in enumerate(labels):
        known[label] = (1, index, sha256(label).digest())
        state.update(label, *known[label])
    rebuilt = StateMap.rebuild(iter(list(state.records())), expected)
    assert len(rebuilt) == len(known)
    assert rebuilt.root() == state.root() == naive_root(known)
    for label in labels[::2]:
        known[label] = (2, 1000, bytes(32))
        rebuilt.update(label, *known[label])
    assert rebuilt.root() == naive_root(known)
    rebuilt.undo()
    assert rebuilt.root() == state.root()


@pytest.mark.parametrize("seed", range(3))
def test_a_map_that_grows_over_many_levels_keeps_the_root_in_every_batch(seed: int) -> None:
    random = Random(seed)
    state, known = StateMap(), Records()
    for batch in range(60):
        state.begin()
        before = dict(known)
        for number in range(random.choice([1, 5, 80])):
            new = not known or random.random() < 0.5
            label = random.randbytes(32) if new else random.choice(list(known))
            known[label] = (known.get(label, (0,))[0] + 1, 1000 * batch + number, random.randbytes(32))
            state.update(label, *known[label])
        assert state.root() == naive_root(known)
        if random.random() < 0.3:
            state.undo()
            known = before
            assert state.root() == naive_root(known)
        else:
            state.commit()
            assert state.root() == naive_root(known)
        assert len(state) == len(known)
    assert all(state.get(label) == record for label, record in known.items())
    assert state.get(random.randbytes(32)) is None


def test_the_empty_map_is_zeros_and_an_only_label_is_itself_the_root() -> None:
    state = StateMap()
    assert state.root() == bytes(32)
    assert len(state) == 0
    label = bytes(range(32))
    state.update(label, 1, 1, bytes(32))
    assert state.root() == sha256(b"\x02" + label + struct.pack(">QQ", 1, 1) + bytes(32)).digest()


def test_labels_that_differ_in_the_last_bit_hang_below_255_absent_siblings() -> None:
    state = StateMap()
    twins = [bytes(32), bytes(31) + b"\x01"]
    leaves = []
    for label in twins:
        state.update(label, 1, 1, label)
        leaves.append(sha256(b"\x02" + label + struct.pack(">QQ", 1, 1) + label).digest())
    expected = sha256(b"\x03" + leaves[0] + leaves[1]).digest()
    for _ in range(255):
        expected = sha256(b"\x03" + expected + bytes(32)).digest()
    assert state.root() == expected


def test_a_label_that_stands_inside_another_record_is_not_taken_for_one() -> None:
    present, sought, spanning = b"\x10" * 32, b"\x20" * 32, bytes(16) + b"\x30" * 16
    state = StateMap()
    state.update(present, 1, 5, sought)
    assert state.get(sought) is None
    state.update(sought, 9, 7, present)
    assert state.get(sought) == (9, 7, present)
    assert state.get(present) == (1, 5, sought)
    # Version 0 and index 0 are sixteen zero bytes right in front of the leaf hash.
    state.update(b"\x05" * 32, 0, 0, b"\x30" * 32)
    assert state.get(spanning) is None
    assert len(state) == 3


def test_a_batch_cannot_begin_while_another_is_open() -> None:
    state = StateMap()
    state.begin()
    state.update(bytes(32), 1, 1, bytes(32))
    with pytest.raises(RuntimeError):
        state.begin()
    state.undo()
    state.begin()


@pytest.mark.parametrize(("label", "leaf"), [(bytes(31), bytes(32)), (bytes(32), bytes(33)), (bytes(33), bytes(31))])
def test_a_label_or_leaf_hash_of_another_length_is_refused_before_it_changes_anything(
    label: bytes, leaf: bytes
) -> None:
    state = StateMap()
    with pytest.raises(ValueError, match="32 bytes"):
        state.update(label, 1, 1, leaf)
    assert state.root() == bytes(32)


RECORDS = [pack(bytes([first]) * 32, (1, 1, bytes(32))) for first in range(4)]


@pytest.mark.parametrize(
    "records",
    [RECORDS[::-1], [RECORDS[0], RECORDS[0]], [RECORDS[0], RECORDS[2], RECORDS[1]], [RECORDS[0][:-1]], [*RECORDS, b""]],
    ids=["backwards", "twice", "one out of place", "cut short", "empty"],
)
@pytest.mark.parametrize("expected", [0, 1000])
def test_a_snapshot_that_is_not_in_strict_order_is_corrupt(records: list[bytes], expected: int) -> None:
    with pytest.raises(Corrupt):
        StateMap.rebuild(records, expected)


LABEL, OTHER = b"\x0a" * 32, b"\x0b" * 32
LOG = [
    map_root_leaf(0, bytes(32), 0, 0),
    event_leaf(LABEL, 1, 0, b"\x01" * 32, 1000),
    event_leaf(OTHER, 1, 0, b"\x02" * 32, 1000),
    event_leaf(LABEL, 2, 2, b"\x03" * 32, 1000),
    map_root_leaf(4, b"\x04" * 32, 2, 1),
    erasure_leaf(LABEL, 3, 4, 1001),
]


def test_a_log_applied_leaf_by_leaf_gives_each_label_its_newest_leaf() -> None:
    state = StateMap()
    for index, leaf in enumerate(LOG):
        state.apply(index, leaf)
    assert state.get(LABEL) == (3, 5, leaf_hash(LOG[5]))
    assert state.get(OTHER) == (1, 2, leaf_hash(LOG[2]))
    assert len(state) == 2


@pytest.mark.parametrize(
    "leaf",
    [
        event_leaf(LABEL, 2, 2, bytes(32), 0),
        event_leaf(LABEL, 4, 4, bytes(32), 0),
        event_leaf(LABEL, 3, 2, bytes(32), 0),
        event_leaf(LABEL, 3, 0, bytes(32), 0),
        erasure_leaf(LABEL, 3, 5, 0),
        event_leaf(b"\x0c" * 32, 2, 0, bytes(32), 0),
        event_leaf(b"\x0c" * 32, 1, 1, bytes(32), 0),
    ],
    ids=[
        "version again",
        "version skipped",
        "older previous",
        "no previous",
        "later previous",
        "late start",
        "made up",
    ],
)
def test_a_leaf_that_does_not_follow_its_labels_last_one_is_corrupt(leaf: bytes) -> None:
    state = StateMap()
    for index, known in enumerate(LOG[:5]):
        state.apply(index, known)
    root = state.root()
    with pytest.raises(Corrupt):
        state.apply(5, leaf)
    assert state.root() == root
