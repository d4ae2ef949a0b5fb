"""What a campaign needs around it: the real subjects and ledger over HTTP, and a mail server that does as told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from functools import partial
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from services.ledger.main import open as open_ledger
from services.marketing import handlers, store
from services.marketing.letters import Letters
from services.marketing.permits import Permits
from services.marketing.sender import Sender
from services.marketing.store import Delivery
from services.subjects.main import open as open_subjects
from shared.access import grants
from shared.client import ServiceClient
from shared.database import Database
from shared.events import Statement, parse
from shared.mail import MailServer
from shared.metrics import Metrics
from shared.process import serve_http
from shared.secrets import Secrets, create_secrets
from shared.settings import Settings
from shared.software import software
from shared.web import combine
from tests.integration.marketing.conftest import Marketing
from tests.parts import Database as OwnDatabase
from tests.unit.marketing.history import given

NOWHERE = "127.0.0.1:9"
TEXTS = {"de": {"subject": "Ausgabe 1", "text": "Guten Tag,\n\nes gibt <Neues>."}}


class Server(SMTP):
    """aiosmtpd's server, once it is told to hang up: without an answer to the mail it was just given."""

    def hang_up(self) -> None:
        self.transport.abort()


@dataclass
class Inbox:
    """Answers each mail as `answers` says, then as it likes; holds it while `gate` is closed."""

    answers: list[str | None] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    raw: list[bytes] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    async def handle_DATA(self, server: Server, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        self.holding.set()
        await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else "250 OK"
        if answer is None or answer.startswith("250"):
            self.raw.append(bytes(envelope.original_content or b""))
            self.recipients += envelope.rcpt_tos
        if answer is None:
            server.hang_up()
            return "421 never read"
        return answer

    @property
    def mails(self) -> list[EmailMessage]:
        return [BytesParser(EmailMessage, policy=default).parsebytes(raw) for raw in self.raw]


class Doors:
    """In front of the services: each can be shut, or hold its callers until a gate opens."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.shut: set[str] = set()
        self.gates: dict[str, asyncio.Event] = {}
        self.at_gate = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        for prefix, gate in self.gates.items():
            if path.startswith(prefix) and not gate.is_set():
                self.at_gate.set()
                await gate.wait()
        if any(path.startswith(prefix) for prefix in self.shut):
            await JSONResponse({"error": "unavailable", "message": "Shut."}, 503)(scope, receive, send)
            return
        await self._app(scope, receive, send)


@dataclass
class Office:
    """Marketing with everything a campaign needs."""

    marketing: Marketing
    doors: Doors
    inbox: Inbox
    secrets: Secrets
    settings: Settings
    base_url: str
    subjects: ServiceClient
    ledger: ServiceClient
    newsletter: ServiceClient

    def sender(self, db: Database | None = None, **changes: Any) -> Sender:
        """One process' sender."""
        letters = Letters(
            self.marketing.register,
            base_url="https://example.org",
            mail_domain="mail.example.org",
            sender="newsletter@example.org",
            dkim=self.secrets.dkim(),
            way_out_keys=self.secrets.way_out_keys(),
        )
        parts: dict[str, Any] = {
            "db": db or self.marketing.db,
            "permits": Permits(
                db or self.marketing.db,
                self.marketing.horizon,
                self.marketing.register,
                self.marketing.clock,
                os.urandom,
                Metrics("marketing"),
            ),
            "register": self.marketing.register,
            "software": software(),
            "letters": letters,
            "subjects": self.subjects,
            "ledger": self.ledger,
            "mail_server": MailServer(self.settings.smtp_host, self.settings.smtp_port),
            "clock": self.marketing.clock,
            "random": os.urandom,
            "metrics": Metrics("marketing"),
        }
        return Sender(**{**parts, **changes})

    async def subscriber(self, address: str = "ada@example.org", language: str = "de") -> str:
        """A person with an address at subjects and a recorded consent."""
        answer = await self.newsletter.post(
            "/subjects/seal",
            json={"controller": "controller", "identifier": {"kind": "email", "value": address}, "items": []},
        )
        subject = str(answer.json()["subject"])
        notice = given(subject).data.notice.model_dump() | {"language": language}
        await self.marketing.record(given(subject, notice=notice))
        return subject

    async def campaign(self, name: str = "issue-1") -> None:
        now = self.marketing.now
        await handlers.begin_campaign(self.marketing.db, name, "newsletter", "email", TEXTS, now, os.urandom)

    async def due(self) -> list[Delivery]:
        return await store.due_deliveries(self.marketing.db, self.marketing.now, 100)

    async def send(self, sender: Sender | None = None) -> None:
        """One attempt at each delivery that is due."""
        using = sender or self.sender()
        for delivery in await self.due():
            await using.send(delivery)

    async def states(self) -> list[tuple[str, str | None, int]]:
        rows = await self.marketing.db.fetch("select state, reason, attempt from delivery order by statement")
        return [(row["state"], row["reason"], row["attempt"]) for row in rows]

    async def stated(self, type_name: str = "") -> list[Statement]:
        rows = await self.marketing.db.fetch("select statement from outbox order by accepted_at, id")
        statements = [parse(row["statement"]) for row in rows]
        return [statement for statement in statements if type_name in {"", statement.type}]


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """The app's address while it is served."""
    bound: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_http(app, "127.0.0.1", 0, bound.set_result))
    try:
        yield f"http://127.0.0.1:{await bound}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def listening(factory: Callable[[], Any]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def opened(marketing: Marketing, database: OwnDatabase, folder: Path) -> AsyncIterator[Office]:
    create_secrets(folder, os.urandom, marketing.register.sources, grants(), shards=1)
    secrets = Secrets(folder)
    inbox = Inbox()
    loop = asyncio.get_running_loop()
    smtp = partial(Server, inbox, enable_SMTPUTF8=True, hostname="localhost", loop=loop)
    async with listening(smtp) as smtp_port:
        settings = Settings(
            database=database.dsn("{role}").replace("%7Brole%7D", "{role}"),
            kafka=NOWHERE,
            subjects_url=f"http://{NOWHERE}",
            ledger_url=f"http://{NOWHERE}",
            secrets_dir=folder,
            smtp_host="127.0.0.1",
            smtp_port=smtp_port,
        )
        running = [await open_subjects(settings), await open_ledger(settings)]
        doors = Doors(combine([one.app for one in running if one.app is not None]))
        closing: list[Callable[[], Awaitable[None]]] = [one.close for one in running]
        async with serving(doors) as base_url:
            clients = [
                ServiceClient(base_url, secrets.credential(caller), service)
                for caller, service in (("marketing", "subjects"), ("marketing", "ledger"), ("newsletter", "subjects"))
            ]
            closing += [client.close for client in clients]
            yield Office(marketing, doors, inbox, secrets, settings, base_url, *clients)
            for close in reversed(closing):
                await close()
