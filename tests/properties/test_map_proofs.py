"""What the writer's map proves, the reader accepts; and no absence is ever forged, nor a presence."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.ledger.log.state_map import StateMap
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import MapRoot
from services.ledger.reader.map_proof import MapRecord, Place, verify_place
from services.ledger.reader.state_map import Map

WORDS = st.integers(0, 2**256 - 1)
PREFIX = int.from_bytes(sha256(b"prefix").digest(), "big")
COVERS = 1_000_000
EMPTY = bytes(32)


@st.composite
def labels(draw: st.DrawFn) -> bytes:
    """Labels that agree with a fixed one in their first bits, often in more than 200, and are arbitrary after."""
    shared = draw(st.one_of(st.just(0), st.integers(0, 255), st.integers(200, 255)))
    below = draw(st.integers(0, (1 << (256 - shared)) - 1))
    return (PREFIX >> (256 - shared) << (256 - shared) | below).to_bytes(32, "big")


def built(known: set[bytes]) -> tuple[StateMap, MapRoot]:
    """The writer's map of these labels, and the MAP_ROOT that the reader's own map gives."""
    writer, reader = StateMap(), Map()
    for index, label in enumerate(sorted(known), 1):
        hashed = sha256(label).digest()
        writer.update(label, index % 7 + 1, index, hashed)
        reader.set(label, index % 7 + 1, index, hashed)
        if index % 5 == 0:
            writer.commit()
    return writer, MapRoot(COVERS, reader.root(), len(known), 0)


def place(writer: StateMap, label: bytes) -> Place:
    siblings, record = writer.prove(label)
    return Place(tuple(siblings), None if record is None else taken_apart(record))


def taken_apart(record: bytes) -> MapRecord:
    numbers = int.from_bytes(record[32:40], "big"), int.from_bytes(record[40:48], "big")
    return MapRecord(record[:32], *numbers, record[48:])


def packed(record: MapRecord) -> bytes:
    return record.label + record.version.to_bytes(8, "big") + record.index.to_bytes(8, "big") + record.leaf_hash


def refused(label: bytes, shown: Place, root: MapRoot) -> bool:
    try:
        verify_place("4", label, shown, root)
    except Invalid:
        return True
    return False


@settings(max_examples=120, deadline=None)
@given(st.sets(labels(), max_size=40), st.lists(labels(), max_size=6))
def test_what_is_proven_of_any_label_of_any_map_is_accepted_and_true(known: set[bytes], strangers: list[bytes]) -> None:
    writer, root = built(known)
    for label in [*known, *strangers]:
        found = verify_place("4", label, place(writer, label), root)
        assert (found is not None) == (label in known)
        if found is not None:
            assert writer.get(label) == (found.version, found.index, found.leaf_hash)


@settings(max_examples=120, deadline=None)
@given(st.sets(labels(), min_size=1, max_size=20), labels(), st.data())
def test_any_flipped_bit_of_any_proof_is_refused(known: set[bytes], stranger: bytes, data: st.DataObject) -> None:
    writer, root = built(known)
    label = data.draw(st.sampled_from([*sorted(known), stranger]))
    shown = place(writer, label)
    whole = b"".join(shown.siblings) + (packed(shown.record) if shown.record else b"")
    assume(whole)
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    flipped = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
    depth = len(shown.siblings)
    siblings = tuple(flipped[32 * number : 32 * number + 32] for number in range(depth))
    assert refused(label, Place(siblings, taken_apart(flipped[32 * depth :]) if shown.record else None), root)


@settings(max_examples=120, deadline=None)
@given(st.sets(labels(), min_size=1, max_size=20), st.data())
def test_no_absence_of_a_present_label_is_believed(known: set[bytes], data: st.DataObject) -> None:
    """A forger has every hash of the map at hand, and every proof of every other label."""
    writer, root = built(known)
    label = data.draw(st.sampled_from(sorted(known)))
    true = place(writer, label)
    others = sorted(known - {label})
    lent = place(writer, data.draw(st.sampled_from(others))) if others else Place((), None)
    hashes = [EMPTY, root.map_root, *true.siblings, *lent.siblings]
    siblings = data.draw(
        st.one_of(
            st.lists(st.sampled_from(hashes), max_size=8).map(tuple),
            st.sampled_from([true.siblings, true.siblings[1:], true.siblings[:-1], lent.siblings, lent.siblings[1:]]),
            st.sampled_from(hashes).map(lambda one: (one, *true.siblings)),
            st.sampled_from(hashes).map(lambda one: (*true.siblings, one)),
        )
    )
    record = data.draw(st.sampled_from([None, lent.record]))
    try:
        found = verify_place("4", label, Place(siblings, record), root)
    except Invalid:
        return
    raise AssertionError(f"believed {found}")


@settings(max_examples=120, deadline=None)
@given(st.sets(labels(), max_size=20), labels(), st.integers(1, 9))
def test_no_presence_of_an_absent_label_is_believed(known: set[bytes], stranger: bytes, version: int) -> None:
    assume(stranger not in known)
    writer, root = built(known)
    true = place(writer, stranger)
    made_up = MapRecord(stranger, version, 3, sha256(stranger).digest())
    for siblings in (true.siblings, true.siblings[1:], (EMPTY, *true.siblings), (root.map_root,), ()):
        assert refused(stranger, Place(tuple(siblings), made_up), root)


def pair(shared: int) -> tuple[bytes, bytes]:
    """Two labels that part at this bit."""
    first = PREFIX & ~(1 << 255 - shared)
    return first.to_bytes(32, "big"), (first | 1 << 255 - shared).to_bytes(32, "big")


@pytest.mark.parametrize("shared", [0, 1, 7, 8, 200, 254, 255])
def test_an_empty_side_is_shown_where_the_path_of_two_relatives_leaves_it(shared: int) -> None:
    known = pair(shared)
    writer, root = built(set(known))
    for depth in range(shared):
        stranger = (int.from_bytes(known[0], "big") ^ 1 << 255 - depth).to_bytes(32, "big")
        shown = place(writer, stranger)
        assert (len(shown.siblings), shown.record) == (depth + 1, None)
        assert verify_place("4", stranger, shown, root) is None
        # The same empty side is not where a relative leads.
        assert refused(known[0], shown, root)
        # Nor is it one if it is called a level deeper or higher than it is.
        assert refused(stranger, Place((EMPTY, *shown.siblings), None), root)
        assert refused(stranger, Place(shown.siblings[1:], None), root)


@pytest.mark.parametrize("shared", [0, 1, 7, 8, 200, 254])
def test_another_leaf_proves_absence_only_where_its_prefix_is_ours_and_its_label_is_not(shared: int) -> None:
    known = pair(shared)
    writer, root = built(set(known))
    for one in known:
        # It has the bits that lead to `one`, and parts from it behind them.
        stranger = (int.from_bytes(one, "big") ^ 1).to_bytes(32, "big")
        shown = place(writer, stranger)
        assert shown.record is not None
        assert shown.record.label == one
        assert verify_place("4", stranger, shown, root) is None
        other = known[0] if one == known[1] else known[1]
        assert refused(other, shown, root)


def test_nothing_but_an_empty_map_is_empty() -> None:
    label = b"\x01" * 32
    empty = MapRoot(1, EMPTY, 0, 0)
    assert verify_place("4", label, Place((), None), empty) is None
    for labels_in_it, map_root in ((1, EMPTY), (2, EMPTY), (0, sha256(b"").digest()), (3, sha256(b"").digest())):
        assert refused(label, Place((), None), MapRoot(COVERS, map_root, labels_in_it, 0))
    # Two empty sides hash to something; a map never has them.
    both = sha256(b"\x03" + EMPTY + EMPTY).digest()
    for labels_in_it in (0, 1, 2, 5):
        assert refused(label, Place((EMPTY,), None), MapRoot(COVERS, both, labels_in_it, 0))
    assert refused(label, Place((EMPTY,), None), empty)


def test_an_only_record_stands_at_the_root_and_nowhere_else() -> None:
    known, stranger = pair(9)
    record = MapRecord(known, 1, 1, sha256(known).digest())
    alone = sha256(b"\x02" + packed(record)).digest()
    root = MapRoot(COVERS, alone, 1, 0)
    assert verify_place("4", known, Place((), record), root) == record
    assert verify_place("4", stranger, Place((), record), root) is None
    for labels_in_it in (0, 2, 7):
        assert refused(known, Place((), record), MapRoot(COVERS, alone, labels_in_it, 0))
    for first_bit in (0, 1):
        side = bytes([first_bit << 7]) + known[1:]
        below = MapRecord(side, 1, 1, record.leaf_hash)
        hashed = sha256(b"\x02" + packed(below)).digest()
        pair_hash = sha256(b"\x03" + (EMPTY + hashed if first_bit else hashed + EMPTY)).digest()
        assert refused(side, Place((EMPTY,), below), MapRoot(COVERS, pair_hash, 1, 0))
        assert refused(side, Place((EMPTY,), below), MapRoot(COVERS, pair_hash, 2, 0))


def test_paths_that_no_map_has_are_refused_by_their_form() -> None:
    known = set(pair(255)) | {bytes(32)}
    writer, root = built(known)
    label = pair(255)[0]
    true = place(writer, label)
    assert len(true.siblings) == 256
    assert verify_place("4", label, true, root) == true.record
    assert true.record is not None
    for siblings in ((*true.siblings, EMPTY), (EMPTY, *true.siblings), true.siblings * 2, (b"",), (bytes(31),) * 3):
        assert refused(label, Place(tuple(siblings), true.record), root)
    for version, index in ((0, 1), (1, COVERS), (1, COVERS + 1), (2**64, 1), (-1, 1), (1, -1)):
        wrong = MapRecord(label, version, index, true.record.leaf_hash)
        assert refused(label, Place(true.siblings, wrong), root)
    for short in (b"", label[:31], label + b"\x00"):
        assert refused(short, true, root)
        assert refused(label, Place(true.siblings, MapRecord(short, 1, 1, bytes(32))), root)
        assert refused(label, Place(true.siblings, MapRecord(label, 1, 1, short)), root)
