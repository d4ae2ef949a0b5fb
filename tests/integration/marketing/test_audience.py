"""The real Faust application on real Kafka: it counts what is recorded, goes on where it stopped, and shows how far."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.marketing import store
from services.marketing.worker import Audience
from shared import wire
from shared.client import ServiceClient
from shared.clock import utc_now
from shared.database import Database
from shared.errors import Corrupt
from shared.kafka import Producer
from shared.metrics import Metrics
from shared.secrets import create_secrets
from shared.topics import ensure_topics
from tests.integration.marketing.publisher import KEY, ORIGIN, Ledger
from tests.parts import Database as OwnDatabase
from tests.parts import KafkaPart
from tests.unit.marketing.history import given, person, withdrawn


@dataclass
class Process:
    """One process of the audience, while it runs."""

    audience: Audience
    tasks: list[asyncio.Task[None]]

    async def ready(self) -> bool:
        return self.audience.ready() == {"faust": True}


@dataclass
class World:
    ledger: Ledger
    db: Database
    clients: list[ServiceClient] = field(default_factory=list)

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Process]:
        client = ServiceClient(self.ledger.base_url, "audience:secret", "ledger")
        audience = Audience(
            kafka=self.ledger.kafka,
            topic=self.ledger.topic,
            name=f"{self.ledger.prefix}audience",
            origins={0: ORIGIN},
            publisher_key=KEY,
            ledger=client,
            db=self.db,
            clock=utc_now,
            metrics=Metrics("audience"),
        )
        tasks = [asyncio.create_task(audience.run()), asyncio.create_task(audience.show())]
        try:
            yield Process(audience, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.close()

    async def shown(self) -> tuple[dict[str, int], int]:
        """People per purpose and how far is counted, as the page has it."""
        people, _, positions = await store.audience_figures(self.db, utc_now())
        return {row["purpose"]: row["people"] for row in people}, positions[0]["next"] if positions else 0

    async def until_shown(self, people: dict[str, int], position: int) -> None:
        await until(lambda: self._shows(people, position), self.shown)

    async def _shows(self, people: dict[str, int], position: int) -> bool:
        return await self.shown() == (people, position)


async def until(condition: Callable[[], Awaitable[bool]], instead: Callable[[], Awaitable[Any]] | None = None) -> None:
    try:
        async with asyncio.timeout(60):
            while not await condition():  # noqa: ASYNC110 - neither tables nor Faust say when they change
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"after 60 s it is {await instead()}" if instead else "not in 60 s")


@pytest.fixture
async def world(kafka: KafkaPart, database: OwnDatabase, topic_prefix: str) -> AsyncIterator[World]:
    await ensure_topics(kafka.bootstrap, topic_prefix, 1)
    producer = Producer(kafka.bootstrap)
    db = await Database.connect(database.dsn("marketing"), "marketing")
    ledger = Ledger(kafka.bootstrap, topic_prefix, producer)
    async with ledger.answers():
        yield World(ledger, db)
    await producer.stop()
    await db.close()


async def test_it_counts_what_is_recorded_and_is_ready_within_seconds(world: World) -> None:
    ada, bob = person(), person()
    await world.ledger.say(None, given(ada, 1), given(ada, 2, "newsletter-clicks"), given(bob, 1))
    began = asyncio.get_running_loop().time()
    async with world.process() as process:
        await until(process.ready)
        assert asyncio.get_running_loop().time() - began < 10
        await world.until_shown({"newsletter": 2, "newsletter-clicks": 1}, 4)
        await world.ledger.say(withdrawn(bob, 2), None)
        await world.until_shown({"newsletter": 1, "newsletter-clicks": 1}, 6)


async def test_it_goes_on_where_it_stopped_and_counts_nothing_twice(world: World) -> None:
    people = [person() for _ in range(40)]
    await world.ledger.say(*(given(one, 1) for one in people[:20]))
    async with world.process():
        await world.until_shown({"newsletter": 20}, 20)
        await world.ledger.say(*(withdrawn(one, 2) for one in people[:5]))
        # Stopped while this is on its way, wherever it is then.
    await world.ledger.say(*(given(one, 1) for one in people[20:]))
    async with world.process():
        await world.until_shown({"newsletter": 35}, 45)
    # What Faust is given again from the beginning changes nothing.
    await world.ledger.publish(world.ledger.records)
    async with world.process():
        await world.ledger.say(given(person(), 1))
        await world.until_shown({"newsletter": 36}, 46)


async def test_what_kafka_has_lost_comes_from_the_ledger(world: World) -> None:
    async with world.process():
        # Never published at all, before the first message that it gets to see.
        world.ledger.record(*(given(person(), 1) for _ in range(2500)))
        await world.ledger.publish(world.ledger.record(given(person(), 1)))
        await world.ledger.heartbeat()
        await world.until_shown({"newsletter": 2501}, 2501)
        # The last ones are missing, and only the heartbeat speaks of them.
        world.ledger.record(given(person(), 1), None)
        await world.ledger.heartbeat()
        await world.until_shown({"newsletter": 2502}, 2503)
    assert world.ledger.asked == [0, 1000, 2000, 2501]


async def test_it_waits_for_a_ledger_that_does_not_answer(world: World) -> None:
    world.ledger.answering.clear()
    async with world.process() as process:
        world.ledger.record(given(person(), 1))
        await world.ledger.heartbeat()
        await until(lambda: _asked(process))
        world.ledger.answering.set()
        await world.until_shown({"newsletter": 1}, 1)


async def _asked(process: Process) -> bool:
    return process.audience._heard is not None


async def test_what_is_not_the_publishers_word_is_counted_as_doubtful_and_nothing_else(world: World) -> None:
    forged = world.ledger.record(given(person(), 1))
    await world.ledger.publish(forged, key=b"x" * 32)
    await world.ledger.publish([b"too short"])
    await world.ledger.publish(forged, kind="something")
    async with world.process() as process:
        # The index the forged one took is fetched from the ledger.
        await world.ledger.say(given(person(), 1))
        await world.until_shown({"newsletter": 2}, 2)
        doubtful = process.audience._doubtful
        assert [doubtful.labels(kind)._value.get() for kind in ("leaf", "other")] == [2, 1]


async def test_a_record_it_does_not_know_ends_the_process_and_is_not_passed_over(world: World) -> None:
    unknown = wire.RecordedValue(0, 1, b"\x05" + bytes(88), b"").encode()
    await world.ledger.publish(world.ledger.record(given(person(), 1)))
    world.ledger.records.append(unknown)
    await world.ledger.publish([unknown])
    for _ in range(3):
        # Faust counts the message as done when it is stopped; the fold's position does not.
        await world.ledger.heartbeat()
        async with world.process() as process:
            with pytest.raises(Corrupt, match="unknown type"):
                async with asyncio.timeout(30):
                    await process.tasks[0]


async def test_without_kafka_it_asks_again_and_is_not_ready(world: World) -> None:
    asked: list[object] = []

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        writer.close()

    async def is_asked_again() -> bool:
        return len(asked) > 3

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        world.ledger.kafka = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with world.process() as process:
            await until(is_asked_again)
            assert not any(task.done() for task in process.tasks)
            assert process.audience.ready() == {"faust": "starting"}


async def test_it_is_ready_only_while_it_hears_the_publisher(world: World) -> None:
    async with world.process() as process:
        await until(lambda: _state(process, "nothing heard from the publisher"))
        await world.ledger.heartbeat()
        await until(process.ready)


async def _state(process: Process, state: str) -> bool:
    return process.audience.ready() == {"faust": state}


async def test_another_worker_takes_over(world: World) -> None:
    async with world.process() as first:
        await world.ledger.say(given(person(), 1))
        await world.until_shown({"newsletter": 1}, 1)
        async with world.process() as second:
            async with asyncio.TaskGroup() as group:
                beating = group.create_task(_beat(world))
                await until(lambda: _either(first, second))
                for task in first.tasks:
                    task.cancel()
                await asyncio.gather(*first.tasks, return_exceptions=True)
                await until(second.ready)
                beating.cancel()
            await world.ledger.say(given(person(), 1))
            await world.until_shown({"newsletter": 2}, 2)


async def _beat(world: World) -> None:
    with suppress(asyncio.CancelledError):
        while True:
            await world.ledger.heartbeat()
            await asyncio.sleep(0.2)


async def _either(first: Process, second: Process) -> bool:
    states = [str(process.audience.ready()["faust"]) for process in (first, second)]
    return sorted(states) == ["True", "no partition is assigned"]


class Binds:
    """Every address this process begins to listen on, by Python's own audit."""

    def __init__(self) -> None:
        self.watching = False
        self.seen: list[Any] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event == "socket.bind":
            self.seen.append(arguments[1])


