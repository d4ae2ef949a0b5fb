"""The back door: sends the mails that wait, and ends what nobody confirmed.

The order of effects for a mail, and what holds if we stop:
1. open what it needs, write it, seal its exact bytes, archive them, keep them sealed in its row. Stop before: it is
   written again, to the same bytes. Stop after: these bytes are what is sent, however often;
2. note that it is on its way, unless it was cancelled. Stop after: it is sent again, under the same Message-ID, and
   its record says how often; if nobody wants it any more its record says `unknown`;
3. hand it to the mail server;
4. seal the answer, then in one transaction: end the row, forget what it needed, state MessageSent.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar

from services.newsletter import handlers, store
from services.newsletter.domain import Asked, Request, Speaker, message_sent
from services.newsletter.letters import Letters
from services.newsletter.store import Mail
from shared import logs
from shared.backoff import Backoff
from shared.client import ServiceClient
from shared.clock import Clock
from shared.database import Database, Lock
from shared.errors import Corrupt, Refused, Unavailable
from shared.events.types import Attachment, Sealed, Statement
from shared.identifiers import Random, uuid7
from shared.mail import Answer, MailServer, message_id
from shared.metrics import Metrics
from shared.sealing import Compartment, base64url, from_base64url, seal
from shared.sealing import store as store_attachment

log = logs.logger("newsletter.mails")

BATCH: Final = 8
SAFETY_NET_SECONDS: Final = 5.0
LONGEST_PAUSE: Final = timedelta(minutes=5)
GIVE_UP_AFTER: Final = timedelta(days=5)
"""As RFC 5321 §4.5.4.1 suggests; a confirmation ends earlier, with its request."""
ATTACHMENTS: Final = range(10)
_UNKNOWN: Final = 404
_CONFLICT: Final = 409
_GONE: Final = frozenset({404, 410})

Outcome = Literal["accepted", "refused", "unknown"]
Result = TypeVar("Result")


def pause_after(attempt: int) -> timedelta:
    """1, 2, 4 … seconds, five minutes at most: a server that is back is noticed soon, one that is down left alone."""
    return min(timedelta(seconds=2 ** min(attempt - 1, 20)), LONGEST_PAUSE)


@dataclass(frozen=True, slots=True)
class Written:
    """A mail as it goes out: to whom, the exact bytes, and where they are archived."""

    to: str
    raw: bytes
    attachment: Attachment


class Mails:
    """One worker at a time per database works the queue; others wait to take over."""

    def __init__(
        self,
        *,
        db: Database,
        speaker: Speaker,
        letters: Letters,
        subjects: ServiceClient,
        ledger: ServiceClient,
        server: MailServer,
        clock: Clock,
        random: Random,
        metrics: Metrics,
    ) -> None:
        self._db = db
        self._speaker = speaker
        self._letters = letters
        self._subjects = subjects
        self._ledger = ledger
        self._server = server
        self._clock = clock
        self._random = random
        self._queued = db.listen("newsletter_mail")
        self._sealed = db.listen("newsletter_sealed")
        self._waiting = metrics.gauge("mails_waiting", "Transactional mails that are not sent yet", ("state",))
        self._oldest = metrics.gauge("mail_oldest_seconds", "Age of the oldest of these mails", ("state",))
        metrics.at_scrape(self._measure, self._waiting, self._oldest)
        self._postponed = metrics.counter("mails_postponed", "Attempts at mails that came to nothing yet", ("reason",))
        self._ended = metrics.counter("mails_ended", "Transactional mails that came to an end", ("kind", "outcome"))

    async def run(self) -> None:
        """Until cancelled. What PostgreSQL, subjects, the ledger or the mail server do only slows it down."""
        backoff = Backoff()
        while True:
            try:
                async with self._db.lock("mails") as lock, asyncio.TaskGroup() as group:
                    backoff.reset()
                    group.create_task(self._keep(lock))
                    group.create_task(self._release())
                    group.create_task(self._work())
            except* Unavailable:
                log.warning("mails-wait", service="postgresql")
            await backoff.pause()

    async def _keep(self, lock: Lock) -> None:
        while True:
            await lock.still_held()
            await asyncio.sleep(2)

    async def _release(self) -> None:
        """Welcomes are held until the ledger has sealed what they welcome to; the relay says when to look."""
        while True:
            if await store.release_welcomes(self._db, self._clock()):
                self._queued.notify()
            await self._sealed.wait(SAFETY_NET_SECONDS)

    async def _work(self) -> None:
        while True:
            now = self._clock()
            due = await store.due_mails(self._db, now, BATCH)
            if not due:
                next_at = await store.next_mail_at(self._db)
                until = (next_at - now).total_seconds() if next_at is not None else SAFETY_NET_SECONDS
                await self._queued.wait(min(max(until, 0.05), SAFETY_NET_SECONDS))
                continue
            # All come to their own end before an error of one is looked at: a mail on the wire is not torn off it.
            ends = await asyncio.gather(*(self.attend(mail) for mail in due), return_exceptions=True)
            for mail, end in zip(due, ends, strict=True):
                if isinstance(end, (Unavailable, Corrupt)) or not isinstance(end, Exception | None):
                    raise end
                if end is not None:
                    # One mail that cannot be written must not keep the others, nor end the process again and again.
                    log.error("mail-failed", mail=mail.id, exc_info=end)
                    self._postponed.labels("failed").inc()
                    uncertain = mail.handed_at is not None
                    await store.postpone(self._db, mail.id, self._clock() + LONGEST_PAUSE, uncertain=uncertain)

    async def _measure(self) -> None:
        for row in await store.waiting_mails(self._db):
            self._waiting.labels(row["state"]).set(row["number"])
            self._oldest.labels(row["state"]).set(row["seconds"])

    async def attend(self, mail: Mail) -> None:
        """One attempt at one mail; each way out of here leaves its state in the row. Unavailable only of PostgreSQL."""
        request = await store.request(self._db, mail.request)
        now = self._clock()
        wanted = not mail.cancelled and (mail.kind == "welcome" or request.state_at(now) == "open")
        if not wanted or now - mail.created_at > GIVE_UP_AFTER:
            await self._end_unwanted(mail, request)
            return
        try:
            written = await self._written(mail, request)
        except Refused as error:
            if error.status in _GONE:
                # Erased: there is nobody to write to any more.
                await self._end_unwanted(mail, request)
                return
            log.warning("mail-refused", mail=mail.id, reason=error.code)
            self._postponed.labels(error.code).inc()
            await store.postpone(self._db, mail.id, now + LONGEST_PAUSE, uncertain=mail.handed_at is not None)
            return
        except Unavailable as error:
            if error.service == "postgresql":
                raise
            self._postponed.labels(f"{error.service}-unavailable").inc()
            until = now + timedelta(seconds=error.retry_after)
            await store.postpone(self._db, mail.id, until, uncertain=mail.handed_at is not None)
            return
        attempt = await store.hand_over(self._db, mail.id, self._clock())
        if attempt is None:
            return
        # If we stop from here on, the mail may have left; it is sent again with the same bytes.
        answer = await self._server.deliver(written.raw, self._letters.sender, written.to)
        if answer.outcome == "deferred":
            log.info("mail-deferred", mail=mail.id, attempt=attempt, code=answer.code)
            self._postponed.labels("mail-server-deferred").inc()
            uncertain = answer.uncertain or mail.handed_at is not None
            until = self._clock() + pause_after(attempt)
            await store.postpone(self._db, mail.id, until, uncertain=uncertain)
            return
        evidence, more = await self._sealed_answer(request, mail, answer, attempt)
        await self._end(mail, request, answer.outcome, attempt, [written.attachment, *more], evidence)

    async def _written(self, mail: Mail, request: Request) -> Written:
        """The mail's bytes: those kept from an earlier attempt, else written now, archived and kept."""
        if mail.letter is not None and mail.attachment is not None:
            _, fields = await self._opened(mail.letter, mail, request)
            return Written(fields["to"], base64.b64decode(fields["raw"]), mail.attachment)
        if mail.brief is None:
            raise Refused("nothing-to-write", "The mail's brief is gone.", status=404)
        to, fields = await self._opened(mail.brief, mail, request)
        if mail.kind == "confirmation":
            raw = self._letters.confirmation(mail, request, to, fields["token"])
        else:
            raw = self._letters.welcome(mail, request, to, _receipts(mail, request, fields))
        letter = uuid7(self._clock(), self._random)
        kept: dict[str, object] = {
            "statement": letter,
            "compartment": "brief",
            "fields": {"to": to, "raw": base64.b64encode(raw).decode("ascii")},
        }
        archived, sealed = await self._sealed_part(mail.id, request, {"content": base64url(raw)}, 0, kept)
        attachment = await store_attachment(self._ledger, archived, mail.kind)
        await store.put_letter(self._db, mail.id, sealed, attachment)
        return Written(to, raw, attachment)

    async def _opened(self, sealed: Compartment, mail: Mail, request: Request) -> tuple[str, dict[str, Any]]:
        """The address and a brief's fields, for a transactional mail."""
        answer = await self._subjects.post(
            "/subjects/open",
            json={
                "subject": request.subject,
                "scope": "transactional",
                "purpose": request.asked[0].purpose,
                "channel": request.asked[0].channel,
                "reason": f"{mail.kind} mail",
                "items": [
                    {
                        "statement": sealed.statement,
                        "compartment": "brief",
                        "ciphertext": base64url(sealed.ciphertext),
                        "key_hash": sealed.key_hash,
                    }
                ],
            },
        )
        opened = answer.json()
        return str(opened["contact"]["typed"]), dict(opened["items"][0]["fields"])

    async def _sealed_part(
        self, mail: str, request: Request, content: dict[str, object], first: int, *others: dict[str, object]
    ) -> list[Compartment]:
        """Seal an attachment of this mail under the first free number, together with others.

        A number is taken only if we stopped after sealing and before committing and the bytes have changed since,
        say by a new template. Which one was sent is what the MessageSent names.
        """
        for number in ATTACHMENTS[first:]:
            item: dict[str, object] = {"statement": mail, "compartment": f"attachment/{number}", **content}
            try:
                _, sealed = await seal(
                    self._subjects, self._speaker.controller, [item, *others], subject=request.subject
                )
            except Refused as error:
                if error.status != _CONFLICT:
                    raise
            else:
                return sealed
        raise Refused("no-compartment-left", "All compartments of this mail are taken.", status=_CONFLICT)

    async def _sealed_answer(
        self, request: Request, mail: Mail, answer: Answer, attempt: int
    ) -> tuple[Sealed | None, list[Attachment]]:
        """The mail server's answer, which may quote the address. The mail has left, so we wait until it is sealed."""
        fields = {"smtp_code": answer.code, "smtp_answer": answer.text, "attempt": attempt}
        item: dict[str, object] = {"statement": mail.id, "compartment": "evidence", "fields": fields}
        controller = self._speaker.controller
        try:
            _, [sealed] = await _until_available(
                lambda: seal(self._subjects, controller, [item], subject=request.subject)
            )
            return Sealed(ciphertext=base64url(sealed.ciphertext), key_hash=sealed.key_hash), []
        except Refused as error:
            if error.status != _CONFLICT:
                log.warning("answer-not-sealed", mail=mail.id, reason=error.code)
                return None, []
        # An answer was sealed before and never stated: we stopped in between, and the server worded this one
        # differently. It is kept beside the mail.
        content = base64url(f"{answer.code} {answer.text}\n".encode())
        [part] = await _until_available(lambda: self._sealed_part(mail.id, request, {"content": content}, 1))
        kept = await _until_available(lambda: store_attachment(self._ledger, part, "smtp-answer", "text/plain"))
        return None, [kept]

    async def _end_unwanted(self, mail: Mail, request: Request) -> None:
        """Nobody waits for it any more. If it may have left, the record says so; else there is nothing to record."""
        if mail.handed_at is None:
            await handlers.end_mail(self._db, mail.id, "dropped", None, self._clock())
            self._ended.labels(mail.kind, "dropped").inc()
        else:
            attachments = [] if mail.attachment is None else [mail.attachment]
            await self._end(mail, request, "unknown", mail.attempts, attachments, None)

    async def _end(
        self,
        mail: Mail,
        request: Request,
        outcome: Outcome,
        attempts: int,
        attachments: Sequence[Attachment],
        evidence: Sealed | None,
    ) -> None:
        follows = [asked.statement for asked in request.asked] if mail.kind == "confirmation" else mail.recorded
        sent: Statement = message_sent(
            self._speaker,
            request,
            mail=mail.id,
            kind=mail.kind,
            message_id=message_id(mail.id, self._letters.mail_domain),
            attempts=attempts,
            outcome=outcome,
            follows=follows,
            attachments=attachments,
            evidence=evidence,
            now=self._clock(),
        )
        await _until_available(lambda: handlers.end_mail(self._db, mail.id, outcome, sent, self._clock()))
        self._ended.labels(mail.kind, outcome).inc()


