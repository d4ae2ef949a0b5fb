"""DKIM of archived mails, checked by our reader and by a verifier we did not write."""

from __future__ import annotations

import dkim
import pytest

from services.ledger.reader.errors import Invalid
from services.ledger.reader.mail import parse_dkim_keys, parse_mail, same_address, verify_dkim
from services.ledger.reader.strict import canonical_json
from services.newsletter.dkim import key_set
from tests.opt_in import DOMAIN, OptIn, dkim_key

SET = key_set(DOMAIN, {"1": dkim_key()})
KEYS = parse_dkim_keys("7", canonical_json(SET))


def letter(to: str = "Jane.Doe@example.org", text: str = "Hello\n\n two  blanks \n\n\n") -> bytes:
    story = OptIn(to=to)
    return story.letter(story.world.id(), text)


def others_accept(raw: bytes) -> bool:
    record = SET["keys"][0]["record"].encode()
    return bool(dkim.verify(raw, dnsfunc=lambda name, **_: record if name.startswith(b"1._domainkey.") else None))


@pytest.mark.parametrize("to", ["Jane.Doe@example.org", "jürgen@bücher.example", "o'hara+tag@straße.example"])
@pytest.mark.parametrize("text", ["short\n", "lines\n\n\n", "trailing  \n blanks\t\n", "ä" * 2000 + "\n"])
def test_both_verifiers_accept_what_we_sign(to: str, text: str) -> None:
    raw = letter(to, text)
    assert others_accept(raw)
    signed = verify_dkim("7", parse_mail("7", raw), KEYS)
    assert signed.domain == DOMAIN
    assert {"from", "to", "list-unsubscribe", "list-unsubscribe-post"} <= signed.headers


def test_both_verifiers_refuse_any_byte_changed() -> None:
    raw = letter()
    assert others_accept(raw)
    for place in range(0, len(raw), 7):
        altered = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        theirs = True
        try:
            theirs = others_accept(altered)
        except Exception:  # noqa: BLE001 - their verifier may raise; that is a refusal
            theirs = False
        ours = True
        try:
            verify_dkim("7", parse_mail("7", altered), KEYS)
        except Invalid:
            ours = False
        # Ours is never the more lenient; it may be stricter about malformed headers.
        assert theirs or not ours, place


@pytest.mark.parametrize(
    "extra", [b"From: other@example.org\r\n", b"Subject: other\r\n", b"List-Unsubscribe: <https://elsewhere>\r\n"]
)
def test_a_header_added_in_front_spoils_the_signature(extra: bytes) -> None:
    with pytest.raises(Invalid):
        verify_dkim("7", parse_mail("7", extra + letter()), KEYS)


def test_a_body_that_goes_on_is_refused() -> None:
    with pytest.raises(Invalid, match="body"):
        verify_dkim("7", parse_mail("7", letter() + b"P.S. and one more thing\r\n"), KEYS)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\r\n\r\n", b"no headers", b"A: b\r\n\r\n", b": nothing\r\n\r\n", b"A\x00: b\r\n\r\n", b"\xff: b\r\n\r\nx"],
)
def test_what_is_no_signed_mail_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid):
        verify_dkim("7", parse_mail("7", raw), KEYS)


@pytest.mark.parametrize(
    "record", ["", "v=DKIM1", "v=DKIM2; k=rsa; p=AAAA", "k=ed25519; p=AAAA", "v=DKIM1; p=!!", "p=AAAA;p=AAAA", "x"]
)
def test_what_is_no_key_record_is_refused(record: str) -> None:
    keys = {"keys": [{"domain": DOMAIN, "selector": "1", "record": record}]}
    with pytest.raises(Invalid):
        parse_dkim_keys("7", canonical_json(keys))


def test_addresses_are_compared_as_mailboxes_are() -> None:
    assert same_address("Jane@Example.ORG", "jane@example.org")
    assert same_address("jürgen@bücher.example", "jürgen@xn--bcher-kva.example")
    assert same_address("jane@straße.example", "jane@xn--strae-oqa.example")
    assert not same_address("jane@straße.example", "jane@strasse.example")
    assert not same_address("jane@example.org", "jane@example.com")
    assert not same_address("jane+news@example.org", "jane@example.org")
    assert not same_address("", "jane@example.org")
