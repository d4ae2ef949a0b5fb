"""The authority whose word on the time is believed, and what its timestamps say (RFC 3161; docs/formats.md §25)."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256, sha384, sha512
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

from services.ledger.reader.errors import Invalid

ANSWER_LIMIT: Final = 64 * 1024
AUTHORITY_LIMIT: Final = 256 * 1024
_HASHES: Final = {
    "2.16.840.1.101.3.4.2.1": sha256,
    "2.16.840.1.101.3.4.2.2": sha384,
    "2.16.840.1.101.3.4.2.3": sha512,
}

# DER (X.690): the tags of RFC 3161's answer, and the object identifiers on the way to what it says.
_INTEGER, _OCTETS, _NAME, _TIME, _SEQUENCE, _SET, _EXPLICIT = 0x02, 0x04, 0x06, 0x18, 0x30, 0x31, 0xA0
_SIGNED_DATA: Final = bytes.fromhex("2a864886f70d010702")
_TST_INFO: Final = bytes.fromhex("2a864886f70d0109100104")
_SHA256: Final = bytes.fromhex("608648016503040201")
_GENERALIZED: Final = re.compile(rb"([0-9]{14})(?:\.[0-9]{1,9})?Z\Z")
_GRANTED: Final = (b"\x00", b"\x01")


@dataclass(frozen=True, slots=True)
class Authority:
    """Whose word on the time is believed: certificates that sign themselves, and those that lead to them."""

    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()

    def verify(self, answer: bytes, text: bytes) -> datetime:
        """Return when, by the authority's word, this text was there; or raise Invalid.

        1. It is an answer of RFC 3161, not longer than we read.
        2. It was granted, and a key certified for timestamps by one of the roots has signed it.
        3. It is about this text's SHA-256 (or SHA-384, SHA-512).
        """
        # 1.
        if len(answer) > ANSWER_LIMIT:
            raise Invalid("timestamp 1", "the timestamp", f"is longer than {ANSWER_LIMIT} bytes")
        try:
            response = decode_timestamp_response(answer)
        except ValueError:
            raise Invalid("timestamp 1", "the timestamp", "is no answer of RFC 3161") from None
        # 2. 3.
        verifier = VerifierBuilder(roots=list(self.roots), intermediates=list(self.intermediates)).build()
        try:
            verifier.verify_message(response, text)
            time = response.tst_info.gen_time
        except (VerificationError, UnsupportedAlgorithm, ValueError, TypeError):
            why = "does not verify: not granted, about something else, or signed by nobody the authority certifies"
            raise Invalid("timestamp 2", "the timestamp", why) from None
        return time if time.tzinfo else time.replace(tzinfo=UTC)


def stated_time(answer: bytes, text: bytes) -> datetime:
    """Return the time that a timestamp of this text says, whoever has made it; or raise Invalid."""
    try:
        stated = decode_timestamp_response(answer).tst_info
        imprint, time = stated.message_imprint, stated.gen_time
    except ValueError:
        raise Invalid("timestamp 1", "the timestamp", "is no answer of RFC 3161") from None
    hashed = _HASHES.get(imprint.hash_algorithm.dotted_string)
    if hashed is None or hashed(text).digest() != imprint.message:
        raise Invalid("timestamp 3", "the timestamp", "is about something else")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def parse_authority(pem: bytes) -> Authority:
    """Read the certificates of an authority, or raise Invalid unless one of them signs itself."""
    try:
        found: Sequence[x509.Certificate] = x509.load_pem_x509_certificates(pem) if len(pem) <= AUTHORITY_LIMIT else ()
    except ValueError:
        found = ()
    roots = tuple(one for one in found if one.issuer == one.subject)
    if not roots:
        raise Invalid("authority", "the authority's file", "holds no certificate that signs itself (PEM)")
    return Authority(roots, tuple(one for one in found if one not in roots))


def said_at(answer: bytes, text: bytes) -> datetime:
    """Return when, by the word of whoever gave this answer, this text was there; who that is is not judged here.

    1. It is an answer of RFC 3161 in DER, not longer than we read, and was granted.
    2. It is about this text's SHA-256.
    3. Its time is one of the calendar.
    """
    # 1.
    if len(answer) > ANSWER_LIMIT:
        raise Invalid("timestamp 1", "the timestamp", f"is longer than {ANSWER_LIMIT} bytes")
    try:
        imprint, time = _said(answer)
    except ValueError:
        raise Invalid("timestamp 1", "the timestamp", "is no answer of RFC 3161, or was not granted") from None
    # 2.
    if imprint != hashlib.sha256(text).digest():
        raise Invalid("timestamp 2", "the timestamp", "is about something else")
    # 3.
    found = _GENERALIZED.match(time)
    try:
        return datetime.strptime(found[1].decode("ascii") if found else "", "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise Invalid("timestamp 3", "the timestamp", "has no time of the calendar") from None


def _said(answer: bytes) -> tuple[bytes, bytes]:
    """The SHA-256 that was stamped, and the time as it is written; ValueError if this is no granted answer."""
    response, behind = _element(answer, _SEQUENCE)
    status, token = _element(response, _SEQUENCE)
    if behind or _element(status, _INTEGER)[0] not in _GRANTED:
        raise ValueError
    kind, content = _element(_element(token, _SEQUENCE)[0], _NAME)
    signed = _element(_element(content, _EXPLICIT)[0], _SEQUENCE)[0]
    _, rest = _element(signed, _INTEGER)
    _, rest = _element(rest, _SET)
    inside, wrapped = _element(_element(rest, _SEQUENCE)[0], _NAME)
    if (kind, inside) != (_SIGNED_DATA, _TST_INFO):
        raise ValueError
    info = _element(_element(_element(wrapped, _EXPLICIT)[0], _OCTETS)[0], _SEQUENCE)[0]
    _, rest = _element(info, _INTEGER)
    _, rest = _element(rest, _NAME)
    imprint, rest = _element(rest, _SEQUENCE)
    algorithm, digest = _element(imprint, _SEQUENCE)
    if _element(algorithm, _NAME)[0] != _SHA256:
        raise ValueError
    _, rest = _element(rest, _INTEGER)
    return _element(digest, _OCTETS)[0], _element(rest, _TIME)[0]


def _element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Content of the DER element that `data` begins with, and what follows it; ValueError if it is another."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError
    length, start = data[1], 2
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError
    return data[start : start + length], data[start + length :]
