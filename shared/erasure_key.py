"""The key to the receipts of an erasure: the id of its order is made from it, so that no statement carries its hash.

It opens while the order can be read, and afterwards still shows to whom it was given: the id outlives what it names.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

from shared.identifiers import is_made_of, uuid7

SIZE: Final = 16
_DOMAIN: Final = b"consent-ledger/v1/erasure-key"


def order_id(key: bytes, now: datetime) -> str:
    """The id of the ErasureOrdered whose receipts this key opens."""
    digest = _digest(key)
    return uuid7(now, lambda size: digest[:size])


def is_key_of(order: str, key: bytes) -> bool:
    """Whether an order's id was made from this key; in constant time."""
    return is_made_of(order, _digest(key)[:10])


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(_DOMAIN + b"\x00" + key).digest()
