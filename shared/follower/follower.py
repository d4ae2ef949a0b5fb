"""Folds the recorded history into a service's own tables, each index exactly once.

Kafka only makes it quick: whatever it loses, repeats or disorders, the position in PostgreSQL decides what comes
next, and what is missing is fetched from the ledger. Every projection can therefore be rebuilt from index 0.
"""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from shared import logs, wire
from shared.backoff import Backoff
from shared.client import ServiceClient
from shared.clock import Clock, utc_now
from shared.database import Database, Transaction
from shared.errors import Corrupt, Refused, Unavailable
from shared.follower.records import Heartbeat, Recorded
from shared.kafka import Consumer, Message, OutOfRange
from shared.metrics import Metrics

Apply = Callable[[Transaction, Sequence[Recorded]], Awaitable[None]]
NewConsumer = Callable[[Sequence[int], Mapping[int, int]], Consumer]
OnHeartbeat = Callable[[Heartbeat], Awaitable[None]]

_PAGE: Final = 1000
_FIRST_BATCH: Final = 250
_SLOW_SECONDS: Final = 1.0  # PostgreSQL ends a transaction after two
_QUICK_SECONDS: Final = 0.25
_FETCH_MS: Final = 1000
_SILENCE_SECONDS: Final = 10.0
_REMEMBERED: Final = 10_000
_CONTRADICTED: Final = "two different records came for one index: rebuild from the log"

_KNOWN = "insert into position (shard) select * from unnest($1::integer[]) on conflict do nothing"
_WHERE = "select next from position where shard = $1"
_EARLIER = "select next, leaf, contradicted from position where shard = $1"
# The row stays locked until the commit: whoever else folds this shard waits, and then finds another position.
_MOVE = """
update position set next = $3, leaf = $4, applied_at = clock_timestamp() where shard = $1 and next = $2 returning true
"""
_CONTRADICTS = "update position set contradicted = $2 where shard = $1 and contradicted is null"


