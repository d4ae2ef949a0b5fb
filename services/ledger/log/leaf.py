"""Leaves: the bytes that are hashed into the log, and the two hashes of RFC 9162 §2.1."""

import struct
from hashlib import sha256

from shared.errors import Corrupt

EVENT = 0x01
MAP_ROOT = 0x02
ERASURE = 0x03

EVENT_SIZE = 89
MAP_ROOT_SIZE = 57
HASH_SIZE = 32

_SIZES = {EVENT: EVENT_SIZE, MAP_ROOT: MAP_ROOT_SIZE, ERASURE: EVENT_SIZE}
_ZERO = bytes(HASH_SIZE)

_about_label = struct.Struct(">B32sQQ32sQ").pack
_about_map = struct.Struct(">BQ32sQQ").pack

# Copying a hash object that has already read its prefix is faster than making one, and joins no bytes.
_leaf_context = sha256(b"\x00").copy
_node_context = sha256(b"\x01").copy


def event_leaf(label: bytes, version: int, previous_plus_one: int, commitment: bytes, recorded_at: int) -> bytes:
    """The leaf of a statement; `recorded_at` in milliseconds since 1970."""
    _expect_hashes(label, commitment)
    return _about_label(EVENT, label, version, previous_plus_one, commitment, recorded_at)


def erasure_leaf(label: bytes, version: int, previous_plus_one: int, recorded_at: int) -> bytes:
    """The last leaf that a label ever has."""
    _expect_hashes(label)
    return _about_label(ERASURE, label, version, previous_plus_one, _ZERO, recorded_at)


def map_root_leaf(covers: int, map_root: bytes, labels: int, previous_plus_one: int) -> bytes:
    """The leaf that ends a batch; `covers` is its own index, which is how many leaves the map reflects."""
    _expect_hashes(map_root)
    return _about_map(MAP_ROOT, covers, map_root, labels, previous_plus_one)


def split_leaves(joined: bytes) -> list[bytes]:
    """The leaves of one stored batch, whose sizes follow from their types; Corrupt if it is not made of leaves."""
    leaves = []
    at = 0
    while at < len(joined):
        size = _SIZES.get(joined[at])
        if size is None or at + size > len(joined):
            raise Corrupt("leaf", f"byte {at} of a stored batch")
        leaves.append(joined[at : at + size])
        at += size
    return leaves


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(00 || leaf), RFC 9162 §2.1.1."""
    context = _leaf_context()
    context.update(leaf)
    return context.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(01 || left || right), RFC 9162 §2.1.1."""
    context = _node_context()
    context.update(left)
    context.update(right)
    return context.digest()


def _expect_hashes(*values: bytes) -> None:
    # struct would silently cut or pad a value of another length, and the leaf would be fixed for ever.
    for value in values:
        if len(value) != HASH_SIZE:
            raise ValueError("a label, commitment or map root has 32 bytes")
