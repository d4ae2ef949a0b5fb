"""The way out in every mail: a token that says whose mail it was and what it can end, without a table.

AES-256-SIV (RFC 5297) under a key shared by the services that send mail. The token differs from mail to mail,
never expires, opens one act only, and nobody without the key can make one or read one.

    token = base64url(key id u16 || SIV[16] || ciphertext)          associated data: domain, key id
    plaintext = shard u32 || subject uuid[16] || message uuid[16] || "purpose/channel" lines joined by 0a
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from shared.errors import Refused
from shared.identifiers import is_subject

_DOMAIN: Final = b"consent-ledger/v1/way-out"
_RECEIPT_DOMAIN: Final = b"consent-ledger/v1/way-out-receipt"
_HEAD: Final = struct.Struct(">I16s16s")
_KEY_ID: Final = struct.Struct(">H")
_MAX_TOKEN: Final = 2048
_PURPOSE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class WayOut:
    """What a mail's way out can end. `message_id` is the id of the MessageSent statement of that mail."""

    subject: str
    purposes: tuple[tuple[str, str], ...]
    message_id: str


def not_ours() -> Refused:
    """One answer for whatever is wrong with a token, so that nobody learns what a forged one lacks."""
    return Refused(
        "way-out-unknown",
        "This link is not one of ours, or part of it is missing. Use the link in the mail.",
        status=404,
    )


def mint(keys: Mapping[int, bytes], way_out: WayOut) -> str:
    """The token for one mail, under the newest key. Equal input gives an equal token (SIV is deterministic)."""
    if not is_subject(way_out.subject) or not way_out.purposes:
        message = "a way out needs a person's subject id and something to end"
        raise ValueError(message)
    shard, _, subject = way_out.subject.partition(".")
    lines = [f"{purpose}/{channel}" for purpose, channel in way_out.purposes]
    if not all(_PURPOSE.match(line) for line in lines):
        message = "not a purpose and a channel"
        raise ValueError(message)
    plaintext = _HEAD.pack(int(shard), uuid.UUID(subject).bytes, uuid.UUID(way_out.message_id).bytes)
    newest = max(keys)
    key_id = _KEY_ID.pack(newest)
    sealed = AESSIV(keys[newest]).encrypt(plaintext + "\n".join(lines).encode("ascii"), [_DOMAIN, key_id])
    return base64.urlsafe_b64encode(key_id + sealed).decode("ascii").rstrip("=")


def _decoded(keys: Mapping[int, bytes], token: str) -> tuple[bytes, bytes, bytes]:
    """Key, key id and what it sealed; a token in any but its one spelling is not ours."""
    try:
        raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise not_ours() from None
    canonical = base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")
    if len(token) > _MAX_TOKEN or canonical != token or len(raw) <= _KEY_ID.size:
        raise not_ours()
    key_id = raw[: _KEY_ID.size]
    key = keys.get(_KEY_ID.unpack(key_id)[0])
    if key is None:
        raise not_ours()
    return key, key_id, raw[_KEY_ID.size :]


def open_token(keys: Mapping[int, bytes], token: str) -> WayOut:
    """What the token says; Refused 404 if it is not, byte for byte, one of ours."""
    key, key_id, sealed = _decoded(keys, token)
    try:
        plaintext = AESSIV(key).decrypt(sealed, [_DOMAIN, key_id])
    except (InvalidTag, ValueError):
        raise not_ours() from None
    shard, subject, message = _HEAD.unpack_from(plaintext)
    pairs = [line.partition("/") for line in plaintext[_HEAD.size :].decode("ascii").split("\n")]
    return WayOut(
        subject=f"{shard}.{uuid.UUID(bytes=subject)}",
        purposes=tuple((purpose, channel) for purpose, _, channel in pairs),
        message_id=str(uuid.UUID(bytes=message)),
    )


def receipt_key(keys: Mapping[int, bytes], token: str) -> bytes:
    """The 16 bytes that open the receipts of what this token did: the same each time the link is used."""
    key, _, _ = _decoded(keys, token)
    return hmac.digest(key, _RECEIPT_DOMAIN + b"\x00" + token.encode("ascii"), hashlib.sha256)[:16]
