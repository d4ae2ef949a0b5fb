"""A statement is tied to its leaf by pin and opening; keys and payloads open only where they belong."""

import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.ledger.reader import commitment as formulas
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Event

ORIGIN, SUBJECT, MATTER = "example.org/log", "0.017012a5-7c00-7000-8000-000000000001", "purpose:newsletter/email"
KEYS = formulas.derive(b"K" * 32)
PIN = formulas.pin(KEYS.label_key, ORIGIN, SUBJECT)
LABEL = formulas.label(KEYS.label_key, MATTER)
OPENING = formulas.opening(KEYS.opening_key, LABEL, 3)
STATEMENT = b'{"id":"x"}'
EVENT = Event(LABEL, 3, 12, formulas.commitment(OPENING, PIN, LABEL, 3, STATEMENT), 0)

NONCE = b"n" * 12
PAYLOAD = NONCE + AESGCM(KEYS.payload_key).encrypt(NONCE, STATEMENT, struct.pack(">IQ", 2, 11))
KEK = b"k" * 32
AAD = b"consent-ledger/v1/wrap\x00" + SUBJECT.encode()
WRAPPED = struct.pack(">I", 5) + NONCE + AESGCM(KEK).encrypt(NONCE, b"K" * 32, AAD)


def test_the_right_statement_pin_and_opening_hold() -> None:
    formulas.verify_commitment(EVENT, PIN, OPENING, STATEMENT)


def test_anything_else_does_not_hold() -> None:
    other = b"o" * 32
    for event, pin, opening, statement in (
        (EVENT, PIN, OPENING, STATEMENT + b" "),
        (EVENT, PIN, OPENING, b""),
        (EVENT, other, OPENING, STATEMENT),
        (EVENT, PIN, other, STATEMENT),
        (EVENT, OPENING, PIN, STATEMENT),
        (replace(EVENT, label=other), PIN, OPENING, STATEMENT),
        (replace(EVENT, version=4), PIN, OPENING, STATEMENT),
        (replace(EVENT, commitment=other), PIN, OPENING, STATEMENT),
        (EVENT, PIN[:31], OPENING, STATEMENT),
        (EVENT, PIN, OPENING + b"x", STATEMENT),
        (EVENT, PIN, OPENING, bytes(32 * 1024 + 1)),
    ):
        with pytest.raises(Invalid):
            formulas.verify_commitment(event, pin, opening, statement)


def test_pins_labels_and_openings_differ_with_everything_they_depend_on() -> None:
    other = formulas.derive(b"L" * 32)
    values = [
        PIN,
        formulas.pin(KEYS.label_key, "example.org/log2", SUBJECT),
        formulas.pin(KEYS.label_key, ORIGIN, "0.system"),
        formulas.pin(other.label_key, ORIGIN, SUBJECT),
        LABEL,
        formulas.label(KEYS.label_key, "overtaken:" + MATTER),
        formulas.label(other.label_key, MATTER),
        OPENING,
        formulas.opening(KEYS.opening_key, LABEL, 4),
        formulas.opening(KEYS.opening_key, PIN, 3),
        formulas.opening(other.opening_key, LABEL, 3),
    ]
    assert len(set(values)) == len(values)


def test_fields_that_could_run_into_each_other_are_refused() -> None:
    for text in ("", "a\x00b", "a\nb", "\u00e4", "x" * 513):
        with pytest.raises(Invalid):
            formulas.pin(KEYS.label_key, text, SUBJECT)
        with pytest.raises(Invalid):
            formulas.pin(KEYS.label_key, ORIGIN, text)
        with pytest.raises(Invalid):
            formulas.label(KEYS.label_key, text)


def test_a_payload_opens_only_in_its_place_and_unaltered() -> None:
    assert formulas.open_payload(KEYS.payload_key, 2, 11, PAYLOAD) == STATEMENT
    for key, shard, index in (
        (KEYS.payload_key, 2, 12),
        (KEYS.payload_key, 1, 11),
        (KEYS.label_key, 2, 11),
        (KEYS.payload_key, -1, 11),
        (KEYS.payload_key, 2**32, 11),
        (KEYS.payload_key, 2, -1),
        (KEYS.payload_key[:16], 2, 11),
    ):
        with pytest.raises(Invalid):
            formulas.open_payload(key, shard, index, PAYLOAD)
    number = int.from_bytes(PAYLOAD, "big")
    for bit in range(8 * len(PAYLOAD)):
        with pytest.raises(Invalid):
            formulas.open_payload(KEYS.payload_key, 2, 11, (number ^ 1 << bit).to_bytes(len(PAYLOAD), "big"))


@pytest.mark.parametrize("payload", [b"", bytes(27), bytes(12 + 32 * 1024 + 16 + 1)])
def test_a_payload_of_impossible_length_is_refused(payload: bytes) -> None:
    with pytest.raises(Invalid, match="impossible length"):
        formulas.open_payload(KEYS.payload_key, 2, 11, payload)


def test_a_wrapped_key_opens_only_for_its_subject_under_its_kek() -> None:
    assert formulas.unwrap({4: b"x" * 32, 5: KEK}, SUBJECT, WRAPPED) == b"K" * 32
    for keks, subject, wrapped in (
        ({5: KEK}, "0.system", WRAPPED),
        ({5: b"x" * 32}, SUBJECT, WRAPPED),
        ({4: KEK}, SUBJECT, WRAPPED),
        ({5: KEK[:16]}, SUBJECT, WRAPPED),
        ({}, SUBJECT, WRAPPED),
        ({5: KEK}, SUBJECT, WRAPPED[:-1]),
        ({5: KEK}, SUBJECT, WRAPPED + b"x"),
        ({5: KEK}, SUBJECT, b""),
        ({5: KEK}, SUBJECT, WRAPPED[:-1] + bytes([WRAPPED[-1] ^ 1])),
    ):
        with pytest.raises(Invalid):
            formulas.unwrap(keks, subject, wrapped)
