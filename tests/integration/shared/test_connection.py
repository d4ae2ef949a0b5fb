"""Clients that are slow, silent, too many or speak no HTTP, at the socket: nobody else waits for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse

from shared.access import Access, open_to_everyone
from shared.connection import Limits
from shared.metrics import Metrics
from shared.process import serve_http
from shared.web import create_app

LIMITS = Limits(connections=8, head_seconds=0.4, body_seconds=0.4, stalled_seconds=0.4)
HELLO = b"GET /probe/hello HTTP/1.1\r\nHost: probe\r\n\r\n"
POST = b"POST /probe/echo HTTP/1.1\r\nHost: probe\r\nContent-Length: 5\r\n\r\n"
SOON = 5.0

Answer = tuple[int, dict[str, str]]


def an_app(seen: list[int], hold: asyncio.Event) -> FastAPI:
    async def ready() -> dict[str, bool | str]:
        return {}

    app = create_app("probe", access=Access({}, {}), metrics=Metrics("probe"), ready=ready)

    @app.get("/probe/hello", dependencies=[Depends(open_to_everyone)])
    async def hello() -> dict[str, bool]:
        return {"hello": True}

    @app.post("/probe/echo", dependencies=[Depends(open_to_everyone)])
    async def echo(request: Request) -> dict[str, int]:
        seen.append(size := len(await request.body()))
        return {"size": size}

    @app.get("/probe/held", dependencies=[Depends(open_to_everyone)])
    async def held() -> dict[str, bool]:
        await hold.wait()
        return {"held": True}

    @app.get("/probe/much", dependencies=[Depends(open_to_everyone)])
    async def much() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            try:
                for _ in range(1000):
                    yield b"x" * 100_000
            finally:
                hold.set()

        return StreamingResponse(parts())

    return app


class Server:
    """One server with short deadlines, and raw connections to it."""

    def __init__(self, port: int, seen: list[int], hold: asyncio.Event) -> None:
        self.port, self.seen, self.hold = port, seen, hold
        self._open: list[asyncio.StreamWriter] = []

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._open.append(writer)
        writer.write(sent)
        await writer.drain()
        return reader, writer

    async def ask(self, sent: bytes = HELLO) -> Answer:
        reader, _ = await self.connect(sent)
        return await answer(reader)

    async def close(self) -> None:
        for writer in self._open:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._open), return_exceptions=True)


async def answer(reader: asyncio.StreamReader) -> Answer:
    """Status and JSON of one answer."""
    async with asyncio.timeout(SOON):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        return int(head.split()[1]), json.loads(await reader.readexactly(length))


async def ends(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes the connection."""
    async with asyncio.timeout(SOON):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def a_server(limits: Limits) -> AsyncIterator[Server]:
    ports: asyncio.Queue[int] = asyncio.Queue()
    seen: list[int] = []
    hold = asyncio.Event()
    serving = asyncio.create_task(serve_http(an_app(seen, hold), "127.0.0.1", 0, ports.put_nowait, limits))
    server = Server(await ports.get(), seen, hold)
    try:
        yield server
    finally:
        hold.set()
        await server.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with a_server(LIMITS) as server:
        yield server


async def test_who_sends_nothing_is_hung_up_on(server: Server) -> None:
    reader, _ = await server.connect()
    assert await ends(reader) == b""


@pytest.mark.parametrize("sent", [b"G", b"\r\n", HELLO[:-2], b"GET /probe/hello HTTP/1.1\r\nX: "])
async def test_a_head_that_does_not_end_is_answered_408(server: Server, sent: bytes) -> None:
    reader, _ = await server.connect(sent)
    status, body = await answer(reader)
    assert (status, body["error"]) == (408, "too-slow")
    assert await ends(reader) == b""


async def test_a_head_that_trickles_is_answered_408_all_the_same(server: Server) -> None:
    reader, writer = await server.connect(b"GET /probe/hello HTTP/1.1\r\n")

    async def trickle() -> None:
        while not reader.at_eof():
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    status, _ = await answer(reader)
    trickling.cancel()
    assert status == 408


async def test_a_body_that_does_not_end_is_answered_408_and_reaches_nobody(server: Server) -> None:
    reader, _ = await server.connect(POST + b"1234")
    status, body = await answer(reader)
    assert (status, body["error"]) == (408, "too-slow")
    assert await ends(reader) == b""
    assert server.seen == []


