"""Holds records against our JSON Schemas and SHACL shapes: those the code makes, and the running product's."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator
from pyshacl import validate
from rdflib import Graph

PLACE: Final = Path(__file__).resolve().parents[2] / "docs/consent-record"


@cache
def schema(name: str) -> Draft202012Validator:
    """Return a JSON Schema."""
    loaded = json.loads((PLACE / f"{name}.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(loaded)
    return Draft202012Validator(loaded)


@cache
def shapes(name: str) -> Graph:
    """Return SHACL shapes."""
    return Graph().parse(PLACE / f"{name}.shapes.ttl", format="turtle")


def against_schema(record: dict[str, Any], name: str = "record") -> list[str]:
    """What the JSON Schema holds against a record; nothing if it conforms."""
    return [f"{error.json_path}: {error.message}" for error in schema(name).iter_errors(record)]


def against_shapes(record: dict[str, Any], name: str = "record") -> str:
    """What the shapes hold against a record as RDF; nothing if it conforms. The context is in it: nothing is loaded."""
    with warnings.catch_warnings():
        # The two libraries still use what they themselves call old.
        warnings.simplefilter("ignore", DeprecationWarning)
        graph = Graph().parse(data=json.dumps(record), format="json-ld")
        conforms, _, said = validate(graph, shacl_graph=shapes(name))
    return "" if conforms else str(said)
