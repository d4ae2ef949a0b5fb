"""When something must go: a date computed from a retention rule and recorded facts, so that it can be explained."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

from shared.register.files import Retention


def due(rule: Retention, latest: Mapping[str, datetime], new_year: timezone) -> datetime | None:
    """Return when the rule ends, or None while nothing ends it.

    `latest` is the time (aware, UTC) of the latest fact of each statement type since the consent came into force; of a
    rule that is only reviewed the next review is returned. `new_year` is the offset of local time at New Year.
    """
    ends = [latest[statement] for statement in rule.at_once_on if statement in latest]
    starts = [latest[statement] for statement in rule.starts if statement in latest]
    period = rule.period or rule.review
    if starts and period is not None:
        end = period.after(max(starts))
        ends.append(_end_of_year(end, new_year) if rule.until == "end-of-year" else end)
    return min(ends, default=None)


def _end_of_year(moment: datetime, new_year: timezone) -> datetime:
    # The year is asked of the local clock: 31 December 23:30 UTC is next year already in Germany, and a proof counted
    # from the wrong year would be gone twelve months early.
    year = moment.astimezone(new_year).year
    return datetime(year + 1, 1, 1, tzinfo=new_year).astimezone(UTC)


def offset(text: str) -> timezone:
    """Read `+01:00`, already checked to have this form."""
    hours, minutes = text[1:].split(":")
    distance = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-distance if text[0] == "-" else distance)
