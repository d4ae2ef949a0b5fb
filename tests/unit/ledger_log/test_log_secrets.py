"""What follows from K equals the formulas, spelled out here with the standard library's HMAC."""

import hashlib
import hmac
from itertools import product

import pytest

from services.ledger.log.secrets import KeyEncryptionKeyMissing, SubjectSecrets, unwrap, wrap
from shared.errors import Corrupt

K = bytes(range(32))
ORIGIN = "localhost/0123abcd/ledger/log/0"
SUBJECT = "0.01700f0c-5c00-7abc-8def-0123456789ab"
MATTER = "purpose:newsletter/email"
STATEMENT = b'{"specversion":"1.0","id":"01701234-5678-7abc-8def-0123456789ab"}'
NONCE = bytes(range(0x60, 0x6C))
KEK = bytes(range(0x80, 0xA0))


@pytest.fixture
def secrets() -> SubjectSecrets:
    return SubjectSecrets(K, ORIGIN, SUBJECT)


def mac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def test_pin_label_opening_and_commitment_follow_the_formulas(secrets: SubjectSecrets) -> None:
    label_key = mac(K, b"consent-ledger/v1/label-key")
    opening_key = mac(K, b"consent-ledger/v1/opening-key")
    pin = mac(label_key, b"consent-ledger/v1/pin\x00" + ORIGIN.encode() + b"\x00" + SUBJECT.encode())
    label = mac(label_key, b"consent-ledger/v1/label\x00" + MATTER.encode())
    version = (7).to_bytes(8, "big")
    opening = mac(opening_key, b"consent-ledger/v1/opening\x00" + label + version)
    commitment = mac(b"consent-ledger/v1/commitment", opening + pin + label + version + STATEMENT)

    assert secrets.pin == pin
    assert secrets.label(MATTER) == label
    assert secrets.opening(label, 7) == opening
    assert secrets.commitment(label, 7, STATEMENT) == commitment


def test_the_published_derivations_never_change(secrets: SubjectSecrets) -> None:
    label = secrets.label(MATTER)
    assert secrets.pin.hex() == "d9a87ad48ec3ad2e055372a427927c633272db1b61663dd406dfee6ac1f74a5a"
    assert label.hex() == "f6e45f4ad2248bb31eead8cbcfd9ed245838e9f9e527105353e1e63c4441bb44"
    assert secrets.opening(label, 1).hex() == "ea5d21c10dbba93dd0d6f0a38c737d887e8663ff9487f99b24c57c77625190e9"
    assert (
        secrets.commitment(label, 1, STATEMENT).hex()
        == "1627149e77bc4d9618d8439c0113e56bc04040e8fa98f48d13385bee1246188b"
    )
    assert secrets.seal_payload(2, 41, STATEMENT, NONCE).hex() == (
        "606162636465666768696a6b35bda36c541257782800684ed5754171e487bb9b2195782a9632e9fac8c5e39702a4d97b"
        "556cbf8ba2aba2b379821e058a8cc15b0ee5d13ba23baf942b58d17e203a8f70f88c849c0086d6443b0f997cb0"
    )
    assert wrap(3, KEK, SUBJECT, K, NONCE).hex() == (
        "00000003606162636465666768696a6b9dd75d6c302e03ab7ec170ece673784b0d38b5aa1b5a50de750562b5bc9bfe65"
        "bc0a0295b67626f2b18713419a8ea0a7"
    )


def test_every_input_of_a_commitment_changes_it(secrets: SubjectSecrets) -> None:
    label, other = secrets.label(MATTER), secrets.label("everything:all")
    commitments = {
        subject.commitment(of, version, statement)
        for subject, of, version, statement in product(
            (secrets, SubjectSecrets(K, ORIGIN, "0.system"), SubjectSecrets(bytes(32), ORIGIN, SUBJECT)),
            (label, other),
            (1, 2),
            (STATEMENT, STATEMENT + b" "),
        )
    }
    assert len(commitments) == 24


def test_the_pin_binds_origin_and_subject(secrets: SubjectSecrets) -> None:
    pins = {
        secrets.pin,
        SubjectSecrets(K, ORIGIN[:-1] + "1", SUBJECT).pin,
        SubjectSecrets(K, ORIGIN, "0.system").pin,
        SubjectSecrets(bytes(32), ORIGIN, SUBJECT).pin,
    }
    assert len(pins) == 4


