"""Faults at the three edges: each call can fail before it does anything, or do it and then fail.

A scenario is run once to count the calls and then again for each call and each kind of fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from shared.database import Database, Lock, Row, Signal, Transaction
from shared.errors import Unavailable
from shared.kafka import Consumer, Message, Outgoing, Producer

Answer = TypeVar("Answer")
Kind = Literal["failed", "took effect, then failed"]


@dataclass
class Fault:
    """Counts the calls of each edge it is given to, and spoils the one it names: the `at`-th of `edge`."""

    edge: str = ""
    at: int = 0
    kind: Kind = "failed"
    calls: Counter[str] = field(default_factory=Counter)
    struck: bool = False

    def strikes(self, edge: str) -> bool:
        self.calls[edge] += 1
        now = (edge, self.calls[edge]) == (self.edge, self.at)
        self.struck |= now
        return now

    async def around(self, edge: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        if not self.strikes(edge):
            return await call()
        if self.kind == "took effect, then failed":
            await call()
        raise Unavailable(edge)

    def each(self, kind: Kind) -> Iterator[Fault]:
        """A fault for every call that this run has counted. What runs at the same time shares an edge's numbers,
        so a number may meet another call the next time; each edge and place is met often enough."""
        for edge, number in sorted(self.calls.items()):
            for at in range(1, number + 1):
                yield Fault(edge, at, kind)


class FaultyTransaction(Transaction):
    def __init__(self, inner: Transaction, fault: Fault) -> None:
        super().__init__(inner._connection)
        self._fault = fault

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        return await self._fault.around("postgresql", lambda: super(FaultyTransaction, self).fetch(sql, *arguments))

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        return await self._fault.around("postgresql", lambda: super(FaultyTransaction, self).fetchrow(sql, *arguments))

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self._fault.around("postgresql", lambda: super(FaultyTransaction, self).fetchval(sql, *arguments))

    async def execute(self, sql: str, *arguments: Any) -> str:
        return await self._fault.around("postgresql", lambda: super(FaultyTransaction, self).execute(sql, *arguments))


class FaultyDatabase(Database):
    """The same pool behind a fault; a commit is a call of its own."""

    def __init__(self, inner: Database, fault: Fault) -> None:
        super().__init__(inner._pool, inner._dsn, inner.schema)
        self._inner = inner
        self._fault = fault

    def listen(self, channel: str) -> Signal:
        return self._inner.listen(channel)

    @asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[Lock]:
        async with self._inner.lock(name) as lock:
            yield lock

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        return await self._fault.around("postgresql", lambda: super(FaultyDatabase, self).fetch(sql, *arguments))

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        return await self._fault.around("postgresql", lambda: super(FaultyDatabase, self).fetchrow(sql, *arguments))

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self._fault.around("postgresql", lambda: super(FaultyDatabase, self).fetchval(sql, *arguments))

    async def execute(self, sql: str, *arguments: Any) -> str:
        return await self._fault.around("postgresql", lambda: super(FaultyDatabase, self).execute(sql, *arguments))

    @asynccontextmanager
    async def transaction(self, timeout: str = "2s", isolation: str = "") -> AsyncIterator[Transaction]:
        strikes = self._fault.strikes("commit")
        async with super().transaction(timeout, isolation) as tx:
            yield FaultyTransaction(tx, self._fault)
            if strikes and self._fault.kind == "failed":
                raise Unavailable("postgresql")
        if strikes:
            raise Unavailable("postgresql")


class FaultyProducer(Producer):
    def __init__(self, bootstrap: str, fault: Fault) -> None:
        super().__init__(bootstrap)
        self._fault = fault

    async def send_many(self, messages: Sequence[Outgoing]) -> None:
        await self._fault.around("kafka", lambda: super(FaultyProducer, self).send_many(messages))


class FaultyConsumer(Consumer):
    def __init__(self, fault: Fault, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._fault = fault

    async def fetch(self, max_records: int = 1000, timeout_ms: int = 1000) -> list[Message]:
        return await self._fault.around("kafka", lambda: super(FaultyConsumer, self).fetch(max_records, timeout_ms))
