"""The law of erasure: who is asked, in which order, and how long what only proves is held. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

from shared.clock import parse_rfc3339, rfc3339
from shared.events import EVERYTHING, VALID_STATUS, Statement, matter_of
from shared.register import Activity

ACTIVITY: Final = "newsletter"
SOURCE: Final = "erasure"
HOLDERS: Final = ("newsletter", "marketing", "subjects")
"""Whoever took the words is asked first, because it ends them; the others wait until that end is known to them."""


Reason = Literal["no-longer-needed", "consent-withdrawn", "objection", "unlawful", "legal-obligation"]
"""Why, after GDPR Art. 17(1)."""
Ground = Literal["legal-claims", "legal-obligation"]
"""Why what proves is held longer, after GDPR Art. 17(3)."""


def is_claimed(said: Iterable[Statement]) -> bool:
    """Whether the contact point's holder ever agreed. Who never did was perhaps typed in by a stranger."""
    return any(getattr(statement.data, "status", None) in VALID_STATUS for statement in said)


def evidence_until(activity: Activity, said: Sequence[Statement], now: datetime) -> datetime | None:
    """Until when the proof of consent is held (GDPR Art. 17(3)(e)); None if there is no consent to prove.

    By each rule of the register that holds despite an erasure and deletes in the end, from the latest fact that starts
    it. A consent that is still in force is withdrawn by the erasure itself: that is now.
    """
    if not is_claimed(said):
        return None
    latest: dict[str, datetime] = {}
    for statement in said:
        time = parse_rfc3339(statement.time)
        latest[statement.type] = max(time, latest.get(statement.type, time))
    if any(status in VALID_STATUS for status in _in_force(said).values()):
        latest["ConsentWithdrawn"] = now
    ends = [
        activity.due(rule.id, latest)
        for rule in activity.retention.values()
        if rule.despite_erasure is not None and rule.period is not None and rule.then == "delete"
    ]
    return max((end for end in ends if end is not None and end > now), default=None)


def _in_force(said: Sequence[Statement]) -> Mapping[str, str]:
    """Per purpose the newest status; a later word about everything ends them all."""
    newest: dict[str, str] = {}
    for statement in said:
        matter = matter_of(statement)
        if matter == EVERYTHING:
            newest.clear()
        elif matter.startswith("purpose:"):
            newest[matter] = statement.data.status
    return newest


def at(moment: datetime | None) -> str | None:
    """A moment as statements write it."""
    return None if moment is None else rfc3339(moment)
