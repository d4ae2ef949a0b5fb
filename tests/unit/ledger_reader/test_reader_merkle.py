"""Tree and proofs agree with the definitions of RFC 9162, written out by recursion."""

from hashlib import sha256
from itertools import pairwise

import pytest

from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import (
    EMPTY_ROOT,
    Tree,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

SIZES = range(1, 35)


def leaves(size: int) -> list[bytes]:
    return [leaf_hash(index.to_bytes(2, "big")) for index in range(size)]


def split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def naive_root(hashes: list[bytes]) -> bytes:
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = split(len(hashes))
    return sha256(b"\x01" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


def naive_path(index: int, hashes: list[bytes]) -> list[bytes]:
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    if index < k:
        return [*naive_path(index, hashes[:k]), naive_root(hashes[k:])]
    return [*naive_path(index - k, hashes[k:]), naive_root(hashes[:k])]


def naive_consistency(old: int, hashes: list[bytes], *, whole: bool = True) -> list[bytes]:
    if old == len(hashes):
        return [] if whole else [naive_root(hashes)]
    k = split(len(hashes))
    if old <= k:
        return [*naive_consistency(old, hashes[:k], whole=whole), naive_root(hashes[k:])]
    return [*naive_consistency(old - k, hashes[k:], whole=False), naive_root(hashes[:k])]


def test_leaf_and_node_hashes_have_their_own_prefix() -> None:
    assert leaf_hash(b"x") == sha256(b"\x00x").digest()
    assert node_hash(b"a" * 32, b"b" * 32) == sha256(b"\x01" + b"a" * 32 + b"b" * 32).digest()


def test_the_growing_tree_has_the_recursive_root_at_every_size() -> None:
    tree = Tree()
    assert tree.root() == EMPTY_ROOT == naive_root([])
    hashes = leaves(300)
    for size, one in enumerate(hashes, start=1):
        tree.append(one)
        assert tree.size == size
        assert tree.root() == naive_root(hashes[:size])
    assert root_of(hashes) == tree.root()


def test_a_tree_takes_only_hashes() -> None:
    with pytest.raises(Invalid):
        Tree().append(b"short")


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_of_a_tree_is_proven_and_nowhere_else(size: int) -> None:
    hashes = leaves(size)
    root = naive_root(hashes)
    for index in range(size):
        proof = naive_path(index, hashes)
        verify_inclusion(hashes[index], index, size, proof, root)
        for elsewhere in {*range(size + 2), 2**63, 2**64 - 1} - {index}:
            with pytest.raises(Invalid):
                verify_inclusion(hashes[index], elsewhere, size, proof, root)


@pytest.mark.parametrize("size", SIZES)
def test_an_altered_inclusion_proof_is_refused(size: int) -> None:
    hashes = leaves(size)
    root, other = naive_root(hashes), leaf_hash(b"other")
    for index in range(size):
        proof = naive_path(index, hashes)
        wrong: list[tuple[bytes, list[bytes], bytes]] = [
            (other, proof, root),
            (hashes[index], proof, other),
            (hashes[index], [*proof, other], root),
            (hashes[index], [*proof, root], root),
            (hashes[index], [other, *proof], root),
            (hashes[index], [*proof, b""], root),
            (hashes[index][:31], proof, root),
            (hashes[index], proof, root[:31]),
            (b"", [], b""),
        ]
        wrong += [(hashes[index], proof[:at] + proof[at + 1 :], root) for at in range(len(proof))]
        wrong += [(hashes[index], [*proof[:at], other, *proof[at + 1 :]], root) for at in range(len(proof))]
        wrong += [(hashes[index], [*proof[:at], proof[at][:31], *proof[at + 1 :]], root) for at in range(len(proof))]
        for one, path, top in wrong:
            with pytest.raises(Invalid):
                verify_inclusion(one, index, size, path, top)


def test_a_proof_in_another_size_is_refused() -> None:
    # Where the sizes give the leaf the same path, both are right: the size is the checkpoint's word, not the proof's.
    hashes = leaves(8)
    with pytest.raises(Invalid):
        verify_inclusion(hashes[0], 0, 16, naive_path(0, hashes), naive_root(hashes))
    with pytest.raises(Invalid):
        verify_inclusion(hashes[0], 0, 4, naive_path(0, hashes), naive_root(hashes))
    with pytest.raises(Invalid, match="below the size"):
        verify_inclusion(hashes[0], 0, 0, [], EMPTY_ROOT)


@pytest.mark.parametrize(("index", "size"), [(-1, 1), (0, -1), (2**64, 2**64 + 1), (0, 2**64)])
def test_numbers_beyond_u64_are_refused(index: int, size: int) -> None:
    one = leaf_hash(b"")
    with pytest.raises(Invalid, match="u64"):
        verify_inclusion(one, index, size, [], one)
    with pytest.raises(Invalid, match="u64"):
        verify_consistency(index, size, [], one, one)


def test_a_proof_longer_than_any_tree_is_high_is_refused_unread() -> None:
    one = leaf_hash(b"")
    with pytest.raises(Invalid, match="more hashes than"):
        verify_inclusion(one, 0, 2**64 - 1, [one] * 1000, one)


@pytest.mark.parametrize("new", SIZES)
def test_every_older_tree_is_proven_to_be_the_beginning(new: int) -> None:
    hashes = leaves(new)
    for old in range(1, new + 1):
        proof = naive_consistency(old, hashes)
        verify_consistency(old, new, proof, naive_root(hashes[:old]), naive_root(hashes))


@pytest.mark.parametrize("new", SIZES)
def test_an_altered_consistency_proof_is_refused(new: int) -> None:
    hashes = leaves(new)
    root, other = naive_root(hashes), leaf_hash(b"other")
    for old in range(1, new + 1):
        before, proof = naive_root(hashes[:old]), naive_consistency(old, hashes)
        wrong: list[tuple[list[bytes], bytes, bytes]] = [
            (proof, other, root),
            (proof, before, other),
            (proof, before[:31], root),
            (proof, before, root[:31]),
            ([*proof, other], before, root),
            ([other, *proof], before, root),
            ([*proof, root], before, root),
        ]
        wrong += [(proof[:at] + proof[at + 1 :], before, root) for at in range(len(proof))]
        wrong += [([*proof[:at], other, *proof[at + 1 :]], before, root) for at in range(len(proof))]
        wrong += [([*proof[:at], b"", *proof[at + 1 :]], before, root) for at in range(len(proof))]
        for path, first, second in wrong:
            with pytest.raises(Invalid):
                verify_consistency(old, new, path, first, second)


def test_nothing_follows_from_an_empty_tree_or_from_a_bigger_one() -> None:
    hashes = leaves(4)
    root = naive_root(hashes)
    for old, new in ((0, 0), (0, 4)):
        with pytest.raises(Invalid, match="old size"):
            verify_consistency(old, new, [], EMPTY_ROOT, root)
    for smaller, bigger in pairwise(range(1, 5)):
        proof = naive_consistency(smaller, hashes[:bigger])
        with pytest.raises(Invalid, match="old size"):
            verify_consistency(bigger, smaller, proof, naive_root(hashes[:bigger]), naive_root(hashes[:smaller]))


def test_equal_sizes_need_equal_roots_and_no_proof() -> None:
    root, other = naive_root(leaves(5)), naive_root(leaves(6))
    verify_consistency(5, 5, [], root, root)
    with pytest.raises(Invalid, match="differ"):
        verify_consistency(5, 5, [], root, other)
    with pytest.raises(Invalid, match="not empty"):
        verify_consistency(5, 5, [root], root, root)


def test_a_rewritten_history_is_not_consistent() -> None:
    hashes = leaves(9)
    rewritten = [*hashes[:3], leaf_hash(b"rewritten"), *hashes[4:]]
    for old in range(4, 9):
        for path in (naive_consistency(old, hashes), naive_consistency(old, rewritten)):
            with pytest.raises(Invalid):
                verify_consistency(old, 9, path, naive_root(hashes[:old]), naive_root(rewritten))


def test_hashes_left_over_are_refused_even_if_the_roots_were_made_to_fit() -> None:
    h0, h1, h2, h3 = leaves(4)
    surplus = leaf_hash(b"surplus")
    with pytest.raises(Invalid, match="left over"):
        verify_inclusion(h0, 0, 1, [surplus], node_hash(surplus, h0))
    before, after = naive_root([h0, h1, h2]), naive_root([h0, h1, h2, h3])
    path = naive_consistency(3, [h0, h1, h2, h3])
    verify_consistency(3, 4, path, before, after)
    with pytest.raises(Invalid, match="left over"):
        verify_consistency(3, 4, [*path, surplus], node_hash(surplus, before), node_hash(surplus, after))
