"""Signed notes are verified as C2SP signed-note and tlog-cosignature say, and nothing else is taken for one."""

from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import (
    NOTE_LIMIT,
    CosignatureSigner,
    CosignatureVerifier,
    Signer,
    Verifier,
    format_note,
    parse_note,
    verify_note,
)

# The test vector of C2SP signed-note.
SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_LINE = (
    "\u2014 example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
SPEC_TEXT = b"This is an example message.\n"
SPEC_NOTE = format_note(SPEC_TEXT, [SPEC_LINE.encode()])

TEXT = b"example.org/log\n3\nHS+2zp3NeapzXrVRkEuCUzeOyjKC/39Eftpq2epg7bg=\n"
LOG = Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
OTHER = Signer("example.org/other", Ed25519PrivateKey.from_private_bytes(b"\x02" * 32))
FRESH = CosignatureSigner("example.org/log/fresh", Ed25519PrivateKey.from_private_bytes(b"\x03" * 32))


def flipped(data: bytes) -> list[bytes]:
    number = int.from_bytes(data, "big")
    return [(number ^ 1 << bit).to_bytes(len(data), "big") for bit in range(8 * len(data))]


def test_the_example_of_the_specification_verifies() -> None:
    note = verify_note(SPEC_NOTE, SPEC_VKEY)
    assert note.text == SPEC_TEXT
    assert [(one.name, one.key_id.hex()) for one in note.signatures] == [("example.com/foo", "530d903a")]


def test_every_flipped_bit_of_the_example_is_refused() -> None:
    for note in flipped(SPEC_NOTE):
        with pytest.raises(Invalid):
            verify_note(note, SPEC_VKEY)


def test_every_flipped_bit_of_a_verifier_key_is_refused() -> None:
    for vkey in flipped(SPEC_VKEY.encode()):
        with pytest.raises(Invalid):
            verify_note(SPEC_NOTE, vkey.decode("latin-1"))


def test_what_is_signed_verifies() -> None:
    note = format_note(TEXT, [LOG.sign(TEXT)])
    assert verify_note(note, LOG.vkey).text == TEXT


def test_lines_of_unknown_keys_are_ignored_even_if_they_share_name_or_id() -> None:
    same_name = Signer(LOG.name, Ed25519PrivateKey.from_private_bytes(b"\x04" * 32)).sign(TEXT)
    key_id = parse_note(format_note(TEXT, [LOG.sign(TEXT)])).signatures[0].key_id
    same_id = f"\u2014 example.org/stranger {b64encode(key_id + b'x' * 64).decode()}\n".encode()
    verify_note(format_note(TEXT, [same_name, same_id, LOG.sign(TEXT), OTHER.sign(TEXT)]), LOG.vkey)


def test_a_note_without_a_line_of_the_key_is_refused() -> None:
    with pytest.raises(Invalid, match="not signed by the given key"):
        verify_note(format_note(TEXT, [OTHER.sign(TEXT)]), LOG.vkey)


def test_one_bad_line_of_the_key_spoils_the_note() -> None:
    bad = LOG.sign(b"another text\n")
    for lines in ([bad], [bad, LOG.sign(TEXT)], [LOG.sign(TEXT), bad]):
        with pytest.raises(Invalid, match="does not verify"):
            verify_note(format_note(TEXT, lines), LOG.vkey)


def test_the_last_empty_line_parts_text_from_signatures() -> None:
    text = "first\n\nsecond\n\n\u2014 not a signature\n".encode()
    note = verify_note(format_note(text, [LOG.sign(text)]), LOG.vkey)
    assert note.text == text


def test_sixteen_signatures_and_more_are_read() -> None:
    lines = [
        Signer(f"example.org/{n}", Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)).sign(TEXT) for n in range(63)
    ]
    note = format_note(TEXT, [*lines, LOG.sign(TEXT)])
    assert len(verify_note(note, LOG.vkey).signatures) == 64
    with pytest.raises(Invalid, match="more than 64"):
        verify_note(format_note(TEXT, [*lines, *lines, LOG.sign(TEXT)]), LOG.vkey)


