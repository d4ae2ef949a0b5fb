"""Identifiers: UUIDs in version 7 layout (RFC 9562 §5.7) and the pseudonyms of subjects."""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Final

from shared.clock import millis

Random = Callable[[int], bytes]
"""So many random bytes: os.urandom in production, a counter in tests."""

SYSTEM_SUBJECT: Final = "0.system"
"""Facts without a person; the one subject that is not a UUID and whose key is never destroyed."""

UUID_PATTERN: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
SUBJECT_PATTERN: Final = rf"(?:0\.system|(?:0|[1-9][0-9]{{0,8}})\.{UUID_PATTERN})"
SOURCE_PATTERN: Final = r"[a-z][a-z0-9-]{0,31}"

_SUBJECT: Final = re.compile(SUBJECT_PATTERN + r"\Z", re.ASCII)
_DAY_MS: Final = 86_400_000


def _version_7(milliseconds: int, random: bytes) -> str:
    value = int.from_bytes(milliseconds.to_bytes(6, "big") + random, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def uuid7(now: datetime, random: Random) -> str:
    """A UUIDv7: the moment in milliseconds, then 74 random bits."""
    return _version_7(millis(now), random(10))


def is_made_of(identifier: str, random: bytes) -> bool:
    """Whether these are the random bits of a UUIDv7 in its one spelling; in constant time."""
    return hmac.compare_digest(_version_7(uuid.UUID(identifier).int >> 80, random), identifier)


def subject_id(shard: int, now: datetime, random: Random) -> str:
    """A new pseudonym `<shard>.<uuid>`. Its time is the UTC day only: a millisecond would find its first record."""
    return f"{shard}.{_version_7(millis(now) // _DAY_MS * _DAY_MS, random(10))}"


def is_subject(text: str) -> bool:
    return _SUBJECT.match(text) is not None


def shard_of(subject: str) -> int:
    """The shard a subject was given when first seen; ValueError if this is no subject id."""
    if not is_subject(subject):
        raise ValueError("not a subject id")
    return int(subject.split(".", 1)[0])
