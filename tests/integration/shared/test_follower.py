"""The follower on a real PostgreSQL and a real Kafka: whatever arrives, each index is folded exactly once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from shared import wire
from shared.client import ServiceClient
from shared.database import Database, Transaction
from shared.errors import Corrupt, Unavailable
from shared.events import encode
from shared.follower import Follower, Heartbeat, Recorded
from shared.kafka import Consumer
from shared.outbox import put
from shared.topics import RECORDED
from tests.integration.shared.conftest import Site, withdrawal
from tests.integration.shared.counterpart import PUBLISHER_KEY, Counterpart
from tests.integration.shared.edges import Fault, FaultyConsumer, FaultyDatabase
from tests.integration.shared.test_outbox import until
from tests.parts import KafkaPart


async def remember(tx: Transaction, records: Sequence[Recorded]) -> None:
    """A fold that a repetition would break: the index is the primary key."""
    for recorded in records:
        await tx.execute(
            "insert into folded (shard, index, kind, statement) values ($1, $2, $3, $4)",
            recorded.shard,
            recorded.index,
            recorded.kind,
            recorded.raw,
        )


class Follows:
    """Makes followers of the tests' own service."""

    def __init__(self, kafka: KafkaPart, db: Database, counterpart: Counterpart, site: Site) -> None:
        self.kafka, self.db, self.counterpart, self.site = kafka, db, counterpart, site
        self.heartbeats: list[Heartbeat] = []

    async def heard(self, heartbeat: Heartbeat) -> None:
        self.heartbeats.append(heartbeat)

    def consumer(self, partitions: Sequence[int], positions: Mapping[int, int]) -> Consumer:
        return Consumer(self.kafka.bootstrap, self.site.topic(RECORDED), partitions, positions)

    @asynccontextmanager
    async def following(self, **changes: Any) -> AsyncIterator[Follower]:
        ledger = ServiceClient(self.counterpart.base_url, "probe:secret", "ledger")
        follower = Follower(
            "probe",
            changes.get("db", self.db),
            changes.get("consumer", self.consumer),
            ledger,
            PUBLISHER_KEY,
            self.site.origins(),
            range(self.site.shards),
            changes.get("apply", remember),
            self.heard,
        )
        running = asyncio.create_task(follower.run())
        try:
            yield follower
            assert not running.done(), running.exception()
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError, Corrupt):
                await running
            await ledger.close()

    async def folded(self, shard: int = 0) -> list[int]:
        rows = await self.db.fetch("select index from folded where shard = $1 order by index", shard)
        return [row["index"] for row in rows]

    def everything(self, shard: int = 0) -> Callable[[], Awaitable[bool]]:
        async def is_folded() -> bool:
            return await self.folded(shard) == list(range(len(self.counterpart.logs[shard].records)))

        return is_folded

    async def ready(self, follower: Follower) -> None:
        async def is_ready() -> bool:
            return follower.ready() == {"follower": True}

        await until(is_ready)


@pytest.fixture
def follows(kafka: KafkaPart, db: Database, counterpart: Counterpart, site: Site) -> Follows:
    return Follows(kafka, db, counterpart, site)


async def test_what_was_recorded_before_the_first_start_comes_from_the_ledger(
    follows: Follows, counterpart: Counterpart
) -> None:
    statements = [withdrawal() for _ in range(1200)]
    for statement in statements:
        counterpart.record(statement)
    async with follows.following() as follower:
        await until(follows.everything(), 60)
        await follows.ready(follower)
        assert follower.applied(0) == 1200
    rows = await follows.db.fetch("select statement from folded order by index")
    assert [row["statement"] for row in rows] == [encode(statement) for statement in statements]


async def test_nothing_is_missed_between_the_ledgers_answer_and_the_topic(
    follows: Follows, counterpart: Counterpart
) -> None:
    async def publish() -> None:
        for _ in range(150):
            await counterpart.publish(counterpart.leaf_message(counterpart.record(withdrawal())))

    publishing = asyncio.create_task(publish())
    for _ in range(3):
        async with follows.following() as follower:
            await follows.ready(follower)
    async with follows.following():
        await publishing
        await until(follows.everything())


