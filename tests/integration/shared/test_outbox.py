"""The outbox and its relay on a real PostgreSQL and a real Kafka."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from shared.client import ServiceClient
from shared.clock import parse_rfc3339, rfc3339, utc_now
from shared.database import Database
from shared.errors import Corrupt, Unavailable
from shared.events import encode
from shared.kafka import Producer
from shared.outbox import Relay, put
from shared.outbox.put import _PUT, AHEAD
from tests.integration.shared.conftest import Site, withdrawal
from tests.integration.shared.counterpart import KEY, Counterpart
from tests.integration.shared.edges import Fault, FaultyDatabase, FaultyProducer
from tests.parts import KafkaPart


async def until(condition: Callable[[], Any], seconds: float = 40) -> Any:
    """Ask the real parts again and again; fails when it takes too long."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):  # noqa: ASYNC110 - the condition is another process's
            await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def relaying(
    db: Database, producer: Producer, counterpart: Counterpart, site: Site, **options: Any
) -> AsyncIterator[Relay]:
    ledger = ServiceClient(counterpart.base_url, "probe:secret", "ledger")
    relay = Relay("probe", db, producer, ledger, KEY, site, **options)
    running = asyncio.create_task(relay.run())
    try:
        yield relay
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError, ExceptionGroup):
            await running
        await ledger.close()


async def accept(db: Database, *statements: Any) -> None:
    async with db.transaction() as tx:
        await put(tx, statements)


async def unsealed(db: Database) -> int:
    count: int = await db.fetchval("select count(*) from outbox where sealed_at is null")
    return count


async def all_sealed(db: Database) -> bool:
    return await unsealed(db) == 0


