"""Whatever bytes the reader is given, its only error is Invalid."""

import contextlib
import json
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.ledger.reader.checkpoint import Checkpoint, parse_checkpoint, verify_checkpoint
from services.ledger.reader.commitment import open_payload, unwrap
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import parse_leaf
from services.ledger.reader.merkle import leaf_hash, verify_consistency, verify_inclusion
from services.ledger.reader.note import CosignatureVerifier, Signer, Verifier, format_note, parse_note
from services.ledger.reader.proof import format_proof, parse_proof, verify_proof
from services.ledger.reader.vectors import run_vectors

LOG = Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
LEAF = b"a leaf"
TEXT = Checkpoint("example.org/log", 1, leaf_hash(LEAF)).text()
NOTE = format_note(TEXT, [LOG.sign(TEXT)])
PROOF = format_proof(0, [], NOTE)


@st.composite
def mutilated(draw: st.DrawFn, good: bytes) -> bytes:
    """Return good bytes with a few pieces replaced by other bytes."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        data[start:end] = draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"\n", b"\n\n", b" ", b"=", b"+"])))
    return bytes(data)


@given(st.binary(max_size=200))
@example(b"\x01" * 89)
def test_any_bytes_are_a_leaf_or_invalid(data: bytes) -> None:
    with contextlib.suppress(Invalid):
        parse_leaf(data)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=300), mutilated(NOTE)))
def test_any_bytes_are_a_note_or_invalid_and_never_another_checkpoint(data: bytes) -> None:
    with contextlib.suppress(Invalid):
        assert parse_note(data).text.endswith(b"\n")
    with contextlib.suppress(Invalid):
        parse_checkpoint(data)
    with contextlib.suppress(Invalid):
        assert verify_checkpoint(data, LOG.vkey).text() == TEXT


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=300), mutilated(PROOF)))
def test_any_bytes_are_a_proof_or_invalid_and_never_of_another_leaf(data: bytes) -> None:
    with contextlib.suppress(Invalid):
        parse_proof(data)
    with contextlib.suppress(Invalid):
        assert verify_proof(data, LEAF, LOG.vkey).text() == TEXT


@given(st.one_of(st.text(max_size=120), mutilated(LOG.vkey.encode()).map(lambda data: data.decode("latin-1"))))
def test_any_text_is_a_verifier_key_or_invalid(text: str) -> None:
    for verifier in (Verifier, CosignatureVerifier):
        with contextlib.suppress(Invalid):
            assert verifier(text).name


@given(
    st.integers(-1, 2**64),
    st.integers(-1, 2**64),
    st.lists(st.binary(min_size=31, max_size=33) | st.just(bytes(32)), max_size=66),
    st.binary(min_size=32, max_size=32),
)
def test_random_proofs_are_refused(first: int, second: int, proof: list[bytes], root: bytes) -> None:
    accepted = []
    with contextlib.suppress(Invalid):
        verify_inclusion(leaf_hash(b"x"), first, second, proof, root)
        accepted.append("inclusion")
    with contextlib.suppress(Invalid):
        verify_consistency(first, second, proof, leaf_hash(b"x"), root)
        accepted.append("consistency")
    assert accepted == []


@given(st.binary(max_size=100), st.text(max_size=20), st.integers(), st.integers())
def test_any_ciphertext_is_refused(data: bytes, subject: str, shard: int, index: int) -> None:
    opened = []
    with contextlib.suppress(Invalid):
        opened.append(open_payload(bytes(32), shard, index, data))
    with contextlib.suppress(Invalid):
        opened.append(unwrap({0: bytes(32)}, subject, data))
    assert opened == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["inclusion", "consistency", "proof", "leafIdx", "wantErr"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.builds(
        lambda inclusion, consistency: {"inclusion": inclusion, "consistency": consistency}, json_values, json_values
    )
)
def test_any_json_is_a_vectors_file_or_invalid(content: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.json"
        path.write_text(json.dumps(content))
        with contextlib.suppress(Invalid):
            run = run_vectors(path)
            assert len(run.disagreements) == run.cases
