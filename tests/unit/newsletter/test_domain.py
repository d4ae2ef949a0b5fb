"""The law of the newsletter: what a form may say, how long a request waits, what an act amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.newsletter.domain import (
    MAX_TYPED,
    Asked,
    Confirmation,
    Form,
    Periods,
    Problem,
    Request,
    SignUp,
    Speaker,
    Withdrawal,
    consent_expired,
    form_key,
    message_sent,
    retention_executed,
    statements_of_confirmation,
    statements_of_sign_up,
    statements_of_withdrawal,
)
from shared.errors import Refused
from shared.events import Statement, encode, matter_of, parse
from shared.events.types import Sealed, Served
from shared.register import load
from shared.software import software

NOW = datetime(2026, 11, 22, 12, 0, 0, 123_000, tzinfo=UTC)
REGISTER = load()
SPEAKER = Speaker.of(REGISTER, software())
PURPOSES = SPEAKER.activity.purposes
NEWSLETTER, CLICKS = "newsletter/email", "newsletter-clicks/email"


def numbered(number: int) -> str:
    return f"0192f3a0-1111-7abc-8def-{number:012x}"


SUBJECT = "0.0192f3a0-0000-7abc-8def-0123456789ab"
ASKED = (Asked("newsletter", "email", numbered(1)), Asked("newsletter-clicks", "email", numbered(2)))
REQUEST = Request(
    id=numbered(3),
    subject=SUBJECT,
    language="de",
    notice="ab" * 32,
    served=Served(token="a.b.c", verified=True),
    state="open",
    requested_at=NOW,
    expires_at=NOW + timedelta(hours=48),
    decided_at=None,
    confirmation=numbered(4),
    asked=ASKED,
)
SEALED = Sealed(ciphertext="AAAA", key_hash="cd" * 32)


def checked(typed: str, *ticked: str) -> list[Problem]:
    return Form(typed, frozenset(ticked)).checked(PURPOSES)[1]


def test_an_address_and_a_tick_are_enough() -> None:
    address, problems = Form(" Mara@Example.NET ", frozenset({NEWSLETTER})).checked(PURPOSES)
    assert not problems
    assert address is not None
    assert (address.typed, address.normalised) == ("Mara@Example.NET", "mara@example.net")


@pytest.mark.parametrize(
    ("typed", "ticked", "problems"),
    [
        ("", (), [Problem("email", "missing"), Problem("purposes", "none")]),
        ("   ", (NEWSLETTER,), [Problem("email", "missing")]),
        ("mara", (NEWSLETTER,), [Problem("email", "invalid")]),
        ("mara@example.net", (), [Problem("purposes", "none")]),
        ("mara@example.net", (CLICKS,), [Problem(CLICKS, "alone")]),
        ("mara@example.net", (CLICKS, NEWSLETTER), []),
        ("a@example.net, b@example.net", (NEWSLETTER,), [Problem("email", "invalid")]),
    ],
)
def test_each_thing_that_is_wrong_is_named_in_the_order_of_the_form(
    typed: str, ticked: Sequence[str], problems: list[Problem]
) -> None:
    assert checked(typed, *ticked) == problems


@pytest.mark.parametrize(
    "fields",
    [
        {"email": ["a@example.net", "b@example.net"]},
        {"email": ["a" * (MAX_TYPED + 1)]},
        {"email": ["a@example.net"], "purpose": ["everything/all"]},
    ],
)
def test_a_form_that_is_not_ours_is_refused(fields: dict[str, list[str]]) -> None:
    with pytest.raises(Refused):
        Form.read(fields, PURPOSES)


def test_what_was_typed_does_not_show_in_a_repr() -> None:
    assert "mara" not in repr(Form("mara@example.net", frozenset()))


def test_a_form_is_the_same_by_page_person_and_ticks() -> None:
    key = form_key("nonce", SUBJECT, [NEWSLETTER, CLICKS])
    assert key == form_key("nonce", SUBJECT, [CLICKS, NEWSLETTER])
    assert key != form_key("other", SUBJECT, [NEWSLETTER, CLICKS])
    assert key != form_key("nonce", SUBJECT[:-1] + "c", [NEWSLETTER, CLICKS])
    assert key != form_key("nonce", SUBJECT, [NEWSLETTER])


def test_the_register_says_how_long_a_request_waits() -> None:
    periods = Periods(SPEAKER.activity)
    assert periods.expires_at(PURPOSES, NOW) == NOW + timedelta(hours=48)
    assert periods.purge_at(PURPOSES, NOW) == NOW + timedelta(days=14)
    assert periods.purge_rule() == "unconfirmed-request"


def test_an_open_request_past_its_end_is_expired_before_anybody_sweeps() -> None:
    assert REQUEST.state_at(NOW) == "open"
    assert REQUEST.state_at(REQUEST.expires_at) == "expired"
    assert replace(REQUEST, state="confirmed").state_at(REQUEST.expires_at) == "confirmed"


def sign_up(asked: tuple[Asked, ...], refused: tuple[Asked, ...]) -> list[Statement]:
    new = SignUp(replace(REQUEST, asked=asked), "key", bytes(32), NOW + timedelta(days=14), refused)
    return statements_of_sign_up(SPEAKER, new, {one.statement: SEALED for one in asked})


def confirmation() -> list[Statement]:
    confirmations = [Confirmation(one, numbered(10 + place), "ef" * 32) for place, one in enumerate(ASKED)]
    evidence = {one.statement: SEALED for one in confirmations}
    return statements_of_confirmation(SPEAKER, REQUEST, numbered(20), confirmations, evidence, NOW)


def withdrawal(scope: str) -> list[Statement]:
    ids = (numbered(30),) if scope == "everything" else (numbered(30), numbered(31))
    purposes = tuple((one.purpose, one.channel) for one in ASKED)
    one = Withdrawal(numbered(29), SUBJECT, scope, purposes, numbered(4), "link", "ef" * 32, ids)  # type: ignore[arg-type]
    return statements_of_withdrawal(SPEAKER, one, NOW)


def test_a_strangers_sign_up_is_no_word_about_a_purpose() -> None:
    for statement in sign_up(ASKED[:1], ASKED[1:]):
        assert matter_of(statement).startswith("ask:")
    expired = consent_expired(SPEAKER, REQUEST, ASKED[0], numbered(5), numbered(6), NOW)
    assert matter_of(expired) == "ask:newsletter/email"


def test_a_confirmation_and_a_withdrawal_are() -> None:
    assert [matter_of(one) for one in confirmation()] == ["purpose:newsletter/email", "purpose:newsletter-clicks/email"]
    assert [matter_of(one) for one in withdrawal("purpose")] == [matter_of(one) for one in confirmation()]
    assert [matter_of(one) for one in withdrawal("everything")] == ["everything:all"]


def test_every_statement_survives_its_own_bytes_and_may_be_stated_by_us() -> None:
    sent = message_sent(
        SPEAKER,
        REQUEST,
        mail=numbered(4),
        kind="confirmation",
        message_id=f"<{numbered(4)}@example.org>",
        attempts=1,
        outcome="accepted",
        follows=[numbered(1)],
        attachments=[],
        evidence=SEALED,
        now=NOW,
    )
    purged = retention_executed(SPEAKER, "unconfirmed-request", REQUEST, numbered(7), numbered(8), NOW)
    statements = [
        *sign_up(ASKED[:1], ASKED[1:]),
        *confirmation(),
        *withdrawal("purpose"),
        *withdrawal("everything"),
        consent_expired(SPEAKER, REQUEST, ASKED[0], numbered(5), numbered(6), NOW),
        sent,
        purged,
    ]
    for statement in statements:
        assert parse(encode(statement)) == statement
        assert REGISTER.may_state("newsletter", statement.type, "newsletter")
        assert statement.data.controller == "controller"
        assert statement.data.register_version == REGISTER.version


def test_a_confirmation_answers_the_request_and_the_mail() -> None:
    assert [one.data.follows for one in confirmation()] == [[numbered(1), numbered(4)], [numbered(2), numbered(4)]]
