"""The edge to PostgreSQL: a pool bound to one role and schema, transactions that end by themselves, and wake-up calls.

Everything that means "the server does not answer now" becomes `Unavailable`; whether a failed commit took effect
is then unknown, and whoever asks again must be prepared for both.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol, Self

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared import logs
from shared.errors import Unavailable

Row = asyncpg.Record

log = logs.logger("database")

_IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_]{0,62}\Z", re.ASCII)
_DURATION: Final = re.compile(r"[1-9][0-9]{0,5}(ms|s)\Z", re.ASCII)
_TRY_AGAIN: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.OperatorInterventionError,  # shutdown, cancelled statement, cannot connect now
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby that is not promoted yet
    asyncpg.InvalidCachedStatementError,  # a migration changed a table under us
    asyncpg.PostgresSystemError,
    OSError,
    TimeoutError,
    EOFError,
)
# What asyncpg raises when a connection ends under it; the first of them for wrong calls of ours, too.
_CONFUSED: Final = (asyncpg.InterfaceError, asyncpg.InternalClientError)
_LOCK_IDLE_SECONDS: Final = 10
_RECONNECT_SECONDS: Final = 0.5
_SILENCE: Final = 3.0


def affected(tag: str) -> int:
    """How many rows a command has changed, from the tag that `execute` answers."""
    return int(tag.rsplit(" ", 1)[1])


def unavailable() -> Unavailable:
    return Unavailable("postgresql")


class Queries(Protocol):
    """What a handler's SQL functions take: a `Database` or a `Transaction`."""

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]: ...
    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None: ...
    async def fetchval(self, sql: str, *arguments: Any) -> Any: ...
    async def execute(self, sql: str, *arguments: Any) -> str: ...


class Transaction:
    """One open transaction; what is done with it is one edge that either commits or leaves nothing."""

    def __init__(self, connection: PoolConnectionProxy[Row] | asyncpg.Connection[Row]) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        async with _mapped(self._connection):
            return await self._connection.fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        async with _mapped(self._connection):
            return await self._connection.fetchrow(sql, *arguments)

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        async with _mapped(self._connection):
            return await self._connection.fetchval(sql, *arguments)

    async def execute(self, sql: str, *arguments: Any) -> str:
        async with _mapped(self._connection):
            return await self._connection.execute(sql, *arguments)


class Signal:
    """Somebody committed and said so. Hints only: who is woken looks into the tables, who is not has a timer.

    One waiter may just `wait`. Several at once note `changed` before they look, and pass it as `since`.
    """

    def __init__(self) -> None:
        self._changed = 0
        self._seen = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def changed(self) -> int:
        """How often something was said so far."""
        return self._changed

    def notify(self) -> None:
        self._changed += 1
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def wait(self, timeout: float, since: int | None = None) -> bool:
        """True as soon as something was said after `since` (or after the last `wait`); False at the timeout."""
        if since is None:
            since = self._seen
        if self._changed == since:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                async with asyncio.timeout(timeout):
                    await waiter
            except TimeoutError:
                pass
            finally:
                self._waiting.discard(waiter)
        self._seen = self._changed
        return self._changed != since


class Lock:
    """A held advisory lock. It lives as long as its connection, and `still_held` keeps that alive."""

    def __init__(self, connection: asyncpg.Connection[Row]) -> None:
        self._connection = connection

    async def still_held(self) -> None:
        """Raises Unavailable if the lock is lost. Must be asked every few seconds, or the server ends the session:
        a stopped process would otherwise hold the lock for ever."""
        async with _mapped(self._connection):
            await self._connection.execute("select 1")


