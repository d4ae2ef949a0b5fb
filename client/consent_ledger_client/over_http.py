"""Carries statements from the outbox to a ledger over HTTP and ticks them off when they are sealed.

The row is the team's copy, and it stays until the ledger has answered 201, or has said that it never will. Everything
may be posted more than once, by several processes too: the ledger records it once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from shared import logs
from shared.backoff import Backoff
from shared.client import ServiceClient
from shared.database import Database, Row
from shared.errors import Refused, Unavailable

_BATCH: Final = 200
_AT_ONCE: Final = 16
_WAIT: Final = 2
_SAFETY_NET_SECONDS: Final = 1.0
_TIDY_SECONDS: Final = 600.0
_SEALED: Final = 201
_FOR_GOOD: Final = frozenset({"malformed-statement", "id-reused", "rejected"})
"""Refusals that are about the statement. All others are about the installation, and may be put right."""

_OLDEST = """
select id, statement from outbox where sequence is null and sealed_at is null order by accepted_at, id limit $1
"""
_DONE = """
with done as (
    update outbox set sealed_at = clock_timestamp(), result = $2, index = $3, reason = $4
    where id = $1 and sealed_at is null returning 1
)
select pg_notify(current_schema() || '_sealed', '') from done
"""
_TIDY = """
delete from outbox where id in (
    select id from outbox where sealed_at < clock_timestamp() - $1::interval and result <> 'rejected' limit 5000
)
"""


class HttpRelay:
    """Run one per process of the team's service."""

    def __init__(
        self, source: str, database: Database, ledger: ServiceClient, *, keep: timedelta = timedelta(days=3)
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._keep = keep
        self._log = logs.logger(f"relay.{source}")
        self._put = database.listen(f"{database.schema}_outbox")
        self.trouble = ""
        """Why nothing moves, for the readiness of the service; empty while it does."""

    async def run(self) -> None:
        """Until cancelled. What PostgreSQL or the ledger do only slows it down."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry())
            group.create_task(self._tidy())

    async def _carry(self) -> None:
        backoff = Backoff()
        while True:
            try:
                rows = await self._database.fetch(_OLDEST, _BATCH)
                if not rows:
                    await self._put.wait(_SAFETY_NET_SECONDS)
                    continue
                self._note(await self._all(rows))
            except Unavailable as error:
                self._note(error.service)
            if self.trouble:
                await backoff.pause()
            else:
                backoff.reset()

    def _note(self, trouble: str) -> None:
        if trouble and not self.trouble:
            self._log.warning("relay-waits", why=trouble)
        self.trouble = trouble

    async def _all(self, rows: Sequence[Row]) -> str:
        """Post them, those of one subject one after the other: what was said last must be recorded last."""
        by_subject: dict[str, list[Row]] = {}
        for row in rows:
            by_subject.setdefault(json.loads(row["statement"])["subject"], []).append(row)
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one_after_the_other(of_one: Sequence[Row]) -> str:
            async with at_once:
                for row in of_one:
                    if trouble := await self._post(row):
                        return trouble
            return ""

        troubles = await asyncio.gather(*[one_after_the_other(of_one) for of_one in by_subject.values()])
        return next(filter(None, troubles), "")

    async def _post(self, row: Row) -> str:
        """Post one statement and note what became of it; why it is not done yet, or nothing."""
        # If we stop anywhere here it is posted again, and the answer is the same.
        try:
            answer = await self._ledger.post(
                "/ledger/statements", data=row["statement"], params={"wait": _WAIT}, timeout=_WAIT + 8
            )
        except Refused as refused:
            if refused.code not in _FOR_GOOD:
                return refused.code
            reason = str(refused.facts.get("reason") or refused.code)[:500]
            self._log.error("rejected", statement=row["id"], reason=reason)
            await self._database.execute(_DONE, row["id"], "rejected", None, reason)
            return ""
        except Unavailable as unavailable:
            return unavailable.service
        if answer.status != _SEALED:
            return "not sealed yet"
        said = answer.json()
        await self._database.execute(_DONE, row["id"], said["result"], int(said["index"]), None)
        return ""

    async def _tidy(self) -> None:
        """Done rows are kept for one backup cycle: if the ledger is restored from a backup, they can be put again."""
        while True:
            with suppress(Unavailable):
                await self._database.execute(_TIDY, self._keep)
            await asyncio.sleep(_TIDY_SECONDS)
