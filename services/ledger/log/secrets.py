"""What follows from a subject's key K: pin, labels, openings, commitments and payload keys, and K wrapped."""

import struct
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import Corrupt

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
WRAPPED_SIZE = 4 + NONCE_SIZE + KEY_SIZE + TAG_SIZE

_u32 = struct.Struct(">I").pack
_u64 = struct.Struct(">Q").pack
_shard_and_index = struct.Struct(">IQ").pack

# HMAC of RFC 2104 spelled out: its two padded key blocks are kept instead of hash objects, which would take a
# kilobyte a subject, and hmac.digest would look up its algorithm on every call.
_BLOCK_SIZE = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def _pads(key: bytes) -> tuple[bytes, bytes]:
    block = key.ljust(_BLOCK_SIZE, b"\x00")
    return block.translate(_INNER), block.translate(_OUTER)


def _hmac(pads: tuple[bytes, bytes], message: bytes) -> bytes:
    return sha256(pads[1] + sha256(pads[0] + message).digest()).digest()


_commitment_inner, _commitment_outer = (sha256(pad).copy for pad in _pads(b"consent-ledger/v1/commitment"))


class KeyEncryptionKeyMissing(Corrupt):
    """A subject's key is wrapped under a key-encryption key that this process does not hold.

    Right after a rotation it may only not have been read yet: read the keys again once before giving up.
    """

    def __init__(self, kek_id: int) -> None:
        super().__init__("missing key-encryption key", f"number {kek_id}")
        self.kek_id = kek_id


class SubjectSecrets:
    """All that one subject's K unlocks on one log, ready for use; about half a kilobyte while it is held."""

    __slots__ = ("_label_pads", "_opening_pads", "_payload_key", "pin")

    pin: bytes

    def __init__(self, K: bytes, origin: str, subject: str) -> None:  # noqa: N803 - K is its name in the formats
        if len(K) != KEY_SIZE:
            raise ValueError("K has 32 bytes")
        pads = _pads(K)
        self._label_pads = _pads(_hmac(pads, b"consent-ledger/v1/label-key"))
        self._opening_pads = _pads(_hmac(pads, b"consent-ledger/v1/opening-key"))
        self._payload_key = _hmac(pads, b"consent-ledger/v1/payload-key")
        about = origin.encode("ascii") + b"\x00" + subject.encode("ascii")
        self.pin = _hmac(self._label_pads, b"consent-ledger/v1/pin\x00" + about)

    @property
    def label_key(self) -> bytes:
        """KL, from which anyone computes pin and labels, and nothing that opens."""
        return self._label_pads[0].translate(_INNER)[:KEY_SIZE]

    def label(self, matter: str) -> bytes:
        """The pseudonym under which this subject's word on a matter stands in the log."""
        return _hmac(self._label_pads, b"consent-ledger/v1/label\x00" + matter.encode("ascii"))

    def opening(self, label: bytes, version: int) -> bytes:
        """The secret that opens one commitment, and no other."""
        return _hmac(self._opening_pads, b"consent-ledger/v1/opening\x00" + label + _u64(version))

    def commitment(self, label: bytes, version: int, statement: bytes) -> bytes:
        """What the log holds in place of a statement; needs K to compute, and says nothing without its opening."""
        inner = _commitment_inner()
        inner.update(self.opening(label, version))
        inner.update(self.pin)
        inner.update(label)
        inner.update(_u64(version))
        inner.update(statement)
        outer = _commitment_outer()
        outer.update(inner.digest())
        return outer.digest()

    def seal_payload(self, shard: int, index: int, statement: bytes, nonce: bytes) -> bytes:
        """The statement encrypted for its place in the log; the nonce must never repeat for this subject."""
        _expect_nonce(nonce)
        return nonce + AESGCM(self._payload_key).encrypt(nonce, statement, _shard_and_index(shard, index))

    def open_payload(self, shard: int, index: int, payload: bytes) -> bytes:
        """The statement again; Corrupt if the payload was altered, or sealed for another place or subject."""
        return open_payload(self._payload_key, shard, index, payload)


def payload_key(K: bytes) -> bytes:  # noqa: N803 - K is its name in the formats
    """What a subject's payloads are sealed under; for who needs nothing else of the subject."""
    return _hmac(_pads(K), b"consent-ledger/v1/payload-key")


def open_payload(key: bytes, shard: int, index: int, payload: bytes) -> bytes:
    """The statement under this payload key; Corrupt if it was altered, or sealed for another place or subject."""
    if len(payload) >= NONCE_SIZE + TAG_SIZE:
        with suppress(InvalidTag):
            return AESGCM(key).decrypt(payload[:NONCE_SIZE], payload[NONCE_SIZE:], _shard_and_index(shard, index))
    raise Corrupt("payload", f"shard {shard}, index {index}")


def wrap(kek_id: int, kek: bytes, subject: str, K: bytes, nonce: bytes) -> bytes:  # noqa: N803 - K is its name in the formats
    """K as PostgreSQL keeps it: kek id u32 || nonce 12 || ciphertext 32 || tag 16."""
    _expect_nonce(nonce)
    if len(kek) != KEY_SIZE or len(K) != KEY_SIZE:
        raise ValueError("a key has 32 bytes")
    return _u32(kek_id) + nonce + _cipher(kek).encrypt(nonce, K, _wrap_context(subject))


def unwrap(keks: Mapping[int, bytes], subject: str, wrapped: bytes) -> bytes:
    """K again; Corrupt if the row was altered or is another subject's, KeyEncryptionKeyMissing if untried."""
    if len(wrapped) != WRAPPED_SIZE:
        raise Corrupt("length of a wrapped key", f"{len(wrapped)} bytes")
    kek_id = int.from_bytes(wrapped[:4], "big")
    kek = keks.get(kek_id)
    if kek is None:
        raise KeyEncryptionKeyMissing(kek_id)
    nonce, sealed = wrapped[4 : 4 + NONCE_SIZE], wrapped[4 + NONCE_SIZE :]
    try:
        return _cipher(kek).decrypt(nonce, sealed, _wrap_context(subject))
    except InvalidTag:
        raise Corrupt("wrapped key", f"key-encryption key {kek_id}") from None


@lru_cache(maxsize=4)  # preparing one costs more than wrapping a key with it
def _cipher(kek: bytes) -> AESGCM:
    return AESGCM(kek)


def _wrap_context(subject: str) -> bytes:
    return b"consent-ledger/v1/wrap\x00" + subject.encode("ascii")


def _expect_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_SIZE:
        raise ValueError("a nonce has 12 bytes")
