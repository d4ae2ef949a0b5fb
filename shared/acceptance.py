"""The signed acceptance: a collector's word to a person that it holds these statements, before any log has them.

A compact JWS by the keys of the served-notice token (shared/served_notice.py), of a type of its own. If a statement it
names never stands in the log, or stands there with other bytes, whoever has it can show that (docs/formats.md §17).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.clock import rfc3339
from shared.served_notice import compact

FORMAT: Final = "consent-ledger/acceptance/1"
TYPE: Final = "consent-ledger-acceptance+jwt"
HEADER: Final = "Consent-Acceptance"
"""The header of an answer that carries it where the page must be the same for everybody."""

Accepted = tuple[str, str]
"""The id of a statement, and SHA-256 of its bytes in hex."""


def issue(key_id: str, key: Ed25519PrivateKey, source: str, accepted: Sequence[Accepted], at: datetime) -> str:
    """Sign for statements that are committed; equal words give an equal token."""
    claims = {
        "format": FORMAT,
        "source": source,
        "accepted_at": rfc3339(at),
        "statements": [{"id": statement, "sha256": digest} for statement, digest in accepted],
    }
    return compact(key_id, key, TYPE, claims)
