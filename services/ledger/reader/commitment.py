"""What ties a statement to its leaf, computed anew from the subject's key K or from a shown pin and opening.

docs/formats.md §7 and §8.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Event
from services.ledger.reader.merkle import U64_LIMIT

STATEMENT_LIMIT = 32 * 1024
TEXT_LIMIT = 512

_KEY_SIZE = 32
_KEK_ID_SIZE = 4
_NONCE_SIZE = 12
_TAG_SIZE = 16
_U32_LIMIT = 1 << 32


@dataclass(frozen=True, slots=True)
class SubjectKeys:
    """The three keys that follow from a subject's K."""

    label_key: bytes
    opening_key: bytes
    payload_key: bytes


def derive(subject_key: bytes) -> SubjectKeys:
    """Derive KL, KO and KP from K (32 bytes)."""
    _require_32("K", subject_key)
    return SubjectKeys(
        label_key=_hmac(subject_key, b"consent-ledger/v1/label-key"),
        opening_key=_hmac(subject_key, b"consent-ledger/v1/opening-key"),
        payload_key=_hmac(subject_key, b"consent-ledger/v1/payload-key"),
    )


def pin(label_key: bytes, origin: str, subject: str) -> bytes:
    """Fingerprint of the subject's key in this log."""
    _require_32("the label key", label_key)
    named = _text("the origin", origin) + b"\x00" + _text("the subject", subject)
    return _hmac(label_key, b"consent-ledger/v1/pin\x00" + named)


def label(label_key: bytes, matter: str) -> bytes:
    """Name of a matter of this subject in the log."""
    _require_32("the label key", label_key)
    return _hmac(label_key, b"consent-ledger/v1/label\x00" + _text("the matter", matter))


def opening(opening_key: bytes, label: bytes, version: int) -> bytes:
    """Secret that opens one commitment."""
    _require_32("the opening key", opening_key)
    _require_32("the label", label)
    return _hmac(opening_key, b"consent-ledger/v1/opening\x00" + label + _u64("the version", version))


def commitment(opening: bytes, pin: bytes, label: bytes, version: int, statement: bytes) -> bytes:
    """Commitment that the statement's leaf must carry."""
    for what, value in (("the opening", opening), ("the pin", pin), ("the label", label)):
        _require_32(what, value)
    if len(statement) > STATEMENT_LIMIT:
        raise Invalid("commitment", "the statement", f"is longer than {STATEMENT_LIMIT} bytes")
    message = opening + pin + label + _u64("the version", version) + statement
    return _hmac(b"consent-ledger/v1/commitment", message)


def verify_commitment(event: Event, pin: bytes, opening: bytes, statement: bytes) -> None:
    """Raise Invalid unless these are the statement, the pin and the opening that the leaf commits to."""
    computed = commitment(opening, pin, event.label, event.version, statement)
    if not hmac.compare_digest(computed, event.commitment):
        raise Invalid("commitment", "the leaf's commitment", "is not that of this statement, pin and opening")


def open_payload(payload_key: bytes, shard: int, index: int, payload: bytes) -> bytes:
    """Decrypt the statement that is stored beside leaf `index` of this shard."""
    _require_32("the payload key", payload_key)
    if not _NONCE_SIZE + _TAG_SIZE <= len(payload) <= _NONCE_SIZE + STATEMENT_LIMIT + _TAG_SIZE:
        raise Invalid("payload", "the payload", "has an impossible length")
    if not 0 <= shard < _U32_LIMIT:
        raise Invalid("payload", "the shard", "is not a u32")
    place = shard.to_bytes(4, "big") + _u64("the index", index)
    return _decrypt("payload", payload_key, payload, place)


def unwrap(keks: Mapping[int, bytes], subject: str, wrapped: bytes) -> bytes:
    """Decrypt a subject's K under the key-encryption key it names."""
    if len(wrapped) != _KEK_ID_SIZE + _NONCE_SIZE + _KEY_SIZE + _TAG_SIZE:
        raise Invalid("wrapped key", "the wrapped key", f"has {len(wrapped)} bytes")
    kek_id = int.from_bytes(wrapped[:_KEK_ID_SIZE], "big")
    kek = keks.get(kek_id)
    if kek is None:
        raise Invalid("wrapped key", "the key-encryption key", f"{kek_id} is not at hand")
    _require_32("the key-encryption key", kek)
    bound = b"consent-ledger/v1/wrap\x00" + _text("the subject", subject)
    return _decrypt("wrapped key", kek, wrapped[_KEK_ID_SIZE:], bound)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _decrypt(step: str, key: bytes, sealed: bytes, bound: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], bound)
    except InvalidTag:
        raise Invalid(step, "the ciphertext", "does not open: wrong key, wrong place, or altered") from None


def _text(what: str, text: str) -> bytes:
    # Zero bytes part the fields of what is hashed, so no field may hold one.
    if not text or len(text) > TEXT_LIMIT or not text.isascii() or not text.isprintable():
        raise Invalid("commitment", what, "is not printable ASCII of reasonable length")
    return text.encode("ascii")


def _u64(what: str, number: int) -> bytes:
    if not 0 <= number < U64_LIMIT:
        raise Invalid("commitment", what, "is not a u64")
    return number.to_bytes(8, "big")


def _require_32(what: str, value: bytes) -> None:
    if len(value) != _KEY_SIZE:
        raise Invalid("commitment", what, f"has not {_KEY_SIZE} bytes")
