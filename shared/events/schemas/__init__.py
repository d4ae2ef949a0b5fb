"""JSON Schemas of every statement type and version, generated from the models and kept beside this file.

They are for readers who do not use our models. What no schema can say (bytes, duplicate keys, real dates) stands
in docs/formats.md, §3. `python -m shared.events.schemas` writes them; a test holds them current.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import create_model

from shared.events.types import DATA_TYPES, Statement, dataschema

DIRECTORY: Final = Path(__file__).parent
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def _only(value: str) -> Any:
    return (Literal[value], ...)


def _closed(schema: Any) -> Any:
    """The same schema with objects that name their keys by a pattern closed to all other keys, as our models are."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    return {**closed, "additionalProperties": False} if "patternProperties" in closed else closed


def schema_of(name: str, version: int) -> dict[str, Any]:
    """The JSON Schema of a whole statement of this type and version, envelope included."""
    model = create_model(
        name,
        __base__=Statement,
        __doc__=DATA_TYPES[name, version].__doc__,
        type=_only(name),
        dataschema=_only(dataschema(name, version)),
        data=(DATA_TYPES[name, version], ...),
    )
    schema = _closed(model.model_json_schema(mode="validation"))
    # Our writer always states them; a default would let a reader believe they may be missing.
    for constant in ("specversion", "datacontenttype"):
        schema["properties"][constant].pop("default")
        schema["required"].append(constant)
    schema["required"].sort()
    data = schema["$defs"][name]
    if version == 1:
        del data["properties"]["software"]
    else:
        data["properties"]["software"].pop("default")
        data["required"] = [member for member in data["properties"] if member in {*data["required"], "software"}]
    return {"$schema": _DIALECT, **schema}


def files() -> dict[Path, bytes]:
    """Every schema file and what it must hold."""
    return {
        DIRECTORY / f"{name}.{version}.json": (json.dumps(schema_of(name, version), indent=2) + "\n").encode("ascii")
        for name, version in DATA_TYPES
    }