async def test_a_request_that_breaks_off_reaches_nobody_and_is_no_failure_of_ours(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await server.connect(POST + b"12")
    writer.close()
    await writer.wait_closed()
    assert await server.ask(POST + b"12345") == (200, {"size": 5})
    assert server.seen == [5]
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


async def test_who_does_not_read_the_answer_is_hung_up_on(server: Server) -> None:
    reader, _ = await server.connect(b"GET /probe/much HTTP/1.1\r\nHost: probe\r\n\r\n")
    async with asyncio.timeout(SOON):
        await server.hold.wait()  # set when the answer is no longer made
    assert 0 < len(await ends(reader)) < 50_000_000


async def test_a_head_without_end_is_refused_before_it_fills_the_memory(server: Server) -> None:
    reader, writer = await server.connect(b"GET /probe/hello HTTP/1.1\r\nX: ")
    writer.write(b"x" * 200_000)
    status, body = await answer(reader)
    assert (status, body["error"]) == (431, "headers-too-large")


async def test_large_headers_are_refused_with_what_to_do(server: Server) -> None:
    status, body = await server.ask(HELLO[:-2] + b"X: " + b"x" * 20_000 + b"\r\n\r\n")
    assert (status, body["error"]) == (431, "headers-too-large")
    assert body["message"]


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /probe/hello HTTP/1.1\r\nHost: probe\r\nX Y: z\r\n\r\n",
        b"GET /probe/\xff HTTP/1.1\r\nHost: probe\r\n\r\n",
        b"POST /probe/echo HTTP/1.1\r\nHost: probe\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /probe/echo HTTP/1.1\r\nHost: probe\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"POST /probe/echo HTTP/1.1\r\nHost: probe\r\nContent-Length: -5\r\n\r\n",
        b"POST /probe/echo HTTP/1.1\r\nHost: probe\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_request_is_answered_400_in_our_own_form(server: Server, sent: bytes) -> None:
    status, body = await server.ask(sent)
    assert (status, body["error"]) == (400, "malformed-request")
    assert server.seen == []


async def test_who_is_refused_while_still_sending_hears_why(server: Server) -> None:
    head = b"POST /probe/echo HTTP/1.1\r\nHost: probe\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n"
    reader, writer = await server.connect(head)
    for _ in range(30):
        writer.write(b"x" * 100_000)
        await writer.drain()
    status, body = await answer(reader)
    assert (status, body["error"]) == (413, "too-large")
    assert await ends(reader) == b""
    assert server.seen == []


async def test_who_asks_to_end_after_the_answer_is_hung_up_on_then(server: Server) -> None:
    reader, _ = await server.connect(HELLO[:-2] + b"Connection: close\r\n\r\n")
    assert await answer(reader) == (200, {"hello": True})
    assert await ends(reader) == b""


async def test_a_client_that_offers_another_protocol_is_answered_in_this_one(server: Server) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n\r\n"
    assert await server.ask(HELLO[:-2] + upgrade) == (200, {"hello": True})


async def test_connections_that_wait_give_way_to_a_visitor(server: Server) -> None:
    async with a_server(Limits(connections=8)) as patient:
        silent = [(await patient.connect())[0] for _ in range(4)]
        trickling = [(await patient.connect(b"GET /probe/hello HTTP/1.1\r\n"))[0] for _ in range(4)]
        halfway = [(await patient.connect(POST + b"1"))[0] for _ in range(4)]
        for _ in range(5):
            assert await patient.ask() == (200, {"hello": True})
        # Those who waited longest went first.
        assert [await ends(reader) for reader in silent] == [b""] * 4
        assert [await ends(reader) for reader in trickling] == [b""] * 4
        assert len(halfway) == 4


async def test_whoever_is_being_answered_does_not_give_way(server: Server) -> None:
    held = [await server.connect(b"GET /probe/held HTTP/1.1\r\nHost: probe\r\n\r\n") for _ in range(LIMITS.connections)]
    status, body = await server.ask()
    assert (status, body["error"]) == (503, "too-many-connections")
    server.hold.set()
    assert [await answer(reader) for reader, _ in held] == [(200, {"held": True})] * LIMITS.connections


async def test_one_connection_serves_one_request_after_another_however_they_are_cut(server: Server) -> None:
    reader, writer = await server.connect()

    async def send(part: bytes) -> None:
        writer.write(part)
        await writer.drain()

    whole = HELLO + POST + b"12345" + HELLO
    for cut in range(0, len(whole), 7):
        await send(whole[cut : cut + 7])
    answers = [await answer(reader) for _ in range(3)]
    assert answers == [(200, {"hello": True}), (200, {"size": 5}), (200, {"hello": True})]


async def test_an_answer_that_takes_longer_than_the_deadlines_is_still_given(server: Server) -> None:
    reader, writer = await server.connect(b"GET /probe/held HTTP/1.1\r\nHost: probe\r\n\r\n" + HELLO[:-2])
    asyncio.get_running_loop().call_later(3 * LIMITS.head_seconds, server.hold.set)
    assert await answer(reader) == (200, {"held": True})
    writer.write(b"\r\n")
    assert await answer(reader) == (200, {"hello": True})
