"""What a statement is about: the one place where a statement's matter is computed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shared.events.types import Statement

EVERYTHING: Final = "everything:all"
OVERTAKEN: Final = "overtaken:"
MATTER_PATTERN: Final = re.compile(r"(overtaken:)?[a-z]+:[a-z0-9][a-z0-9._/-]{0,126}\Z", re.ASCII)


def purpose_matter(purpose: str, channel: str) -> str:
    """The matter that decides the state of one purpose on one channel."""
    return f"purpose:{purpose}/{channel}"


def decides(matter: str) -> bool:
    """Whether words on this matter decide the state; `ask:`, `use:`, `data:` and the like do not."""
    return matter == EVERYTHING or matter.startswith("purpose:")


def matter_of(statement: Statement) -> str:
    """The matter of a statement, a pure function of its words (only `overtaken:` is added by the ledger)."""
    data = statement.data
    match statement.type:
        case "ConsentGiven" | "ConsentRefused" | "ConsentExpired" if data.stage == "proven":
            return purpose_matter(data.purpose, data.channel)
        case "ConsentRequested" | "ConsentRefused" | "ConsentExpired":
            return f"ask:{data.purpose}/{data.channel}"
        case "ConsentWithdrawn":
            return EVERYTHING if data.scope == "everything" else purpose_matter(data.purpose, data.channel)
        case "ConsentUsed":
            return f"use:{data.purpose}/{data.channel}"
        case "MessageSent" if data.permit is not None:
            return f"use:{data.purpose}/{data.channel}"
        case "MessageSent" | "RetentionExecuted":
            return f"data:{data.activity}"
        case "ErasureOrdered" | "ErasureHeld" | "DataErased" | "ErasureCompleted":
            return f"request:{data.request}"
        case "RecordAccessed":
            return f"access:{data.activity}"
        case "NoticePublished":
            return f"notice:{data.notice.hash}"
        case _:
            raise LookupError(statement.type)
