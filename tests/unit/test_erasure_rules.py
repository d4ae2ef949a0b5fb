"""How long the proof of a consent is held when its person is erased, by the register and the recorded facts alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from services.erasure.domain import evidence_until, is_claimed
from shared.events import Statement
from shared.events.types import ConsentGiven, ConsentRequested, ConsentUsed, ConsentWithdrawn, Notice, Permit
from shared.register import load

REGISTER = load()
NEWSLETTER = REGISTER.activity("newsletter")
SUBJECT = "0.01a2008d-7400-7abc-9def-0123456789ab"
ID = "01a20320-a205-7d4e-8f50-000000000005"
NOW = datetime(2031, 6, 1, tzinfo=UTC)


def said(time: str, data: Any) -> Statement:
    return Statement.of(data, id=ID, source="newsletter", subject=SUBJECT, time=f"{time}T12:00:00.000Z")


COMMON: dict[str, Any] = {
    "controller": "controller",
    "sender": "sender",
    "act": ID,
    "by": "person",
    "activity": "newsletter",
    "register_version": "8" * 64,
}
SHOWN: dict[str, Any] = COMMON | {
    "purpose": "newsletter",
    "channel": "email",
    "legal_basis": "eu-gdpr:A6-1-a-explicit-consent",
    "expression": "explicit",
    "notice": Notice(hash="9" * 64, language="de"),
    "method": "web-form",
}


def requested(time: str) -> Statement:
    asked: dict[str, Any] = {"status": "ConsentRequested", "stage": "asked", "token_hash": "e" * 64}
    return said(time, ConsentRequested(**SHOWN, **asked, expires_at="2026-01-03T12:00:00.000Z"))


def given(time: str) -> Statement:
    proven: dict[str, Any] = {
        "status": "ConsentGiven",
        "stage": "proven",
        "follows": [ID],
        "receipt_key_hash": "d" * 64,
    }
    return said(time, ConsentGiven(**SHOWN, **proven))


def used(time: str) -> Statement:
    at = "2026-01-03T12:00:00.000Z"
    permit = Permit(id=ID, shard=0, size="3", issued_at=at, all_before=at)
    data: dict[str, Any] = {"follows": [ID], "permit": permit, "message_id": "<a@example.org>"}
    return said(time, ConsentUsed(**COMMON, purpose="newsletter", channel="email", **data))


def withdrawn(time: str, *, everything: bool = False) -> Statement:
    what: dict[str, Any] = (
        {"scope": "everything"} if everything else {"scope": "purpose", "purpose": "newsletter", "channel": "email"}
    )
    return said(time, ConsentWithdrawn(**COMMON, **what, status="ConsentWithdrawn", method="link"))


def until(*facts: Statement) -> str | None:
    end = evidence_until(NEWSLETTER, facts, NOW)
    return None if end is None else end.isoformat()


@pytest.mark.parametrize(
    ("facts", "end"),
    [
        # Nobody agreed: there is nothing to prove, and nothing is held.
        ((), None),
        ((requested("2031-05-01"),), None),
        # Still in force: the erasure itself ends it, today; three years from the end of this one.
        ((given("2026-01-02"),), "2034-12-31T23:00:00+00:00"),
        # Ended before: from then, and not anew from today.
        ((given("2026-01-02"), withdrawn("2030-02-01")), "2033-12-31T23:00:00+00:00"),
        ((given("2026-01-02"), withdrawn("2030-02-01", everything=True)), "2033-12-31T23:00:00+00:00"),
        # Its last use counts, too.
        ((given("2026-01-02"), withdrawn("2029-02-01"), used("2030-03-01")), "2033-12-31T23:00:00+00:00"),
        # Given again after all was ended.
        ((given("2026-01-02"), withdrawn("2027-02-01"), given("2028-01-01")), "2034-12-31T23:00:00+00:00"),
        # Over already.
        ((given("2026-01-02"), withdrawn("2026-02-01")), None),
    ],
)
def test_the_proof_is_held_as_long_as_the_register_says(facts: tuple[Statement, ...], end: str | None) -> None:
    assert until(*facts) == end


def test_only_an_agreement_of_the_holder_claims_an_address() -> None:
    assert not is_claimed([requested("2031-05-01"), withdrawn("2031-05-02")])
    assert is_claimed([requested("2031-05-01"), given("2031-05-02"), withdrawn("2031-05-03", everything=True)])
