"""Every published leaf keeps these bytes for ever."""

import hashlib

import pytest

from services.ledger.log.leaf import (
    EVENT_SIZE,
    MAP_ROOT_SIZE,
    erasure_leaf,
    event_leaf,
    leaf_hash,
    map_root_leaf,
    node_hash,
    split_leaves,
)
from shared.errors import Corrupt

LABEL = bytes(range(0x20, 0x40))
COMMITMENT = bytes(range(0xC0, 0xE0))
MAP = bytes(range(0xA0, 0xC0))
RECORDED_AT = 1580895000123  # 2020-02-05T09:30:00.123Z

EVENT_HEX = (
    "01"
    "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
    "0000000000000003"
    "0000000000010002"
    "c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf"
    "0000017014af563b"
)
MAP_ROOT_HEX = (
    "0200000000000003e8a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf000000000000014100000000000003e0"
)
ERASURE_HEX = (
    "03"
    "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
    "0000000000000004"
    "0000000000010003"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000017014af563b"
)


def test_an_event_leaf_has_its_89_pinned_bytes() -> None:
    leaf = event_leaf(LABEL, 3, 0x10002, COMMITMENT, RECORDED_AT)
    assert leaf.hex() == EVENT_HEX
    assert len(leaf) == EVENT_SIZE == 89


def test_a_map_root_leaf_has_its_57_pinned_bytes() -> None:
    leaf = map_root_leaf(1000, MAP, 321, 992)
    assert leaf.hex() == MAP_ROOT_HEX
    assert len(leaf) == MAP_ROOT_SIZE == 57


def test_an_erasure_leaf_has_its_89_pinned_bytes() -> None:
    assert erasure_leaf(LABEL, 4, 0x10003, RECORDED_AT).hex() == ERASURE_HEX


def test_leaf_0_of_every_log_is_the_same() -> None:
    leaf = map_root_leaf(0, bytes(32), 0, 0)
    assert leaf.hex() == "02" + "00" * 56
    assert leaf_hash(leaf).hex() == hashlib.sha256(b"\x00\x02" + bytes(56)).hexdigest()


def test_leaf_and_node_hashes_are_those_of_rfc_9162() -> None:
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_label_commitment_or_map_root_of_another_length_never_becomes_a_leaf(size: int) -> None:
    wrong = bytes(size)
    with pytest.raises(ValueError, match="32 bytes"):
        event_leaf(wrong, 1, 0, COMMITMENT, 0)
    with pytest.raises(ValueError, match="32 bytes"):
        event_leaf(LABEL, 1, 0, wrong, 0)
    with pytest.raises(ValueError, match="32 bytes"):
        erasure_leaf(wrong, 1, 0, 0)
    with pytest.raises(ValueError, match="32 bytes"):
        map_root_leaf(0, wrong, 0, 0)


def test_a_stored_batch_is_split_into_the_leaves_it_was_joined_from() -> None:
    leaves = [bytes.fromhex(text) for text in (EVENT_HEX, ERASURE_HEX, EVENT_HEX, MAP_ROOT_HEX)]
    assert split_leaves(b"".join(leaves)) == leaves
    assert split_leaves(b"") == []


@pytest.mark.parametrize(
    "joined",
    [bytes.fromhex(EVENT_HEX)[:-1], bytes.fromhex(MAP_ROOT_HEX) + b"\x02", b"\x00" + bytes(88), b"\x04" + bytes(88)],
    ids=["cut short", "one byte of another", "type 00", "reserved type 04"],
)
def test_a_stored_batch_that_is_not_made_of_leaves_is_corrupt(joined: bytes) -> None:
    with pytest.raises(Corrupt):
        split_leaves(joined)
