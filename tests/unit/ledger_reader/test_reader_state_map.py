"""The state map agrees with its definition, written out by recursion."""

import random
from hashlib import sha256

import pytest

from services.ledger.reader.errors import Invalid
from services.ledger.reader.state_map import Map, Record

Records = dict[bytes, Record]
HASH = b"\x11" * 32


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


def test_an_empty_map_is_32_zero_bytes() -> None:
    state_map = Map()
    assert state_map.root() == bytes(32)
    assert len(state_map) == 0
    assert state_map.get(bytes(32)) is None


def test_an_only_label_is_the_root() -> None:
    state_map = Map()
    state_map.set(b"L" * 32, 3, 17, HASH)
    assert state_map.root() == sha256(b"\x02" + b"L" * 32 + bytes(7) + b"\x03" + bytes(7) + b"\x11" + HASH).digest()


def test_the_first_bit_is_the_most_significant_of_the_first_byte() -> None:
    state_map = Map()
    state_map.set(b"\x80" + bytes(31), 1, 1, HASH)
    only = state_map.root()
    state_map.set(b"\x7f" + b"\xff" * 31, 1, 2, HASH)
    other = Map()
    other.set(b"\x7f" + b"\xff" * 31, 1, 2, HASH)
    assert state_map.root() == sha256(b"\x03" + other.root() + only).digest()


@pytest.mark.parametrize("shared", [0, 1, 7, 8, 9, 200, 247, 254, 255])
def test_labels_that_share_their_beginning_hang_below_a_chain_of_empty_sides(shared: int) -> None:
    first = 0x5A5A << 240
    second = first ^ (1 << (255 - shared))
    state_map, records = Map(), Records()
    for index, number in enumerate((first, second)):
        label = number.to_bytes(32, "big")
        records[label] = Record(1, index, HASH)
        state_map.set(label, 1, index, HASH)
        assert state_map.root() == naive_root(records)
    assert all(state_map.get(label) == record for label, record in records.items())


def test_histories_of_random_labels_agree_after_every_batch() -> None:
    chance = random.Random(20200205)
    state_map, records = Map(), Records()
    index = 0
    for _ in range(30):
        for _ in range(chance.randrange(1, 30)):
            known = records and chance.random() < 0.5
            label = chance.choice(sorted(records)) if known else chance.randbytes(32)
            version = records[label].version + 1 if label in records else 1
            record = Record(version, index, chance.randbytes(32))
            state_map.set(label, record.version, record.last_index, record.leaf_hash)
            records[label] = record
            index += 1
        assert state_map.root() == naive_root(records)
        assert len(state_map) == len(records)
    assert all(state_map.get(label) == record for label, record in records.items())
    assert all(state_map.get(chance.randbytes(32)) is None for _ in range(100))


def test_the_root_does_not_depend_on_the_order_of_arrival() -> None:
    chance = random.Random(1)
    labels = [chance.randbytes(32) for _ in range(50)]
    roots = set()
    for _ in range(5):
        state_map = Map()
        for label in labels:
            state_map.set(label, 1, label[0], HASH)
        roots.add(state_map.root())
        chance.shuffle(labels)
    assert len(roots) == 1


def test_every_field_of_a_record_changes_the_root() -> None:
    roots = set()
    for label, version, index, leaf_hash in (
        (b"L" * 32, 1, 1, HASH),
        (b"M" * 32, 1, 1, HASH),
        (b"L" * 32, 2, 1, HASH),
        (b"L" * 32, 1, 2, HASH),
        (b"L" * 32, 1, 1, b"\x12" * 32),
    ):
        state_map = Map()
        state_map.set(label, version, index, leaf_hash)
        roots.add(state_map.root())
    assert len(roots) == 5


@pytest.mark.parametrize(
    ("label", "version", "index", "leaf_hash"),
    [
        (b"L" * 31, 1, 1, HASH),
        (b"L" * 33, 1, 1, HASH),
        (b"L" * 32, 1, 1, HASH[:31]),
        (b"L" * 32, -1, 1, HASH),
        (b"L" * 32, 1, 2**64, HASH),
    ],
)
def test_what_is_no_record_is_refused(label: bytes, version: int, index: int, leaf_hash: bytes) -> None:
    state_map = Map()
    with pytest.raises(Invalid):
        state_map.set(label, version, index, leaf_hash)
    assert len(state_map) == 0
