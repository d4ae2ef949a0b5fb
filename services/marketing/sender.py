"""Sends campaigns: each mail under a permit of its own, at most once.

The order of effects for a mail, and what holds if we stop:
1. permit. Stop after: it is too old when we are back, the next attempt asks anew;
2. open the address, write the mail, archive its exact bytes. Stop after: the same bytes are written again;
3. one transaction: redeem the permit, mark the delivery `attempted`, state ConsentUsed. Stop after: the mail may have
   left. The next sender states it as `unknown` and never sends it;
4. hand it to the mail server, once, while the permit lives;
5. seal the answer; one transaction: end the delivery, state MessageSent. If the server said not now, the delivery
   waits again instead: nothing has left.
Addresses are held in memory only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar

from services.marketing import domain, handlers, store
from services.marketing.letters import Letters
from services.marketing.permits import Permits
from services.marketing.store import Ask, Delivery, Permit, Use
from shared import logs
from shared.backoff import Backoff
from shared.client import ServiceClient
from shared.clock import Clock, rfc3339
from shared.database import Database, Lock, Signal
from shared.errors import Refused, Unavailable
from shared.events import Statement
from shared.events.types import Attachment, ConsentUsed, MessageSent, Sealed
from shared.events.types import Permit as UsedPermit
from shared.identifiers import Random, uuid7
from shared.mail import Answer, MailServer
from shared.metrics import Metrics
from shared.register import NotInRegister, Register
from shared.sealing import base64url, seal
from shared.sealing import store as store_attachment

BATCH: Final = 8
SAFETY_NET_SECONDS: Final = 5.0
LAST_MAILS_SECONDS: Final = 5.0
PERMITS_KEPT: Final = timedelta(days=1)
"""So long the same attempt is answered the same, and effects name the mails that left; uses stand in the ledger."""
ATTACHMENTS: Final = range(10)
CONTROLLER: Final = "controller"
_CONFLICT: Final = 409
_NOT_LET_IN: Final = frozenset({"credential-missing", "scope-missing"})

Result = TypeVar("Result")
Outcome = Literal["accepted", "refused", "unknown"]
_END: Final[dict[Outcome, str]] = {"accepted": "sent", "refused": "refused", "unknown": "unknown"}

log = logs.logger("marketing.sender")


class Sender:
    """One at a time per database works the queue; others wait to take over."""

    def __init__(
        self,
        *,
        db: Database,
        permits: Permits,
        register: Register,
        software: str,
        letters: Letters,
        subjects: ServiceClient,
        ledger: ServiceClient,
        mail_server: MailServer,
        clock: Clock,
        random: Random,
        metrics: Metrics,
        rate: float = 0.0,
    ) -> None:
        """`rate` is mails per second; 0 is as fast as it goes, several at a time."""
        self._db = db
        self._permits = permits
        self._register = register
        self._software = software
        self._letters = letters
        self._subjects = subjects
        self._ledger = ledger
        self._mail_server = mail_server
        self._clock = clock
        self._random = random
        self._rate = rate
        self._queued = db.listen("marketing_campaign")
        self._ended = metrics.counter("deliveries", "Campaign mails that came to an end", ("outcome",))
        self._postponed = metrics.counter("deliveries_postponed", "Attempts that came to nothing yet", ("reason",))
        for outcome in (*_END, "skipped"):
            self._ended.labels(outcome)  # from 0 on, so that the first one is seen to be one more
        self._waiting = metrics.gauge("deliveries_waiting", "Campaign mails that are not at an end", ("state",))
        metrics.at_scrape(self._measure, self._waiting)

    async def _measure(self) -> None:
        for state, number in await store.waiting_deliveries(self._db):
            self._waiting.labels(state).set(number)

    async def run(self) -> None:
        """Until cancelled. What PostgreSQL, subjects, the ledger or the mail server do only slows it down."""
        backoff = Backoff()
        while True:
            try:
                async with self._db.lock("campaigns") as lock, asyncio.TaskGroup() as group:
                    backoff.reset()
                    group.create_task(self._keep(lock))
                    group.create_task(self._work(self._queued))
            except* Unavailable:
                log.warning("campaigns-wait", service="postgresql")
            await backoff.pause()

    async def _keep(self, lock: Lock) -> None:
        while True:
            await lock.still_held()
            await asyncio.sleep(2)

    async def _work(self, queued: Signal) -> None:
        for delivery, use in await store.attempted_deliveries(self._db):
            await self._end(delivery, delivery.attempt, use, "unknown", {})
        while True:
            now = self._clock()
            due = await store.due_deliveries(self._db, now, 1 if self._rate else BATCH)
            if due:
                await self._send_all(due)
                continue
            await store.forget_permits(self._db, now - PERMITS_KEPT)
            next_at = await store.next_delivery_at(self._db)
            until = (next_at - now).total_seconds() if next_at is not None else SAFETY_NET_SECONDS
            await queued.wait(min(max(until, 0.05), SAFETY_NET_SECONDS))

    async def _send_all(self, due: Sequence[Delivery]) -> None:
        began = asyncio.get_running_loop().time()
        sending = [asyncio.create_task(self.send(delivery)) for delivery in due]
        try:
            await asyncio.wait(sending)
        except asyncio.CancelledError:
            # A mail on the wire is not torn off it, so that its end is known; what takes too long ends as `unknown`.
            await asyncio.wait(sending, timeout=LAST_MAILS_SECONDS)
            raise
        finally:
            for task in sending:
                task.cancel()
        for task in sending:
            task.result()
        if self._rate:
            await asyncio.sleep(max(0.0, began + len(due) / self._rate - asyncio.get_running_loop().time()))

    async def send(self, delivery: Delivery) -> None:
        """One attempt at one delivery; every way out of here leaves its state in its row. Unavailable: of PostgreSQL,
        before anything was done."""
        attempt = delivery.attempt + 1
        try:
            permit = await self._ask(delivery, attempt)
        except NotInRegister:
            # The purpose was in the register when the campaign began.
            await self._skip(delivery, attempt, "unknown-purpose")
            return
        if permit.decision != "granted":
            await self._not_granted(delivery, attempt, permit.reason)
            return
        try:
            address = await self._address(delivery)
            raw = self._letters.issue(delivery, address)
            archived = await self._archive(delivery, raw)
        except Unavailable as error:
            if error.service == "postgresql":
                raise
            await self._again(delivery, attempt, f"{error.service}-unavailable")
            return
        except Refused as error:
            if error.code in _NOT_LET_IN:
                # A matter of installation that may still be put right.
                log.warning("not-let-in", reason=error.code)
                await self._again(delivery, attempt, error.code)
            else:
                await self._skip(delivery, attempt, error.code)
            return
        used = self._used(delivery, permit)
        use = Use(permit.id, used.id, archived)
        try:
            redeemed = await handlers.use_permit(self._db, delivery.statement, attempt, use, used, self._clock())
        except Unavailable:
            # Whether it was redeemed is not known; nothing left, and this says so whichever it was.
            await self._take_back(delivery, attempt, use, "postgresql-unavailable")
            return
        if not redeemed:
            # Withdrawn meanwhile, or too slow: the next attempt is told which.
            self._postponed.labels("permit-void").inc()
            await store.wait_again(self._db, delivery.statement, attempt, self._clock(), "permit-void")
            return
        # If we are stopped here for long, another sender takes over and people are told that nothing more comes:
        # a mail leaves while its permit lives, or not at all.
        alive = (permit.issued_at + domain.PERMIT_LIVES - self._clock()).total_seconds()
        reply = await self._mail_server.deliver(raw, self._letters.sender, address, within=alive)
        if reply.outcome == "deferred" and not reply.uncertain and attempt < domain.MOST_ATTEMPTS:
            log.info("mail-deferred", delivery=delivery.statement, attempt=attempt, code=reply.code)
            await self._take_back(delivery, attempt, use, "mail-server-deferred")
            return
        outcome: Outcome = "accepted" if reply.outcome == "accepted" else "unknown" if reply.uncertain else "refused"
        await self._end(delivery, attempt, use, outcome, await self._sealed_reply(delivery, reply))

    async def _ask(self, delivery: Delivery, attempt: int) -> Permit:
        message_id = self._letters.message_id(delivery)
        return await self._permits.ask(Ask(delivery.subject, delivery.purpose, delivery.channel, message_id, attempt))

    async def _not_granted(self, delivery: Delivery, attempt: int, reason: str) -> None:
        if domain.passes_by_itself(reason):
            await self._again(delivery, attempt, reason)
        else:
            await self._skip(delivery, attempt, reason)

    async def _again(self, delivery: Delivery, attempt: int, reason: str) -> None:
        if attempt >= domain.MOST_ATTEMPTS:
            await self._skip(delivery, attempt, reason)
            return
        self._postponed.labels(reason).inc()
        not_before = self._clock() + domain.pause_after(attempt)
        await store.wait_again(self._db, delivery.statement, attempt, not_before, reason)

    async def _skip(self, delivery: Delivery, attempt: int, reason: str) -> None:
        await store.skip(self._db, delivery.statement, attempt, reason)
        self._ended.labels("skipped").inc()

    async def _take_back(self, delivery: Delivery, attempt: int, use: Use, reason: str) -> None:
        self._postponed.labels(reason).inc()
        not_before = self._clock() + domain.pause_after(attempt)
        await _until_available(
            lambda: handlers.take_back(self._db, delivery.statement, use, self._clock(), not_before, reason)
        )

    async def _address(self, delivery: Delivery) -> str:
        opened = await self._subjects.post(
            "/subjects/open",
            json={
                "subject": delivery.subject,
                "scope": "advertising",
                "purpose": delivery.purpose,
                "channel": delivery.channel,
                "reason": "campaign mail under a permit",
                "items": [],
            },
        )
        try:
            return str(opened.json()["contact"]["typed"])
        except (KeyError, TypeError):
            raise Unavailable("subjects") from None

    async def _archive(self, delivery: Delivery, raw: bytes) -> Attachment:
        """Keep the exact bytes before they go out, under the first number that is free or holds these very bytes.

        A number is taken by other bytes only if an earlier attempt wrote the mail differently, say by an older
        template. Which one was sent is what the MessageSent names.
        """
        for number in ATTACHMENTS:
            item: dict[str, object] = {
                "statement": delivery.statement,
                "compartment": f"attachment/{number}",
                "content": base64url(raw),
            }
            try:
                _, [sealed] = await seal(self._subjects, CONTROLLER, [item], subject=delivery.subject)
            except Refused as error:
                if error.status != _CONFLICT:
                    raise
            else:
                return await store_attachment(self._ledger, sealed, "newsletter")
        raise Refused("no-compartment-left", "All compartments of this mail are taken.", status=_CONFLICT)

    async def _sealed_reply(self, delivery: Delivery, reply: Answer) -> dict[str, Sealed]:
        """The mail server's answer may quote the address, so it is sealed. The mail has left: we wait for that."""
        item: dict[str, object] = {
            "statement": delivery.statement,
            "compartment": "evidence",
            "fields": {"smtp_code": reply.code, "smtp_answer": reply.text},
        }
        try:
            _, [part] = await _until_available(
                lambda: seal(self._subjects, CONTROLLER, [item], subject=delivery.subject)
            )
        except Refused as error:
            log.warning("answer-not-sealed", reason=error.code, delivery=delivery.statement)
            return {}
        return {"evidence": Sealed(ciphertext=base64url(part.ciphertext), key_hash=part.key_hash)}

    async def _end(
        self, delivery: Delivery, attempt: int, use: Use, outcome: Outcome, sealed: dict[str, Sealed]
    ) -> None:
        try:
            sent = self._statement(self._sent(delivery, attempt, use, outcome, sealed), delivery.statement, delivery)
        except NotInRegister:
            # Only of a delivery that an earlier sender attempted. The ledger would refuse to record it: its
            # ConsentUsed stands in the record, what became of the mail only here.
            log.warning("unknown-purpose", delivery=delivery.statement, outcome=outcome)
            sent = None
        await _until_available(
            lambda: handlers.end_delivery(self._db, delivery.statement, use, _END[outcome], sent, self._clock())
        )
        self._ended.labels(outcome).inc()

    def _sent(
        self, delivery: Delivery, attempt: int, use: Use, outcome: Outcome, sealed: dict[str, Sealed]
    ) -> MessageSent:
        return MessageSent(
            **self._common(delivery),
            kind="newsletter",
            channel=delivery.channel,
            purpose=delivery.purpose,
            permit=use.permit,
            message_id=self._letters.message_id(delivery),
            delivery="at-most-once",
            attempts=attempt,
            outcome=outcome,
            follows=[use.used],
            attachments=[use.archived],
            sealed=sealed,
        )

    def _common(self, delivery: Delivery) -> dict[str, Any]:
        return {
            "controller": CONTROLLER,
            "sender": CONTROLLER,
            "act": delivery.statement,
            "by": "controller",
            "activity": self._register.activity_of(delivery.purpose, delivery.channel).id,
            "register_version": self._register.version,
            "software": self._software,
        }

    def _used(self, delivery: Delivery, permit: Permit) -> Statement:
        assert permit.relied_on is not None  # noqa: S101 - a granted permit rests on a statement
        assert permit.all_before is not None  # noqa: S101 - and on marks
        data = ConsentUsed(
            **self._common(delivery),
            purpose=delivery.purpose,
            channel=delivery.channel,
            follows=[permit.relied_on],
            permit=UsedPermit(
                id=permit.id,
                shard=permit.shard,
                size=str(permit.size),
                issued_at=rfc3339(permit.issued_at),
                all_before=permit.all_before,
            ),
            message_id=permit.message_id,
        )
        return self._statement(data, uuid7(self._clock(), self._random), delivery)

    def _statement(self, data: ConsentUsed | MessageSent, statement: str, delivery: Delivery) -> Statement:
        return Statement.of(
            data, id=statement, source="marketing", subject=delivery.subject, time=rfc3339(self._clock())
        )


async def _until_available(operation: Callable[[], Awaitable[Result]]) -> Result:
    """Past the point of no return what follows is repeated until it is done, and repeating it changes nothing."""
    backoff = Backoff()
    while True:
        try:
            return await operation()
        except Unavailable:
            await backoff.pause()
