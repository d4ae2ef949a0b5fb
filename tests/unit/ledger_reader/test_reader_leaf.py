"""Leaves are read exactly, or refused."""

import struct

import pytest

from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Erasure, Event, MapRoot, parse_leaf

LABEL, COMMITMENT, ROOT = b"L" * 32, b"C" * 32, b"R" * 32
EVENT = b"\x01" + LABEL + struct.pack(">QQ", 7, 42) + COMMITMENT + struct.pack(">Q", 1580895000000)
MAP_ROOT = b"\x02" + struct.pack(">Q", 9) + ROOT + struct.pack(">QQ", 5, 4)
ERASURE = b"\x03" + LABEL + struct.pack(">QQ", 8, 43) + bytes(32) + struct.pack(">Q", 1580895000001)


def test_an_event_is_read() -> None:
    assert len(EVENT) == 89
    assert parse_leaf(EVENT) == Event(LABEL, 7, 42, COMMITMENT, 1580895000000)


def test_a_map_root_is_read() -> None:
    assert len(MAP_ROOT) == 57
    assert parse_leaf(MAP_ROOT) == MapRoot(9, ROOT, 5, 4)


def test_an_erasure_is_read() -> None:
    assert parse_leaf(ERASURE) == Erasure(LABEL, 8, 43, 1580895000001)


@pytest.mark.parametrize("kind", [0x00, *range(0x04, 0x100)])
def test_any_other_type_is_refused_in_either_length(kind: int) -> None:
    for leaf in (EVENT, MAP_ROOT):
        with pytest.raises(Invalid, match="is unknown"):
            parse_leaf(bytes([kind]) + leaf[1:])


@pytest.mark.parametrize("leaf", [EVENT, MAP_ROOT, ERASURE])
def test_any_other_length_is_refused(leaf: bytes) -> None:
    for length in (*range(len(leaf)), len(leaf) + 1, 2 * len(leaf), 65535):
        with pytest.raises(Invalid):
            parse_leaf((leaf + bytes(65535))[:length])


def test_version_zero_is_refused() -> None:
    with pytest.raises(Invalid, match="version"):
        parse_leaf(EVENT[:33] + bytes(8) + EVENT[41:])


def test_an_erasure_that_commits_to_something_is_refused() -> None:
    for position in range(49, 81):
        leaf = bytearray(ERASURE)
        leaf[position] = 1
        with pytest.raises(Invalid, match="zero bytes"):
            parse_leaf(bytes(leaf))
