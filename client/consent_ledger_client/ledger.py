"""One team's end of the ledger in one object: its outbox, its credential, its relay."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from consent_ledger_client.over_http import HttpRelay
from shared.client import ServiceClient
from shared.clock import Clock, rfc3339, utc_now
from shared.database import Database, Row, Transaction
from shared.events.types import Data, Sealed, Statement
from shared.identifiers import Random, uuid7
from shared.sealing import base64url, seal


def receipt_key(random: Random = os.urandom) -> tuple[str, str]:
    """A new key to a receipt and its hash: the person is given the first, the statement carries the second."""
    key = random(16)
    return base64url(key), hashlib.sha256(key).hexdigest()


class ConsentLedger:
    """What a handler needs: ids, sealing, statements, and a transaction that the outbox accepts."""

    def __init__(
        self,
        source: str,
        database: Database,
        client: ServiceClient,
        *,
        clock: Clock = utc_now,
        random: Random = os.urandom,
    ) -> None:
        self.source = source
        self.database = database
        self.client = client
        self.relay = HttpRelay(source, database, client)
        self._clock = clock
        self._random = random

    @classmethod
    @asynccontextmanager
    async def open(
        cls, source: str, *, dsn: str, url: str, credential: str, schema: str = "public"
    ) -> AsyncIterator[Self]:
        """Connect and carry until the end of the block; `credential` is `<caller>:<secret>`, the caller the source."""
        database = await Database.connect(dsn, schema)
        ledger = cls(source, database, ServiceClient(url, credential))
        relay = asyncio.create_task(ledger.relay.run(), name=f"{source}.relay")
        try:
            yield ledger
        finally:
            relay.cancel()
            await asyncio.gather(relay, return_exceptions=True)
            await ledger.client.close()
            await database.close()

    def new_id(self) -> str:
        """An id for a statement or an act. Make it before sealing, and keep it when you try again."""
        return uuid7(self._clock(), self._random)

    async def seal(
        self, controller: str, statement: str, fields: Mapping[str, object], **whom: object
    ) -> tuple[str, dict[str, Sealed]]:
        """The subject of `email=` or `subject=`, and these fields as what `sealed=` of the statement's data takes.

        Before the transaction, never inside: it asks another service. Unavailable: tell the person to try again.
        """
        asked = {"identifier": {"kind": "email", "value": whom["email"]}} if "email" in whom else whom
        item: dict[str, object] = {"statement": statement, "compartment": "evidence", "fields": dict(fields)}
        subject, [part] = await seal(self.client, controller, [item], **asked)
        return subject, {"evidence": Sealed(ciphertext=base64url(part.ciphertext), key_hash=part.key_hash)}

    def statement(self, data: Data, *, id: str, subject: str) -> Statement:  # noqa: A002 - CloudEvents' name
        """A statement of this team, now. Give it to `put` in the transaction of your own rows."""
        return Statement.of(data, id=id, source=self.source, subject=subject, time=rfc3339(self._clock()))

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction that PostgreSQL ends after two seconds, as the outbox demands. Yours will do as well, after
        `set local transaction_timeout = '2s'`."""
        return self.database.transaction()

    async def fate(self, statement: str) -> Row | None:
        """`result` (recorded, overtaken, rejected), `index` and `reason`; None while it is not known."""
        return await self.database.fetchrow(
            "select result, index, reason from outbox where id = $1::uuid and sealed_at is not null", statement
        )