async def test_lost_repeated_and_disordered_messages_make_no_difference(
    follows: Follows, counterpart: Counterpart
) -> None:
    chance = random.Random(7)
    async with follows.following() as follower:
        await follows.ready(follower)
        for _ in range(20):
            indexes = [counterpart.record(withdrawal() if chance.random() < 0.8 else None) for _ in range(10)]
            sent = [index for index in indexes if chance.random() < 0.7]
            sent += chance.choices(range(len(counterpart.logs[0].records)), k=4)
            chance.shuffle(sent)
            await counterpart.publish(*(counterpart.leaf_message(index) for index in sent))
        await counterpart.publish(counterpart.heartbeat_message())
        await until(follows.everything())
    assert follower.applied(0) == 200


async def test_a_loss_at_the_end_is_noticed_by_the_heartbeat_which_is_told_only_then(
    follows: Follows, counterpart: Counterpart
) -> None:
    seen_when_told = []

    async def heard(heartbeat: Heartbeat) -> None:
        seen_when_told.append((heartbeat.size, len(await follows.folded())))

    follows.heard = heard  # type: ignore[method-assign]
    async with follows.following() as follower:
        await follows.ready(follower)
        for _ in range(3):
            counterpart.record(withdrawal())
        await counterpart.publish(counterpart.heartbeat_message(marks={"newsletter": "2026-11-22T12:00:00.000Z"}))

        async def told() -> bool:
            return bool(seen_when_told)

        await until(told)
        heartbeat = follower.heartbeat(0)
    assert seen_when_told == [(3, 3)]
    assert heartbeat is not None
    assert heartbeat.marks == {"newsletter": "2026-11-22T12:00:00.000Z"}
    assert len(heartbeat.root) == 32


async def test_whoever_cannot_prove_to_be_the_publisher_is_not_heard(
    follows: Follows, counterpart: Counterpart
) -> None:
    async with follows.following() as follower:
        await follows.ready(follower)
        index = counterpart.record(withdrawal())
        forged = wire.RecordedValue(0, 0, b"\x03" + bytes(88), b"").encode()
        real = counterpart.leaf_message(index)
        await counterpart.publish(
            counterpart._published("leaf", 0, forged, b"q" * 32),
            counterpart._published("heartbeat", 0, b"{}", PUBLISHER_KEY),
            counterpart._published("something", 0, real.value, PUBLISHER_KEY),
            # Shard 0's leaf on shard 1's partition: the MAC covers the origin.
            type(real)(real.topic, 1, None, real.value, real.headers),
            type(real)(real.topic, 0, None, real.value, []),
        )
        await counterpart.publish(real)
        await until(follows.everything())
        assert await follows.folded(1) == []
    assert await follows.db.fetchval("select array_agg(kind) from folded") == ["event"]


async def test_after_two_records_for_one_index_no_heartbeat_is_told_but_everything_is_folded(
    follows: Follows, counterpart: Counterpart
) -> None:
    """Somebody has the publisher's key: what forbids still counts, and nothing is permitted any more."""
    async with follows.following() as follower:
        await follows.ready(follower)
        forged = wire.RecordedValue(0, 0, b"\x01" + bytes(88), b"").encode()
        await counterpart.publish(counterpart._published("leaf", 0, forged, PUBLISHER_KEY))

        async def is_believed() -> bool:
            return await follows.folded() == [0]

        await until(is_believed)
        true = counterpart.leaf_message(counterpart.record(withdrawal()))
        await counterpart.publish(true, counterpart.heartbeat_message())

        async def is_doubted() -> bool:
            return "two different records" in str(follower.ready()["follower"])

        await until(is_doubted)
        await counterpart.publish(counterpart.leaf_message(counterpart.record(withdrawal())))
        await until(follows.everything())
        assert follower.heartbeat(0) is None
    assert follows.heartbeats == []


def forged(index: int) -> bytes:
    """What somebody publishes who has the publisher's key: no record of the log's."""
    return wire.RecordedValue(0, index, b"\x01" + bytes(88), b"").encode()


def doubts(follower: Follower) -> Callable[[], Awaitable[bool]]:
    async def is_doubted() -> bool:
        return "two different records" in str(follower.ready()["follower"])

    return is_doubted


