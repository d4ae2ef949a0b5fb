"""What a service's doors take and answer, as an OpenAPI 3.1 document that a stranger can write a client from.

Bodies are read strictly by hand (shared/web.py), so FastAPI knows nothing of them. Each endpoint says it with `@door`;
who may call, and every refusal that all doors share, is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import RouteContext
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from typing_extensions import TypedDict

from shared.access import declarations

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

JSON: Final = "application/json"
HTML: Final = "text/html"
TEXT: Final = "text/plain"
OCTETS: Final = "application/octet-stream"
FORM: Final = "application/x-www-form-urlencoded"

_DOOR: Final = "__door__"
_ABOUT: Final = """\
One service of Consent Ledger. All services can share one port: each lives under its own name.

A refusal is `{"error": code, "message": what to do}`, with more facts where they help; a browser (`Accept: text/html`)
is given a page instead. Nothing that was sent is ever quoted. 503 bears `Retry-After`: keep what you have, ask again.
JSON is read strictly: one text in UTF-8, no duplicate keys, no unknown fields, no `"yes"` for a boolean.
Every GET can be asked as HEAD. Whoever sends too slowly is answered 408, and the connection is closed."""


class Error(TypedDict):
    """Why something was refused."""

    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One way in which a door answers: in words, and each media type with its type, or a schema."""

    description: str
    content: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that are always there, each with what it says."""
    shared_as: str = ""
    """The component that holds all of this but the description, if many doors answer so."""
    optional_headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that are there when there is something to say."""


@dataclass(frozen=True, slots=True)
class Door:
    """What one endpoint takes and answers."""

    takes: Mapping[str, Any]
    answers: Mapping[int, Answer]


def json(description: str, kind: Any) -> Answer:
    """An answer in JSON of this type."""
    return Answer(description, {JSON: kind})


def page(
    description: str, headers: Mapping[str, str] | None = None, optional_headers: Mapping[str, str] | None = None
) -> Answer:
    """A page for people."""
    return Answer(description, {HTML: str}, headers or {}, optional_headers=optional_headers or {})


def refused(description: str) -> Answer:
    """A refusal: JSON for a program, a page for a browser."""
    return Answer(description, {JSON: Error, HTML: str}, shared_as="Refused")


def door(
    *, answers: Mapping[int, Answer], takes: Mapping[str, Any] | None = None, refuses: Mapping[int, str] | None = None
) -> Callable[[Endpoint], Endpoint]:
    """Says of an endpoint what it takes (media type and type), answers, and refuses beyond what every door does."""
    described = {status: refused(description) for status, description in (refuses or {}).items()}

    def said(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _DOOR, Door(takes or {}, {**answers, **described}))
        return endpoint

    return said


def doors(app: FastAPI) -> Iterator[tuple[RouteContext, str | None, Door | None]]:
    """Every route of an app with who may call it and what it takes; None if it says nothing."""
    for route, said in declarations(app):
        yield route, said, getattr(route.endpoint, _DOOR, None)


