"""A timestamp holds for one text, by one authority's word; whose word that is, whoever verifies must say."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from services.ledger.reader.authority import parse_authority
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import Signer, format_note
from services.ledger.reader.timestamp import FORMAT
from services.ledger.reader.verify import main
from tests.authority import authority

LOG = Signer("example.org/ledger/log/0", Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
TEXT = Checkpoint("example.org/ledger/log/0", 7, b"\x05" * 32).text()


@cache
def answer(text: bytes = TEXT, name: str = "authority") -> bytes:
    query = TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256).build().as_bytes()
    return authority(name).answer(query)


def stamped(text: bytes = TEXT, **members: str) -> bytes:
    value = {
        "format": FORMAT,
        "origin": LOG.name,
        "vkey": LOG.vkey,
        "checkpoint": format_note(TEXT, [LOG.sign(TEXT)]).decode(),
        "answer": urlsafe_b64encode(answer(text)).decode().rstrip("="),
    }
    return json.dumps(value | members).encode()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return a timestamp file, the log's key, the authority's certificates."""
    for name, content in (
        ("timestamp.json", stamped()),
        ("vkey", f"{LOG.vkey}\n".encode()),
        ("authority.pem", authority().pem),
    ):
        (tmp_path / name).write_bytes(content)
    return tmp_path / "timestamp.json", tmp_path / "vkey", tmp_path / "authority.pem"


def test_it_says_when_the_text_was_there() -> None:
    said = parse_authority(authority().pem).verify(answer(), TEXT)
    assert abs(datetime.now(UTC) - said) < timedelta(minutes=5)


def test_it_speaks_of_no_other_text_and_for_no_other_authority() -> None:
    with pytest.raises(Invalid, match="does not verify"):
        parse_authority(authority().pem).verify(answer(), TEXT + b"x")
    with pytest.raises(Invalid, match="does not verify"):
        parse_authority(authority("another").pem).verify(answer(), TEXT)


def test_a_flipped_bit_is_refused_or_stands_where_nothing_is_said() -> None:
    """Outside of what is signed, ASN.1 has a few bits without meaning: the time said is the same then."""
    believed, genuine = parse_authority(authority().pem), answer()
    said = believed.verify(genuine, TEXT)
    passed = 0
    for at in range(len(genuine)):
        altered = bytearray(genuine)
        altered[at] ^= 1 << at % 8
        try:
            assert believed.verify(bytes(altered), TEXT) == said
        except Invalid:
            continue
        passed += 1
    assert passed < len(genuine) / 2


@given(st.binary(max_size=200))
def test_whatever_is_no_timestamp_is_invalid(data: bytes) -> None:
    with pytest.raises(Invalid):
        parse_authority(authority().pem).verify(data, TEXT)


@pytest.mark.parametrize("pem", [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"])
def test_what_holds_no_certificate_is_no_authority(pem: bytes) -> None:
    with pytest.raises(Invalid):
        parse_authority(pem)


def test_a_timestamp_file_is_valid_by_key_and_authority_and_says_when(
    files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, vkey, pem = files
    assert main(file, vkey, authority=pem) == 0
    said = capsys.readouterr().out
    assert "VALID timestamp: example.org/ledger/log/0 had these 7 leaves at 20" in said


def test_without_an_authority_it_says_nothing(
    files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, vkey, _ = files
    assert main(file, vkey) == 1
    assert "step 3: the timestamp is anybody's" in capsys.readouterr().out
    assert main(file, vkey, authority=vkey) == 2


@pytest.mark.parametrize(
    ("content", "step"),
    [
        (stamped(TEXT + b"x"), "step 3"),
        (stamped(origin="example.org/ledger/log/1"), "step 2"),
        (stamped(checkpoint=format_note(TEXT, [LOG.sign(TEXT + b"x\n")]).decode()), "step 2"),
        (stamped(vkey=Signer(LOG.name, Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)).vkey), "step 2"),
        (stamped(more=""), "step 1"),
        (stamped(answer="AA"), "step 3"),
    ],
)
def test_a_timestamp_file_that_does_not_hold_names_the_step(
    content: bytes, step: str, files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, vkey, pem = files
    file.write_bytes(content)
    assert main(file, vkey, authority=pem) == 1
    assert f"INVALID timestamp: {step}" in capsys.readouterr().out
