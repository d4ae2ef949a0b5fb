"""The evidence as a printed document: what it says, that it says it as data, and that the bundle is inside."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pyhanko.keys import load_certs_from_pemder_data, load_private_key_from_pemder_data
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign.diff_analysis import ModificationLevel
from pyhanko.sign.timestamps import DummyTimeStamper
from pyhanko.sign.validation import async_validate_pdf_signature
from pyhanko_certvalidator import ValidationContext

from services.ledger.evidence.bundle import bundle
from services.ledger.evidence.document import NAME, Document
from services.ledger.evidence.printed import drawable, pdf
from services.ledger.evidence.signature import PdfSignature
from services.ledger.reader.evidence import Bundle
from services.ledger.reader.verify import enclosed
from shared.errors import Corrupt
from shared.software import software
from tests.opt_in import ADDRESS, OptIn
from tests.unit.proof.proving import made

LANGUAGES = ("de", "en")
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def verified(packed: bytes, story: OptIn) -> Bundle:
    checked = Bundle(packed, story.world.signer.vkey)
    checked.verify()
    return checked


@cache
def shown() -> tuple[Bundle, bytes]:
    story = OptIn().play()
    packed = bundle(story.material)
    return verified(packed, story), packed


def content(language: str, checked: tuple[Bundle, bytes] | None = None) -> dict[str, Any]:
    return Document(*(checked or shown()), language, "0", "https://example.org").content()


def words(value: Any) -> Iterator[str]:
    """Every text of a document, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from words(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from words(one)


def section(language: str, number: int, checked: tuple[Bundle, bytes] | None = None) -> str:
    return "\n".join(words(content(language, checked)["sections"][number]["blocks"]))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_evidence_set_stands_in_its_order(language: str) -> None:
    headings = [one["heading"] for one in content(language)["sections"]]
    assert [heading.split(".")[0] for heading in headings[1:]] == [str(number) for number in range(1, 15)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_was_shown_said_sent_and_confirmed_is_in_it(language: str) -> None:
    checked, _ = shown()
    [notice] = [text.decode() for name, text in checked.files.items() if name.startswith("notices/")]
    assert ADDRESS in section(language, 1)
    assert ADDRESS.lower() in section(language, 1)
    assert notice in section(language, 2)
    assert "newsletter-clicks/email" in section(language, 3)
    assert "2026-11-22 12:00:30.123 UTC" in section(language, 4)
    assert "250 ok" in section(language, 5)
    assert "mail.example.org" in section(language, 5)
    assert "Bitte bestätigen: your newsletter" in section(language, 5)
    assert checked.recorded[0].statement.data.token_hash in section(language, 6)
    assert "POST" in section(language, 7)
    assert "GET" in section(language, 7)
    assert checked.signed_by in section(language, 8)
    assert "2026-11-22 13:01:31.123 UTC" in section(language, 9)
    assert "2026-11-22 13:02:31.123 UTC" in section(language, 10)
    assert checked.recorded[0].statement.data.register_version in section(language, 11)
    assert software() in section(language, 11)
    assert len(content(language)["sections"][13]["blocks"][0]["items"]) == 10
    assert "verify.py" in section(language, 14)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_mail_is_printed_without_the_keys_of_its_links(language: str) -> None:
    story = OptIn()
    story.request()
    story.confirmation_mail()
    packed = bundle(story.material)
    printed = "\n".join(words(content(language, (verified(packed, story), packed))))
    assert "https://example.org/newsletter/confirm/[…]" in printed
    assert story.token not in printed


def test_the_get_before_the_button_is_listed_as_no_act_and_how_long_before() -> None:
    assert "keine Handlung: Seite abgerufen (GET)" in section("de", 7)
    assert "(2026-11-22 12:01:26.913 UTC); 4210 ms before the button" in section("en", 7)
    story = OptIn(by_page=False).play()
    packed = bundle(story.material)
    assert "not known: the press did not bring it along" in section("en", 7, (verified(packed, story), packed))


def test_dates_are_written_as_each_language_writes_them() -> None:
    assert "22 November 2026, 13:00:30 CET" in section("en", 4)
    assert "22. November 2026, 13:00:30 CET" in section("de", 4)


def test_that_a_proof_of_the_latest_word_shows_the_label_key_is_said_where_there_is_one() -> None:
    story = OptIn().play()
    packed = bundle(replace(story.material, latest=made(story.world, "latest")))
    said = section("en", 13, (verified(packed, story), packed))
    assert "proofs/latest.json" in said
    assert "proofs/latest.json" not in section("en", 13)


def test_a_use_that_no_consent_covered_is_named() -> None:
    story = OptIn().play()
    story.issue()
    rows = content("en", (verified(bundle(story.material), story), b""))["sections"][9]["blocks"][0]["rows"]
    assert [row[-1] for row in rows] == ["yes", "no"]


def test_what_was_erased_is_listed_as_not_opened() -> None:
    story = OptIn().play()
    kept = [one for one in story.material.keys if one["compartment"] != "attachment/0"]
    packed = bundle(replace(story.material, attachments={}, keys=kept))
    checked = (verified(packed, story), packed)
    assert "Entry 4, message: attachment/0" in section("en", 12, checked)
    assert "not opened: erased" in section("en", 5, checked)
    assert "Eintrag 4, Nachricht: attachment/0" in section("de", 12, checked)


def test_without_any_key_it_still_prints_and_says_what_is_closed() -> None:
    story = OptIn().play()
    packed = bundle(replace(story.material, attachments={}, keys=[]))
    checked = verified(packed, story)
    assert "not opened" in section("en", 1, (checked, packed))
    assert pdf(checked, packed, "en").startswith(b"%PDF-")


def test_a_withdrawal_says_where_and_when_it_took_effect() -> None:
    story = OptIn().play()
    withdrawal = story.world.statements[story.indexes["withdrawn"]].id
    noted = [{"system": "marketing", "applied_at": "2026-11-22T13:02:31.456Z", "in_transmission": []}]
    packed = bundle(replace(story.material, effects={withdrawal: noted}))
    assert "marketing: 2026-11-22 13:02:31.456 UTC" in section("en", 10, (verified(packed, story), packed))


def test_a_withdrawal_of_which_no_system_could_say_anything_says_that() -> None:
    story = OptIn().play()
    withdrawal = story.world.statements[story.indexes["withdrawn"]].id
    packed = bundle(replace(story.material, effects={withdrawal: []}))
    assert "or it could not be asked" in section("en", 10, (verified(packed, story), packed))


def test_a_request_that_nobody_confirmed_is_printed_as_one() -> None:
    story = OptIn()
    story.request()
    packed = bundle(story.material)
    checked = (verified(packed, story), packed)
    assert "No consent to this purpose is shown" in section("en", 0, checked)
    assert pdf(*checked, "de").startswith(b"%PDF-")


# -- as a file


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_bundle_lies_in_the_document_as_it_is(language: str) -> None:
    checked, packed = shown()
    printed = pdf(checked, packed, language)
    assert printed.endswith(b"%%EOF\n")
    assert attached(printed) == enclosed(printed) == packed
    assert pdf(checked, packed, language) == printed


def test_a_document_without_a_bundle_is_no_bundle() -> None:
    for data in (
        b"%PDF-",
        b"%PDF-1.7\n<</Length 4/Type/EmbeddedFile>>\nstream\nnone\nendstream",
        b"%PDF-" + bytes(999),
    ):
        assert enclosed(data) == data
    deflated = zlib.compress(b"PK\x03\x04 and more")
    head = b"%%PDF-1.7\n<</Length %d/Type/EmbeddedFile/Filter/FlateDecode>>\nstream\n" % len(deflated)
    assert enclosed(head + deflated + b"\nendstream") == b"PK\x03\x04 and more"


def attached(document: bytes) -> bytes:
    names = PdfFileReader(BytesIO(document)).root["/Names"]["/EmbeddedFiles"]["/Names"]
    assert str(names[0]) == NAME
    found: bytes = names[1]["/EF"]["/F"].data
    return found


def test_what_a_person_typed_is_never_read_as_markup() -> None:
    checked, packed = shown()
    hostile = '#panic("x") *bold* $x$ _a_ `raw` \\ #import "x" </script> @label //'
    opened = {
        key: value.replace(b"a browser", hostile.replace('"', '\\"').replace("\\ ", "").encode())
        for key, value in checked.opened.items()
    }
    assert any(b"panic" in value for value in opened.values())
    assert pdf(replace(checked, opened=opened), packed, "en").startswith(b"%PDF-")


def test_every_character_that_is_printed_as_itself_has_a_glyph_and_any_other_a_number() -> None:
    every = "".join(chr(number) for number in range(0x20, 0x2100) if drawable(chr(number)) == chr(number))
    assert len(every) > 600
    assert drawable("ж€ü→😀\x07\u200b") == "ж€ü[U+2192][U+1F600][U+0007][U+200B]"
    checked, packed = shown()
    opened = {
        key: value.replace(b"a browser", every.replace("\\", "").replace('"', "").encode())
        for key, value in checked.opened.items()
    }
    assert pdf(replace(checked, opened=opened), packed, "en").startswith(b"%PDF-")


# -- signed


def _certificate(
    name: str, issuer: tuple[x509.Certificate, rsa.RSAPrivateKey] | None, *usages: Any
) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    authority, signing = (subject, key) if issuer is None else (issuer[0].subject, issuer[1])
    unsigned = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOON - timedelta(days=1))
        .not_valid_after(NOON + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, content_commitment=issuer is not None, key_encipherment=False,
                data_encipherment=False, key_agreement=False, key_cert_sign=issuer is None, crl_sign=issuer is None,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if usages:
        unsigned = unsigned.add_extension(x509.ExtendedKeyUsage(usages), critical=True)
    return unsigned.sign(signing, hashes.SHA256()), key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@cache
def signature() -> tuple[PdfSignature, bytes]:
    """A signature of an authority of our own, with its time-stamps; and the authority's certificate."""
    root = _certificate("authority", None)
    signer, clock = _certificate("evidence", root), _certificate("clock", root, x509.ExtendedKeyUsageOID.TIME_STAMPING)
    stamps = DummyTimeStamper(
        next(iter(load_certs_from_pemder_data(_pem(clock[0])))),
        load_private_key_from_pemder_data(_key_pem(clock[1]), passphrase=None),
        fixed_dt=NOON,
    )
    return PdfSignature.made(_key_pem(signer[1]), _pem(signer[0]) + _pem(root[0]), stamps), _pem(root[0])


def test_a_signed_document_verifies_as_a_whole_with_its_time_stamp_and_after_a_flipped_bit_does_not() -> None:
    checked, packed = shown()
    seal, root = signature()
    signed = seal.sign(pdf(checked, packed, "de"))
    trusted = list(load_certs_from_pemder_data(root))

    def status(document: bytes) -> Any:
        [field] = PdfFileReader(BytesIO(document)).embedded_signatures
        contexts = [ValidationContext(trust_roots=trusted, allow_fetching=False, moment=NOON) for _ in range(2)]
        return asyncio.run(async_validate_pdf_signature(field, *contexts))

    said = status(signed)
    assert said.bottom_line
    assert said.coverage.name == "ENTIRE_FILE"
    assert said.modification_level == ModificationLevel.NONE
    assert said.timestamp_validity.timestamp == NOON
    assert attached(signed) == enclosed(signed) == packed
    altered = bytearray(signed)
    altered[signed.index(b"/Author") if b"/Author" in signed else 2000] ^= 1
    assert not status(bytes(altered)).bottom_line


def test_a_key_that_is_none_is_said_at_the_start() -> None:
    with pytest.raises(Corrupt):
        PdfSignature.made(b"no key", b"no certificate", None)
