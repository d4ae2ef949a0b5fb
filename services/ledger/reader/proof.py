"""Proofs that a leaf is in a log, to keep and to check offline (docs/formats.md §13; C2SP tlog-proof)."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from services.ledger.reader.checkpoint import Checkpoint, parse_decimal, verify_checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import HASH_SIZE, leaf_hash, verify_inclusion
from services.ledger.reader.note import NOTE_LIMIT, decode_base64
from services.ledger.reader.policy import Policy

EXTRA_LIMIT = 64 * 1024
HASHES_LIMIT = 64
PROOF_LIMIT = NOTE_LIMIT + 2 * EXTRA_LIMIT + 64 * HASHES_LIMIT

_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof taken apart; nothing is verified by that."""

    index: int
    hashes: tuple[bytes, ...]
    """From the leaf's sibling up to the child of the root."""
    checkpoint_note: bytes
    extra: bytes | None
    """Authenticated by nobody."""


def format_proof(index: int, hashes: Sequence[bytes], checkpoint_note: bytes, extra: bytes | None = None) -> bytes:
    """Write a proof."""
    lines = [_HEADER]
    if extra is not None:
        lines.append(f"extra {b64encode(extra).decode()}")
    lines.append(f"index {index}")
    lines.extend(b64encode(one).decode() for one in hashes)
    return "\n".join(lines).encode() + b"\n\n" + checkpoint_note


def parse_proof(data: bytes) -> Proof:
    """Take a proof apart, or raise Invalid.

    1. It is not longer than we read.
    2. The first empty line parts the proof from the checkpoint; before it is ASCII.
    3. The first line names the format.
    4. Then there may be extra data, in canonical base64.
    5. Then the index, a u64 in decimal without leading zeros.
    6. Then at most 64 hashes, each canonical base64 of 32 bytes.
    """
    # 1.
    if len(data) > PROOF_LIMIT:
        raise Invalid("proof 1", "the proof", f"is longer than {PROOF_LIMIT} bytes")
    # 2.
    head, gap, checkpoint_note = data.partition(b"\n\n")
    if not gap:
        raise Invalid("proof 2", "the proof", "has no empty line before a checkpoint")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Invalid("proof 2", "the proof", "is not ASCII before the checkpoint") from None
    lines.reverse()
    # 3.
    if lines.pop() != _HEADER:
        raise Invalid("proof 3", "the first line", f"is not {_HEADER}")
    # 4.
    extra = None
    if lines and lines[-1].startswith("extra "):
        extra = decode_base64("proof 4", "the extra data", lines.pop().removeprefix("extra "))
        if len(extra) > EXTRA_LIMIT:
            raise Invalid("proof 4", "the extra data", f"is longer than {EXTRA_LIMIT} bytes")
    # 5.
    if not lines or not lines[-1].startswith("index "):
        raise Invalid("proof 5", "the proof", "has no index line")
    index = parse_decimal("proof 5", "the index", lines.pop().removeprefix("index "))
    # 6.
    if len(lines) > HASHES_LIMIT:
        raise Invalid("proof 6", "the proof", f"has more than {HASHES_LIMIT} hashes")
    hashes = tuple(decode_base64("proof 6", "a hash", line) for line in reversed(lines))
    if any(len(one) != HASH_SIZE for one in hashes):
        raise Invalid("proof 6", "a hash", f"has not {HASH_SIZE} bytes")
    return Proof(index, hashes, checkpoint_note, extra)


def verify_proof(data: bytes, leaf: bytes, trusted: str | Policy) -> Checkpoint:
    """Verify that the log of this key, or one of this policy, holds this leaf; return the checkpoint that says so.

    1. The proof is well formed.
    2. Its checkpoint is signed by the key, whose name is its origin; or it satisfies the policy.
    3. The leaf is hashed.
    4. The leaf hash is in the checkpoint's tree, at the proof's index.
    """
    # 1.
    proof = parse_proof(data)
    # 2.
    if isinstance(trusted, Policy):
        checkpoint = trusted.verify(proof.checkpoint_note).checkpoint
    else:
        checkpoint = verify_checkpoint(proof.checkpoint_note, trusted)
    # 3.
    hashed = leaf_hash(leaf)
    # 4.
    verify_inclusion(hashed, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return checkpoint
