"""The back door of the audience: Faust, in a process of its own, around the fold of audience.py.

Faust may lose, repeat or skip messages, and counts one as done even if its handler raised. So what comes next is
decided by the fold's own position, what is missing is fetched from the ledger, and any error here ends the process.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import faust

from services.marketing import store
from services.marketing.audience import Shard
from shared import logs, wire
from shared.backoff import Backoff
from shared.client import ServiceClient
from shared.clock import Clock, from_millis
from shared.database import Database
from shared.errors import Corrupt, Refused, Unavailable
from shared.follower import Heartbeat, Recorded
from shared.kafka import Consumer, take_back_beyond_end
from shared.kafka_login import NOBODY, Login
from shared.metrics import Metrics
from shared.process import until_available

PAGE: Final = 1000
FLUSH_AT: Final = 1000
SESSION_SECONDS: Final = 6.0
"""After a kill the group waits this long for the dead member; brokers accept no less (group.min.session.timeout.ms)."""
SILENCE_SECONDS: Final = 10.0
"""A heartbeat comes every second: silence means that the publisher, or Faust's consumer, is stuck."""
WATCH_SECONDS: Final = 5.0
STUCK_LOOKS: Final = 5
"""So often in a row it may be in trouble while others hear the publisher: for longer than a rebalance after a kill.
Looks, not seconds: who was stopped for long is given time, too."""
SHOW_PAUSE_SECONDS: Final = 0.2
STOP_SECONDS: Final = 10.0

log = logs.logger("audience")
# It warns of every hundred entries that are written to the table at once, and then writes them.
logging.getLogger("faust.transport.producer").setLevel(logging.ERROR)


class Stuck(Exception):
    """Faust hears nothing of what is published, and does not come round by itself: begin anew."""


