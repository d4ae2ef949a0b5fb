"""The front of every service, asked in-process: who may call, what errors look like, what is logged."""

import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict
from starlette.routing import Mount, Route

from shared.access import Access, declarations, needs, open_by_capability, open_to_everyone
from shared.errors import Corrupt, Refused, Unavailable
from shared.metrics import Metrics
from shared.pages import Pages
from shared.web import combine, create_app, json_body, language, parse_form, same_origin, watch

pytestmark = pytest.mark.usefixtures("logging_as_in_production")

PERSONAL = "anna.muster@example.org"
EVERYONE = [Depends(open_to_everyone)]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    yes: bool


async def fine() -> dict[str, bool | str]:
    return {"postgresql": True}


def an_app(
    name: str = "probe", ready: Callable[[], Awaitable[dict[str, bool | str]]] = fine, **options: Any
) -> FastAPI:
    access = Access(
        {"reader": ["new", "old"], "stranger": ["s3cret"]},
        {"reader": ["probe.read", "probe.metrics", "probe.openapi"], "stranger": []},
    )
    return create_app(name, access=access, metrics=Metrics(name), ready=ready, **options)


@pytest.fixture
def app() -> FastAPI:  # noqa: C901 - one route per case
    app = an_app(error_page=Pages("probe").error)
    router = APIRouter(prefix="/probe")

    @router.get("/secret", dependencies=[Depends(needs("probe.read"))])
    async def secret() -> dict[str, bool]:
        return {"ok": True}

    @router.get("/caller")
    async def caller(name: Annotated[str, Depends(needs("probe.read"))]) -> dict[str, str]:
        return {"caller": name}

    @router.get("/forgotten/{number}")
    async def forgotten(number: int) -> dict[str, int]:
        return {"number": number}

    @router.get("/contradictory", dependencies=[Depends(needs("probe.read"))])
    @open_to_everyone
    async def contradictory() -> dict[str, bool]:
        return {"ok": True}

    @router.get("/number/{number}")
    @open_to_everyone
    async def number(number: int) -> dict[str, int]:
        return {"number": number}

    @router.get("/link/{token}", dependencies=[Depends(open_by_capability)])
    async def link(token: str) -> HTMLResponse:
        return HTMLResponse("<p>ok", headers={"Content-Security-Policy": "default-src 'self'"})

    @router.get("/fails/{how}", dependencies=EVERYONE)
    async def fails(how: str) -> None:
        match how:
            case "refused":
                raise Refused("token-expired", "Ask for a new link.", status=410, days=7)
            case "unavailable":
                raise Unavailable("postgresql", retry_after=3)
            case "corrupt":
                raise Corrupt("root differs", "shard 0")
            case _:
                raise KeyError(PERSONAL)

    @router.post("/form", dependencies=EVERYONE)
    async def form(request: Request) -> dict[str, list[str]]:
        same_origin(request, "https://consent.example.org")
        return await parse_form(request, max_fields=3)

    @router.post("/json", dependencies=EVERYONE)
    async def body(request: Request) -> dict[str, Any]:
        return (await json_body(request, Body)).model_dump()

    @router.post("/large", dependencies=EVERYONE, max_body_size=200_000)
    async def large(request: Request) -> dict[str, int]:
        return {"size": len(await request.body())}

    app.include_router(router)

    @open_to_everyone
    async def tile(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("tile")

    async def bare(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("bare")

    app.router.routes.append(Route("/probe/tile/{path:path}", tile))
    app.router.routes.append(Route("/probe/large-number/{number:int}", tile))
    app.router.routes.append(Route("/probe/bare", bare))
    app.router.routes.append(Mount("/probe/files", app=PlainTextResponse("file")))
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://probe") as client:
        yield client


def bearer(caller: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {caller}"}


def basic(caller: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(caller.encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (bearer("reader:new"), 200),
        (bearer("reader:old"), 200),
        (basic("reader:new"), 200),
        (bearer("reader:older"), 401),
        (bearer("reader:"), 401),
        (bearer("reader"), 401),
        (bearer("nobody:-"), 401),
        (bearer(":"), 401),
        (basic("stranger:new"), 401),
        (bearer("stranger:s3cret"), 403),
        ({"Authorization": "Basic %%%"}, 401),
        ({"Authorization": "Digest reader:new"}, 401),
        ({"Authorization": "bearer   reader:new"}, 200),
    ],
)
async def test_a_scope_needs_a_caller_that_has_it(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    answer = await client.get("/probe/secret", headers=headers)
    assert answer.status_code == status
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


async def test_a_handler_may_ask_who_called(client: httpx.AsyncClient) -> None:
    answer = await client.get("/probe/caller", headers=bearer("reader:new"))
    assert answer.json() == {"caller": "reader"}


@pytest.mark.parametrize("path", ["/forgotten/1", "/contradictory", "/bare", "/files/x"])
async def test_a_route_that_does_not_say_who_may_call_it_is_denied(client: httpx.AsyncClient, path: str) -> None:
    for headers in ({}, bearer("reader:new")):
        assert (await client.get("/probe" + path, headers=headers)).status_code == 403


@pytest.mark.parametrize("path", ["/number/3", "/link/abc", "/tile/x/1", "/health/live", "/health/ready"])
async def test_an_open_route_needs_no_credential(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get("/probe" + path)).status_code == 200


def test_every_route_can_be_walked_with_who_may_call_it(app: FastAPI) -> None:
    said = {route.path: who for route, who in declarations(app)}
    assert said["/probe/secret"] == said["/probe/caller"] == "probe.read"
    assert said["/probe/metrics"] == "probe.metrics"
    assert said["/probe/openapi.json"] == "probe.openapi"
    assert said["/probe/link/{token}"] == "capability"
    assert said["/probe/tile/{path:path}"] == said["/probe/health/live"] == "everyone"
    undeclared = {path for path, who in said.items() if who is None}
    assert undeclared == {"/probe/forgotten/{number}", "/probe/contradictory", "/probe/bare", "/probe/files"}


async def test_metrics_and_schema_need_their_scope(client: httpx.AsyncClient) -> None:
    for path in ("/probe/metrics", "/probe/openapi.json"):
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers=bearer("stranger:s3cret"))).status_code == 403
    schema = (await client.get("/probe/openapi.json", headers=bearer("reader:new"))).json()
    assert "/probe/secret" in schema["paths"]
    metrics = (await client.get("/probe/metrics", headers=bearer("reader:new"))).text
    assert 'probe_http_request_seconds_count{method="GET",route="/probe/metrics",status="401"} 1.0' in metrics


async def test_an_unready_part_makes_the_service_unready() -> None:
    async def ready() -> dict[str, bool | str]:
        return {"postgresql": True, "kafka": "does not answer"}

    async def down() -> dict[str, bool | str]:
        raise Unavailable("postgresql")

    for check, part in ((ready, "kafka"), (down, "postgresql")):
        transport = httpx.ASGITransport(an_app(ready=check))
        async with httpx.AsyncClient(transport=transport, base_url="http://probe") as client:
            answer = await client.get("/probe/health/ready")
            assert answer.status_code == 503
            assert answer.json()["ready"] is False
            assert answer.json()["checks"][part] == "does not answer"
            assert (await client.get("/probe/health/live")).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/fails/refused", 410, "token-expired"),
        ("/fails/unavailable", 503, "unavailable"),
        ("/fails/corrupt", 500, "stopped"),
        ("/fails/otherwise", 500, "internal"),
        ("/nothing", 404, "not-found"),
        (f"/number/{PERSONAL}", 400, "invalid-parameters"),
    ],
)
async def test_an_error_is_a_page_for_a_person_and_json_for_a_program_and_quotes_nothing(
    client: httpx.AsyncClient, path: str, status: int, code: str
) -> None:
    program = await client.get("/probe" + path, headers={"Accept": "*/*"})
    person = await client.get("/probe" + path, headers={"Accept": "text/html,*/*;q=0.8", "Accept-Language": "en"})
    assert program.status_code == person.status_code == status
    assert program.json()["error"] == code
    assert program.json()["message"]
    assert person.headers["Content-Type"].startswith("text/html")
    assert '<html lang="en">' in person.text
    assert PERSONAL not in program.text + person.text


