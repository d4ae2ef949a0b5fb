"""The two topics as an AsyncAPI 3 document, made from the code that writes and reads them.

python -m shared.asyncapi     writes docs/asyncapi.json; a test holds it current, `make lint` holds it valid
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from shared import topics, wire
from shared.events import DATA_TYPES, MAX_STATEMENT_BYTES
from shared.events.schemas import schema_of
from shared.events.types import SOURCE_PATTERN, SUBJECT_PATTERN, TIME_PATTERN

DOCUMENT: Final = Path(__file__).parents[1] / "docs/asyncapi.json"

_JSON: Final = "application/json"
_SUBJECT: Final = {"type": "string", "pattern": SUBJECT_PATTERN, "description": "Whom the statement is about."}
_U64: Final = "^(0|[1-9][0-9]{0,19})$"
_BINDING: Final = "0.5.0"
_ABOUT: Final = f"""\
Two topics, one partition a shard, and nothing else between collectors, the ledger and whoever acts on consent.

A collector states a fact on `{topics.STATED}`; the ledger appends it to a Merkle log, seals it with a signature, and \
publishes it on `{topics.RECORDED}`. Act on what is recorded alone.

The partition is the shard of the subject, which is the number before the dot of its id, and is set explicitly. Keys \
and headers hold nothing personal; what is personal in a statement is ciphertext. Every byte is in docs/formats.md; \
§14 has these messages. A `statement` is at most {MAX_STATEMENT_BYTES} bytes, and those bytes are what is hashed."""


def _formula(domain: bytes, rest: str) -> str:
    return f'HMAC-SHA-256(key, "{domain.decode()}" || 00 || origin || 00 || {rest}); origin is the name of the log'


_MACS: Final = {
    "statement": _formula(wire.STATED, "sequence u64 || payload"),
    "alive": _formula(wire.ALIVE, "sequence u64 || payload"),
    "leaf": _formula(wire.RECORDED, "kind || 00 || payload"),
    "heartbeat": _formula(wire.RECORDED, "kind || 00 || payload"),
}
_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "sequence": {
        "type": "string",
        "pattern": _U64,
        "description": "Counts from 1 per source and shard, without gaps; 0 is counted by nobody.",
    },
    "mac-key": {
        "type": "string",
        "pattern": f"{SOURCE_PATTERN[:-1]}\\.[1-9][0-9]{{0,8}}$",
        "description": "`<source>.<n>`: which of the source's keys made the MAC. It decides who speaks.",
    },
    "traceparent": {"type": "string", "description": "W3C trace context; not authenticated."},
}


def _headers(kind: str, written: wire.Headers) -> dict[str, Any]:
    """The headers of one kind of message, by the names under which the code writes them."""
    known = _HEADERS | {
        "kind": {"type": "string", "const": kind},
        "content-type": {"type": "string", "const": wire.CONTENT_TYPE.decode()},
        "mac": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": _MACS[kind]},
    }
    names = [name for name, _ in written]
    return {
        "type": "object",
        "properties": {name: known[name] for name in [*names, "traceparent"]},
        "required": names,
    }


def _stated_headers(kind: str) -> dict[str, Any]:
    return _headers(kind, wire.stated_headers(kind, 1, "source.1", b""))


def _recorded_headers(kind: str) -> dict[str, Any]:
    return _headers(kind, wire.recorded_headers(kind, b""))


def _in_draft_7(schema: Any) -> Any:
    """The same schema in the words that AsyncAPI's own dialect has: parts stand under components, as draft 7 has it."""
    if isinstance(schema, list):
        return [_in_draft_7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    words = {"dependentRequired": "dependencies"}
    return {
        words.get(key, key): value.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _in_draft_7(value)
        for key, value in schema.items()
        if key not in {"$schema", "$defs"}
    }


def _statements() -> tuple[dict[str, Any], dict[str, Any]]:
    """A message for each type and version, and the schemas that they share."""
    messages: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for (name, version), model in DATA_TYPES.items():
        schema = schema_of(name, version)
        parts = schema["$defs"]
        # The data of a type is called like the type itself; the next version of it must not take its place.
        data = f"{name}Data{version}"
        text = json.dumps({**parts, data: parts.pop(name)}).replace(f'"#/$defs/{name}"', f'"#/$defs/{data}"')
        for part, body in json.loads(text).items():
            schemas[part] = _in_draft_7(body)
        body = json.loads(json.dumps(schema).replace(f'"#/$defs/{name}"', f'"#/$defs/{data}"'))
        schemas[f"{name}{version}"] = _in_draft_7(body)
        messages[f"{name}{version}"] = {
            "name": name,
            "title": f"{name}, version {version}",
            "summary": (model.__doc__ or "").strip(),
            "contentType": wire.CONTENT_TYPE.decode(),
            "headers": {"$ref": "#/components/schemas/statementHeaders"},
            "payload": {"$ref": f"#/components/schemas/{name}{version}"},
            "bindings": {"kafka": {"key": dict(_SUBJECT), "bindingVersion": _BINDING}},
        }
    return messages, schemas


def _marks() -> dict[str, Any]:
    """What stands in the two control messages, by the names under which the code writes them."""
    shard = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
    time = {"type": "string", "pattern": TIME_PATTERN}
    known = {
        "alive": {
            "source": {"type": "string", "pattern": SOURCE_PATTERN},
            "shard": shard,
            "sequence": {"type": "string", "pattern": _U64, "description": "The highest number given out so far."},
            "all_before": {**time, "description": "Every statement accepted before this moment is sealed."},
        },
        "heartbeat": {
            "shard": shard,
            "checkpoint": {"type": "string", "description": "A C2SP signed note with the log's newest checkpoint."},
            "marks": {
                "type": "object",
                "propertyNames": {"pattern": SOURCE_PATTERN},
                "additionalProperties": time,
                "description": "The newest `all_before` of each source that has one.",
            },
        },
    }
    written = {
        "alive": json.loads(wire.alive_value("source", 0, 1, "")),
        "heartbeat": json.loads(wire.heartbeat_value(0, "", {})),
    }
    return {
        kind: {
            "type": "object",
            "properties": {name: known[kind][name] for name in names},
            "required": list(names),
            "additionalProperties": False,
        }
        for kind, names in written.items()
    }


def _control(kind: str, summary: str) -> dict[str, Any]:
    return {
        "name": kind,
        "title": kind,
        "summary": summary,
        "contentType": _JSON,
        "headers": {"$ref": f"#/components/schemas/{kind}Headers"},
        "payload": {"$ref": f"#/components/schemas/{kind}"},
    }


def _channel(address: str, description: str, messages: list[str]) -> dict[str, Any]:
    configuration = {
        "cleanup.policy": [topics.CONFIG["cleanup.policy"]],
        "retention.ms": int(topics.CONFIG["retention.ms"]),
    }
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "kafka": {"topic": address, "topicConfiguration": configuration, "bindingVersion": _BINDING},
        },
    }


