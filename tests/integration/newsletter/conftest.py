"""The newsletter over real HTTP, PostgreSQL and SMTP, beside the real subjects, ledger and marketing.

Only Kafka is left out: `record` hands the outbox to the folds of marketing and subjects in order, as the ledger would.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest
from aiosmtpd.smtp import SMTP

import services.newsletter
from services.ledger import main as ledger
from services.marketing import main as marketing
from services.marketing import projection
from services.newsletter import api
from services.newsletter.domain import Speaker
from services.newsletter.letters import Letters
from services.newsletter.worker import Mails, Sweeper
from services.subjects import main as subjects
from services.subjects.keys import Peppers
from services.subjects.worker import Fold as SubjectsFold
from shared import register
from shared.access import Access
from shared.client import ServiceClient
from shared.clock import utc_now
from shared.database import Database, Transaction
from shared.events import Standing, Statement, parse
from shared.follower import Recorded
from shared.limits import Limits
from shared.mail import MailServer
from shared.metrics import Metrics
from shared.pages import Pages
from shared.process import serve_http
from shared.secrets import Secrets, create_secrets
from shared.settings import Settings
from shared.software import software
from shared.web import combine, create_app
from shared.wire import RecordedValue
from tests.conftest import Database as TestDatabase

HERE: Final = Path(services.newsletter.__file__).parent
CALLERS: Final = ("newsletter", "marketing", "subjects", "ledger", "compliance", "operator", "demo")


@dataclass
class Clock:
    """Time that a test moves; it begins so long ago that PostgreSQL does not take what is stated for the future."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return utc_now() - timedelta(days=500) + self.ahead


@dataclass
class Mailbox:
    """A real SMTP server whose answers a test may choose."""

    port: int = 0
    answers: list[str] = field(default_factory=list)
    received: list[tuple[str, bytes]] = field(default_factory=list)
    attempts: int = 0
    hold: asyncio.Event | None = None
    """While it is set and not yet done, mails are taken and not answered."""
    _server: asyncio.Server | None = None

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.attempts += 1
        answer = self.answers.pop(0) if self.answers else "250 2.0.0 kept"
        if answer.startswith("250"):
            self.received.append((envelope.rcpt_tos[0], envelope.original_content))
        if self.hold is not None:
            await self.hold.wait()
        return answer

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, enable_SMTPUTF8=True, hostname="localhost", loop=loop), "127.0.0.1", self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def to(self, address: str) -> list[EmailMessage]:
        return [
            email.message_from_bytes(raw, policy=email.policy.default)  # type: ignore[misc]
            for recipient, raw in self.received
            if recipient == address
        ]


