"""Open one compartment of one statement with the one key that was disclosed for it (docs/formats.md §16)."""

import hmac
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.ledger.reader.errors import Invalid

_KEY_SIZE = 32
_NONCE_SIZE = 12
_TAG_SIZE = 16


def open_compartment(
    step: str, key: bytes, key_hash: bytes, ciphertext: bytes, subject: str, compartment: str, statement: str
) -> bytes:
    """Return what is in the compartment, or raise Invalid.

    AES-GCM does not commit to its key, so the key is held against its hash before anything is decrypted.
    """
    what = f"the key of {compartment}"
    if len(key) != _KEY_SIZE:
        raise Invalid(step, what, f"has not {_KEY_SIZE} bytes")
    if not hmac.compare_digest(sha256(b"consent-ledger/v1/key" + key).digest(), key_hash):
        raise Invalid(step, what, "is not the one the statement commits to")
    if len(ciphertext) < _NONCE_SIZE + _TAG_SIZE:
        raise Invalid(step, f"the ciphertext of {compartment}", "is too short")
    bound = b"\x00".join(
        [b"consent-ledger/v1/seal", subject.encode("ascii"), compartment.encode("ascii"), statement.encode("ascii")]
    )
    try:
        return AESGCM(key).decrypt(ciphertext[:_NONCE_SIZE], ciphertext[_NONCE_SIZE:], bound)
    except InvalidTag:
        raise Invalid(step, f"the ciphertext of {compartment}", "does not open: altered, or sealed elsewhere") from None
