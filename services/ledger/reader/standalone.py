"""Checks an evidence bundle of Consent Ledger offline, in nine steps; needs Python 3.9 or newer and nothing else.

    python3 verify.py bundle.zip --vkey FILE

FILE holds the log's verifier key, one line, from a source you trust and not from the bundle. Exit status: 0 everything
checked here holds, 1 something does not (the step is named) or no key was given, 2 the call makes no sense.

Written from docs/formats.md, by which the numbers of the steps go. It brings its own Ed25519 (RFC 8032), AES-256-GCM
(SP 800-38D) and RSA verification: slow, plain, and good only for verifying, since nothing here keeps a secret. What it
leaves to `consent-ledger verify` it says at the end of each run.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import hashlib
import hmac
import json
import re
import struct
import sys
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from typing import Any, Tuple

FORMAT = "consent-ledger/evidence/1"
LEFT_OUT = (
    "the records in records/ are not made anew from statement and register",
    "statements are read as strict JSON, but not held against the JSON Schema of their type",
    "the notice keys and DKIM keys are the bundle's own: compare them with a source you trust",
    "cosignatures of witnesses are not judged here",
    "of timestamps, what they are about and that time is read, not whose signature is under them",
)

HASH = re.compile(r"[0-9a-f]{64}\Z")
SOFTWARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .:/+_@-]{0,126}\Z")
DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,19})\Z")
SUBJECT = re.compile(
    r"(?:0\.system|(?:0|[1-9][0-9]{0,8})\.[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\Z"
)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{3})Z\Z", re.ASCII)
FILE = re.compile(
    r"(?:manifest\.json|checkpoint\.txt|vkey\.txt|fresh-vkey\.txt|keys\.json|notice-keys\.json|dkim-keys\.json"
    r"|README\.txt|verify\.py|proofs/latest\.json|(?:statements|effects|timestamps)/(?:0|[1-9][0-9]{0,19})\.json"
    r"|records/(?:0|[1-9][0-9]{0,19})\.jsonld|register/[0-9a-f]{64}\.json|notices/[0-9a-f]{64}\.txt"
    r"|attachments/[0-9a-f]{64}"
    r"|opened/(?:0|[1-9][0-9]{0,19})-(?:evidence\.json|brief\.json|attachment-[0-9]\.(?:eml|bin)))\Z"
)
PERMISSIVE = {"ConsentGiven", "ConsentRenewed", "RestrictionLifted"}
RESTRICTIVE = {
    "ConsentRefused", "ConsentWithdrawn", "ConsentRevoked", "ConsentExpired", "ConsentInvalidated",
    "ObjectionRaised", "RestrictionSet",
}  # fmt: skip
RECORDED = {"ConsentRequested", "ConsentGiven", "ConsentRefused", "ConsentWithdrawn", "ConsentExpired"}
IN_FORCE = {"ConsentGiven", "RenewedConsentGiven"}
EVERYTHING = "everything:all"
LATEST = "proofs/latest.json"
CLOCKS_APART_MS = 120_000
DEPTH_LIMIT = 64
PARTS_LIMIT = 20
# Of a To header: an address, or words or a quoted string and an address in angle brackets.
ADDRESS = r"([^\x00-\x20<>\"(),:;@\\\[\]]+@[^\x00-\x20<>\"(),:;@\\\[\]]+)"
RECIPIENT = re.compile(
    rf"{ADDRESS}\Z|(?:[^\x00-\x1f<>\"(),:;@\\\[\]]*|\"(?:[^\x00-\x1f\"\\]|\\[ -~])*\" ?)<{ADDRESS}>\Z"
)
SENT = re.compile(r"[!-~]{1,200}\Z")
FILES_LIMIT, FILE_LIMIT, ARCHIVE_LIMIT = 4096, 16 * 1024 * 1024, 256 * 1024 * 1024


class Invalid(Exception):
    """The bundle does not hold: at which step, and why."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(why)
        self.step = step


# -- Ed25519 (RFC 8032 §5.1.7). Points are (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z.

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
NEUTRAL = (0, 1, 1, 0)
Point = Tuple[int, int, int, int]