async def test_facts_and_waiting_times_travel_with_the_error(client: httpx.AsyncClient) -> None:
    assert (await client.get("/probe/fails/refused")).json()["days"] == 7
    assert (await client.get("/probe/fails/unavailable")).headers["Retry-After"] == "3"


async def test_what_is_corrupt_turns_readiness_red_and_ends_the_process(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    await client.get("/probe/fails/corrupt")
    assert (await client.get("/probe/health/ready")).status_code == 503

    async def never(_seconds: float) -> None:
        raise AssertionError

    with pytest.raises(Corrupt):
        await watch(app, never)


@pytest.mark.parametrize("path", ["/link/abc", "/fails/otherwise", "/nothing", "/forgotten/1", "/tile/x"])
async def test_every_answer_carries_the_security_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get("/probe" + path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    assert policy == "default-src 'self'" if path == "/link/abc" else "frame-ancestors 'none'" in policy


async def test_a_log_line_holds_the_template_and_never_what_was_sent(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    await client.get(f"/probe/link/{PERSONAL}?email={PERSONAL}")
    await client.get(f"/{PERSONAL}")
    await client.get("/probe/fails/otherwise")
    await client.post("/probe/form", data={"email": PERSONAL})
    written = capsys.readouterr().err
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["route"] for line in lines] == [
        "/probe/link/{token}",
        "(none)",
        "/probe/fails/{how}",
        "/probe/form",
    ]
    assert lines[2]["exception"] == "KeyError"
    assert all(place.startswith("shared/") for place in lines[2]["at"])
    assert PERSONAL not in written


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "https://consent.example.org", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://probe"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://consent.example.org:8443"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[probe"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://consent.example.org", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_a_form_is_taken_from_our_own_pages_and_from_programs(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    assert (await client.post("/probe/form", data={"a": "1"}, headers=headers)).status_code == status


URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b"", {}),
        (b"a=1&b=&a=2", {"a": ["1", "2"], "b": [""]}),
        (b"name=J%C3%BCrgen+M", {"name": ["Jürgen M"]}),
    ],
)
async def test_a_form_is_read_as_sent(client: httpx.AsyncClient, body: bytes, form: dict[str, list[str]]) -> None:
    assert (await client.post("/probe/form", content=body, headers=URLENCODED)).json() == form


