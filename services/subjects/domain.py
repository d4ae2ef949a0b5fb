"""The cryptography of subjects, as pure functions: index, compartments, wrapping. Formats: docs/formats.md, §16.

Nothing here draws randomness or knows a database: keys and nonces are arguments.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import Refused

ACTIVITY: Final = "newsletter"
"""Whose data it holds: what it states of an erasure is stated for this."""
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
EVERYTHING: Final = "*"

EVIDENCE: Final = "evidence"
BRIEF: Final = "brief"
CONTENT: Final = "content"

_COMPARTMENT: Final = b"consent-ledger/v1/compartment"
_KEY: Final = b"consent-ledger/v1/key"
_SEAL: Final = b"consent-ledger/v1/seal"
_PLAINTEXT: Final = b"consent-ledger/v1/plaintext"
_CONTACT_POINT: Final = b"consent-ledger/v1/contact-point"
_SUBJECT_KEY: Final = b"consent-ledger/v1/subject-key"
_SUPPRESSION: Final = b"consent-ledger/v1/suppression"
_PEPPER: Final = b"consent-ledger/v1/pepper"


class DoesNotOpen(Refused):
    """This ciphertext was not sealed for this subject, statement and compartment, or it was changed since."""

    def __init__(self) -> None:
        super().__init__("does-not-open", str(self.__doc__), status=422)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _prefixed(*parts: str) -> bytes:
    """Each part as u32 length and UTF-8 bytes, so that no two lists of parts give the same bytes."""
    encoded = [part.encode("utf-8") for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def _derive(key: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)


def index_digest(pepper: bytes, controller: str, kind: str, normalised: str) -> bytes:
    """Under which a contact point is found: HMAC-SHA-256(pepper, controller, kind, normalised value)."""
    return _hmac(pepper, _prefixed(controller, kind, normalised))


def suppression_digest(pepper: bytes, index: bytes, purpose: str, channel: str) -> bytes:
    """Under which a suppression is found. Its input starts with a letter and the index's with a length below 2^24,
    so the two uses of a pepper never meet."""
    return _hmac(pepper, _SUPPRESSION + b"\x00" + index + _prefixed(purpose, channel))


def pepper_fingerprint(pepper: bytes) -> bytes:
    """Tells whether a file still holds the pepper that the database was written with."""
    return _hmac(pepper, _PEPPER)


def use_of(compartment: str) -> str:
    """Which of the subject's keys a compartment hangs on: mails waiting on the content key, all else on evidence."""
    return CONTENT if compartment == BRIEF else EVIDENCE


def compartment_key(key: bytes, compartment: str, statement: str) -> bytes:
    """The key of one compartment of one statement; the only kind of key that is ever disclosed."""
    return _derive(key, b"\x00".join((_COMPARTMENT, compartment.encode("ascii"), statement.encode("ascii"))))


def key_hash(key: bytes) -> bytes:
    """AES-GCM does not commit to its key; this hash beside the ciphertext does."""
    return hashlib.sha256(_KEY + key).digest()


def _associated(subject: str, compartment: str, statement: str) -> bytes:
    return b"\x00".join((_SEAL, subject.encode("ascii"), compartment.encode("ascii"), statement.encode("ascii")))


def seal(key: bytes, subject: str, compartment: str, statement: str, nonce: bytes, plaintext: bytes) -> bytes:
    """nonce 12 || ciphertext || tag 16 under a compartment's key."""
    return nonce + AESGCM(key).encrypt(nonce, plaintext, _associated(subject, compartment, statement))


def unseal(key: bytes, subject: str, compartment: str, statement: str, sealed: bytes, expected: bytes) -> bytes:
    """The plaintext, if `expected` is this key's hash and the ciphertext is its own; raises DoesNotOpen."""
    if not hmac.compare_digest(key_hash(key), expected) or len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise DoesNotOpen
    try:
        return AESGCM(key).decrypt(
            sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _associated(subject, compartment, statement)
        )
    except InvalidTag:
        raise DoesNotOpen from None


def plaintext_mac(key: bytes, compartment: str, statement: str, plaintext: bytes) -> bytes:
    """What is stored to recognise the same plaintext again. Keyed, because an address is easily guessed; by the
    subject's key, so that it is worthless once that is destroyed."""
    message = b"\x00".join((compartment.encode("ascii"), statement.encode("ascii"), hashlib.sha256(plaintext).digest()))
    return _hmac(_derive(key, _PLAINTEXT), message)


def seal_contact_point(content_key: bytes, subject: str, nonce: bytes, contact: Mapping[str, str]) -> bytes:
    """The address book's entry of a subject. Written once with its subject and never again under this key."""
    key = _derive(content_key, _CONTACT_POINT)
    return nonce + AESGCM(key).encrypt(nonce, encode_fields(contact), _CONTACT_POINT + b"\x00" + subject.encode())


def open_contact_point(content_key: bytes, subject: str, sealed: bytes) -> dict[str, str]:
    """The entry's fields: kind, typed, normalised; raises DoesNotOpen."""
    key = _derive(content_key, _CONTACT_POINT)
    try:
        raw = AESGCM(key).decrypt(
            sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _CONTACT_POINT + b"\x00" + subject.encode()
        )
    except InvalidTag:
        raise DoesNotOpen from None
    contact: dict[str, str] = decode_fields(raw)
    return contact


def _wrapping(subject: str, use: str) -> bytes:
    # The use is bound in: else whoever can write rows could pass one key off as the other.
    return b"\x00".join((_SUBJECT_KEY, subject.encode("ascii"), use.encode("ascii")))


def wrap(kek_id: int, kek: bytes, subject: str, use: str, key: bytes, nonce: bytes) -> bytes:
    """kek id u32 || nonce 12 || ciphertext 32 || tag 16."""
    return kek_id.to_bytes(4, "big") + nonce + AESGCM(kek).encrypt(nonce, key, _wrapping(subject, use))


def unwrap(kek: bytes, subject: str, use: str, wrapped: bytes) -> bytes:
    """The subject's key; raises DoesNotOpen."""
    nonce, ciphertext = wrapped[4 : 4 + NONCE_BYTES], wrapped[4 + NONCE_BYTES :]
    try:
        return AESGCM(kek).decrypt(nonce, ciphertext, _wrapping(subject, use))
    except InvalidTag:
        raise DoesNotOpen from None


def encode_fields(fields: Mapping[str, Any]) -> bytes:
    """A compartment's plaintext: one JSON object, always the same bytes for the same fields in any order."""
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode(
            "utf-8"
        )
    except (ValueError, RecursionError):  # a lone surrogate, an infinite number
        raise Refused("invalid-fields", "The fields are not plain JSON in valid Unicode.") from None


def decode_fields(plaintext: bytes) -> dict[str, Any]:
    """What `encode_fields` wrote."""
    fields: dict[str, Any] = json.loads(plaintext)
    return fields