def _add(one: Point, other: Point) -> Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % P
    b = (one[1] + one[0]) * (other[1] + other[0]) % P
    c = 2 * one[3] * other[3] * D % P
    d = 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def _point(encoded: bytes) -> Point | None:
    """The point that 32 bytes stand for, or None (§5.1.3)."""
    number = int.from_bytes(encoded, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return (x, y, 1, x * y % P)


def _encoded(point: Point) -> bytes:
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _times8(point: Point) -> Point:
    for _ in range(3):
        point = _add(point, point)
    return point


BASE = _point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little")) or NEUTRAL


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `public` (32 bytes) has signed `message`: R = S·B - k·A, compared as bytes, with S below the order."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, s = _point(public), int.from_bytes(signature[32:], "little")
    # Of small order: under such a key anybody's signature verifies.
    if key is None or s >= ORDER or _encoded(_times8(key)) == _encoded(NEUTRAL):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    minus = (P - key[0], key[1], key[2], P - key[3])
    table = {(0, 0): NEUTRAL, (1, 0): BASE, (0, 1): minus, (1, 1): _add(BASE, minus)}
    total = NEUTRAL
    for bit in range(252, -1, -1):
        total = _add(_add(total, total), table[s >> bit & 1, k >> bit & 1])
    return _encoded(total) == signature[:32]


# -- AES-256-GCM (FIPS 197, SP 800-38D): opening only.


def _times2(byte: int) -> int:
    return byte << 1 ^ (0x11B if byte & 0x80 else 0)


def _sbox() -> list[int]:
    power, log = [0] * 255, [0] * 256
    value = 1
    for exponent in range(255):
        power[exponent], log[value] = value, exponent
        value ^= _times2(value)
    box = []
    for byte in range(256):
        inverse = power[(255 - log[byte]) % 255] if byte else 0
        spread = inverse | inverse << 8
        box.append((inverse ^ spread >> 7 ^ spread >> 6 ^ spread >> 5 ^ spread >> 4 ^ 0x63) & 0xFF)
    return box


SBOX = _sbox()
# SubBytes and MixColumns of one byte as one word; the other three columns are its rotations.
MIXED = [_times2(s) << 24 | s << 16 | s << 8 | _times2(s) ^ s for s in SBOX]


def _round_keys(key: bytes) -> list[int]:
    words = list(struct.unpack(">8I", key))
    constant = 1
    for number in range(8, 60):
        word = words[-1]
        if number % 8 == 0:
            word = (word << 8 | word >> 24) & 0xFFFFFFFF
        if number % 4 == 0:
            word = int.from_bytes(bytes(SBOX[byte] for byte in word.to_bytes(4, "big")), "big")
        if number % 8 == 0:
            word ^= constant << 24
            constant = _times2(constant)
        words.append(words[number - 8] ^ word)
    return words


def _rotated(word: int, bits: int) -> int:
    return (word >> bits | word << (32 - bits)) & 0xFFFFFFFF


def _encrypt_block(keys: list[int], block: bytes) -> bytes:
    state = [word ^ key for word, key in zip(struct.unpack(">4I", block), keys)]
    for start in range(4, 56, 4):
        state = [
            MIXED[state[c] >> 24]
            ^ _rotated(MIXED[state[(c + 1) % 4] >> 16 & 0xFF], 8)
            ^ _rotated(MIXED[state[(c + 2) % 4] >> 8 & 0xFF], 16)
            ^ _rotated(MIXED[state[(c + 3) % 4] & 0xFF], 24)
            ^ keys[start + c]
            for c in range(4)
        ]
    last = [
        SBOX[state[c] >> 24] << 24
        | SBOX[state[(c + 1) % 4] >> 16 & 0xFF] << 16
        | SBOX[state[(c + 2) % 4] >> 8 & 0xFF] << 8
        | SBOX[state[(c + 3) % 4] & 0xFF]
        for c in range(4)
    ]
    return struct.pack(">4I", *(word ^ key for word, key in zip(last, keys[56:])))


def _ghash(h: int, data: bytes) -> int:
    """GHASH over whole blocks. The 16 tables hold h times each byte at each place of a block."""
    shifted = [h]
    for _ in range(127):
        shifted.append(shifted[-1] >> 1 ^ (0xE1 << 120 if shifted[-1] & 1 else 0))
    tables = []
    for place in range(16):
        table = [0] * 256
        for bit in range(8):
            for low in range(1 << bit):
                table[1 << bit | low] = table[low] ^ shifted[place * 8 + 7 - bit]
        tables.append(table)
    total = 0
    for at in range(0, len(data), 16):
        block = (total ^ int.from_bytes(data[at : at + 16], "big")).to_bytes(16, "big")
        total = 0
        for table, byte in zip(tables, block):
            total ^= table[byte]
    return total


def aes_gcm_open(key: bytes, nonce: bytes, sealed: bytes, bound: bytes) -> bytes | None:
    """What AES-256-GCM with a nonce of 12 bytes has sealed, or None if the tag is another."""
    if len(key) != 32 or len(nonce) != 12 or len(sealed) < 16:
        return None
    keys, ciphertext, tag = _round_keys(key), sealed[:-16], sealed[-16:]
    h = int.from_bytes(_encrypt_block(keys, bytes(16)), "big")
    padded = b"".join(part + bytes(-len(part) % 16) for part in (bound, ciphertext))
    total = _ghash(h, padded + struct.pack(">2Q", 8 * len(bound), 8 * len(ciphertext)))
    mask = _encrypt_block(keys, nonce + b"\x00\x00\x00\x01")
    if not hmac.compare_digest((total ^ int.from_bytes(mask, "big")).to_bytes(16, "big"), tag):
        return None
    blocks = range(2, 2 + (len(ciphertext) + 15) // 16)
    stream = b"".join(_encrypt_block(keys, nonce + number.to_bytes(4, "big")) for number in blocks)
    whole = int.from_bytes(ciphertext, "big") ^ int.from_bytes(stream[: len(ciphertext)], "big")
    return whole.to_bytes(len(ciphertext), "big")


# -- DER (X.690); RSA with SHA-256 (RFC 8017 §8.2.2), for DKIM.


def _der(data: bytes, wanted: int) -> tuple[bytes, bytes]:
    """Content of the DER element `data` begins with, and what follows it."""
    if len(data) < 2 or data[0] != wanted:
        raise ValueError
    length, start = data[1], 2
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError
    return data[start : start + length], data[start + length :]


def rsa_key(spki: bytes) -> tuple[int, int]:
    """Modulus and exponent of a SubjectPublicKeyInfo; ValueError if it is no RSA key."""
    inside, _ = _der(spki, 0x30)
    algorithm, rest = _der(inside, 0x30)
    if not algorithm.startswith(bytes.fromhex("06092a864886f70d010101")):
        raise ValueError
    bits, _ = _der(rest, 0x03)
    numbers, _ = _der(bits[1:], 0x30)
    modulus, rest = _der(numbers, 0x02)
    exponent, _ = _der(rest, 0x02)
    key = (int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big"))
    # Of 512 bits anybody finds the private key, and with 1 as its exponent anybody signs without one.
    if key[0].bit_length() < 1024 or key[1] < 3 or not key[1] & 1:
        raise ValueError
    return key


def rsa_verify(key: tuple[int, int], message: bytes, signature: bytes) -> bool:
    """Whether this is the PKCS #1 v1.5 signature of `message` with SHA-256."""
    modulus, exponent = key
    size = (modulus.bit_length() + 7) // 8
    number = int.from_bytes(signature, "big")
    if len(signature) != size or number >= modulus or size < 128:
        return False
    digest = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(message).digest()
    wanted = b"\x00\x01" + b"\xff" * (size - len(digest) - 3) + b"\x00" + digest
    return pow(number, exponent, modulus).to_bytes(size, "big") == wanted


# -- Forms: JSON, base64, numbers, times.


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _endless(_: str) -> None:
    raise ValueError


def _integer(text: str) -> int:
    if len(text) > 308 and float(text) in (float("inf"), float("-inf")):
        raise ValueError
    return int(text)


def _too_deep(value: Any) -> bool:
    """Whether more than 64 objects and arrays stand inside one another."""
    inside = [value]
    for _ in range(DEPTH_LIMIT + 1):
        inside = [one for one in inside if isinstance(one, (dict, list))]
        if not inside:
            return False
        inside = [inner for one in inside for inner in (one.values() if isinstance(one, dict) else one)]
    return True


def strict_json(step: int, what: str, data: bytes) -> Any:
    """One JSON text in UTF-8, no name twice in an object, no endless number, no lone surrogate, nothing too deep."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_endless, parse_int=_integer)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise Invalid(step, what + " is not strict JSON in UTF-8") from None
    if _too_deep(value):
        raise Invalid(step, what + " is nested too deep")
    return value


def exactly(step: int, what: str, value: Any, *names: str) -> dict[str, Any]:
    """An object with these members and no others."""
    if not isinstance(value, dict) or set(value) != set(names):
        raise Invalid(step, what + " is not in its form")
    return value


def listed(step: int, what: str, value: Any, limit: int) -> list[Any]:
    """An array; what can be gone through like one is none."""
    if not isinstance(value, list) or len(value) > limit:
        raise Invalid(step, what + " is no array of at most %d" % limit)
    return value


def hashes_of(step: int, value: Any, limit: int = 64) -> list[bytes]:
    return [unbase64url(step, "a hash", one) for one in listed(step, "a proof", value, limit)]


def canonical_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def unbase64url(step: int, what: str, text: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (binascii.Error, ValueError, AttributeError):
        raise Invalid(step, what + " is not base64url") from None
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
        raise Invalid(step, what + " is not canonical base64url")
    return raw


def unbase64(step: int, what: str, text: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(step, what + " is not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise Invalid(step, what + " is not canonical base64")
    return raw


def decimal(step: int, what: str, text: object) -> int:
    if not isinstance(text, str) or not DECIMAL.match(text) or int(text) >= 2**64:
        raise Invalid(step, what + " is not a u64 in decimal")
    return int(text)


def hash_bytes(step: int, what: str, text: object) -> bytes:
    if not isinstance(text, str) or not HASH.match(text):
        raise Invalid(step, what + " is not 64 hexadecimal digits")
    return bytes.fromhex(text)


def millis(step: int, what: str, text: object) -> int:
    found = TIME.match(text) if isinstance(text, str) else None
    if found is None:
        raise Invalid(step, what + " is no time")
    numbers = [int(one) for one in found.groups()]
    seconds = calendar.timegm((*numbers[:6], 0, 0, 0))
    if time.gmtime(seconds)[:6] != tuple(numbers[:6]):
        raise Invalid(step, what + " is no time of the calendar")
    return seconds * 1000 + numbers[6]


def moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# -- The archive (formats §18).

LOCAL, CENTRAL, END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")


def pack(files: dict[str, bytes]) -> bytes:
    """The one archive of these files."""
    parts: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name, content in sorted((name.encode("ascii"), content) for name, content in files.items()):
        check, size = binascii.crc32(content), len(content)
        head = LOCAL.pack(b"PK\x03\x04", 20, 0, 0, 0, 33, check, size, size, len(name), 0) + name
        listed = (0x0314, 20, 0, 0, 0, 33, check, size, size, len(name), 0, 0, 0, 0, 0o100644 << 16, offset)
        directory.append(CENTRAL.pack(b"PK\x01\x02", *listed) + name)
        parts += [head, content]
        offset += len(head) + size
    joined = b"".join(directory)
    end = END.pack(b"PK\x05\x06", 0, 0, len(directory), len(directory), len(joined), offset, 0)
    return b"".join([*parts, joined, end])


def unpack(data: bytes) -> dict[str, bytes]:
    """Files by name, read from the front; Invalid unless packing them again gives the same bytes."""
    if len(data) > ARCHIVE_LIMIT:
        raise Invalid(1, "the archive is too long")
    files: dict[str, bytes] = {}
    at = 0
    while data[at : at + 4] == b"PK\x03\x04" and len(files) <= FILES_LIMIT:
        if len(data) < at + LOCAL.size:
            raise Invalid(1, "the archive ends inside a header")
        *_, size, name_size, _ = LOCAL.unpack_from(data, at)
        start = at + LOCAL.size + name_size
        name = data[at + LOCAL.size : start].decode("latin-1")
        if size > FILE_LIMIT or len(data) < start + size or not FILE.match(name) or name in files:
            raise Invalid(1, "the archive has a file that no bundle has")
        files[name], at = data[start : start + size], start + size
    if len(files) > FILES_LIMIT or pack(files) != data:
        raise Invalid(1, "the archive is not canonical: packed anew its files give other bytes")
    return files


# -- Signed notes (formats §11).


def is_name(name: str) -> bool:
    """Whether a key may have this name."""
    return 0 < len(name) <= 255 and not any(one.isspace() or one < " " or one == "+" for one in name)


def parse_vkey(step: int, text: str, kind: int) -> tuple[str, bytes, bytes]:
    """Name, key id and public key of a verifier key of this type."""
    name, _, rest = text.partition("+")
    key_id, plus, encoded = rest.partition("+")
    raw = unbase64(step, "the verifier key", encoded) if plus and is_name(name) and len(text) <= 512 else b""
    if len(raw) != 33 or raw[0] != kind:
        raise Invalid(step, f"the verifier key is no Ed25519 key of type {kind:02x}")
    if key_id != sha256(name.encode() + b"\n" + raw)[:4].hex():
        raise Invalid(step, "the verifier key's id does not belong to name and key")
    return name, bytes.fromhex(key_id), raw[1:]


def parse_note(step: int, data: bytes) -> tuple[bytes, list[tuple[str, bytes, bytes]]]:
    """The text of a note, and its signature lines as (name, key id, signature)."""
    try:
        text, gap, lines = data.decode("utf-8").rpartition("\n\n")
    except UnicodeDecodeError:
        raise Invalid(step, "the checkpoint is not UTF-8") from None
    if not gap or not lines.endswith("\n") or len(data) > 65536 or any(c < " " and c != "\n" for c in text + lines):
        raise Invalid(step, "the checkpoint is no signed note")
    signatures: list[tuple[str, bytes, bytes]] = []
    for line in lines[:-1].split("\n"):
        dash, _, rest = line.partition(" ")
        name, space, encoded = rest.partition(" ")
        raw = unbase64(step, "a signature", encoded)
        if dash != "\u2014" or not is_name(name) or not space or len(raw) <= 4 or len(signatures) >= 64:
            raise Invalid(step, "the checkpoint has a malformed signature line")
        signatures.append((name, raw[:4], raw[4:]))
    return (text + "\n").encode(), signatures


# -- The log (formats §5 to §7).


def inclusion_root(leaf: bytes, index: int, size: int, hashes: list[bytes]) -> bytes | None:
    """The root that a leaf at this index of a tree of this size leads to (RFC 9162 §2.1.3.2), or None."""
    if not 0 <= index < size:
        return None
    last, current = size - 1, sha256(b"\x00" + leaf)
    for sibling in hashes:
        if last == 0 or len(sibling) != 32:
            return None
        if index & 1 or index == last:
            current = sha256(b"\x01" + sibling + current)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            current = sha256(b"\x01" + current + sibling)
        index, last = index >> 1, last >> 1
    return current if last == 0 else None


def begins_with(old: int, old_root: bytes, size: int, root: bytes, hashes: list[bytes]) -> bool:
    """Whether the tree of `size` leaves begins with the one of `old` leaves (RFC 9162 §2.1.4.2)."""
    if not 0 < old <= size or any(len(one) != 32 for one in hashes):
        return False
    if old == size:
        return not hashes and old_root == root
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    path = hashes if old & (old - 1) else [old_root, *hashes]
    if not path:
        return False
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = sha256(b"\x01" + sibling + first), sha256(b"\x01" + sibling + second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = sha256(b"\x01" + second + sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and (first, second) == (old_root, root)


def stamped_at(answer: bytes, text: bytes) -> str | None:
    """When by a time-stamp authority's answer (RFC 3161) this text was there, None if it is no answer about it."""
    try:
        response, behind = _der(answer, 0x30)
        status, token = _der(response, 0x30)
        if behind or _der(status, 0x02)[0] not in (b"\x00", b"\x01") or len(answer) > 65536:
            return None
        kind, content = _der(_der(token, 0x30)[0], 0x06)
        signed = _der(_der(content, 0xA0)[0], 0x30)[0]
        inside, wrapped = _der(_der(_der(_der(signed, 0x02)[1], 0x31)[1], 0x30)[0], 0x06)
        if (kind.hex(), inside.hex()) != ("2a864886f70d010702", "2a864886f70d0109100104"):
            return None
        info = _der(_der(_der(wrapped, 0xA0)[0], 0x04)[0], 0x30)[0]
        imprint, rest = _der(_der(_der(info, 0x02)[1], 0x06)[1], 0x30)
        algorithm, digest = _der(imprint, 0x30)
        said = re.match(rb"([0-9]{14})(?:\.[0-9]{1,9})?Z\Z", _der(_der(rest, 0x02)[1], 0x18)[0])
        sha_256 = _der(algorithm, 0x06)[0].hex() == "608648016503040201"
        if said is None or not sha_256 or _der(digest, 0x04)[0] != sha256(text):
            return None
        written = re.sub("(....)(..)(..)(..)(..)(..)", r"\1-\2-\3T\4:\5:\6.000Z", said[1].decode())
        return moment(millis(2, "the time of a timestamp", written) // 1000)
    except ValueError:
        return None


def commitment(opening: bytes, pin: bytes, label: bytes, version: int, statement: bytes) -> bytes:
    message = opening + pin + label + version.to_bytes(8, "big") + statement
    return hmac.new(b"consent-ledger/v1/commitment", message, hashlib.sha256).digest()


def map_place(step: int, label: bytes, place: dict[str, Any], leaf: bytes) -> dict[str, Any] | None:
    """The record of a label in the state map of this MAP_ROOT, None if it is absent (formats §22, step 4)."""
    covers, map_root, labels = int.from_bytes(leaf[1:9], "big"), leaf[9:41], int.from_bytes(leaf[41:49], "big")
    exactly(step, "a place in the state map", place, "record", "siblings")
    siblings = hashes_of(step, place["siblings"], 256)
    record, depth = place["record"], len(siblings)
    bad = depth > 256 or any(len(one) != 32 for one in siblings) or siblings[:1] == [bytes(32)]
    if bad or (record is None and depth == 0) != (labels == 0) or (labels > 1) != (depth > 0):
        raise Invalid(step, "the place of a label cannot be in a state map of %d labels" % labels)
    node = bytes(32)
    if record is not None:
        exactly(step, "a record of the state map", record, "index", "label", "leaf_hash", "version")
        stands = hash_bytes(step, "a label", record["label"])
        numbers = [decimal(step, "a number", record[name]) for name in ("version", "index")]
        if numbers[0] < 1 or numbers[1] >= covers:
            raise Invalid(step, "a record of the state map is that of no leaf before it")
        node = sha256(b"\x02" + stands + struct.pack(">2Q", *numbers) + hash_bytes(step, "a hash", record["leaf_hash"]))
        apart = int.from_bytes(stands, "big") ^ int.from_bytes(label, "big")
        if apart.bit_length() > 256 - depth:
            raise Invalid(step, "the record at a label's place does not belong there")
    for at, sibling in zip(range(depth - 1, -1, -1), siblings):
        right = label[at // 8] >> (7 - at % 8) & 1
        node = sha256(b"\x03" + (sibling + node if right else node + sibling))
    if node != map_root:
        raise Invalid(step, "the place of a label does not lead to the root of the state map")
    return record if record is not None and stands == label else None


def matter_of(kind: str, data: dict[str, Any]) -> str | None:
    """What a statement is about (formats §4)."""
    pair = "{}/{}".format(data.get("purpose"), data.get("channel"))
    if kind in {"ConsentRequested", "ConsentRefused", "ConsentExpired"}:
        return ("purpose:" if data.get("stage") == "proven" else "ask:") + pair
    if kind in PERMISSIVE or kind in RESTRICTIVE or kind == "ConsentRevoked":
        return EVERYTHING if data.get("scope") == "everything" else "purpose:" + pair
    if kind == "ConsentUsed" or (kind in {"MessageSent", "DataDisclosed"} and data.get("permit") is not None):
        return "use:" + pair
    if kind in {"MessageSent", "RetentionExecuted", "DataCollected", "DataDisclosed"}:
        return "data:{}".format(data.get("activity"))
    if kind.startswith("Request") or kind in {"ErasureOrdered", "ErasureHeld", "DataErased", "ErasureCompleted"}:
        return "request:{}".format(data.get("request"))
    return None


@dataclass(frozen=True)
class Entry:
    """One recorded statement; `event` is (label, version, previous + 1, recorded at in ms)."""

    index: int
    filed: str
    overtaken: bool
    pin: bytes
    event: tuple[bytes, int, int, int]
    leaf_hash: bytes
    statement: dict[str, Any]
    said: dict[str, Any]
    """The entry as the file has it"""

    @property
    def kind(self) -> str:
        return str(self.statement["type"])

    @property
    def id(self) -> str:
        return str(self.statement["id"])

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = self.statement["data"]
        return found

    @property
    def software(self) -> str:
        """What stated it, by its own word; version 1 of a type has no such member."""
        return str(self.data.get("software", ""))


def stated_by(entries: list[Entry]) -> list[tuple[str, str]]:
    """Each software with the indexes of its statements, `4-9, 12`; "" is of those that name none."""
    spans: dict[str, list[tuple[int, int]]] = {}
    before = None
    for one in entries:
        own = spans.setdefault(one.software, [])
        own.append((own.pop()[0] if one.software == before else one.index, one.index))
        before = one.software
    return [
        (name, ", ".join("%d" % first if first == last else "%d-%d" % (first, last) for first, last in own))
        for name, own in spans.items()
    ]


class Bundle:
    """One bundle on its way through the steps; each relies on those before it."""

    def __init__(self, data: bytes, vkey: str | None) -> None:
        self.data, self.vkey = data, vkey
        self.found: list[tuple[int, str]] = []
        self.files: dict[str, bytes] = {}
        self.subject = self.origin = self.purpose = self.channel = self.conclusion = ""
        self.size, self.root = 0, b""
        self.entries: list[Entry] = []
        self.opened: dict[tuple[str, str], bytes] = {}
        self.registers: dict[str, dict[str, Any]] = {}
        self.served: set[str] = set()
        self.grades: list[tuple[Entry, str, str]] = []
        self.dkim: dict[tuple[str, str], tuple[int, int]] = {}

    def verify(self) -> None:
        self.step_1()
        self.step_2()
        self.step_3()
        self.step_4()
        self.step_5()
        self.step_6()
        self.step_8()
        self.step_7()
        self.step_9()
        self.found.sort(key=lambda one: one[0])

    def say(self, step: int, text: str) -> None:
        self.found.append((step, text))

    def file(self, step: int, name: str) -> bytes:
        if name not in self.files:
            raise Invalid(step, f"the file {name} is missing")
        return self.files[name]

    def line(self, step: int, name: str) -> str:
        raw = self.file(step, name)
        if raw.count(b"\n") != 1 or not raw.endswith(b"\n") or not raw.isascii():
            raise Invalid(step, f"the file {name} is not one line of ASCII")
        text = raw.decode("ascii")
        return text[:-1]

    def step_1(self) -> None:
        self.files = unpack(self.data)
        raw = self.file(1, "manifest.json")
        members = ("channel", "checkpoint_size", "files", "format", "origin", "purpose", "subject")
        manifest = exactly(1, "the manifest", strict_json(1, "the manifest", raw), *members)
        if canonical_json(manifest) != raw or manifest["format"] != FORMAT:
            raise Invalid(1, "the manifest is not in its form")
        hashes = {name: sha256(content).hex() for name, content in self.files.items() if name != "manifest.json"}
        if manifest["files"] != hashes:
            raise Invalid(1, "the manifest does not name exactly the files there are, each by its hash")
        self.subject, self.origin = manifest["subject"], manifest["origin"]
        self.purpose, self.channel = manifest["purpose"], manifest["channel"]
        self.size = decimal(1, "the size", manifest["checkpoint_size"])
        named = (self.subject, self.origin, self.purpose, self.channel)
        if not all(isinstance(one, str) for one in named):
            raise Invalid(1, "the manifest names something that is no text")
        if not SUBJECT.match(self.subject) or not NAME.match(self.purpose) or not NAME.match(self.channel):
            raise Invalid(1, "the manifest names no subject, purpose and channel")
        self.say(1, "the archive is canonical; %d files, each with the hash its manifest says" % len(self.files))

    def step_2(self) -> None:
        enclosed = self.line(2, "vkey.txt")
        fresh_line = self.line(2, "fresh-vkey.txt")
        self.hold_against_the_keys_given(enclosed, fresh_line)
        name, key_id, public = parse_vkey(2, enclosed, 1)
        text, signatures = parse_note(2, self.file(2, "checkpoint.txt"))
        mine = [signature for who, number, signature in signatures if (who, number) == (name, key_id)]
        if not mine or not all(ed25519_verify(public, text, one) for one in mine):
            raise Invalid(2, "the log's key has not signed the checkpoint")
        lines = text.decode().split("\n")
        if len(lines) != 4 or lines[3] or lines[0] != name or name != self.origin:
            raise Invalid(2, "the checkpoint is not one of the log that the manifest names")
        self.root = unbase64(2, "the root", lines[2])
        if decimal(2, "the size", lines[1]) != self.size or self.size < 1 or len(self.root) != 32:
            raise Invalid(2, "the checkpoint is not the one the manifest names")
        fresh, fresh_id, fresh_public = parse_vkey(2, fresh_line, 4)
        if fresh != self.origin + "/fresh":
            raise Invalid(2, "the fresh line is by a key of another name")
        times = []
        for who, number, signature in signatures:
            if (who, number) == (fresh, fresh_id):
                seconds = int.from_bytes(signature[:8], "big")
                signed = b"cosignature/v1\ntime %d\n" % seconds + text
                if seconds >= 2**63 or not ed25519_verify(fresh_public, signed, signature[8:]):
                    raise Invalid(2, "the fresh line does not verify")
                times.append(seconds)
        if not times:
            raise Invalid(2, "the checkpoint has no fresh line")
        others = len(signatures) - len(mine) - len(times)
        self.say(2, "the checkpoint of %s, %d leaves, is signed by the log's key; newest at %s by the fresh key in here"
                    % (self.origin, self.size, moment(max(times))))  # fmt: skip
        stamps = sorted(name for name in self.files if name.startswith("timestamps/"))
        if len(stamps) > 64:
            raise Invalid(2, "the bundle has too many timestamps")
        for name in stamps:
            self.timestamp(name)
        if others:
            self.say(2, "%d more signature line(s) on it, of witnesses perhaps, were not judged" % others)

    def hold_against_the_keys_given(self, enclosed: str, fresh_line: str) -> None:
        """The file of keys has the log's, one line each, perhaps with ` until <size>`, and perhaps its fresh key."""
        if self.vkey is None:
            return
        fresh = [line for line in self.vkey.split("\n") if line.partition("+")[0].endswith("/fresh")]
        keys = dict(line.strip().partition(" until ")[::2] for line in self.vkey.split("\n"))
        if enclosed not in keys or enclosed in fresh:
            raise Invalid(2, "the verifier key you gave is not the one this bundle names")
        if keys[enclosed] and decimal(2, "the last size", keys[enclosed]) < self.size:
            raise Invalid(2, "the verifier key was retired before the log had this size")
        if fresh and fresh_line not in keys:
            raise Invalid(2, "the fresh key you gave is not the one this bundle names")

    def timestamp(self, name: str) -> None:
        value = exactly(2, name, strict_json(2, name, self.files[name]), "answer", "hashes", "root")
        root, size = hash_bytes(2, "a root", value["root"]), decimal(2, name, name[11:-5])
        hashes = hashes_of(2, value["hashes"], 65)
        if not begins_with(size, root, self.size, self.root, hashes):
            raise Invalid(2, f"the checkpoint does not begin with the tree that {name} is about")
        text = "%s\n%d\n%s\n" % (self.origin, size, base64.b64encode(root).decode())
        said = stamped_at(unbase64url(2, "a timestamp", value["answer"]), text.encode())
        if said is None:
            raise Invalid(2, name + " is not granted, or about something else")
        self.say(2, "the log's first %d leaves were there at %s, by an authority whose signature is not judged here"
                    % (size, said))  # fmt: skip

    def step_3(self) -> None:
        names = [name for name in self.files if name.startswith("statements/")]
        for name in sorted(names, key=lambda one: int(one[11:-5])):
            entry = self.entry(3, 4, name, strict_json(3, name, self.files[name]))
            if name != "statements/%d.json" % entry.index:
                raise Invalid(3, name + " holds another index than its name says")
            self.entries.append(entry)
        if not self.entries:
            raise Invalid(3, "the bundle has no statements")
        self.say(3, "%d statement(s) in the log, each at its index" % len(self.entries))

    def entry(self, step: int, later: int, name: str, value: Any) -> Entry:
        """A statement that the log holds; what is wrong with its words is said to fail at the `later` step."""
        members = ("hashes", "index", "leaf", "matter", "opening", "overtaken", "pin", "statement")
        exactly(step, name, value, *members)
        if type(value["overtaken"]) is not bool or not isinstance(value["matter"], str):
            raise Invalid(step, name + " is no entry")
        index = decimal(step, "the index", value["index"])
        leaf = unbase64url(step, "the leaf", value["leaf"])
        raw = unbase64url(step, "the statement", value["statement"])
        pin = hash_bytes(step, "the pin", value["pin"])
        opening = hash_bytes(step, "the opening", value["opening"])
        if len(leaf) != 89 or leaf[0] != 1:
            raise Invalid(step, name + " is no EVENT")
        version, previous = struct.unpack(">2Q", leaf[33:49])
        event = (leaf[1:33], version, previous, int.from_bytes(leaf[81:], "big"))
        if not hmac.compare_digest(commitment(opening, pin, leaf[1:33], version, raw), leaf[49:81]):
            raise Invalid(step, "the leaf at index %d commits to another statement" % index)
        if inclusion_root(leaf, index, self.size, hashes_of(step, value["hashes"])) != self.root:
            raise Invalid(step, "the leaf at index %d is not in the log" % index)
        if len(raw) > 32768 or raw[:1] != b"{" or raw[-1:] != b"}":
            raise Invalid(later, "the statement at index %d is none" % index)
        statement = strict_json(later, "the statement at index %d" % index, raw)
        attributes = ("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data")
        exactly(later, "the statement at index %d" % index, statement, *attributes)
        return Entry(index, value["matter"], value["overtaken"], pin, event, sha256(b"\x00" + leaf), statement, value)

    def step_4(self) -> None:
        if not self.origin.endswith("/ledger/log/" + self.subject.partition(".")[0]):
            raise Invalid(4, "the origin is not that of the log of the subject's shard")
        pair = f"{self.purpose}/{self.channel}"
        own = {"purpose:" + pair, "ask:" + pair, "use:" + pair, EVERYTHING}
        if len({one.pin for one in self.entries}) != 1:
            raise Invalid(4, "the bundle has two pins for one subject: that is proof of fraud")
        ids: set[tuple[str, str]] = set()
        chains: dict[tuple[str, bool], list[Entry]] = {}
        restricted: dict[str, str] = {}
        before = 0
        for one in self.entries:
            said, where = one.statement, "the statement at index %d" % one.index
            schema = "consent-ledger/%s/%d" % (one.kind, 2 if "software" in one.data else 1)
            if said["dataschema"] != schema or not SOFTWARE.match(one.data.get("software", "none")):
                raise Invalid(4, where + " is no statement we know")
            if said["subject"] != self.subject:
                raise Invalid(4, where + " is about another subject")
            if matter_of(one.kind, one.data) != one.filed:
                raise Invalid(4, where + " is about another matter than the one it is filed under")
            if one.filed not in own and not one.filed.startswith(("data:", "request:")):
                raise Invalid(4, where + " is about another purpose")
            recorded_at = one.event[3]
            if (said["source"], said["id"]) in ids or recorded_at < before:
                raise Invalid(4, where + " is recorded twice, or before an earlier one")
            if millis(4, "its time", said["time"]) > recorded_at + CLOCKS_APART_MS:
                raise Invalid(4, where + " claims a time after it was recorded")
            ids.add((said["source"], said["id"]))
            before = recorded_at
            chains.setdefault((one.filed, one.overtaken), []).append(one)
            limits = [restricted[matter] for matter in (one.filed, EVERYTHING) if matter in restricted]
            late = one.kind in PERMISSIVE and any(said["time"] <= limit for limit in limits)
            if late != one.overtaken:
                raise Invalid(4, where + " is wrongly said to be overtaken, or not to be")
            if one.kind in RESTRICTIVE:
                restricted[one.filed] = max(restricted.get(one.filed, ""), said["time"])
        labels = {key: {one.event[0] for one in chain} for key, chain in chains.items()}
        if any(len(found) != 1 for found in labels.values()) or len(set().union(*labels.values())) != len(labels):
            raise Invalid(4, "the bundle has two labels for one matter, or one for two: that is proof of fraud")
        for (matter, _), chain in chains.items():
            version, index = 0, -1
            for one in chain:
                follows = one.event[1] == version + 1
                if one.event[1] <= version or (matter in own and not follows):
                    raise Invalid(4, "the history of %s has a gap at index %d" % (matter, one.index))
                if follows and one.event[2] != index + 1:
                    raise Invalid(4, "the leaf at index %d names another before it" % one.index)
                version, index = one.event[1], one.index
        self.say(4, f"all are of the subject {self.subject} under one pin; each history has no gap")
        by = "; ".join("{} (index {})".format(name or "not named", where) for name, where in stated_by(self.entries))
        self.say(4, f"stated by, in the statements' own words: {by}")

    def step_5(self) -> None:
        keys = {}
        for one in listed(5, "keys.json", strict_json(5, "keys.json", self.file(5, "keys.json")), 4096):
            exactly(5, "a key of keys.json", one, "compartment", "key", "statement")
            if (one["statement"], one["compartment"]) in keys:
                raise Invalid(5, "keys.json names a compartment twice")
            keys[one["statement"], one["compartment"]] = unbase64url(5, "a key", one["key"])
        used: set[str] = set()
        for one in self.entries:
            for name, key_hash, ciphertext, opened_as in self.compartments(one, used):
                key = keys.pop((one.id, name), None)
                if key is None:
                    continue
                if sha256(b"consent-ledger/v1/key" + key) != bytes.fromhex(key_hash):
                    raise Invalid(5, "the key of %s at index %d is not the committed one" % (name, one.index))
                words = [b"consent-ledger/v1/seal", self.subject.encode(), name.encode(), one.id.encode()]
                content = None
                if ciphertext is not None:
                    content = aes_gcm_open(key, ciphertext[:12], ciphertext[12:], b"\x00".join(words))
                if content is None or self.files.get(opened_as) != content:
                    raise Invalid(5, f"the file {opened_as} is not what the key opens")
                used.add(opened_as)
                self.opened[one.id, name] = content
        if keys or any(name.startswith(("opened/", "attachments/")) and name not in used for name in self.files):
            raise Invalid(5, "a key, an opened part or an attachment belongs to nothing")
        self.say(5, "%d sealed part(s) opened with the keys that the statements commit to" % len(self.opened))

    def compartments(self, one: Entry, used: set[str]) -> Iterator[tuple[str, str, bytes | None, str]]:
        for name, sealed in one.data.get("sealed", {}).items():
            within = unbase64url(5, "a ciphertext", sealed["ciphertext"])
            yield name, sealed["key_hash"], within, "opened/%d-%s.json" % (one.index, name)
        seen: set[str] = set()
        for part in one.data.get("attachments", []):
            if part["compartment"] in seen:
                raise Invalid(5, "a statement names one compartment twice")
            seen.add(part["compartment"])
            name = "attachments/" + part["hash"]
            ciphertext = self.files.get(name)
            if ciphertext is not None:
                used.add(name)
                if sha256(ciphertext).hex() != part["hash"] or len(ciphertext) != part["size"]:
                    raise Invalid(5, f"the file {name} is not the attachment its statement names")
            ending = "eml" if part["media_type"] == "message/rfc822" else "bin"
            opened_as = "opened/%d-%s.%s" % (one.index, part["compartment"].replace("/", "-"), ending)
            yield part["compartment"], part["key_hash"], ciphertext, opened_as

    def step_6(self) -> None:
        used: set[str] = set()
        for one in self.entries:
            version = one.data["register_version"]
            name = f"register/{version}.json"
            if version not in self.registers:
                raw = self.file(6, name)
                snapshot = strict_json(6, name, raw)
                if sha256(raw).hex() != version or snapshot.get("format") != "consent-ledger/register/1":
                    raise Invalid(6, f"the file {name} is not the register that a statement names")
                self.registers[version] = snapshot["files"]
            used.add(name)
            if "notice" in one.data:
                name = "notices/{}.txt".format(one.data["notice"]["hash"])
                raw = self.file(6, name)
                folder = "notices/{}/".format(one.data["activity"])
                texts = [text for path, text in self.registers[version].items() if path.startswith(folder)]
                if sha256(raw).hex() != one.data["notice"]["hash"] or texts.count(raw.decode()) != 1:
                    raise Invalid(6, f"the file {name} is not the notice, or not of the register, that is named")
                form = raw.decode().partition("\n## ")[0].split("\n")
                if any(re.match(r"\[[^ >_]", line) for line in form):
                    raise Invalid(6, f"the notice {name} has a box that is ticked in advance")
                used.add(name)
            if one.kind in RECORDED:
                name = "records/%d.jsonld" % one.index
                if strict_json(6, name, self.file(6, name)).get("dct:identifier") != one.id:
                    raise Invalid(6, f"the file {name} is the record of another statement")
                used.add(name)
        folders = ("register/", "notices/", "records/")
        if any(name.startswith(folders) and name not in used for name in self.files):
            raise Invalid(6, "a register, notice or record belongs to no statement")
        self.say(6, "register and notices have the hashes that the statements name")

    def step_7(self) -> None:
        keys = strict_json(7, "dkim-keys.json", self.file(7, "dkim-keys.json"))
        self.dkim = _dkim_keys(listed(7, "dkim-keys.json", exactly(7, "dkim-keys.json", keys, "keys")["keys"], 64))
        for given in self.entries:
            if given.kind == "ConsentGiven":
                self.double_opt_in(given)
        if not self.grades:
            self.say(7, "the bundle has no consent, so no double opt-in to check")

    def double_opt_in(self, given: Entry) -> None:
        where, data = "the consent at index %d" % given.index, given.data
        followed = [one for one in self.entries if one.id in data["follows"]]
        requests = [one for one in followed if one.kind == "ConsentRequested"]
        archived, request = False, requests[0] if len(requests) == 1 else None
        if request is None:
            self.say(7, f"the request that {where} answers is not in this bundle")
        else:
            asked = request.data
            same = ("purpose", "channel", "activity", "notice", "served")
            if any(data.get(name) != asked.get(name) for name in same):
                raise Invalid(7, where + " answers a request for something else")
            if not request.statement["time"] <= given.statement["time"] < asked["expires_at"]:
                raise Invalid(7, where + " was not given in the time the request allowed")
            self.say(7, "%s answers the request at index %d, in time and on the same notice" % (where, request.index))
            for sent in followed:
                if sent.kind == "MessageSent":
                    archived |= self.confirmation_mail(request, sent)
        facts = {
            "contact_point_proven": data["stage"] == "proven",
            "served_notice_verified": given.id in self.served,
            "request_recorded": request is not None,
            "confirmation_mail_archived": archived,
        }
        rules = self.registers[data["register_version"]]["grades.toml"]
        [rule] = [one for one in rules["rules"] if one["version"] == rules["current"]]
        grade = next(one["grade"] for one in rule["grades"] if all(facts[need] for need in one["needs"]))
        self.say(7, f"{where} has grade {grade} by the register's rule, computed from these facts")
        rests = ""
        if request is None or not archived:
            rests = "that the holder of the address gave it is the word of {} alone".format(given.statement["source"])
            self.say(7, f"of {where}, {rests}: whoever has that source's key could have said it")
        self.grades.append((given, grade, rests))

    def confirmation_mail(self, request: Entry, sent: Entry) -> bool:
        where = "the mail at index %d" % sent.index
        if request.id not in sent.data["follows"]:
            raise Invalid(7, where + " does not follow the request that the consent answers")
        names = [
            one["compartment"] for one in sent.data.get("attachments", []) if one["media_type"] == "message/rfc822"
        ]
        raw = next((self.opened[sent.id, name] for name in names if (sent.id, name) in self.opened), None)
        evidence = self.opened.get((request.id, "evidence"))
        if raw is None or evidence is None:
            self.say(7, where + " was sent; its words or the address are not opened in this bundle")
            return False
        mail = Mail(raw)
        typed = strict_json(7, "the evidence of the request", evidence)["address"]
        if address_form(mail.recipient) != address_form(typed):
            raise Invalid(7, where + " went to another address than the one that was typed")
        if mail.only("message-id") != sent.data["message_id"]:
            raise Invalid(7, where + " has another Message-ID than its statement")
        tokens = re.findall(r"/confirm/([A-Za-z0-9_-]{22,512})", mail.text)
        if request.data["token_hash"] not in {sha256(token.encode()).hex() for token in tokens}:
            raise Invalid(7, where + " does not carry the token of the request")
        self.say(
            7, f"{where} went to the address that was typed and carried the request's token; {mail.dkim(self.dkim)}"
        )
        return True

    def step_8(self) -> None:
        keys: dict[str, bytes] = {}
        given = strict_json(8, "notice-keys.json", self.file(8, "notice-keys.json"))
        for one in listed(8, "notice-keys.json", exactly(8, "notice-keys.json", given, "keys")["keys"], 64):
            exactly(8, "a notice key", one, "alg", "crv", "kid", "kty", "use", "x")
            if not isinstance(one["kid"], str) or one["kid"] in keys:
                raise Invalid(8, "the notice keys name one key id twice")
            if [one[name] for name in ("kty", "crv", "alg", "use")] != ["OKP", "Ed25519", "EdDSA", "sig"]:
                raise Invalid(8, "a notice key is no Ed25519 key for signatures")
            keys[one["kid"]] = unbase64url(8, "a notice key", one["x"])
        for one in self.entries:
            token = one.data.get("served")
            if token is None or token["verified"] is not True:
                continue
            head, body, signature = token["token"].split(".")
            header = strict_json(8, "the token", unbase64url(8, "the token", head))
            if header["kid"] not in keys:
                self.say(8, "the key of the token at index %d is not in this bundle, so it does not count" % one.index)
                continue
            signed = (head + "." + body).encode()
            if (
                header["alg"] != "EdDSA"
                or header["typ"] != "consent-ledger-served-notice+jwt"
                or not ed25519_verify(keys[header["kid"]], signed, unbase64url(8, "the token", signature))
            ):
                raise Invalid(8, "the token at index %d does not verify" % one.index)
            self.hold_against(one, strict_json(8, "the token", unbase64url(8, "the token", body)))
            self.served.add(one.id)
        self.say(
            8, "%d statement(s) with a served-notice token that the bundle's notice keys signed" % len(self.served)
        )

    def hold_against(self, one: Entry, claims: dict[str, Any]) -> None:
        where, data = "the token at index %d " % one.index, one.data
        text = self.files["notices/{}.txt".format(data["notice"]["hash"])].decode()
        form = text.partition("\n## ")[0].split("\n")
        boxes = [re.match(r"\[ \] ([a-z0-9._-]+)/([a-z0-9._-]+): (.+)\Z", line) for line in form]
        labels = [found.groups() for found in boxes if found]
        buttons = [line[4:] for line in form if line.startswith("[>] ")]
        if (claims["notice"], claims["language"]) != (data["notice"]["hash"], data["notice"]["language"]):
            raise Invalid(8, where + "is about another notice")
        listed(8, "the boxes of " + where, claims["purposes"], 64)
        shown = [(box["purpose"], box["channel"], box["label"]) for box in claims["purposes"]]
        if any(box["default"] is not False for box in claims["purposes"]):
            raise Invalid(8, where + "says that a box was ticked in advance")
        if shown != labels or [claims["button"]] != buttons:
            raise Invalid(8, where + "shows other labels than the notice has")
        if (data["purpose"], data["channel"]) not in {box[:2] for box in shown}:
            raise Invalid(8, where + "does not have the box of this purpose")
        if any(type(claims[name]) is not int or not 0 <= claims[name] < 253402300800 for name in ("iat", "exp")):
            raise Invalid(8, where + "has a time that is none")
        said_at = millis(8, "its time", one.statement["time"])
        if claims["iat"] * 1000 > said_at + CLOCKS_APART_MS:
            raise Invalid(8, where + "was issued after the statement")
        if one.kind != "ConsentGiven" and said_at >= claims["exp"] * 1000 + CLOCKS_APART_MS:
            raise Invalid(8, where + "had expired")

    def standing(self, below: int) -> tuple[bool, tuple[int, str] | None]:
        """Whether consent holds by the statements before this index, and the last word on the purpose."""
        words: dict[str, tuple[int, str]] = {}
        mine = f"purpose:{self.purpose}/{self.channel}"
        for one in self.entries:
            if one.index < below and one.filed in (mine, EVERYTHING) and not one.overtaken:
                words[one.filed] = (one.index, one.data["status"])
        word, everything = words.get(mine), words.get(EVERYTHING)
        if word is None or word[1] not in IN_FORCE:
            return False, word
        return everything is None or everything[1] in IN_FORCE or everything[0] < word[0], word

    def step_9(self) -> None:
        holds, word = self.standing(self.size)
        if holds:
            said = "consent holds"
        else:
            said = "no consent was given" if word is None else f"consent does not hold; the last word is {word[1]}"
        self.say(9, "by the statements in this bundle, %s at %d leaves. %s" % (said, self.size, self.later_word()))
        if holds and LATEST not in self.files:
            said += "; whether a later word has ended it is not shown"
        for one in self.entries:
            if one.kind == "ConsentUsed" and not self.standing(int(one.data["permit"]["size"]))[0]:
                self.say(9, "the use at index %d relied on no consent in force when its permit was issued" % one.index)
        restrictive = {"effects/%d.json" % one.index: one for one in self.entries if one.kind in RESTRICTIVE}
        for name in sorted(name for name in self.files if name.startswith("effects/")):
            noted = exactly(9, name, strict_json(9, name, self.files[name]), "statement", "systems")
            if name not in restrictive or noted["statement"] != restrictive[name].id:
                raise Invalid(9, f"the file {name} is about no withdrawal in this bundle")
            for one in listed(9, name, noted["systems"], 64):
                exactly(9, "a system in " + name, one, "applied_at", "in_transmission", "system")
                sending = listed(9, "a system in " + name, one["in_transmission"], 4096)
                named = isinstance(one["system"], str) and NAME.match(one["system"])
                if not named or not all(isinstance(sent, str) and SENT.match(sent) for sent in sending):
                    raise Invalid(9, f"the file {name} names no system, or no message")
                millis(9, "a time in " + name, one["applied_at"])
                words = (restrictive[name].index, one["system"], one["applied_at"])
                self.say(9, "by the operator's word, the withdrawal at index %d took effect in %s at %s" % words)
        shown = [one for one in self.grades if not one[0].overtaken]
        self.conclusion = f"no consent to {self.purpose}/{self.channel} is shown"
        if shown:
            given, grade, rests = shown[-1]
            told = f"consent to {self.purpose}/{self.channel}, recorded {moment(given.event[3] // 1000)},"
            self.conclusion = f"{told} is shown with grade {grade}; {said}"
            if rests:
                self.conclusion = f"a {told} has grade {grade}, and {rests}; if one believes that, {said}"

    def later_word(self) -> str:
        if LATEST not in self.files:
            return "That the log holds no later word is not proven by this file"
        about = {
            "format": "consent-ledger/proof/1", "kind": "latest", "origin": self.origin,
            "subject": self.subject, "purpose": self.purpose, "channel": self.channel,
            "checkpoint": self.files["checkpoint.txt"].decode(),
            "vkey": self.line(9, "vkey.txt"), "fresh_vkey": self.line(9, "fresh-vkey.txt"),
        }  # fmt: skip
        proof = strict_json(9, LATEST, self.files[LATEST])
        exactly(9, "the proof of the latest word", proof, *about, "anchor", "label_key", "map_root", "words")
        if any(proof[name] != value for name, value in about.items()):
            raise Invalid(9, "the proof of the latest word is about something else, or under another checkpoint")
        root = exactly(9, "the MAP_ROOT", proof["map_root"], "hashes", "leaf")
        leaf, hashes = unbase64url(9, "the MAP_ROOT", root["leaf"]), hashes_of(9, root["hashes"])
        if len(leaf) != 57 or leaf[0] != 2 or int.from_bytes(leaf[1:9], "big") != self.size - 1:
            raise Invalid(9, "the leaf before the checkpoint's end is no MAP_ROOT")
        if inclusion_root(leaf, self.size - 1, self.size, hashes) != self.root:
            raise Invalid(9, "the MAP_ROOT is not in the log")
        key = hash_bytes(9, "the label key", proof["label_key"])
        named = self.origin.encode() + b"\x00" + self.subject.encode()
        if hmac.new(key, b"consent-ledger/v1/pin\x00" + named, hashlib.sha256).digest() != self.entries[0].pin:
            raise Invalid(9, "the label key is not that of the pin")
        matters = ["purpose:%s/%s" % (self.purpose, self.channel), EVERYTHING]
        words = [
            exactly(9, "a word", word, "entries", "matter", "place")
            for word in listed(9, "the words", proof["words"], 2)
        ]
        if [word["matter"] for word in words] != matters:
            raise Invalid(9, "the proof of the latest word is not on the purpose and on everything")
        for matter, word in zip(matters, words):
            label = self.label(key, matter)
            record = map_place(9, label, word["place"], leaf)
            mine = [one for one in self.entries if (one.filed, one.overtaken) == (matter, False)]
            last = [(str(one.event[1]), str(one.index), one.leaf_hash.hex(), one.event[0]) for one in mine[-1:]]
            newest = [] if record is None else [(record["version"], record["index"], record["leaf_hash"], label)]
            if last != newest:
                raise Invalid(9, "the latest word on %s is another than this bundle's" % matter)
            # Of a leaf at its place in this tree there is one entry that verifies: the one that step 3 has verified.
            if word["entries"] != [one.said for one in mine[-1:]]:
                raise Invalid(9, "the proof of the latest word shows another entry than this bundle")
        shown = any(word["entries"] for word in words)
        if (proof["anchor"] is None) != shown or not (shown or self.is_anchor(key, proof["anchor"])):
            raise Invalid(9, "the proof of the latest word has no anchor, or one too many")
        return "The log holds no later word at this size: by its state map, proven in this file"

    @staticmethod
    def label(key: bytes, matter: str) -> bytes:
        return hmac.new(key, b"consent-ledger/v1/label\x00" + matter.encode(), hashlib.sha256).digest()

    def is_anchor(self, key: bytes, anchor: dict[str, Any]) -> bool:
        """Whether this is a statement of the subject in the log, under the label that the key gives its matter."""
        one = self.entry(9, 9, "the anchor", anchor)
        ours = one.pin == self.entries[0].pin and one.statement["subject"] == self.subject
        filed = matter_of(one.kind, one.data) == one.filed
        return ours and filed and self.label(key, "overtaken:" * one.overtaken + one.filed) == one.event[0]


# -- Mails (RFC 5322, RFC 6376).


def address_form(address: str) -> str:
    """One form for one contact point: local part without case, domain in ASCII labels, nothing guessed beyond."""
    local, _, domain = address.strip(" ").rpartition("@")
    if not local or not re.match(r"[A-Za-z0-9.\u0080-\U0010ffff-]+\Z", domain):
        raise Invalid(7, "an address is none")
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", local).casefold())
    labels = unicodedata.normalize("NFC", domain).lower().split(".")
    ascii_labels = [one if one.isascii() else "xn--" + one.encode("punycode").decode() for one in labels]
    return folded + "@" + ".".join(ascii_labels)


class Mail:
    """An archived mail taken apart."""

    def __init__(self, raw: bytes) -> None:
        head, gap, self.body = raw.partition(b"\r\n\r\n")
        if (
            not gap
            or b"\x00" in head
            or re.search(rb"\r(?!\n)|(?<!\r)\n", raw)
            or raw.count(b"multipart/") > PARTS_LIMIT
        ):
            raise Invalid(7, "the archived mail has no end of its headers, or is malformed")
        self.headers: list[tuple[str, bytes]] = []
        for line in re.sub(rb"\r\n(?=[ \t])", b"\x00", head).split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if not colon or not re.match(rb"[!-9;-~]+\Z", name) or len(self.headers) == 200:
                raise Invalid(7, "the archived mail has a malformed header")
            self.headers.append((name.decode("ascii").lower(), value.replace(b"\x00", b"\r\n")))
        found = RECIPIENT.match(re.sub(r"[ \t]+", " ", self.only("to") or ""))
        self.recipient = (found[1] or found[2]) if found else ""
        texts = [part for part in message_from_bytes(raw).walk() if part.get_content_type() == "text/plain"]
        decoded = [part.get_payload(decode=True) for part in texts]
        self.text = "\n".join(one.decode("utf-8", "replace") for one in decoded if isinstance(one, bytes))

    def only(self, name: str) -> str | None:
        found = [value for other, value in self.headers if other == name]
        return re.sub(rb"\r\n(?=[ \t])", b"", found[0]).decode("utf-8", "replace").strip() if len(found) == 1 else None

    def dkim(self, keys: dict[tuple[str, str], tuple[int, int]]) -> str:
        """What its DKIM signature says; Invalid if it is by a key of the bundle and does not verify."""
        found = [value for name, value in self.headers if name == "dkim-signature"]
        if len(found) != 1:
            raise Invalid(7, "the archived mail has not one DKIM signature")
        tags = _tags(found[0].decode("ascii", "replace"))
        key = keys.get((tags["d"].lower(), tags["s"]))
        if key is None:
            return "the key of its DKIM signature is not in this bundle"
        if tags["v"] != "1" or tags["a"] != "rsa-sha256" or tags["c"] != "relaxed/relaxed" or "l" in tags:
            raise Invalid(7, "the DKIM signature is not rsa-sha256 over the whole body, relaxed/relaxed")
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in self.body.split(b"\r\n")]
        while lines and not lines[-1]:
            lines.pop()
        if unbase64(7, "the body hash", tags["bh"]) != sha256(b"".join(line + b"\r\n" for line in lines)):
            raise Invalid(7, "the body of the archived mail is not the one that DKIM signed")
        named = [name.strip().lower() for name in tags["h"].split(":")]
        left: dict[str, list[bytes]] = {}
        for name, value in self.headers:
            left.setdefault(name, []).append(value)
        signed = b"".join(_relaxed(name, left[name].pop()) + b"\r\n" for name in named if left.get(name))
        pieces = [part.partition(b"=") for part in found[0].split(b";")]
        empty = b";".join(n + e + (b"" if n.strip(b" \t\r\n") == b"b" else v) for n, e, v in pieces)
        signature = unbase64(7, "the DKIM signature", tags["b"])
        if "from" not in named or not rsa_verify(key, signed + _relaxed("dkim-signature", empty), signature):
            raise Invalid(7, "the DKIM signature does not verify")
        return "DKIM: signed by {} (compare with selector {} of that domain's DNS)".format(tags["d"], tags["s"])


def _dkim_keys(given: list[dict[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
    keys = {}
    for one in given:
        exactly(7, "a DKIM key", one, "domain", "record", "selector")
        if not isinstance(one["selector"], str):
            raise Invalid(7, "a DKIM key names no selector")
        name, record = (one["domain"].lower(), one["selector"]), _tags(one["record"])
        if name in keys or record.get("v", "DKIM1") != "DKIM1" or record.get("k", "rsa") != "rsa":
            raise Invalid(7, "a DKIM key is named twice or is no RSA key")
        try:
            keys[name] = rsa_key(unbase64(7, "a DKIM key", record.get("p", "")))
        except ValueError:
            raise Invalid(7, "a DKIM key cannot be read") from None
    return keys


def _tags(text: str) -> dict[str, str]:
    tags: dict[str, str] = {}
    for part in text.strip().removesuffix(";").split(";"):
        name, equals, value = part.partition("=")
        if not equals or name.strip() in tags:
            raise Invalid(7, "a DKIM tag list is malformed")
        tags[name.strip()] = re.sub(r"[ \t\n\r\f\v]+", "", value)
    return tags


def _relaxed(name: str, value: bytes) -> bytes:
    return name.encode() + b":" + re.sub(rb"[ \t]+", b" ", re.sub(rb"\r\n(?=[ \t])", b"", value)).strip(b" ")


def check(data: bytes, vkey: str | None) -> Bundle:
    """A bundle that was verified, or Invalid."""
    bundle = Bundle(data, vkey)
    try:
        bundle.verify()
    except Invalid:
        raise
    except Exception as error:
        # Nothing of ours ends here; whatever does was caused by the file, and a verifier says no to it.
        raise Invalid(0, f"the file cannot be understood ({type(error).__name__})") from error
    return bundle


def plain(text: str) -> str:
    """In graphic ASCII: no file writes a line of its own, or tells the terminal to hide one."""
    return "".join(one if " " <= one <= "~" else ascii(one)[1:-1] for one in text)


def main(arguments: list[str]) -> int:
    if len(arguments) == 3 and arguments[1] == "--vkey":
        file, key = arguments[0], arguments[2]
    elif len(arguments) == 1 and not arguments[0].startswith("-"):
        file, key = arguments[0], None
    else:
        sys.stderr.write("usage: python3 verify.py BUNDLE.zip --vkey FILE\n")
        return 2
    try:
        with open(file, "rb") as opened:
            data = opened.read(ARCHIVE_LIMIT + 1)
        vkey = None
        if key is not None:
            with open(key, "rb") as opened:
                vkey = opened.read(65536).decode("ascii", "replace").strip()
    except OSError as error:
        sys.stderr.write(f"cannot read: {error}\n")
        return 2
    if not data.startswith(b"PK\x03\x04"):
        sys.stderr.write("this is no evidence bundle\n")
        return 2
    try:
        bundle = check(data, vkey)
    except Invalid as error:
        sys.stdout.write("INVALID: step {}: {}\n".format(error.step or "unexpected", plain(str(error))))
        return 1
    for step, text in bundle.found:
        sys.stdout.write(" %d  %s\n" % (step, plain(text)))
    for text in LEFT_OUT:
        sys.stdout.write(f" -  not checked here: {text}\n")
    if vkey is None:
        sys.stdout.write("signed by {}\n".format(bundle.line(2, "vkey.txt")))
        sys.stdout.write("whose key that is, is not settled: compare it yourself, and give it with --vkey\n")
        return 1
    sys.stdout.write(f"VALID: {plain(bundle.conclusion)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