def _receipts(mail: Mail, request: Request, fields: dict[str, Any]) -> list[tuple[Asked, str, bytes]]:
    """The consents that took effect, in the order of the form, each with the key to its receipt."""
    by_purpose = {receipt["purpose"]: receipt for receipt in fields["receipts"]}
    found = []
    for asked in request.asked:
        receipt = by_purpose.get(asked.key)
        if receipt is not None and receipt["statement"] in mail.recorded:
            found.append((asked, str(receipt["statement"]), from_base64url(receipt["key"])))
    return found


async def _until_available(operation: Callable[[], Awaitable[Result]]) -> Result:
    """The mail has left: what follows is repeated until it is done, and repeating it changes nothing."""
    backoff = Backoff()
    while True:
        try:
            return await operation()
        except Unavailable:
            await backoff.pause()


class Sweeper:
    """Ends requests that nobody confirmed, and deletes them when the register says so."""

    def __init__(
        self,
        db: Database,
        speaker: Speaker,
        clock: Clock,
        random: Random,
        metrics: Metrics | None = None,
        erasure: ServiceClient | None = None,
    ) -> None:
        """`erasure` is who orders that an address goes from everywhere that nobody ever confirmed; else it waits."""
        self._db = db
        self._speaker = speaker
        self._erasure = erasure
        self._clock = clock
        self._random = random
        metrics = metrics or Metrics("newsletter")
        self._overdue = metrics.gauge(
            "sweep_overdue_seconds", "For how long what the register sets an end to has been past it", ("duty",)
        )
        metrics.at_scrape(self._measure, self._overdue)

    async def _measure(self) -> None:
        row = await store.sweep_overdue(self._db)
        for duty in ("expiry", "deletion"):
            self._overdue.labels(duty).set(row[duty] if row is not None else 0)

    async def run(self) -> None:
        """Until cancelled. Any number may run: each row is taken by one."""
        backoff = Backoff()
        while True:
            try:
                await self.sweep()
                deadline = await store.next_deadline(self._db)
            except Unavailable:
                await backoff.pause()
                continue
            backoff.reset()
            until = (deadline - self._clock()).total_seconds() if deadline is not None else 30.0
            await asyncio.sleep(min(max(until, 0.2), 30.0))

    async def sweep(self) -> None:
        """Everything that is due now."""
        while await handlers.expire(self._db, self._speaker, self._clock(), self._random) == handlers.SWEEP_BATCH:
            pass
        while await handlers.purge(self._db, self._speaker, self._clock(), self._random) == handlers.SWEEP_BATCH:
            pass
        if self._erasure is not None:
            await self._order_erasures(self._erasure)

    async def _order_erasures(self, erasure: ServiceClient) -> None:
        """One order a subject, however often it is asked for; who turns out to have agreed to something stays."""
        for subject in await store.unclaimed(self._db, handlers.SWEEP_BATCH):
            body = {"subject": subject, "reason": "no-longer-needed", "by": "controller", "unless_claimed": True}
            try:
                await erasure.post("/erasure/orders", json=body, timeout=30)
            except Refused as error:
                if error.status not in {_CONFLICT, _UNKNOWN}:
                    raise Unavailable("erasure") from None
            await store.forget_unclaimed(self._db, subject)
