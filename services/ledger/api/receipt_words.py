"""What a receipt's page says in people's words: from the statement, and from the register that it names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from services.ledger import record as records
from shared.clock import parse_rfc3339
from shared.events import Statement
from shared.pages import Texts
from shared.register import RegisterInvalid
from shared.register.notice import Notice, parse_notice

_LOCAL: Final = ZoneInfo("Europe/Berlin")


def erased_names(texts: Texts, statement: Statement) -> list[str] | None:
    """What a statement of an erasure names, as people say it; None of any other."""
    data = statement.data
    match statement.type:
        case "ErasureOrdered":
            return [service(texts, name) for name in data.holders]
        case "DataErased":
            return [texts(key) if (key := f"receipt.erased.{name}") in texts else name for name in data.erased]
        case "ErasureHeld":
            return [texts("receipt.erased.until", until=moment(texts, parse_rfc3339(data.until)))]
        case "ErasureCompleted":
            return []
    return None


def service(texts: Texts, source: str) -> str:
    """What a service of ours does, for people who do not know its name; of any other its name."""
    return texts(key) if (key := f"receipt.services.{source}") in texts else source


def kept_until(texts: Texts, of_one_erasure: Iterable[Statement]) -> str:
    """How long the proof of an erasure is kept, as far as its statements say so."""
    told = [one.data for one in of_one_erasure if one.type in {"ErasureOrdered", "ErasureHeld", "ErasureCompleted"}]
    ends = [getattr(data, "until", None) or getattr(data, "evidence_until", None) for data in told]
    latest = max((parse_rfc3339(end) for end in ends if end is not None), default=None)
    if latest is not None:
        return texts("receipt.keep.until", until=moment(texts, latest))
    return texts("receipt.keep.soon") if told else ""


@dataclass(frozen=True)
class Said:
    """A statement's references, as the register it names words them in one language."""

    snapshot: Mapping[str, Any]
    data: Any
    language: str

    @property
    def _activity(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.snapshot["files"][f"activities/{self.data.activity}.toml"]
        return found

    @property
    def _purpose(self) -> Mapping[str, Any] | None:
        asked = (getattr(self.data, "purpose", None), getattr(self.data, "channel", None))
        return next((one for one in self._activity["purposes"] if (one["id"], one["channel"]) == asked), None)

    @property
    def controller(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.snapshot["files"]["parties.toml"]["parties"][self.data.controller]
        return found

    @property
    def titles(self) -> list[str]:
        """The purpose's name; nothing if the statement is about everything."""
        return [] if self._purpose is None else [str(self._purpose["title"][self.language])]

    @property
    def labels(self) -> list[str]:
        """The words beside the box, as they stood in the notice that was shown; else the purpose's name."""
        if self.notice is None:
            return self.titles
        return [
            one.label
            for one in self.notice.choices
            if (one.purpose, one.channel) == (self.data.purpose, self.data.channel)
        ] or self.titles

    @property
    def notice(self) -> Notice | None:
        """The notice that was shown, if the statement answers one."""
        shown = getattr(self.data, "notice", None)
        if shown is None:
            return None
        for path, text in records.notices_of(self.snapshot, self.data.activity).items():
            try:
                notice = parse_notice(path, text.encode())
            except RegisterInvalid:
                continue
            if notice.hash == shown.hash:
                return notice
        return None

    @property
    def basis(self) -> str:
        """The legal basis as people quote it."""
        purpose = self._purpose
        named = getattr(self.data, "legal_basis", None)
        if purpose is None or named is None:
            return ""
        article = self.snapshot["files"]["rights.toml"]["legal_bases"][named]["article"][self.language]
        return "; ".join([article, *(norm[self.language] for norm in purpose["norms"])])

    @property
    def ways_out(self) -> list[str]:
        return [str(way["words"][self.language]) for way in self._activity["withdrawal"]]


def moment(texts: Texts, at: datetime) -> str:
    """A date and time as people read it, in German local time."""
    local = at.astimezone(_LOCAL)
    month = texts("months").split()[local.month - 1]
    return texts("date", day=local.day, month=month, year=local.year, hour=local.hour, minute=local.minute)
