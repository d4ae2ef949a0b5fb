"""Statements as the newsletter makes them, so many a second that making them does not become what is measured.

Each kind is made once by the newsletter's own functions; then only ids, times and ciphertexts are put into its bytes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from services.newsletter import domain
from shared.clock import rfc3339
from shared.events import Statement, encode
from shared.events.types import Attachment, Sealed, Served
from shared.identifiers import subject_id, uuid7
from shared.mail import message_id
from shared.register import Register
from shared.sealing import base64url
from shared.secrets import Secrets
from shared.served_notice import ServedNotice, ServedPurpose, issue, new_nonce
from shared.software import software

SOURCE: Final = domain.SOURCE
PURPOSE: Final = "newsletter"
CHANNEL: Final = "email"
LANGUAGE: Final = "de"
SHARD: Final = 0

NEW_SUBJECTS: Final = 0.3
KNOWN: Final[Mapping[str, float]] = {"MessageSent": 0.35, "ConsentGiven": 0.25, "ConsentWithdrawn": 0.10}
"""Of all statements, those that speak of subjects who are known: 70 % together."""

_ADDRESS_BYTES: Final = 160
_HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of statement: its bytes with places left open."""

    name: str
    open: bytes

    def fill(self, subject: bytes, statement: bytes, follows: tuple[bytes, bytes], at: bytes) -> bytes:
        """The bytes of one statement."""
        return self.open % {
            b"subject": subject,
            b"id": statement,
            b"first": follows[0],
            b"second": follows[1],
            b"time": at,
            b"cipher": base64url(os.urandom(_ADDRESS_BYTES)).encode(),
            b"hash": os.urandom(_HASH_BYTES).hex().encode(),
        }


class Forms:
    """The kinds of statement that the newsletter states, as it makes them.

    `short` leaves out the served-notice token, which alone has more than a kilobyte: then a statement has about one.
    """

    def __init__(self, register: Register, secrets: Secrets, now: datetime, *, short: bool) -> None:
        self._speaker = domain.Speaker.of(register, software())
        self._now = now
        notice = self._speaker.activity.notice(LANGUAGE)
        self._subject = subject_id(SHARD, now, os.urandom)
        self._ids = [uuid7(now, os.urandom) for _ in range(3)]
        statement, first, second = self._ids
        self._cipher, self._hash = base64url(os.urandom(_ADDRESS_BYTES)), os.urandom(_HASH_BYTES).hex()
        self._sealed = Sealed(ciphertext=self._cipher, key_hash=os.urandom(_HASH_BYTES).hex())
        said = ServedNotice(
            notice=notice.hash,
            language=LANGUAGE,
            purposes=tuple(ServedPurpose(one.purpose, one.channel, one.label) for one in notice.choices),
            button=notice.button,
            nonce=new_nonce(os.urandom(16)),
            issued_at=now,
            expires_at=now + timedelta(hours=4),
        )
        asked = domain.Asked(PURPOSE, CHANNEL, first)
        self._request = domain.Request(
            id=uuid7(now, os.urandom),
            subject=self._subject,
            language=LANGUAGE,
            notice=notice.hash,
            served=None if short else Served(token=issue(*secrets.notice_key(), said), verified=True),
            state="open",
            requested_at=now,
            expires_at=now + timedelta(hours=48),
            decided_at=None,
            confirmation=second,
            asked=(asked,),
        )
        made = [
            self._requested(domain.Asked(PURPOSE, CHANNEL, statement)),
            self._sent(statement, [first]),
            self._given(asked, statement),
            self._withdrawn(statement, second),
        ]
        self._forms = {one.type: self._form(one) for one in made}

    def __getitem__(self, name: str) -> Form:
        return self._forms[name]

    def _requested(self, asked: domain.Asked) -> Statement:
        request = self._request
        sign_up = domain.SignUp(
            request=replace(request, asked=(asked,)),
            form_key="",
            token_hash=os.urandom(_HASH_BYTES),
            purge_at=request.expires_at,
            refused=(),
        )
        return domain.statements_of_sign_up(self._speaker, sign_up, {asked.statement: self._sealed})[0]

    def _sent(self, statement: str, follows: list[str]) -> Statement:
        mail = Attachment(
            kind="confirmation",
            media_type="message/rfc822",
            size=6_000,
            hash=self._hash,
            compartment="attachment/0",
            key_hash=os.urandom(_HASH_BYTES).hex(),
        )
        return domain.message_sent(
            self._speaker,
            self._request,
            mail=statement,
            kind="confirmation",
            message_id=message_id(statement, "example.org"),
            attempts=1,
            outcome="accepted",
            follows=follows,
            attachments=[mail],
            evidence=self._sealed,
            now=self._now,
        )

    def _given(self, asked: domain.Asked, statement: str) -> Statement:
        confirmed = domain.Confirmation(asked, statement, self._hash)
        sealed = {statement: self._sealed}
        act = uuid7(self._now, os.urandom)
        return domain.statements_of_confirmation(self._speaker, self._request, act, [confirmed], sealed, self._now)[0]

    def _withdrawn(self, statement: str, message: str) -> Statement:
        withdrawal = domain.Withdrawal(
            act=uuid7(self._now, os.urandom),
            subject=self._subject,
            scope="purpose",
            purposes=((PURPOSE, CHANNEL),),
            message=message,
            method="one-click",
            receipt_key_hash=self._hash,
            statements=(statement,),
        )
        return domain.statements_of_withdrawal(self._speaker, withdrawal, self._now)[0]

    def _form(self, statement: Statement) -> Form:
        raw = encode(statement).replace(b"%", b"%%")
        statement_id, first, second = self._ids
        for place, value in (
            (b"subject", self._subject),
            (b"id", statement_id),
            (b"first", first),
            (b"second", second),
            (b"time", rfc3339(self._now)),
            (b"cipher", self._cipher),
            (b"hash", self._hash),
        ):
            raw = raw.replace(value.encode(), b"%(" + place + b")s")
        return Form(statement.type, raw)


