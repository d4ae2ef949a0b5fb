"""The publisher's end of the topic, and the ledger's of what marketing asks it, as docs/formats.md says."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from shared import wire
from shared.clock import utc_now
from shared.events import Statement
from shared.kafka import Outgoing, Producer
from tests.unit.marketing.history import value

ORIGIN = "log.example.org/ledger/log/0"
KEY = b"p" * 32


@dataclass
class Ledger:
    """One shard. It has no log: what marketing must hold is its own side of the agreement."""

    kafka: str
    prefix: str
    producer: Producer
    key: bytes = KEY
    origin: str = ORIGIN
    records: list[bytes] = field(default_factory=list)
    base_url: str = ""
    asked: list[int] = field(default_factory=list)
    answering: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def topic(self) -> str:
        return f"{self.prefix}consent.recorded"

    def record(self, *statements: Statement | None) -> list[bytes]:
        """Append and seal, without a word to Kafka; the values to publish."""
        start = len(self.records)
        self.records += [
            value(statement, start + number, at=utc_now()).encode() for number, statement in enumerate(statements)
        ]
        return self.records[start:]

    async def publish(self, values: Sequence[bytes], kind: str = "leaf", key: bytes | None = None) -> None:
        def mac(one: bytes) -> bytes:
            return wire.recorded_mac(key or self.key, self.origin, kind, one)

        await self.producer.send_many(
            [Outgoing(self.topic, 0, None, one, wire.recorded_headers(kind, mac(one))) for one in values]
        )

    async def heartbeat(self, marks: Mapping[str, str] | None = None) -> None:
        root = base64.b64encode(bytes(32)).decode()
        note = f"{self.origin}\n{len(self.records)}\n{root}\n\n"
        await self.publish([wire.heartbeat_value(0, note, dict(marks or {}))], "heartbeat")

    async def say(self, *statements: Statement | None) -> None:
        """Record, publish, and say so."""
        await self.publish(self.record(*statements))
        await self.heartbeat()

    async def _answer(self, request: web.Request) -> web.Response:
        await self.answering.wait()
        start, limit = int(request.query["from"]), int(request.query["limit"])
        self.asked.append(start)
        found = [base64.b64encode(one).decode() for one in self.records[start : start + limit]]
        return web.json_response({"shard": 0, "from": start, "size": len(self.records), "records": found})

    async def _sealed(self, _request: web.Request) -> web.Response:
        return web.json_response({"shards": [{"shard": 0, "sealed": "0"}], "rejected": [], "overtaken": []})

    @asynccontextmanager
    async def answers(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/ledger/records", self._answer)
        app.router.add_get("/ledger/sources/marketing/sealed", self._sealed)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.answering.set()
        yield
        await runner.cleanup()
