"""The edges to Kafka: a producer whose `send` means "kept by the brokers", a consumer that reads what it is told to.

Faults are injected here: keep both thin. Positions live in PostgreSQL beside what was made of the messages,
so there are no consumer groups and no committed offsets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from shared.errors import Unavailable
from shared.kafka_login import NOBODY, Login

Headers = list[tuple[str, bytes]]

_REQUEST_TIMEOUT_MS: Final = 10_000
_MAX_VALUE: Final = 1_000_000  # bytes; the broker takes 1 MiB with everything around it
_CLOSED_WITHIN: Final = 1.5
_ACKNOWLEDGED_WITHIN: Final = 6.0  # seconds; then the caller is told, and sends again


# Named tuples, not frozen dataclasses: one of these is made for each message, and costs a third.


class Outgoing(NamedTuple):
    """One message to send."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: Headers


class Message(NamedTuple):
    """One message as it arrived. Of a header given twice the last counts."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes]


class OutOfRange(Exception):
    """The position we want is not there: retention overtook us, or the topic was made anew. The caller decides."""

    def __init__(self, positions: Mapping[int, int]) -> None:
        super().__init__("position out of range")
        self.positions = dict(positions)


class Producer:
    """acks=all and idempotent. Any error means "send it again": the receiver drops exact duplicates."""

    def __init__(self, bootstrap: str, login: Login = NOBODY, *, linger_ms: int = 0) -> None:
        self._bootstrap = bootstrap
        self._login = login
        self._linger_ms = linger_ms
        self._inner: Any = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        await self._running()

    async def stop(self) -> None:
        """Ends without waiting for what is on its way: whoever sent it has been answered, or sends it again."""
        await self._drop(self._inner)

    async def send(self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Headers) -> None:
        """Returns when all in-sync replicas have it."""
        await self.send_many([Outgoing(topic, partition, key, value, headers)])

    async def send_many(self, messages: Sequence[Outgoing]) -> None:
        """Sends in order and waits for all. If it raises, any number of them may have arrived."""
        producer = await self._running()
        acknowledged: list[asyncio.Future[object]] = []
        try:
            for (topic, partition), batch in _batched(producer, messages):
                # Waits for room in the buffer, which a broker that is gone never makes.
                async with asyncio.timeout(_ACKNOWLEDGED_WITHIN):
                    acknowledged.append(await producer.send_batch(batch, topic, partition=partition))
            await _all_of(acknowledged)
        except (MessageSizeTooLargeError, InvalidTopicError):
            raise
        except (KafkaError, OSError, TimeoutError):
            # A fenced or confused idempotent producer stays so: the next call gets a new one. Its sequence
            # numbers start anew, therefore what was on its way may arrive twice.
            await self._drop(producer)
            raise Unavailable("kafka") from None
        finally:
            for future in acknowledged:
                future.add_done_callback(_look_at)

    async def _running(self) -> Any:
        async with self._starting:
            if self._inner is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=self._linger_ms,
                    max_batch_size=256 * 1024,
                    request_timeout_ms=_REQUEST_TIMEOUT_MS,
                    retry_backoff_ms=100,
                    **self._login.options(),
                )
                try:
                    async with asyncio.timeout(_ACKNOWLEDGED_WITHIN):
                        await producer.start()
                    self._inner = producer
                except (KafkaError, OSError, TimeoutError):
                    raise Unavailable("kafka") from None
                finally:
                    if self._inner is not producer:  # cancelled, too: its connections would stay open
                        await self._drop(producer)
            return self._inner

    async def _drop(self, producer: Any) -> None:
        """Close without flushing. aiokafka's own stop() would first wait for a broker that is gone, for ever:
        an idempotent producer never gives a batch up. Hence its private parts, here and nowhere else."""
        if producer is None or producer._closed:  # noqa: SLF001 - see above
            return
        if self._inner is producer:
            self._inner = None
        producer._closed = True  # noqa: SLF001 - see above
        await _contained(producer._sender.close())  # noqa: SLF001 - see above
        await _contained(producer.client.close())


def _batched(producer: Any, messages: Sequence[Outgoing]) -> Iterator[tuple[tuple[str, int], Any]]:
    """The messages as full batches, in order on each partition: one future a batch instead of one a message."""
    filling: dict[tuple[str, int], Any] = {}
    for message in messages:
        if len(message.value) > _MAX_VALUE:
            raise MessageSizeTooLargeError
        place = (message.topic, message.partition)
        batch = filling.get(place)
        if batch is None:
            batch = filling[place] = producer.create_batch()
        if not _fits(batch, message):
            batch.close()
            yield place, batch
            batch = filling[place] = producer.create_batch()
            _fits(batch, message)  # a batch takes its first message, whatever its size
    for place, batch in filling.items():
        batch.close()
        yield place, batch


def _fits(batch: Any, message: Outgoing) -> bool:
    added = batch.append(timestamp=None, key=message.key, value=message.value, headers=message.headers)
    return added is not None


async def _contained(closing: Coroutine[Any, Any, None]) -> None:
    """Close something of aiokafka's, whatever comes of it, within a second or two.

    It cancels its own tasks and awaits them: one that has not begun to run lets CancelledError escape, as if we
    had been cancelled ourselves. A task of our own begins after those, and is where such an escape ends.
    """
    task = asyncio.ensure_future(closing)
    task.add_done_callback(_look_at)
    await asyncio.wait([task], timeout=_CLOSED_WITHIN)
    task.cancel()


async def _all_of(acknowledged: Sequence[asyncio.Future[object]]) -> None:
    """Raises the first failure; TimeoutError if a broker keeps us waiting."""
    if not acknowledged:
        return
    done, waiting = await asyncio.wait(acknowledged, timeout=_ACKNOWLEDGED_WITHIN, return_when=asyncio.FIRST_EXCEPTION)
    for future in done:
        future.result()
    if waiting:
        raise TimeoutError


def _look_at(future: asyncio.Future[Any]) -> None:
    """Nobody else asks what became of it, and asyncio would complain."""
    if not future.cancelled():
        future.exception()


class Consumer:
    """Reads partitions from given positions; without one it reads none until `seek`."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        partitions: Iterable[int],
        positions: Mapping[int, int] | None = None,
        login: Login = NOBODY,
    ) -> None:
        self._bootstrap = bootstrap
        self._login = login
        self._topic = topic
        self._partitions = sorted(partitions)
        self._positions = dict(positions or {})
        self._inner: Any = None

    async def start(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # "earliest" would rewind silently where records are missing
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            retry_backoff_ms=100,
            fetch_max_wait_ms=500,  # the broker answers at once when there is anything
            max_partition_fetch_bytes=4 * 1024 * 1024,
            metadata_max_age_ms=30_000,
            **self._login.options(),
        )
        try:
            await consumer.start()
            consumer.assign([TopicPartition(self._topic, partition) for partition in self._partitions])
            for partition, offset in self._positions.items():
                consumer.seek(TopicPartition(self._topic, partition), offset)
            self._inner = consumer
        except (KafkaError, OSError):
            raise Unavailable("kafka") from None
        finally:
            if self._inner is not consumer:  # cancelled, too: its connections would stay open
                await _contained(consumer.stop())

    async def stop(self) -> None:
        consumer, self._inner = self._inner, None
        if consumer is not None:
            await _contained(consumer.stop())

    def _running(self) -> Any:
        if self._inner is None:
            raise Unavailable("kafka")
        return self._inner

    async def end_offsets(self) -> dict[int, int]:
        """For each partition the offset the next message will get."""
        return await self._offsets(end=True)

    async def beginning_offsets(self) -> dict[int, int]:
        return await self._offsets(end=False)

    async def _offsets(self, *, end: bool) -> dict[int, int]:
        consumer = self._running()
        ask = consumer.end_offsets if end else consumer.beginning_offsets
        try:
            found = await ask([TopicPartition(self._topic, partition) for partition in self._partitions])
        except (KafkaError, OSError):
            raise Unavailable("kafka") from None
        return {place.partition: offset for place, offset in found.items()}

    def seek(self, partition: int, offset: int) -> None:
        self._positions[partition] = offset
        self._running().seek(TopicPartition(self._topic, partition), offset)

    async def fetch(self, max_records: int = 1000, timeout_ms: int = 1000) -> list[Message]:
        """What has arrived, in order within each partition; empty after `timeout_ms` without anything.

        Never wrap this in a timeout of your own: cancelling aiokafka's getmany leaks a fetch context.
        """
        consumer = self._running()
        try:
            batches = await consumer.getmany(timeout_ms=timeout_ms, max_records=max_records)
        except OffsetOutOfRangeError as error:
            raise OutOfRange({place.partition: offset for place, offset in error.args[0].items()}) from None
        except NoOffsetForPartitionError:
            # What aiokafka answers after it has said OffsetOutOfRange once.
            raise OutOfRange(self._positions) from None
        except (KafkaError, OSError):
            raise Unavailable("kafka") from None
        return [
            Message(record.partition, record.offset, record.key, record.value or b"", dict(record.headers))
            for batch in batches.values()
            for record in batch
        ]


async def take_back_beyond_end(
    bootstrap: str, group: str, topic: str, partitions: Iterable[int], login: Login = NOBODY
) -> dict[int, int]:
    """Let a group without members begin anew where it has committed more than there is; where, by partition.

    Such a topic was made anew. Whoever believes the old position leaves out all that comes until there.
    Unavailable if no broker answers, or the group has members.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, auto_offset_reset="none",
        request_timeout_ms=_REQUEST_TIMEOUT_MS, **login.options(),
    )  # fmt: skip
    try:
        await consumer.start()
        places = [TopicPartition(topic, partition) for partition in partitions]
        consumer.assign(places)
        ends, beginnings = await consumer.end_offsets(places), await consumer.beginning_offsets(places)
        gone = {place: beginnings[place] for place in places if (await consumer.committed(place) or 0) > ends[place]}
        if gone:
            await consumer.commit(gone)
    except (KafkaError, OSError):
        raise Unavailable("kafka") from None
    finally:
        await _contained(consumer.stop())
    return {place.partition: offset for place, offset in gone.items()}
