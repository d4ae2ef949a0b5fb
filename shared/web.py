"""The front of every service: health, metrics, one mapping of errors, one log line per request, and strict reading.

Answers never quote what was sent. Log lines hold the route's template, never the path, the query or the body.
"""

import asyncio
import html
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.parser import HeaderParser
from typing import Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import RouteContext
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import TypedDict

from shared import logs
from shared.access import Access, declarations, needs, open_to_everyone
from shared.errors import Corrupt, Refused, Unavailable
from shared.metrics import Metrics
from shared.openapi import TEXT, Answer, document, door
from shared.openapi import json as answers_json


class Live(TypedDict):
    """The process answers."""

    live: Literal[True]


class IsReady(TypedDict):
    """Every part a service needs: true, or false, or why not."""

    ready: bool
    checks: dict[str, bool | str]


Language = Literal["de", "en"]
Ready = Callable[[], Awaitable[Mapping[str, bool | str]]]
Model = TypeVar("Model", bound=BaseModel)
ErrorPage = Callable[[Request, int, str, str], Response]
"""Makes a page of (request, status, code, message): `shared.pages.Pages.error` is one."""

BODY_LIMIT: Final = 64 * 1024
LONGEST_PATH: Final = 2048 + 256
"""A way out (shared/way_out.py) and what stands around it."""
LARGEST_HEADERS: Final = 16 * 1024
LONGEST_QUERY: Final = 4 * 1024
_LEAST_ERROR: Final = 400
_SERVER_ERROR: Final = 500
_CHECKED_WITHIN_SECONDS: Final = 2.0

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), browsing-topics=()"),
)
_POLICY: Final = b"default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_MESSAGES: Final = {
    404: ("not-found", "There is nothing at this address."),
    405: ("method-not-allowed", "This address does not take this method."),
    413: ("too-large", "What was sent is larger than this address takes. Send less at once."),
    414: ("address-too-long", "The address is too long. Use the link exactly as it was given."),
    431: (
        "headers-too-large",
        "The request's headers are too large. Send fewer or shorter ones, and no cookies.",
    ),
}


def create_app(
    name: str,
    *,
    access: Access,
    metrics: Metrics,
    ready: Ready,
    prefix: str | None = None,
    error_page: ErrorPage | None = None,
    body_limit: int = BODY_LIMIT,
) -> FastAPI:
    """A service's app with /{name}/health/live, /{name}/health/ready, /{name}/metrics and /{name}/openapi.json.

    Routes bear their full path. One that does not say who may call it is denied (shared/access.py).
    `ready` gives the parts: True is fine, False or a text (why not) is not. A route that needs a larger body
    says so: `max_body_size=` at the route.
    """
    prefix = f"/{name}" if prefix is None else prefix
    app = _Service(title=name, openapi_url=None, docs_url=None, redoc_url=None, max_body_size=body_limit)
    app.state.access = access
    app.state.name = name
    app.state.prefix = prefix
    app.state.corrupt = None
    app.state.error_page = error_page

    @door(answers={200: answers_json("The process answers.", Live)})
    async def live() -> Response:
        """Does the process answer?"""
        return JSONResponse({"live": True})

    readiness = _Readiness(app, ready, metrics)

    @door(
        answers={
            200: answers_json("Every part is fine.", IsReady),
            503: answers_json("A part is not; it says which.", IsReady),
        }
    )
    async def is_ready() -> Response:
        """Can the service do its work?"""
        parts = await readiness.checks()
        fine = all(part is True for part in parts.values())
        return JSONResponse({"ready": fine, "checks": parts}, 200 if fine else 503)

    @door(answers={200: Answer("Every metric of this service.", {TEXT: str})})
    async def show_metrics() -> Response:
        """Metrics, as Prometheus reads them."""
        return Response(await metrics.scrape(), media_type=metrics.content_type)

    @door(answers={200: answers_json("An OpenAPI 3.1 document.", dict[str, Any])})
    async def openapi() -> Response:
        """This document."""
        return JSONResponse(app.openapi())

    for path, endpoint, who in (
        ("health/live", live, open_to_everyone),
        ("health/ready", is_ready, open_to_everyone),
        ("metrics", show_metrics, needs(f"{name}.metrics")),
        ("openapi.json", openapi, needs(f"{name}.openapi")),
    ):
        app.add_api_route(f"{prefix}/{path}", endpoint, methods=["GET"], dependencies=[Depends(who)])

    for kind in (Refused, Unavailable, Corrupt, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _answer_to)
    app.add_middleware(_DenyUndeclared, application=app)
    app.edge = _Edge(app, metrics)
    return app


