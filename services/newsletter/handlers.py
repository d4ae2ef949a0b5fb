"""The verbs: each one transaction with nothing but SQL in it, outbox rows included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from services.newsletter import store
from services.newsletter.domain import (
    Confirmation,
    Periods,
    Request,
    RequestState,
    Scope,
    SignUp,
    Speaker,
    Withdrawal,
    consent_expired,
    notice_published,
    retention_executed,
    statements_of_confirmation,
    statements_of_sign_up,
    statements_of_withdrawal,
    words_ended,
)
from shared.acceptance import Accepted
from shared.clock import Clock
from shared.database import Database, Transaction
from shared.errors import Refused, Unavailable
from shared.events.types import Sealed, Statement
from shared.holder import Cleared, Marked, Step, Task
from shared.identifiers import Random, uuid7
from shared.limits import MailCap
from shared.outbox import put
from shared.register import Notice
from shared.sealing import Compartment

SWEEP_BATCH = 100


class ErasedAddress(Refused):
    """All that was stored about this address is erased: nothing is in force that could be withdrawn."""

    def __init__(self) -> None:
        super().__init__("erased-address", str(self.__doc__), status=410)


async def publish_notice(db: Database, speaker: Speaker, notice: Notice, now: datetime, random: Random) -> None:
    """State NoticePublished once per text, before it is served for the first time."""
    statement, act = uuid7(now, random), uuid7(now, random)
    async with db.transaction() as tx:
        if await store.put_notice(tx, notice.hash, statement, now):
            published = notice_published(speaker, statement, act, notice.hash, notice.language, notice.version, now)
            await put(tx, [published])


async def sign_up(
    db: Database, speaker: Speaker, new: SignUp, evidence: Mapping[str, Sealed], brief: Compartment, cap: MailCap
) -> tuple[Literal["asked", "capped", "again"], list[Accepted]]:
    """Record a form: its row, its statements, its confirmation mail. Sent before (`again`): nothing changes.

    `capped`: it is recorded like any other, but no mail leaves for it (ADR 0013).
    """
    request = new.request
    async with db.transaction() as tx:
        await store.lock_subject(tx, request.subject)
        if await store.is_erased(tx, request.subject):
            # Its keys go this moment; sent again, the same address is somebody new.
            raise Unavailable("subjects")
        capped = await store.is_capped(tx, request, cap)
        if not await store.put_request(tx, new):
            return "again", await store.accepted_of_form(tx, new.form_key)
        if capped:
            await store.put_capped_mail(tx, request.confirmation, request.id, request.requested_at)
        else:
            await store.put_mail(tx, request.confirmation, "confirmation", request.id, brief, request.requested_at)
        accepted = await put(tx, statements_of_sign_up(speaker, new, evidence))
    return "capped" if capped else "asked", accepted


async def confirm(
    db: Database,
    speaker: Speaker,
    request: Request,
    act: str,
    confirmations: Sequence[Confirmation],
    evidence: Mapping[str, Sealed],
    welcome: Compartment,
    now: datetime,
) -> RequestState | None:
    """Record that the holder of the address agreed, once; the state the request is in then, None if it is gone.

    Everything was prepared from an earlier look at the request, so it is looked at again under its lock.
    """
    async with db.transaction() as tx:
        await store.lock_subject(tx, request.subject)
        current = await store.request_for_update(tx, request.id)
        if current is None:
            return None
        state = current.state_at(now)
        if state != "open":
            return state
        await store.decide(tx, request.id, "confirmed", now)
        await store.put_given(tx, request.id, [(one.asked, one.statement) for one in confirmations])
        # Links of earlier mails are new acts from here on: one that answered "done" and did nothing would be a lie.
        await store.forget_withdrawals(tx, request.subject)
        await store.put_mail(tx, welcome.statement, "welcome", request.id, welcome, now)
        await put(tx, statements_of_confirmation(speaker, request, act, confirmations, evidence, now))
    return "confirmed"


async def withdraw(
    db: Database, speaker: Speaker, withdrawal: Withdrawal, token_hash: bytes, now: datetime
) -> store.Withdrawn:
    """Record a withdrawal, void what is still open and stop the mails that wait. Done already: what was done then."""
    scope: Scope = withdrawal.scope
    purposes = None if scope == "everything" else withdrawal.purposes
    async with db.transaction() as tx:
        await store.lock_subject(tx, withdrawal.subject)
        if await store.is_erased(tx, withdrawal.subject):
            raise ErasedAddress
        if (done := await store.withdrawal(tx, token_hash, scope)) is not None:
            return done
        # A sign-up that waits was answered by this: confirming it later would revive what was just ended.
        voided = await store.open_requests(tx, withdrawal.subject, purposes)
        for request in voided:
            await store.decide(tx, request, "voided", now)
        await store.cancel_mails(tx, voided)
        await store.cancel_welcomes(tx, withdrawal.subject, purposes)
        await store.put_withdrawal(tx, token_hash, scope, withdrawal.subject, withdrawal.statements, now)
        accepted = await put(tx, statements_of_withdrawal(speaker, withdrawal, now))
    return store.Withdrawn(scope, withdrawal.statements, now, accepted)


async def expire(db: Database, speaker: Speaker, now: datetime, random: Random) -> int:
    """End a batch of requests that nobody confirmed in time; how many."""
    async with db.transaction() as tx:
        requests = await store.overdue(tx, now, SWEEP_BATCH)
        statements: list[Statement] = []
        for request in requests:
            act = uuid7(now, random)
            await store.decide(tx, request.id, "expired", now)
            statements += [
                consent_expired(speaker, request, asked, uuid7(now, random), act, now) for asked in request.asked
            ]
        await store.cancel_mails(tx, [request.id for request in requests])
        await put(tx, statements)
    return len(requests)


async def purge(db: Database, speaker: Speaker, now: datetime, random: Random) -> int:
    """Delete a batch of unconfirmed requests as the register's retention rule says; how many."""
    rule = Periods(speaker.activity).purge_rule()
    # If we stop after the commit, what is noted here is ordered later: `Sweeper`.
    async with db.transaction() as tx:
        requests = await store.to_purge(tx, now, SWEEP_BATCH)
        await store.delete_requests(tx, [request.id for request in requests])
        await store.put_unclaimed(tx, [request.subject for request in requests], now)
        await put(
            tx,
            [
                retention_executed(speaker, rule, request, uuid7(now, random), uuid7(now, random), now)
                for request in requests
            ],
        )
    return len(requests)