@pytest.mark.parametrize("body", [b"a=%C3", b"a=\xc3\xbc", b"a", b"a=1&b=2&c=3&d=4", b"a=%00"])
async def test_what_is_not_exactly_a_form_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/probe/form", content=body, headers=URLENCODED)
    assert (answer.status_code, answer.json()["error"]) == (400, "malformed-form")


async def test_one_click_comes_as_multipart_too(client: httpx.AsyncClient) -> None:
    answer = await client.post("/probe/form", files={"List-Unsubscribe": (None, "One-Click")})
    assert answer.json() == {"List-Unsubscribe": ["One-Click"]}
    answer = await client.post("/probe/form", files={"List-Unsubscribe": ("file.txt", "One-Click")})
    assert answer.status_code == 400
    answer = await client.post("/probe/form", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code == 400
    assert (await client.post("/probe/form", content=b"{}")).status_code == 415


MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nJ\xc3\xbcrgen\r\n--b--\r\n', {"a": ["Jürgen"]}),
        (b"--b \r\ncontent-disposition: form-data; name=a\r\n\r\n1\r\n2\r\n--b--", {"a": ["1\r\n2"]}),
        (b'--b\nContent-Disposition: form-data; name="a"\n\n1\n--b--\n', {"a": ["1"]}),
    ],
)
async def test_multipart_is_read_as_sent(client: httpx.AsyncClient, body: bytes, form: dict[str, list[str]]) -> None:
    assert (await client.post("/probe/form", content=body, headers=MULTIPART)).json() == form


