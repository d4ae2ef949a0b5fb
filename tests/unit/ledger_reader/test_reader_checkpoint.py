"""A checkpoint is exactly three lines, signed by the key that bears the log's name."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.reader.checkpoint import Checkpoint, parse_checkpoint, verify_checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import Signer, format_note

ORIGIN = "example.org/ledger/log/0"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
LOG = Signer(ORIGIN, KEY)
ROOT = bytes(range(32))
CHECKPOINT = Checkpoint(ORIGIN, 3, ROOT)
TEXT = b"example.org/ledger/log/0\n3\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"


def signed(text: bytes) -> bytes:
    return format_note(text, [LOG.sign(text)])


def test_a_checkpoint_is_written_and_read() -> None:
    assert CHECKPOINT.text() == TEXT
    assert parse_checkpoint(TEXT) == CHECKPOINT
    assert parse_checkpoint(Checkpoint(ORIGIN, 2**64 - 1, ROOT).text()).size == 2**64 - 1


def test_a_signed_checkpoint_verifies() -> None:
    assert verify_checkpoint(signed(TEXT), LOG.vkey) == CHECKPOINT


def test_every_flipped_bit_of_a_signed_checkpoint_is_refused() -> None:
    good = signed(TEXT)
    number = int.from_bytes(good, "big")
    for bit in range(8 * len(good)):
        with pytest.raises(Invalid):
            verify_checkpoint((number ^ 1 << bit).to_bytes(len(good), "big"), LOG.vkey)


WRONG_TEXTS = [
    b"",
    b"\n",
    TEXT[:-1],
    TEXT + b"\n",
    TEXT + b"an extension line\n",
    TEXT.replace(b"\n3\n", b"\n"),
    TEXT.replace(b"\n3\n", b"\n03\n"),
    TEXT.replace(b"\n3\n", b"\n+3\n"),
    TEXT.replace(b"\n3\n", b"\n-3\n"),
    TEXT.replace(b"\n3\n", b"\n 3\n"),
    TEXT.replace(b"\n3\n", b"\n\n"),
    TEXT.replace(b"\n3\n", b"\n0x3\n"),
    TEXT.replace(b"\n3\n", b"\n1_000\n"),
    TEXT.replace(b"\n3\n", b"\n18446744073709551616\n"),
    TEXT.replace(b"\n3\n", b"\n" + b"9" * 5000 + b"\n"),
    TEXT.replace(b"\n3\n", "\n\u0663\n".encode()),
    TEXT.replace(b"\n3\n", b"\n\xff\n"),
    TEXT.replace(b"Hh8=", b"Hh9="),
    TEXT.replace(b"Hh8=", b"Hh8"),
    TEXT.replace(b"Hh8=", b"HQ=="),
    TEXT.replace(b"Hh8=", b"Hh8gISI="),
    b"\n3\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    TEXT.replace(b"example.org", b"example org"),
    TEXT.replace(b"example.org", b"example+org"),
    TEXT.replace(b"example.org", b"e" * 256),
]


@pytest.mark.parametrize("text", WRONG_TEXTS)
def test_another_text_is_refused(text: bytes) -> None:
    with pytest.raises(Invalid, match="checkpoint"):
        parse_checkpoint(text)


@pytest.mark.parametrize("text", [text for text in WRONG_TEXTS if text.endswith(b"\n")])
def test_another_text_is_refused_though_signed(text: bytes) -> None:
    with pytest.raises(Invalid, match=r"checkpoint|note 2"):
        verify_checkpoint(signed(text), LOG.vkey)


def test_a_checkpoint_of_another_log_is_refused_though_the_key_signed_it() -> None:
    text = Checkpoint("example.org/ledger/log/1", 3, ROOT).text()
    with pytest.raises(Invalid, match="not the name of the key"):
        verify_checkpoint(signed(text), LOG.vkey)


def test_a_checkpoint_of_nothing_is_refused() -> None:
    text = Checkpoint(ORIGIN, 0, ROOT).text()
    with pytest.raises(Invalid, match="is 0"):
        verify_checkpoint(signed(text), LOG.vkey)


def test_a_checkpoint_signed_by_another_key_of_the_same_name_is_refused() -> None:
    other = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"\x02" * 32))
    with pytest.raises(Invalid, match="not signed by the given key"):
        verify_checkpoint(format_note(TEXT, [other.sign(TEXT)]), LOG.vkey)