def erasing(speaker: Speaker, clock: Clock, random: Random) -> Step:
    """What an erasure does here, within the holder's transaction (shared/holder.py): withdraw what was agreed to, stop
    the mails that wait, and once they are at their end delete what there is."""

    async def step(tx: Transaction, task: Task, marked: Marked) -> Cleared | None:
        await store.lock_subject(tx, task.subject)
        now = clock()
        given = await store.given(tx, task.subject)
        if given and marked.ended_at is None:
            await store.note_ended(tx, task.subject, now)
            await put(tx, words_ended(speaker, task.subject, task.order, given, now, random))
        for request in await store.open_requests(tx, task.subject, None):
            await store.decide(tx, request, "voided", now)
        requests = await store.requests_of(tx, task.subject)
        await store.cancel_mails(tx, requests)
        if await store.has_unended_mail(tx, requests):
            return None
        return Cleared(await store.clear(tx, task.subject))

    return step


async def end_mail(
    db: Database,
    mail: str,
    state: Literal["accepted", "refused", "unknown", "dropped"],
    sent: Statement | None,
    now: datetime,
) -> None:
    """A mail is at an end: what it needed goes, what happened is stated. Ending it twice states it once."""
    async with db.transaction() as tx:
        if await store.end_mail(tx, mail, state, now) and sent is not None:
            await put(tx, [sent])