async def test_who_is_started_after_two_records_for_one_index_does_not_believe_either(
    follows: Follows, counterpart: Counterpart
) -> None:
    async with follows.following() as follower:
        await follows.ready(follower)
        true = counterpart.leaf_message(counterpart.record(withdrawal()))
        await counterpart.publish(true, counterpart._published("leaf", 0, forged(0), PUBLISHER_KEY))
        await until(doubts(follower))
        await until(follows.everything())
    for _ in range(2):
        async with follows.following() as again:
            await until(doubts(again))
            await counterpart.publish(
                counterpart.leaf_message(counterpart.record(withdrawal())), counterpart.heartbeat_message()
            )
            await until(follows.everything())
            assert again.heartbeat(0) is None
    await follows.db.execute("delete from folded")
    await follows.db.execute("update position set next = 0, leaf = null, contradicted = null")
    async with follows.following() as built_anew:
        await follows.ready(built_anew)
        assert await follows.folded() == [0, 1, 2]


async def test_a_record_that_the_ledger_contradicts_while_nobody_listens_is_found_at_the_next_start(
    follows: Follows, counterpart: Counterpart
) -> None:
    async with follows.following() as follower:
        await follows.ready(follower)
        counterpart.record(withdrawal())
        await counterpart.publish(
            counterpart.leaf_message(0), counterpart._published("leaf", 0, forged(1), PUBLISHER_KEY)
        )

        async def is_believed() -> bool:
            return await follows.folded() == [0, 1]

        await until(is_believed)
        assert not await doubts(follower)()
    for _ in range(3):
        await counterpart.publish(counterpart.leaf_message(counterpart.record(withdrawal())))
    for _ in range(2):
        async with follows.following() as again:
            await until(doubts(again))
            await counterpart.publish(counterpart.heartbeat_message())
            await until(follows.everything())
            assert again.heartbeat(0) is None
    assert await follows.db.fetchval("select contradicted from position where shard = 0") == 1


async def test_an_erased_index_is_folded_without_its_statement(follows: Follows, counterpart: Counterpart) -> None:
    given: list[Recorded] = []

    async def apply(tx: Transaction, records: Sequence[Recorded]) -> None:
        given.extend(records)
        await remember(tx, records)

    counterpart.record(withdrawal())
    counterpart.record(withdrawal())
    counterpart.record(None)
    counterpart.erase(0)
    async with follows.following(apply=apply):
        await until(follows.everything())
    assert [record.statement is None for record in given] == [True, False, True]
    assert [record.kind for record in given] == ["event", "event", "map_root"]
    assert [record.recorded_at for record in given] == [1_700_000_000_000, 1_700_000_000_000, None]


async def test_a_fold_may_state_new_facts(follows: Follows, counterpart: Counterpart) -> None:
    async def answer(tx: Transaction, records: Sequence[Recorded]) -> None:
        await remember(tx, records)
        await put(tx, [withdrawal() for _ in records])

    for _ in range(5):
        counterpart.record(withdrawal())
    async with follows.following(apply=answer):
        await until(follows.everything())
    assert await follows.db.fetchval("select count(*) from outbox") == 5


async def test_two_followers_of_one_service_fold_each_index_once(
    follows: Follows, counterpart: Counterpart, probe_dsn: str
) -> None:
    other = await Database.connect(probe_dsn, "probe")
    async with follows.following() as one, follows.following(db=other) as two:
        await follows.ready(one)
        await follows.ready(two)
        for _ in range(60):
            await counterpart.publish(counterpart.leaf_message(counterpart.record(withdrawal())))
        await until(follows.everything())
    await other.close()


async def test_connections_may_break_at_any_time(follows: Follows, counterpart: Counterpart) -> None:
    async with follows.following() as follower:
        await follows.ready(follower)
        for _ in range(40):
            await counterpart.publish(counterpart.leaf_message(counterpart.record(withdrawal())))
            with suppress(Unavailable):
                await follows.db.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where usename = current_user and datname = current_database() and pid <> pg_backend_pid()"
                )
        await until(follows.everything())


async def test_a_ledger_that_is_away_is_waited_for(follows: Follows, counterpart: Counterpart) -> None:
    async with follows.following() as follower:
        await follows.ready(follower)
        await counterpart.fall_silent()
        counterpart.record(withdrawal())
        await counterpart.publish(counterpart.leaf_message(counterpart.record(withdrawal())))

        async def waits() -> bool:
            return follower.ready() == {"follower": "ledger"}

        await until(waits)
        assert await follows.folded() == []
        await counterpart.answer()
        await until(follows.everything())
        await follows.ready(follower)