class Form(HTMLParser):
    """The first form of a page: its address and its fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.hidden: dict[str, str] = {}
        self.text: dict[str, str] = {}
        self.boxes: dict[str, bool] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.action = given["action"] or ""
        elif tag == "input":
            name, value = given["name"] or "", given.get("value") or ""
            match given["type"]:
                case "hidden":
                    self.hidden[name] = value
                case "checkbox":
                    self.boxes[value] = "checked" in given
                case "text":
                    self.text[name] = value


def links(message: EmailMessage, path: str) -> list[str]:
    body = message.get_body(("plain",))
    assert body is not None
    return [link for link in re.findall(r"https?://\S+", body.get_content()) if path in link]


@dataclass
class World:
    """Everything a test touches."""

    settings: Settings
    secrets: Secrets
    http: httpx.AsyncClient
    clock: Clock
    mailbox: Mailbox
    db: Database
    superuser: asyncpg.Connection[Any]
    newsletter: api.Parts
    mails: Mails
    sweeper: Sweeper
    down: set[str]
    marketing_db: Database
    subjects_db: Database
    folds: list[tuple[Database, Callable[[Transaction, Sequence[Recorded]], Awaitable[None]]]]
    another_mails: Callable[[], Mails]
    standings: dict[str, Standing] = field(default_factory=dict)
    index: int = 0
    working: asyncio.Task[None] | None = None

    def start_mails(self) -> None:
        self.working = asyncio.create_task(self.mails.run())

    async def stop_mails(self) -> None:
        """End the worker wherever it is, as a crash would."""
        if self.working is not None:
            self.working.cancel()
            await asyncio.gather(self.working, return_exceptions=True)
            self.working = None

    async def restart_mails(self) -> None:
        await self.stop_mails()
        self.mails = self.another_mails()
        self.start_mails()

    @asynccontextmanager
    async def postgresql_down(self) -> AsyncIterator[None]:
        """No connection of the newsletter lives and none can be made."""
        await self.superuser.execute("alter role newsletter connection limit 0")
        try:
            await self.superuser.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where usename = 'newsletter' and datname = current_database()"
            )
            yield
        finally:
            await self.superuser.execute("alter role newsletter connection limit -1")

    async def until(self, condition: Any, seconds: float = 15) -> Any:
        """Wait for a condition, sync or async, to give something true."""
        async with asyncio.timeout(seconds):
            while True:
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.01)

    async def form(self, lang: str = "de", **headers: str) -> Form:
        answer = await self.http.get("/newsletter", params={"lang": lang}, headers=headers)
        assert answer.status_code == 200, answer.text
        return Form(answer.text)

    async def send(self, form: Form, address: str, *purposes: str, lang: str = "de") -> httpx.Response:
        data = {**form.hidden, "email": address, "purpose": list(purposes)}
        return await self.http.post(
            "/newsletter", params={"lang": lang}, data=data, headers={"User-Agent": "Browser/1"}
        )

    async def sign_up(self, address: str, *purposes: str, lang: str = "de") -> httpx.Response:
        return await self.send(await self.form(lang), address, *(purposes or ("newsletter/email",)), lang=lang)

    async def mail(self, address: str, count: int = 1) -> EmailMessage:
        """The newest mail to an address, once there are so many."""
        await self.until(lambda: len(self.mailbox.to(address)) >= count)
        return self.mailbox.to(address)[count - 1]

    async def asked(self, address: str, *purposes: str, count: int = 1, lang: str = "de") -> str:
        """Sign up; the link in the confirmation mail."""
        answer = await self.sign_up(address, *purposes, lang=lang)
        assert answer.status_code == 200, answer.text
        [link] = links(await self.mail(address, count), "/newsletter/confirm/")
        return link

    async def subscribed(self, address: str, *purposes: str) -> EmailMessage:
        """Sign up, confirm, record; the welcome mail, once it is noted as sent."""
        answer = await self.http.post(await self.asked(address, *purposes))
        assert answer.status_code == 200, answer.text
        await self.record()
        welcome = await self.mail(address, 2)
        await self.no_mail_waits()
        return welcome

    async def stated(self, *types: str) -> list[Statement]:
        """What the newsletter stated, in order."""
        rows = await self.superuser.fetch("select statement from newsletter.outbox order by accepted_at, id")
        statements = [parse(row["statement"]) for row in rows]
        return [one for one in statements if not types or one.type in types]

    async def record(self) -> None:
        """What the ledger and its followers do with what waits in the outbox."""
        rows = await self.superuser.fetch(
            "select id, statement from newsletter.outbox where sealed_at is null order by accepted_at, id"
        )
        for row in rows:
            statement = parse(row["statement"])
            standing = self.standings.get(statement.subject, Standing({}))
            standing, overtaken = standing.apply(statement, self.index)
            self.standings[statement.subject] = standing
            leaf = b"\x01" + bytes(80) + self.index.to_bytes(8, "big")
            recorded = Recorded.read(RecordedValue(0, self.index, leaf, row["statement"]).encode())
            for db, fold in self.folds:
                async with db.transaction() as tx:
                    await fold(tx, [recorded])
                await db.execute(f"select pg_notify('{db.schema}_applied', '')")
            self.index += 1
            await self.db.execute(
                "update outbox set sealed_at = clock_timestamp(), result = $2 where id = $1",
                row["id"],
                "overtaken" if overtaken else "recorded",
            )
        await self.db.execute("select pg_notify('newsletter_sealed', '')")

    async def no_mail_waits(self) -> None:
        async def none() -> bool:
            return not await self.superuser.fetchval("select count(*) from newsletter.mail where ended_at is null")

        await self.until(none)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="session")
def secrets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("secrets")
    create_secrets(directory, os.urandom, ("newsletter", "marketing", "subjects", "ledger", "erasure"), CALLERS, 1)
    return directory


@pytest.fixture
async def world(database: TestDatabase, secrets_dir: Path, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        mailbox, clock, secrets = Mailbox(), Clock(), Secrets(secrets_dir)
        await mailbox.start()
        stack.push_async_callback(mailbox.stop)
        port = free_port()
        settings = Settings(
            database=database.dsn("{role}"),
            base_url=f"http://127.0.0.1:{port}",
            secrets_dir=secrets_dir,
            signer_dir=tmp_path,
            smtp_port=mailbox.port,
            port=port,
        )
        others = [await one.open(settings) for one in (subjects, ledger, marketing)]
        for one in others:
            stack.push_async_callback(one.close)
        db = await Database.connect(settings.dsn("newsletter"), "newsletter")
        stack.push_async_callback(db.close)
        marketing_db = await Database.connect(settings.dsn("marketing"), "marketing", max_size=2)
        stack.push_async_callback(marketing_db.close)
        subjects_db = await Database.connect(settings.dsn("subjects"), "subjects", max_size=2)
        stack.push_async_callback(subjects_db.close)
        superuser = await asyncpg.connect(database.dsn())
        stack.push_async_callback(superuser.close)
        credential = secrets.credential("newsletter")
        clients = [ServiceClient(settings.base_url, credential, name) for name in ("subjects", "ledger", "marketing")]
        for client in clients:
            stack.push_async_callback(client.close)
        metrics, speaker = Metrics("newsletter"), Speaker.of(register.load(), software())
        parts = api.Parts(
            db=db,
            speaker=speaker,
            pages=Pages("newsletter", HERE),
            subjects=clients[0],
            marketing=clients[2],
            secrets=secrets,
            clock=clock,
            random=os.urandom,
            base_url=settings.base_url,
            metrics=metrics,
            limits=Limits.of(settings, clock, os.urandom, metrics),
        )
        letters = Letters(
            register=speaker.register,
            activity=speaker.activity,
            base_url=settings.base_url,
            mail_domain=settings.mail_domain,
            sender=settings.mail_from,
            dkim=secrets.dkim(),
            way_out_keys=secrets.way_out_keys(),
        )

        def mails() -> Mails:
            return Mails(
                db=db,
                speaker=speaker,
                letters=letters,
                subjects=clients[0],
                ledger=clients[1],
                server=MailServer("127.0.0.1", mailbox.port, timeout=5),
                clock=clock,
                random=os.urandom,
                metrics=metrics,
            )

        async def ready() -> dict[str, bool]:
            return {"postgresql": True}

        app = create_app(
            "newsletter",
            access=Access.load(secrets),
            metrics=metrics,
            ready=ready,
            error_page=parts.pages.error,
        )
        app.include_router(api.router(parts))
        down: set[str] = set()
        together = combine([app, *(one.app for one in others if one.app is not None)])

        async def reachable(scope: Any, receive: Any, send: Any) -> None:
            """A service in `down` answers as a proxy does for one that is not there."""
            if scope["type"] == "http" and scope["path"].split("/")[1] in down:
                await send({"type": "http.response.start", "status": 502, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            else:
                await together(scope, receive, send)

        listening = asyncio.Event()
        serving = asyncio.create_task(serve_http(reachable, "127.0.0.1", port, lambda _: listening.set()))
        await listening.wait()
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=settings.base_url, timeout=30))
        made = World(
            settings=settings,
            secrets=secrets,
            http=http,
            clock=clock,
            mailbox=mailbox,
            db=db,
            superuser=superuser,
            newsletter=parts,
            mails=mails(),
            another_mails=mails,
            sweeper=Sweeper(db, speaker, clock, os.urandom),
            down=down,
            marketing_db=marketing_db,
            subjects_db=subjects_db,
            folds=[
                (marketing_db, lambda tx, records: projection.apply(tx, records, speaker.register, clock())),
                (subjects_db, SubjectsFold(Peppers(secrets.peppers())).apply),
            ],
        )
        made.start_mails()
        yield made
        await made.stop_mails()
        await http.aclose()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