async def test_nothing_listens(world: World) -> None:
    binds = Binds()
    binds.watching = True
    async with world.process() as process:
        await world.ledger.heartbeat()
        await until(process.ready)
        binds.watching = False
    assert binds.seen == []
    binds.watching = True
    socket.create_server(("127.0.0.1", 0)).close()
    binds.watching = False
    assert binds.seen == [("127.0.0.1", 0)]


@asynccontextmanager
async def started(world: World, folder: Path, database: OwnDatabase) -> AsyncIterator[subprocess.Popen[bytes]]:
    """`consent-ledger serve audience`, killed without warning at the end."""
    create_secrets(folder, os.urandom, [], ["audience"], shards=1)
    (folder / "publisher").write_text(KEY.hex())
    settings = {
        "DATABASE": database.dsn("{role}").replace("%7Brole%7D", "{role}"),
        "KAFKA": world.ledger.kafka,
        "TOPIC_PREFIX": world.ledger.prefix,
        "LOG_HOST": ORIGIN.split("/", 1)[0],
        "LEDGER_URL": world.ledger.base_url,
        "SECRETS_DIR": str(folder),
    }
    environment = {**os.environ, **{f"CONSENT_LEDGER_{name}": value for name, value in settings.items()}}
    command = [str(Path(sys.executable).parent / "consent-ledger"), "serve", "audience"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)  # noqa: ASYNC220 - killed below
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_killed_under_load_it_counts_nothing_twice_and_comes_back(
    world: World, database: OwnDatabase, tmp_path: Path
) -> None:
    people = [person() for _ in range(1500)]

    async def publish() -> None:
        for start in range(0, len(people), 100):
            await world.ledger.say(*(given(one, 1) for one in people[start : start + 100]))

    async with started(world, tmp_path, database):
        publishing = asyncio.create_task(publish())
        await until(lambda: _counts(world, 300), world.shown)
    await publishing
    _, before = await world.shown()
    assert before < len(people)
    # The dead member's session of six seconds is part of it.
    async with started(world, tmp_path, database):
        await world.until_shown({"newsletter": 1500}, 1500)


async def _counts(world: World, at_least: int) -> bool:
    return (await world.shown())[1] >= at_least