class _Readiness:
    """Which parts of a service work: for whoever asks, and as a metric."""

    def __init__(self, app: FastAPI, ready: Ready, metrics: Metrics) -> None:
        self._app = app
        self._ready = ready
        self._shown = metrics.gauge("ready", "Whether this part of the service works: 1 or 0", ("check",))
        metrics.at_scrape(self._measure, self._shown)

    async def checks(self) -> dict[str, bool | str]:
        """Each part by name: True, or why not."""
        try:
            parts = dict(await self._ready())
        except Unavailable as error:
            parts = {error.service: "does not answer"}
        if self._app.state.corrupt is not None:
            parts["integrity"] = "stopped: what is stored contradicts itself"
        return parts

    async def _measure(self) -> None:
        try:
            async with asyncio.timeout(_CHECKED_WITHIN_SECONDS):
                parts = {"answers": True, **await self.checks()}
        except TimeoutError:
            parts = {"answers": False}
        for name, part in parts.items():
            self._shown.labels(name).set(part is True)


class _Service(FastAPI):
    """The edge stands outside everything of FastAPI's: its body limit would else answer without our headers."""

    edge: "_Edge"

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = document(self)
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.edge(super().__call__, scope, receive, send)


def combine(apps: Sequence[FastAPI]) -> ASGIApp:
    """One ASGI app of several services: each gets its own prefix, the one with the empty prefix the rest."""
    by_prefix = {str(app.state.prefix): app for app in apps}

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        first = "/" + scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
        app = by_prefix.get(first) or by_prefix.get("")
        if app is not None:
            await app(scope, receive, send)
        else:
            answer = JSONResponse({"error": "not-found", "message": _MESSAGES[404][1]}, 404)
            await answer(scope, receive, send)

    return dispatch


def wants_html(request: Request) -> bool:
    """A person's browser names text/html before anything we could answer in JSON."""
    for part in request.headers.get("accept", "").split(","):
        kind = part.split(";", 1)[0].strip().lower()
        if kind in {"application/json", "application/*", "*/*"}:
            return False
        if kind in {"text/html", "application/xhtml+xml"}:
            return True
    return False


