"""One service calling another over real HTTP, and processes that end as they should."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from shared import process
from shared.access import Access, needs, open_to_everyone
from shared.client import ServiceClient
from shared.errors import Corrupt, Refused, Unavailable
from shared.metrics import Metrics
from shared.process import run, serve_http, until_available
from shared.web import create_app

ROOT = Path(process.__file__).resolve().parent.parent
OPEN = [Depends(open_to_everyone)]


async def fine() -> dict[str, bool | str]:
    return {}


def a_service() -> FastAPI:
    app = create_app(
        "probe", access=Access({"caller": ["word"]}, {"caller": ["probe.read"]}), metrics=Metrics("probe"), ready=fine
    )

    @app.api_route("/probe/echo", methods=["GET", "POST", "PUT"], dependencies=[Depends(needs("probe.read"))])
    async def echo(request: Request) -> dict[str, Any]:
        return {
            "method": request.method,
            "query": dict(request.query_params),
            "type": request.headers.get("content-type"),
            "body": (await request.body()).decode(),
        }

    @app.get("/probe/answers/{status}", dependencies=OPEN)
    async def answers(status: int) -> Response:
        return Response(b"x", status, headers={"Retry-After": "7", "Location": "/probe/echo"})

    @app.get("/probe/refuses", dependencies=OPEN)
    async def refuses() -> None:
        raise Refused("suppressed", "This address is not used for advertising.", status=403, purpose="newsletter")

    @app.get("/probe/long", dependencies=OPEN)
    async def long() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(50):
                yield bytes([number]) * 20_000
                await asyncio.sleep(0)

        return StreamingResponse(parts())

    @app.get("/probe/waits", dependencies=OPEN)
    async def waits() -> dict[str, bool]:
        await asyncio.sleep(1)
        return {"waited": True}

    return app


@pytest.fixture
async def port() -> AsyncIterator[int]:
    ports: asyncio.Queue[int] = asyncio.Queue()
    serving = asyncio.create_task(serve_http(a_service(), "127.0.0.1", 0, ports.put_nowait))
    yield await ports.get()
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


@pytest.fixture
async def client(port: int) -> AsyncIterator[ServiceClient]:
    client = ServiceClient(f"http://127.0.0.1:{port}/", "caller:word", "probe")
    yield client
    await client.close()


async def test_a_call_carries_its_credential_and_its_body(client: ServiceClient) -> None:
    answer = await client.get("/probe/echo", params={"from": 3, "name": "ü&"})
    assert answer.status == 200
    assert answer.json()["query"] == {"from": "3", "name": "ü&"}
    assert (await client.post("/probe/echo", json={"a": "ü"})).json()["body"] == '{"a":"ü"}'
    put = (await client.put("/probe/echo", data=b"bytes", headers={"Content-Type": "text/plain"})).json()
    assert (put["method"], put["body"], put["type"]) == ("PUT", "bytes", "text/plain")


async def test_a_long_answer_is_read_to_its_end(client: ServiceClient) -> None:
    answer = await client.get("/probe/long")
    assert answer.body == b"".join(bytes([number]) * 20_000 for number in range(50))


async def test_answers_become_our_three_errors(client: ServiceClient) -> None:
    assert (await client.get("/probe/answers/202")).status == 202
    for status, after in ((500, 7), (503, 7), (429, 7)):
        with pytest.raises(Unavailable) as raised:
            await client.get(f"/probe/answers/{status}")
        assert (raised.value.service, raised.value.retry_after) == ("probe", after)
    with pytest.raises(Refused) as refused:
        await client.get("/probe/refuses")
    assert (refused.value.code, refused.value.status) == ("suppressed", 403)
    assert refused.value.facts == {"purpose": "newsletter"}
    with pytest.raises(Refused) as plain:
        await client.get("/probe/answers/418")
    assert (plain.value.code, plain.value.status) == ("refused", 418)
    assert (await client.get("/probe/answers/303")).status == 303  # never followed
    with pytest.raises(Unavailable):
        (await client.get("/probe/answers/202")).json()


async def test_a_wrong_credential_is_refused(port: int) -> None:
    client = ServiceClient(f"http://127.0.0.1:{port}", "caller:wrong")
    with pytest.raises(Refused) as raised:
        await client.get("/probe/echo")
    await client.close()
    assert raised.value.status == 401


async def test_who_is_slow_or_not_there_is_unavailable_and_not_quoted(client: ServiceClient) -> None:
    with pytest.raises(Unavailable) as raised:
        await client.get("/probe/waits", params={"email": "anna@example.org"}, timeout=0.05)
    assert raised.value.service == "probe"
    assert raised.value.__suppress_context__
    nobody = ServiceClient("http://127.0.0.1:1", "caller:word")
    with pytest.raises(Unavailable) as raised:
        await nobody.get("/ledger/records")
    await nobody.close()
    assert raised.value.service == "ledger"


async def test_requests_at_hand_are_finished_when_the_server_is_stopped() -> None:
    ports: asyncio.Queue[int] = asyncio.Queue()
    serving = asyncio.create_task(serve_http(a_service(), "127.0.0.1", 0, ports.put_nowait))
    client = ServiceClient(f"http://127.0.0.1:{await ports.get()}", "caller:word")
    await client.get("/probe/health/live")
    asked = asyncio.create_task(client.get("/probe/waits"))
    await asyncio.sleep(0.2)
    serving.cancel()
    assert (await asked).json() == {"waited": True}
    with pytest.raises(asyncio.CancelledError):
        await serving
    await client.close()


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_all_tasks_end_together_when_asked_to() -> None:
    stop, ended = asyncio.Event(), []

    async def tidy() -> None:
        try:
            await for_ever()
        finally:
            ended.append(True)

    async def ask() -> None:
        stop.set()
        await for_ever()

    assert await run({"one": tidy, "two": tidy, "ask": ask}, stop) == 0
    assert ended == [True, True]


async def test_a_task_that_fails_or_ends_on_its_own_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    async def fails() -> None:
        raise Corrupt("root differs", "shard 0")

    async def ends() -> None:
        pass

    assert await run({"other": for_ever, "seal": fails}, asyncio.Event()) == 1
    assert await run({"other": for_ever, "publish": ends}, asyncio.Event()) == 1
    written = capsys.readouterr()
    assert "seal" in written.out + written.err
    assert "publish" in written.out + written.err


async def test_what_does_not_answer_is_asked_again() -> None:
    asked = []

    async def open_it() -> str:
        asked.append(True)
        if len(asked) < 3:
            raise Unavailable("postgresql")
        return "open"

    assert await until_available(open_it) == "open"
    assert len(asked) == 3


PROGRAM = """
import asyncio, sys
from shared import logs
from shared.process import run
logs.configure("INFO", "probe")
async def waits():
    print("up", flush=True)
    await asyncio.Event().wait()
