"""What our mails say: only what is needed, the same bytes each time, with a way out that names the mail."""

from __future__ import annotations

import email
import email.policy
import re
from datetime import UTC, datetime
from email.message import EmailMessage

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from services.newsletter.letters import Letters, label_of, moment, title_of
from services.newsletter.store import Mail, MailKind
from shared.way_out import open_token
from tests.unit.newsletter.test_domain import ASKED, NOW, REGISTER, REQUEST, SPEAKER, numbered

KEYS = {1: bytes(range(64))}


@pytest.fixture(scope="module")
def letters() -> Letters:
    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return Letters(
        register=REGISTER,
        activity=SPEAKER.activity,
        base_url="https://example.org",
        mail_domain="example.org",
        sender="newsletter@example.org",
        dkim=("1", pem),
        way_out_keys=KEYS,
    )


def mail(kind: MailKind) -> Mail:
    return Mail(
        id=numbered(4),
        kind=kind,
        request=REQUEST.id,
        cancelled=False,
        brief=None,
        letter=None,
        attachment=None,
        recorded=(),
        attempts=0,
        handed_at=None,
        created_at=NOW,
    )


def read(raw: bytes) -> tuple[EmailMessage, str, str]:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    text, html = [part.get_content() for part in message.iter_parts()]
    return message, text, html


def test_a_mail_is_written_to_the_same_bytes_each_time(letters: Letters) -> None:
    once, again = (letters.confirmation(mail("confirmation"), REQUEST, "mara@example.net", "T" * 43) for _ in range(2))
    assert once == again


def test_the_confirmation_links_to_its_page_and_its_way_out_and_nothing_else(letters: Letters) -> None:
    _, text, html = read(letters.confirmation(mail("confirmation"), REQUEST, "mara@example.net", "T" * 43))
    found = set(re.findall(r"https?://[^\s\"<]+", text)) | set(re.findall(r'href="([^"]+)"', html))
    assert f"https://example.org/newsletter/confirm/{'T' * 43}" in found
    assert len(found) == 2
    assert "<img" not in html


def test_the_way_out_is_in_header_and_text_and_names_the_mail(letters: Letters) -> None:
    message, text, _ = read(letters.confirmation(mail("confirmation"), REQUEST, "mara@example.net", "T" * 43))
    url = str(message["list-unsubscribe"]).strip("<>")
    # The page opens in the mail's language; the one click of RFC 8058 has no page.
    assert f"{url}?lang={REQUEST.language}" in text
    way_out = open_token(KEYS, url.rsplit("/", 1)[1])
    assert (way_out.subject, way_out.message_id) == (REQUEST.subject, numbered(4))
    assert way_out.purposes == tuple((one.purpose, one.channel) for one in ASKED)


def test_the_welcome_names_only_what_took_effect(letters: Letters) -> None:
    _, text, html = read(
        letters.welcome(mail("welcome"), REQUEST, "mara@example.net", [(ASKED[0], numbered(10), bytes(16))])
    )
    receipt = f"https://example.org/ledger/receipts/{numbered(10)}?key={'A' * 22}"
    assert receipt in text
    assert receipt in html
    assert text.count("/ledger/receipts/") == 1
    assert "Klicks" not in text


def test_no_line_of_the_text_is_left_blank_twice(letters: Letters) -> None:
    for raw in (
        letters.confirmation(mail("confirmation"), REQUEST, "mara@example.net", "T" * 43),
        letters.welcome(mail("welcome"), REQUEST, "mara@example.net", [(ASKED[0], numbered(10), bytes(16))]),
    ):
        _, text, _ = read(raw)
        assert "\n\n\n" not in text.replace("\r\n", "\n")
        assert text.startswith("Guten Tag,")


def test_times_are_given_as_the_clock_on_the_wall_shows_them(letters: Letters) -> None:
    winter, summer = datetime(2026, 1, 5, 23, 7, tzinfo=UTC), datetime(2026, 7, 5, 12, 0, tzinfo=UTC)
    assert moment(letters._words("de"), winter) == "6. Januar 2026, 00:07 Uhr"
    assert moment(letters._words("en"), summer) == "5 July 2026, 14:00 German time"


def test_a_purpose_that_the_register_has_dropped_is_named_by_its_key() -> None:
    assert title_of(SPEAKER.activity, "gone", "email", "de") == "gone/email"
    assert label_of(REGISTER, "00" * 32, ASKED[0]) == "newsletter/email"
