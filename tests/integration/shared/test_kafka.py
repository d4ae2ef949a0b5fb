"""The edges to Kafka on a real broker: sent means kept, read means from where we were told."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError

from shared import topics
from shared.errors import Unavailable
from shared.kafka import Consumer, Message, Outgoing, OutOfRange, Producer, take_back_beyond_end
from tests.integration.shared.conftest import Site
from tests.parts import KafkaPart


async def read(consumer: Consumer, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await consumer.fetch(timeout_ms=500)
    return found


def numbered(site: Site, partition: int, numbers: range) -> list[Outgoing]:
    topic = site.topic(topics.STATED)
    return [Outgoing(topic, partition, b"key", str(n).encode(), [("kind", b"statement"), ("n", b"1")]) for n in numbers]


async def test_what_is_sent_is_read_in_order_from_any_position(
    kafka: KafkaPart, site: Site, producer: Producer
) -> None:
    await producer.send_many(numbered(site, 0, range(1500)) + numbered(site, 1, range(3)))
    await producer.send(site.topic(topics.STATED), 0, None, b"last", [])
    consumer = Consumer(kafka.bootstrap, site.topic(topics.STATED), [0, 1], {0: 1000, 1: 1})
    await consumer.start()
    found = await read(consumer, 503)
    assert await consumer.end_offsets() == {0: 1501, 1: 3}
    assert await consumer.beginning_offsets() == {0: 0, 1: 0}
    zero = [message for message in found if message.partition == 0]
    assert [message.offset for message in zero] == list(range(1000, 1501))
    assert [message.value for message in found if message.partition == 1] == [b"1", b"2"]
    assert zero[0].headers == {"kind": b"statement", "n": b"1"}
    assert (zero[0].key, zero[-1].key, zero[-1].value) == (b"key", None, b"last")
    consumer.seek(0, 1499)
    assert [message.offset for message in await read(consumer, 2)] == [1499, 1500]
    assert await consumer.fetch(timeout_ms=50) == []
    await consumer.stop()


async def test_more_than_fits_into_a_batch_arrives_in_order_on_each_partition(
    kafka: KafkaPart, site: Site, producer: Producer
) -> None:
    topic, padding = site.topic(topics.STATED), bytes(1000)
    await producer.send_many([Outgoing(topic, n % 2, None, b"%d " % n + padding, []) for n in range(1200)])
    consumer = Consumer(kafka.bootstrap, topic, [0, 1], {0: 0, 1: 0})
    await consumer.start()
    found = await read(consumer, 1200)
    for partition in (0, 1):
        numbers = [int(message.value.split()[0]) for message in found if message.partition == partition]
        assert numbers == list(range(partition, 1200, 2))
    await consumer.stop()


async def test_a_message_that_no_broker_would_take_is_no_unavailability(site: Site, producer: Producer) -> None:
    with pytest.raises(MessageSizeTooLargeError):
        await producer.send(site.topic(topics.STATED), 0, None, bytes(1_000_001), [])
    await producer.send(site.topic(topics.STATED), 0, None, bytes(1_000_000), [])


async def test_a_position_that_is_not_there_is_said_each_time(kafka: KafkaPart, site: Site, producer: Producer) -> None:
    await producer.send_many(numbered(site, 0, range(3)))
    consumer = Consumer(kafka.bootstrap, site.topic(topics.STATED), [0], {0: 99})
    await consumer.start()
    for _ in range(3):
        with pytest.raises(OutOfRange) as raised:
            await read(consumer, 1)
        assert raised.value.positions == {0: 99}
    consumer.seek(0, 0)
    assert len(await read(consumer, 3)) == 3
    await consumer.stop()


async def test_a_broker_that_is_not_there_is_unavailability() -> None:
    producer = Producer("127.0.0.1:1")
    with pytest.raises(Unavailable):
        await producer.start()
    with pytest.raises(Unavailable):
        await producer.send("x", 0, None, b"", [])
    await producer.stop()
    consumer = Consumer("127.0.0.1:1", "x", [0], {0: 0})
    with pytest.raises(Unavailable):
        await consumer.start()
    with pytest.raises(Unavailable):
        await consumer.fetch()
    await consumer.stop()
    with pytest.raises(Unavailable):
        await topics.ensure_topics("127.0.0.1:1", "", 1)


async def test_after_a_failure_the_next_send_works_and_order_is_kept(
    kafka: KafkaPart, site: Site, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await producer.send_many(numbered(site, 0, range(10)))
    with monkeypatch.context() as impatient:
        impatient.setattr("shared.kafka._ACKNOWLEDGED_WITHIN", 0.0)
        with pytest.raises(Unavailable):
            await producer.send_many(numbered(site, 0, range(10, 20)))
    await producer.send_many(numbered(site, 0, range(10, 20)))
    consumer = Consumer(kafka.bootstrap, site.topic(topics.STATED), [0], {0: 0})
    await consumer.start()
    end = (await consumer.end_offsets())[0]
    values = [int(message.value) for message in await read(consumer, end)]
    await consumer.stop()
    assert list(dict.fromkeys(values)) == list(range(20))


async def test_many_may_send_at_once(kafka: KafkaPart, site: Site, producer: Producer) -> None:
    await asyncio.gather(*(producer.send_many(numbered(site, n % 2, range(n * 10, n * 10 + 10))) for n in range(20)))
    consumer = Consumer(kafka.bootstrap, site.topic(topics.STATED), [0, 1], {0: 0, 1: 0})
    await consumer.start()
    found = await read(consumer, 200)
    await consumer.stop()
    assert sorted(int(message.value) for message in found) == list(range(200))


async def test_topics_have_a_partition_per_shard_and_grow_and_are_never_compacted(
    kafka: KafkaPart, topic_prefix: str
) -> None:
    for shards in (1, 1, 3, 2):
        await topics.ensure_topics(kafka.bootstrap, topic_prefix, shards)
    names = [topic_prefix + topics.STATED, topic_prefix + topics.RECORDED]
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    described = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics(names)}
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    await admin.close()
    assert described == dict.fromkeys(names, 3)
    for answer in answers:
        for resource in answer.resources:
            settings = {entry[0]: entry[1] for entry in resource[4]}
            assert settings["cleanup.policy"] == "delete"
            assert settings["retention.ms"] == "604800000"


async def test_a_group_that_has_committed_more_than_there_is_begins_anew_and_only_there(
    kafka: KafkaPart, site: Site, producer: Producer
) -> None:
    topic = site.topic(topics.STATED)
    await producer.send_many(numbered(site, 0, range(10)) + numbered(site, 1, range(10)))
    places = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    member = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=topic, enable_auto_commit=False)
    await member.start()
    member.assign(places)
    await member.commit({places[0]: 1220, places[1]: 7})
    assert await take_back_beyond_end(kafka.bootstrap, topic, topic, [0, 1]) == {0: 0}
    assert [await member.committed(place) for place in places] == [0, 7]
    assert await take_back_beyond_end(kafka.bootstrap, topic, topic, [0, 1]) == {}
    assert await take_back_beyond_end(kafka.bootstrap, f"{topic}-new", topic, [0, 1]) == {}
    await member.stop()
