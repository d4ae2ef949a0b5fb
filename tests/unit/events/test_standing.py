"""Which word is in force, in the orders in which words really arrive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from shared.events import EVERYTHING, Standing, Statement, is_overtaken, parse, purpose_matter

GOLDEN: Final = Path(__file__).parents[2] / "contracts" / "golden"
NEWSLETTER: Final = purpose_matter("newsletter", "email")
EMPTY: Final = Standing({})


def said(name: str, at: int, **data: Any) -> Statement:
    """A statement of this type at 12:00 and `at` seconds."""
    document = json.loads((GOLDEN / f"{name}.1.json").read_bytes())
    merged = {key: value for key, value in {**document["data"], **data}.items() if value is not None}
    time = f"2026-11-22T12:00:{at:02d}.000Z"
    identifier = f"01a20320-a200-7d4e-8f50-{at:012x}"
    return parse(json.dumps({**document, "id": identifier, "time": time, "data": merged}).encode())


def given(at: int, purpose: str = "newsletter") -> Statement:
    return said("ConsentGiven", at, purpose=purpose)


def withdrawn(at: int, purpose: str = "newsletter") -> Statement:
    return said("ConsentWithdrawn", at, purpose=purpose)


def withdrawn_all(at: int) -> Statement:
    return said("ConsentWithdrawn", at, scope="everything", purpose=None, channel=None)


def fold(*statements: Statement, start: int = 0, standing: Standing = EMPTY) -> Standing:
    for index, statement in enumerate(statements, start):
        standing, _ = standing.apply(statement, index)
    return standing


def permits(*statements: Statement) -> bool:
    return fold(*statements).permits("newsletter", "email")


def test_without_a_word_nothing_is_permitted() -> None:
    assert not EMPTY.permits("newsletter", "email")


def test_consent_permits_its_own_purpose_only() -> None:
    standing = fold(given(1))
    assert standing.permits("newsletter", "email")
    assert not standing.permits("newsletter", "phone")
    assert not standing.permits("newsletter-measurement", "email")


def test_a_withdrawal_ends_it_and_a_later_consent_starts_it_again() -> None:
    assert not permits(given(1), withdrawn(2))
    assert permits(given(1), withdrawn(2), given(3))


def test_a_grant_that_is_late_never_revives_a_withdrawn_consent() -> None:
    standing = fold(given(1), withdrawn(5))
    after, overtaken = standing.apply(given(4), 2)
    assert overtaken
    assert after is standing


def test_a_grant_of_the_same_millisecond_is_overtaken() -> None:
    assert fold(withdrawn(5)).apply(given(5), 1)[1]
    assert not fold(withdrawn(5)).apply(given(6), 1)[1]


def test_a_withdrawal_counts_however_late_it_arrives() -> None:
    assert not permits(given(5), withdrawn(1))


def test_the_latest_restriction_counts_not_the_last_one() -> None:
    assert fold(withdrawn(9), withdrawn(3)).apply(given(5), 2)[1]


def test_a_withdrawal_of_everything_ends_every_purpose() -> None:
    standing = fold(given(1), given(1, "measurement"), withdrawn_all(2))
    assert not standing.permits("newsletter", "email")
    assert not standing.permits("measurement", "email")


def test_a_grant_late_for_a_withdrawal_of_everything_is_overtaken() -> None:
    assert fold(withdrawn_all(5)).apply(given(4), 1)[1]
    assert fold(withdrawn_all(5)).apply(given(5), 1)[1]
    assert not permits(given(1), withdrawn_all(5), given(4))


def test_a_new_consent_after_a_withdrawal_of_everything_is_for_its_purpose_only() -> None:
    standing = fold(given(1), given(1, "measurement"), withdrawn_all(2), given(3))
    assert standing.permits("newsletter", "email")
    assert not standing.permits("measurement", "email")


def test_refused_and_expired_are_words_only_when_proven() -> None:
    for name in ("ConsentRefused", "ConsentExpired"):
        assert permits(given(1), said(name, 2, purpose="newsletter", stage="asked"))
        assert not permits(given(1), said(name, 2, purpose="newsletter", stage="proven"))


def test_a_strangers_sign_up_that_expires_changes_nothing() -> None:
    before = fold(given(1))
    asked = (said("ConsentRequested", 2), said("ConsentExpired", 3))
    assert fold(*asked, start=1, standing=before) is before


def test_uses_and_messages_change_nothing() -> None:
    before = fold(given(1))
    assert fold(said("ConsentUsed", 2), said("MessageSent", 3), start=1, standing=before) is before


def test_an_index_applied_twice_changes_nothing() -> None:
    history = (given(1), withdrawn(5), given(4), withdrawn_all(6), given(7), given(6))
    once = fold(*history)
    assert fold(*history, standing=once) == once


def test_the_word_names_its_statement_and_index() -> None:
    word = fold(given(1), withdrawn(2)).words[NEWSLETTER]
    assert (word.status, word.index, word.restricted_at) == ("ConsentWithdrawn", 1, "2026-11-22T12:00:02.000Z")
    assert word.statement == withdrawn(2).id
    assert EVERYTHING not in fold(given(1)).words


def test_only_permissive_words_can_be_overtaken() -> None:
    late, limit = "2026-11-22T12:00:01.000Z", "2026-11-22T12:00:02.000Z"
    assert is_overtaken("ConsentGiven", late, limit, None)
    assert is_overtaken("ConsentRenewed", late, None, limit)
    assert is_overtaken("RestrictionLifted", late, limit, None)
    assert not is_overtaken("ConsentWithdrawn", late, limit, limit)
    assert not is_overtaken("ConsentRequested", late, limit, limit)
    assert not is_overtaken("ConsentGiven", late, None, None)
