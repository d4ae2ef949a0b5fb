"""The verbs: grant a permit, use it, begin a campaign, end a delivery. One transaction each, and only SQL in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from services.marketing import store
from services.marketing.domain import PERMIT_LIVES, Horizon, Knowledge, Rule, decide
from services.marketing.store import Ask, Permit, Use
from shared import outbox
from shared.clock import Clock
from shared.database import Database, Transaction
from shared.errors import Refused, Unavailable
from shared.events import Statement, purpose_matter
from shared.holder import Cleared, Marked, Step, Task
from shared.identifiers import Random, shard_of, uuid7

_LOOKS: Final = 10
_CAMPAIGN_TIMEOUT: Final = "60s"  # everybody's deliveries in one transaction; nothing is stated in it


async def ask_permits(
    db: Database,
    asks: Sequence[Ask],
    horizon: Callable[[int], Horizon | None],
    rule: Callable[[str, str], Rule],
    now: datetime,
    random: Random,
) -> list[Permit | Refused]:
    """Decide on attempts and store the answers; an attempt has one permit, and asked again, that one as it is now.

    Looking takes no lock. A grant is stored only if the person has no newer word than the one it was decided from;
    else we look again. So no permit can be granted from a word that is no longer the newest.
    """
    answers: dict[int, Permit | Refused] = {}
    left = list(enumerate(asks))
    for _ in range(_LOOKS):
        horizons = {shard: horizon(shard) for shard in {shard_of(ask.subject) for _, ask in left}}
        seen = await store.look(db, [ask for _, ask in left])
        permits = [
            _permit(ask, one, horizons[shard_of(ask.subject)], rule(ask.purpose, ask.channel), now, random)
            for (_, ask), one in zip(left, seen, strict=True)
        ]
        stored = await store.put_permits(db, permits, [one.newest for one in seen])
        answers |= {place: one for (place, _), one in zip(left, permits, strict=True) if one.id in stored}
        left = [(place, ask) for place, ask in left if place not in answers]
        if not left:
            return [answers[place] for place in range(len(asks))]
        earlier = await store.permits_of_attempts(db, [(ask.message_id, ask.attempt) for _, ask in left])
        for place, ask in left:
            if (found := earlier.get((ask.message_id, ask.attempt))) is not None:
                answers[place] = _answered_before(ask, found, now)
        left = [(place, ask) for place, ask in left if place not in answers]
        if not left:
            return [answers[place] for place in range(len(asks))]
    raise Unavailable("marketing")


def _permit(ask: Ask, seen: store.Seen, horizon: Horizon | None, rule: Rule, now: datetime, random: Random) -> Permit:
    known = Knowledge(seen.standing, seen.grade, seen.applied, horizon, seen.erased)
    decision = decide(known, ask.purpose, ask.channel, rule, now)
    return Permit(
        id=uuid7(now, random),
        subject=ask.subject,
        matter=purpose_matter(ask.purpose, ask.channel),
        message_id=ask.message_id,
        attempt=ask.attempt,
        decision="granted" if decision.granted else "refused",
        reason=decision.reason,
        relied_on=decision.relied_on,
        shard=shard_of(ask.subject),
        size=seen.applied,
        all_before=decision.all_before,
        issued_at=now,
    )


def erasing(clock: Clock) -> Step:
    """What an erasure does here, within the holder's transaction (shared/holder.py)."""

    async def step(tx: Transaction, task: Task, marked: Marked) -> Cleared | None:
        # Once it has stated its receipt, what there still is was brought back, and goes without waiting for anything.
        found = await store.clear(tx, task.subject, None if marked.has_stated else task.ended, clock())
        return None if found is None else Cleared(found)

    return step


def _answered_before(ask: Ask, earlier: Permit, now: datetime) -> Permit | Refused:
    if (earlier.subject, earlier.matter) != (ask.subject, purpose_matter(ask.purpose, ask.channel)):
        return Refused(
            "attempt-of-another",
            "This message id and attempt were asked for another subject or purpose. Use a new message id.",
            status=409,
        )
    return as_it_is(earlier, now)


def as_it_is(permit: Permit, now: datetime) -> Permit:
    """A permit that can no longer be used is no grant, whatever was answered when it was asked for."""
    if permit.decision == "refused":
        return permit
    spent = (
        "used"
        if permit.redeemed_at is not None
        else "void"
        if permit.voided_at is not None
        else "too-old"
        if now - permit.issued_at > PERMIT_LIVES
        else None
    )
    return permit if spent is None else replace(permit, decision="refused", reason=spent)


class _NotUsable(Exception):
    """Roll back: this permit, or this delivery, is not what it was."""


async def use_permit(db: Database, delivery: str, attempt: int, use: Use, used: Statement, now: datetime) -> bool:
    """Redeem the permit, mark the delivery as attempted and state the use, all or nothing; False if it is void.

    If we stop after this commit the mail may or may not have left: the delivery is then `unknown`, never sent again.
    """
    try:
        async with db.transaction() as tx:
            if not (
                await store.redeem(tx, use.permit, now - PERMIT_LIVES, now)
                and await store.attempt(tx, delivery, attempt, use)
            ):
                raise _NotUsable  # noqa: TRY301 - leaving the block by an exception rolls back
            await outbox.put(tx, [used])
    except _NotUsable:
        return False
    return True


async def take_back(db: Database, delivery: str, use: Use, now: datetime, not_before: datetime, reason: str) -> None:
    """It is certain that nothing left: the delivery waits again. Asking twice changes nothing."""
    async with db.transaction() as tx:
        if await store.take_back(tx, delivery, use, not_before, reason):
            await store.finish_permit(tx, use.permit, now, nothing_left=True)


async def end_delivery(
    db: Database, delivery: str, use: Use, state: str, sent: Statement | None, now: datetime
) -> None:
    """The mail server answered, or will never be known to have: store which, and state the message, once."""
    async with db.transaction() as tx:
        if await store.end_delivery(tx, delivery, use, state):
            # Whoever attempted it may only be stopped, and send it yet while its permit lives.
            at_least = PERMIT_LIVES if state == "unknown" else timedelta(0)
            await store.finish_permit(tx, use.permit, now, at_least=at_least)
            if sent is not None:
                await outbox.put(tx, [sent])


async def begin_campaign(
    db: Database, name: str, purpose: str, channel: str, texts: Mapping[str, Any], now: datetime, random: Random
) -> int:
    """Queue one delivery per person whose consent is in force; the same campaign again changes nothing.

    The audience is only who may be asked for: each mail needs a permit of its own at the moment it is sent.
    """
    async with db.transaction(timeout=_CAMPAIGN_TIMEOUT) as tx:
        if await store.put_campaign(tx, name, purpose, channel, texts, now):
            rows = [
                (uuid7(now, random), row["subject"], _language(row["language"], texts))
                for row in await store.audience(tx, purpose, channel)
            ]
            await store.put_deliveries(tx, name, rows, now)
        elif not await store.is_campaign(tx, name, purpose, channel, texts):
            raise Refused(
                "campaign-exists",
                "A campaign of this name exists with another purpose or text. Choose a new name.",
                status=409,
            )
        counts = await store.deliveries(tx, name)
    return sum(number for *_, number in counts or [])


def _language(preferred: str | None, texts: Mapping[str, Any]) -> str:
    return preferred if preferred is not None and preferred in texts else min(texts)
