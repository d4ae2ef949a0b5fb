"""One newsletter opt-in made in memory, from the form to the withdrawal, as its bundle and receipts see it.

Everything is real but the servers: the log by the writer's code, compartments by subjects', mails and tokens by the
newsletter's. Times and random bytes are fixed, so the same bundle comes out each time.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.evidence.bundle import Material
from services.ledger.log.leaf import event_leaf, leaf_hash, map_root_leaf
from services.ledger.log.secrets import SubjectSecrets
from services.ledger.log.state_map import StateMap
from services.ledger.log.tiles import inclusion_proof
from services.ledger.log.tree import Edge
from services.ledger.proofs.history import History, Log, Proven, concerning
from services.ledger.proofs.receipt import history_json
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.note import CosignatureSigner, Signer, format_note
from services.newsletter.dkim import key_set as dkim_key_set
from services.newsletter.domain import (
    Asked,
    Confirmation,
    Request,
    SignUp,
    Speaker,
    Withdrawal,
    message_sent,
    receipt_key_hash,
    statements_of_confirmation,
    statements_of_sign_up,
    statements_of_withdrawal,
    words_ended,
)
from services.subjects import domain as subjects
from shared import erasure_key
from shared import holder as holders
from shared.clock import millis, rfc3339
from shared.events import EVERYTHING, RESTRICTIVE, Statement, encode, is_overtaken, matter_of
from shared.events.matter import OVERTAKEN
from shared.events.types import (
    Attachment,
    ConsentUsed,
    DataErased,
    ErasureCompleted,
    ErasureHeld,
    ErasureOrdered,
    MessageSent,
    Permit,
    Sealed,
    Served,
)
from shared.identifiers import subject_id, uuid7
from shared.mail import Letter, compose, message_id, sign
from shared.register import Register, load
from shared.sealing import base64url
from shared.served_notice import ServedNotice, ServedPurpose, issue, key_set, new_nonce
from shared.software import software

ADDRESS = "Jane.Doe@example.org"
DOMAIN = "mail.example.org"
START = datetime(2026, 11, 22, 12, 0, 0, 123_000, tzinfo=UTC)
RECEIPT_KEY = bytes(range(16))
ORIGIN = "log.example.org/ledger/log/0"


@cache
def dkim_key(number: int = 1) -> bytes:
    """An RSA key as the newsletter keeps it; each is made once, since making one takes a while."""
    del number
    return rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


@cache
def register() -> Register:
    """The packaged register, read once."""
    return load()


@dataclass
class World:
    """A log, a subject's keys, and a clock that goes on when told."""

    seed: int = 1
    now: datetime = START
    leaves: list[bytes] = field(default_factory=list)
    raws: dict[int, bytes] = field(default_factory=dict)
    matters: dict[int, str] = field(default_factory=dict)
    statements: dict[int, Statement] = field(default_factory=dict)
    openings: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    """index → pin and opening"""
    attachments: dict[str, bytes] = field(default_factory=dict)
    parts: list[tuple[str, str]] = field(default_factory=list)
    restricted: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._source = random.Random(self.seed)
        self.register = register()
        self.speaker = Speaker.of(self.register, software())
        self.subject = subject_id(0, self.now, self.random)
        self.evidence_key = self.random(32)
        self.secrets = SubjectSecrets(self.random(32), ORIGIN, self.subject)
        self.map = StateMap()
        self.edge = Edge()
        self.notice_key = Ed25519PrivateKey.from_private_bytes(self.random(32))
        self.signer = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(self.random(32)))
        self.fresh = CosignatureSigner(f"{ORIGIN}/fresh", Ed25519PrivateKey.from_private_bytes(self.random(32)))
        self._add(map_root_leaf(0, bytes(32), 0, 0))

    def random(self, count: int) -> bytes:
        return self._source.randbytes(count)

    def later(self, seconds: float = 1) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def id(self) -> str:
        return uuid7(self.now, self.random)

    # -- the log

    def record(self, statements: Sequence[Statement]) -> list[int]:
        """Append one batch and its MAP_ROOT; the statements' indexes."""
        return self.record_raw([encode(statement) for statement in statements], statements)

    def record_raw(self, raws: Sequence[bytes], statements: Sequence[Statement]) -> list[int]:
        indexes = []
        for raw, statement in zip(raws, statements, strict=True):
            index, matter = len(self.leaves), matter_of(statement)
            late = is_overtaken(
                statement.type, statement.time, self.restricted.get(matter), self.restricted.get(EVERYTHING)
            )
            if statement.type in RESTRICTIVE:
                self.restricted[matter] = max(self.restricted.get(matter, ""), statement.time)
            matter = OVERTAKEN + matter if late else matter
            label = self.secrets.label(matter)
            last = self.map.get(label)
            version, previous = (1, 0) if last is None else (last[0] + 1, last[1] + 1)
            commitment = self.secrets.commitment(label, version, raw)
            leaf = event_leaf(label, version, previous, commitment, millis(self.now) + 20)
            self.map.update(label, version, index, leaf_hash(leaf))
            self._add(leaf)
            self.raws[index], self.matters[index], self.statements[index] = raw, matter, statement
            self.openings[index] = (self.secrets.pin, self.secrets.opening(label, version))
            indexes.append(index)
        self._add(map_root_leaf(len(self.leaves), self.map.root(), len(self.map), len(self.leaves)))
        return indexes

    def _add(self, leaf: bytes) -> None:
        self.leaves.append(leaf)
        self.edge.append(leaf_hash(leaf))

    @property
    def note(self) -> str:
        text = Checkpoint(ORIGIN, len(self.leaves), self.edge.root()).text()
        lines = [self.signer.sign(text), self.fresh.sign(text, int(self.now.timestamp()))]
        return format_note(text, lines).decode()

    async def _hashes(self, level: int, n: int, width: int) -> bytes:
        assert (level, n) == (0, 0), "a story of less than 256 leaves"
        return b"".join(leaf_hash(leaf) for leaf in self.leaves[:width])

    def history(self, indexes: Sequence[int]) -> History:
        """What the ledger answers about these records."""
        log = Log(0, ORIGIN, self.signer.vkey, self.fresh.vkey)
        entries = [self._proven(index) for index in sorted(indexes)]
        return History(log, len(self.leaves), self.note, self.subject, entries)

    def _proven(self, index: int) -> Proven:
        matter, (pin, opening) = self.matters[index], self.openings[index]
        return Proven(
            index=index,
            matter=matter.removeprefix(OVERTAKEN),
            overtaken=matter.startswith(OVERTAKEN),
            leaf=self.leaves[index],
            raw=self.raws[index],
            statement=self.statements[index],
            pin=pin,
            opening=opening,
            hashes=asyncio.run(inclusion_proof(index, len(self.leaves), self._hashes)),
        )

    # -- what is sealed

    def seal(self, statement: str, compartment: str, content: bytes) -> tuple[bytes, str]:
        key = subjects.compartment_key(self.evidence_key, compartment, statement)
        self.parts.append((statement, compartment))
        sealed = subjects.seal(key, self.subject, compartment, statement, self.random(12), content)
        return sealed, subjects.key_hash(key).hex()

    def sealed(self, statement: str, **fields: Any) -> Sealed:
        ciphertext, key_hash = self.seal(statement, "evidence", subjects.encode_fields(fields))
        return Sealed(ciphertext=base64url(ciphertext), key_hash=key_hash)

    def archived(self, statement: str, kind: str, raw: bytes) -> Attachment:
        ciphertext, key_hash = self.seal(statement, "attachment/0", raw)
        digest = hashlib.sha256(ciphertext).hexdigest()
        self.attachments[digest] = ciphertext
        return Attachment(
            kind=kind,
            media_type="message/rfc822",
            size=len(ciphertext),
            hash=digest,
            compartment="attachment/0",
            key_hash=key_hash,
        )

    def key(self, statement: str, compartment: str) -> str:
        return base64url(subjects.compartment_key(self.evidence_key, compartment, statement))


