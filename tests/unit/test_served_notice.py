"""The served-notice token: a signed word of ours that a form brings back, or nothing at all."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.served_notice import ServedNotice, ServedPurpose, issue, key_set, looks_like_a_token, new_nonce, verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEYS = {"notice-1": KEY.public_key()}
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SERVED = ServedNotice(
    notice="ab" * 32,
    language="de",
    purposes=(
        ServedPurpose("newsletter", "email", "Ja, schicken Sie mir den Newsletter."),
        ServedPurpose("newsletter-clicks", "email", "Ja, messen Sie Klicks."),
    ),
    button="Newsletter anfordern",
    nonce=new_nonce(bytes(range(16))),
    issued_at=NOW,
    expires_at=NOW + timedelta(hours=4),
)


def test_a_token_brings_back_what_was_shown() -> None:
    assert verify(KEYS, issue("notice-1", KEY, SERVED)) == SERVED


def test_a_stranger_can_check_it_with_the_published_key_alone() -> None:
    token = issue("notice-1", KEY, SERVED)
    [published] = key_set(KEYS)["keys"]
    key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(published["x"] + "="))
    head, claims, signature = token.split(".")
    key.verify(base64.urlsafe_b64decode(signature + "=="), f"{head}.{claims}".encode())
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert said["purposes"][0] == {
        "purpose": "newsletter",
        "channel": "email",
        "default": False,
        "label": "Ja, schicken Sie mir den Newsletter.",
    }
    assert json.loads(base64.urlsafe_b64decode(head + "=="))["kid"] == published["kid"] == "notice-1"


def test_every_single_changed_character_breaks_it() -> None:
    token = issue("notice-1", KEY, SERVED)
    for place in range(0, len(token), 7):
        assert verify(KEYS, token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]) is None


def test_a_token_of_another_key_or_without_a_signature_is_nothing() -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    assert verify(KEYS, issue("notice-1", stranger, SERVED)) is None
    assert verify(KEYS, issue("notice-9", KEY, SERVED)) is None
    head = base64.urlsafe_b64encode(
        b'{"alg":"none","kid":"notice-1","typ":"consent-ledger-served-notice+jwt"}'
    ).decode()
    body = issue("notice-1", KEY, SERVED).split(".")[1]
    assert verify(KEYS, f"{head.rstrip('=')}.{body}.AA") is None


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "..", "ä.ö.ü", "A" * 5000, "bnVsbA.bnVsbA.AA", "W10.W10.AA"])
def test_what_is_no_token_is_nothing(text: str) -> None:
    assert verify(KEYS, text) is None


def test_a_token_holds_from_its_issue_to_its_end() -> None:
    assert SERVED.holds_at(NOW)
    assert SERVED.holds_at(NOW - timedelta(minutes=1))
    assert not SERVED.holds_at(NOW - timedelta(minutes=3))
    assert SERVED.holds_at(NOW + timedelta(hours=4, seconds=-1))
    assert not SERVED.holds_at(NOW + timedelta(hours=4))


def test_a_statement_may_echo_only_what_looks_like_a_token() -> None:
    assert looks_like_a_token(issue("notice-1", KEY, SERVED))
    assert not looks_like_a_token("<script>")
    assert not looks_like_a_token("a.b." + "c" * 5000)
