"""Clients that keep their connections and ask again as soon as they are answered, at little cost to what they ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Self

HOST: Final = "127.0.0.1"
_LONGEST_ANSWER: Final = 60.0
_END: Final = b"\r\n\r\n"


class WrongAnswer(RuntimeError):
    """An answer that was not the one whose speed is measured: a refusal is faster."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:200].decode('utf-8', 'replace')}")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body."""

    status: int
    body: bytes


def post(path: str, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a POST."""
    named = {"Host": "localhost", "Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode("ascii") + _END + body


class Client:
    """One connection: a request out, its answer in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection(HOST, port))

    async def ask(self, request: bytes) -> Answer:
        """Send these bytes; every server here says how long its answer is."""
        self._writer.write(request)
        head = await self._reader.readuntil(_END)
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return Answer(int(head[9:12]), await self._reader.readexactly(int(length[15:])))

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@dataclass(slots=True)
class Driven:
    """What some clients were answered: how long each waited, and how long it took from the first to the last."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.waits) / self.seconds

    def add(self, other: Driven) -> None:
        """Another block of the same."""
        self.seconds += other.seconds
        self.waits += other.waits


def _fine(answer: Answer) -> bool:
    return 200 <= answer.status < 300


async def drive(
    port: int, clients: int, requests: Iterable[bytes], seconds: float, fine: Callable[[Answer], bool] = _fine
) -> Driven:
    """So many clients, each with one request at a time, for so long or until there are no requests left."""
    waiting, found = iter(requests), Driven()
    connected = [await Client.connect(port) for _ in range(clients)]
    began = time.perf_counter()

    async def go_on(client: Client) -> None:
        while time.perf_counter() - began < seconds and (request := next(waiting, None)) is not None:
            asked = time.perf_counter()
            answer = await client.ask(request)
            found.waits.append(time.perf_counter() - asked)
            if not fine(answer):
                raise WrongAnswer(answer.status, answer.body)

    try:
        async with asyncio.timeout(seconds + _LONGEST_ANSWER), asyncio.TaskGroup() as group:
            for client in connected:
                group.create_task(go_on(client))
        found.seconds = time.perf_counter() - began
    finally:
        for client in connected:
            await client.close()
    return found


async def drive_steadily(
    port: int, rate: float, requests: Iterable[bytes], seconds: float, look: Callable[[Answer], None]
) -> Driven:
    """One request every 1/rate seconds, whether or not the last was answered; waiting for a connection counts."""
    found, began = Driven(), time.perf_counter()
    idle: list[Client] = []

    async def ask(request: bytes, due: float) -> None:
        client = idle.pop() if idle else await Client.connect(port)
        answer = await client.ask(request)
        found.waits.append(time.perf_counter() - due)
        idle.append(client)
        look(answer)

    async with asyncio.timeout(seconds + _LONGEST_ANSWER), asyncio.TaskGroup() as group:
        for number, request in enumerate(islice(requests, round(rate * seconds))):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(ask(request, due))
    found.seconds = time.perf_counter() - began
    for client in idle:
        await client.close()
    return found
