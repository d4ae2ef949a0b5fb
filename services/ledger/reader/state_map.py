"""The state map: for each label its last version, as a binary trie whose root commits to all of them.

docs/formats.md §9. The top of the trie is an array, node j with the children 2j and 2j+1, so that a label's place is
found by its first bits; below it are forks, and at the bottom a few records each, in the order of their labels. A hash
is computed when the root is asked for and kept until something below it changes, so a batch of updates hashes each
node above it once.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import HASH_SIZE

EMPTY = bytes(HASH_SIZE)
RECORD_SIZE = 80
"""label 32 || version u64 || last index u64 || leaf hash 32"""

_SLOT = RECORD_SIZE + HASH_SIZE  # a record and its T({x})
_MOST = 4 * _SLOT  # more than these below one place make it a fork; fewer would cost memory, more would cost hashing
_TOP_BITS = 16  # at a million labels some 15 below each place of the array
_PLACES = 1 << _TOP_BITS
_BELOW = 8 * HASH_SIZE - 1 - _TOP_BITS  # the first bit that the array does not decide, counted from the last

_numbers = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class Record:
    """The last word on a label: its version, the index of its leaf, and that leaf's hash."""

    version: int
    last_index: int
    leaf_hash: bytes


class _Few:
    """A place with at most a few records below it; `slots` are joined, in the order of their labels."""

    __slots__ = ("hash", "slots")

    def __init__(self, slots: bytes) -> None:
        self.slots = slots
        self.hash: bytes | None = None


class _Fork:
    """A place with more records below it; either side may still be empty."""

    __slots__ = ("hash", "left", "right")

    def __init__(self, left: "_Node", right: "_Node") -> None:
        self.left = left
        self.right = right
        self.hash: bytes | None = None

    def put(self, side: int, node: "_Node") -> None:
        """Place a node on a side: 0 left, 1 right."""
        if side:
            self.right = node
        else:
            self.left = node


_Node = _Few | _Fork


