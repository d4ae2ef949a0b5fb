"""Whether a message may be sent: the permit's rule, as a pure function of what is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from shared.clock import parse_rfc3339
from shared.events import Standing, Statement, purpose_matter
from shared.register import Facts, Grade, Register

ACTIVITY: Final = "newsletter"
"""Whose data it holds: what it states of an erasure is stated for this."""
FRESH_FOR: Final = timedelta(seconds=5)
"""How old the least mark of a source may be; with PERMIT_LIVES it bounds the last possible mail to 10 s."""
PERMIT_LIVES: Final = timedelta(seconds=5)
NOT_KNOWN: Final = frozenset({"no-heartbeat", "behind", "source-not-heard", "stale"})
"""Reasons that say nothing of the person: it is not known whether something newer was said."""
MOST_ATTEMPTS: Final = 100
LONGEST_PAUSE: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Rule:
    """What the register says of one purpose on one channel."""

    restricting: frozenset[str]
    """Every source that may state a word against it."""
    least: Grade

    @classmethod
    def of(cls, register: Register, purpose: str, channel: str) -> Rule:
        """Raises NotInRegister."""
        return cls(register.restricting_sources(purpose, channel), register.least_grade(purpose, channel))


@dataclass(frozen=True, slots=True)
class Horizon:
    """What the newest heartbeat of a shard promises: up to each source's mark, all it accepted is within `size`."""

    size: int
    marks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of one person and one shard; `grade` is that of the consent in question."""

    standing: Standing
    grade: Grade | None
    applied: int
    horizon: Horizon | None
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Granted or refused, with the one reason; `all_before` is the least mark of the sources that may restrict.

    `relied_on` is the statement a grant rests on."""

    granted: bool
    reason: str
    all_before: str | None = None
    relied_on: str | None = None


def decide(known: Knowledge, purpose: str, channel: str, rule: Rule, now: datetime) -> Decision:
    """Fresh, or refuse: a permit needs a consent in force *and* proof that nothing newer can be missing."""
    if known.erased:
        return Decision(False, "erased")
    if known.horizon is None:
        return Decision(False, "no-heartbeat")
    if known.applied < known.horizon.size:
        return Decision(False, "behind")
    if not rule.restricting <= known.horizon.marks.keys():
        return Decision(False, "source-not-heard")
    marks = sorted(known.horizon.marks[source] for source in rule.restricting)
    all_before = marks[0] if marks else None
    # A mark is two seconds old when it is made. One that lies in our future was made by a clock that is wrong, or is
    # read by one: it says nothing about age.
    if all_before is None or not all(timedelta(0) <= now - parse_rfc3339(mark) <= FRESH_FOR for mark in marks):
        return Decision(False, "stale", all_before)
    word = known.standing.words.get(purpose_matter(purpose, channel))
    if word is None:
        return Decision(False, "unknown", all_before)
    if not known.standing.permits(purpose, channel):
        return Decision(False, "no-consent-in-force", all_before)
    if known.grade is None or not known.grade.at_least(rule.least):
        return Decision(False, "evidence-too-weak", all_before)
    return Decision(True, "consent-in-force", all_before, word.statement)


def passes_by_itself(reason: str) -> bool:
    """Whether asking again later may be answered otherwise without anybody saying anything new."""
    return reason in NOT_KNOWN | {"used", "void", "too-old"}


def evidence(statement: Statement, followed: Mapping[str, str]) -> Facts:
    """What the record shows of a consent; `followed` gives the type of each recorded statement that counts."""
    types = {followed[follows] for follows in statement.data.follows if follows in followed}
    served = statement.data.served
    return Facts(
        contact_point_proven=statement.data.stage == "proven",
        served_notice_verified=served is not None and served.verified,
        request_recorded="ConsentRequested" in types,
        confirmation_mail_archived="MessageSent" in types,
    )


def pause_after(attempt: int) -> timedelta:
    """2, 4, 8 … seconds, at most ten minutes: MOST_ATTEMPTS of them are some sixteen hours."""
    return min(timedelta(seconds=2 ** min(attempt, 20)), LONGEST_PAUSE)
