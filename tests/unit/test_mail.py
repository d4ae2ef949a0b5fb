"""Mails: the same bytes each time, a signature that others can verify, a way out that the signature covers."""

import email
import email.policy
from datetime import UTC, datetime

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.errors import Refused
from shared.mail import Letter, compose, message_id, sign

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
WAY_OUT = "https://example.org/newsletter/unsubscribe/" + "AAE" * 50


def letter(**changed: object) -> Letter:
    values: dict[str, object] = {
        "message_id": message_id("0192f3a0-1111-7abc-8def-0123456789ab", "example.org"),
        "date": NOW,
        "sender_name": "Grüße vom Beispielwerk",
        "sender": "newsletter@example.org",
        "to": "mara@example.net",
        "subject": "Bitte bestätigen Sie Ihre Anmeldung - es fehlt nur noch ein Schritt, dann ist alles vollständig",
        "text": "Guten Tag,\n\nein Klick genügt:\nhttps://example.org/" + "x" * 120 + "\n",
        "html": "<p>Guten Tag, <a href='https://example.org'>öffnen</a></p>\n",
        "language": "de",
        "way_out_url": WAY_OUT,
        "auto_submitted": True,
    }
    return Letter(**(values | changed))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def key() -> tuple[bytes, bytes]:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record = b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])
    return pem, record


def verified(raw: bytes, record: bytes) -> bool:
    def dns(name: bytes, timeout: float = 5) -> bytes | None:
        return record if name == b"s1._domainkey.example.org." else None

    return bool(dkim.verify(raw, dnsfunc=dns))


def test_equal_letters_give_equal_bytes() -> None:
    assert compose(letter()) == compose(letter())
    assert compose(letter()) != compose(letter(text="Anders"))


def test_lines_end_in_crlf_and_fit_a_mail_server() -> None:
    raw = compose(letter())
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert raw.isascii()


def test_a_mail_reads_as_it_was_written() -> None:
    message = email.message_from_bytes(compose(letter()), policy=email.policy.default)
    assert message["subject"] == letter().subject
    assert message["from"] == "Grüße vom Beispielwerk <newsletter@example.org>"
    assert message["message-id"] == "<0192f3a0-1111-7abc-8def-0123456789ab@example.org>"
    assert message["auto-submitted"] == "auto-generated"
    assert message["content-language"] == "de"
    assert message.get_content_type() == "multipart/alternative"
    text, html = message.iter_parts()
    assert text.get_content().replace("\r\n", "\n") == letter().text
    assert html.get_content().replace("\r\n", "\n") == letter().html


def test_the_way_out_stands_in_one_line() -> None:
    raw = compose(letter())
    assert f"\r\nList-Unsubscribe: <{WAY_OUT}>\r\n".encode() in raw
    assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in raw


def test_another_implementation_verifies_the_signature(key: tuple[bytes, bytes]) -> None:
    pem, record = key
    assert verified(sign(compose(letter()), "example.org", "s1", pem, NOW), record)


def test_the_signature_is_the_same_each_time(key: tuple[bytes, bytes]) -> None:
    assert sign(compose(letter()), "example.org", "s1", key[0], NOW) == sign(
        compose(letter()), "example.org", "s1", key[0], NOW
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"/newsletter/unsubscribe/AAE", b"/newsletter/unsubscribe/AAF"),
        (b"List-Unsubscribe-Post: List-Unsubscribe=One-Click", b"List-Unsubscribe-Post: nothing"),
        (b"mara@example.net", b"mira@example.net"),
        (b"Guten Tag", b"Gutan Tag"),
        (b"auto-generated", b"no"),
    ],
)
def test_any_change_breaks_the_signature(key: tuple[bytes, bytes], old: bytes, new: bytes) -> None:
    pem, record = key
    raw = sign(compose(letter()), "example.org", "s1", pem, NOW)
    assert old in raw
    assert not verified(raw.replace(old, new, 1), record)


def test_no_second_way_out_can_be_added(key: tuple[bytes, bytes]) -> None:
    pem, record = key
    raw = sign(compose(letter()), "example.org", "s1", pem, NOW)
    assert not verified(
        raw.replace(b"MIME-Version", b"List-Unsubscribe: <https://evil.example>\r\nMIME-Version", 1), record
    )


def test_an_internationalised_domain_is_sent_in_its_ascii_form() -> None:
    raw = compose(letter(to="mara@bücherstraße.example"))
    assert b"To: mara@xn--bcherstrae-e4a35a.example\r\n" in raw
    assert raw.isascii()


def test_an_internationalised_mailbox_is_kept_as_typed() -> None:
    raw = compose(letter(to="jörg@bücher.example"))
    assert "To: jörg@xn--bcher-kva.example\r\n".encode() in raw


def test_a_header_cannot_be_smuggled_in() -> None:
    with pytest.raises(Refused):
        compose(letter(to="mara@example.net\r\nBcc: all@example.org"))
    with pytest.raises(ValueError, match=r"."):
        compose(letter(subject="Hallo\r\nBcc: all@example.org"))
