"""The state map: per label its newest leaf, under one root, kept so that a batch of updates costs little.

    T({}) = 32 zero bytes    T({x}) = SHA-256(02 || record)    T(S) = SHA-256(03 || T(left) || T(right))
    record = label 32 || version u64 || last index u64 || leaf hash 32

The top of the trie is a dense heap: node 1 is the root, node j has the children 2j and 2j+1. Its lowest nodes are
buckets, each one `bytes` of the records that lie below it, in order. The map grows by splitting one bucket after the
other into two a level lower (linear hashing), a few with every batch, so no batch ever waits for the whole map.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import groupby

from services.ledger.log.leaf import HASH_SIZE, MAP_ROOT, leaf_hash
from shared.errors import Corrupt

RECORD_SIZE = 80
SLOT_SIZE = RECORD_SIZE + HASH_SIZE  # a bucket keeps each record with its T({x})
LABELS_PER_BUCKET = 3  # on average; fewer cost memory, more cost hashing

_ABSENT = bytes(HASH_SIZE)
# What lies below a node: the number is chosen so that two children that sum to more than one have a hash of their own.
_EMPTY, _SINGLE, _INNER = 0, 1, 2

_LABEL_BITS = 256
_PREFIX_BYTES = 8  # enough of a label to find its bucket
_PREFIX_BITS = 64

_numbers = struct.Struct(">QQ")
_pack_numbers = _numbers.pack
_unpack_numbers = _numbers.unpack_from
_single_context = sha256(b"\x02").copy
_inner_context = sha256(b"\x03").copy


class StateMap:
    """The map of one shard, in the memory of its owner.

    Always inside a batch: what was updated since the last `commit` can be taken back by `undo`.
    After a large map is built, `gc.freeze()` keeps collections from walking its lists.
    """

    __slots__ = ("_before", "_bits", "_blobs", "_kinds", "_labels", "_labels_before", "_nodes", "_split", "_touched")

    def __init__(self, expected: int = 0) -> None:
        """`expected`: how many labels are coming; only speed depends on it."""
        bits = 0
        while expected > LABELS_PER_BUCKET << bits:
            bits += 1
        self._bits = bits  # buckets lie at this depth, as nodes 2^bits to 2^(bits+1)-1 …
        self._split = 1 << bits  # … and those before this node were split: their children are buckets
        self._nodes = [_ABSENT] * (2 << bits)
        self._kinds = bytearray(2 << bits)
        self._blobs = [b""] * (2 << bits)
        self._labels = self._labels_before = 0
        self._touched: set[int] = set()  # buckets that the hashes above do not reflect yet
        self._before: dict[int, bytes] = {}  # buckets changed in this batch, as they were before it

    def __len__(self) -> int:
        return self._labels

    def get(self, label: bytes) -> tuple[int, int, bytes] | None:
        """(version, last index, leaf hash) of a label, or None if nothing was ever said under it."""
        blob = self._blobs[self._bucket(label)]
        at = _find(blob, label)
        if at < 0:
            return None
        version, last_index = _unpack_numbers(blob, at + 32)
        return version, last_index, blob[at + 48 : at + 80]

    def update(self, label: bytes, version: int, last_index: int, leaf_hash: bytes) -> None:
        """Set the newest leaf of a label."""
        if len(label) != HASH_SIZE or len(leaf_hash) != HASH_SIZE:
            raise ValueError("a label and a leaf hash have 32 bytes")
        record = label + _pack_numbers(version, last_index) + leaf_hash
        node = self._bucket(label)
        blob = self._blobs[node]
        self._before.setdefault(node, blob)
        self._touched.add(node)
        at = _find(blob, label)
        if at >= 0:
            self._blobs[node] = blob[:at] + record + _single_hash(record) + blob[at + SLOT_SIZE :]
            return
        at = 0
        while at < len(blob) and blob[at : at + 32] < label:
            at += SLOT_SIZE
        self._blobs[node] = blob[:at] + record + _single_hash(record) + blob[at:]
        self._labels += 1

    def apply(self, index: int, leaf: bytes) -> None:
        """Reflect a stored leaf, as split_leaves gives it; so a log is replayed from index 0 or from a snapshot.

        Corrupt if it is not the next version of its label, or does not point at the one before.
        """
        if leaf[0] == MAP_ROOT:
            return
        label = leaf[1:33]
        version, previous_plus_one = _unpack_numbers(leaf, 33)
        known = self.get(label)
        if (version, previous_plus_one) != ((1, 0) if known is None else (known[0] + 1, known[1] + 1)):
            raise Corrupt("leaf", f"index {index}")
        self.update(label, version, index, leaf_hash(leaf))

    def root(self) -> bytes:
        """T of all labels; hashes only what was touched since the last call."""
        nodes, kinds, blobs = self._nodes, self._kinds, self._blobs
        upper = 2 << self._bits  # the first node below the buckets that were not split
        level = []
        lower = []
        for node in self._touched:
            blob = blobs[node]
            if node < upper:
                level.append(node)
                nodes[node], kinds[node] = _bucket_hash(blob, self._bits)
            else:
                lower.append(node)
                nodes[node], kinds[node] = _bucket_hash(blob, self._bits + 1)
        self._touched.clear()
        parents = {node >> 1 for node in lower}
        self._hash_parents(parents)
        parents.update(level)
        while parents and 1 not in parents:
            parents = {node >> 1 for node in parents}
            self._hash_parents(parents)
        return nodes[1]

    def prove(self, label: bytes) -> tuple[list[bytes], bytes | None]:
        """Where the label leads: the siblings on the way, deepest first, and the record that stands there, or None.

        It is present if the record is its own, else absent (docs/formats.md §22).
        """
        self.root()
        prefix = int.from_bytes(label, "big")
        siblings: list[bytes] = []
        node, depth = 1, 0
        while self._kinds[node] == _INNER and not self._is_bucket(node):
            child = node << 1 | prefix >> _LABEL_BITS - 1 - depth & 1
            siblings.append(self._nodes[child ^ 1])
            node = child
            depth += 1
        while self._kinds[node] == _SINGLE and not self._is_bucket(node):
            node = node << 1 | (self._kinds[node << 1] == _EMPTY)
        blob = self._blobs[node] if self._kinds[node] != _EMPTY else b""
        while len(blob) > SLOT_SIZE:
            ours, other = _sides(blob, depth)
            if label[depth >> 3] & 0x80 >> (depth & 7):
                ours, other = other, ours
            depth += 1
            siblings.append(_bucket_hash(other, depth)[0])
            blob = ours
        siblings.reverse()
        return siblings, blob[:RECORD_SIZE] or None

    def begin(self) -> None:
        """Open a batch; the one before must have been committed or undone."""
        if self._before:
            raise RuntimeError("the last batch was neither committed nor undone")

    def commit(self) -> None:
        """The batch is durable: forget how to take it back, and grow if it is time."""
        self._before.clear()
        self._labels_before = self._labels
        while self._labels > LABELS_PER_BUCKET * self._split:
            self._split_bucket()

    def undo(self) -> None:
        """Take the batch back: every bucket is again what it was at the last commit."""
        for node, blob in self._before.items():
            self._blobs[node] = blob
        self._touched.update(self._before)
        self._before.clear()
        self._labels = self._labels_before

    def records(self) -> Iterator[bytes]:
        """All records as they are now, in the order of their labels: what a snapshot holds. The map may go on
        changing while they are read, for what changes is always another `bytes`."""
        return _records(self._bits, self._split, self._blobs.copy())

    @classmethod
    def rebuild(cls, records: Iterable[bytes], expected: int = 0) -> StateMap:
        """The map of a snapshot, committed; Corrupt if its records are not in strict order.

        Nothing here says that the snapshot is true: compare the root with the MAP_ROOT at its index.
        """
        if not expected:
            records = list(records)
            expected = len(records)
        rebuilt = cls(expected)
        shift = _PREFIX_BITS - rebuilt._bits
        first = 1 << rebuilt._bits

        def bucket(record: bytes) -> int:
            return first | int.from_bytes(record[:_PREFIX_BYTES], "big") >> shift

        last = b""
        for node, below in groupby(records, bucket):
            slots: list[bytes] = []
            for record in below:
                if len(record) != RECORD_SIZE or record[:32] <= last:
                    raise Corrupt("state map record", f"number {rebuilt._labels + len(slots) // 2}")
                last = record[:32]
                slots += (record, _single_hash(record))
            blob = b"".join(slots)
            rebuilt._blobs[node] = blob
            rebuilt._nodes[node], rebuilt._kinds[node] = _bucket_hash(blob, rebuilt._bits)
            rebuilt._labels += len(slots) // 2
        rebuilt._hash_parents(range(first - 1, 0, -1))
        rebuilt.commit()
        return rebuilt

    def _bucket(self, label: bytes) -> int:
        prefix = int.from_bytes(label[:_PREFIX_BYTES], "big")
        shift = _PREFIX_BITS - self._bits
        node = 1 << self._bits | prefix >> shift
        if node < self._split:
            return node << 1 | prefix >> shift - 1 & 1
        return node

    def _is_bucket(self, node: int) -> bool:
        """Whether records lie at this node of the heap, rather than two children."""
        return node >= self._split

    def _hash_parents(self, parents: Iterable[int]) -> None:
        nodes, kinds = self._nodes, self._kinds
        for node in parents:
            left = node << 1
            right = left | 1
            if kinds[left] + kinds[right] > 1:
                context = _inner_context()
                context.update(nodes[left] + nodes[right])
                nodes[node] = context.digest()
                kinds[node] = _INNER
            else:
                # An only label rises unchanged to where its prefix becomes unique.
                alone = right if kinds[right] else left
                nodes[node] = nodes[alone]
                kinds[node] = kinds[alone]

    def _split_bucket(self) -> None:
        """Divide the next bucket in two a level lower; no hash above it changes by this."""
        node = self._split
        if node == 1 << self._bits:
            more = 2 << self._bits
            self._nodes += [_ABSENT] * more
            self._kinds += bytes(more)
            self._blobs += [b""] * more
        left, right = _sides(self._blobs[node], self._bits)
        stale = node in self._touched
        self._touched.discard(node)
        self._blobs[node] = b""
        for child, part in ((2 * node, left), (2 * node + 1, right)):
            self._blobs[child] = part
            if stale:
                self._touched.add(child)
            else:
                self._nodes[child], self._kinds[child] = _bucket_hash(part, self._bits + 1)
        self._split = node + 1
        if self._split == 2 << self._bits:
            self._bits += 1


def _records(bits: int, split: int, blobs: list[bytes]) -> Iterator[bytes]:
    for node in range(1 << bits, 2 << bits):
        for bucket in (2 * node, 2 * node + 1) if node < split else (node,):
            blob = blobs[bucket]
            for at in range(0, len(blob), SLOT_SIZE):
                yield blob[at : at + RECORD_SIZE]


def _find(blob: bytes, label: bytes) -> int:
    """Where the slot of a label begins, or -1."""
    at = blob.find(label)
    # The same 32 bytes may lie inside another field, or across two.
    while at > 0 and at % SLOT_SIZE:
        at = blob.find(label, at + 1)
    return at


def _sides(blob: bytes, depth: int) -> tuple[bytes, bytes]:
    """The records of a bucket whose label has a 0 at this depth, and those with a 1."""
    byte, mask = depth >> 3, 0x80 >> (depth & 7)
    at = 0
    while at < len(blob) and not blob[at + byte] & mask:
        at += SLOT_SIZE
    return blob[:at], blob[at:]


def _single_hash(record: bytes) -> bytes:
    context = _single_context()
    context.update(record)
    return context.digest()


def _inner_hash(left: bytes, right: bytes) -> bytes:
    context = _inner_context()
    context.update(left + right)
    return context.digest()


def _bucket_hash(blob: bytes, depth: int) -> tuple[bytes, int]:
    """T of a bucket's records, all of which share their first `depth` bits, and its kind."""
    count = len(blob) // SLOT_SIZE
    if count == 0:
        return _ABSENT, _EMPTY
    if count == 1:
        return blob[RECORD_SIZE:], _SINGLE
    # From left to right: `current` is the finished subtree, which sits at depth `top`, and `waiting` the left
    # siblings that still lack their right one, each with the bit in which its two sides differ.
    waiting: list[tuple[bytes, int]] = []
    label = int.from_bytes(blob[:32], "big")
    current = blob[RECORD_SIZE:SLOT_SIZE]
    top = _LABEL_BITS
    for at in range(SLOT_SIZE, len(blob), SLOT_SIZE):
        following = int.from_bytes(blob[at : at + 32], "big")
        bit = _LABEL_BITS - (label ^ following).bit_length()
        while waiting and waiting[-1][1] > bit:
            left, parent = waiting.pop()
            current = _inner_hash(left, _raise(current, top, parent + 1, label))
            top = parent
        waiting.append((_raise(current, top, bit + 1, label), bit))
        label = following
        current = blob[at + RECORD_SIZE : at + SLOT_SIZE]
        top = _LABEL_BITS
    while waiting:
        left, parent = waiting.pop()
        current = _inner_hash(left, _raise(current, top, parent + 1, label))
        top = parent
    return _raise(current, top, depth, label), _INNER


def _raise(subtree: bytes, top: int, depth: int, label: int) -> bytes:
    """A subtree that sits at depth `top`, seen from `depth`: an absent sibling at each step between."""
    if top == _LABEL_BITS:
        return subtree  # a single label has no depth
    while top > depth:
        top -= 1
        is_right = label >> (_LABEL_BITS - 1 - top) & 1
        subtree = _inner_hash(_ABSENT, subtree) if is_right else _inner_hash(subtree, _ABSENT)
    return subtree
