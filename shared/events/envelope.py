"""Reading and writing a statement's bytes: one way in, one way out, nothing re-serialised.

What is hashed and kept is the exact bytes a service wrote. Reading therefore refuses whatever two readers
could understand differently: duplicate keys, invalid UTF-8, a byte order mark, trailing bytes, NaN.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final, NoReturn

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from shared.events.types import (
    DATA_TYPES,
    Attachment,
    Notice,
    Permit,
    Sealed,
    Served,
    Statement,
    dataschema,
    version_of,
)

MAX_STATEMENT_BYTES: Final = 32 * 1024

_MODELS: Final = {dataschema(name, version): (name, version, model) for (name, version), model in DATA_TYPES.items()}

_PARTS: Final[tuple[type[BaseModel], ...]] = (
    Attachment,
    Notice,
    Permit,
    Sealed,
    Served,
    Statement,
    *DATA_TYPES.values(),
)
# A reason travels to logs and tables, and what a stranger calls his own fields could be anything, a name too.
_OUR_FIELDS: Final = frozenset(field for model in _PARTS for field in model.model_fields)


class Malformed(Exception):
    """This is not a statement of a known type and version; the reason names the field, never its value."""

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(f"{reason}: {field}" if field else reason)
        self.reason = reason
        self.field = field


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Malformed("duplicate-key")
    return result


def _constant(_: str) -> NoReturn:
    raise Malformed("not-json")


_decoder: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def strict_json(raw: bytes) -> Any:
    """One JSON text in UTF-8 without a byte order mark, duplicate keys or trailing bytes; else `Malformed`."""
    with suppress(ValueError):
        # What is written back the same is such a text: what is written has neither, and every producer of ours writes
        # so. This takes half as long; of anything else the slow reading decides, and says why.
        document = from_json(raw, allow_inf_nan=False)
        if to_json(document) == raw:
            return document
    try:
        return _decoder.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        # ValueError is bad UTF-8 and bad JSON, and a number of more digits than Python converts.
        raise Malformed("not-json") from None


def parse(raw: bytes) -> Statement:
    """The statement in `raw`, its data as the model its `dataschema` names; raises `Malformed`."""
    if len(raw) > MAX_STATEMENT_BYTES:
        raise Malformed("too-large")
    if raw[:1] != b"{" or raw[-1:] != b"}":
        raise Malformed("not-an-object")
    document = strict_json(raw)
    schema = document.get("dataschema")
    if not isinstance(schema, str) or schema not in _MODELS:
        raise Malformed("unknown-type")
    name, version, model = _MODELS[schema]
    if document.get("type") != name:
        raise Malformed("type-is-not-its-schema's")
    try:
        data = model.model_validate(document.get("data"))
        if version_of(data) != version:
            raise Malformed("not-its-version", "software")
        document["data"] = data
        return Statement.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _OUR_FIELDS)
        raise Malformed(f"invalid-{first['type'].replace('_', '-')}", place) from None


def encode(statement: Statement) -> bytes:
    """The bytes a producer commits. From here on they are final; empty optional fields are left out."""
    document = statement.model_dump(mode="python")
    document["data"] = {
        key: value
        for key, value in statement.data.model_dump(mode="python").items()
        if value is not None and value not in ("", [], {})
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")
