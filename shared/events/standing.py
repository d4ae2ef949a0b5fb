"""Which word is in force: the pure fold that the appender, marketing and subjects share.

A permissive statement must be strictly later, by its own `time`, than every restrictive one already on its
matter or on `everything:all`; else it is overtaken and has no effect. So a grant that was late can never revive
a consent that was withdrawn meanwhile, in whatever order the two arrive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shared.events.matter import EVERYTHING, decides, matter_of, purpose_matter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.events.types import Statement

PERMISSIVE: Final = frozenset({"ConsentGiven", "ConsentRenewed", "RestrictionLifted"})
RESTRICTIVE: Final = frozenset(
    {
        "ConsentRefused",
        "ConsentWithdrawn",
        "ConsentRevoked",
        "ConsentExpired",
        "ConsentInvalidated",
        "ObjectionRaised",
        "RestrictionSet",
    }
)
VALID_STATUS: Final = frozenset({"ConsentGiven", "RenewedConsentGiven"})


def is_overtaken(type_name: str, time: str, restricted_at: str | None, everything_restricted_at: str | None) -> bool:
    """Whether a statement of this type and time comes too late to have effect.

    The two last arguments are the latest `time` of any restrictive statement already recorded on the statement's
    matter and on `everything:all`. Times are RFC 3339 with exactly three decimals and Z, so they order as text.
    """
    return type_name in PERMISSIVE and any(
        limit is not None and time <= limit for limit in (restricted_at, everything_restricted_at)
    )


@dataclass(frozen=True, slots=True)
class Word:
    """The newest statement in force on one matter, and the latest `time` of any restrictive one."""

    status: str
    statement: str
    index: int
    restricted_at: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a subject's recorded history amounts to, by matter. Applying an index twice changes nothing."""

    words: Mapping[str, Word]

    def apply(self, statement: Statement, index: int) -> tuple[Standing, bool]:
        """The standing after this recorded statement, and whether it was overtaken.

        Matters that decide nothing (`ask:`, `use:`, `data:` …) leave the standing as it is.
        """
        matter = matter_of(statement)
        if not decides(matter):
            return self, False
        word, everything = self.words.get(matter), self.words.get(EVERYTHING)
        if word is not None and index <= word.index:
            return self, False
        limit = word.restricted_at if word else None
        if is_overtaken(statement.type, statement.time, limit, everything.restricted_at if everything else None):
            return self, True
        if statement.type in RESTRICTIVE:
            limit = max(limit or "", statement.time)
        return Standing({**self.words, matter: Word(statement.data.status, statement.id, index, limit)}), False

    def permits(self, purpose: str, channel: str) -> bool:
        """Whether consent for this purpose and channel holds; nothing newer under `everything` may forbid it."""
        word, everything = self.words.get(purpose_matter(purpose, channel)), self.words.get(EVERYTHING)
        if word is None or word.status not in VALID_STATUS:
            return False
        return everything is None or everything.status in VALID_STATUS or everything.index < word.index
