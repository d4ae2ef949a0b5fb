"""The verbs: grant a permit, use it, begin a campaign, end a delivery. One transaction each, and only SQL in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.marketing import store
from services.marketing.domain import PERMIT_LIVES, Knowledge, decide
from shared import outbox
from shared.clock import rfc3339
from shared.errors import Refused
from shared.events import purpose_matter
from shared.identifiers import shard_of, uuid7

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from shared.database import Database
    from shared.events import Statement
    from shared.identifiers import Random


@dataclass(frozen=True, slots=True)
class Ask:
    """One message, one attempt, for one purpose on one channel."""

    subject: str
    purpose: str
    channel: str
    message_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Horizon:
    """The newest heartbeat of a shard: the sealed size, and up to when each source's word is complete."""

    size: int
    marks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decided about one attempt. The same attempt is answered the same, for ever."""

    permit: str
    decision: str
    reason: str
    relied_on: str | None
    shard: int
    size: int
    all_before: str | None
    issued_at: str

    @property
    def granted(self) -> bool:
        return self.decision == "granted"


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(
        permit=str(row["id"]),
        decision=row["decision"],
        reason=row["reason"],
        relied_on=str(row["relied_on"]) if row["relied_on"] else None,
        shard=row["shard"],
        size=row["size"],
        all_before=row["all_before"],
        issued_at=rfc3339(row["issued_at"]),
    )


async def ask_permit(
    db: Database, ask: Ask, horizon: Horizon | None, restricting: Iterable[str], now: datetime, random: Random
) -> Answer:
    """Decide on one attempt and store the answer.

    The share lock on the subject's words makes the fold of a withdrawal wait until this answer is committed, and
    then void it; so no permit can be granted from a word that is no longer the newest.
    """
    shard, matter = shard_of(ask.subject), purpose_matter(ask.purpose, ask.channel)
    async with db.transaction() as tx:
        earlier = await store.permit_of_attempt(tx, ask.message_id, ask.attempt)
        if earlier is None:
            standing = await store.standing_for_share(tx, ask.subject)
            knowledge = Knowledge(
                await store.applied(tx, shard), horizon.size if horizon else None, horizon.marks if horizon else {}
            )
            decision = decide(standing, ask.purpose, ask.channel, knowledge, restricting, now)
            row: dict[str, Any] = {
                "id": uuid7(now, random),
                "subject": ask.subject,
                "matter": matter,
                "message_id": ask.message_id,
                "attempt": ask.attempt,
                "decision": "granted" if decision.granted else "refused",
                "reason": decision.reason,
                "relied_on": standing.words[matter].statement if decision.granted else None,
                "shard": shard,
                "size": knowledge.applied,
                "all_before": decision.all_before,
                "issued_at": now,
            }
            if await store.put_permit(tx, row):
                return _answer(row)
            earlier = await store.permit_of_attempt(tx, ask.message_id, ask.attempt)
    if earlier is None or earlier["subject"] != ask.subject or earlier["matter"] != matter:
        raise Refused(
            "attempt-is-another's",
            "This message id and attempt were asked for another subject or purpose. Use a new message id.",
            status=409,
        )
    return _answer(earlier)


async def use_permit(db: Database, delivery: str, attempt: int, answer: Answer, used: Statement, now: datetime) -> bool:
    """Redeem the permit, mark the delivery as attempted and state the use, all or nothing; False if it is void.

    If we stop after this commit the mail may or may not have left: the delivery is then `unknown`, never sent again.
    """
    async with db.transaction() as tx:
        if await store.redeem(tx, answer.permit, now - PERMIT_LIVES, now) is None:
            return False
        await store.mark_attempted(tx, delivery, attempt, answer.permit, used.id)
        await outbox.put(tx, [used])
    return True


async def end_delivery(db: Database, delivery: str, permit: str, state: str, sent: Statement, now: datetime) -> None:
    """The mail server answered, or will never be known to have: store which, and state the message."""
    async with db.transaction() as tx:
        await store.finish_permit(tx, permit, now)
        await store.finish_delivery(tx, delivery, state, None)
        await outbox.put(tx, [sent])


async def begin_campaign(
    db: Database, name: str, purpose: str, channel: str, texts: dict[str, Any], now: datetime, random: Random
) -> int:
    """Queue one delivery per person whose consent is in force; the same name and content again changes nothing.

    The audience is only who may be asked for: each mail needs a permit of its own at the moment it is sent.
    """
    async with db.transaction() as tx:
        if not await store.put_campaign(tx, name, purpose, channel, texts, now):
            earlier = await store.campaign(tx, name)
            if earlier is None or (earlier["purpose"], earlier["channel"]) != (purpose, channel):
                raise Refused(
                    "campaign-exists",
                    "A campaign of this name exists with another purpose. Choose a new name.",
                    status=409,
                )
        else:
            languages = sorted(texts)
            audience = await store.audience(tx, purpose, channel)
            rows = [
                (uuid7(now, random), row["subject"], row["language"] if row["language"] in texts else languages[0])
                for row in audience
            ]
            await store.put_deliveries(tx, name, rows, now)
            await tx.execute("select pg_notify('marketing_campaign', '')")
        return sum((await store.campaign_counts(tx, name)).values())
