"""Read one leaf of the log (docs/formats.md §5)."""

import struct
from dataclasses import dataclass

from services.ledger.reader.errors import Invalid

_EVENT = 0x01
_MAP_ROOT = 0x02
_ERASURE = 0x03

_WORD = struct.Struct(">B32sQQ32sQ")  # EVENT and ERASURE
_ROOT = struct.Struct(">BQ32sQQ")  # MAP_ROOT
_NO_COMMITMENT = bytes(32)


@dataclass(frozen=True, slots=True)
class Event:
    """Something was said on a label; what it was is hidden in the commitment."""

    label: bytes
    version: int
    previous_plus_one: int
    commitment: bytes
    recorded_at: int
    """Milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class MapRoot:
    """The root of the state map over all leaves before this one."""

    covers: int
    map_root: bytes
    labels: int
    previous_plus_one: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """The last word on a label: what was said there can no longer be read."""

    label: bytes
    version: int
    previous_plus_one: int
    recorded_at: int
    """Milliseconds since 1970."""


Leaf = Event | MapRoot | Erasure


def parse_leaf(leaf: bytes) -> Leaf:
    """Take a leaf apart; raise Invalid on a type or a length that docs/formats.md does not know."""
    if not leaf:
        raise Invalid("leaf", "the leaf", "is empty")
    kind = leaf[0]
    if kind == _MAP_ROOT:
        if len(leaf) != _ROOT.size:
            raise Invalid("leaf", "the length of a MAP_ROOT", f"is {len(leaf)}, not {_ROOT.size}")
        _, covers, map_root, labels, previous_plus_one = _ROOT.unpack(leaf)
        return MapRoot(covers, map_root, labels, previous_plus_one)
    if kind not in {_EVENT, _ERASURE}:
        # Skipping what one does not understand would let a log say things behind its auditors' backs.
        raise Invalid("leaf", "the leaf's type", f"{kind:02x} is unknown")
    if len(leaf) != _WORD.size:
        raise Invalid("leaf", "the length of an EVENT or ERASURE", f"is {len(leaf)}, not {_WORD.size}")
    _, label, version, previous_plus_one, commitment, recorded_at = _WORD.unpack(leaf)
    if version == 0:
        raise Invalid("leaf", "the version", "is 0; versions start at 1")
    if kind == _EVENT:
        return Event(label, version, previous_plus_one, commitment, recorded_at)
    if commitment != _NO_COMMITMENT:
        raise Invalid("leaf", "the commitment of an ERASURE", "is not 32 zero bytes")
    return Erasure(label, version, previous_plus_one, recorded_at)