async def stray():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.Event().wait()
async def fails():
    await asyncio.sleep(0.1)
    raise ValueError("anna@example.org")
tasks = {"waits": waits, "stray": stray}
if sys.argv[1] == "fails":
    tasks["fails"] = fails
sys.exit(asyncio.run(run(tasks)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_process_with_status_0(number: signal.Signals) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, "waits", cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert await child.stdout.readline() == b"up\n"
    child.send_signal(number)
    _, errors = await child.communicate()
    assert child.returncode == 0
    (line,) = [json.loads(line) for line in errors.splitlines()]
    assert (line["event"], line["exception"]) == ("stray-exception", "ZeroDivisionError")


async def test_a_failed_process_says_which_task_and_quotes_nothing() -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, "fails", cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await child.communicate()
    assert child.returncode == 1
    last = json.loads(errors.splitlines()[-1])
    assert (last["event"], last["task"], last["exception"]) == ("task-failed", "fails", "ValueError")
    assert b"anna@example.org" not in errors


HANGS = """
import asyncio, functools, sys
from shared import logs
from shared.process import end_within, run
logs.configure("INFO", "probe")
async def holds_on():
    print("up", flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
async def fails():
    raise ValueError("anna@example.org")
tasks = {"holds-on": holds_on}
if sys.argv[1] == "fails":
    tasks["fails"] = fails
sys.exit(asyncio.run(run(tasks, on_end=functools.partial(end_within, 0.5))))
"""


@pytest.mark.parametrize("how", ["fails", "is asked to"])
async def test_a_task_that_does_not_let_go_keeps_no_process_from_its_end(how: str) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HANGS, how, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"up\n"
    if how != "fails":
        child.send_signal(signal.SIGTERM)
    _, errors = await child.communicate()
    assert child.returncode == 1
    last = json.loads(errors.splitlines()[-1])
    assert last["event"] == "did-not-end"
    assert "holds-on" in last["tasks"]
    assert b"anna@example.org" not in errors
