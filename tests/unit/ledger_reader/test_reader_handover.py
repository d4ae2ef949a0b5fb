"""A handover holds only if both keys have signed it, and only for whoever trusts one of them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.reader.checkpoint import Checkpoint, verify_checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.handover import FIRST_LINE, Handover, format_handover
from services.ledger.reader.note import Signer, format_note
from services.ledger.reader.policy import parse_log_keys
from services.ledger.reader.verify import kind_of

ORIGIN = "example.org/ledger/log/0"
OLD, NEW, OTHER = (Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2, 3))
ELSEWHERE = Signer("example.org/ledger/log/1", Ed25519PrivateKey.from_private_bytes(b"\x04" * 32))
CHECKPOINT = Checkpoint(ORIGIN, 7, b"\x05" * 32)
NOTE = format_handover(CHECKPOINT, OLD, NEW)
TEXT = NOTE.partition(b"\n\n")[0] + b"\n"


def test_it_holds_for_whoever_trusts_either_key_or_the_list_of_both() -> None:
    for trusted in (OLD.vkey, NEW.vkey, parse_log_keys(f"{NEW.vkey}\n{OLD.vkey} until 9\n".encode()), None):
        handover = Handover(NOTE, trusted)
        handover.verify()
        assert (handover.old, handover.new) == (OLD.vkey, NEW.vkey)
        assert "had 7 leaves" in handover.conclusion
    with pytest.raises(Invalid, match="neither of the two"):
        Handover(NOTE, OTHER.vkey).verify()


def test_it_is_recognised_and_is_no_checkpoint() -> None:
    assert kind_of(NOTE) == "handover"
    with pytest.raises(Invalid):
        verify_checkpoint(NOTE, OLD.vkey)


@pytest.mark.parametrize(
    "note",
    [
        format_note(TEXT, [OLD.sign(TEXT)]),
        format_note(TEXT, [NEW.sign(TEXT)]),
        format_handover(CHECKPOINT, OLD, OLD),
        format_handover(CHECKPOINT, OLD, ELSEWHERE),
        format_note(CHECKPOINT.text(), [OLD.sign(CHECKPOINT.text())]),
    ],
)
def test_without_both_keys_of_the_log_it_says_nothing(note: bytes) -> None:
    with pytest.raises(Invalid):
        Handover(note, OLD.vkey).verify()


def test_lines_that_are_missing_or_more_are_refused() -> None:
    for text in (TEXT + b"more\n", TEXT.partition(b"\n")[2], TEXT.replace(FIRST_LINE.encode(), b"consent-ledger/2")):
        with pytest.raises(Invalid):
            Handover(format_note(text, [OLD.sign(text), NEW.sign(text)]), OLD.vkey).verify()


def test_every_flipped_bit_is_refused() -> None:
    number = int.from_bytes(NOTE, "big")
    for bit in range(8 * len(NOTE)):
        with pytest.raises(Invalid):
            Handover((number ^ 1 << bit).to_bytes(len(NOTE), "big"), OLD.vkey).verify()