async def test_what_is_put_reaches_the_ledger_byte_for_byte_and_is_ticked_off(
    db: Database, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    statements = [withdrawal(), withdrawal(1), withdrawal()]
    async with relaying(db, producer, counterpart, site):
        await accept(db, *statements)
        await until(lambda: all_sealed(db))
    sent = {encode(statement) for statement in statements}
    assert {*counterpart.logs[0].arrived.values(), *counterpart.logs[1].arrived.values()} == sent
    assert sorted(counterpart.logs[0].arrived) == [1, 2]
    assert not counterpart.unproven
    assert set(counterpart.asked) == {"Bearer probe:secret"}
    assert await db.fetchval("select array_agg(distinct result) from outbox") == ["recorded"]


async def test_no_hop_waits_for_a_timer(db: Database, producer: Producer, counterpart: Counterpart, site: Site) -> None:
    sealed = db.listen("probe_sealed")
    async with relaying(db, producer, counterpart, site):
        await accept(db, withdrawal())
        await until(lambda: all_sealed(db))
        loop, slowest = asyncio.get_running_loop(), []
        for _ in range(8):
            await sealed.wait(0.01)
            began, seen = loop.time(), sealed.changed
            await accept(db, withdrawal())
            await sealed.wait(5, since=seen)
            assert await all_sealed(db)
            slowest.append(loop.time() - began)
    # The median of eight: the safety nets are a second, so a single missed wake-up per round would show.
    assert sorted(slowest)[4] < 0.5, slowest


async def test_a_transaction_that_fails_states_nothing(db: Database) -> None:
    await fail_after_putting(db)
    assert await db.fetchval("select count(*) from outbox") == 0


async def test_nothing_is_accepted_while_our_clock_is_ahead_of_postgresqls(db: Database) -> None:
    """The ledger would reject it: a person would have been thanked for a withdrawal that is none."""
    soon = utc_now() + timedelta(seconds=50)
    await accept(db, withdrawal(), withdrawal().model_copy(update={"time": rfc3339(soon)}))
    ahead = withdrawal().model_copy(update={"time": rfc3339(utc_now() + timedelta(minutes=2))})
    with pytest.raises(Unavailable, match="clock"):
        await accept(db, withdrawal(), ahead)
    assert await db.fetchval("select count(*) from outbox") == 2


async def fail_after_putting(db: Database) -> None:
    with suppress(ZeroDivisionError):
        async with db.transaction() as tx:
            await put(tx, [withdrawal()])
            raise ZeroDivisionError


async def test_accepting_does_not_read_what_was_numbered_while_somebody_keeps_an_old_snapshot(
    db: Database, probe_dsn: str
) -> None:
    rows = "select gen_random_uuid(), 0, repeat('x', 1000)::bytea, $1 from generate_series(1, 5000)"
    async with db.transaction() as tx:
        await tx.execute(
            f"insert into outbox (id, shard, statement, accepted_at) {rows}", utc_now() - timedelta(minutes=1)
        )
    keeper = await asyncpg.connect(probe_dsn)
    try:
        async with keeper.transaction(isolation="repeatable_read"):
            await keeper.fetchval("select count(*) from outbox")
            await db.execute(
                "update outbox set sequence = n from (select id, row_number() over () as n from outbox) t "
                "where t.id = outbox.id"
            )
            one = withdrawal()
            given = ([str(one.id)], [0], [encode(one)], parse_rfc3339(one.time), AHEAD)
            async with db.transaction() as tx:
                plan = await tx.fetch("explain (analyze, buffers, format text) " + _PUT, *given)
    finally:
        await keeper.close()
    buffers = max(int(found) for row in plan for found in re.findall(r"shared hit=(\d+)", row[0]))
    assert buffers < 50, "\n".join(row[0] for row in plan)


async def test_numbers_have_no_gap_however_many_write_at_once(
    db: Database, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    async def write() -> None:
        for _ in range(10):
            await accept(db, withdrawal())
            await fail_after_putting(db)

    async with relaying(db, producer, counterpart, site), asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(write())
    async with relaying(db, producer, counterpart, site):
        await until(lambda: all_sealed(db))
    rows = await db.fetch("select sequence, statement from outbox order by sequence")
    assert [row["sequence"] for row in rows] == list(range(1, 61))
    assert counterpart.logs[0].arrived == {row["sequence"]: row["statement"] for row in rows}
    assert not counterpart.contradictions


async def test_a_rejected_statement_is_done_with_its_reason_and_does_not_block_the_next(
    db: Database, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    good, bad, late = withdrawal(), withdrawal(), withdrawal()
    counterpart.rejects[bad.id] = "not-this-source"
    counterpart.overtakes.add(late.id)
    async with relaying(db, producer, counterpart, site):
        await accept(db, bad)
        await accept(db, late)
        await accept(db, good)
        await until(lambda: all_sealed(db))
    rows = {str(row["id"]): row for row in await db.fetch("select id, result, reason, index from outbox")}
    assert (rows[bad.id]["result"], rows[bad.id]["reason"]) == ("rejected", "not-this-source")
    assert (rows[late.id]["result"], rows[late.id]["index"]) == ("overtaken", 7)
    assert rows[good.id]["result"] == "recorded"


async def test_what_kafka_lost_is_sent_again_and_said_aloud(
    db: Database, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    lost: list[bytes] = []

    def lose(message: Any) -> bool:
        if len(lost) < 2:
            lost.append(message.value)
            return True
        return False

    counterpart.lose = lose
    statements = [withdrawal() for _ in range(4)]
    async with relaying(db, producer, counterpart, site, resend_after=0.3) as relay:
        await accept(db, *statements)
        await until(lambda: all_sealed(db))
        await until(lambda: _fine(relay))
    assert len(lost) == 2
    assert set(counterpart.logs[0].arrived.values()) == {encode(statement) for statement in statements}
    assert not counterpart.contradictions


async def _fine(relay: Relay) -> bool:
    return all(part is True for part in relay.ready().values())


async def test_a_ledger_that_does_not_answer_makes_the_service_unready_and_loses_nothing(
    db: Database, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    async with relaying(db, producer, counterpart, site, resend_after=0.3) as relay:
        await accept(db, withdrawal())
        await until(lambda: all_sealed(db))
        await counterpart.fall_silent()
        await accept(db, withdrawal(), withdrawal())

        async def unready() -> bool:
            return set(relay.ready()) == {"relay", "outbox"} and "ledger" in str(relay.ready()["relay"])

        await until(unready)
        await counterpart.until(lambda: counterpart.logs[0].contiguous == 3)
        assert await unsealed(db) == 2
        await counterpart.answer()
        await until(lambda: all_sealed(db))
        await until(lambda: _fine(relay))


async def test_kafka_may_go_and_come_back(
    kafka: KafkaPart, db: Database, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    async with relaying(db, producer, counterpart, site) as relay:
        await accept(db, withdrawal())
        await until(lambda: all_sealed(db))
        await asyncio.to_thread(kafka.server.stop)
        try:
            await accept(db, withdrawal(), withdrawal(1))

            async def unready() -> bool:
                return "kafka" in str(relay.ready()["relay"])

            await until(unready)
        finally:
            await asyncio.to_thread(kafka.server.restart)
        await until(lambda: all_sealed(db), 60)
        await until(lambda: _fine(relay), 60)
    assert sorted(counterpart.logs[0].arrived) == [1, 2]


async def test_one_relay_works_at_a_time_and_another_takes_over(
    db: Database, probe_dsn: str, kafka: KafkaPart, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    other_db, other_producer = await Database.connect(probe_dsn, "probe"), Producer(kafka.bootstrap)
    holders = (
        "select count(*) filter (where granted), count(*) filter (where not granted) "
        "from pg_locks join pg_database on pg_locks.database = pg_database.oid "
        "where locktype = 'advisory' and datname = current_database()"
    )
    async with relaying(other_db, other_producer, counterpart, site):
        async with relaying(db, producer, counterpart, site):

            async def one_holds_one_waits() -> bool:
                row = await db.fetchrow(holders)
                return row is not None and tuple(row) == (1, 1)

            await until(one_holds_one_waits)
            await accept(db, *(withdrawal() for _ in range(20)))
            await until(lambda: all_sealed(db))
        await accept(other_db, *(withdrawal() for _ in range(20)))
        await until(lambda: all_sealed(other_db))
    await other_producer.stop()
    await other_db.close()
    assert sorted(counterpart.logs[0].arrived) == list(range(1, 41))
    assert not counterpart.contradictions


async def test_what_was_sealed_before_it_was_noted_as_sent_is_sent_once_more_and_holds_nothing_up(
    db: Database, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    async with relaying(db, producer, counterpart, site):
        await accept(db, withdrawal())
        await until(lambda: all_sealed(db))
    # What is left where a relay is killed after Kafka has taken a statement, and the next one hears of its seal first.
    await db.execute("update outbox_progress set sent = 0, sealed = 0")
    async with relaying(db, producer, counterpart, site):
        await accept(db, withdrawal())
        await until(lambda: all_sealed(db), seconds=10)
    assert counterpart.logs[0].repeated == 1


async def test_a_lost_connection_hands_the_relay_over(
    db: Database, postgres: Any, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    async with relaying(db, producer, counterpart, site):
        for _ in range(3):
            await until(lambda: _accepted(db))
            await until(lambda: all_sealed(db))
            await _terminate_all(db)
        await until(lambda: _accepted(db))
        await until(lambda: all_sealed(db))
    assert len(counterpart.logs[0].arrived) == 4


async def _accepted(db: Database) -> bool:
    with suppress(Unavailable):
        await accept(db, withdrawal())
        return True
    return False


async def _terminate_all(db: Database) -> None:
    """End every connection of this service, the one that asks included."""
    with suppress(Unavailable):
        await db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where usename = current_user and datname = current_database()"
        )


async def test_an_outbox_restored_from_a_backup_stops_instead_of_taking_old_seals_for_new(
    db: Database, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    async with relaying(db, producer, counterpart, site):
        await accept(db, withdrawal(), withdrawal())
        await until(lambda: all_sealed(db))
    await db.execute("delete from outbox")
    await db.execute("delete from outbox_sequence")
    await accept(db, withdrawal())
    ledger = ServiceClient(counterpart.base_url, "probe:secret", "ledger")
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(10):
            await Relay("probe", db, producer, ledger, KEY, site).run()
    await ledger.close()
    assert raised.group_contains(Corrupt)
    assert await unsealed(db) == 1


async def test_done_rows_go_after_their_time_and_rejected_ones_stay(
    db: Database, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    bad = withdrawal()
    counterpart.rejects[bad.id] = "unknown-activity"
    async with relaying(db, producer, counterpart, site):
        await accept(db, bad, withdrawal())
        await until(lambda: all_sealed(db))
    async with relaying(db, producer, counterpart, site, keep=timedelta(0)):

        async def only_the_rejected_one() -> bool:
            return [str(row["id"]) for row in await db.fetch("select id from outbox")] == [bad.id]

        await until(only_the_rejected_one)
        await accept(db, withdrawal())
        await until(lambda: all_sealed(db))
    assert sorted(counterpart.logs[0].arrived) == [1, 2, 3]


async def test_statements_are_accepted_only_under_the_timeout_that_marks_rest_on(db: Database) -> None:
    with pytest.raises(asyncpg.RaiseError):
        await put(db, [withdrawal()])
    with pytest.raises(asyncpg.RaiseError):
        async with db.transaction(timeout="3s") as tx:
            await put(tx, [withdrawal()])


@pytest.mark.parametrize(
    "rewriting",
    [
        "update outbox set statement = '\\x00'",
        "update outbox set accepted_at = now()",
        "update outbox set shard = 1",
        "update outbox set sequence = sequence + 1",
        "delete from outbox",
    ],
)
async def test_what_is_stated_is_final(db: Database, rewriting: str) -> None:
    await accept(db, withdrawal())
    await db.execute("update outbox set sequence = 1")
    with pytest.raises(asyncpg.RaiseError):
        await db.execute(rewriting)


async def test_the_mark_of_an_idle_source_is_two_seconds_old(
    db: Database, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    async with relaying(db, producer, counterpart, site):
        await counterpart.until(lambda: all(len(log.marks) >= 2 for log in counterpart.logs.values()))
        now = await db.fetchval("select clock_timestamp()")
    sequence, mark = counterpart.logs[0].marks[-1]
    assert sequence == 0
    assert timedelta(seconds=2) <= now - parse_rfc3339(mark) < timedelta(seconds=8)


def an_idle_relay(db: Database, producer: Producer, site: Site) -> Relay:
    """Never run: only asked how it stands."""
    return Relay("probe", db, producer, ServiceClient("http://127.0.0.1:1", "probe:s", "ledger"), KEY, site)


async def test_an_unsealed_statement_holds_the_mark_of_its_shard_alone(
    db: Database, producer: Producer, site: Site
) -> None:
    relay = an_idle_relay(db, producer, site)
    await accept(db, withdrawal(1))
    accepted = await db.fetchval("select accepted_at from outbox")

    async def passed() -> bool:
        return bool((await relay.standing())[0].all_before > accepted)

    await until(passed)
    assert (await relay.standing())[1].all_before == accepted


async def test_a_transaction_that_is_still_open_holds_the_mark(db: Database, producer: Producer, site: Site) -> None:
    relay = an_idle_relay(db, producer, site)
    looks = 0

    async def look_until_postgresql_ends_it() -> None:
        nonlocal looks
        async with db.transaction() as tx:
            await put(tx, [withdrawal()])
            accepted = await tx.fetchval("select accepted_at from outbox")
            while looks < 100_000:
                assert (await relay.standing())[0].all_before < accepted
                await tx.fetchval("select 1")
                looks += 1

    with pytest.raises(Unavailable):
        await look_until_postgresql_ends_it()
    assert looks > 10
    assert await db.fetchval("select count(*) from outbox") == 0


async def test_no_mark_ever_passes_a_statement_that_is_not_sealed(db: Database, producer: Producer, site: Site) -> None:
    """Writers hold their transactions open for a while, a sealer ticks off; every mark is checked against the rows."""
    relay = an_idle_relay(db, producer, site)
    marks = []

    async def write(hold: float) -> None:
        for _ in range(12):
            async with db.transaction() as tx:
                await put(tx, [withdrawal()])
                await asyncio.sleep(hold)

    async def seal() -> None:
        while True:
            await db.execute(
                "update outbox set sealed_at = clock_timestamp(), result = 'recorded' where sealed_at is null"
            )
            await asyncio.sleep(0.15)

    async def ask() -> None:
        while True:
            said_at = await db.fetchval("select clock_timestamp()")
            marks.append((said_at, (await relay.standing())[0].all_before))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        writing = [group.create_task(write(hold)) for hold in (0.01, 0.1, 0.25)]
        rest = [group.create_task(seal()), group.create_task(ask())]
        await asyncio.wait(writing)
        for task in rest:
            task.cancel()
    rows = await db.fetch("select accepted_at, sealed_at from outbox")
    assert len(marks) > 50
    assert len(rows) == 36
    for said_at, mark in marks:
        late = [
            row
            for row in rows
            if row["accepted_at"] < mark and (row["sealed_at"] is None or row["sealed_at"] > said_at)
        ]
        # Sealed between the two looks is fine; more than one round of the sealer later is not.
        assert all(row["sealed_at"] is not None and row["sealed_at"] - said_at < timedelta(seconds=0.1) for row in late)


@pytest.mark.parametrize("kind", ["failed", "took effect, then failed"])
async def test_every_call_may_fail_and_nothing_is_lost_or_numbered_twice(
    kafka: KafkaPart, db: Database, counterpart: Counterpart, site: Site, kind: Any
) -> None:
    """Counted once, then spoiled one by one; each time a new relay starts from what is stored."""
    stated: dict[int, set[bytes]] = {0: set(), 1: set()}

    async def play(fault: Fault) -> None:
        producer = FaultyProducer(kafka.bootstrap, fault)
        async with relaying(FaultyDatabase(db, fault), producer, counterpart, site):
            for shard in (0, 1, 0):
                statement = withdrawal(shard)
                stated[shard].add(encode(statement))
                await accept(db, statement)
            await until(lambda: all_sealed(db))
        await producer.stop()

    count = Fault()
    await play(count)
    struck = set()
    for fault in count.each(kind):
        await play(fault)
        if fault.struck:
            struck.add(fault.edge)
    assert struck == {"postgresql", "commit", "kafka"}
    assert not counterpart.contradictions
    for shard, statements in stated.items():
        arrived = counterpart.logs[shard].arrived
        assert sorted(arrived) == list(range(1, len(statements) + 1))
        assert set(arrived.values()) == statements
