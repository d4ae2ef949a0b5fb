"""A tlog-proof holds for one leaf at one place of one signed tree, and is read in one way only."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import leaf_hash, node_hash
from services.ledger.reader.note import Signer, format_note
from services.ledger.reader.proof import format_proof, parse_proof, verify_proof

LEAVES = [b"leaf 0", b"leaf 1", b"leaf 2"]
H0, H1, H2 = (leaf_hash(leaf) for leaf in LEAVES)
ROOT = node_hash(node_hash(H0, H1), H2)
LOG = Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
CHECKPOINT = Checkpoint("example.org/log", 3, ROOT)
NOTE = format_note(CHECKPOINT.text(), [LOG.sign(CHECKPOINT.text())])
PROOF = format_proof(1, [H0, H2], NOTE)


def test_each_leaf_is_proven_at_its_index() -> None:
    for index, hashes in enumerate(([H1, H2], [H0, H2], [node_hash(H0, H1)])):
        proof = format_proof(index, hashes, NOTE)
        assert verify_proof(proof, LEAVES[index], LOG.vkey) == CHECKPOINT
        for elsewhere in {0, 1, 2} - {index}:
            with pytest.raises(Invalid):
                verify_proof(proof, LEAVES[elsewhere], LOG.vkey)


def test_the_layout_is_that_of_the_specification() -> None:
    lines = PROOF.decode().split("\n")
    assert lines[:2] == ["c2sp.org/tlog-proof@v1", "index 1"]
    assert [len(line) for line in lines[2:4]] == [44, 44]
    assert lines[4] == ""
    assert "\n".join(lines[5:]).encode() == NOTE


def test_a_proof_is_read_as_it_was_written() -> None:
    for extra in (None, b"", b"anything"):
        read = parse_proof(format_proof(1, [H0, H2], NOTE, extra))
        assert (read.index, read.hashes, read.checkpoint_note, read.extra) == (1, (H0, H2), NOTE, extra)


def test_extra_data_does_not_count() -> None:
    assert verify_proof(format_proof(1, [H0, H2], NOTE, b"anything"), LEAVES[1], LOG.vkey) == CHECKPOINT


def test_a_tree_of_one_leaf_needs_no_hashes() -> None:
    text = Checkpoint("example.org/log", 1, H0).text()
    proof = format_proof(0, [], format_note(text, [LOG.sign(text)]))
    assert verify_proof(proof, LEAVES[0], LOG.vkey).size == 1


def test_every_flipped_bit_of_a_proof_is_refused() -> None:
    number = int.from_bytes(PROOF, "big")
    for bit in range(8 * len(PROOF)):
        with pytest.raises(Invalid):
            verify_proof((number ^ 1 << bit).to_bytes(len(PROOF), "big"), LEAVES[1], LOG.vkey)


def test_every_cut_of_a_proof_is_refused() -> None:
    for length in range(len(PROOF)):
        with pytest.raises(Invalid):
            verify_proof(PROOF[:length], LEAVES[1], LOG.vkey)


def test_a_proof_under_another_key_is_refused() -> None:
    other = Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(b"\x02" * 32))
    with pytest.raises(Invalid, match="not signed by the given key"):
        verify_proof(PROOF, LEAVES[1], other.vkey)


@pytest.mark.parametrize(
    "proof",
    [
        b"",
        NOTE,
        PROOF.replace(b"@v1", b"@v2"),
        PROOF.replace(b"index 1\n", b""),
        PROOF.replace(b"index 1\n", b"index 1\nindex 1\n"),
        PROOF.replace(b"index 1\n", b"index 01\n"),
        PROOF.replace(b"index 1\n", b"index  1\n"),
        PROOF.replace(b"index 1\n", b"index 18446744073709551616\n"),
        PROOF.replace(b"index 1\n", b"index 1\r\n"),
        PROOF.replace(b"index 1\n", b"index 1\nextra AAAA\n"),
        PROOF.replace(b"index 1\n", b"extra AAAA\nextra AAAA\nindex 1\n"),
        PROOF.replace(b"index 1\n", b"extra AAB=\nindex 1\n"),
        PROOF.replace(b"index 1\n", b"extra\nindex 1\n"),
        PROOF.replace(b"index 1\n", b"index 1\nAAAA\n"),
        PROOF.replace(b"index 1\n", b"index 1\n\n"),
        PROOF.replace(b"index 1\n", "index 1\n\u00e4\n".encode()),
        b"\n" + PROOF,
        PROOF + b"\n",
        format_proof(1, [H0, H2], NOTE, bytes(64 * 1024 + 1)),
        format_proof(1, [H0] * 65, NOTE),
        format_proof(1, [H0, H2, H2], NOTE),
        format_proof(1, [H0], NOTE),
        format_proof(1, [H0, H2], b"x" * 300_000),
    ],
)
def test_what_is_no_proof_of_the_leaf_is_refused(proof: bytes) -> None:
    with pytest.raises(Invalid):
        verify_proof(proof, LEAVES[1], LOG.vkey)
