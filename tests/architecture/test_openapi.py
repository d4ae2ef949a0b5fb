"""The OpenAPI documents: what stands in docs/openapi is what the apps say, and a stranger can rely on it."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
from fastapi import FastAPI
from openapi_spec_validator import OpenAPIV31SpecValidator

from infra.local.installation import READY
from infra.local.openapi import DOCUMENTS, as_file
from shared.openapi import doors
from shared.process import Running

METHODS: Final = ("get", "put", "post", "delete", "patch")


@pytest.fixture
def apps(roles: dict[str, Running]) -> dict[str, FastAPI]:
    return {name: one.app for name in READY if (one := roles[name]).app is not None}


def committed(service: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DOCUMENTS / f"{service}.json").read_text("utf-8"))
    return document


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", item[method])
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    ]


def test_every_committed_document_is_what_its_service_says(apps: dict[str, FastAPI]) -> None:
    old = [
        name
        for name, app in apps.items()
        if not (DOCUMENTS / f"{name}.json").is_file()
        or (DOCUMENTS / f"{name}.json").read_text("utf-8") != as_file(app.openapi())
    ]
    assert old == [], "docs/openapi is not what the services say now: run `make openapi` and commit it"
    assert {path.stem for path in DOCUMENTS.glob("*.json")} == set(apps)


def test_every_route_says_what_it_takes_and_answers_and_stands_in_its_document(apps: dict[str, FastAPI]) -> None:
    for name, app in apps.items():
        walked = list(doors(app))
        assert [route.path for route, _, said in walked if said is None] == []
        there = {f"{method} {route.path_format}" for route, *_ in walked for method in route.methods or ()}
        assert {operation for operation, _ in operations(committed(name))} == there


@pytest.mark.parametrize("service", READY)
def test_a_document_is_valid_openapi(service: str) -> None:
    OpenAPIV31SpecValidator(committed(service)).validate()


@pytest.mark.parametrize("service", READY)
def test_an_operation_has_a_name_a_sentence_answers_and_errors(service: str) -> None:
    for name, operation in operations(committed(service)):
        assert re.fullmatch(r"[a-z][a-z_]+", operation["operationId"]), name
        assert operation["summary"][0].isupper(), name
        answers = operation["responses"]
        assert any(status.startswith("2") for status in answers), name
        assert "503" in answers, name
        assert "500" not in answers, name
        # Credentials are named exactly where they are asked for, and their refusal with them.
        assert ("security" in operation) == ("401" in answers), name
        if "requestBody" in operation:
            assert {"400", "413"} <= set(answers), name


def test_a_body_is_described_field_by_field() -> None:
    seal = committed("subjects")["paths"]["/subjects/seal"]["post"]
    [content] = seal["requestBody"]["content"].values()
    schema = committed("subjects")["components"]["schemas"][content["schema"]["$ref"].rsplit("/", 1)[1]]
    assert set(schema["properties"]) == {"controller", "identifier", "subject", "items"}
    assert schema["additionalProperties"] is False
    assert seal["security"] == [{"bearer": ["subjects.seal"]}, {"basic": ["subjects.seal"]}]
