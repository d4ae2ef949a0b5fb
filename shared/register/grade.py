"""How good the evidence of a consent is: computed from recorded facts by a versioned rule, never claimed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Literal

FactName = Literal[
    "contact_point_proven",
    "served_notice_verified",
    "request_recorded",
    "confirmation_mail_archived",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the record of one ConsentGiven shows; whoever computes them reads recorded statements only."""

    # The statement is `stage: proven`: whoever confirmed held the contact point (single-use token mailed to it).
    contact_point_proven: bool
    # The collector states that the served-notice token held, so the text that was shown is not its own claim.
    served_notice_verified: bool
    # `follows` names a ConsentRequested that is in the log: both steps of the double opt-in can be shown.
    request_recorded: bool = False
    # `follows` names the confirmation mail's MessageSent, and that one carries the mail as an attachment.
    confirmation_mail_archived: bool = False


FACTS: frozenset[str] = frozenset(field.name for field in fields(Facts))


class Grade(Enum):
    """From A, what a court is shown with confidence, to D, a bare word. Compare with `at_least`, not by letter."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"

    def at_least(self, least: "Grade") -> bool:
        """Whether this grade is as good as `least` or better."""
        return self.value <= least.value

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class GradeRule:
    """One version of the rule: grades, best first, each with the facts it needs; the last needs none."""

    version: int
    needs: Sequence[tuple[Grade, frozenset[str]]]


def grade(facts: Facts, rule: GradeRule) -> Grade:
    """Return the best grade whose every need is met."""
    met = {name for name in FACTS if getattr(facts, name)}
    return next(grade for grade, needs in rule.needs if needs <= met)
