"""The state map: for each label its last version, as a binary trie whose root commits to all of them.

docs/formats.md §9. A hash is computed when the root is asked for and kept until something below it changes, so a
batch of updates hashes each node above it once.
"""

from dataclasses import dataclass
from hashlib import sha256

from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import HASH_SIZE, U64_LIMIT

EMPTY = bytes(HASH_SIZE)


@dataclass(frozen=True, slots=True)
class Record:
    """The last word on a label: its version, the index of its leaf, and that leaf's hash."""

    version: int
    last_index: int
    leaf_hash: bytes


class _Single:
    """The only label below a place of the trie."""

    __slots__ = ("hash", "label", "record")

    def __init__(self, label: bytes, record: Record) -> None:
        self.label = label
        self.record = record
        self.hash: bytes | None = None


class _Fork:
    """A place of the trie with two labels or more below it; either side may still be empty."""

    __slots__ = ("hash", "left", "right")

    def __init__(self) -> None:
        self.left: _Node | None = None
        self.right: _Node | None = None
        self.hash: bytes | None = None


_Node = _Single | _Fork


class Map:
    """The state map of one log."""

    __slots__ = ("_count", "_top")

    def __init__(self) -> None:
        self._top: _Node | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def set(self, label: bytes, version: int, last_index: int, leaf_hash: bytes) -> None:
        """Make this the record of the label, new or not."""
        if len(label) != HASH_SIZE or len(leaf_hash) != HASH_SIZE:
            raise Invalid("state map", "label or leaf hash", f"has not {HASH_SIZE} bytes")
        if not (0 <= version < U64_LIMIT and 0 <= last_index < U64_LIMIT):
            raise Invalid("state map", "version or index", "is not a u64")
        self._top = self._place(self._top, _Single(label, Record(version, last_index, leaf_hash)), 0)

    def get(self, label: bytes) -> Record | None:
        """Return the record of the label, or None if it was never set."""
        node, depth = self._top, 0
        while isinstance(node, _Fork):
            node = node.right if _bit(label, depth) else node.left
            depth += 1
        return node.record if node is not None and node.label == label else None

    def root(self) -> bytes:
        """T of all records."""
        return _hash(self._top)

    def _place(self, node: "_Node | None", single: _Single, depth: int) -> "_Node":
        """Return what stands at this place once the label is there too. At most 256 calls deep: one for each bit."""
        if node is None:
            self._count += 1
            return single
        if isinstance(node, _Single):
            if node.label == single.label:
                return single
            fork = _Fork()
            if _bit(node.label, depth):
                fork.right = node
            else:
                fork.left = node
        else:
            fork = node
            fork.hash = None
        if _bit(single.label, depth):
            fork.right = self._place(fork.right, single, depth + 1)
        else:
            fork.left = self._place(fork.left, single, depth + 1)
        return fork


def _bit(label: bytes, depth: int) -> int:
    """Bit `depth` of the label, counted from the most significant bit of byte 0; any non-zero number is a 1."""
    return label[depth >> 3] & (0x80 >> (depth & 7))


def _hash(node: _Node | None) -> bytes:
    if node is None:
        return EMPTY
    if node.hash is None:
        if isinstance(node, _Single):
            record = node.record
            numbers = record.version.to_bytes(8, "big") + record.last_index.to_bytes(8, "big")
            node.hash = sha256(b"\x02" + node.label + numbers + record.leaf_hash).digest()
        else:
            node.hash = sha256(b"\x03" + _hash(node.left) + _hash(node.right)).digest()
    return node.hash
