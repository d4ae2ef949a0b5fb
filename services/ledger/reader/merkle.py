"""The log's tree: hashes, roots, and proofs of inclusion and consistency (RFC 9162 §2.1)."""

from collections.abc import Sequence
from hashlib import sha256

from services.ledger.reader.errors import Invalid

HASH_SIZE = 32
U64_LIMIT = 1 << 64
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(00 || leaf)."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Root of the tree over these leaf hashes."""
    tree = Tree()
    for one in hashes:
        tree.append(one)
    return tree.root()


class Tree:
    """A tree that only grows; it keeps the roots of its perfect subtrees and nothing below them."""

    __slots__ = ("_perfect", "size")

    def __init__(self) -> None:
        self.size = 0
        self._perfect: list[bytes] = []

    @classmethod
    def of(cls, size: int, perfect: Sequence[bytes]) -> "Tree":
        """The tree of this size with these roots of its perfect subtrees, biggest first, or raise Invalid."""
        _require_u64("tree", "the size", size)
        if len(perfect) != size.bit_count():
            raise Invalid("tree", "the perfect subtrees", f"are {len(perfect)}, not {size.bit_count()}")
        for one in perfect:
            _require_hash("tree", "a perfect subtree", one)
        tree = cls()
        tree.size, tree._perfect = size, list(perfect)
        return tree

    @property
    def perfect(self) -> tuple[bytes, ...]:
        """Roots of the perfect subtrees, one for each 1 bit of the size, biggest first."""
        return tuple(self._perfect)

    def append(self, one: bytes) -> None:
        """Add a leaf by its hash (32 bytes)."""
        _require_hash("tree", "the leaf hash", one)
        position = self.size
        # Each trailing 1 bit of the old size is a perfect subtree that the new leaf completes into one twice as big.
        while position & 1:
            one = node_hash(self._perfect.pop(), one)
            position >>= 1
        self._perfect.append(one)
        self.size += 1

    def root(self) -> bytes:
        """Root of all leaves so far."""
        if not self._perfect:
            return EMPTY_ROOT
        root = self._perfect[-1]
        for left in reversed(self._perfect[:-1]):
            root = node_hash(left, root)
        return root


def verify_inclusion(one: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Verify that the leaf with this hash stands at this index of the tree (RFC 9162 §2.1.3.2), or raise Invalid.

    1. Index and size are u64, every hash has 32 bytes.
    2. The index is below the size.
    3. From the leaf upwards, each hash of the proof is the sibling; none is left over when the root is reached.
    4. None is missing.
    5. The root so computed is the given root.
    """
    # 1.
    _require_u64("inclusion 1", "the index", index)
    _require_u64("inclusion 1", "the size", size)
    _require_hash("inclusion 1", "the leaf hash", one)
    _require_hash("inclusion 1", "the root", root)
    _require_proof("inclusion 1", proof)
    # 2.
    if index >= size:
        raise Invalid("inclusion 2", "the index", "is not below the size")
    # 3.
    position, last, computed = index, size - 1, one
    for sibling in proof:
        if last == 0:
            raise Invalid("inclusion 3", "the proof", "has hashes left over")
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            # A right edge without sibling on this level rises unchanged until it has one.
            while not position & 1 and position != 0:
                position >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        position >>= 1
        last >>= 1
    # 4.
    if last != 0:
        raise Invalid("inclusion 4", "the proof", "lacks hashes")
    # 5.
    if computed != root:
        raise Invalid("inclusion 5", "the root", "is not the one that leaf and proof lead to")


def verify_consistency(  # noqa: C901, PLR0912 - the eight steps of the RFC, in one piece to be compared with it
    old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Verify that the tree of size `new` begins with the tree of size `old` (RFC 9162 §2.1.4.2), or raise Invalid.

    1. Sizes are u64, every hash has 32 bytes.
    2. 0 < old <= new; nothing follows from an empty tree.
    3. Of equal sizes the roots are equal and the proof is empty; then all is said.
    4. The proof begins at the old tree's last perfect subtree, which is the old root itself if the old size is a
       power of two.
    5. From there upwards each hash extends the new root, and the old one where it stands to the left; none is left
       over.
    6. None is missing.
    7. The old root so computed is the given old root.
    8. The new root so computed is the given new root.
    """
    # 1.
    _require_u64("consistency 1", "the old size", old)
    _require_u64("consistency 1", "the new size", new)
    _require_hash("consistency 1", "the old root", old_root)
    _require_hash("consistency 1", "the new root", new_root)
    _require_proof("consistency 1", proof)
    # 2.
    if not 0 < old <= new:
        raise Invalid("consistency 2", "the old size", "is 0 or above the new one")
    # 3.
    if old == new:
        if proof:
            raise Invalid("consistency 3", "the proof", "is not empty between equal sizes")
        if old_root != new_root:
            raise Invalid("consistency 3", "the roots", "of equal sizes differ")
        return
    # 4.
    position, last = old - 1, new - 1
    while position & 1:
        position >>= 1
        last >>= 1
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        raise Invalid("consistency 4", "the proof", "is empty")
    computed_old = computed_new = path[0]
    # 5.
    for sibling in path[1:]:
        if last == 0:
            raise Invalid("consistency 5", "the proof", "has hashes left over")
        if position & 1 or position == last:
            computed_old = node_hash(sibling, computed_old)
            computed_new = node_hash(sibling, computed_new)
            while not position & 1 and position != 0:
                position >>= 1
                last >>= 1
        else:
            computed_new = node_hash(computed_new, sibling)
        position >>= 1
        last >>= 1
    # 6.
    if last != 0:
        raise Invalid("consistency 6", "the proof", "lacks hashes")
    # 7.
    if computed_old != old_root:
        raise Invalid("consistency 7", "the old root", "is not the one that the proof leads to")
    # 8.
    if computed_new != new_root:
        raise Invalid("consistency 8", "the new root", "is not the one that the proof leads to")


def _require_u64(step: str, what: str, number: int) -> None:
    if not 0 <= number < U64_LIMIT:
        raise Invalid(step, what, "is not a u64")


def _require_hash(step: str, what: str, one: bytes) -> None:
    if len(one) != HASH_SIZE:
        raise Invalid(step, what, f"has {len(one)} bytes, not {HASH_SIZE}")


def _require_proof(step: str, proof: Sequence[bytes]) -> None:
    # A path in a tree of u64 size has at most 64 hashes, a consistency proof one more.
    if len(proof) > 65:
        raise Invalid(step, "the proof", "has more hashes than a tree has levels")
    for one in proof:
        _require_hash(step, "a hash of the proof", one)
