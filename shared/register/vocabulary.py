"""The words the register's files are written in: names, statement types, periods."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, PlainSerializer, PlainValidator, StringConstraints

# A purpose, channel or activity, as it stands in the matter of a statement.
Name = Annotated[str, StringConstraints(pattern=r"\A[a-z0-9][a-z0-9._-]{0,62}\z")]
# A source is the service's name.
SourceName = Annotated[str, StringConstraints(pattern=r"\A[a-z][a-z0-9-]{0,31}\z")]
# A purpose on a channel, as `consent-ledger evidence` and matters write it.
PurposeKey = Annotated[str, StringConstraints(pattern=r"\A[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}\z")]
# A term of a published vocabulary: W3C DPV, its GDPR extension, its personal data categories.
Term = Annotated[str, StringConstraints(pattern=r"\A(dpv|pd|eu-gdpr):[A-Za-z0-9-]+\z")]
Line = Annotated[str, StringConstraints(pattern=r"\A[^\x00-\x1f\x7f]*[^\x00-\x20\x7f]\z")]
Address = Annotated[str, StringConstraints(pattern=r"\A[^@\s]+@[^@\s]+\.[^@\s]+\z")]
Region = Annotated[str, StringConstraints(pattern=r"\A(EU|[A-Z]{2}(-[A-Z0-9]{1,3})?)\z")]
Day = Annotated[str, StringConstraints(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}\z")]
# A text people see, by language.
Words = Annotated[Mapping[str, Line], Field(min_length=1)]

StatementType = Literal[
    "NoticePublished",
    "ConsentRequested",
    "ConsentGiven",
    "ConsentRefused",
    "ConsentWithdrawn",
    "ConsentRevoked",
    "ConsentExpired",
    "ConsentInvalidated",
    "ConsentRenewed",
    "ConsentUsed",
    "MessageSent",
    "DataCollected",
    "ObjectionRaised",
    "RestrictionSet",
    "RestrictionLifted",
    "RequestReceived",
    "RequestRefused",
    "ErasureOrdered",
    "ErasureHeld",
    "DataErased",
    "ErasureCompleted",
    "DataDisclosed",
    "RetentionExecuted",
    "RecordAccessed",
]
STATEMENT_TYPES: frozenset[str] = frozenset(get_args(StatementType))

# A source that may state one of these may forbid a use, so a permit waits until it is heard.
RESTRICTIVE: frozenset[str] = frozenset(
    {
        "ConsentRefused",
        "ConsentWithdrawn",
        "ConsentRevoked",
        "ConsentExpired",
        "ConsentInvalidated",
        "ObjectionRaised",
        "RestrictionSet",
    },
)

_PERIOD = re.compile(
    r"P(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?",
    re.ASCII,
)
_MONTHS_OF_A_YEAR = 12
_LAST_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class Period:
    """A length of time as ISO 8601 writes it; months and years are calendar months and years."""

    iso: str
    months: int
    exact: timedelta

    @classmethod
    def parse(cls, iso: object) -> Self:
        """Read an ISO 8601 duration longer than zero, such as `PT48H`, `P14D` or `P3Y`."""
        match = _PERIOD.fullmatch(iso) if isinstance(iso, str) else None
        if match is None or not isinstance(iso, str):
            message = "not an ISO 8601 duration such as PT48H, P14D or P3Y"
            raise ValueError(message)
        part = {name: int(digits or 0) for name, digits in match.groupdict().items()}
        period = cls(
            iso=iso,
            months=part["years"] * _MONTHS_OF_A_YEAR + part["months"],
            exact=timedelta(
                days=part["days"],
                hours=part["hours"],
                minutes=part["minutes"],
                seconds=part["seconds"],
            ),
        )
        if not period.months and not period.exact:
            message = "a period of nothing; use at_once_on for what ends at once"
            raise ValueError(message)
        return period

    @property
    def timedelta(self) -> timedelta:
        """The period as a fixed length; a period with months or years has none and raises ValueError."""
        if self.months:
            message = f"{self.iso} depends on the calendar; use after()"
            raise ValueError(message)
        return self.exact

    def after(self, start: datetime) -> datetime:
        """Return the end of the period; a day that the month does not have becomes its last (31 January + P1M)."""
        if not self.months:
            return start + self.exact
        year, month = divmod(start.year * _MONTHS_OF_A_YEAR + start.month - 1 + self.months, _MONTHS_OF_A_YEAR)
        day = min(start.day, _LAST_DAYS[month])
        if month == 1 and day == 29 and not _is_leap(year):
            day = 28
        return start.replace(year=year, month=month + 1, day=day) + self.exact

    def __str__(self) -> str:
        return self.iso


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


PeriodField = Annotated[Period, PlainValidator(Period.parse), PlainSerializer(str, return_type=str)]
