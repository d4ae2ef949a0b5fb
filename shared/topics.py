"""The two topics: made if missing, grown if there are more shards, and left alone otherwise."""

from __future__ import annotations

import asyncio
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError

from shared.backoff import Backoff
from shared.errors import Corrupt, Unavailable
from shared.kafka_login import NOBODY, Login

STATED: Final = "consent.stated"
RECORDED: Final = "consent.recorded"

CONFIG: Final = {
    "cleanup.policy": "delete",  # never compacted: the envelope goes by retention, the personal part with its key
    "retention.ms": str(7 * 86_400_000),
    "message.timestamp.type": "CreateTime",
}
_REPLICAS: Final = 3
_READY_WITHIN: Final = 30.0
_FOR_GOOD: Final = {17, 29, 37, 38, 40, 44}
"""Broker errors that waiting does not cure: name, authorization, partitions, replication, config, policy."""


async def ensure_topics(
    bootstrap: str, prefix: str, shards: int, replication: int | None = None, login: Login = NOBODY
) -> None:
    """One partition per shard on each topic, on three brokers where there are as many; returns when they are there.

    Safe to repeat. Unavailable if no broker answers, or if they do not get there in time.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=15_000, **login.options())
    names = [prefix + STATED, prefix + RECORDED]
    backoff = Backoff(first=0.05, longest=1.0)
    try:
        await admin.start()
        async with asyncio.timeout(_READY_WITHIN):
            while not await _are_there(admin, names, shards, replication):
                await backoff.pause()
    except (KafkaError, OSError, TimeoutError):
        raise Unavailable("kafka") from None
    finally:
        await admin.close()


async def _are_there(admin: AIOKafkaAdminClient, names: list[str], shards: int, replication: int | None) -> bool:
    """Make and grow what is missing, then look; False while a broker that is waking up refuses or does not see it."""
    try:
        if replication is None:
            replication = min(_REPLICAS, len((await admin.describe_cluster())["brokers"]))
        made = await admin.create_topics(
            [NewTopic(name, shards, replication, topic_configs=dict(CONFIG)) for name in names], timeout_ms=15_000
        )
        # aiokafka returns these errors, it never raises them.
        for name, code, *_ in made.topic_errors:
            if code in _FOR_GOOD:
                raise Corrupt("topic could not be created", f"{name}: broker error {code}")
        found = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics(names)}
        if smaller := {name: NewPartitions(total_count=shards) for name in names if 0 < found.get(name, 0) < shards}:
            await admin.create_partitions(smaller)
        return all(found.get(name, 0) >= shards for name in names)
    except KafkaError:
        return False
