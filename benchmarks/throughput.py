"""Provable records a second of one shard: from statements that wait in Kafka to a checkpoint that covers them.

A record counts when the checkpoint that is served covers it: then it is appended, sealed by the signer and can be
proven to a stranger. With everything on the checkpoint is fetched over HTTP, as a stranger does; without the web
process it is read from where that process would read it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate, islice
from typing import Any, Final

import aiohttp
import asyncpg

from benchmarks import machine, running
from benchmarks.processor import Usage
from benchmarks.report import Result, Seen, rate, rates_by_block
from benchmarks.statements import SHARD, SOURCE, Forms, Made, Population
from infra.local.installation import Installation
from services.ledger.reader.checkpoint import Checkpoint, verify_checkpoint
from services.ledger.store import served_checkpoint
from shared import register, wire
from shared.database import Database
from shared.errors import Unavailable
from shared.kafka import Outgoing, Producer
from shared.settings import Settings
from shared.topics import STATED

BARE: Final = ("ledger-seal", "ledger-append")
EVERYTHING: Final = ("ledger-seal", "web", "audience", "ledger-append")
BLOCK: Final = 50_000
LOOK_SECONDS: Final = 0.05
AIM: Final = {BARE: 10_000, EVERYTHING: 5_000}
LAST_BLOCK_AIM: Final = 0.9

_SENT_AT_ONCE: Final = 2_000
_NUMBERED: Final = """
insert into newsletter.outbox_sequence (shard, last) values ($1, $2)
on conflict (shard) do update set last = excluded.last
"""


@dataclass(slots=True)
class Looks:
    """What was seen of each stage, as log sizes, and how long ago the run began."""

    appended: list[Seen] = field(default_factory=list)
    served: list[Seen] = field(default_factory=list)
    published: list[Seen] = field(default_factory=list)
    folded: list[Seen] = field(default_factory=list)


async def fill(
    settings: Settings, made: Installation, count: int, *, short: bool, shard: int = SHARD, after: int = 0
) -> tuple[float, str]:
    """Put so many authentic statements on consent.stated, with the sequences that follow `after`; their mean size in
    bytes, the last's id."""
    key_id, key = made.secrets.own_source_key(SOURCE)
    origin, topic = settings.origin(shard), settings.topic(STATED)
    population = Population(Forms(register.load(), made.secrets, datetime.now(UTC), short=short), shard=shard)
    producer = Producer(settings.kafka, linger_ms=5)

    def message(sequence: int, one: Made) -> Outgoing:
        headers = wire.stated_headers("statement", sequence, key_id, wire.stated_mac(key, origin, sequence, one.raw))
        return Outgoing(topic, shard, one.subject.encode(), one.raw, headers)

    size, last = 0, ""
    statements = enumerate(population.statements(count), after + 1)
    try:
        while batch := list(islice(statements, _SENT_AT_ONCE)):
            await producer.send_many([message(sequence, one) for sequence, one in batch])
            size += sum(len(one.raw) for _, one in batch)
            last = batch[-1][1].id
    finally:
        await producer.stop()
    connection = await running.connect(made)
    try:
        # The newsletter's relay would stop at numbers that it never gave.
        await connection.execute(_NUMBERED, shard, after + count)
    finally:
        await connection.close()
    return size / count, last


class Stranger:
    """Fetches the checkpoint as anybody may, or where no web process runs, reads what that process would serve."""

    def __init__(self, made: Installation, vkey: str, db: Database, *, over_http: bool) -> None:
        self._address = f"{made.base_url}/ledger/log/{SHARD}/checkpoint" if over_http else ""
        self._vkey = vkey
        self._db = db
        self._session: aiohttp.ClientSession | None = None

    async def checkpoint(self) -> Checkpoint:
        """The newest checkpoint, its signature verified."""
        return verify_checkpoint(await self._note(), self._vkey)

    async def _note(self) -> bytes:
        if not self._address:
            found = await served_checkpoint(self._db, SHARD)
            if found is None:
                raise RuntimeError("the log has no checkpoint")
            return found[1].encode()
        self._session = self._session or aiohttp.ClientSession()
        async with self._session.get(self._address) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def close(self) -> None:
        """End the connection."""
        if self._session is not None:
            await self._session.close()


_LAST: Final = "select index from ledger.seen where shard = $1 and source = $2 and id = $3::text::uuid"
_PROGRESS: Final = """
select (select size from ledger.head where shard = $1) as appended,
       (select next from ledger.cursor where shard = $1) as published,
       (select least((select next from marketing.position where shard = $1),
                     (select next from subjects.position where shard = $1))) as folded
"""


async def follow(
    made: Installation, names: Sequence[str], eyes: asyncpg.Connection[Any], stranger: Stranger, last: str, until: float
) -> tuple[Looks, Usage]:
    """Look until every record is served, or `until`; what was seen, and the processor's use from the first record."""
    looks, watch = Looks(), None
    while True:
        running.still_running(made, names)
        [row] = await eyes.fetch(_PROGRESS, SHARD)
        now = time.monotonic()
        looks.appended.append(Seen(now, row["appended"]))
        looks.published.append(Seen(now, row["published"]))
        looks.folded.append(Seen(now, row["folded"] or 0))
        checkpoint = await stranger.checkpoint()
        looks.served.append(Seen(time.monotonic(), checkpoint.size))
        if watch is None and checkpoint.size > 1:
            watch = running.watch(made)
        index = await eyes.fetchval(_LAST, SHARD, SOURCE, last)
        if watch is not None and index is not None and checkpoint.size > index:
            return looks, watch.usage()
        if time.monotonic() > until:
            raise RuntimeError(f"only {checkpoint.size} leaves were sealed in time")
        await asyncio.sleep(LOOK_SECONDS)


