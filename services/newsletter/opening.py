"""When a page with a button was fetched, as the page itself carries it back: so a GET is told of and writes nothing.

    field = time, RFC 3339 to the millisecond || "." || base64url(HMAC-SHA256(way-out key, domain, 00, token, 00, time))

The key is one that this service has anyway, under a domain of its own. Whoever has the link can bring a page to any
moment at which they fetched one, and to no other.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from shared.clock import parse_rfc3339, rfc3339
from shared.sealing import base64url

FIELD: Final = "opened"

_DOMAIN: Final = b"consent-ledger/v1/page-opened"


def opening(keys: Mapping[int, bytes], token: str, at: datetime) -> str:
    """What the page behind this link carries when it is fetched now."""
    time = rfc3339(at)
    return f"{time}.{_mac(keys[max(keys)], token, time)}"


def opened_at(keys: Mapping[int, bytes], token: str, field: str, now: datetime) -> str | None:
    """When the page was fetched that brought this field back, RFC 3339; None if it is no page of ours or not yet."""
    time, _, mac = field.rpartition(".")
    try:
        moment = parse_rfc3339(time)
        ours = any(hmac.compare_digest(mac.encode("ascii"), _mac(key, token, time).encode()) for key in keys.values())
    except ValueError:
        return None
    return time if ours and moment <= now else None


def _mac(key: bytes, token: str, time: str) -> str:
    said = b"\x00".join([_DOMAIN, token.encode("ascii"), time.encode("ascii")])
    return base64url(hmac.digest(key, said, hashlib.sha256))
