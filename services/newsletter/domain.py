"""The law of the newsletter: what a form may say, and which statements each act amounts to. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from shared.clock import rfc3339
from shared.contact_points import ContactPoint, parse_email
from shared.errors import Corrupt, Refused
from shared.events.types import (
    Attachment,
    ConsentExpired,
    ConsentGiven,
    ConsentRefused,
    ConsentRequested,
    ConsentWithdrawn,
    Data,
    MessageSent,
    Notice,
    NoticePublished,
    RetentionExecuted,
    Sealed,
    Served,
    Statement,
)
from shared.identifiers import SYSTEM_SUBJECT, Random, uuid7
from shared.register import Activity, Purpose, Register

ACTIVITY: Final = "newsletter"
SOURCE: Final = "newsletter"
MAX_TYPED: Final = 320

Scope = Literal["purpose", "everything"]
RequestState = Literal["open", "confirmed", "expired", "voided"]


def key_of(purpose: str, channel: str) -> str:
    """`purpose/channel`, as forms and matters write it."""
    return f"{purpose}/{channel}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field of the form. `field` is `email`, `purposes` or a purpose's key."""

    field: str
    code: str


@dataclass(frozen=True, slots=True)
class Form:
    """What somebody typed and ticked, kept exactly so that nothing is lost when the form is shown again."""

    typed: str = field(default="", repr=False)
    ticked: frozenset[str] = frozenset()

    @classmethod
    def read(cls, fields: Mapping[str, Sequence[str]], purposes: Sequence[Purpose]) -> Form:
        """The form's fields; Refused if they are none that a form with these boxes has."""
        typed, ticked = fields.get("email", [""]), frozenset(fields.get("purpose", []))
        asked = {purpose.key for purpose in purposes}
        if len(typed) != 1 or len(typed[0]) > MAX_TYPED or not ticked <= asked:
            raise Refused("malformed-form", "The form could not be read. Please open the page and send it again.")
        return cls(typed[0], ticked)

    def checked(self, purposes: Sequence[Purpose]) -> tuple[ContactPoint | None, list[Problem]]:
        """The address if it is one, and all that is wrong, in the order of the form."""
        problems: list[Problem] = []
        address = None
        if not self.typed.strip():
            problems.append(Problem("email", "missing"))
        else:
            try:
                address = parse_email(self.typed)
            except Refused:
                problems.append(Problem("email", "invalid"))
        if not self.ticked:
            problems.append(Problem("purposes", "none"))
        problems.extend(
            Problem(purpose.key, "alone")
            for purpose in purposes
            if purpose.key in self.ticked and not set(purpose.depends_on) <= self.ticked
        )
        return address, problems


