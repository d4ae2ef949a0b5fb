"""What was said on one shard as far as Kafka and the outboxes still have it, for a restore to put back.

None of it is believed here beyond who said it: a statement counts where it opens the commitment of a sealed leaf.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from services.ledger.check import Check, Stated
from shared.clock import utc_now
from shared.database import Queries, Row, Transaction
from shared.errors import Unavailable
from shared.kafka import Consumer, Message, OutOfRange
from shared.kafka_users import ADMIN
from shared.secrets import Secrets
from shared.settings import Settings
from shared.topics import RECORDED, STATED
from shared.wire import MalformedRecord, RecordedValue, mac_holds, recorded_mac

_WHO: Final = "consent-ledger operator"
_AT_ONCE: Final = 1000
_BEFORE_ALL: Final = "00000000-0000-0000-0000-000000000000"
_OUTBOXES: Final = """
select n.nspname as source, format('%I.outbox', n.nspname) as name
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relname = 'outbox' and c.relkind = 'r' and has_table_privilege(c.oid, 'select') order by 1
"""

Names = dict[tuple[str, str], int]
"""(source, id) of a statement → the number that its source gave it"""


@dataclass(frozen=True, slots=True)
class Heard:
    """Statements by the index they were recorded at, or without one; numbers of the sources."""

    recorded: dict[int, bytes] = field(default_factory=dict)
    stated: dict[bytes, None] = field(default_factory=dict)
    """in the order in which they were heard, each once"""
    numbers: Names = field(default_factory=dict)
    given_out: dict[str, int] = field(default_factory=dict)
    """source → the highest number it is known to have given out"""


class Listener:
    """Reads all there is, once."""

    def __init__(
        self, settings: Settings, secrets: Secrets, shard: int, origin: str, progress: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._secrets = secrets
        self._shard = shard
        self._origin = origin
        self._progress = progress

    async def listen(self, db: Queries, elsewhere: Sequence[str], above: int) -> Heard:
        """Both topics, every outbox in the ledger's database, and those in the databases `elsewhere`; of what was
        recorded, the indexes from `above` on."""
        heard = Heard()
        await self._hear_recorded(heard, above)
        await self._hear_stated(heard)
        await self._read_outboxes(heard, db)
        for dsn in elsewhere:
            async with _reading(dsn) as other:
                await self._read_outboxes(heard, other)
        return heard

    async def _hear_recorded(self, heard: Heard, above: int) -> None:
        key = self._secrets.publisher_key()
        async for message in self._messages(RECORDED):
            expected = recorded_mac(key, self._origin, "leaf", message.value)
            if message.headers.get("kind") != b"leaf" or not mac_holds(expected, message.headers.get("mac")):
                continue
            try:
                value = RecordedValue.decode(message.value)
            except MalformedRecord:
                continue
            if value.statement and value.index >= above:
                heard.recorded.setdefault(value.index, value.statement)

    async def _hear_stated(self, heard: Heard) -> None:
        check = Check(self._shard, self._origin, self._secrets.source_keys(), lambda _statement: None)
        async for message in self._messages(STATED):
            for item in check.messages([message], utc_now()):
                if item.source and item.sequence:
                    heard.given_out[item.source] = max(item.sequence, heard.given_out.get(item.source, 0))
                if isinstance(item, Stated):
                    heard.numbers[item.source, item.statement.id] = item.sequence
                    heard.stated[item.raw] = None

    async def _read_outboxes(self, heard: Heard, db: Queries) -> None:
        """Every row, done or not: what was not sealed when a backup was made may have been sealed since."""
        for outbox in await db.fetch(_OUTBOXES):
            last, read = _BEFORE_ALL, 0
            while rows := await self._outbox_rows(db, outbox["name"], last):
                for row in rows:
                    heard.stated.setdefault(row["statement"])
                    if row["sequence"] is not None:
                        heard.numbers.setdefault((outbox["source"], row["id"]), row["sequence"])
                last, read = rows[-1]["id"], read + len(rows)
            self._progress(f"{outbox['name']}: {read} statements")

    async def _outbox_rows(self, db: Queries, name: str, after: str) -> list[Row]:
        # The name is PostgreSQL's own, quoted where it must be.
        return await db.fetch(
            f"""select id::text as id, sequence, statement from {name}
                where shard = $1 and id > $2::uuid order by id limit {_AT_ONCE}""",
            self._shard,
            after,
        )

    async def _messages(self, topic: str) -> AsyncIterator[Message]:
        login = self._settings.kafka_login(ADMIN)
        consumer = Consumer(self._settings.kafka, self._settings.topic(topic), [self._shard], login=login)
        await consumer.start()
        try:
            at = (await consumer.beginning_offsets())[self._shard]
            end = (await consumer.end_offsets())[self._shard]
            consumer.seek(self._shard, at)
            while at < end:
                try:
                    messages: list[Message] = await consumer.fetch(_AT_ONCE)
                except OutOfRange:
                    # Retention was faster: what is there now is all there is.
                    at = (await consumer.beginning_offsets())[self._shard]
                    consumer.seek(self._shard, at)
                    continue
                for message in messages:
                    yield message
                    at = message.offset + 1
                self._progress(f"{topic}: {at} of {end}")
        finally:
            await consumer.stop()


@asynccontextmanager
async def _reading(dsn: str) -> AsyncIterator[Transaction]:
    """One transaction that changes nothing in somebody else's database."""
    try:
        connection = await asyncpg.connect(dsn, timeout=10, server_settings={"application_name": _WHO})
    except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
        raise Unavailable("postgresql") from None
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield Transaction(connection)
    finally:
        await connection.close()
