"""The two topics: made if missing, grown if there are more shards, and left alone otherwise."""

from __future__ import annotations

from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError

from shared.errors import Corrupt, Unavailable

STATED: Final = "consent.stated"
RECORDED: Final = "consent.recorded"

_CONFIG: Final = {
    "cleanup.policy": "delete",  # never compacted: the envelope goes by retention, the personal part with its key
    "retention.ms": str(7 * 86_400_000),
    "message.timestamp.type": "CreateTime",
}
_REPLICAS: Final = 3
_OK: Final = 0
_EXISTS: Final = 36


async def ensure_topics(bootstrap: str, prefix: str, shards: int, replication: int | None = None) -> None:
    """One partition per shard on each topic, on three brokers where there are as many. Safe to repeat."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=15_000)
    names = [prefix + STATED, prefix + RECORDED]
    try:
        await admin.start()
        if replication is None:
            replication = min(_REPLICAS, len((await admin.describe_cluster())["brokers"]))
        made = await admin.create_topics(
            [NewTopic(name, shards, replication, topic_configs=dict(_CONFIG)) for name in names],
            timeout_ms=15_000,
        )
        # aiokafka returns these errors, it never raises them.
        for name, code, *_ in made.topic_errors:
            if code not in {_OK, _EXISTS}:
                raise Corrupt("topic could not be created", f"{name}: broker error {code}")
        for topic in await admin.describe_topics(names):
            partitions = len(topic["partitions"])
            # A topic this call has just made may not have reached the broker's view yet.
            if 0 < partitions < shards:
                await admin.create_partitions({topic["topic"]: NewPartitions(total_count=shards)})
    except (KafkaError, OSError):
        raise Unavailable("kafka") from None
    finally:
        await admin.close()
