"""Whether a message may be sent: the permit's rule, as a pure function of what is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from shared.clock import parse_rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shared.events import Standing

FRESH_FOR: Final = timedelta(seconds=5)
"""How old the least mark of a source may be; with PERMIT_LIVES it bounds the last possible mail to 10 s."""
PERMIT_LIVES: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What this process knows of one shard: how much it applied, and what the newest heartbeat promised."""

    applied: int
    size: int | None
    marks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """Granted or refused, with the one reason; `all_before` is the least mark of the sources that may restrict."""

    granted: bool
    reason: str
    all_before: str | None


def decide(
    standing: Standing, purpose: str, channel: str, knowledge: Knowledge, restricting: Iterable[str], now: datetime
) -> Decision:
    """Fresh, or refuse: a permit needs a consent in force *and* proof that nothing newer can be missing."""
    marks = [knowledge.marks.get(source) for source in restricting]
    known = [mark for mark in marks if mark is not None]
    all_before = min(known) if known and len(known) == len(marks) else None
    if knowledge.size is None:
        return Decision(False, "no-heartbeat", all_before)
    if knowledge.applied < knowledge.size:
        return Decision(False, "behind", all_before)
    if all_before is None or now - parse_rfc3339(all_before) > FRESH_FOR:
        return Decision(False, "stale", all_before)
    if not standing.permits(purpose, channel):
        return Decision(False, "no-consent-in-force" if standing.words else "unknown", all_before)
    return Decision(True, "consent-in-force", all_before)
