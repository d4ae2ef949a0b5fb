"""Which recorded words put somebody on the suppression list and which take them off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from services.subjects import projection
from shared.events import Standing, Statement, decides, matter_of, parse

GOLDEN: Final = Path(__file__).parents[2] / "contracts" / "golden"
EMPTY: Final = Standing({})


def said(name: str, second: int, **data: Any) -> Statement:
    document = json.loads((GOLDEN / f"{name}.1.json").read_bytes())
    merged = {key: value for key, value in {**document["data"], **data}.items() if value is not None}
    return parse(json.dumps({**document, "time": f"2026-11-22T12:00:{second:02d}.000Z", "data": merged}).encode())


def does(standing: Standing, statement: Statement, index: int) -> tuple[str, str, str] | None:
    _, change = projection.apply(standing, statement, index)
    return None if change is None else (change.does, change.purpose, change.channel)


@pytest.mark.parametrize(
    "statement",
    [
        said("ConsentWithdrawn", 1),
        said("ConsentRefused", 1, purpose="newsletter", stage="proven"),
        said("ConsentExpired", 1, stage="proven"),
    ],
)
def test_every_restrictive_word_suppresses_its_purpose(statement: Statement) -> None:
    assert does(EMPTY, statement, 0) == ("suppress", "newsletter", "email")


def test_a_withdrawal_of_everything_suppresses_everything() -> None:
    statement = said("ConsentWithdrawn", 1, scope="everything", purpose=None, channel=None)
    assert does(EMPTY, statement, 0) == ("suppress", "*", "*")


def test_a_proven_consent_lifts_its_own_purpose_only() -> None:
    assert does(EMPTY, said("ConsentGiven", 1), 0) == ("lift", "newsletter", "email")


def test_a_consent_that_came_too_late_lifts_nothing() -> None:
    withdrawn, _ = EMPTY.apply(said("ConsentWithdrawn", 5), 0)
    assert does(withdrawn, said("ConsentGiven", 5), 1) is None
    assert does(withdrawn, said("ConsentGiven", 6), 1) == ("lift", "newsletter", "email")
    everything, _ = EMPTY.apply(said("ConsentWithdrawn", 5, scope="everything", purpose=None, channel=None), 0)
    assert does(everything, said("ConsentGiven", 4), 1) is None


def test_what_was_applied_already_does_nothing_again() -> None:
    once, _ = EMPTY.apply(said("ConsentWithdrawn", 5), 3)
    assert does(once, said("ConsentWithdrawn", 5), 3) is None
    assert does(once, said("ConsentGiven", 9), 2) is None


@pytest.mark.parametrize(
    "statement",
    [
        said("ConsentRequested", 1),
        said("ConsentRefused", 1, stage="asked"),
        said("ConsentExpired", 1, stage="asked"),
        said("ConsentUsed", 1),
        said("MessageSent", 1),
        said("RetentionExecuted", 1),
    ],
)
def test_a_strangers_sign_up_and_what_we_did_decide_nothing(statement: Statement) -> None:
    assert not decides(matter_of(statement))
    assert does(EMPTY, statement, 0) is None
