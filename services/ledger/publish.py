"""Stage 6 for one shard: send what is sealed to consent.recorded, from the log itself, and say how fresh it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, Protocol

from services.ledger import store
from services.ledger.payloads import Payloads
from shared import logs
from shared.clock import rfc3339
from shared.database import Database
from shared.errors import Unavailable
from shared.kafka import Outgoing
from shared.metrics import Metrics
from shared.wire import heartbeat_value, recorded_headers, recorded_mac

HEARTBEAT_SECONDS: Final = 1.0

_LEAVES_AT_ONCE: Final = 1000

log = logs.logger("publish")


class Destination(Protocol):
    """What the publisher needs of shared.kafka.Producer."""

    async def send_many(self, messages: Sequence[Outgoing]) -> None: ...


class Publisher:
    """Sends each leaf at least once and in order; followers fold each index once."""

    def __init__(
        self,
        origin: str,
        db: Database,
        producer: Destination,
        topic: str,
        key: bytes,
        payloads: Payloads,
        metrics: Metrics | None = None,
        *,
        steady: Callable[[], float] = monotonic,
    ) -> None:
        """`steady` are seconds that only go forward: a clock that is put back must not silence the heartbeat."""
        self.shard = payloads.shard
        self._origin = origin
        self._db = db
        self._producer = producer
        self._topic = topic
        self._key = key
        self._payloads = payloads
        self._steady = steady
        self._beat_at = float("-inf")
        self.trouble: str | None = "starting"
        """Why nothing is published, for readiness; None while something is."""
        metrics = metrics or Metrics("ledger_publish")
        self._size = metrics.gauge("published_size", "leaves published", ["shard"])

    async def run(self) -> None:
        """Publish what is sealed, and a heartbeat every second, until cancelled."""
        sealed = self._db.listen("ledger_sealed")
        while True:
            try:
                seen = sealed.changed
                sent = await self.step()
                self.trouble = None
                if not sent:
                    due = self._beat_at + HEARTBEAT_SECONDS - self._steady()
                    if due > 0:
                        await sealed.wait(due, since=seen)
            except Unavailable as error:
                self.trouble = f"{error.service} does not answer"
                log.warning("waiting", shard=self.shard, service=error.service)
                await asyncio.sleep(0.5)

    async def step(self) -> bool:
        """Send the next sealed leaves, if there are any, and a heartbeat if it is due; whether leaves were sent."""
        # Under one snapshot: what a mark promises to be sealed was sealed before the mark was, so it is under this
        # checkpoint.
        start, size, note, marks = await store.to_publish(self._db, self.shard)
        end = min(size, start + _LEAVES_AT_ONCE)
        now = self._steady()
        if start == end and now - self._beat_at < HEARTBEAT_SECONDS:
            return False
        messages = [
            self._message("leaf", value.encode()) for value in await self._payloads.recorded(self._db, start, end)
        ]
        if end == size:
            # Behind the leaves it covers, on the same partition: who has read so far can apply them all.
            beat = heartbeat_value(self.shard, note, {source: rfc3339(at) for source, at in marks.items()})
            messages.append(self._message("heartbeat", beat))
        await self._producer.send_many(messages)
        # If we stop here, the same leaves are sent again, and followers skip them.
        if end == size:
            self._beat_at = now
        if start == end:
            return False
        if not await store.advance_cursor(self._db, self.shard, start, end):
            log.warning("another-publisher", shard=self.shard)
        self._size.labels(self.shard).set(end)
        return True

    def _message(self, kind: str, value: bytes) -> Outgoing:
        headers = recorded_headers(kind, recorded_mac(self._key, self._origin, kind, value))
        return Outgoing(self._topic, self.shard, None, value, headers)
