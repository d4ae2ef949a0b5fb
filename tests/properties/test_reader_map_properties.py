"""Whatever history the state map sees, its root is that of the definition."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ledger.reader.errors import Invalid
from services.ledger.reader.state_map import Map, Record

Records = dict[bytes, Record]

# Labels that agree with a fixed one in their first bits, often in more than 200, and are arbitrary after.
PREFIX = int.from_bytes(sha256(b"prefix").digest(), "big")


@st.composite
def labels(draw: st.DrawFn) -> bytes:
    shared = draw(st.one_of(st.integers(0, 255), st.integers(200, 255)))
    below = draw(st.integers(0, (1 << (256 - shared)) - 1))
    return (PREFIX >> (256 - shared) << (256 - shared) | below).to_bytes(32, "big")


def naive_root(records: Records, depth: int = 0) -> bytes:
    if not records:
        return bytes(32)
    if len(records) == 1:
        ((label, record),) = records.items()
        numbers = record.version.to_bytes(8, "big") + record.last_index.to_bytes(8, "big")
        return sha256(b"\x02" + label + numbers + record.leaf_hash).digest()
    sides: tuple[Records, Records] = ({}, {})
    for label, record in records.items():
        sides[int.from_bytes(label, "big") >> (255 - depth) & 1][label] = record
    return sha256(b"\x03" + naive_root(sides[0], depth + 1) + naive_root(sides[1], depth + 1)).digest()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(labels(), max_size=8), max_size=6))
def test_the_root_is_that_of_the_recursive_definition_after_every_batch(batches: list[list[bytes]]) -> None:
    state_map, records = Map(), Records()
    index = 0
    for batch in batches:
        for label in batch:
            version = records[label].version + 1 if label in records else 1
            record = Record(version, index, sha256(index.to_bytes(8, "big")).digest())
            state_map.set(label, record.version, record.last_index, record.leaf_hash)
            records[label] = record
            index += 1
        assert state_map.root() == naive_root(records)
        assert len(state_map) == len(records)
    for label, record in records.items():
        assert state_map.get(label) == record
    kept = list(state_map.records())
    assert [one[:32] for one in kept] == sorted(records)
    again = Map.of(kept)
    assert (again.root(), len(again), list(again.records())) == (state_map.root(), len(records), kept)


@settings(max_examples=50, deadline=None)
@given(st.sets(labels(), min_size=1, max_size=12), labels())
def test_a_label_that_was_never_set_has_no_record(known: set[bytes], stranger: bytes) -> None:
    state_map = Map()
    for label in known - {stranger}:
        state_map.set(label, 1, 1, bytes(32))
    assert state_map.get(stranger) is None


@settings(max_examples=20, deadline=None)
@given(st.lists(labels(), min_size=2, max_size=6, unique=True), st.data())
def test_records_that_are_not_in_strict_order_make_no_map(known: list[bytes], data: st.DataObject) -> None:
    in_order = [label + bytes(48) for label in sorted(known)]
    spoilt = data.draw(
        st.sampled_from([in_order[::-1], [*in_order, in_order[-1]], [*in_order[:-1], in_order[-1][:-1]]])
    )
    with pytest.raises(Invalid, match="not in order"):
        Map.of(spoilt)


@settings(max_examples=60, deadline=None)
@given(st.lists(labels() | st.binary(min_size=32, max_size=32), max_size=30), st.lists(st.integers(0, 3), max_size=40))
def test_a_snapshot_is_the_map_as_it_was_when_it_began(known: list[bytes], steps: list[int]) -> None:
    state_map = Map()
    for index, label in enumerate(known[: len(known) // 2]):
        state_map.set(label, 1, index, bytes(32))
    expected = list(state_map.records())
    snapshot, taken = state_map.snapshot(), b""
    later = iter(known)
    for step in steps:
        if step == 0:
            taken += next(snapshot, b"")
        elif (label := next(later, None)) is not None:
            state_map.set(label, 2, 99, b"x" * 32)
    taken += b"".join(snapshot)
    assert [taken[at : at + 80] for at in range(0, len(taken), 80)] == expected
    assert b"".join(state_map.snapshot()) == b"".join(state_map.records())