@dataclass(frozen=True, slots=True)
class Made:
    """One statement, ready to be stated."""

    id: str
    subject: str
    type: str
    raw: bytes


class Population:
    """People who sign up, are written to, agree and leave: 30 % of the statements speak of somebody new.

    Whom the others speak of is drawn evenly from everybody there ever was: the hardest case for every cache.
    """

    def __init__(self, forms: Forms, seed: int = 1, shard: int = SHARD) -> None:
        self._forms = forms
        self._shard = shard
        self._random = random.Random(seed)
        self._subjects: list[str] = []
        self._kinds, self._weights = list(KNOWN), list(KNOWN.values())
        # Follows are not looked up by the ledger; two ids that were never given serve for all.
        never = datetime(2020, 1, 1, tzinfo=UTC)
        self._follows = (uuid7(never, os.urandom).encode(), uuid7(never, os.urandom).encode())

    def statements(self, count: int) -> Iterator[Made]:
        """The next statements, each with the time of its making."""
        for _ in range(count):
            yield self.statement()

    def statement(self) -> Made:
        """The next statement."""
        if not self._subjects or self._random.random() < NEW_SUBJECTS:
            subject = self.newcomer()
            self._subjects.append(subject)
            return self.about("ConsentRequested", subject, self._follows)
        kind = self._random.choices(self._kinds, self._weights)[0]
        return self.about(kind, self._subjects[int(self._random.random() * len(self._subjects))], self._follows)

    def newcomer(self) -> str:
        """A subject nobody has spoken of."""
        return subject_id(self._shard, datetime.now(UTC), os.urandom)

    def about(self, kind: str, subject: str, follows: tuple[bytes, bytes]) -> Made:
        """One statement of this kind about this subject."""
        now = datetime.now(UTC)
        statement = uuid7(now, os.urandom)
        filled = self._forms[kind].fill(subject.encode(), statement.encode(), follows, rfc3339(now).encode())
        return Made(statement, subject, kind, filled)

    def opt_in(self) -> list[Made]:
        """A whole double opt-in of somebody new, as good as evidence gets: the consent it ends in permits a mail."""
        subject = self.newcomer()
        requested = self.about("ConsentRequested", subject, self._follows)
        sent = self.about("MessageSent", subject, (requested.id.encode(), b""))
        return [requested, sent, self.about("ConsentGiven", subject, (requested.id.encode(), sent.id.encode()))]