class Database:
    """One role's pool. Faults are injected here: keep it thin."""

    def __init__(self, pool: asyncpg.Pool[Row], dsn: str, schema: str) -> None:
        self._pool = pool
        self._dsn = dsn
        self.schema = schema
        self._signals: dict[str, list[Signal]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._registered = asyncio.Event()

    @classmethod
    async def connect(cls, dsn: str, role_schema: str, min_size: int = 1, max_size: int = 8) -> Self:
        """Open a pool whose search_path is `role_schema`; Unavailable if the server does not answer."""
        if not _IDENTIFIER.match(role_schema):
            raise ValueError("not a schema name")
        try:
            pool = await asyncpg.create_pool(
                dsn,
                min_size=min_size,
                max_size=max_size,
                timeout=5,
                command_timeout=60,
                server_settings=_session(role_schema),
                reset=_reset,
            )
        except _TRY_AGAIN:
            raise unavailable() from None
        return cls(pool, dsn, role_schema)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[PoolConnectionProxy[Row]]:
        try:
            connection = await self._pool.acquire(timeout=5)
        except _TRY_AGAIN:
            raise unavailable() from None
        except _CONFUSED:  # the pool is closing, or the connection broke while it was made fit for use
            raise unavailable() from None
        try:
            yield connection
        finally:
            # A connection that broke on the way back is the pool's affair; the work is done or reported already.
            with suppress(*_TRY_AGAIN, *_CONFUSED):
                await self._pool.release(connection)

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        async with self._connection() as connection, _mapped(connection):
            return await connection.fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        async with self._connection() as connection, _mapped(connection):
            return await connection.fetchrow(sql, *arguments)

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        async with self._connection() as connection, _mapped(connection):
            return await connection.fetchval(sql, *arguments)

    async def execute(self, sql: str, *arguments: Any) -> str:
        async with self._connection() as connection, _mapped(connection):
            return await connection.execute(sql, *arguments)

    @asynccontextmanager
    async def transaction(self, timeout: str = "2s", isolation: str = "") -> AsyncIterator[Transaction]:
        """Commits at the end of the block, rolls back if it raises.

        PostgreSQL itself ends it after `timeout`, whatever happens to us. The marks of the relay
        (shared/outbox/relay.py) rest on two seconds; longer ones cannot write to an outbox. A server that says
        nothing at all is not waited for much longer than that: Unavailable, and whether it took effect is not known.
        """
        if not _DURATION.match(timeout) or isolation not in {"", "repeatable read", "serializable"}:
            raise ValueError("not a duration or isolation level")
        level = f" isolation level {isolation}" if isolation else ""
        async with self._connection() as connection:
            limit = asyncio.timeout(_seconds(timeout) + _SILENCE)
            try:
                async with limit:
                    async with _mapped(connection):
                        # One round trip; transaction_timeout counts from here.
                        await connection.execute(f"begin{level}; set local transaction_timeout = '{timeout}'")
                    try:
                        yield Transaction(connection)
                    except BaseException:
                        await _roll_back(connection)
                        raise
                    async with _mapped(connection):
                        if await connection.execute("commit") != "COMMIT":
                            # A statement failed and its error was swallowed inside the block.
                            raise RuntimeError("the transaction had failed and was rolled back")
            except TimeoutError:
                if not limit.expired():
                    raise
                _give_up(connection)
                raise unavailable() from None

    @asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[Lock]:
        """Waits until this process alone holds the advisory lock `name` (per schema) on a connection of its own."""
        connection = await self._own_connection({"idle_session_timeout": f"{_LOCK_IDLE_SECONDS}s"})
        try:
            async with _mapped(connection):
                await connection.execute(
                    "select pg_advisory_lock(hashtextextended($1, 0))", f"{self.schema}/{name}", timeout=86_400
                )
            yield Lock(connection)
        finally:
            connection.terminate()

    def listen(self, channel: str) -> Signal:
        """A new signal for `pg_notify(channel, …)`. All signals of a Database share one connection, which
        reconnects by itself and then wakes everybody: what was said in between is lost."""
        if not _IDENTIFIER.match(channel):
            raise ValueError("not a channel name")
        signal = Signal()
        self._signals.setdefault(channel, []).append(signal)
        self._registered.set()
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen(), name=f"{self.schema}.listen")
        return signal

    def forget(self, channel: str, signal: Signal) -> None:
        """Stop waking `signal`."""
        with suppress(KeyError, ValueError):
            self._signals[channel].remove(signal)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def _own_connection(self, settings: dict[str, str] | None = None) -> asyncpg.Connection[Row]:
        try:
            return await asyncpg.connect(self._dsn, timeout=5, server_settings=_session(self.schema) | (settings or {}))
        except _TRY_AGAIN:
            raise unavailable() from None

    async def _listen(self) -> None:
        while True:
            try:
                connection = await self._own_connection()
            except Unavailable:
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            try:
                await self._relay_notifications(connection)
            except (*_TRY_AGAIN, *_CONFUSED) as error:
                log.warning("listening-interrupted", schema=self.schema, exception=type(error).__name__)
            finally:
                connection.terminate()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _relay_notifications(self, connection: asyncpg.Connection[Row]) -> None:
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _connection: ended.set())
        listening: set[str] = set()

        def heard(_connection: object, _pid: int, channel: str, _payload: object) -> None:
            for signal in self._signals.get(channel, ()):
                signal.notify()

        while not connection.is_closed():
            self._registered.clear()
            for channel in sorted(set(self._signals) - listening):
                await connection.add_listener(channel, heard)
                listening.add(channel)
                # What was committed before LISTEN took effect was not heard: everybody looks once.
                for signal in self._signals[channel]:
                    signal.notify()
            waits = [asyncio.ensure_future(self._registered.wait()), asyncio.ensure_future(ended.wait())]
            try:
                # The timeout only finds a server that vanished without closing the connection.
                await asyncio.wait(waits, timeout=15, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if not ended.is_set() and not self._registered.is_set():
                await connection.execute("select 1", timeout=5)


def _seconds(duration: str) -> float:
    return float(duration[:-2]) / 1000 if duration.endswith("ms") else float(duration[:-1])


async def _roll_back(connection: PoolConnectionProxy[Row]) -> None:
    try:
        async with asyncio.timeout(_SILENCE):
            await connection.execute("rollback")
    except (*_TRY_AGAIN, *_CONFUSED):
        _give_up(connection)


def _give_up(connection: PoolConnectionProxy[Row]) -> None:
    """asyncpg would wait for a server that says nothing before it said anything itself."""
    with suppress(*_CONFUSED):
        connection.terminate()


async def _reset(connection: asyncpg.Connection[Row]) -> None:
    """On the way back to the pool. asyncpg would spend a round trip each time on taking back settings, locks and
    LISTENs; here settings are local to a transaction, and locks and LISTENs have connections of their own."""
    if connection.is_in_transaction():
        await connection.reset()


def _session(schema: str) -> dict[str, str]:
    return {"search_path": schema, "application_name": f"consent-ledger {schema}", "timezone": "UTC", "jit": "off"}


@asynccontextmanager
async def _mapped(connection: PoolConnectionProxy[Row] | asyncpg.Connection[Row]) -> AsyncIterator[None]:
    """Errors of the connection and the server's state as Unavailable; mistakes of ours pass through unchanged."""
    try:
        yield
    except _TRY_AGAIN:
        raise unavailable() from None
    except asyncpg.InternalClientError:
        raise unavailable() from None
    except asyncpg.InterfaceError:
        if _is_gone(connection):
            raise unavailable() from None
        raise


def _is_gone(connection: PoolConnectionProxy[Row] | asyncpg.Connection[Row]) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # the pool has taken a broken connection back already
