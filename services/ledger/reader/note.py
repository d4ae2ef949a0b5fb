"""Signed notes, and the cosignatures that carry a time (docs/formats.md §11; C2SP signed-note, tlog-cosignature v1)."""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.ledger.reader.errors import Invalid

NOTE_LIMIT = 64 * 1024
SIGNATURES_LIMIT = 64
NAME_LIMIT = 255
VKEY_LIMIT = 512

_ED25519 = 0x01
_COSIGNATURE = 0x04
_KEY_SIZE = 32
_KEY_ID_SIZE = 4
_TIME_SIZE = 8
_TIME_LIMIT = 1 << 63
_DASH = "\u2014 "

# RFC 8032 §5.1; the second coordinates of the eight points whose order divides 8.
_P = 2**255 - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER = frozenset({0, 1, _P - 1, _ORDER_8, _P - _ORDER_8})


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: whose it claims to be, and its bytes without the key id."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> bytes:
        """Return the line as it stands in a note, newline included."""
        return _format_signature(self.name, self.key_id, self.signature)


@dataclass(frozen=True, slots=True)
class Note:
    """A note taken apart; nothing is verified by that."""

    text: bytes
    """What is signed, with its final newline."""
    signatures: tuple[Signature, ...]


def parse_note(data: bytes) -> Note:
    """Take a note apart, or raise Invalid.

    1. It is not longer than we read.
    2. It is UTF-8, without control characters but newline.
    3. Text and signatures are parted by the last empty line, and both end in a newline.
    4. There is at least one signature line, and not more than we read.
    5. Each is a dash, a key name and canonical base64 of a key id and something more.
    """
    # 1.
    if len(data) > NOTE_LIMIT:
        raise Invalid("note 1", "the note", f"is longer than {NOTE_LIMIT} bytes")
    # 2.
    try:
        decoded = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid("note 2", "the note", "is not UTF-8") from None
    if any(character < " " and character != "\n" for character in decoded):
        raise Invalid("note 2", "the note", "has control characters")
    # 3.
    text, gap, lines = decoded.rpartition("\n\n")
    if not gap:
        raise Invalid("note 3", "the note", "has no empty line between a text and signatures")
    if not lines.endswith("\n"):
        raise Invalid("note 3", "the note", "does not end in a signature line")
    # 4.
    signatures = lines[:-1].split("\n")
    if len(signatures) > SIGNATURES_LIMIT:
        raise Invalid("note 4", "the note", f"has more than {SIGNATURES_LIMIT} signatures")
    # 5.
    return Note((text + "\n").encode(), tuple(_parse_signature(line) for line in signatures))


def format_note(text: bytes, lines: Sequence[bytes]) -> bytes:
    """Put a note together from its text and the lines that signers returned."""
    return text + b"\n" + b"".join(lines)


class Verifier:
    """Verifies the Ed25519 signatures (type 01) of one key."""

    _type = _ED25519

    __slots__ = ("_key", "key_id", "name", "public")

    def __init__(self, vkey: str) -> None:
        """Take a verifier key, one line of text, or raise Invalid."""
        self.name, self.key_id, self.public = _parse_vkey(vkey, self._type)
        self._key = ed25519_key("vkey 2", "the verifier key", self.public)

    def verify(self, note: Note) -> None:
        """Raise Invalid unless this key has signed the note.

        1. At least one line is of this key, by name and id.
        2. Every line of this key verifies.
        """
        for signature in _lines_of(note, self.name, self.key_id):
            _verify_ed25519(self._key, signature, note.text)


class CosignatureVerifier:
    """Verifies the timestamped Ed25519 cosignatures (type 04) of one key."""

    _type = _COSIGNATURE

    __slots__ = ("_key", "key_id", "name", "public")

    def __init__(self, vkey: str) -> None:
        """Take a verifier key, one line of text, or raise Invalid."""
        self.name, self.key_id, self.public = _parse_vkey(vkey, self._type)
        self._key = ed25519_key("vkey 2", "the verifier key", self.public)

    def verify(self, note: Note) -> int:
        """Return the time of this key's cosignature in seconds since 1970 (the latest of several), or raise Invalid.

        1. At least one line is of this key, by name and id.
        2. Every line of this key verifies, each over the time it carries.
        """
        times = []
        for signature in _lines_of(note, self.name, self.key_id):
            time = int.from_bytes(signature[:_TIME_SIZE], "big")
            if len(signature) <= _TIME_SIZE or time >= _TIME_LIMIT:
                raise Invalid("signature 2", "a cosignature", "carries no time")
            _verify_ed25519(self._key, signature[_TIME_SIZE:], _cosigned(note.text, time))
            times.append(time)
        return max(times)


class Signer:
    """Signs notes with an Ed25519 key (type 01)."""

    __slots__ = ("_key", "_key_id", "name", "vkey")

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        _require_name(name)
        self.name = name
        self._key = key
        public = key.public_key().public_bytes_raw()
        self._key_id = _key_id(name, _ED25519, public)
        self.vkey = _format_vkey(name, _ED25519, public)

    def sign(self, text: bytes) -> bytes:
        """Return the signature line for this text, newline included."""
        _require_text(text)
        return _format_signature(self.name, self._key_id, self._key.sign(text))