def _operation(action: str, channel: str, summary: str, messages: list[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


def document() -> dict[str, Any]:
    """The whole document, from the ledger's side: it receives what is stated and sends what is recorded."""
    statements, schemas = _statements()
    messages = statements | {
        "alive": _control("alive", "Once a second and shard: up to when everything a source accepted is sealed."),
        "leaf": {
            "name": "leaf",
            "title": "leaf",
            "summary": "One leaf of the log, of any type, with the statement it is of. In index order, without gaps.",
            "contentType": "application/octet-stream",
            "headers": {"$ref": "#/components/schemas/leafHeaders"},
            "payload": {
                "type": "string",
                "format": "binary",
                "description": f"{wire.RecordedValue.__doc__} Integers are big-endian.",
            },
        },
        "heartbeat": _control("heartbeat", "Once a second and after each batch: the newest checkpoint, and the marks."),
    }
    schemas |= _marks() | {
        "statementHeaders": _stated_headers("statement"),
        "aliveHeaders": _stated_headers("alive"),
        "leafHeaders": _recorded_headers("leaf"),
        "heartbeatHeaders": _recorded_headers("heartbeat"),
    }
    stated, recorded = [*statements, "alive"], ["leaf", "heartbeat"]
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Consent Ledger: topics", "version": "1.0.0", "description": _ABOUT},
        "defaultContentType": _JSON,
        "channels": {
            "stated": _channel(
                topics.STATED,
                "Facts on their way to the log. Sent again until sealed; repetitions are dropped.",
                stated,
            ),
            "recorded": _channel(
                topics.RECORDED,
                "What the log holds, sealed. What is missed, or older than the retention: GET /ledger/records.",
                recorded,
            ),
        },
        "operations": {
            "record": _operation("receive", "stated", "The ledger records what collectors state.", stated),
            "publish": _operation("send", "recorded", "The ledger publishes what it has sealed.", recorded),
        },
        "components": {"messages": messages, "schemas": dict(sorted(schemas.items()))},
    }


def as_file() -> bytes:
    """The document as it is committed."""
    return (json.dumps(document(), indent=2, ensure_ascii=False) + "\n").encode("utf-8")


if __name__ == "__main__":
    DOCUMENT.write_bytes(as_file())