def document(app: FastAPI) -> dict[str, Any]:
    """The app's document. It depends on the code alone, never on the installation."""
    found = get_openapi(
        title=f"Consent Ledger: {app.title}", version=app.version, description=_ABOUT, routes=app.routes
    )
    writer = _Writer(app.max_body_size)
    for route, said, one in doors(app):
        for method in route.methods or ():
            operation = found["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None and one is not None:
                writer.complete(operation, route, method, said, one)
    found["components"] = writer.components()
    return found


def _shared_refusals(
    method: str, said: str | None, one: Door, body_limit: int | None, *, in_path: bool, has_parameters: bool
) -> dict[int, Answer]:
    """What the edge, the credential and the strict reading answer at every door alike."""
    shared = {
        414: refused("The address is too long."),
        431: refused("The request's headers are too large."),
        503: Answer(
            "A part of the system does not answer right now.",
            {JSON: Error, HTML: str},
            {"Retry-After": "Seconds after which to ask again."},
            shared_as="Unavailable",
        ),
    }
    if in_path:
        shared[404] = refused("There is nothing at this address.")
    if has_parameters:
        shared[400] = refused("A parameter is missing or has a wrong form.")
    if one.takes:
        shared[400] = refused("What was sent could not be read; the message says what to do.")
    if method in {"POST", "PUT"}:
        shared[413] = refused(f"What was sent has more than {body_limit} bytes.")
    if FORM in one.takes:
        shared[403] = refused("The form was sent from another site's page.")
        shared[415] = refused("This address takes a form.")
    if _is_scope(said):
        shared[401] = Answer(
            "There is no credential, or it is not valid.",
            {JSON: Error, HTML: str},
            {"WWW-Authenticate": "Basic, so that a browser asks for the credential."},
            shared_as="NoCredential",
        )
        shared[403] = refused(f"The credential has no grant for {said}.")
    return shared


def _is_scope(said: str | None) -> bool:
    return said not in {None, "everyone", "capability"}


class _Writer:
    """Writes operations, and gives each type and each refusal they name its one place under components."""

    def __init__(self, body_limit: int | None) -> None:
        self._body_limit = body_limit
        self._secured = False
        self._responses: dict[str, Any] = {}
        self._wanted: dict[tuple[str, JsonSchemaMode], tuple[TypeAdapter[Any], list[dict[str, Any]]]] = {}

    def complete(
        self, operation: dict[str, Any], route: RouteContext, method: str, said: str | None, one: Door
    ) -> None:
        """Add to what FastAPI knows of an operation (its parameters) all that the door says."""
        name = str(route.name).strip("_")
        summary, _, rest = (getattr(route.endpoint, "__doc__", None) or name).strip().partition("\n")
        words = [line.strip() for line in rest.strip().splitlines()]
        operation |= {"operationId": name, "summary": summary.rstrip(".")}
        operation.pop("description", None)
        if said == "capability":
            words.append("The address itself is the key.")
        if words:
            operation["description"] = "\n".join(words)
        if _is_scope(said):
            self._secured = True
            operation["security"] = [{"bearer": [said]}, {"basic": [said]}]
        if one.takes:
            content = {kind: self._media(kind, body, "validation") for kind, body in one.takes.items()}
            operation["requestBody"] = {"required": True, "content": content}
        limit = getattr(route.original_route, "max_body_size", None) or self._body_limit
        parameters = operation.get("parameters", [])
        in_path = any(parameter["in"] == "path" for parameter in parameters)
        shared = _shared_refusals(method, said, one, limit, in_path=in_path, has_parameters=bool(parameters))
        operation["responses"] = {
            str(status): self._response(answer) for status, answer in sorted({**shared, **one.answers}.items())
        }

    def _response(self, answer: Answer) -> dict[str, Any]:
        response: dict[str, Any] = {"description": answer.description}
        if answer.shared_as:
            if answer.shared_as not in self._responses:
                self._responses[answer.shared_as] = self._response(
                    replace(answer, shared_as="", description=answer.shared_as)
                )
            return {"$ref": f"#/components/responses/{answer.shared_as}", **response}
        if answer.content:
            response["content"] = {
                kind: self._media(kind, body, "serialization") for kind, body in answer.content.items()
            }
        if answer.headers or answer.optional_headers:
            response["headers"] = {
                name: {"description": text, "required": name in answer.headers, "schema": {"type": "string"}}
                for name, text in {**answer.headers, **answer.optional_headers}.items()
            }
        return response

    def _media(self, kind: str, body: Any, mode: JsonSchemaMode) -> dict[str, Any]:
        """A media type object; its schema is filled in by `components`."""
        if kind == OCTETS:
            return {}  # raw bytes have no schema (OpenAPI 3.1 §4.8.14.1)
        if isinstance(body, Mapping):
            return {"schema": dict(body)}
        place: dict[str, Any] = {}
        self._wanted.setdefault((repr(body), mode), (TypeAdapter(body), []))[1].append(place)
        return {"schema": place}

    def components(self) -> dict[str, Any]:
        """All that the operations refer to; fills in the schemas that they left open."""
        inputs = [(key, mode, adapter) for (key, mode), (adapter, _) in self._wanted.items()]
        made, definitions = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
        for key, (_, places) in self._wanted.items():
            for place in places:
                place.update(made[key])
        components = {"responses": self._responses, "schemas": definitions.get("$defs", {})}
        if self._secured:
            components["securitySchemes"] = {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`<caller>:<secret>`, a service credential; an operation names the scope it needs.",
                },
                "basic": {"type": "http", "scheme": "basic", "description": "The same two, for a person's browser."},
            }
        return components
