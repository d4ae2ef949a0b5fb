"""The cryptography of subjects, held to docs/formats.md by a second derivation from the standard library alone."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from typing import Final

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.subjects import domain
from services.subjects.keys import KeyEncryption, Peppers
from shared.errors import Corrupt, Refused
from shared.identifiers import Random

KEY: Final = bytes(range(32))
NONCE: Final = bytes(range(100, 112))
SUBJECT: Final = "0.01a2008d-7400-7abc-9def-0123456789ab"
STATEMENT: Final = "01a20320-a202-7d4e-8f50-000000000002"
OTHER_STATEMENT: Final = "01a20320-a202-7d4e-8f50-000000000003"


def hkdf(key: bytes, info: bytes) -> bytes:
    """RFC 5869 with an empty salt, one block."""
    extracted = hmac.new(b"", key, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def test_the_index_is_an_hmac_over_length_prefixed_parts() -> None:
    expected = hmac.new(
        KEY,
        b"\x00\x00\x00\x0acontroller\x00\x00\x00\x05email\x00\x00\x00\x12j\xc3\xbcrgen@example.or",
        hashlib.sha256,
    ).digest()
    assert domain.index_digest(KEY, "controller", "email", "j\u00fcrgen@example.or") == expected


def test_moving_a_letter_between_parts_gives_another_index() -> None:
    parts = [("ab", "c", "d"), ("a", "bc", "d"), ("a", "b", "cd"), ("abc", "", "d"), ("", "abc", "d")]
    assert len({domain.index_digest(KEY, *part) for part in parts}) == len(parts)


def test_suppression_depends_on_pepper_person_purpose_and_channel() -> None:
    index = domain.index_digest(KEY, "controller", "email", "ada@example.org")
    digests = {
        domain.suppression_digest(KEY, index, "newsletter", "email"),
        domain.suppression_digest(KEY[::-1], index, "newsletter", "email"),
        domain.suppression_digest(KEY, index[::-1], "newsletter", "email"),
        domain.suppression_digest(KEY, index, "measurement", "email"),
        domain.suppression_digest(KEY, index, "newsletter", "phone"),
        domain.suppression_digest(KEY, index, "*", "*"),
        domain.suppression_digest(KEY, index, "newslettere", "mail"),
        index,
    }
    assert len(digests) == 8


def test_a_compartment_key_and_its_hash_are_those_of_the_format() -> None:
    info = b"consent-ledger/v1/compartment\x00evidence\x00" + STATEMENT.encode()
    key = domain.compartment_key(KEY, "evidence", STATEMENT)
    assert key == hkdf(KEY, info)
    assert domain.key_hash(key) == hashlib.sha256(b"consent-ledger/v1/key" + key).digest()


def test_a_ciphertext_opens_with_nothing_but_the_format() -> None:
    key = domain.compartment_key(KEY, "evidence", STATEMENT)
    sealed = domain.seal(key, SUBJECT, "evidence", STATEMENT, NONCE, b'{"a":1}')
    aad = b"consent-ledger/v1/seal\x00" + SUBJECT.encode() + b"\x00evidence\x00" + STATEMENT.encode()
    assert sealed[:12] == NONCE
    assert len(sealed) == 12 + 7 + 16
    assert AESGCM(key).decrypt(sealed[:12], sealed[12:], aad) == b'{"a":1}'


def test_every_compartment_of_every_statement_has_a_key_of_its_own() -> None:
    names = ("evidence", "brief", "attachment/0", "attachment/1")
    keys = {domain.compartment_key(KEY, name, one) for name in names for one in (STATEMENT, OTHER_STATEMENT)}
    assert len(keys) == 8


def test_what_was_changed_or_belongs_elsewhere_does_not_open() -> None:
    key = domain.compartment_key(KEY, "brief", STATEMENT)
    good = domain.key_hash(key)
    sealed = domain.seal(key, SUBJECT, "brief", STATEMENT, NONCE, b"{}")
    assert domain.unseal(key, SUBJECT, "brief", STATEMENT, sealed, good) == b"{}"
    for place, bit in itertools.product(range(len(sealed)), (1, 128)):
        broken = bytearray(sealed)
        broken[place] ^= bit
        with pytest.raises(domain.DoesNotOpen):
            domain.unseal(key, SUBJECT, "brief", STATEMENT, bytes(broken), good)
    for subject, name, statement, text, hashed in (
        ("1" + SUBJECT[1:], "brief", STATEMENT, sealed, good),
        (SUBJECT, "evidence", STATEMENT, sealed, good),
        (SUBJECT, "brief", OTHER_STATEMENT, sealed, good),
        (SUBJECT, "brief", STATEMENT, sealed[:-1], good),
        (SUBJECT, "brief", STATEMENT, sealed[:27], good),
        (SUBJECT, "brief", STATEMENT, b"", good),
        (SUBJECT, "brief", STATEMENT, sealed, good[::-1]),
        (SUBJECT, "brief", STATEMENT, sealed, b""),
    ):
        with pytest.raises(domain.DoesNotOpen, match="does-not-open"):
            domain.unseal(key, subject, name, statement, text, hashed)


def test_a_key_that_does_not_match_its_hash_is_refused_before_it_is_used() -> None:
    """AES-GCM does not commit to its key: a ciphertext can open to two plaintexts under two keys."""
    key, other = (domain.compartment_key(KEY, "brief", one) for one in (STATEMENT, OTHER_STATEMENT))
    sealed = domain.seal(other, SUBJECT, "brief", STATEMENT, NONCE, b"{}")
    with pytest.raises(domain.DoesNotOpen):
        domain.unseal(other, SUBJECT, "brief", STATEMENT, sealed, domain.key_hash(key))


def test_the_plaintext_mac_is_keyed_and_bound_to_its_place() -> None:
    macs = {
        domain.plaintext_mac(KEY, "evidence", STATEMENT, b"a"),
        domain.plaintext_mac(KEY, "evidence", STATEMENT, b"b"),
        domain.plaintext_mac(KEY, "evidence", OTHER_STATEMENT, b"a"),
        domain.plaintext_mac(KEY, "attachment/0", STATEMENT, b"a"),
        domain.plaintext_mac(KEY[::-1], "evidence", STATEMENT, b"a"),
        hashlib.sha256(b"a").digest(),
    }
    assert len(macs) == 6
    assert domain.plaintext_mac(KEY, "evidence", STATEMENT, b"a") in macs


def test_mails_waiting_hang_on_the_content_key_and_all_else_on_the_evidence_key() -> None:
    assert domain.use_of("brief") == "content"
    assert {domain.use_of(name) for name in ("evidence", "attachment/0", "attachment/9")} == {"evidence"}


def test_fields_are_the_same_bytes_in_whatever_order_they_come() -> None:
    assert domain.encode_fields({"b": [1, {"d": None, "c": True}], "a": "\u00fc"}) == (
        b'{"a":"\xc3\xbc","b":[1,{"c":true,"d":null}]}'
    )
    assert domain.decode_fields(domain.encode_fields({"b": 1, "a": 2})) == {"a": 2, "b": 1}


@pytest.mark.parametrize("value", ["\ud800", float("inf"), float("nan")])
def test_fields_that_are_no_plain_json_are_refused(value: object) -> None:
    with pytest.raises(Refused, match="invalid-fields"):
        domain.encode_fields({"a": value})


def test_a_contact_point_opens_only_as_its_own_subjects() -> None:
    contact = {"kind": "email", "typed": "Ada@example.org", "normalised": "ada@example.org"}
    sealed = domain.seal_contact_point(KEY, SUBJECT, NONCE, contact)
    assert b"ada" not in sealed.lower()
    assert domain.open_contact_point(KEY, SUBJECT, sealed) == contact
    for key, subject in ((KEY[::-1], SUBJECT), (KEY, "1" + SUBJECT[1:])):
        with pytest.raises(domain.DoesNotOpen):
            domain.open_contact_point(key, subject, sealed)


def counting() -> Random:
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def test_a_wrapped_key_has_the_layout_of_the_format_and_knows_subject_and_use() -> None:
    encryption = KeyEncryption(lambda: {7: KEY}, counting())
    wrapped = encryption.wrap(SUBJECT, "content", KEY[::-1])
    assert len(wrapped) == 64
    assert wrapped[:4] == b"\x00\x00\x00\x07"
    assert encryption.unwrap(SUBJECT, "content", wrapped) == KEY[::-1]
    for subject, use in ((SUBJECT, "evidence"), ("1" + SUBJECT[1:], "content")):
        with pytest.raises(Corrupt):
            encryption.unwrap(subject, use, wrapped)


def test_the_newest_key_encryption_key_wraps_and_every_one_unwraps() -> None:
    old = KeyEncryption(lambda: {1: KEY}, counting())
    both = KeyEncryption(lambda: {1: KEY, 2: KEY[::-1]}, counting())
    assert both.unwrap(SUBJECT, "content", old.wrap(SUBJECT, "content", NONCE)) == NONCE
    assert both.wrap(SUBJECT, "content", NONCE)[:4] == b"\x00\x00\x00\x02"
    assert both.newest == 2


def test_a_key_encryption_key_that_came_after_the_start_is_read_when_it_is_needed() -> None:
    files = {1: KEY}
    early = KeyEncryption(lambda: files, counting())
    files[2] = KEY[::-1]
    late = KeyEncryption(lambda: files, counting())
    assert early.unwrap(SUBJECT, "content", late.wrap(SUBJECT, "content", NONCE)) == NONCE


def test_a_key_encryption_key_that_is_gone_stops_the_process() -> None:
    wrapped = KeyEncryption(lambda: {9: KEY}, counting()).wrap(SUBJECT, "content", NONCE)
    with pytest.raises(Corrupt):
        KeyEncryption(lambda: {1: KEY}, counting()).unwrap(SUBJECT, "content", wrapped)


def test_an_identifier_is_searched_under_every_pepper() -> None:
    peppers = Peppers({2: KEY, 1: KEY[::-1]})
    digests = peppers.digests("controller", "email", "ada@example.org")
    assert list(digests) == [1, 2]
    assert digests[2] == domain.index_digest(KEY, "controller", "email", "ada@example.org")
    suppression = peppers.suppression({**digests, 3: NONCE}, "newsletter", "email")
    assert list(suppression) == [1, 2]
    assert "0" * 8 not in repr(peppers)
    assert repr(KEY) not in repr(peppers)
