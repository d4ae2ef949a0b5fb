"""The served-notice token: a signed word of ours about what a form showed, which the answer brings back.

A compact JWS (RFC 7515) with EdDSA (RFC 8037). Whoever has the public keys of `GET /newsletter/notice-keys` can
check years later that this notice, these purposes with these default states and this button were on the page.
The nonce is also the form's idempotency key.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

TYPE: Final = "consent-ledger-served-notice+jwt"
MAX_TOKEN: Final = 4096
"""What a statement may echo (shared/events: Served.token)."""
_PARTS: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\Z", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{22}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServedPurpose:
    """One box as it was shown; no box is ever ticked for the person, and `default` says so."""

    purpose: str
    channel: str
    label: str
    default: bool = False


@dataclass(frozen=True, slots=True)
class ServedNotice:
    """What a form showed, when, and until when its answer is taken as an answer to it."""

    notice: str
    language: str
    purposes: tuple[ServedPurpose, ...]
    button: str
    nonce: str
    issued_at: datetime
    expires_at: datetime

    def holds_at(self, now: datetime, skew: timedelta = timedelta(minutes=2)) -> bool:
        """Whether the token was issued and has not expired, allowing for another server's clock."""
        return self.issued_at - skew <= now < self.expires_at


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _encode(raw) != text:
        message = "not canonical"
        raise ValueError(message)
    return raw


def looks_like_a_token(text: str) -> bool:
    """Whether a statement may echo `text` at all."""
    return len(text) <= MAX_TOKEN and _PARTS.match(text) is not None


def new_nonce(random: bytes) -> str:
    """16 random bytes as the 22 characters a token carries."""
    return _encode(random)


def issue(key_id: str, key: Ed25519PrivateKey, served: ServedNotice) -> str:
    """Sign what a form is about to show."""
    claims = {
        "notice": served.notice,
        "language": served.language,
        "purposes": [
            {"purpose": box.purpose, "channel": box.channel, "default": box.default, "label": box.label}
            for box in served.purposes
        ],
        "button": served.button,
        "nonce": served.nonce,
        "iat": int(served.issued_at.timestamp()),
        "exp": int(served.expires_at.timestamp()),
    }
    return compact(key_id, key, TYPE, claims)


def compact(key_id: str, key: Ed25519PrivateKey, kind: str, claims: Mapping[str, Any]) -> str:
    """A compact JWS of this type."""
    header = {"alg": "EdDSA", "kid": key_id, "typ": kind}
    signed = ".".join(
        _encode(json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()) for part in (header, claims)
    )
    return f"{signed}.{_encode(key.sign(signed.encode('ascii')))}"


def verify(keys: Mapping[str, Ed25519PublicKey], token: str) -> ServedNotice | None:
    """What the token says if its signature is ours, else None. Whether it has expired is for the caller to ask."""
    match = _PARTS.match(token) if len(token) <= MAX_TOKEN else None
    if match is None:
        return None
    try:
        header = json.loads(_decode(match[1]))
        key = keys.get(str(header["kid"])) if header["alg"] == "EdDSA" and header["typ"] == TYPE else None
        if key is None:
            return None
        key.verify(_decode(match[3]), f"{match[1]}.{match[2]}".encode("ascii"))
        return _served(json.loads(_decode(match[2])))
    except (InvalidSignature, binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _served(claims: Mapping[str, Any]) -> ServedNotice:
    if not (_HASH.match(claims["notice"]) and _NONCE.match(claims["nonce"])):
        message = "claims are not those of a served notice"
        raise ValueError(message)
    boxes: Sequence[Mapping[str, Any]] = claims["purposes"]
    return ServedNotice(
        notice=claims["notice"],
        language=claims["language"],
        purposes=tuple(
            ServedPurpose(box["purpose"], box["channel"], box["label"], default=box["default"]) for box in boxes
        ),
        button=claims["button"],
        nonce=claims["nonce"],
        issued_at=datetime.fromtimestamp(claims["iat"], UTC),
        expires_at=datetime.fromtimestamp(claims["exp"], UTC),
    )


def key_set(keys: Mapping[str, Ed25519PublicKey]) -> dict[str, list[dict[str, str]]]:
    """The public keys as a JSON Web Key Set (RFC 7517, RFC 8037)."""
    return {
        "keys": [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "use": "sig",
                "alg": "EdDSA",
                "kid": key_id,
                "x": _encode(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)),
            }
            for key_id, key in sorted(keys.items())
        ]
    }
