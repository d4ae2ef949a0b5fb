"""An archived mail: whose it was, what it says, and whether the sender's DKIM key signed it (RFC 6376)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import decode_base64
from services.ledger.reader.strict import Fields, parse_json
from shared.contact_points import parse_email
from shared.errors import Refused

_KEYS_LIMIT = 64
_RECORD_LIMIT = 4096
_LEAST_BITS = 1024
_HEADERS_LIMIT = 200
_NAME = re.compile(rb"[!-9;-~]+\Z")
_BLANKS = re.compile(rb"[ \t]+")
_FOLD = re.compile(rb"\r\n(?=[ \t])")
_SPACE = re.compile(r"\s+", re.ASCII)
_PARTS_LIMIT = 20
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
# An address, or words or a quoted string and an address in angle brackets. RFC 5322 knows more (comments, groups), and
# no two programs agree on all of it.
_ADDRESS = r"([^\x00-\x20<>\"(),:;@\\\[\]]+@[^\x00-\x20<>\"(),:;@\\\[\]]+)"
_WORDS = r"(?:[^\x00-\x1f<>\"(),:;@\\\[\]]*|\"(?:[^\x00-\x1f\"\\]|\\[ -~])*\" ?)"
_RECIPIENT = re.compile(rf"{_ADDRESS}\Z|{_WORDS}<{_ADDRESS}>\Z")
_CANONICALISATION = "relaxed/relaxed"

Header = tuple[str, bytes]
"""Lower-case name; value with its folds, without the last line end."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail taken apart; nothing is verified by that."""

    headers: Sequence[Header]
    body: bytes
    recipient: str
    """The one address of its one To header; nothing if it has another form"""
    text: str
    """All text parts, decoded."""

    def only(self, name: str) -> str | None:
        """The value of a header that occurs once, unfolded; None if it occurs never or more often."""
        found = [value for other, value in self.headers if other == name]
        return _FOLD.sub(b"", found[0]).decode("utf-8", "replace").strip() if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class Signed:
    """What a valid DKIM signature says."""

    domain: str
    selector: str
    headers: frozenset[str]
    at: int | None
    """Seconds since 1970."""


def parse_mail(step: str, raw: bytes) -> Mail:
    """Take a mail apart, or raise Invalid."""
    head, gap, body = raw.partition(b"\r\n\r\n")
    if not gap or b"\x00" in head:
        raise Invalid(step, "the archived mail", "has no empty line after its headers, or a zero byte in them")
    if _BARE.search(raw):
        # Programs differ on whether that ends a line, and so on what is a header and what a text.
        raise Invalid(step, "the archived mail", "has a CR or LF that is not both")
    if raw.count(b"multipart/") > _PARTS_LIMIT:
        raise Invalid(step, "the archived mail", "has too many parts within parts")
    headers: list[Header] = []
    for line in _FOLD.sub(b"\x00", head).split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.match(name) or len(headers) == _HEADERS_LIMIT:
            raise Invalid(step, "the archived mail", "has a malformed header")
        headers.append((name.decode("ascii").lower(), value.replace(b"\x00", b"\r\n")))
    try:
        text = "\n".join(_texts(raw))
    except Exception:  # noqa: BLE001 - the library's parser is known to raise anything on hostile mail
        raise Invalid(step, "the archived mail", "cannot be read") from None
    return Mail(headers, body, _recipient(headers), text)


def _recipient(headers: Sequence[Header]) -> str:
    to = [value for name, value in headers if name == "to"]
    if len(to) != 1:
        return ""
    written = _BLANKS.sub(b" ", _FOLD.sub(b"", to[0])).decode("utf-8", "replace")
    found = _RECIPIENT.match(written.strip())
    return (found[1] or found[2]) if found else ""


def _texts(raw: bytes) -> list[str]:
    found = []
    for part in message_from_bytes(raw).walk():
        if part.get_content_type() == "text/plain":
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                found.append(payload.decode("utf-8", "replace"))
    return found


def same_address(one: str, other: str) -> bool:
    """Whether two addresses are one contact point: local parts without case, domains as IDNA; no guessing beyond."""
    try:
        return parse_email(one).normalised == parse_email(other).normalised
    except Refused:
        return False


