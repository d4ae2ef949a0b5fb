"""Sends campaigns: for each mail a permit, the address, the use in one transaction, SMTP, the answer in another.

A campaign mail is sent at most once. Whoever stops between the use and the answer leaves the delivery `attempted`;
the next start states it as `unknown` and never sends it again.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from services.marketing import handlers, store
from shared import logs
from shared.clock import rfc3339
from shared.errors import Refused, Unavailable
from shared.events import Statement
from shared.events.types import Attachment, ConsentUsed, MessageSent, Permit, Sealed
from shared.identifiers import uuid7
from shared.mail import Letter, archive, base64url, compose, message_id, seal, sign
from shared.way_out import WayOut, mint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from jinja2 import Environment

    from services.marketing.worker import Horizons
    from shared.client import ServiceClient
    from shared.clock import Clock
    from shared.database import Database, Signal
    from shared.identifiers import Random
    from shared.mail import MailServer
    from shared.register import Register

SAFETY_NET_SECONDS: Final = 5.0
NOT_YET: Final = frozenset({"no-heartbeat", "behind", "stale"})
"""Reasons that pass by themselves; any other refusal ends the delivery."""
RETRY_AFTER: Final = timedelta(seconds=2)
UNREACHABLE_AFTER: Final = timedelta(seconds=15)
MOST_ATTEMPTS: Final = 20
PERMITS_KEPT: Final = timedelta(days=1)
"""So long the same attempt is answered the same; what was used stands in the ledger."""
CONTROLLER: Final = "controller"
Outcome = Literal["accepted", "refused", "unknown"]
END_STATE: Final[dict[Outcome, str]] = {"accepted": "sent", "refused": "refused", "unknown": "unknown"}

log = logs.logger("marketing.sender")


@dataclass(frozen=True, slots=True)
class Sender:
    """Everything a campaign needs, passed in."""

    db: Database
    horizons: Horizons
    register: Register
    subjects: ServiceClient
    ledger: ServiceClient
    mail_server: MailServer
    mail_domain: str
    mail_from: str
    base_url: str
    dkim: tuple[str, bytes]
    way_out_keys: Mapping[int, bytes]
    clock: Clock
    random: Random
    templates: Environment
    rate: float

    async def run(self) -> None:
        """One sender at a time per database; whoever queues a campaign wakes it, a timer is the safety net."""
        queued = self.db.listen("marketing_campaign")
        while True:
            try:
                async with self.db.lock("campaign sender") as lock:
                    await self._state_interrupted()
                    while True:
                        await lock.still_held()
                        await self._send_what_waits(queued)
            except Unavailable as error:
                log.warning("waiting", service=error.service)
                await asyncio.sleep(error.retry_after)

    async def _send_what_waits(self, queued: Signal) -> None:
        delivery = await store.next_delivery(self.db, self.clock())
        if delivery is None:
            next_at = await store.next_delivery_at(self.db)
            until = (next_at - self.clock()).total_seconds() if next_at else SAFETY_NET_SECONDS
            await store.forget_permits(self.db, self.clock() - PERMITS_KEPT)
            await queued.wait(min(max(until, 0.05), SAFETY_NET_SECONDS))
            return
        await self.send(delivery)
        if self.rate > 0:
            await asyncio.sleep(1 / self.rate)

    async def send(self, delivery: Mapping[str, Any]) -> None:
        """One attempt at one delivery; every way out of here leaves its state in the table."""
        statement, subject, attempt = str(delivery["statement"]), delivery["subject"], delivery["attempt"] + 1
        purpose, channel = delivery["purpose"], delivery["channel"]
        mail = message_id(statement, self.mail_domain)
        answer = await handlers.ask_permit(
            self.db,
            handlers.Ask(subject, purpose, channel, mail, attempt),
            self.horizons.of(int(subject.split(".", 1)[0])),
            self.register.restricting_sources(purpose, channel),
            self.clock(),
            self.random,
        )
        if not answer.granted:
            await self._not_granted(statement, attempt, answer.reason)
            return
        try:
            address = await self._address(subject, purpose, channel)
            raw = self._compose(delivery, mail, address)
            attachment = await archive(
                self.subjects, self.ledger,
                controller=CONTROLLER, subject=subject, statement_id=statement, kind="newsletter", raw=raw,
            )  # fmt: skip
        except Unavailable as error:
            await store.postpone(
                self.db, statement, attempt, self.clock() + RETRY_AFTER, f"{error.service}-unavailable"
            )
            return
        except Refused as error:
            await store.finish_delivery(self.db, statement, "skipped", error.code)
            return
        used = self._used(delivery, answer, mail)
        if not await handlers.use_permit(self.db, statement, attempt, answer, used, self.clock()):
            # Withdrawn meanwhile, or too slow: the next attempt asks anew and is told which.
            await store.postpone(self.db, statement, attempt, self.clock(), "permit-void")
            return
        reply = await self.mail_server.deliver(raw, self.mail_from, address)
        if reply.outcome == "deferred" and not reply.uncertain:
            # The server said not now, or was not reached: nothing has left, so a later attempt breaks no promise.
            await self._again_later(statement, attempt, answer.permit)
            return
        outcome: Outcome = "unknown" if reply.outcome == "deferred" else reply.outcome
        sealed = await self._sealed_reply(subject, statement, reply.code, reply.text)
        sent = self._sent(delivery, statement, answer.permit, used.id, attempt, outcome, [attachment], sealed)
        await self._until_stored(lambda: handlers.end_delivery(
            self.db, statement, answer.permit, END_STATE[outcome], sent, self.clock()
        ))  # fmt: skip

    async def _again_later(self, statement: str, attempt: int, permit: str) -> None:
        async def store_it() -> None:
            async with self.db.transaction() as tx:
                await store.finish_permit(tx, permit, self.clock())
                await store.postpone(tx, statement, attempt, self.clock() + UNREACHABLE_AFTER, "mail-server-deferred")

        await self._until_stored(store_it)

    async def _not_granted(self, statement: str, attempt: int, reason: str) -> None:
        if reason in NOT_YET and attempt < MOST_ATTEMPTS:
            await store.postpone(self.db, statement, attempt, self.clock() + RETRY_AFTER, reason)
        else:
            await store.finish_delivery(self.db, statement, "skipped", reason)

    async def _address(self, subject: str, purpose: str, channel: str) -> str:
        opened = await self.subjects.post(
            "/subjects/open",
            json={
                "subject": subject,
                "scope": "advertising",
                "purpose": purpose,
                "channel": channel,
                "reason": "campaign mail under a permit",
                "items": [],
            },
        )
        return str(opened.json()["contact"]["typed"])

    def _compose(self, delivery: Mapping[str, Any], mail: str, address: str) -> bytes:
        """The mail's exact bytes; the same at every attempt, since its date is the campaign's and its id is fixed."""
        language = delivery["language"]
        text = json.loads(delivery["texts"])[language]
        way_out = WayOut(delivery["subject"], ((delivery["purpose"], delivery["channel"]),), str(delivery["statement"]))
        url = f"{self.base_url}/newsletter/unsubscribe/{mint(self.way_out_keys, way_out)}"
        values = {"language": language, "text": text, "way_out": url}
        selector, key = self.dkim
        letter = Letter(
            message_id=mail,
            date=delivery["created_at"],
            sender_name=self.register.parties[CONTROLLER].name,
            sender=self.mail_from,
            to=address,
            subject=text["subject"],
            text=self.templates.get_template("issue.txt").render(values),
            html=self.templates.get_template("issue.html").render(values),
            language=language,
            way_out_url=url,
            auto_submitted=False,
        )
        return sign(compose(letter), self.mail_domain, selector, key, delivery["created_at"])

    async def _sealed_reply(self, subject: str, statement: str, code: int, text: str) -> dict[str, Sealed]:
        """The mail server's answer may quote the address, so it is sealed. The mail has left: we do not give up."""
        item: dict[str, object] = {
            "statement": statement,
            "compartment": "evidence",
            "fields": {"smtp_code": code, "smtp_answer": text},
        }
        while True:
            try:
                _, [part] = await seal(self.subjects, CONTROLLER, [item], subject=subject)
            except Unavailable as error:
                await asyncio.sleep(error.retry_after)
            except Refused as error:
                log.warning("answer-not-sealed", reason=error.code, statement=statement)
                return {}
            else:
                return {"evidence": Sealed(ciphertext=base64url(part.ciphertext), key_hash=part.key_hash)}

    async def _until_stored(self, operation: Callable[[], Awaitable[None]]) -> None:
        """The mail has left; if PostgreSQL does not answer we wait, since asking twice changes nothing."""
        while True:
            try:
                await operation()
            except Unavailable as error:
                await asyncio.sleep(error.retry_after)
            else:
                return

    async def _state_interrupted(self) -> None:
        for delivery in await store.interrupted(self.db):
            statement, permit, used = str(delivery["statement"]), str(delivery["permit"]), str(delivery["used"])
            sent = self._sent(delivery, statement, permit, used, delivery["attempt"], "unknown", [], {})
            await handlers.end_delivery(self.db, statement, permit, "unknown", sent, self.clock())

    def _common(self, delivery: Mapping[str, Any], act: str) -> dict[str, Any]:
        return {
            "controller": CONTROLLER,
            "sender": CONTROLLER,
            "act": act,
            "by": "controller",
            "activity": self.register.activity_of(delivery["purpose"], delivery["channel"]).id,
            "register_version": self.register.version,
        }

    def _used(self, delivery: Mapping[str, Any], answer: handlers.Answer, mail: str) -> Statement:
        now = self.clock()
        assert answer.relied_on is not None  # noqa: S101 - a granted permit relies on a statement
        assert answer.all_before is not None  # noqa: S101 - and on marks
        data = ConsentUsed(
            **self._common(delivery, uuid7(now, self.random)),
            purpose=delivery["purpose"],
            channel=delivery["channel"],
            follows=[answer.relied_on],
            permit=Permit(
                id=answer.permit,
                shard=answer.shard,
                size=str(answer.size),
                issued_at=answer.issued_at,
                all_before=answer.all_before,
            ),
            message_id=mail,
        )
        return self._statement(data, uuid7(now, self.random), delivery["subject"], now)

    def _sent(
        self,
        delivery: Mapping[str, Any],
        statement: str,
        permit: str,
        used: str,
        attempt: int,
        outcome: Outcome,
        attachments: list[Attachment],
        sealed: dict[str, Sealed],
    ) -> Statement:
        now = self.clock()
        data = MessageSent(
            **self._common(delivery, used),
            kind="newsletter",
            channel=delivery["channel"],
            purpose=delivery["purpose"],
            permit=permit,
            message_id=message_id(statement, self.mail_domain),
            delivery="at-most-once",
            attempts=attempt,
            outcome=outcome,
            follows=[used],
            attachments=attachments,
            sealed=sealed,
        )
        return self._statement(data, statement, delivery["subject"], now)

    @staticmethod
    def _statement(data: ConsentUsed | MessageSent, statement: str, subject: str, now: datetime) -> Statement:
        return Statement.of(data, id=statement, source="marketing", subject=subject, time=rfc3339(now))