class CosignatureSigner:
    """Cosigns checkpoints with an Ed25519 key (type 04)."""

    __slots__ = ("_key", "_key_id", "name", "vkey")

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        _require_name(name)
        self.name = name
        self._key = key
        public = key.public_key().public_bytes_raw()
        self._key_id = _key_id(name, _COSIGNATURE, public)
        self.vkey = _format_vkey(name, _COSIGNATURE, public)

    def sign(self, text: bytes, time: int) -> bytes:
        """Return the signature line for this text at this time (seconds since 1970), newline included."""
        _require_text(text)
        if not 0 <= time < _TIME_LIMIT:
            raise Invalid("cosigning", "the time", "is negative or too far ahead")
        signature = self._key.sign(_cosigned(text, time))
        return _format_signature(self.name, self._key_id, time.to_bytes(_TIME_SIZE, "big") + signature)


def verify_note(data: bytes, vkey: str) -> Note:
    """Take a note apart and verify that this key signed it; lines of other keys are ignored."""
    note = parse_note(data)
    Verifier(vkey).verify(note)
    return note


def decode_base64(step: str, what: str, text: str) -> bytes:
    """Decode canonical standard base64 (RFC 4648 §4, padded), or raise Invalid."""
    try:
        decoded = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(step, what, "is not base64") from None
    # Python lets the unused bits of the last digit be anything: the same bytes would have several spellings.
    if b64encode(decoded).decode() != text:
        raise Invalid(step, what, "is not canonical base64")
    return decoded


def _parse_signature(line: str) -> Signature:
    if not line.startswith(_DASH):
        raise Invalid("note 5", "a signature line", "does not begin with a dash and a space")
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not space or not _is_name(name):
        raise Invalid("note 5", "a signature line", "has no proper key name")
    decoded = decode_base64("note 5", "a signature", encoded)
    if len(decoded) <= _KEY_ID_SIZE:
        raise Invalid("note 5", "a signature", "is too short")
    return Signature(name, decoded[:_KEY_ID_SIZE], decoded[_KEY_ID_SIZE:])


def _format_signature(name: str, key_id: bytes, signature: bytes) -> bytes:
    return f"{_DASH}{name} {b64encode(key_id + signature).decode()}\n".encode()


def _parse_vkey(vkey: str, wanted: int) -> tuple[str, bytes, bytes]:
    """Return name, key id and public key.

    1. Not longer than we read, three parts, a proper name.
    2. The key is of the wanted type and has 32 bytes.
    3. The key id is the one that name, type and key give.
    """
    # 1.
    if len(vkey) > VKEY_LIMIT:
        raise Invalid("vkey 1", "the verifier key", f"is longer than {VKEY_LIMIT} characters")
    name, _, rest = vkey.partition("+")
    # The key itself may hold a +, the name and the id may not.
    key_id, plus, encoded = rest.partition("+")
    if not plus or not _is_name(name):
        raise Invalid("vkey 1", "the verifier key", "has not the form name+id+key")
    # 2.
    decoded = decode_base64("vkey 2", "the verifier key", encoded)
    if len(decoded) != 1 + _KEY_SIZE or decoded[0] != wanted:
        raise Invalid("vkey 2", "the verifier key", f"is no Ed25519 key of type {wanted:02x}")
    public = decoded[1:]
    # 3.
    expected = _key_id(name, wanted, public)
    if key_id != expected.hex():
        raise Invalid("vkey 3", "the key id", "does not belong to name and key")
    return name, expected, public


def _format_vkey(name: str, kind: int, public: bytes) -> str:
    return f"{name}+{_key_id(name, kind, public).hex()}+{b64encode(bytes([kind]) + public).decode()}"


def _key_id(name: str, kind: int, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:_KEY_ID_SIZE]


def ed25519_key(step: str, what: str, public: bytes) -> Ed25519PublicKey:
    """The key of these 32 bytes, or Invalid.

    Refused are also keys of small order, under which anybody's signature verifies, and second spellings of keys, on
    which programs differ.
    """
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)
    if len(public) != _KEY_SIZE or y >= _P or y in _SMALL_ORDER:
        raise Invalid(step, what, "is no Ed25519 key")
    try:
        return Ed25519PublicKey.from_public_bytes(public)
    except ValueError:
        raise Invalid(step, what, "is no Ed25519 key") from None


def _lines_of(note: Note, name: str, key_id: bytes) -> list[bytes]:
    # 1.
    lines = [one.signature for one in note.signatures if one.name == name and one.key_id == key_id]
    if not lines:
        raise Invalid("signature 1", "the note", "is not signed by the given key")
    return lines


def _verify_ed25519(key: Ed25519PublicKey, signature: bytes, message: bytes) -> None:
    # 2.
    try:
        key.verify(signature, message)
    except InvalidSignature:
        raise Invalid("signature 2", "a signature of the given key", "does not verify") from None


def _cosigned(text: bytes, time: int) -> bytes:
    return b"cosignature/v1\ntime %d\n" % time + text


def _is_name(name: str) -> bool:
    return 0 < len(name) <= NAME_LIMIT and not any(one.isspace() or one < " " or one == "+" for one in name)


def _require_name(name: str) -> None:
    if not _is_name(name):
        raise Invalid("signing", "the key name", "is empty, too long, or has a space or plus in it")


def _require_text(text: bytes) -> None:
    # What we could not read back we do not sign.
    if not text.endswith(b"\n") or len(text) > NOTE_LIMIT:
        raise Invalid("signing", "the text", "is too long or does not end in a newline")
