"""Where a label leads in the state map: that it is there with this record, or that nothing was ever said under it.

docs/formats.md §22, step 4. A proof of absence is the easier one to forge, so what cannot stand in any map is refused
even where it would lead to the right root.
"""

from dataclasses import dataclass
from hashlib import sha256

from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import MapRoot
from services.ledger.reader.merkle import HASH_SIZE, U64_LIMIT
from services.ledger.reader.strict import Fields

DEPTH_LIMIT = 256
_EMPTY = bytes(HASH_SIZE)


@dataclass(frozen=True, slots=True)
class MapRecord:
    """One record of a state map: the newest version of a label, and its leaf."""

    label: bytes
    version: int
    index: int
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """What a file claims stands where a label leads; nothing is verified by having one."""

    siblings: tuple[bytes, ...]
    """The deepest first."""
    record: MapRecord | None


def parse_place(step: str, fields: Fields) -> Place:
    """Read a place in its JSON form, or raise Invalid."""
    fields.exactly("record", "siblings")
    siblings = tuple(
        Fields(step, "a sibling", {"sibling": one}).base64url("sibling")
        for one in fields.array("siblings", DEPTH_LIMIT)
    )
    if fields.get("record") is None:
        return Place(siblings, None)
    record = fields.object("record").exactly("index", "label", "leaf_hash", "version")
    return Place(
        siblings,
        MapRecord(record.hash("label"), record.decimal("version"), record.decimal("index"), record.hash("leaf_hash")),
    )


def verify_place(step: str, label: bytes, place: Place, leaf: MapRoot) -> MapRecord | None:
    """Return the record of the label in the map of this MAP_ROOT, None if it is absent, or raise Invalid.

    1. Label and siblings have 32 bytes, and there are not more siblings than a label has bits.
    2. There are as many records as the map can have there: none in a map of 0 labels, one and no sibling in a map of 1,
       a sibling in any other.
    3. The deepest sibling is not empty: a record alone below a place stands higher, and two empty sides are none.
    4. A record has a version, a leaf before the MAP_ROOT, and a label that begins with the bits that lead there.
    5. From there upwards, the siblings lead to the map root.
    """
    where = "the place of a label in the state map"
    # 1.
    depth = len(place.siblings)
    if depth > DEPTH_LIMIT or any(len(one) != HASH_SIZE for one in (label, *place.siblings)):
        raise Invalid(step, where, f"is deeper than {DEPTH_LIMIT}, or has a hash that has not {HASH_SIZE} bytes")
    # 2.
    if (place.record is None and depth == 0) != (leaf.labels == 0) or (leaf.labels > 1) != (depth > 0):
        raise Invalid(step, where, f"cannot be in a map of {leaf.labels} labels")
    # 3.
    if place.siblings and place.siblings[0] == _EMPTY:
        raise Invalid(step, where, "has nothing beside it, so it would stand higher")
    computed = _EMPTY
    if place.record is not None:
        record = place.record
        # 4.
        if len(record.label) != HASH_SIZE or len(record.leaf_hash) != HASH_SIZE:
            raise Invalid(step, where, f"has a record whose hashes have not {HASH_SIZE} bytes")
        if not 0 < record.version < U64_LIMIT or not 0 <= record.index < leaf.covers:
            raise Invalid(step, where, "has a record that no leaf before the MAP_ROOT can have made")
        if any(_bit(record.label, at) != _bit(label, at) for at in range(depth)):
            raise Invalid(step, where, "has a record that does not belong there")
        computed = _single(record)
    # 5.
    if _root(label, computed, place.siblings) != leaf.map_root:
        raise Invalid(step, where, "does not lead to the map root")
    return place.record if place.record is not None and place.record.label == label else None


def _single(record: MapRecord) -> bytes:
    """T({x})."""
    numbers = record.version.to_bytes(8, "big") + record.index.to_bytes(8, "big")
    return sha256(b"\x02" + record.label + numbers + record.leaf_hash).digest()


def _root(label: bytes, computed: bytes, siblings: tuple[bytes, ...]) -> bytes:
    """Where what stands at the end of a path leads to, upwards."""
    for at, sibling in zip(reversed(range(len(siblings))), siblings, strict=True):
        pair = sibling + computed if _bit(label, at) else computed + sibling
        computed = sha256(b"\x03" + pair).digest()
    return computed


def _bit(label: bytes, depth: int) -> bool:
    """Bit `depth` of the label, counted from the most significant bit of byte 0."""
    return bool(label[depth >> 3] & (0x80 >> (depth & 7)))
