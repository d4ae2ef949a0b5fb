"""The edge to PostgreSQL: what is the server's state becomes Unavailable, what is our mistake stays one."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from infra.local.kafka import free_ports
from shared.database import Database
from shared.errors import Unavailable
from tests.faults.proxy import Ways
from tests.integration.shared.test_outbox import until
from tests.parts import PostgresPart


async def test_a_transaction_commits_at_its_end_and_leaves_nothing_if_it_raises(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute("insert into thing values (1, $1)", "kept")
        assert await tx.fetchval("select note from thing") == "kept"
        assert await tx.fetchval("show transaction_timeout") == "2s"
    with suppress(ZeroDivisionError):
        async with db.transaction() as tx:
            await tx.execute("insert into thing values (2, 'lost')")
            raise ZeroDivisionError
    rows = await db.fetch("select id, note from thing")
    assert [tuple(row) for row in rows] == [(1, "kept")]
    row = await db.fetchrow("select id from thing")
    assert row is not None
    assert row["id"] == 1
    assert await db.fetchval("show transaction_timeout") == "0"


async def test_our_own_mistakes_are_not_excused_as_unavailability(db: Database) -> None:
    await db.execute("insert into thing values (1, '')")
    for error, sql, arguments in (
        (asyncpg.UniqueViolationError, "insert into thing values (1, '')", ()),
        (asyncpg.UndefinedTableError, "select * from nothing", ()),
        (asyncpg.InsufficientPrivilegeError, "create table mine (id int)", ()),
        (asyncpg.InterfaceError, "select $1::int", ()),
        (asyncpg.DataError, "select $1::int", ("one",)),
    ):
        with pytest.raises(error):
            await db.fetch(sql, *arguments)
    assert await db.fetchval("select 1") == 1


async def test_an_error_swallowed_inside_a_transaction_is_not_taken_for_a_commit(db: Database) -> None:
    await db.execute("insert into thing values (1, '')")

    async def swallow() -> None:
        async with db.transaction() as tx:
            await tx.execute("insert into thing values (2, '')")
            with suppress(asyncpg.UniqueViolationError):
                await tx.execute("insert into thing values (1, '')")

    with pytest.raises(RuntimeError):
        await swallow()
    assert await db.fetchval("select count(*) from thing") == 1


async def test_a_transaction_that_takes_too_long_is_ended_by_postgresql_and_the_pool_recovers(db: Database) -> None:
    async def dawdle() -> None:
        async with db.transaction(timeout="100ms") as tx:
            await tx.execute("insert into thing values (1, '')")
            await tx.execute("select pg_sleep(5)")

    with pytest.raises(Unavailable):
        await dawdle()
    assert await db.fetchval("select count(*) from thing") == 0


async def terminate(db: Database, who: str = "pid <> pg_backend_pid()") -> None:
    await db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        f"where usename = current_user and datname = current_database() and {who}"
    )


async def test_a_connection_that_ends_in_the_middle_is_unavailability(probe_dsn: str, db: Database) -> None:
    other = await Database.connect(probe_dsn, "probe", max_size=1)

    async def interrupted() -> None:
        async with other.transaction() as tx:
            await tx.execute("insert into thing values (1, '')")
            await terminate(db)
            await tx.execute("select 1")

    with pytest.raises(Unavailable):
        await interrupted()

    async def works() -> Any:
        with suppress(Unavailable):
            return await other.fetchval("select count(*) = 0 from thing")

    await until(works)
    await other.close()


async def test_a_server_that_is_not_there_is_unavailability(tmp_path: Any) -> None:
    with pytest.raises(Unavailable) as raised:
        await Database.connect(f"postgresql://probe@/probe?host={tmp_path}", "probe")
    assert (raised.value.service, raised.value.retry_after) == ("postgresql", 2)


async def test_a_server_that_stops_and_comes_back_is_waited_for(db: Database, postgres: PostgresPart) -> None:
    heard = db.listen("probe_outbox")
    await heard.wait(5)
    await asyncio.to_thread(postgres.server.stop)
    try:
        with pytest.raises(Unavailable):
            await db.execute("select 1")
    finally:
        await asyncio.to_thread(postgres.server.restart)

    async def works() -> Any:
        with suppress(Unavailable):
            return await db.fetchval("select 1")

    await until(works)
    # Whoever waits is woken when the connection is back: what was said in between is lost.
    assert await heard.wait(20)


@pytest.mark.parametrize("silent_from", ["a statement", "the commit"])
async def test_a_server_that_says_nothing_is_not_waited_for_much_longer_than_a_transaction_lives(
    probe_dsn: str, postgres: PostgresPart, silent_from: str
) -> None:
    local = postgres.host.startswith("/")
    there = Path(postgres.host) / ".s.PGSQL.5432" if local else (postgres.host, postgres.port or 5432)
    with tempfile.TemporaryDirectory() as folder, Ways() as ways:
        here = Path(folder) / ".s.PGSQL.5432" if local else ("127.0.0.1", free_ports(1)[0])
        way = ways.open("test.postgresql", here, lambda: there)
        through = replace(postgres, host=folder) if local else replace(postgres, host="127.0.0.1", port=here[1])  # type: ignore[index]
        db = await Database.connect(through.dsn("probe", urlsplit(probe_dsn).path.strip("/")), "probe")
        began = asyncio.get_running_loop().time()

        async def work() -> None:
            async with db.transaction() as tx:
                if silent_from == "a statement":
                    way.hang()
                await tx.execute("insert into thing values (1, 'perhaps')")
                way.hang()

        with pytest.raises(Unavailable):
            await work()
        assert asyncio.get_running_loop().time() - began < 15
        way.heal()
        assert await until(lambda: db.fetchval("select true"))
        await db.close()


async def test_who_listens_is_woken_by_a_commit_and_not_by_a_rollback(db: Database, probe_dsn: str) -> None:
    other = await Database.connect(probe_dsn, "probe")
    first, second, elsewhere = db.listen("probe_one"), db.listen("probe_one"), db.listen("probe_two")
    for heard in (first, second, elsewhere):
        assert await heard.wait(5)  # once at the beginning: what was said before LISTEN was not heard
    with suppress(ZeroDivisionError):
        async with other.transaction() as tx:
            await tx.execute("select pg_notify('probe_one', '')")
            raise ZeroDivisionError
    async with other.transaction() as tx:
        await tx.execute("select pg_notify('probe_two', '')")
    assert await elsewhere.wait(5)
    assert not await first.wait(0.05)
    await other.execute("select pg_notify('probe_one', '')")
    assert await first.wait(5)
    assert await second.wait(5)
    db.forget("probe_one", first)
    await other.execute("select pg_notify('probe_one', '')")
    assert await second.wait(5)
    assert not await first.wait(0)
    await other.close()


async def test_a_broken_listening_connection_is_replaced_and_everybody_woken(db: Database, probe_dsn: str) -> None:
    heard = db.listen("probe_one")
    assert await heard.wait(5)
    other = await Database.connect(probe_dsn, "probe")
    await terminate(other, "query ilike 'listen%'")
    assert await heard.wait(10)
    await other.execute("select pg_notify('probe_one', '')")
    assert await heard.wait(10)
    await other.close()


async def test_a_lock_has_one_holder_and_passes_on_when_its_connection_ends(db: Database, probe_dsn: str) -> None:
    other = await Database.connect(probe_dsn, "probe")
    got = asyncio.Event()

    async def second() -> None:
        async with other.lock("relay/x") as lock:
            got.set()
            await lock.still_held()

    waiting: asyncio.Task[None] | None = None
    with suppress(Unavailable):
        async with db.lock("relay/x") as lock, db.lock("relay/y"):
            waiting = asyncio.create_task(second())
            await until(lambda: waits_for_lock(db))
            assert not got.is_set()
            await lock.still_held()
            await terminate(
                db, "query like 'select 1' and pid in (select pid from pg_locks where locktype = 'advisory')"
            )
            async with asyncio.timeout(10):
                await got.wait()
            await lock.still_held()
            pytest.fail("a lost lock was taken for held")
    assert waiting is not None
    await waiting
    await other.close()


async def waits_for_lock(db: Database) -> bool:
    found: bool = await db.fetchval("select exists (select from pg_locks where locktype = 'advisory' and not granted)")
    return found


async def test_a_stopped_holder_loses_its_lock(db: Database, probe_dsn: str) -> None:
    """The server ends a session that says nothing for ten seconds: a stalled process cannot keep others waiting."""
    other = await Database.connect(probe_dsn, "probe")
    loop = asyncio.get_running_loop()

    async def hold_and_stall() -> None:
        async with other.lock("relay/x") as lock:
            await asyncio.sleep(11)
            await lock.still_held()

    stalled = asyncio.create_task(hold_and_stall())

    async def held() -> bool:
        found: bool = await db.fetchval("select exists (select from pg_locks where locktype = 'advisory' and granted)")
        return found

    await until(held)
    began = loop.time()
    async with db.lock("relay/x") as lock:
        await lock.still_held()
    assert loop.time() - began < 14
    with pytest.raises(Unavailable):
        await stalled
    await other.close()


async def test_names_that_travel_into_sql_are_checked(db: Database, probe_dsn: str) -> None:
    with pytest.raises(ValueError, match="schema"):
        await Database.connect(probe_dsn, "x; drop table thing")
    with pytest.raises(ValueError, match="channel"):
        db.listen("x; drop table thing")

    async def begin(*options: str) -> None:
        async with db.transaction(*options):
            pass

    for options in (("0",), ("2s'; drop table thing; --",), ("2s", "loose")):
        with pytest.raises(ValueError, match="duration"):
            await begin(*options)


async def test_a_cancelled_call_leaves_a_pool_that_works(db: Database) -> None:
    for _ in range(12):  # more often than the pool has connections
        asleep = asyncio.create_task(db.execute("select pg_sleep(10)"))
        await asyncio.sleep(0.01)
        asleep.cancel()
        with suppress(asyncio.CancelledError):
            await asleep
    assert await db.fetchval("select 1") == 1
