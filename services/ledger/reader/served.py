"""The served-notice token: what a form showed, signed before anybody answered (docs/formats.md §18)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger.reader.entry import Recorded
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import ed25519_key
from services.ledger.reader.strict import Fields, decode_base64url, parse_json
from shared.clock import millis, parse_rfc3339
from shared.register import Notice

TYPE = "consent-ledger-served-notice+jwt"
_KEYS_LIMIT = 64
_BOXES_LIMIT = 64
_TIME_LIMIT = 253_402_300_800  # 1 January 10000
_PARTS = 3

CLOCKS_APART_MS = 2 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Box:
    """One box as it was shown."""

    purpose: str
    channel: str
    label: str
    ticked: bool


@dataclass(frozen=True, slots=True)
class Served:
    """What the form showed; times in seconds since 1970."""

    notice: str
    language: str
    boxes: Sequence[Box]
    button: str
    issued_at: int
    expires_at: int


def parse_notice_keys(step: str, data: bytes) -> dict[str, Ed25519PublicKey]:
    """Read a JSON Web Key Set of Ed25519 keys (RFC 7517, RFC 8037), or raise Invalid."""
    keys: dict[str, Ed25519PublicKey] = {}
    listed = Fields(step, "the notice keys", parse_json(step, "the notice keys", data)).exactly("keys")
    for one in listed.objects("keys", _KEYS_LIMIT):
        one.exactly("alg", "crv", "kid", "kty", "use", "x")
        if [one.text(name) for name in ("kty", "crv", "alg", "use")] != ["OKP", "Ed25519", "EdDSA", "sig"]:
            raise Invalid(step, "a notice key", "is no Ed25519 key for signatures")
        if one.text("kid") in keys:
            raise Invalid(step, "the notice keys", "name one key id twice")
        keys[one.text("kid")] = ed25519_key(step, "a notice key", one.base64url("x"))
    return keys


def verify_served(step: str, keys: Mapping[str, Ed25519PublicKey], token: str) -> Served:
    """Return what the token says, or raise Invalid unless one of the keys signed it."""
    claims = verify_token(step, keys, token, TYPE, "the served-notice token")
    return Served(
        notice=claims.hash("notice").hex(),
        language=claims.text("language"),
        boxes=[
            Box(box.text("purpose"), box.text("channel"), box.text("label"), box.flag("default"))
            for box in claims.objects("purposes", _BOXES_LIMIT)
        ],
        button=claims.text("button"),
        issued_at=_time(step, claims.get("iat")),
        expires_at=_time(step, claims.get("exp")),
    )


def verify_token(step: str, keys: Mapping[str, Ed25519PublicKey], token: str, kind: str, what: str) -> Fields:
    """The claims of a compact JWS (RFC 7515, EdDSA) of this type, or Invalid unless one of the keys signed it."""
    parts = token.split(".")
    if len(parts) != _PARTS:
        raise Invalid(step, what, "has not three parts")
    header = _part(step, parts[0], what)
    if header.text("alg") != "EdDSA" or header.text("typ") != kind:
        raise Invalid(step, what, "is of another kind")
    key = keys.get(header.text("kid"))
    if key is None:
        raise Invalid(step, what, "was signed by none of the notice keys")
    claims, signature = _part(step, parts[1], what), decode_base64url(step, f"the signature of {what}", parts[2])
    try:
        key.verify(signature, f"{parts[0]}.{parts[1]}".encode("ascii"))
    except InvalidSignature:
        raise Invalid(step, what, "does not verify") from None
    return claims


def _part(step: str, encoded: str, of: str = "the served-notice token") -> Fields:
    what = f"a part of {of}"
    return Fields(step, what, parse_json(step, what, decode_base64url(step, what, encoded)))


def _time(step: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < _TIME_LIMIT:
        raise Invalid(step, "a time in the served-notice token", "is no time")
    return value


def hold_against(step: str, served: Served, one: Recorded, notice: Notice) -> None:
    """Raise Invalid unless what was served is this statement's notice, word for word, its boxes empty, and in time."""
    data = one.statement.data
    where = f"the token of the statement at index {one.index}"
    if (served.notice, served.language) != (data.notice.hash, data.notice.language):
        raise Invalid(step, where, "is about another notice", index=one.index)
    if (data.purpose, data.channel) not in {(box.purpose, box.channel) for box in served.boxes}:
        raise Invalid(step, where, "does not have the box of this purpose", index=one.index)
    if any(box.ticked for box in served.boxes):
        raise Invalid(step, where, "says that a box was ticked in advance", index=one.index)
    labels = [(choice.purpose, choice.channel, choice.label) for choice in notice.choices]
    if [(box.purpose, box.channel, box.label) for box in served.boxes] != labels or served.button != notice.button:
        raise Invalid(step, where, "shows other labels than the notice has", index=one.index)
    said_at = millis(parse_rfc3339(one.statement.time))
    if served.issued_at * 1000 > said_at + CLOCKS_APART_MS:
        raise Invalid(step, where, "was issued after the statement", index=one.index)
    # A consent echoes the token of the request it answers, and may come days later.
    if one.statement.type != "ConsentGiven" and said_at >= served.expires_at * 1000 + CLOCKS_APART_MS:
        raise Invalid(step, where, "had expired", index=one.index)


def key_id(step: str, token: str) -> str:
    """Under which key a token claims to be signed."""
    return _part(step, token.partition(".")[0]).text("kid")
