"""The moment a page was fetched, as the page carries it back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.newsletter.opening import opened_at, opening

NOON = datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC)
KEYS = {1: bytes(64), 2: bytes(range(64))}
TOKEN = "T" * 43


def test_what_a_page_was_given_says_when_it_was_fetched() -> None:
    field = opening(KEYS, TOKEN, NOON)
    assert opened_at(KEYS, TOKEN, field, NOON + timedelta(seconds=3)) == "2026-11-23T12:00:00.250Z"


def test_a_page_that_waited_over_a_change_of_keys_still_says_it() -> None:
    assert opened_at(KEYS, TOKEN, opening({1: KEYS[1]}, TOKEN, NOON), NOON)


@pytest.mark.parametrize(
    "field",
    [
        "",
        ".",
        "yesterday",
        "2026-11-23T12:00:00.250Z",
        "2026-11-23T12:00:00.250Z.",
        "2026-11-23T12:00:00.250Z.ä",
        "\ud800",
    ],
)
def test_what_is_no_field_of_ours_says_nothing(field: str) -> None:
    assert opened_at(KEYS, TOKEN, field, NOON) is None


def test_a_moment_that_was_altered_or_is_of_another_link_or_key_or_still_to_come_says_nothing() -> None:
    field = opening(KEYS, TOKEN, NOON)
    assert opened_at(KEYS, TOKEN, field.replace("12:00", "11:00"), NOON) is None
    assert opened_at(KEYS, "U" * 43, field, NOON) is None
    assert opened_at({3: bytes([3] * 64)}, TOKEN, field, NOON) is None
    assert opened_at(KEYS, TOKEN, field, NOON - timedelta(milliseconds=1)) is None