FIELD = b'--b\r\nContent-Disposition: form-data; name="a"\r\n'


@pytest.mark.parametrize(
    "body",
    [
        FIELD + b"\r\n1\r\n--b\r\n",
        FIELD + b"\r\n1",
        FIELD + b"Content-Transfer-Encoding: base64\r\n\r\nMQ==\r\n--b--",
        FIELD + b"X: " + b"x" * 2000 + b"\r\n\r\n1\r\n--b--",
        FIELD + b"\r\n\xff\r\n--b--",
        FIELD + b"\r\n\x00\r\n--b--",
        FIELD.replace(b'"a"', b'"\xe4"') + b"\r\n1\r\n--b--",
        FIELD.replace(b"--b", b"--bb") + b"\r\n1\r\n--b--",
        b"--b\r\n\r\n1\r\n--b--",
        4 * (FIELD + b"\r\n1\r\n") + b"--b--",
    ],
)
async def test_multipart_that_is_no_form_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/probe/form", content=body, headers=MULTIPART)
    assert (answer.status_code, answer.json()["error"]) == (400, "malformed-form")


async def test_parts_within_parts_are_not_unfolded(client: httpx.AsyncClient) -> None:
    """900 levels took a parser of mail four seconds, and the whole process with it."""
    nested = "".join(f"Content-Type: multipart/mixed; boundary=b{i}\r\n\r\n--b{i}\r\n" for i in range(900))
    began = time.process_time()
    answer = await client.post("/probe/form", content=f"--b\r\n{nested}".encode(), headers=MULTIPART)
    assert answer.status_code == 400
    assert time.process_time() - began < 0.5


async def test_head_is_answered_as_get_without_its_body(client: httpx.AsyncClient) -> None:
    whole, head = await client.get("/probe/number/7"), await client.head("/probe/number/7")
    assert (head.status_code, head.content, head.headers) == (200, b"", whole.headers)
    assert (await client.head("/probe/secret")).status_code == 401
    assert (await client.head("/probe/form")).status_code == 405


@pytest.mark.parametrize("path", ["/probe/tile/0%0A", f"/probe/large-number/{'9' * 5000}"])
async def test_an_address_that_no_link_of_ours_has_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["error"]) == (404, "not-found")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"name":"a","yes":true}', 200),
        (b'{"name":"a","yes":"true"}', 400),
        (b'{"name":"a","yes":1}', 400),
        (b'{"name":"a","yes":true,"more":1}', 400),
        (b'{"name":"a","yes":true,"yes":false}', 400),
        (b'{"name":"a","yes":true}x', 400),
        (b'\xef\xbb\xbf{"name":"a","yes":true}', 400),
        (b'{"name":"\xff","yes":true}', 400),
        (b'{"name":NaN,"yes":true}', 400),
        (b"[" * 50_000, 400),
        (b"", 400),
    ],
)
async def test_json_is_read_strictly(client: httpx.AsyncClient, body: bytes, status: int) -> None:
    assert (await client.post("/probe/json", content=body)).status_code == status


async def test_a_wrong_field_is_named_and_its_value_is_not(client: httpx.AsyncClient) -> None:
    answer = await client.post("/probe/json", json={"name": "a", "yes": PERSONAL})
    assert answer.json()["field"] == "yes"
    answer = await client.post("/probe/json", json={"name": "a", "yes": True, PERSONAL: 1})
    assert answer.status_code == 400
    assert PERSONAL not in answer.text


