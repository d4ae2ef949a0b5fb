"""The other end of the two topics and of the ledger's two addresses, as docs/formats.md describes it, and no more.

It checks what it is sent as the ledger would (MAC, number, repetition), and can lose, repeat, disorder and refuse.
It has no log: what shared/ must hold is its own side of the agreement.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from shared import topics, wire
from shared.errors import Unavailable
from shared.events import Statement, encode, parse
from shared.kafka import Consumer, Message, Outgoing, Producer

KEY = ("probe.1", b"k" * 32)
PUBLISHER_KEY = b"p" * 32


@dataclass
class Log:
    """One shard as this end has it."""

    arrived: dict[int, bytes] = field(default_factory=dict)
    repeated: int = 0
    marks: list[tuple[int, str]] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)

    @property
    def contiguous(self) -> int:
        return next(number for number in range(1, len(self.arrived) + 2) if number not in self.arrived) - 1


class Counterpart:
    """Use as a context manager; `base_url` is where it answers."""

    def __init__(self, bootstrap: str, prefix: str, origins: Mapping[int, str]) -> None:
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._origins = origins
        self.logs = {shard: Log() for shard in origins}
        self.unproven: list[Message] = []
        self.contradictions: list[int] = []
        self.lose: Callable[[Message], bool] = lambda _message: False
        self.rejects: dict[str, str] = {}
        self.overtakes: set[str] = set()
        self.sealing = True
        self.asked: list[str] = []
        self.base_url = ""
        self._changed = asyncio.Condition()
        self._producer = Producer(bootstrap)
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._stopping = False
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.answer()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        if self._reading is not None:
            await self._reading
        await self.fall_silent()
        await self._producer.stop()

    async def answer(self) -> None:
        """Begin to answer over HTTP, on the same port as before."""
        app = web.Application()
        app.router.add_get("/ledger/sources/{source}/sealed", self._sealed)
        app.router.add_get("/ledger/records", self._records)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        listening = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await listening.start()
        self._port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{self._port}"

    async def fall_silent(self) -> None:
        """Stop answering over HTTP."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- what relays talk to

    async def _read(self) -> None:
        offsets = dict.fromkeys(self.logs, 0)
        while not self._stopping:
            consumer = Consumer(self._bootstrap, self._prefix + topics.STATED, offsets, offsets)
            try:
                await consumer.start()
                while not self._stopping:
                    for message in await consumer.fetch(timeout_ms=200):
                        offsets[message.partition] = message.offset + 1
                        self._take(message)
                    async with self._changed:
                        self._changed.notify_all()
            except Unavailable:
                await asyncio.sleep(0.2)
            finally:
                await consumer.stop()

    def _take(self, message: Message) -> None:
        kind, number = message.headers["kind"], int(message.headers["sequence"])
        seal = wire.stated_mac if kind == b"statement" else wire.alive_mac
        mac = seal(KEY[1], self._origins[message.partition], number, message.value)
        if message.headers["mac-key"] != KEY[0].encode() or not wire.mac_holds(mac, message.headers["mac"]):
            self.unproven.append(message)
            return
        log = self.logs[message.partition]
        if kind == b"alive":
            said = json.loads(message.value)
            log.marks.append((int(said["sequence"]), said["all_before"]))
            return
        if self.lose(message):
            return
        statement = parse(message.value)
        assert message.key == statement.subject.encode()
        assert message.headers["content-type"] == b"application/cloudevents+json; charset=UTF-8"
        if number in log.arrived:
            log.repeated += 1
            if log.arrived[number] != message.value:
                self.contradictions.append(number)
        log.arrived[number] = message.value

    async def _sealed(self, request: web.Request) -> web.Response:
        shard, above, wait = (int(request.query[name]) for name in ("shard", "above", "wait"))
        self.asked.append(request.headers.get("Authorization", ""))
        log = self.logs[shard]

        def sealed() -> int:
            return log.contiguous if self.sealing else above

        with suppress(TimeoutError):
            async with asyncio.timeout(wait), self._changed:
                await self._changed.wait_for(lambda: sealed() > above)
        rejected, overtaken = [], []
        for number in range(above + 1, sealed() + 1):
            name = parse(log.arrived[number]).id
            place: dict[str, Any] = {"shard": shard, "sequence": str(number), "id": name}
            if name in self.rejects:
                rejected.append(place | {"reason": self.rejects[name]})
            if name in self.overtakes:
                overtaken.append(place | {"index": "7"})
        return web.json_response(
            {"shards": [{"shard": shard, "sealed": str(sealed())}], "rejected": rejected, "overtaken": overtaken}
        )

    async def until(self, holds: Callable[[], bool], seconds: float = 40) -> None:
        """Wait until something is so on this end."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(holds)

    # --- what followers talk to

    async def _records(self, request: web.Request) -> web.Response:
        shard, start, limit = (int(request.query[name]) for name in ("shard", "from", "limit"))
        records = self.logs[shard].records
        page = [base64.b64encode(record).decode() for record in records[start : start + limit]]
        return web.json_response({"shard": shard, "from": start, "size": len(records), "records": page})

    def record(self, statement: Statement | None, shard: int = 0) -> int:
        """Append a leaf: an EVENT with its statement, or without one a MAP_ROOT. Its index."""
        records = self.logs[shard].records
        leaf = event_leaf() if statement is not None else map_root_leaf()
        raw = encode(statement) if statement is not None else b""
        records.append(wire.RecordedValue(shard, len(records), leaf, raw).encode())
        return len(records) - 1

    def erase(self, index: int, shard: int = 0) -> None:
        record = wire.RecordedValue.decode(self.logs[shard].records[index])
        self.logs[shard].records[index] = wire.RecordedValue(shard, index, record.leaf, b"").encode()

    def leaf_message(self, index: int, shard: int = 0, key: bytes = PUBLISHER_KEY) -> Outgoing:
        value = self.logs[shard].records[index]
        return self._published("leaf", shard, value, key)

    def heartbeat_message(self, shard: int = 0, marks: dict[str, str] | None = None) -> Outgoing:
        note = f"{self._origins[shard]}\n{len(self.logs[shard].records)}\n{'A' * 43}=\n\n— x y\n"
        return self._published("heartbeat", shard, wire.heartbeat_value(shard, note, marks or {}), PUBLISHER_KEY)

    def _published(self, kind: str, shard: int, value: bytes, key: bytes) -> Outgoing:
        mac = wire.recorded_mac(key, self._origins[shard], kind, value)
        return Outgoing(self._prefix + topics.RECORDED, shard, None, value, wire.recorded_headers(kind, mac))

    async def publish(self, *messages: Outgoing) -> None:
        await self._producer.send_many(messages)


def event_leaf(recorded_at: int = 1_700_000_000_000) -> bytes:
    return b"\x01" + bytes(32) + (1).to_bytes(8, "big") + bytes(8) + bytes(32) + recorded_at.to_bytes(8, "big")


def map_root_leaf() -> bytes:
    return b"\x02" + bytes(56)
