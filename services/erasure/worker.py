"""The back door: hands each recorded order to its holders until all have answered and looked again.

Asking is safe to repeat, and so is all else here: if we stop at any line, the next round finds what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from services.erasure import handlers, store
from services.erasure.domain import HOLDERS, at
from services.erasure.handlers import Speaker
from services.erasure.store import Order
from shared import logs
from shared.backoff import Backoff
from shared.client import ServiceClient
from shared.clock import Clock
from shared.database import Database
from shared.errors import Refused, Unavailable
from shared.identifiers import Random
from shared.metrics import Metrics

log = logs.logger("erasure")

_ORDERS_AT_ONCE: Final = 50
_PAUSE_SECONDS: Final = 1.0


class Tasks:
    """Any number may run: whoever is asked twice answers twice the same."""

    def __init__(
        self,
        db: Database,
        speaker: Speaker,
        holders: Mapping[str, ServiceClient],
        clock: Clock,
        random: Random,
        metrics: Metrics,
    ) -> None:
        self._db = db
        self._speaker = speaker
        self._holders = holders
        self._clock = clock
        self._random = random
        self._sealed = db.listen("erasure_sealed")
        self._oldest = metrics.gauge("order_oldest_seconds", "Age of the oldest order that is not completed")
        self._missing = metrics.gauge(
            "receipts_missing", "Orders of which a holder has not stated its receipt", ("holder",)
        )
        metrics.at_scrape(self._measure, self._missing)
        self._completed = metrics.counter("orders_completed", "Orders of which every holder is done")

    async def _measure(self) -> None:
        self._oldest.set(await store.oldest_open(self._db))
        for row in await store.waiting(self._db, HOLDERS):
            self._missing.labels(row["holder"]).set(row["number"])

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff()
        while True:
            seen = self._sealed.changed
            try:
                orders = await store.open_orders(self._db, _ORDERS_AT_ONCE)
                for order in orders:
                    await self.attend(order)
            except Unavailable:
                await backoff.pause()
                continue
            backoff.reset()
            # With nothing to do, whoever seals our next order wakes us; a holder that works is asked again soon.
            await self._sealed.wait(_PAUSE_SECONDS if orders else 5 * _PAUSE_SECONDS, since=seen)

    async def attend(self, order: Order) -> None:
        """Ask every holder once. Whoever took the words comes first: the others are told since when they are ended."""
        ended = order.ended
        for holder in HOLDERS:
            answer = await self._ask(holder, order, ended)
            if answer is None:
                return
            if ended is None and answer["ended"] is not None:
                ended = str(answer["ended"])
                await store.put_ended(self._db, order.request, ended)
            await store.put_answer(
                self._db,
                order.request,
                holder,
                answer["state"],
                answer["statement"],
                answer["found"],
                self._clock(),
            )
        tasks = await store.tasks(self._db, order.request)
        if all(task.state == "recorded" and task.found == 0 for task in tasks):
            now = self._clock()
            if await handlers.complete(self._db, self._speaker, order, tasks, now, self._random):
                self._completed.inc()
                log.info("completed", request=order.request)

    async def _ask(self, holder: str, order: Order, ended: str | None) -> dict[str, Any] | None:
        """A holder's answer; None if it has none now, which is looked at again soon and counted meanwhile."""
        task = {
            "request": order.request,
            "order": order.statement,
            "subject": order.subject,
            "evidence_until": at(order.evidence_until),
            "ended": ended,
        }
        try:
            answer = await self._holders[holder].post(f"/{holder}/erase", json=task)
            return dict(answer.json())
        except (Unavailable, Refused) as error:
            reason = error.code if isinstance(error, Refused) else "unavailable"
            log.warning("holder-waits", holder=holder, request=order.request, reason=reason)
            return None