async def test_a_body_above_the_limit_is_refused_unless_the_route_takes_more(client: httpx.AsyncClient) -> None:
    body = b"a=" + b"x" * 70_000
    refused = await client.post("/probe/form", content=body, headers=URLENCODED)
    assert (refused.status_code, refused.json()["error"]) == (413, "too-large")
    assert refused.headers["X-Content-Type-Options"] == "nosniff"
    page = await client.post("/probe/form", content=body, headers={**URLENCODED, "Accept": "text/html"})
    assert (page.status_code, page.headers["Content-Type"]) == (413, "text/html; charset=utf-8")
    assert (await client.post("/probe/large", content=body)).json() == {"size": len(body)}
    assert (await client.post("/probe/large", content=b"x" * 200_001)).status_code == 413

    async def without_a_length() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b"x" * 1000

    refused = await client.post("/probe/form", content=without_a_length(), headers=URLENCODED)
    assert (refused.status_code, refused.json()["error"]) == (413, "too-large")


@pytest.mark.parametrize("headers", [{"X-One": "x" * 17_000}, {f"X-{number}": "x" * 100 for number in range(170)}])
async def test_headers_that_are_too_large_are_refused_with_what_to_do(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await client.get("/probe/number/7", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (431, "headers-too-large")
    assert "fewer or shorter" in answer.json()["message"]
    page = await client.get("/probe/number/7", headers={**headers, "Accept": "text/html", "Accept-Language": "de"})
    assert (page.status_code, page.headers["Content-Type"]) == (431, "text/html; charset=utf-8")


async def test_an_address_with_too_long_a_query_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/probe/number/7", params={"q": "x" * 5000})
    assert (answer.status_code, answer.json()["error"]) == (414, "address-too-long")


@pytest.mark.parametrize(
    ("query", "accepted", "chosen"),
    [
        ("", "", "de"),
        ("", "en", "en"),
        ("", "en-GB,en;q=0.9,de;q=0.8", "en"),
        ("", "fr,de;q=0.5,en;q=0.7", "en"),
        ("", "en;q=0,fr", "de"),
        ("", "en;q=x", "de"),
        ("lang=en", "de", "en"),
        ("lang=fr", "en", "en"),
    ],
)
def test_the_language_is_asked_for_then_accepted_then_german(query: str, accepted: str, chosen: str) -> None:
    headers = [(b"accept-language", accepted.encode())]
    request = Request(
        {"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": headers}
    )
    assert language(request) == chosen


async def test_services_in_one_process_keep_their_own_paths() -> None:
    first, second, rest = an_app("first"), an_app("second"), an_app("start", prefix="")

    @rest.get("/", dependencies=EVERYONE)
    async def start() -> dict[str, str]:
        return {"page": "start"}

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(combine([first, second, rest])), base_url="http://x"
    ) as c:
        for name in ("first", "second"):
            assert (await c.get(f"/{name}/health/live")).status_code == 200
        assert (await c.get("/")).json() == {"page": "start"}
        assert (await c.get("/health/ready")).status_code == 200
        assert (await c.get("/third/health/live")).status_code == 404
    async with httpx.AsyncClient(transport=httpx.ASGITransport(combine([first])), base_url="http://x") as c:
        assert (await c.get("/third")).status_code == 404


async def test_readiness_is_a_metric_too() -> None:
    async def ready() -> dict[str, bool | str]:
        return {"postgresql": True, "kafka": "does not answer"}

    transport = httpx.ASGITransport(an_app(ready=ready))
    async with httpx.AsyncClient(transport=transport, base_url="http://probe") as client:
        said = (await client.get("/probe/metrics", headers=bearer("reader:new"))).text
    assert 'probe_ready{check="postgresql"} 1.0' in said
    assert 'probe_ready{check="kafka"} 0.0' in said