def test_a_note_that_is_too_long_is_refused_unread() -> None:
    text = b"x" * NOTE_LIMIT + b"\n"
    with pytest.raises(Invalid, match="longer than"):
        parse_note(text + b"\n" + SPEC_LINE.encode())


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        SPEC_TEXT + SPEC_LINE.encode(),
        SPEC_NOTE[:-1],
        SPEC_NOTE + b"\n",
        SPEC_NOTE + b"x",
        SPEC_NOTE.replace(b"\n", b"\r\n"),
        SPEC_NOTE.replace(b"This", b"\x00his"),
        SPEC_NOTE.replace(b"This", b"\xff\xfe"),
        SPEC_NOTE.replace(b"This", b"\tThis"),
        SPEC_NOTE.replace("\u2014".encode(), b"-"),
        SPEC_NOTE.replace("\u2014 ".encode(), "\u2014".encode()),
        SPEC_NOTE.replace("\u2014 ".encode(), "\u2014  ".encode()),
        SPEC_NOTE.replace(b"example.com/foo ", b""),
        SPEC_NOTE.replace(b"example.com/foo", b"example.com/f+o"),
        SPEC_NOTE.replace(b"example.com/foo", "example.com/f\u00a0o".encode()),
        SPEC_NOTE.replace(b"example.com/foo", b"e" * 256),
        SPEC_NOTE.replace(b"eyaQM=", b"eyaQM"),
        SPEC_NOTE.replace(b"eyaQM=", b"eyaQN="),
        SPEC_NOTE.replace(b"eyaQM=", b"eyaQM= "),
        SPEC_NOTE.replace(b"Uw2QOkn8", b"Uw2Q*kn8"),
        SPEC_TEXT + "\n\u2014 example.com/foo Uw2QOg==\n".encode(),
        SPEC_TEXT + "\n\u2014 example.com/foo \n".encode(),
    ],
)
def test_what_is_no_note_is_refused(note: bytes) -> None:
    with pytest.raises(Invalid):
        verify_note(note, SPEC_VKEY)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "+",
        "++",
        "example.com/foo",
        "example.com/foo+530d903a",
        "example.com/foo+530d903a+",
        "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/bar+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\n",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3Q==",
        "example.com/foo+530d903a+\u00e9",
        "x" * 600 + "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    ],
)
def test_what_is_no_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(Invalid, match="vkey"):
        Verifier(vkey)


def test_keys_of_one_type_do_not_stand_in_for_the_other() -> None:
    with pytest.raises(Invalid, match="type 01"):
        Verifier(FRESH.vkey)
    with pytest.raises(Invalid, match="type 04"):
        CosignatureVerifier(LOG.vkey)


def test_a_cosignature_returns_its_time() -> None:
    note = parse_note(format_note(TEXT, [LOG.sign(TEXT), FRESH.sign(TEXT, 1580895002)]))
    assert CosignatureVerifier(FRESH.vkey).verify(note) == 1580895002


def test_of_several_cosignatures_the_latest_time_counts() -> None:
    lines = [FRESH.sign(TEXT, time) for time in (1580895002, 1580895009, 0)]
    assert CosignatureVerifier(FRESH.vkey).verify(parse_note(format_note(TEXT, lines))) == 1580895009


def test_every_flipped_bit_of_a_cosigned_note_is_refused() -> None:
    verifier = CosignatureVerifier(FRESH.vkey)
    for note in flipped(format_note(TEXT, [FRESH.sign(TEXT, 1580895002)])):
        with pytest.raises(Invalid):
            verifier.verify(parse_note(note))


def test_a_cosignature_for_another_time_or_text_is_refused() -> None:
    verifier = CosignatureVerifier(FRESH.vkey)
    good = parse_note(format_note(TEXT, [FRESH.sign(TEXT, 1580895002)])).signatures[0]
    blob = good.key_id + (1580895003).to_bytes(8, "big") + good.signature[8:]
    later = f"\u2014 {good.name} {b64encode(blob).decode()}\n".encode()
    for note in (format_note(TEXT, [later]), format_note(b"other\n", [FRESH.sign(TEXT, 1580895002)])):
        with pytest.raises(Invalid, match="does not verify"):
            verifier.verify(parse_note(note))


@pytest.mark.parametrize("blob", [b"x", b"x" * 8, b"\xff" * 72, bytes(71), bytes(73)])
def test_a_blob_that_is_no_cosignature_is_refused(blob: bytes) -> None:
    key_id = parse_note(format_note(TEXT, [FRESH.sign(TEXT, 1)])).signatures[0].key_id
    line = f"\u2014 {FRESH.name} {b64encode(key_id + blob).decode()}\n".encode()
    with pytest.raises(Invalid, match="signature 2"):
        CosignatureVerifier(FRESH.vkey).verify(parse_note(format_note(TEXT, [line])))


def test_nothing_is_signed_that_could_not_be_read_back() -> None:
    for text in (b"", b"no newline", b"x" * NOTE_LIMIT + b"\n"):
        with pytest.raises(Invalid):
            LOG.sign(text)
        with pytest.raises(Invalid):
            FRESH.sign(text, 1)
    for time in (-1, 2**63):
        with pytest.raises(Invalid):
            FRESH.sign(TEXT, time)
    for name in ("", "a b", "a+b", "a\nb", "x" * 256):
        with pytest.raises(Invalid):
            Signer(name, Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
