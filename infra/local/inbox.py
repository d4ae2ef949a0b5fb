"""The demo's mail server: takes every mail, keeps it as a file, and shows it in a browser.

It speaks real SMTP (aiosmtpd) on a free loopback port, so what the product does with mail is what it does anywhere.
"""

import asyncio
import email
import email.policy
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

from aiosmtpd.smtp import SMTP
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from markupsafe import Markup, escape

from shared import web
from shared.access import Access, open_to_everyone
from shared.errors import Refused
from shared.metrics import Metrics
from shared.pages import Pages

LINK: Final = re.compile(r"https?://[^\s<>\"]+")


@dataclass(frozen=True, slots=True)
class Received:
    """One mail as it arrived; `id` orders by arrival."""

    id: str
    sender: str
    recipient: str
    at: datetime
    raw: bytes

    @property
    def message(self) -> EmailMessage:
        return email.message_from_bytes(self.raw, policy=email.policy.default)

    def summary(self) -> dict[str, str]:
        message = self.message
        return {
            "id": self.id,
            "from": str(message["From"]),
            "to": self.recipient,
            "subject": str(message["Subject"]),
            "at": self.at.isoformat(timespec="milliseconds"),
            "message_id": str(message["Message-ID"]),
            "language": str(message["Content-Language"] or ""),
        }

    def text(self) -> str:
        body = self.message.get_body(("plain",))
        return body.get_content() if body else ""


class Inbox:
    """Mails in a folder, newest last. A file's name is its id: arrival time and four random bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._mails: list[Received] = [self._read(path) for path in sorted(folder.glob("*.eml"))]

    @staticmethod
    def _read(path: Path) -> Received:
        sender, recipient, at, raw = path.read_bytes().split(b"\n", 3)
        return Received(path.stem, sender.decode(), recipient.decode(), datetime.fromisoformat(at.decode()), raw)

    def add(self, sender: str, recipient: str, raw: bytes) -> None:
        at = datetime.now(UTC)
        mail = Received(f"{at:%Y%m%d%H%M%S%f}-{secrets.token_hex(4)}", sender, recipient, at, raw)
        head = f"{sender}\n{recipient}\n{at.isoformat()}\n".encode()
        partial = self._folder / f"{mail.id}.part"
        partial.write_bytes(head + raw)
        partial.rename(self._folder / f"{mail.id}.eml")
        self._mails.append(mail)

    def all(self, recipient: str | None = None) -> list[Received]:
        return [mail for mail in self._mails if recipient is None or mail.recipient == recipient]

    def get(self, mail_id: str) -> Received | None:
        return next((mail for mail in self._mails if mail.id == mail_id), None)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        for recipient in envelope.rcpt_tos:
            self.add(envelope.mail_from or "", recipient, envelope.original_content or envelope.content)
        return "250 2.0.0 kept"


async def serve_smtp(inbox: Inbox, host: str, port: int) -> None:
    """Take mails on host:port until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(inbox, enable_SMTPUTF8=True, hostname="localhost", loop=loop), host, port
    )
    async with server:
        await server.serve_forever()


def _with_links(text: str) -> Markup:
    """The text with its web addresses as links; everything else escaped."""
    parts: list[Markup] = []
    end = 0
    for match in LINK.finditer(text):
        parts += [escape(text[end : match.start()]), Markup('<a href="{0}">{0}</a>').format(match.group())]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def create_app(inbox: Inbox, access: Access) -> FastAPI:
    """`/inbox`, `/inbox/messages`, `/inbox/messages/{id}` and `…/raw`, open to everyone: this is a demo's mail."""
    pages = Pages("inbox", Path(__file__).parent)

    async def ready() -> dict[str, bool]:
        return {}

    app = web.create_app("inbox", access=access, metrics=Metrics("inbox"), ready=ready, error_page=pages.error)

    def found(mail_id: str) -> Received:
        mail = inbox.get(mail_id)
        if mail is None:
            raise Refused("no-such-mail", "There is no such mail. Open /inbox for the list.", status=404)
        return mail

    @app.get("/inbox", dependencies=[Depends(open_to_everyone)])
    async def list_page(request: Request) -> HTMLResponse:
        mails = [mail.summary() for mail in reversed(inbox.all())]
        return pages.render("inbox.html", web.language(request), mails=mails)

    @app.get("/inbox/messages", dependencies=[Depends(open_to_everyone)])
    async def messages(to: str | None = None) -> JSONResponse:
        return JSONResponse([mail.summary() for mail in inbox.all(to)])

    @app.get("/inbox/messages/{mail_id}", dependencies=[Depends(open_to_everyone)])
    async def message_page(request: Request, mail_id: str) -> HTMLResponse:
        mail = found(mail_id)
        fields = [(name, str(value)) for name, value in mail.message.items() if name.lower() != "dkim-signature"]
        return pages.render(
            "mail.html", web.language(request), mail=mail.summary(), fields=fields, body=_with_links(mail.text())
        )

    @app.get("/inbox/messages/{mail_id}/raw", dependencies=[Depends(open_to_everyone)])
    async def raw(mail_id: str) -> Response:
        return Response(found(mail_id).raw, media_type="message/rfc822")

    return app