def form_key(nonce: str, subject: str, ticked: Iterable[str]) -> str:
    """What makes a form the same form: sent twice it counts once. Corrected and sent again it is a new one, so that
    nobody who mistyped an address waits for a mail that never comes."""
    return hashlib.sha256("\n".join([nonce, subject, *sorted(ticked)]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Periods:
    """How long the register lets a sign-up wait, from when it was asked."""

    activity: Activity

    def expires_at(self, purposes: Iterable[Purpose], requested_at: datetime) -> datetime:
        """When the link in the confirmation mail ends: the shortest of the purposes' rules."""
        return self._end(purposes, requested_at, "expire")

    def purge_at(self, purposes: Iterable[Purpose], requested_at: datetime) -> datetime:
        """When the request itself goes if nobody confirms."""
        return self._end(purposes, requested_at, "delete")

    def purge_rule(self) -> str:
        """The name of the rule that `purge_at` follows."""
        return next(
            rule.id
            for purpose in self.activity.purposes
            for rule in map(self.activity.retention.__getitem__, purpose.retention)
            if rule.starts == ("ConsentRequested",) and rule.then == "delete"
        )

    def _end(self, purposes: Iterable[Purpose], requested_at: datetime, then: str) -> datetime:
        ends = [
            self.activity.due(rule.id, {"ConsentRequested": requested_at})
            for purpose in purposes
            for rule in map(self.activity.retention.__getitem__, purpose.retention)
            if rule.starts == ("ConsentRequested",) and rule.then == then
        ]
        found = min((end for end in ends if end is not None), default=None)
        if found is None:
            raise Corrupt("no purpose says how long a request waits", f"register {self.activity.id}")
        return found


@dataclass(frozen=True, slots=True)
class Asked:
    """One ticked box: its purpose and the id of its ConsentRequested."""

    purpose: str
    channel: str
    statement: str

    @property
    def key(self) -> str:
        return key_of(self.purpose, self.channel)


@dataclass(frozen=True, slots=True)
class Request:
    """One form that was sent, as it stands in its row."""

    id: str
    subject: str
    language: str
    notice: str
    served: Served | None
    state: RequestState
    requested_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    confirmation: str
    asked: tuple[Asked, ...]

    def state_at(self, now: datetime) -> RequestState:
        """An open request past its end counts as expired, whether or not the sweeper has come by."""
        return "expired" if self.state == "open" and now >= self.expires_at else self.state


@dataclass(frozen=True, slots=True)
class Speaker:
    """What every statement of this service says about who speaks, under which register, by which software."""

    register: Register
    activity: Activity
    software: str

    @classmethod
    def of(cls, register: Register, software: str) -> Speaker:
        return cls(register, register.activity(ACTIVITY), software)

    @property
    def controller(self) -> str:
        return self.register.controller_of(self.activity)

    def common(self, act: str, by: Literal["person", "controller"]) -> dict[str, Any]:
        return {
            "controller": self.controller,
            "sender": self.activity.sender.party,
            "act": act,
            "by": by,
            "activity": self.activity.id,
            "register_version": self.register.version,
            "software": self.software,
        }

    def shown(self, purpose: Purpose, notice: str, language: str, served: Served | None) -> dict[str, Any]:
        explicit = purpose.legal_basis.endswith("-explicit-consent")
        return {
            "purpose": purpose.id,
            "channel": purpose.channel,
            "legal_basis": purpose.legal_basis,
            "expression": "explicit" if explicit else "expressed",
            "notice": Notice(hash=notice, language=language),
            "served": served,
        }


def stated(data: Data, statement: str, subject: str, now: datetime) -> Statement:
    """A statement of this service."""
    return Statement.of(data, id=statement, source=SOURCE, subject=subject, time=rfc3339(now))


def notice_published(
    speaker: Speaker, statement: str, act: str, notice: str, language: str, version: int, now: datetime
) -> Statement:
    data = NoticePublished(
        **speaker.common(act, "controller"),
        notice=Notice(hash=notice, language=language),
        version=str(version),
    )
    return stated(data, statement, SYSTEM_SUBJECT, now)


@dataclass(frozen=True, slots=True)
class SignUp:
    """A form that is about to be recorded: everything final but the row."""

    request: Request
    form_key: str
    token_hash: bytes
    purge_at: datetime
    refused: tuple[Asked, ...]
    """Boxes left empty; `statement` is the id of its ConsentRefused."""


def statements_of_sign_up(speaker: Speaker, sign_up: SignUp, evidence: Mapping[str, Sealed]) -> list[Statement]:
    """A ConsentRequested for each ticked box, a ConsentRefused for each one left empty."""
    request = sign_up.request
    common = speaker.common(request.id, "person")
    statements = []
    for asked in request.asked:
        purpose = speaker.activity.purpose(asked.purpose, asked.channel)
        requested = ConsentRequested(
            **common,
            **speaker.shown(purpose, request.notice, request.language, request.served),
            method="form",
            status="ConsentRequested",
            stage="asked",
            expires_at=rfc3339(request.expires_at),
            token_hash=sign_up.token_hash.hex(),
            sealed={"evidence": evidence[asked.statement]},
        )
        statements.append(stated(requested, asked.statement, request.subject, request.requested_at))
    for empty in sign_up.refused:
        purpose = speaker.activity.purpose(empty.purpose, empty.channel)
        refused = ConsentRefused(
            **common,
            **speaker.shown(purpose, request.notice, request.language, request.served),
            method="form",
            status="ConsentRefused",
            stage="asked",
        )
        statements.append(stated(refused, empty.statement, request.subject, request.requested_at))
    return statements


@dataclass(frozen=True, slots=True)
class Confirmation:
    """One purpose that is about to be confirmed: its ConsentGiven and the hash of the key to its receipt."""

    asked: Asked
    statement: str
    receipt_key_hash: str


def statements_of_confirmation(
    speaker: Speaker,
    request: Request,
    act: str,
    confirmations: Sequence[Confirmation],
    evidence: Mapping[str, Sealed],
    now: datetime,
) -> list[Statement]:
    """A ConsentGiven per purpose: it answers the request and the mail that proves who holds the address."""
    statements = []
    for confirmation in confirmations:
        asked = confirmation.asked
        purpose = speaker.activity.purpose(asked.purpose, asked.channel)
        given = ConsentGiven(
            **speaker.common(act, "person"),
            **speaker.shown(purpose, request.notice, request.language, request.served),
            method="double-opt-in",
            status="ConsentGiven",
            stage="proven",
            follows=[asked.statement, request.confirmation],
            receipt_key_hash=confirmation.receipt_key_hash,
            sealed={"evidence": evidence[confirmation.statement]},
        )
        statements.append(stated(given, confirmation.statement, request.subject, now))
    return statements


def receipt_key_hash(receipt_key: bytes) -> str:
    """What a statement carries of the 16 bytes that open its receipt."""
    return hashlib.sha256(receipt_key).hexdigest()


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A way out that is being used. `message` is the MessageSent of the mail the link stood in."""

    act: str
    subject: str
    scope: Scope
    purposes: tuple[tuple[str, str], ...]
    message: str
    method: Literal["link", "one-click"]
    receipt_key_hash: str
    statements: tuple[str, ...]
    """Ids to use: one per purpose, or one for everything."""


def statements_of_withdrawal(speaker: Speaker, withdrawal: Withdrawal, now: datetime) -> list[Statement]:
    """One ConsentWithdrawn per purpose, or one for everything. Needs nobody: a withdrawal is never kept waiting."""
    matters: Sequence[tuple[str | None, str | None]] = (
        [(None, None)] if withdrawal.scope == "everything" else withdrawal.purposes
    )
    return [
        stated(
            ConsentWithdrawn(
                **speaker.common(withdrawal.act, "person"),
                scope=withdrawal.scope,
                purpose=purpose,
                channel=channel,
                status="ConsentWithdrawn",
                method=withdrawal.method,
                follows=[withdrawal.message],
                receipt_key_hash=withdrawal.receipt_key_hash,
            ),
            statement,
            withdrawal.subject,
            now,
        )
        for (purpose, channel), statement in zip(matters, withdrawal.statements, strict=True)
    ]


def words_ended(
    speaker: Speaker, subject: str, order: str, given: Sequence[tuple[str, str]], now: datetime, random: Random
) -> list[Statement]:
    """A subject that is being erased by this recorded order: everything is withdrawn, and each thing that was ever
    agreed to. The key of the order opens the receipts."""
    act = uuid7(now, random)
    matters: Sequence[tuple[str | None, str | None]] = [*given, (None, None)]
    return [
        stated(
            ConsentWithdrawn(
                **speaker.common(act, "controller"),
                scope="everything" if purpose is None else "purpose",
                purpose=purpose,
                channel=channel,
                status="ConsentWithdrawn",
                method="erasure",
                follows=[order],
            ),
            uuid7(now, random),
            subject,
            now,
        )
        for purpose, channel in matters
    ]


def consent_expired(
    speaker: Speaker, request: Request, asked: Asked, statement: str, act: str, now: datetime
) -> Statement:
    """Nobody confirmed in time."""
    data = ConsentExpired(
        **speaker.common(act, "controller"),
        purpose=asked.purpose,
        channel=asked.channel,
        status="ConsentExpired",
        stage="asked",
        follows=[asked.statement],
    )
    return stated(data, statement, request.subject, now)


def retention_executed(
    speaker: Speaker, rule: str, request: Request, statement: str, act: str, now: datetime
) -> Statement:
    """An unconfirmed request and its mail are gone."""
    data = RetentionExecuted(
        **speaker.common(act, "controller"),
        rule=rule,
        deleted=["request", "mail"],
        follows=[asked.statement for asked in request.asked],
    )
    return stated(data, statement, request.subject, now)


def message_sent(
    speaker: Speaker,
    request: Request,
    *,
    mail: str,
    kind: str,
    message_id: str,
    attempts: int,
    outcome: Literal["accepted", "refused", "unknown"],
    follows: Sequence[str],
    attachments: Sequence[Attachment],
    evidence: Sealed | None,
    now: datetime,
) -> Statement:
    """A transactional mail was handed over, at least once, always as the same bytes under the same Message-ID."""
    data = MessageSent(
        **speaker.common(request.id, "controller"),
        kind=kind,
        channel=request.asked[0].channel,
        message_id=message_id,
        delivery="at-least-once",
        attempts=attempts,
        outcome=outcome,
        follows=list(follows),
        attachments=list(attachments),
        sealed={} if evidence is None else {"evidence": evidence},
    )
    return stated(data, mail, request.subject, now)