class Map:
    """The state map of one log."""

    __slots__ = ("_before", "_count", "_hashes", "_labels", "_places", "_taken", "_touched")

    def __init__(self) -> None:
        self._count = 0
        self._places: list[_Node | None] = [None] * _PLACES
        self._hashes = [EMPTY] * (2 * _PLACES)
        self._labels = bytearray(2 * _PLACES)
        """How many labels are below each node of the array: 0, 1, or 2 for all more."""
        self._touched: set[int] = set()
        self._before: dict[int, bytes] | None = None
        """While a snapshot is taken: the records of places as they were when it began, if they changed since."""
        self._taken = 0
        """Places before this one are in the snapshot already."""

    def __len__(self) -> int:
        return self._count

    def set(self, label: bytes, version: int, last_index: int, leaf_hash: bytes) -> None:
        """Make this the record of the label, new or not."""
        if len(label) != HASH_SIZE or len(leaf_hash) != HASH_SIZE:
            raise Invalid("state map", "label or leaf hash", f"has not {HASH_SIZE} bytes")
        try:
            slot = _slot(label + _numbers.pack(version, last_index) + leaf_hash)
        except struct.error:
            raise Invalid("state map", "version or index", "is not a u64") from None
        place = label[0] << 8 | label[1]
        self._touched.add(place)
        node = self._places[place]
        if self._before is not None and place >= self._taken and place not in self._before:
            self._before[place] = b"".join(_below(node))
        if node is None:
            self._places[place] = _Few(slot)
            self._count += 1
            return
        bits, shift, parent = int.from_bytes(label, "big"), _BELOW, None
        while isinstance(node, _Fork):
            node.hash, parent = None, node
            node = node.right if bits >> shift & 1 else node.left
            shift -= 1
        slots = node.slots
        at = 0
        while at < len(slots) and slots[at : at + HASH_SIZE] < label:
            at += _SLOT
        node.hash = None
        if slots[at : at + HASH_SIZE] == label:
            node.slots = slots[:at] + slot + slots[at + _SLOT :]
            return
        self._count += 1
        node.slots = slots = slots[:at] + slot + slots[at:]
        if len(slots) > _MOST:
            fork = _node(slots, shift)
            if parent is None:
                self._places[place] = fork
            else:
                parent.put(bits >> shift + 1 & 1, fork)

    def get(self, label: bytes) -> Record | None:
        """Return the record of the label, or None if it was never set."""
        found = self.last(label)
        return None if found is None else Record(*found)

    def last(self, label: bytes) -> tuple[int, int, bytes] | None:
        """As `get`, but a plain tuple: for who asks about every leaf of a log."""
        node = self._places[label[0] << 8 | label[1]]
        if isinstance(node, _Fork):
            bits, shift = int.from_bytes(label, "big"), _BELOW
            while isinstance(node, _Fork):
                node = node.right if bits >> shift & 1 else node.left
                shift -= 1
        if node is None:
            return None
        slots = node.slots
        for at in range(0, len(slots), _SLOT):
            if slots[at : at + HASH_SIZE] == label:
                version, last_index = _numbers.unpack_from(slots, at + HASH_SIZE)
                return version, last_index, slots[at + 48 : at + RECORD_SIZE]
        return None

    def root(self) -> bytes:
        """T of all records."""
        hashes, labels = self._hashes, self._labels
        for place in self._touched:
            node = self._places[place]
            if node is not None:
                hashes[_PLACES + place] = node.hash or _hash(node, _BELOW)
                labels[_PLACES + place] = 1 if isinstance(node, _Few) and len(node.slots) == _SLOT else 2
        parents = {_PLACES + place >> 1 for place in self._touched}
        self._touched.clear()
        while parents and 0 not in parents:
            for parent in parents:
                left = 2 * parent
                if labels[left] + labels[left + 1] > 1:
                    hashes[parent] = sha256(b"\x03" + hashes[left] + hashes[left + 1]).digest()
                    labels[parent] = 2
                else:
                    # An only label rises unchanged to where its prefix becomes unique.
                    alone = left if labels[left] else left + 1
                    hashes[parent], labels[parent] = hashes[alone], labels[alone]
            parents = {parent >> 1 for parent in parents}
        return hashes[1]

    def records(self) -> Iterator[bytes]:
        """Every record, 80 bytes each, in the order of their labels; the map must not change meanwhile."""
        for place in self._places:
            yield from _below(place)

    def snapshot(self) -> Iterator[bytes]:
        """The records as they are now, some joined at a time; the map may go on changing while they are read. Of two
        snapshots at once, the first would be neither."""
        self._before, self._taken = {}, 0
        return self._snapshot(self._before)

    def _snapshot(self, before: dict[int, bytes]) -> Iterator[bytes]:
        try:
            for place in range(_PLACES):
                found = before.pop(place, None)
                if found is None:
                    found = b"".join(_below(self._places[place]))
                self._taken = place + 1
                if found:
                    yield found
        finally:
            if self._before is before:
                self._before = None

    @classmethod
    def of(cls, records: Iterable[bytes]) -> "Map":
        """The map of such records, or Invalid if they are not in strict order. Compare its root: they may be untrue."""
        made = cls()
        last, place, slots = b"", -1, list[bytes]()
        for record in records:
            if len(record) != RECORD_SIZE or record[:HASH_SIZE] <= last:
                raise Invalid("state map", f"record {made._count}", "is not in order, or no record")
            last = record[:HASH_SIZE]
            if place != (place := last[0] << 8 | last[1]) and slots:
                made._put(slots)
                slots = []
            slots.append(_slot(record))
            made._count += 1
        if slots:
            made._put(slots)
        return made

    def _put(self, slots: list[bytes]) -> None:
        place = slots[0][0] << 8 | slots[0][1]
        self._places[place] = _node(b"".join(slots), _BELOW)
        self._touched.add(place)


def _below(node: _Node | None) -> Iterator[bytes]:
    waiting = [] if node is None else [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _Fork):
            waiting += (node.right, node.left)
        else:
            for at in range(0, len(node.slots), _SLOT):
                yield node.slots[at : at + RECORD_SIZE]


def _slot(record: bytes) -> bytes:
    """A record and its T({x})."""
    return record + sha256(b"\x02" + record).digest()


def _node(slots: bytes, shift: int) -> _Node:
    """What stands at a place for these records, which agree in all bits before this one."""
    if len(slots) <= _MOST:
        return _Few(slots)
    at = _first_right(slots, shift)
    return _Fork(_node(slots[:at], shift - 1), _node(slots[at:], shift - 1))


def _first_right(slots: bytes, shift: int) -> int:
    """Where the first record lies whose label has a 1 in this bit; they are in order."""
    byte, mask = HASH_SIZE - 1 - (shift >> 3), 1 << (shift & 7)
    at = 0
    while at < len(slots) and not slots[at + byte] & mask:
        at += _SLOT
    return at


def _hash(node: _Node, shift: int) -> bytes:
    """T of what stands at a place, all of whose labels agree in the bits before this one."""
    if isinstance(node, _Fork):
        # Most are known: asked before the call, since a call costs half a hash.
        left = node.left.hash or _hash(node.left, shift - 1)
        node.hash = sha256(b"\x03" + left + (node.right.hash or _hash(node.right, shift - 1))).digest()
    else:
        node.hash = _of_few(node.slots, shift)
    return node.hash


def _of_few(slots: bytes, shift: int) -> bytes:
    if len(slots) <= _SLOT:
        return slots[RECORD_SIZE:] or EMPTY
    at = _first_right(slots, shift)
    return sha256(b"\x03" + _of_few(slots[:at], shift - 1) + _of_few(slots[at:], shift - 1)).digest()
