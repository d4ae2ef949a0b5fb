"""The live audience, kept by Faust in a process of its own: opted-in per purpose, statements per hour.

Derived and rebuildable: nobody asks it for a permit. Faust acknowledges a message even if its handler raised, and may
deliver one again; so each shard's totals carry the next index to fold, a gap is fetched from the ledger, and each
subject's entry remembers what it was before, so that a kill between two writes counts nothing twice.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import faust

from shared import logs
from shared.clock import parse_rfc3339, rfc3339
from shared.errors import Unavailable
from shared.events import Malformed, Standing, Word, parse
from shared.wire import MalformedRecord, RecordedValue, mac_holds, recorded_mac

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping
    from datetime import datetime

    from shared.client import ServiceClient
    from shared.clock import Clock
    from shared.database import Database
    from shared.events import Statement

HOURS_KEPT: Final = 48
FETCH: Final = 1000

log = logs.logger("audience")


@dataclass(slots=True)
class Totals:
    """One shard: the next index to fold, people per purpose and channel, statements per hour and type."""

    next: int
    opted_in: dict[str, int]
    hours: dict[str, dict[str, int]]

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Totals:
        if stored is None:
            return cls(0, {}, {})
        return cls(stored["next"], dict(stored["opted_in"]), {hour: dict(n) for hour, n in stored["hours"].items()})

    def stored(self) -> dict[str, Any]:
        return {"next": self.next, "opted_in": self.opted_in, "hours": self.hours}


def _in_force(standing: Standing) -> list[str]:
    matters = [matter.removeprefix("purpose:") for matter in standing.words if matter.startswith("purpose:")]
    return sorted(pair for pair in matters if standing.permits(*pair.split("/", 1)))


def fold(table: MutableMapping[str, Any], shard: int, index: int, statement: Statement | None) -> bool:
    """Fold one leaf into the table; False if it was folded before. The subject's entry is written first, then totals.

    If we stop between the two writes the leaf comes again, and the subject's entry says what it was before it.
    """
    totals = Totals.of(table.get(f"#{shard}"))
    if index < totals.next:
        return False
    if statement is not None:
        entry = table.get(statement.subject) or {"index": -1, "words": {}, "in": [], "before": []}
        before = entry["before"] if entry["index"] == index else entry["in"]
        standing = Standing({matter: Word(*word) for matter, word in entry["words"].items()})
        standing, _overtaken = standing.apply(statement, index)
        after = _in_force(standing)
        words = {m: [w.status, w.statement, w.index, w.restricted_at] for m, w in standing.words.items()}
        if words:
            table[statement.subject] = {"index": index, "words": words, "in": after, "before": before}
        for pair in set(after) - set(before):
            totals.opted_in[pair] = totals.opted_in.get(pair, 0) + 1
        for pair in set(before) - set(after):
            totals.opted_in[pair] -= 1
        hour = rfc3339(parse_rfc3339(statement.time).replace(minute=0, second=0, microsecond=0))
        counts = totals.hours.setdefault(hour, {})
        counts[statement.type] = counts.get(statement.type, 0) + 1
        for old in sorted(totals.hours)[:-HOURS_KEPT]:
            del totals.hours[old]
    totals.next = index + 1
    table[f"#{shard}"] = totals.stored()
    return True


class Audience:
    """The Faust application around `fold`, and the writer that shows its totals to the page."""

    def __init__(
        self,
        *,
        kafka: str,
        topic: str,
        name: str,
        origins: Mapping[int, str],
        publisher_key: bytes,
        ledger: ServiceClient,
        db: Database,
        clock: Clock,
        replication: int = 1,
    ) -> None:
        self._origins, self._publisher_key = origins, publisher_key
        self._ledger, self._db, self._clock = ledger, db, clock
        self._changed = asyncio.Event()
        self._totals: dict[int, Totals] = {}
        self.app = faust.App(
            name,
            broker=f"aiokafka://{kafka}",
            store="memory://",
            loop=asyncio.get_running_loop(),
            topic_partitions=len(origins),
            topic_replication_factor=replication,
            topic_disable_leader=True,
            web_enabled=False,
            stream_wait_empty=False,
            consumer_auto_offset_reset="earliest",
        )
        source = self.app.topic(topic, key_serializer="raw", value_serializer="raw", partitions=len(origins))
        self._table = self.app.Table("audience", partitions=len(origins), key_type=str, value_type=dict)
        self.app.agent(source, name="audience")(self._agent)

    async def _agent(self, stream: Any) -> None:
        """One message at a time. Nothing may raise out of here: Faust would count the message as done."""
        async for event in stream.events():
            headers = {str(name): bytes(value) for name, value in dict(event.headers or {}).items()}
            kind, partition = headers.get("kind", b"").decode("ascii", "replace"), event.message.partition
            expected = recorded_mac(self._publisher_key, self._origins[partition], kind, event.value or b"")
            if not mac_holds(expected, headers.get("mac")):
                log.error("bad-mac", shard=partition, offset=event.message.offset)
                continue
            if kind != "leaf":
                continue
            try:
                value = RecordedValue.decode(event.value)
            except MalformedRecord:
                log.warning("malformed-record", shard=partition, offset=event.message.offset)
                continue
            await self._close_gap(partition, value.index)
            self._fold(value)

    async def _close_gap(self, shard: int, index: int) -> None:
        """What is missing before `index` comes from the ledger, as long as it takes."""
        while (after := Totals.of(self._table.get(f"#{shard}")).next) < index:
            try:
                answer = await self._ledger.get(
                    "/ledger/records", params={"shard": shard, "from": after, "limit": min(FETCH, index - after)}
                )
            except Unavailable as error:
                await asyncio.sleep(error.retry_after)
                continue
            for record in answer.json()["records"]:
                self._fold(RecordedValue.decode(base64.b64decode(record)))

    def _fold(self, value: RecordedValue) -> None:
        try:
            statement = parse(value.statement) if value.statement else None
        except Malformed as error:
            # The ledger checked it; a type newer than this process is counted by none of our figures.
            log.warning("unknown-statement", shard=value.shard, index=value.index, reason=error.reason)
            statement = None
        if fold(self._table, value.shard, value.index, statement):
            self._totals[value.shard] = Totals.of(self._table[f"#{value.shard}"])
            self._changed.set()

    async def run(self) -> None:
        """The Faust application until it ends; its reason is the process's."""
        await self.app.start()
        try:
            await self.app.wait_until_stopped()
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await self.app.stop()
        if self.app.crash_reason is not None:
            raise self.app.crash_reason

    async def show(self) -> None:
        """Write totals for the page whenever they changed; many changes while one write runs make one next write."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            for shard, totals in list(self._totals.items()):
                try:
                    await self._write(shard, totals)
                except Unavailable as error:
                    self._changed.set()
                    await asyncio.sleep(error.retry_after)

    async def _write(self, shard: int, totals: Totals) -> None:
        pairs = [(*pair.split("/", 1), count) for pair, count in sorted(totals.opted_in.items())]
        hours = list(_hours(totals))
        async with self._db.transaction() as tx:
            await tx.execute("delete from audience where shard = $1", shard)
            await tx.execute("delete from audience_hour where shard = $1", shard)
            await tx.execute(
                "insert into audience"
                " select $1, p, c, n from unnest($2::text[], $3::text[], $4::bigint[]) as t(p, c, n)",
                shard, [one[0] for one in pairs], [one[1] for one in pairs], [one[2] for one in pairs],
            )  # fmt: skip
            await tx.execute(
                "insert into audience_hour"
                " select $1, h, t, n from unnest($2::timestamptz[], $3::text[], $4::bigint[]) as x(h, t, n)",
                shard, [one[0] for one in hours], [one[1] for one in hours], [one[2] for one in hours],
            )  # fmt: skip
            await tx.execute(
                "insert into audience_position values ($1, $2, $3) on conflict (shard) do update"
                " set next = excluded.next, counted_at = excluded.counted_at",
                shard, totals.next, self._clock(),
            )  # fmt: skip


def _hours(totals: Totals) -> Iterator[tuple[datetime, str, int]]:
    for hour, counts in sorted(totals.hours.items()):
        for type_name, count in sorted(counts.items()):
            yield parse_rfc3339(hour), type_name, count