def _answer(
    request: Request,
    status: int,
    code: str,
    message: str,
    facts: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    request.scope["consent.error"] = code
    if wants_html(request):
        page: ErrorPage | None = request.app.state.error_page
        answer = (
            page(request, status, code, message)
            if page is not None
            else HTMLResponse(
                f'<!doctype html><html lang="en"><title>{status}</title><p>{html.escape(message)}</p>', status
            )
        )
    else:
        answer = JSONResponse({"error": code, "message": message, **(facts or {})}, status)
    answer.headers["Cache-Control"] = "no-store"
    for name, value in (headers or {}).items():
        answer.headers[name] = value
    return answer


async def _answer_to(request: Request, error: Exception) -> Response:
    """The one mapping of errors to HTTP."""
    match error:
        case Refused():
            # Basic, because that is what lets a person's browser ask for the credential.
            challenge = {"WWW-Authenticate": 'Basic realm="Consent Ledger", charset="UTF-8"'}
            headers = challenge if error.status == 401 else {}
            if "retry_after" in error.facts:
                headers = {"Retry-After": str(error.facts["retry_after"])}
            return _answer(request, error.status, error.code, error.message, error.facts, headers)
        case Unavailable():
            return _answer(
                request,
                503,
                "unavailable",
                "A part of the system does not answer right now. Please try again in a moment.",
                {"service": error.service},
                {"Retry-After": str(error.retry_after)},
            )
        case Corrupt():
            # From here on readiness is red and `watch` ends the process: going on could make it worse.
            request.app.state.corrupt = error
            return _answer(request, 500, "stopped", "The system has stopped itself: stored data contradicts itself.")
        case RequestValidationError():
            return _answer(
                request, 400, "invalid-parameters", "A parameter of this address is missing or has a wrong form."
            )
        case ClientDisconnect():
            # Nobody reads this; but it is no failure of ours, and the log should not say so.
            return _answer(request, 400, "broken-off", "The request broke off before it was complete.")
        case HTTPException():
            code, message = _MESSAGES.get(error.status_code, ("refused", "The request was refused."))
            return _answer(request, error.status_code, code, message, None, error.headers)
        case _:
            return _answer(request, 500, "internal", "Something went wrong on our side. Please try again.")


async def watch(app: FastAPI, pause: Callable[[float], Awaitable[None]]) -> None:
    """A task for shared.process.run: raises the Corrupt a handler met, so that the process stops."""
    while app.state.corrupt is None:
        await pause(0.5)
    raise app.state.corrupt


class _DenyUndeclared:
    """Denial for routes that forgot to say who may call them. There should be none, and a test says so."""

    def __init__(self, app: ASGIApp, application: FastAPI) -> None:
        self._app = app
        self._application = application
        self._undeclared: list[RouteContext] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._undeclared is None:
            # Looked up at the first request: routes are added after the app is made.
            self._undeclared = [route for route, said in declarations(self._application) if said is None]
        for route in self._undeclared:
            if route.matches(scope)[0] is not Match.NONE:
                answer = JSONResponse({"error": "denied", "message": "Nobody may call this address."}, 403)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Unless413:
    """Passes an answer on, but for the framework's own 413, which is bare text."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.held_back = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 413:
            kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            self.held_back = any(kind.startswith(b"text/plain") for kind in kinds)
        if not self.held_back:
            await self._send(message)


def _refusal_of_head(scope: Scope) -> int | None:
    """The status that a request's head alone deserves, before anything looks at it.

    Routes match as if a line's end were not there, and choke on numbers of thousands of digits: neither is ours.
    """
    if len(scope["path"]) > LONGEST_PATH or "\n" in scope["path"]:
        return 404
    if len(scope.get("query_string", b"")) > LONGEST_QUERY:
        return 414
    if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEADERS:
        return 431
    return None


class _Edge:
    """Outermost: security headers, one metric and one log line per request, nothing escapes. HEAD is GET unsaid."""

    def __init__(self, application: FastAPI, metrics: Metrics) -> None:
        self._application = application
        self._log = logs.logger(str(application.state.name))
        self._seconds = metrics.histogram("http_request_seconds", "Duration of requests", ("route", "method", "status"))
        self._templates: dict[object, str] = {}

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        status, method = 0, scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}

        async def secured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.body" and method == "HEAD":
                message = {**message, "body": b""}
            elif message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                named = {name.lower() for name, _ in headers}
                headers += [(name, value) for name, value in _HEADERS if name not in named]
                if b"content-security-policy" not in named:
                    headers.append((b"content-security-policy", _POLICY))
                if b"cache-control" not in named:
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers}
            await send(message)

        failure: Exception | None = None
        try:
            await self._answered(app, scope, receive, secured)
        except Exception as error:  # noqa: BLE001 - the server above would print its text; we report its kind
            failure = error
        finally:
            self._report(scope, method, status, time.perf_counter() - began, failure)

    async def _answered(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal_of_head(scope)
        if refusal is None:
            passed = _Unless413(send)
            await app(scope, receive, passed)
            refusal = 413 if passed.held_back else None
        if refusal is not None:
            answer = _answer(Request({**scope, "app": self._application}), refusal, *_MESSAGES[refusal])
            await answer(scope, receive, send)

    def _template(self, scope: Scope) -> str:
        """The route's path as declared; one fixed word where none matched, so that nobody's path is logged."""
        if not self._templates:
            self._templates = {
                route.endpoint: route.path
                for route, _ in declarations(self._application)
                if route.endpoint is not None and route.path is not None
            }
        return self._templates.get(scope.get("endpoint"), "(none)")

    def _report(self, scope: Scope, method: str, status: int, seconds: float, failure: Exception | None) -> None:
        route = self._template(scope)
        method = method if method in {"GET", "HEAD", "POST", "PUT", "DELETE"} else "OTHER"
        self._seconds.labels(route, method, str(status)).observe(seconds)
        facts: dict[str, Any] = {"route": route, "method": method, "status": status, "ms": round(seconds * 1000, 1)}
        if "consent.error" in scope:
            facts["error"] = scope["consent.error"]
        if failure is not None:
            self._log.error("request", **facts, exc_info=failure)
        elif status >= _SERVER_ERROR:
            self._log.warning("request", **facts)
        else:
            self._log.info("request", **facts)


def same_origin(request: Request, base_url: str) -> None:
    """Refuses a form that another site's page sent. Programs send neither header and are let through:
    there are no cookies, so a stranger's request carries no one's authority."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    fine = site in {None, "same-origin", "none"}
    if fine and origin is not None:
        # The demo is reached by more names than its base URL's; a browser does not let a page forge Host.
        own = urlsplit(base_url)
        host = request.headers.get("host")
        fine = origin in {f"{own.scheme}://{own.netloc}", f"http://{host}", f"https://{host}"}
    if not fine:
        raise Refused(
            "cross-site", "This form was sent from another site. Open our page and send it there.", status=403
        )


def language(request: Request, available: Sequence[Language] = ("de", "en")) -> Language:
    """`?lang=` if it names one, else the best of Accept-Language, else the first."""
    asked = request.query_params.get("lang", "")
    for candidate in available:
        if candidate == asked:
            return candidate
    best: tuple[float, Language] | None = None
    for part in request.headers.get("accept-language", "").split(",")[:20]:
        tag, _, parameters = part.partition(";")
        quality = _quality(parameters)
        for candidate in available:
            if tag.strip().lower().split("-")[0] == candidate and quality > (best[0] if best else 0.0):
                best = (quality, candidate)
    return best[1] if best else available[0]


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0


async def parse_form(request: Request, max_fields: int = 20) -> dict[str, list[str]]:
    """The text fields of a form, each with all its values; Refused if it is not exactly that.

    RFC 8058 lets a mailbox provider send `List-Unsubscribe=One-Click` as multipart/form-data too.
    """
    kind = request.headers.get("content-type", "")
    body = await request.body()
    malformed = Refused("malformed-form", "The form could not be read. Please open the page and send it again.")
    try:
        match kind.split(";", 1)[0].strip().lower():
            case "application/x-www-form-urlencoded":
                pairs = parse_qsl(
                    body.decode("ascii"),
                    keep_blank_values=True,
                    strict_parsing=bool(body),
                    encoding="utf-8",
                    errors="strict",
                    max_num_fields=max_fields,
                )
            case "multipart/form-data":
                pairs = _multipart(kind, body, max_fields)
            case _:
                raise Refused("not-a-form", "This address takes a form.", status=415)
    except ValueError:
        raise malformed from None
    if len(pairs) > max_fields:
        raise malformed
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        if "\x00" in name or "\x00" in value:
            raise malformed
        form.setdefault(name, []).append(value)
    return form


_BOUNDARY: Final = re.compile(
    r""";\s*boundary=(?:"([\w'()+,./:=? -]{1,70})"|([\w'+.-]{1,70}))\s*(?:;|\Z)""", re.ASCII | re.IGNORECASE
)
_PART_HEAD: Final = 1024


def _multipart(kind: str, body: bytes, max_fields: int) -> list[tuple[str, str]]:
    """Text fields, one level deep (RFC 7578). A parser of mail would unfold what is nested, for seconds in which
    nobody else is answered."""
    named = _BOUNDARY.search(kind)
    if named is None:
        raise ValueError
    if b"\r\n" not in body:
        body = body.replace(b"\n", b"\r\n")
    _, *parts, end = (b"\r\n" + body).split(b"\r\n--" + (named[1] or named[2]).encode("ascii"))
    if not parts or len(parts) > max_fields or not end.startswith(b"--"):
        raise ValueError
    return [_part(part) for part in parts]


def _part(part: bytes) -> tuple[str, str]:
    head, divided, payload = part.partition(b"\r\n\r\n")
    padding, _, lines = head.partition(b"\r\n")
    if padding.strip(b" \t") or not divided or len(lines) > _PART_HEAD:
        raise ValueError
    headers = HeaderParser().parsestr(lines.decode("ascii"))
    name = headers.get_param("name", header="content-disposition")
    encoding = headers.get("content-transfer-encoding", "binary").strip().lower()
    if not isinstance(name, str) or headers.get_filename() is not None or encoding not in {"7bit", "8bit", "binary"}:
        raise ValueError
    return name, payload.decode("utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(_name: str) -> Any:
    raise ValueError


async def json_body(request: Request, model: type[Model]) -> Model:
    """The body as a strict model; Refused names the field that is wrong, never its value.

    Duplicate keys are refused: two readers would see two different requests.
    """
    body = await request.body()
    try:
        json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused("malformed-json", "The body is not one JSON text in UTF-8 without duplicate keys.") from None
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        known = set(model.model_fields)
        field = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in known)
        raise Refused(
            "invalid-body", "A field of the body is missing or has a wrong form.", field=field, rule=first["type"]
        ) from None
