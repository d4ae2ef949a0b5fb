"""The three edges of the ledger with one fault in them: a call that fails, or takes effect and then fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from shared.database import Database, Row
from shared.errors import Unavailable
from shared.kafka import Consumer, Message, Outgoing, Producer

Answer = TypeVar("Answer")
Kind = Literal["failed", "took effect, then failed"]


@dataclass
class Plan:
    """Counts the calls at all edges, and spoils one of them."""

    spoil: int | None = None
    kind: Kind = "failed"
    calls: list[str] = field(default_factory=list)

    async def call(self, name: str, service: str, operation: Callable[[], Awaitable[Answer]]) -> Answer:
        self.calls.append(name)
        if len(self.calls) != self.spoil:
            return await operation()
        if self.kind == "took effect, then failed":
            await operation()
        raise Unavailable(service)

    @property
    def spoiled(self) -> str:
        """The call that was spoiled, to be named when something is wrong afterwards."""
        done = self.spoil is not None and self.spoil <= len(self.calls)
        return f"call {self.spoil}, {self.calls[(self.spoil or 1) - 1]}: {self.kind}" if done else "no call"


class SpoiltDatabase:
    """shared.database.Database with a fault in it."""

    def __init__(self, inner: Database, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan

    async def _call(self, operation: Callable[[], Awaitable[Answer]], sql: str) -> Answer:
        return await self._plan.call(" ".join(sql.split())[:60], "postgresql", operation)

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        return await self._call(lambda: self._inner.fetch(sql, *arguments), sql)

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        return await self._call(lambda: self._inner.fetchrow(sql, *arguments), sql)

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self._call(lambda: self._inner.fetchval(sql, *arguments), sql)

    async def execute(self, sql: str, *arguments: Any) -> str:
        return await self._call(lambda: self._inner.execute(sql, *arguments), sql)


class SpoiltConsumer:
    """shared.kafka.Consumer with a fault in it."""

    def __init__(self, inner: Consumer, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan

    async def start(self) -> None:
        await self._plan.call("Consumer.start", "kafka", self._inner.start)

    async def stop(self) -> None:
        await self._inner.stop()

    def seek(self, partition: int, offset: int) -> None:
        self._inner.seek(partition, offset)

    async def fetch(self, max_records: int = 1000, timeout_ms: int = 1000) -> list[Message]:
        return await self._plan.call(
            "Consumer.fetch", "kafka", lambda: self._inner.fetch(max_records=max_records, timeout_ms=timeout_ms)
        )


class SpoiltProducer:
    """shared.kafka.Producer with a fault in it."""

    def __init__(self, inner: Producer, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan

    async def send_many(self, messages: Sequence[Outgoing]) -> None:
        await self._plan.call("Producer.send_many", "kafka", lambda: self._inner.send_many(messages))