class Follower:
    """Run one per process of the service; several at once are safe, the position's row lock orders them."""

    def __init__(
        self,
        name: str,
        database: Database,
        consumer: NewConsumer,
        ledger: ServiceClient,
        publisher_key: bytes,
        origins: Mapping[int, str],
        shards: Iterable[int],
        apply: Apply,
        on_heartbeat: OnHeartbeat | None = None,
        *,
        clock: Clock = utc_now,
        metrics: Metrics | None = None,
    ) -> None:
        """`consumer` makes a Consumer of `consent.recorded` from partitions and positions; `origins` is the log's
        name per shard; `apply` folds records that follow one another, and does only SQL on the transaction it is
        given: as few statements for a thousand records as for one, because each costs more than a record does."""
        self._name = name
        self._database = database
        self._consumer = consumer
        self._ledger = ledger
        self._publisher_key = publisher_key
        self._origins = {shard: origins[shard] for shard in shards}
        self._apply = apply
        self._clock = clock
        self._on_heartbeat = on_heartbeat
        self._log = logs.logger(f"follower.{name}")
        self._batch = _FIRST_BATCH
        self._trouble: str | None = "starting"
        self._applied: dict[int, int] = {}
        self._heartbeats: dict[int, Heartbeat] = {}
        self._leaves: dict[int, OrderedDict[int, bytes]] = {shard: OrderedDict() for shard in self._origins}
        """Of each shard the leaves read last, whoever brought them."""
        self._contradicted = False
        self._unstored: tuple[int, int] | None = None
        """Shard and index that showed it, until they are stored for whoever is started after us."""
        metrics = metrics or Metrics(name)
        self._heard_of: dict[int, int] = {}
        """The sealed size that the newest heartbeat told of, folded or not."""
        self._complete_at = dict.fromkeys(self._origins, asyncio.get_running_loop().time())
        self._position = metrics.gauge("follower_position", "Index of the next record to fold", ("shard",))
        self._behind = metrics.gauge("follower_behind", "Sealed records that are not folded yet", ("shard",))
        self._stale = metrics.gauge(
            "follower_stale_seconds", "Time since everything that was sealed was folded, or since the start", ("shard",)
        )
        metrics.at_scrape(self._measure, self._position, self._behind, self._stale)
        self._doubtful = metrics.counter("follower_doubtful_total", "Messages without a valid MAC or form", ("kind",))
        for kind in ("leaf", "heartbeat", "contradiction", "other"):
            self._doubtful.labels(kind)  # from 0 on, so that the first one is seen to be one more
        self._fetched = metrics.counter("follower_fetched_total", "Records fetched from the ledger, not from Kafka")

    def ready(self) -> dict[str, bool | str]:
        """For the readiness of the service."""
        contradicted = _CONTRADICTED if self._contradicted else None
        return {"follower": contradicted or self._trouble or self._silent() or True}

    def _silent(self) -> str | None:
        """A heartbeat comes every second: without one nobody knows what is new, though nothing else seems wrong."""
        silent = asyncio.get_running_loop().time() - min(self._complete_at.values())
        return None if silent <= _SILENCE_SECONDS else f"nothing new is known for {silent:.0f} s"

    async def _measure(self) -> None:
        """By what was heard and by the clock, so that a follower that is stuck shows how far it falls behind."""
        now = asyncio.get_running_loop().time()
        for shard, complete_at in self._complete_at.items():
            applied = self.applied(shard)
            self._position.labels(str(shard)).set(applied)
            self._behind.labels(str(shard)).set(max(0, self._heard_of.get(shard, 0) - applied))
            self._stale.labels(str(shard)).set(now - complete_at)

    def applied(self, shard: int) -> int:
        """Index of the next record to fold, as last committed by this process."""
        return self._applied.get(shard, 0)

    def heartbeat(self, shard: int) -> Heartbeat | None:
        """The newest heartbeat, once everything it speaks of is folded."""
        return None if self._contradicted else self._heartbeats.get(shard)

    async def run(self) -> None:
        """Until cancelled. What PostgreSQL, Kafka or the ledger do only slows it down; Corrupt ends it."""
        backoff = Backoff()
        while True:
            consumer = self._consumer(sorted(self._origins), {})
            try:
                await consumer.start()
                await self._follow(consumer, backoff)
            except Unavailable as error:
                self._note(error.service)
                self._batch = max(1, self._batch // 2)
            except Refused as error:
                # The ledger does not know us or this shard: a matter of installation that may still be put right.
                self._note(error.code)
            except OutOfRange:
                # Retention overtook us or the topic was made anew: start over, the ledger has what is missing.
                self._note("position out of range")
            finally:
                await consumer.stop()
            await backoff.pause()

    def _note(self, trouble: str) -> None:
        if self._trouble != trouble:
            self._log.warning("follower-waits", why=trouble)
        self._trouble = trouble

    async def _follow(self, consumer: Consumer, backoff: Backoff) -> None:
        await self._database.execute(_KNOWN, sorted(self._origins))
        # The ends are taken before the ledger is asked: what is published after them is read from Kafka, what was
        # published before them is sealed and therefore in the ledger's answer. The other order would leave a hole.
        for shard, end in (await consumer.end_offsets()).items():
            consumer.seek(shard, end)
        for shard in self._origins:
            await self._recall(shard)
            await self._catch_up(shard)
        self._trouble = None
        backoff.reset()
        heard = asyncio.get_running_loop().time()
        while True:
            messages = await consumer.fetch(_PAGE, _FETCH_MS)
            now = asyncio.get_running_loop().time()
            if messages:
                heard = now
                for shard in sorted({message.partition for message in messages}):
                    await self._persist(shard, [message for message in messages if message.partition == shard])
            elif now - heard > _SILENCE_SECONDS:
                # A heartbeat comes every second: silence means that this consumer or the publisher is stuck.
                raise Unavailable("kafka")

    async def _recall(self, shard: int) -> None:
        """Go on from what an earlier process saw: two records for one index, or one that nobody held against the
        ledger's yet. Of these only the last can be somebody else's: whatever the ledger publishes after it brings its
        own for that index first, and if we were away just then, we ask for it here."""
        [earlier] = await self._database.fetch(_EARLIER, shard)
        if earlier["contradicted"] is not None and not self._contradicted:
            self._contradicted = True
            self._log.error("contradicting-record-earlier", shard=shard, index=earlier["contradicted"])
        if earlier["leaf"] is not None and earlier["next"]:
            self._leaves[shard].setdefault(earlier["next"] - 1, earlier["leaf"])
            await self._fetch(shard, earlier["next"] - 1, 1)

    async def _persist(self, shard: int, messages: Sequence[Message]) -> None:
        """Take what was fetched, however long PostgreSQL or the ledger are away: the consumer has moved on."""
        backoff = Backoff()
        records, heartbeat = self._read(shard, messages)
        while True:
            try:
                await self._take(shard, records, heartbeat)
            except Unavailable as error:
                self._note(error.service)
                # What made one transaction too slow may not hurt a smaller one.
                self._batch = max(1, self._batch // 2)
                await backoff.pause()
            else:
                self._trouble = None
                return

    def _read(self, shard: int, messages: Sequence[Message]) -> tuple[list[Recorded], Heartbeat | None]:
        """What the publisher said; what is not provably its word is counted and left out. If that was a leaf, the
        gap it leaves is noticed by the next index or heartbeat."""
        records: list[Recorded] = []
        heartbeat: Heartbeat | None = None
        for message in messages:
            kind = message.headers.get("kind", b"").decode("ascii", "replace")
            try:
                match kind if self._proven(shard, kind, message) else "":
                    case "leaf":
                        records.append(Recorded.read(message.value))
                        self._compare(records[-1])
                    case "heartbeat":
                        heartbeat = Heartbeat.read(message.value, self._clock())
                    case _:
                        self._doubt(kind, message)
            except wire.MalformedRecord:
                self._doubt(kind, message)
        # The MAC covers the origin, so that a record of another shard cannot get here.
        return sorted(records, key=lambda record: record.index), heartbeat

    def _compare(self, record: Recorded) -> None:
        """One index has one leaf for ever: of two different ones one is not the log's, and whoever made it has the
        publisher's key. Which of them was folded nobody here knows, so nothing may rest on it any more."""
        leaves = self._leaves[record.shard]
        if leaves.setdefault(record.index, record.leaf) != record.leaf and not self._contradicted:
            self._contradicted = True
            self._unstored = (record.shard, record.index)
            self._doubtful.labels("contradiction").inc()
            self._log.error("contradicting-record", shard=record.shard, index=record.index)
        if len(leaves) > _REMEMBERED:
            leaves.popitem(last=False)

    async def _store_contradiction(self) -> None:
        if self._unstored is not None:
            await self._database.execute(_CONTRADICTS, *self._unstored)
            self._unstored = None

    def _proven(self, shard: int, kind: str, message: Message) -> bool:
        expected = wire.recorded_mac(self._publisher_key, self._origins[shard], kind, message.value)
        return wire.mac_holds(expected, message.headers.get("mac"))

    def _doubt(self, kind: str, message: Message) -> None:
        known = kind if kind in {"leaf", "heartbeat"} else "other"
        self._doubtful.labels(known).inc()
        self._log.error("doubtful-message", kind=known, shard=message.partition, offset=message.offset)

    async def _take(self, shard: int, records: Sequence[Recorded], heartbeat: Heartbeat | None) -> None:
        if heartbeat is not None:
            self._heard_of[shard] = heartbeat.size
        await self._store_contradiction()
        position = await self._fold(shard, records)
        if heartbeat is None or self._contradicted:
            return
        if heartbeat.size > position:
            position = await self._catch_up(shard)
        self._heartbeats[shard] = heartbeat
        self._complete_at[shard] = asyncio.get_running_loop().time()
        if self._on_heartbeat is not None:
            await self._on_heartbeat(heartbeat)

    async def _fold(self, shard: int, records: Sequence[Recorded]) -> int:
        """Fold what is new of these records, in index order, and fetch what is missing between them."""
        position = self._applied.get(shard)
        if position is None:
            position = await self._database.fetchval(_WHERE, shard)
        waiting = [record for record in records if record.index >= position]
        while waiting:
            if waiting[0].index > position:
                missing, size = await self._fetch(shard, position, min(self._batch, waiting[0].index - position))
                if not missing:
                    raise Corrupt(
                        f"the ledger ends at {size}, record {waiting[0].index} was published", f"shard {shard}"
                    )
                position = await self._commit(shard, missing)
            else:
                position = await self._commit(shard, waiting[: self._batch])
            waiting = [record for record in waiting if record.index >= position]
        return position

    async def _commit(self, shard: int, records: Sequence[Recorded]) -> int:
        """One transaction: the first of the records and those that follow it without a gap, and the position, if that
        is where they begin. Its new value."""
        began_at = asyncio.get_running_loop().time()
        following = _following(records)
        start, position = following[0].index, following[-1].index + 1
        async with self._database.transaction() as tx:
            moved = await tx.fetchval(_MOVE, shard, start, position, following[-1].leaf)
            if moved:
                await self._apply(tx, following)
        if not moved:  # folded by another process, or by us and the answer was lost
            position = await self._database.fetchval(_WHERE, shard)
        # If we stop before the commit nothing is folded; after it, everything is, and the position says so.
        self._applied[shard] = position
        taken = asyncio.get_running_loop().time() - began_at
        if taken > _SLOW_SECONDS:
            self._batch = max(1, self._batch // 2)
        elif taken < _QUICK_SECONDS and len(records) >= self._batch:
            self._batch = min(_PAGE, self._batch * 2)
        return position

    async def _catch_up(self, shard: int) -> int:
        """Fold from the ledger until its sealed size is reached."""
        position: int = await self._database.fetchval(_WHERE, shard)
        while True:
            records, size = await self._fetch(shard, position, self._batch)
            if size < position:
                raise Corrupt(
                    f"the ledger ends at {size}, {position} records are folded here: was it restored?", f"shard {shard}"
                )
            if not records:
                self._applied[shard] = position
                return position
            position = await self._commit(shard, records)

    async def _fetch(self, shard: int, start: int, limit: int) -> tuple[list[Recorded], int]:
        """Records from the ledger, and its sealed size."""
        answer = await self._ledger.get(
            "/ledger/records", params={"shard": shard, "from": start, "limit": limit}, timeout=15
        )
        try:
            document = answer.json()
            size = int(document["size"])
            records = [Recorded.read(base64.b64decode(text, validate=True)) for text in document["records"]]
        except (KeyError, TypeError, ValueError, wire.MalformedRecord):
            raise Unavailable("ledger") from None
        if any(record.shard != shard for record in records) or [r.index for r in records] != list(
            range(start, start + len(records))
        ):
            raise Unavailable("ledger")
        for record in records:
            self._compare(record)
        await self._store_contradiction()
        if records:
            self._fetched.inc(len(records))
        return records, size


def _following(records: Sequence[Recorded]) -> list[Recorded]:
    """The first record and those that follow it without a gap, each once."""
    following = [records[0]]
    for record in records:
        if record.index == following[-1].index + 1:
            following.append(record)
        elif record.index > following[-1].index:
            break
    return following
