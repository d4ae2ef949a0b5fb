"""JSON from a stranger, read strictly: one meaning, known members, values of the forms of docs/formats.md §1."""

import binascii
import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

from services.ledger.reader.checkpoint import parse_decimal
from services.ledger.reader.errors import Invalid

_HASH = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_U32_LIMIT = 1 << 32
_DEPTH_LIMIT = 64
_LONG = 308
"""A number of more digits may be beyond what a double holds."""


class _AmbiguousError(ValueError):
    """Two readers could understand this differently."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _AmbiguousError
    return found


def _constant(_: str) -> NoReturn:
    raise _AmbiguousError


def _integer(text: str) -> int:
    if len(text) > _LONG and math.isinf(float(text)):
        raise _AmbiguousError
    return int(text)


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)


def parse_json(step: str, what: str, data: bytes) -> Any:
    """One JSON text in UTF-8 that all readers understand alike (docs/formats.md §1), or Invalid.

    No byte order mark, no name twice in an object, no lone surrogate, no number beyond a double, no more than 64
    objects and arrays inside one another.
    """
    try:
        value = _decoder.decode(data.decode("utf-8"))
        # An escaped lone surrogate decodes to a string that has no bytes, and 1e999 to a number that is none.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise Invalid(step, what, "is not strict JSON in UTF-8") from None
    if _too_deep(value):
        raise Invalid(step, what, f"has more than {_DEPTH_LIMIT} objects and arrays inside one another")
    return value


def _too_deep(value: object) -> bool:
    inside = [value]
    for _ in range(_DEPTH_LIMIT + 1):
        nested = [one for one in inside if isinstance(one, dict | list)]
        if not nested:
            return False
        inside = [inner for one in nested for inner in (one.values() if isinstance(one, dict) else one)]
    return True


def canonical_json(value: object) -> bytes:
    """Plain data in one form: keys sorted, two spaces of indentation, UTF-8, a newline at the end."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def decode_base64url(step: str, what: str, text: str) -> bytes:
    """Decode base64url without padding in its one spelling, or raise Invalid."""
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise Invalid(step, what, "is not base64url") from None
    if encode_base64url(raw) != text:
        raise Invalid(step, what, "is not canonical base64url without padding")
    return raw


def encode_base64url(raw: bytes) -> str:
    """Return base64url without padding (RFC 4648 §5)."""
    return urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def moment(seconds: int) -> str:
    """Seconds since 1970 as people read them."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "an impossible time"


class Fields:
    """Typed access to the members of one JSON object; what has another form raises Invalid and names the member."""

    def __init__(self, step: str, what: str, value: object) -> None:
        if not isinstance(value, dict):
            raise Invalid(step, what, "is no JSON object")
        self._step = step
        self._what = what
        self._value: dict[str, Any] = value

    def exactly(self, *names: str) -> "Fields":
        """These members and no others."""
        if set(self._value) != set(names):
            raise Invalid(self._step, self._what, f"has not exactly the members {', '.join(sorted(names))}")
        return self

    def get(self, name: str) -> Any:
        """The member as it is, or None."""
        return self._value.get(name)

    def text(self, name: str) -> str:
        value = self._value.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "is no text")
        return value

    def flag(self, name: str) -> bool:
        value = self._value.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "is neither true nor false")
        return value

    def small_number(self, name: str) -> int:
        """A u32, as a JSON number."""
        value = self._value.get(name)
        if type(value) is not int or not 0 <= value < _U32_LIMIT:
            raise self._wrong(name, "is no u32")
        return value

    def decimal(self, name: str) -> int:
        """A u64, as a string."""
        return parse_decimal(self._step, f"{name} of {self._what}", self.text(name))

    def hash(self, name: str) -> bytes:
        value = self.text(name)
        if not _HASH.match(value):
            raise self._wrong(name, "is not 64 lower-case hexadecimal digits")
        return bytes.fromhex(value)

    def base64url(self, name: str) -> bytes:
        return decode_base64url(self._step, f"{name} of {self._what}", self.text(name))

    def array(self, name: str, limit: int) -> list[Any]:
        value = self._value.get(name)
        if not isinstance(value, list) or len(value) > limit:
            raise self._wrong(name, f"is no array of at most {limit}")
        return value

    def object(self, name: str) -> "Fields":
        return Fields(self._step, f"{name} of {self._what}", self._value.get(name))

    def objects(self, name: str, limit: int) -> Iterator["Fields"]:
        for one in self.array(name, limit):
            yield Fields(self._step, f"an element of {name} of {self._what}", one)

    def _wrong(self, name: str, why: str) -> Invalid:
        return Invalid(self._step, f"{name} of {self._what}", why)
