"""The verbs: order an erasure, note a holder's answer, complete. One transaction each, with nothing but SQL in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.erasure import store
from services.erasure.domain import HOLDERS, SOURCE, Ground, Reason, at
from services.erasure.store import Order, Task
from shared import erasure_key
from shared.clock import rfc3339
from shared.database import Database
from shared.errors import Refused
from shared.events.types import ErasureCompleted, ErasureHeld, ErasureOrdered, Statement
from shared.holder import common
from shared.identifiers import Random, uuid7
from shared.outbox import put
from shared.register import Activity, Register


class NothingHeld(Refused):
    """There is no such order, or nothing is held for it any more."""

    def __init__(self) -> None:
        super().__init__("nothing-held", str(self.__doc__), status=404)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks, under which version of the register, by which software."""

    register: Register
    activity: Activity
    software: str


async def order(
    db: Database,
    speaker: Speaker,
    subject: str,
    reason: Reason,
    by: str,
    evidence_until: datetime | None,
    now: datetime,
    random: Random,
) -> Order:
    """Record the order once; of a subject that was ordered before, that order."""
    request, key = uuid7(now, random), random(erasure_key.SIZE)
    statement = erasure_key.order_id(key, now)
    async with db.transaction() as tx:
        await store.lock_subject(tx, subject)
        before = await store.order_of(tx, subject)
        if before is not None:
            return before
        new = Order(request, subject, statement, evidence_until, None, now, None, None, key)
        await store.put_order(tx, new, HOLDERS)
        said = common(speaker.register, speaker.activity, speaker.software, uuid7(now, random)) | {"by": by}
        data = ErasureOrdered(
            **said, request=request, reason=reason, holders=list(HOLDERS), evidence_until=at(evidence_until)
        )
        await put(tx, [Statement.of(data, id=statement, source=SOURCE, subject=subject, time=rfc3339(now))])
    return new


async def hold(
    db: Database, speaker: Speaker, request: str, until: datetime, ground: Ground, now: datetime, random: Random
) -> Order:
    """Record that what proves is held longer. A hold that ends before the register's period changes nothing."""
    async with db.transaction() as tx:
        held = await store.hold(tx, request, until)
        if held is None:
            raise NothingHeld
        data = ErasureHeld(
            **common(speaker.register, speaker.activity, speaker.software, uuid7(now, random)),
            request=request,
            until=rfc3339(until),
            ground=ground,
        )
        said = Statement.of(data, id=uuid7(now, random), source=SOURCE, subject=held.subject, time=rfc3339(now))
        await put(tx, [said])
    return held


async def complete(
    db: Database, speaker: Speaker, done: Order, tasks: Sequence[Task], now: datetime, random: Random
) -> bool:
    """State that every holder has looked again and found nothing; once. Whether it was now."""
    statement = uuid7(now, random)
    receipts = [task.statement for task in tasks if task.statement is not None]
    async with db.transaction() as tx:
        if not await store.put_completed(tx, done.request, statement, now):
            return False
        data = ErasureCompleted(
            **common(speaker.register, speaker.activity, speaker.software, uuid7(now, random)),
            request=done.request,
            follows=[done.statement, *receipts],
            evidence_until=at(done.evidence_until),
        )
        await put(tx, [Statement.of(data, id=statement, source=SOURCE, subject=done.subject, time=rfc3339(now))])
    return True