def test_a_payload_opens_where_it_was_sealed(secrets: SubjectSecrets) -> None:
    payload = secrets.seal_payload(2, 41, STATEMENT, NONCE)
    assert payload[:12] == NONCE
    assert len(payload) == 12 + len(STATEMENT) + 16
    assert STATEMENT not in payload
    assert secrets.open_payload(2, 41, payload) == STATEMENT
    assert SubjectSecrets(K, ORIGIN, SUBJECT).open_payload(2, 41, payload) == STATEMENT


@pytest.mark.parametrize(("shard", "index"), [(2, 42), (0, 41), (41, 2), (2, 41 << 32)])
def test_a_payload_moved_to_another_place_does_not_open(secrets: SubjectSecrets, shard: int, index: int) -> None:
    payload = secrets.seal_payload(2, 41, STATEMENT, NONCE)
    with pytest.raises(Corrupt):
        secrets.open_payload(shard, index, payload)


def test_a_payload_does_not_open_under_another_subjects_key(secrets: SubjectSecrets) -> None:
    payload = secrets.seal_payload(2, 41, STATEMENT, NONCE)
    with pytest.raises(Corrupt):
        SubjectSecrets(bytes(32), ORIGIN, SUBJECT).open_payload(2, 41, payload)


def test_a_payload_with_any_byte_flipped_or_missing_does_not_open(secrets: SubjectSecrets) -> None:
    payload = secrets.seal_payload(2, 41, STATEMENT, NONCE)
    for at in range(len(payload)):
        flipped = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        with pytest.raises(Corrupt):
            secrets.open_payload(2, 41, flipped)
        with pytest.raises(Corrupt):
            secrets.open_payload(2, 41, payload[:at])


def test_a_wrapped_key_has_64_bytes_and_unwraps_for_its_subject() -> None:
    wrapped = wrap(3, KEK, SUBJECT, K, NONCE)
    assert len(wrapped) == 64
    assert wrapped[:16] == bytes([0, 0, 0, 3]) + NONCE
    assert unwrap({2: bytes(32), 3: KEK}, SUBJECT, wrapped) == K


def test_a_wrapped_key_does_not_unwrap_for_another_subject() -> None:
    with pytest.raises(Corrupt):
        unwrap({3: KEK}, "0.system", wrap(3, KEK, SUBJECT, K, NONCE))


def test_a_wrapped_key_with_any_byte_flipped_or_missing_does_not_unwrap() -> None:
    wrapped = wrap(3, KEK, SUBJECT, K, NONCE)
    for at in range(len(wrapped)):
        flipped = wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :]
        with pytest.raises(Corrupt):
            unwrap({3: KEK}, SUBJECT, flipped)
        with pytest.raises(Corrupt):
            unwrap({3: KEK}, SUBJECT, wrapped[:at])
    with pytest.raises(Corrupt):
        unwrap({3: KEK}, SUBJECT, wrapped + b"\x00")


def test_a_key_wrapped_under_a_destroyed_kek_names_the_kek_it_lacks() -> None:
    with pytest.raises(KeyEncryptionKeyMissing) as caught:
        unwrap({4: KEK}, SUBJECT, wrap(3, KEK, SUBJECT, K, NONCE))
    assert caught.value.kek_id == 3


def test_keys_and_nonces_of_another_length_are_never_used(secrets: SubjectSecrets) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SubjectSecrets(K[:-1], ORIGIN, SUBJECT)
    with pytest.raises(ValueError, match="32 bytes"):
        wrap(3, KEK[:16], SUBJECT, K, NONCE)
    with pytest.raises(ValueError, match="32 bytes"):
        wrap(3, KEK, SUBJECT, K[:16], NONCE)
    with pytest.raises(ValueError, match="12 bytes"):
        wrap(3, KEK, SUBJECT, K, NONCE + b"\x00")
    with pytest.raises(ValueError, match="12 bytes"):
        secrets.seal_payload(0, 0, STATEMENT, b"")


def test_secrets_do_not_show_themselves(secrets: SubjectSecrets) -> None:
    assert K.hex() not in repr(secrets)
    assert secrets.pin.hex() not in repr(secrets)
    assert not hasattr(secrets, "__dict__")