def parse_dkim_keys(step: str, data: bytes) -> dict[tuple[str, str], RSAPublicKey]:
    """Read `{"keys": [{"domain", "selector", "record"}]}`, each record as its DNS TXT has it, or raise Invalid."""
    keys: dict[tuple[str, str], RSAPublicKey] = {}
    listed = Fields(step, "the DKIM keys", parse_json(step, "the DKIM keys", data)).exactly("keys")
    for one in listed.objects("keys", _KEYS_LIMIT):
        one.exactly("domain", "record", "selector")
        name = (one.text("domain").lower(), one.text("selector"))
        text = one.text("record")
        if len(text) > _RECORD_LIMIT:
            raise Invalid(step, "a DKIM key", f"is longer than {_RECORD_LIMIT} characters")
        record = _tags(step, text)
        if name in keys or record.get("v", "DKIM1") != "DKIM1" or record.get("k", "rsa") != "rsa":
            raise Invalid(step, "a DKIM key", "is named twice or is no RSA key")
        try:
            key = serialization.load_der_public_key(decode_base64(step, "a DKIM key", record.get("p", "")))
        except (ValueError, TypeError):
            raise Invalid(step, "a DKIM key", "cannot be read") from None
        except Exception:  # noqa: BLE001 - keys of kinds the library does not have raise its own errors
            raise Invalid(step, "a DKIM key", "is of an unknown kind") from None
        # Of 512 bits anybody finds the private key (RFC 8301 §3.2).
        if not isinstance(key, RSAPublicKey) or key.key_size < _LEAST_BITS:
            raise Invalid(step, "a DKIM key", f"is no RSA key of at least {_LEAST_BITS} bits")
        keys[name] = key
    return keys


def dkim_names(step: str, mail: Mail) -> tuple[str, str]:
    """Domain and selector that the mail's one DKIM-Signature names, or raise Invalid."""
    tags, _ = _signature(step, mail)
    return tags.get("d", "").lower(), tags.get("s", "")


def verify_dkim(step: str, mail: Mail, keys: Mapping[tuple[str, str], RSAPublicKey]) -> Signed:
    """Verify the mail's DKIM signature, or raise Invalid.

    1. There is one signature: rsa-sha256, relaxed/relaxed, over the whole body, by a key that is given.
    2. The body hashes to what it says.
    3. It covers From, and the headers it names, the last of each name first, give the signature.
    """
    # 1.
    tags, value = _signature(step, mail)
    if tags.get("v") != "1" or tags.get("a") != "rsa-sha256" or tags.get("c") != _CANONICALISATION or "l" in tags:
        raise Invalid(step, "the DKIM signature", "is not rsa-sha256 over the whole body, relaxed/relaxed")
    key = keys.get((tags.get("d", "").lower(), tags.get("s", "")))
    if key is None:
        raise Invalid(step, "the DKIM signature", "is by none of the keys given")
    # 2.
    if decode_base64(step, "the body hash", tags.get("bh", "")) != sha256(_relaxed_body(mail.body)).digest():
        raise Invalid(step, "the body of the archived mail", "is not the one that DKIM signed")
    # 3.
    named = [name.strip().lower() for name in tags.get("h", "").split(":")]
    if "from" not in named:
        raise Invalid(step, "the DKIM signature", "does not cover From")
    left: dict[str, list[bytes]] = {}
    for name, content in mail.headers:
        left.setdefault(name, []).append(content)
    signed = b"".join(
        _relaxed_header(name, left[name].pop()) + b"\r\n" for name in named if left.get(name) and name
    ) + _relaxed_header("dkim-signature", _without_signature(value))
    try:
        key.verify(
            decode_base64(step, "the DKIM signature", tags.get("b", "")), signed, padding.PKCS1v15(), hashes.SHA256()
        )
    except InvalidSignature:
        raise Invalid(step, "the DKIM signature", "does not verify") from None
    at = tags.get("t", "")
    return Signed(
        domain=tags["d"].lower(),
        selector=tags["s"],
        headers=frozenset(named),
        at=int(at) if at.isascii() and at.isdecimal() and len(at) <= 12 else None,
    )


def _signature(step: str, mail: Mail) -> tuple[dict[str, str], bytes]:
    found = [value for name, value in mail.headers if name == "dkim-signature"]
    if len(found) != 1:
        raise Invalid(step, "the archived mail", "has not one DKIM signature")
    try:
        return _tags(step, found[0].decode("ascii")), found[0]
    except UnicodeDecodeError:
        raise Invalid(step, "the DKIM signature", "is not ASCII") from None


def _tags(step: str, text: str) -> dict[str, str]:
    """A tag list (RFC 6376 §3.2), all white space taken out of the values; no tag twice."""
    tags: dict[str, str] = {}
    for part in text.strip().removesuffix(";").split(";"):
        name, equals, value = part.partition("=")
        if not equals or name.strip() in tags:
            raise Invalid(step, "a DKIM tag list", "is malformed")
        tags[name.strip()] = _SPACE.sub("", value)
    return tags


def _without_signature(value: bytes) -> bytes:
    """The header's value with an empty `b=`. By tags, since the end of another one's base64 may look like it."""
    parts = [part.partition(b"=") for part in value.split(b";")]
    return b";".join(
        name + equals + (b"" if name.strip(b" \t\r\n") == b"b" else content) for name, equals, content in parts
    )


def _relaxed_header(name: str, value: bytes) -> bytes:
    """RFC 6376 §3.4.2, without the line end."""
    return name.encode("ascii") + b":" + _BLANKS.sub(b" ", _FOLD.sub(b"", value)).strip(b" ")


def _relaxed_body(body: bytes) -> bytes:
    """RFC 6376 §3.4.4."""
    lines = [_BLANKS.sub(b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)