async def test_a_topic_made_anew_is_followed_from_its_beginning(
    follows: Follows, counterpart: Counterpart, kafka: KafkaPart, site: Site
) -> None:
    """Kafka's volume is lost: offsets start again, below where the follower stands."""
    from aiokafka.admin import AIOKafkaAdminClient  # noqa: PLC0415

    from shared import topics  # noqa: PLC0415

    async with follows.following() as follower:
        await follows.ready(follower)
        for _ in range(5):
            await counterpart.publish(counterpart.leaf_message(counterpart.record(withdrawal())))
        await until(follows.everything())
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        await admin.delete_topics([site.topic(RECORDED)])
        await admin.close()

        async def made() -> bool:
            with suppress(Unavailable, Corrupt):
                await topics.ensure_topics(kafka.bootstrap, site.prefix, 2)
                await counterpart.publish(counterpart.leaf_message(counterpart.record(withdrawal())))
                return True
            return False

        await until(made, 40)

        async def goes_on() -> bool:
            with suppress(Unavailable):
                await counterpart.publish(counterpart.leaf_message(counterpart.record(withdrawal())))
            return await follows.everything()()

        await until(goes_on, 40)


async def stopped(follows: Follows) -> BaseException:
    ledger = ServiceClient(follows.counterpart.base_url, "probe:secret", "ledger")
    follower = Follower(
        "probe", follows.db, follows.consumer, ledger, PUBLISHER_KEY, follows.site.origins(), [0], remember
    )
    with pytest.raises(Corrupt) as raised:
        async with asyncio.timeout(15):
            await follower.run()
    await ledger.close()
    return raised.value


async def test_a_leaf_of_unknown_type_stops_the_follower(follows: Follows, counterpart: Counterpart) -> None:
    counterpart.logs[0].records.append(wire.RecordedValue(0, 0, b"\x04" + bytes(88), b"").encode())
    assert "unknown type" in str(await stopped(follows))


async def test_a_statement_this_version_cannot_read_stops_the_follower(
    follows: Follows, counterpart: Counterpart
) -> None:
    counterpart.record(withdrawal())
    record = wire.RecordedValue.decode(counterpart.logs[0].records[0])
    unknown = record.statement.replace(b"ConsentWithdrawn", b"ConsentImagined")
    counterpart.logs[0].records[0] = wire.RecordedValue(0, 0, record.leaf, unknown).encode()
    assert "cannot read" in str(await stopped(follows))


async def test_a_ledger_with_fewer_records_than_were_folded_stops_the_follower(
    follows: Follows, counterpart: Counterpart
) -> None:
    for _ in range(3):
        counterpart.record(withdrawal())
    async with follows.following():
        await until(follows.everything())
    counterpart.logs[0].records.pop()
    assert "was it restored?" in str(await stopped(follows))


@pytest.mark.parametrize("kind", ["failed", "took effect, then failed"])
async def test_every_call_may_fail_and_each_index_is_still_folded_once(
    follows: Follows, counterpart: Counterpart, kind: Any
) -> None:
    """Counted once, then spoiled one by one; each time a new follower starts from what is stored."""

    async def play(fault: Fault) -> None:
        def consumer(partitions: Sequence[int], positions: Mapping[int, int]) -> Consumer:
            return FaultyConsumer(fault, follows.kafka.bootstrap, follows.site.topic(RECORDED), partitions, positions)

        async with follows.following(db=FaultyDatabase(follows.db, fault), consumer=consumer) as follower:
            await follows.ready(follower)
            counterpart.record(withdrawal())  # its message is lost
            await counterpart.publish(
                counterpart.leaf_message(counterpart.record(withdrawal())),
                counterpart.leaf_message(counterpart.record(None)),
                counterpart.heartbeat_message(),
            )
            await until(follows.everything())

    count = Fault()
    await play(count)
    struck = set()
    for fault in count.each(kind):
        await play(fault)
        if fault.struck:
            struck.add(fault.edge)
    assert struck == {"postgresql", "commit", "kafka"}


async def test_a_fold_too_slow_for_a_large_transaction_goes_on_in_smaller_ones(
    follows: Follows, counterpart: Counterpart
) -> None:
    async def slow(tx: Transaction, recorded: Recorded) -> None:
        await remember(tx, recorded)
        await tx.execute("select pg_sleep(0.03)")

    for _ in range(150):
        counterpart.record(withdrawal())
    async with follows.following(apply=slow):
        await until(follows.everything(), 60)
