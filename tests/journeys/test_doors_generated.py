"""Every door of every service, asked what nobody thought of: requests generated from the committed documents.

Whatever is sent, the answer is one that the document names, in the form that it names, and never a failure of ours.
A new route is covered by itself, because its document must be current (tests/architecture/test_openapi.py).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from infra.local.installation import READY
from infra.local.openapi import DOCUMENTS
from shared.access import grants

if TYPE_CHECKING:
    from tests.journeys.people import World

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES: Final = 8
LINKS: Final = 4
"""At a door whose address is its key: a network that opens too many wrong ones is slowed down, and we are one."""


@cache
def operations() -> dict[str, Any]:
    found = {}
    for service in READY:
        schema = schemathesis.openapi.from_path(DOCUMENTS / f"{service}.json")
        for result in schema.get_all_operations():
            operation = result.ok()
            found[f"{operation.method.upper()} {operation.path}"] = operation
    return found


def scope_of(operation: Any) -> str | None:
    """The scope that an operation needs."""
    security = operation.definition.raw.get("security")
    return str(security[0]["bearer"][0]) if security else None


def credentials(world: World, operation: Any) -> list[dict[str, str]]:
    """None, and of a caller who may."""
    scope = scope_of(operation)
    callers = [caller for caller, scopes in grants().items() if scope in scopes]
    return [{}, *({"Authorization": f"Bearer {world.installation.secrets.credential(one)}"} for one in callers[:1])]


@pytest.fixture(scope="module")
def session() -> requests.Session:
    return requests.Session()


def can_be_wrong(operation: Any) -> bool:
    """Whether anything about a request can differ from the document: a text without a rule cannot."""
    raw = operation.definition.raw
    rules = [set(parameter["schema"]) - {"title", "type", "default"} for parameter in raw.get("parameters", [])]
    return "requestBody" in raw or any(rules)


def walks() -> list[Any]:
    return [
        pytest.param(name, mode, id=f"{name} {mode.value}")
        for name, operation in sorted(operations().items())
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or can_be_wrong(operation)
    ]


@pytest.mark.parametrize(("name", "mode"), walks())
def test_a_door_answers_what_its_document_says(
    world: World, session: requests.Session, name: str, mode: GenerationMode
) -> None:
    operation = operations()[name]
    by_link = "The address itself is the key." in operation.definition.raw.get("description", "")

    @settings(
        max_examples=LINKS if by_link else EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def play(case: Any) -> None:
        if str(case.query.get("wait", "")).replace(".", "").isdigit():
            case.query["wait"] = 0  # what it answers is asked here, not how long it waits
        for headers in credentials(world, operation):
            answer = case.call(base_url=world.base, session=session, headers=headers, timeout=20)
            case.validate_response(answer, checks=CHECKS)

    play()