class Audience:
    """The Faust application, and the writer that shows its figures to the page."""

    def __init__(
        self,
        *,
        kafka: str,
        login: Login = NOBODY,
        replication: int = 1,
        topic: str,
        name: str,
        origins: Mapping[int, str],
        publisher_key: bytes,
        ledger: ServiceClient,
        db: Database,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`name` is the consumer group, and the first part of the name of the table's changelog."""
        self._kafka, self._login, self._topic = kafka, login, topic
        self._origins, self._publisher_key = dict(origins), publisher_key
        self._ledger, self._db, self._clock = ledger, db, clock
        self._shards: dict[int, Shard] = {}
        self._complete_at: dict[int, datetime] = {}
        self._heard: datetime | None = None
        self._to_show = asyncio.Event()
        self._error: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next = metrics.gauge("next", "Index of the next record to count", ("shard",))
        self._doubtful = metrics.counter("doubtful", "Messages without a valid MAC or form", ("kind",))
        for kind in ("leaf", "heartbeat", "other"):
            self._doubtful.labels(kind)  # from 0 on, so that the first one is seen to be one more
        self._fetched = metrics.counter("fetched", "Records fetched from the ledger, not from Kafka")
        # Faust makes a folder of its own wherever it runs, also when its tables are in memory.
        self._folder = tempfile.TemporaryDirectory(prefix="consent-ledger-audience-")
        self.app = faust.App(
            name,
            datadir=self._folder.name,
            broker=f"aiokafka://{kafka}",
            broker_credentials=_credentials(login),
            loop=asyncio.get_running_loop(),
            store="memory://",
            web_enabled=False,  # it would serve the table, that is: who agreed to what
            topic_partitions=len(self._origins),
            topic_replication_factor=replication,
            topic_disable_leader=True,
            consumer_auto_offset_reset="earliest",
            broker_session_timeout=SESSION_SECONDS,
            broker_heartbeat_interval=SESSION_SECONDS / 3,
            broker_rebalance_timeout=SESSION_SECONDS,
            stream_wait_empty=False,
        )
        source = self.app.topic(topic, key_serializer="raw", value_serializer="raw", partitions=len(self._origins))
        self._table: Any = self.app.Table("audience", partitions=len(self._origins), key_type=str)
        self.app.agent(source, name="audience", concurrency=1)(self._agent)
        self.app.on_partitions_revoked.connect(self._forget)
        self.app.on_partitions_assigned.connect(self._forget)

    async def _forget(self, *_: Any, **__: Any) -> None:
        """Another worker may have counted on, or will: what we hold is read anew from the recovered table."""
        self._shards.clear()

    def ready(self) -> dict[str, bool | str]:
        """Ready is: partitions are ours, the table is recovered, and something was heard on them a moment ago."""
        return {"faust": self._trouble() or True}

    def _trouble(self) -> str | None:
        app = self.app
        if not app.started or app.rebalancing or not self._recovered():
            return "recovering its table" if app.started else "starting"
        if not any(place.topic == self._topic for place in app.consumer.assignment()):
            return "no partition is assigned"
        if self._heard is None or (self._clock() - self._heard).total_seconds() > SILENCE_SECONDS:
            return "nothing heard from the publisher"
        return None

    def _recovered(self) -> bool:
        tables: Any = self.app.tables  # its interface does not name the recovery
        return bool(tables.recovery.completed.is_set())

    async def run(self) -> None:
        """Until cancelled. Raises what Faust crashed with, or what went wrong in here."""
        starting = asyncio.ensure_future(self._start())
        watching = asyncio.ensure_future(self._watch())
        ending = asyncio.ensure_future(self.app.wait_until_stopped())
        try:
            await asyncio.wait({ending, self._error}, return_when=asyncio.FIRST_COMPLETED)
            if self._error.done():
                self._error.result()
            if self.app.crash_reason is not None:
                raise self.app.crash_reason
        finally:
            starting.cancel()
            watching.cancel()
            ending.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self.app.stop()

    async def _start(self) -> None:
        # Faust would end, and we with it, if no broker answered when it starts.
        await until_available(self._ends)
        await until_available(self._begin_anew_if_the_topic_was)
        try:
            await self.app.start()
        except Exception as error:  # noqa: BLE001 - `run` raises it
            self._fail(error)

    async def _begin_anew_if_the_topic_was(self) -> None:
        gone = await take_back_beyond_end(self._kafka, self.app.conf.id, self._topic, self._origins, self._login)
        for shard, offset in gone.items():
            log.warning("position-gone", shard=shard, went_on_from=offset)

    async def _watch(self) -> None:
        """Faust may be left without its partitions for good, say by a broker that was made anew under it."""
        looks = 0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            trouble = self._trouble()
            looks = looks + 1 if trouble is not None and await self._is_published() else 0
            if looks > STUCK_LOOKS:
                log.error("stuck", why=trouble)
                self._fail(Stuck(trouble))

    async def _is_published(self) -> bool:
        """Whether anything is: a heartbeat comes every second. False also if Kafka does not answer."""
        try:
            before = await self._ends()
            await asyncio.sleep(WATCH_SECONDS / 2)
            return await self._ends() != before
        except Unavailable:
            return False

    async def _ends(self) -> dict[int, int]:
        """Where the topic ends now; Unavailable if no broker answers, or there is no such topic."""
        consumer = Consumer(self._kafka, self._topic, self._origins, login=self._login)
        try:
            await consumer.start()
            return await consumer.end_offsets()
        finally:
            await consumer.stop()

    def _fail(self, error: Exception) -> None:
        if not self._error.done():
            self._error.set_exception(error)

    async def _agent(self, stream: Any) -> None:
        async for event in stream.events():
            try:
                await self._take(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends the process
                self._fail(error)
                # Going on would let Faust count the message as done.
                await asyncio.Event().wait()

    async def _take(self, event: Any) -> None:
        message, value = event.message, event.value or b""
        shard = message.partition
        headers = dict(message.headers or {})
        kind = bytes(headers.get("kind", b"")).decode("ascii", "replace")
        try:
            expected = wire.recorded_mac(self._publisher_key, self._origins[shard], kind, value)
            if kind not in {"leaf", "heartbeat"} or not wire.mac_holds(expected, headers.get("mac")):
                raise wire.MalformedRecord  # noqa: TRY301 - handled with those of the readers
            if kind == "leaf":
                recorded = Recorded.read(value)
                await self._count(shard, recorded.index, recorded)
            else:
                self._heard = self._clock()
                heartbeat = Heartbeat.read(value, self._heard)
                if await self._count(shard, heartbeat.size):
                    # The message's own time: one that waited in Kafka says nothing about now.
                    self._show(shard, from_millis(int(message.timestamp * 1000)))
        except wire.MalformedRecord:
            known = kind if kind in {"leaf", "heartbeat"} else "other"
            self._doubtful.labels(known).inc()
            log.warning("doubtful-message", kind=known, shard=shard, offset=message.offset)

    async def _count(self, number: int, until: int, recorded: Recorded | None = None) -> bool:
        """Count up to index `until`, fetching what is missing, then `recorded`. False if a rebalance came between."""
        shard = self._shards.get(number)
        if shard is None:
            shard = self._shards[number] = Shard(number, self._table)
        while shard.next < until:
            for missing in await self._missing(number, shard.next, min(PAGE, until - shard.next)):
                shard.fold(missing)
            if self._shards.get(number) is not shard:
                return False
            shard.flush()
        if recorded is not None:
            shard.fold(recorded)
        if shard.waiting >= (FLUSH_AT if recorded is not None else 1):
            shard.flush()
        self._next.labels(str(number)).set(shard.next)
        return True

    async def _missing(self, shard: int, start: int, limit: int) -> list[Recorded]:
        """Records from the ledger, at least one, as long as it takes."""
        backoff = Backoff()
        while True:
            try:
                answer = await self._ledger.get(
                    "/ledger/records", params={"shard": shard, "from": start, "limit": limit}, timeout=15
                )
                size, records = _records(answer.json())
            except (Unavailable, Refused) as error:
                log.warning("waiting", service="ledger", reason=type(error).__name__)
                await backoff.pause()
                continue
            if not records:
                what = f"the ledger ends at {size}, record {start} was published"
                raise Corrupt(what, f"shard {shard}")
            if [(one.shard, one.index) for one in records] != [(shard, start + n) for n in range(len(records))]:
                raise Corrupt("the ledger answered other records than it was asked for", f"shard {shard}")
            self._fetched.inc(len(records))
            return records

    def _show(self, shard: int, complete_at: datetime) -> None:
        self._complete_at[shard] = complete_at
        self._to_show.set()

    async def show(self) -> None:
        """Write figures for the page whenever they changed; many changes while one write runs make one next write."""
        backoff = Backoff()
        while True:
            await self._to_show.wait()
            self._to_show.clear()
            try:
                for number, shard in list(self._shards.items()):
                    if number in self._complete_at:
                        async with self._db.transaction() as tx:
                            await store.put_counted(tx, shard.counted(self._complete_at[number]))
            except Unavailable:
                self._to_show.set()
                await backoff.pause()
            else:
                backoff.reset()
                await asyncio.sleep(SHOW_PAUSE_SECONDS)


def _credentials(login: Login) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """The same login in Faust's words."""
    context = login.ssl_context
    if login.user:
        return faust.SASLCredentials(
            username=login.user, password=login.password, ssl_context=context, mechanism=login.mechanism
        )
    return None if context is None else faust.SSLCredentials(context)


def _records(answer: Any) -> tuple[int, list[Recorded]]:
    try:
        return int(answer["size"]), [Recorded.read(base64.b64decode(text, validate=True)) for text in answer["records"]]
    except (KeyError, TypeError, ValueError, wire.MalformedRecord):
        raise Unavailable("ledger") from None