@dataclass
class OptIn:
    """The story; each step may be told otherwise by a test before it is played."""

    world: World = field(default_factory=World)
    to: str = ADDRESS
    token_in_mail: str | None = None
    withdrawn: bool = True
    verified: bool = True
    by_page: bool = True
    indexes: dict[str, int] = field(default_factory=dict)

    def play(self) -> OptIn:
        self.request()
        self.confirmation_mail()
        self.confirm()
        self.issue()
        if self.withdrawn:
            self.withdraw()
        return self

    def served(self) -> Served:
        world = self.world
        notice = world.speaker.activity.notice("en")
        said = ServedNotice(
            notice=notice.hash,
            language="en",
            purposes=tuple(ServedPurpose(one.purpose, one.channel, one.label) for one in notice.choices),
            button=notice.button,
            nonce=new_nonce(world.random(16)),
            issued_at=world.now,
            expires_at=world.now + timedelta(hours=4),
        )
        return Served(token=issue("notice-1", world.notice_key, said), verified=self.verified)

    def request(self) -> None:
        world = self.world
        served = self.served()
        now = world.later(30)
        self.token = base64url(world.random(32))
        asked, empty = (Asked("newsletter", "email", world.id()), Asked("newsletter-clicks", "email", world.id()))
        notice = world.speaker.activity.notice("en")
        self.asked = asked
        self.form = Request(
            id=world.id(),
            subject=world.subject,
            language="en",
            notice=notice.hash,
            served=served,
            state="open",
            requested_at=now,
            expires_at=now + timedelta(hours=48),
            decided_at=None,
            confirmation=world.id(),
            asked=(asked,),
        )
        sign_up = SignUp(
            self.form, "nonce", hashlib.sha256(self.token.encode()).digest(), now + timedelta(days=14), refused=(empty,)
        )
        evidence = world.sealed(asked.statement, address=ADDRESS, normalised=ADDRESS.lower(), user_agent="a browser")
        requested, refused = world.record(statements_of_sign_up(world.speaker, sign_up, {asked.statement: evidence}))
        self.indexes |= {"request": requested, "refused": refused}

    def letter(self, statement: str, text: str) -> bytes:
        raw = compose(
            Letter(
                message_id=message_id(statement, DOMAIN),
                date=self.world.now,
                sender_name="Beispielwerk Newsletter",
                sender="newsletter@example.org",
                to=self.to,
                subject="Bitte bestätigen: your newsletter",
                text=text,
                html=f"<p>{text}</p>",
                language="en",
                way_out_url="https://example.org/newsletter/unsubscribe/abc",
                auto_submitted=True,
            )
        )
        return sign(raw, DOMAIN, "1", dkim_key(), self.world.now)

    def confirmation_mail(self) -> None:
        world = self.world
        now = world.later()
        link = f"https://example.org/newsletter/confirm/{self.token_in_mail or self.token}"
        raw = self.letter(
            self.form.confirmation, f"Hello,\n\nplease open this link to confirm:\n{link}\n\nThank you.\n"
        )
        attachment = world.archived(self.form.confirmation, "confirmation", raw)
        [index] = world.record(
            [
                message_sent(
                    world.speaker,
                    self.form,
                    mail=self.form.confirmation,
                    kind="confirmation",
                    message_id=message_id(self.form.confirmation, DOMAIN),
                    attempts=1,
                    outcome="accepted",
                    follows=[self.asked.statement],
                    attachments=[attachment],
                    evidence=world.sealed(self.form.confirmation, smtp_code=250, smtp_answer="ok"),
                    now=now,
                )
            ]
        )
        self.indexes["mail"] = index

    def confirm(self) -> None:
        world = self.world
        now = world.later(60)
        self.given = world.id()
        confirmation = Confirmation(self.asked, self.given, receipt_key_hash(RECEIPT_KEY))
        fetched = {"page_fetched_at": rfc3339(now - timedelta(milliseconds=4210))} if self.by_page else {}
        sealed = {self.given: world.sealed(self.given, user_agent="a browser", **fetched)}
        [index] = world.record(
            statements_of_confirmation(world.speaker, self.form, world.id(), [confirmation], sealed, now)
        )
        self.indexes["given"] = index

    def issue(self) -> None:
        world = self.world
        now = world.later(3600)
        used, sent = world.id(), world.id()
        common: dict[str, Any] = world.speaker.common(world.id(), "controller")
        permit = Permit(
            id=world.id(),
            shard=0,
            size=str(len(world.leaves)),
            issued_at=rfc3339(now),
            all_before=rfc3339(now - timedelta(seconds=2)),
        )
        mail = message_id(sent, DOMAIN)
        use = ConsentUsed(
            **common, purpose="newsletter", channel="email", follows=[self.given], permit=permit, message_id=mail
        )
        message = MessageSent(
            **common,
            kind="newsletter",
            channel="email",
            purpose="newsletter",
            permit=permit.id,
            message_id=mail,
            delivery="at-most-once",
            attempts=1,
            outcome="accepted",
            follows=[used],
        )
        stated = [
            Statement.of(data, id=one, source="marketing", subject=world.subject, time=rfc3339(now))
            for data, one in ((use, used), (message, sent))
        ]
        self.sent = sent
        self.indexes["used"], self.indexes["sent"] = world.record(stated)

    def withdraw(self) -> None:
        world = self.world
        now = world.later(60)
        withdrawal = Withdrawal(
            act=world.id(),
            subject=world.subject,
            scope="purpose",
            purposes=(("newsletter", "email"),),
            message=self.sent,
            method="one-click",
            receipt_key_hash=receipt_key_hash(RECEIPT_KEY),
            statements=(world.id(),),
        )
        [self.indexes["withdrawn"]] = world.record(statements_of_withdrawal(world.speaker, withdrawal, now))

    def erase(self) -> None:
        """Everything is erased: ordered, withdrawn, done at one holder, completed."""
        world = self.world
        now, request = world.later(3600), world.id()
        order = erasure_key.order_id(RECEIPT_KEY, now)
        activity = world.speaker.activity
        common = holders.common(world.register, activity, software(), world.id())
        until = rfc3339(now + timedelta(days=1000))
        ordered = ErasureOrdered(
            **(common | {"by": "person"}),
            request=request,
            reason="consent-withdrawn",
            holders=["newsletter", "marketing", "subjects"],
            evidence_until=until,
        )
        words = words_ended(world.speaker, world.subject, order, [], now, world.random)
        common = holders.common(world.register, activity, software(), world.id())
        gone = DataErased(**common, request=request, erased=["address", "content-key"], follows=[order])
        receipt = world.id()
        common = holders.common(world.register, activity, software(), world.id())
        longer = rfc3339(now + timedelta(days=2000))
        kept = ErasureHeld(
            **holders.common(world.register, activity, software(), world.id()),
            request=request,
            until=longer,
            ground="legal-claims",
        )
        done = ErasureCompleted(**common, request=request, follows=[order, receipt], evidence_until=until)
        stated = [
            Statement.of(data, id=one, source=source, subject=world.subject, time=rfc3339(now))
            for data, one, source in (
                (ordered, order, "erasure"),
                (kept, world.id(), "erasure"),
                (gone, receipt, "subjects"),
                (done, world.id(), "erasure"),
            )
        ]
        indexes = world.record([stated[0], *words, *stated[1:]])
        self.indexes |= dict(zip(("ordered", "ended", "held", "erased", "completed"), indexes, strict=True))

    def consent_too_late(self, *, forgotten: bool = False) -> None:
        """A consent dated before a withdrawal and recorded after it; `forgotten`: the operator lets it count."""
        self.request()
        self.confirmation_mail()
        world, early = self.world, self.world.now
        self.sent = self.form.confirmation
        world.now = early + timedelta(hours=1)
        self.withdraw()
        if forgotten:
            world.restricted.clear()
        later, world.now = world.now, early
        real = world.record_raw

        def recorded_late(raws: Sequence[bytes], statements: Sequence[Statement]) -> list[int]:
            world.now = later + timedelta(seconds=5)
            return real(raws, statements)

        world.record_raw = recorded_late  # type: ignore[method-assign]
        self.confirm()

    @cached_property
    def material(self) -> Material:
        """What the exporter collects about newsletter/email."""
        world = self.world
        chosen = concerning(world.statements, "newsletter", "email")
        history = history_json(world.history(sorted(chosen)))
        names = {world.statements[index].id for index in chosen}
        kept = {one.hash for index in chosen for one in getattr(world.statements[index].data, "attachments", [])}
        return Material(
            purpose="newsletter",
            channel="email",
            history=history,
            keys=[
                {"statement": statement, "compartment": name, "key": world.key(statement, name)}
                for statement, name in world.parts
                if statement in names
            ],
            attachments={name: content for name, content in world.attachments.items() if name in kept},
            registers={world.register.version: world.register.snapshot()},
            notice_keys=key_set({"notice-1": world.notice_key.public_key()}),
            dkim_keys=dkim_key_set(DOMAIN, {"1": dkim_key()}),
        )
