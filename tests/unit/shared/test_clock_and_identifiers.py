"""Time as it is written, and identifiers that say no more than they must."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import from_millis, millis, parse_rfc3339, rfc3339
from shared.identifiers import SYSTEM_SUBJECT, is_subject, shard_of, subject_id, uuid7

MOMENTS = st.integers(0, 221_845_392_000_000_000).map(
    lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
)


@given(MOMENTS)
def test_a_moment_survives_being_written_to_the_millisecond(moment: datetime) -> None:
    text = rfc3339(moment)
    assert len(text) == 24
    assert parse_rfc3339(text) == from_millis(millis(moment))
    assert timedelta() <= moment - parse_rfc3339(text) < timedelta(milliseconds=1)


@given(MOMENTS, MOMENTS)
def test_text_order_is_time_order(one: datetime, other: datetime) -> None:
    assert (millis(one) <= millis(other)) == (rfc3339(one) <= rfc3339(other))


def test_another_zone_is_written_as_utc() -> None:
    moment = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2025-12-31T23:30:00.000Z"


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.000+00:00",
        "2026-01-01 00:00:00.000Z",
        "2026-01-01T00:00:00.0000Z",
        "2026-02-31T00:00:00.000Z",
        "2026-01-01T00:00:00.000z",
        "2026-01-01T00:00:00.000Z\n",
        "\u0662026-01-01T00:00:00.000Z",
    ],
)
def test_any_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_rfc3339(text)


@given(MOMENTS, st.binary(min_size=10, max_size=10))
def test_an_id_is_a_uuid_of_version_7_with_its_millisecond(now: datetime, random: bytes) -> None:
    made = uuid.UUID(uuid7(now, lambda _size: random))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == millis(now)
    ignored = (0xF << 76) | (0x3 << 62)
    assert made.int & (2**80 - 1) & ~ignored == int.from_bytes(random, "big") & ~ignored


@given(MOMENTS, st.integers(0, 10**9 - 1))
def test_a_subject_knows_its_shard_and_only_the_day_it_was_seen(now: datetime, shard: int) -> None:
    subject = subject_id(shard, now, lambda size: b"\xff" * size)
    assert shard_of(subject) == shard
    seen = from_millis(uuid.UUID(subject.split(".", 1)[1]).int >> 80)
    assert (seen.date(), seen.hour, seen.minute, seen.second, seen.microsecond) == (now.date(), 0, 0, 0, 0)


def test_facts_without_a_person_are_shard_noughts() -> None:
    assert shard_of(SYSTEM_SUBJECT) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.system",
        "00.01a203f5-592b-7aea-a9ee-ba012c344c59",
        "-1.01a203f5-592b-7aea-a9ee-ba012c344c59",
        "0.01A203F5-592b-7aea-a9ee-ba012c344c59",
        "0.01a203f5-592b-4aea-a9ee-ba012c344c59",
        "0.01a203f5592b7aeaa9eeba012c344c59",
        "0.01a203f5-592b-7aea-a9ee-ba012c344c59\n",
        "\u0660.01a203f5-592b-7aea-a9ee-ba012c344c59",
    ],
)
def test_what_is_no_subject_id_is_refused(text: str) -> None:
    assert not is_subject(text)
    with pytest.raises(ValueError, match="not a subject id"):
        shard_of(text)
