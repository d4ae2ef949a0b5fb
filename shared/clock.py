"""Time as the system writes it: aware UTC, milliseconds, RFC 3339 with exactly three decimals and `Z`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

Clock = Callable[[], datetime]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_RFC3339: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z\Z", re.ASCII)


def utc_now() -> datetime:
    """The production clock."""
    return datetime.now(UTC)


def millis(moment: datetime) -> int:
    """Whole milliseconds since 1970-01-01T00:00:00Z, rounded down; exact, without floating point."""
    return (moment - _EPOCH) // _MILLISECOND


def from_millis(value: int) -> datetime:
    return _EPOCH + value * _MILLISECOND


def rfc3339(moment: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ`; text order is time order."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def parse_rfc3339(text: str) -> datetime:
    """The moment in `text`; any other spelling of it (offset, fewer decimals) raises ValueError."""
    if not _RFC3339.match(text):
        raise ValueError("not RFC 3339 in UTC with three decimals")
    return datetime.fromisoformat(text)