class Counted:
    """From log sizes to statements: every batch ends in a leaf that is none."""

    def __init__(self, batches: Sequence[tuple[int, int]]) -> None:
        ends = [first + n for first, n in batches]
        self._statements = dict(zip(ends, accumulate(n - 1 for _, n in batches), strict=True))

    def __call__(self, seen: Sequence[Seen]) -> list[Seen]:
        """The same looks, counted in statements; a look amid a batch (publishing, folding) counts its leaves."""
        known = sorted(self._statements)
        counted = []
        place = 0
        for one in seen:
            while place + 1 < len(known) and known[place + 1] <= one.done:
                place += 1
            beyond = one.done - known[place] if known[place] <= one.done else 0
            counted.append(Seen(one.at, self._statements[known[place]] + beyond if known[place] <= one.done else 0))
        return counted


async def measure(made: Installation, names: tuple[str, ...], count: int, *, short: bool, limit: float) -> list[Result]:
    """Fill the topic, start these processes, the appender last, and follow it to the end."""
    settings = made.settings()
    running.say(f"  {count:,} statements into Kafka …")
    size, last = await fill(settings, made, count, short=short)
    load = machine.load()
    running.say(f"  starting {', '.join(names)} …")
    await asyncio.to_thread(made.serve, [name for name in names if name != "ledger-append"])
    eyes = await running.connect(made)
    db = await Database.connect(settings.dsn("ledger"), "ledger")
    vkey = str(await eyes.fetchval("select vkey from ledger.log where shard = $1", SHARD))
    stranger = Stranger(made, vkey, db, over_http="web" in names)
    try:
        made.start_process("ledger-append")
        looks, usage = await follow(made, names, eyes, stranger, last, time.monotonic() + limit)
        rows = await eyes.fetch("select first, n from ledger.leaf_batch where shard = $1 order by first", SHARD)
        await _nothing_was_refused(eyes, count)
    except (aiohttp.ClientError, Unavailable) as error:
        raise RuntimeError(f"the log could not be read: {type(error).__name__}") from None
    finally:
        await stranger.close()
        await db.close()
        await eyes.close()
    counted = Counted([(row["first"], row["n"]) for row in rows])
    return _results(names, counted, looks, usage, {"records": count, "bytes": round(size), "load_before": load})


async def _nothing_was_refused(eyes: asyncpg.Connection[Any], count: int) -> None:
    """Rejecting is faster than recording."""
    seen = await eyes.fetchval("select count(*) from ledger.seen where source = $1", SOURCE)
    rejected = await eyes.fetchval("select count(*) from ledger.rejected")
    if seen < count or rejected:
        raise RuntimeError(f"{seen} of {count} statements were recorded, {rejected} rejected")


def _a_record(usage: Usage, served: Sequence[Seen]) -> dict[str, float]:
    """Microseconds of processor time that each process spent a record."""
    done = served[-1].done - next(one.done for one in served if one.done > 0)
    return {name: round(share * usage.seconds / done * 1e6, 1) for name, share in usage.shares.items()}


def _listed(costs: dict[str, float]) -> str:
    listed = sorted(((cost, name) for name, cost in costs.items() if name != "benchmark"), reverse=True)
    return ", ".join(f"{name} {cost:.0f} µs" for cost, name in listed)


def _results(
    names: tuple[str, ...], counted: Counted, looks: Looks, usage: Usage, facts: dict[str, Any]
) -> list[Result]:
    served, appended, published = counted(looks.served), counted(looks.appended), counted(looks.published)
    provable, blocks = rate(served), [round(one) for one in rates_by_block(served, BLOCK)]
    at_the_end = f"published {published[-1].done:,}"
    values: dict[str, Any] = {
        **facts,
        "processes": names,
        "provable_per_second": round(provable),
        "appended_per_second": round(rate(appended)),
        "published_at_the_end": published[-1].done,
        "block": BLOCK,
        "blocks_per_second": blocks,
        "processor": {name: round(share, 3) for name, share in usage.shares.items()},
        "others": round(usage.others, 3),
        "microseconds_a_record": _a_record(usage, served),
    }
    if "web" in names:
        folded = counted(looks.folded)[-1].done
        values["folded_at_the_end"] = folded
        at_the_end += f", folded by marketing and subjects {folded:,}"
    ran = "everything on" if "web" in names else "append and seal running"
    what = f"provable records a second, one shard, {facts['records']:,} of {facts['bytes']} B, {ran}"
    found = [
        Result(
            part="throughput",
            measured=what,
            figure=f"**{provable:,.0f}/s** (when the last was provable: {at_the_end})",
            aim=f"{AIM[names]:,}/s",
            met=provable >= AIM[names],
            bound=f"{usage.bound()}; processor time a record: {_listed(_a_record(usage, served))}",
            values=values,
        )
    ]
    if len(blocks) > 1:
        ratio = blocks[-1] / blocks[0]
        listed = ", ".join(f"{one:,}" for one in blocks)
        found.append(
            Result(
                part="throughput",
                measured=f"the same, last block of {BLOCK:,} against the first ({ran})",
                figure=f"**{ratio:.0%}** (each block, records a second: {listed})",
                aim=f"{LAST_BLOCK_AIM:.0%}",
                met=ratio >= LAST_BLOCK_AIM,
                bound="as above",
                values={"ratio": round(ratio, 3), "blocks_per_second": blocks, "records": facts["records"]},
            )
        )
    return found
