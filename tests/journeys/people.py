"""People as they use a running installation: forms, mails, links; and what others may see of them meanwhile."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import hashlib
import json
import os
import re
import secrets
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from infra.local.browser import Browser, Page
from infra.local.installation import Installation
from infra.local.screen import until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from email.message import EmailMessage
    from pathlib import Path

NEWSLETTER: Final = "newsletter/email"
CLICKS: Final = "newsletter-clicks/email"
ONE_CLICK: Final = (("List-Unsubscribe", "One-Click"),)
LINK: Final = re.compile(r"https?://[^\s<>\"]+")


def unpadded(text: str) -> bytes:
    """The bytes behind base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True)
class Mail:
    """One mail as it lies in the inbox."""

    id: str
    message: EmailMessage
    raw: bytes

    @property
    def text(self) -> str:
        body = self.message.get_body(("plain",))
        return str(body.get_content()) if body else ""

    @property
    def message_id(self) -> str:
        return str(self.message["Message-ID"]).strip()

    @property
    def way_out(self) -> str:
        """The address in List-Unsubscribe."""
        return str(self.message["List-Unsubscribe"]).strip().strip("<>")

    @property
    def confirm_link(self) -> str:
        return self.links("/newsletter/confirm/")[0]

    @property
    def receipts(self) -> list[str]:
        return self.links("/ledger/receipts/")

    def links(self, path: str) -> list[str]:
        """Every web address in the text that holds this path, once each."""
        return list(dict.fromkeys(link for link in LINK.findall(self.text) if path in link))


@dataclass(frozen=True)
class Entry:
    """One recorded statement of a person, in the order of the log."""

    matter: str
    overtaken: bool
    statement: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.statement["type"])

    @property
    def id(self) -> str:
        return str(self.statement["id"])

    @property
    def data(self) -> dict[str, Any]:
        return dict(self.statement["data"])

    @property
    def key(self) -> str:
        return f"{self.data.get('purpose')}/{self.data.get('channel')}"


@dataclass
class World:
    """A running installation, and every secret that was typed or mailed in it: none may be found in a log."""

    installation: Installation
    addresses: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)

    @property
    def base(self) -> str:
        return self.installation.base_url

    def call(self, method: str, path: str, body: Any = None, caller: str = "demo") -> Any:
        """A service's call with that caller's credential."""
        request = urllib.request.Request(
            self.base + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.installation.secrets.credential(caller)}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def history(self, subject: str) -> list[Entry]:
        """What is recorded of a subject; nothing yet is an empty list."""
        try:
            found = self.call("GET", f"/ledger/subjects/{subject}/history", caller="compliance")["entries"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise
        return [Entry(one["matter"], one["overtaken"], json.loads(unpadded(one["statement"]))) for one in found]

    def permit(self, subject: str, purpose: str = NEWSLETTER) -> dict[str, Any]:
        """Ask for one mail's permit, as a sender that is not ours would."""
        name, channel = purpose.split("/")
        message_id = f"<probe-{secrets.token_hex(8)}@example.org>"
        body = {"subject": subject, "purpose": name, "channel": channel, "message_id": message_id, "attempt": 1}
        return dict(self.call("POST", "/marketing/permits", body))

    def begin_issue(self) -> str:
        """Send an issue to everybody; its name."""
        name = f"issue-{secrets.token_hex(4)}"
        texts = {
            "de": {"subject": f"Ausgabe {name}", "text": "Guten Tag,\n\ndas ist neu."},
            "en": {"subject": f"Issue {name}", "text": "Hello,\n\nthis is new."},
        }
        body = {"campaign": name, "purpose": "newsletter", "channel": "email", "texts": texts}
        self.call("POST", "/marketing/campaigns", body)
        return name

    def issue_is_out(self, name: str) -> None:
        """Wait until a campaign is at its end."""
        until(f"the end of {name}", lambda: self.call("GET", f"/marketing/campaigns/{name}")["state"] == "done", 60)

    def sql(self, statement: str) -> str:
        """One statement as PostgreSQL's superuser, to look or to move a deadline; what it answers, unadorned."""
        postgres, database = self.installation.postgres, self.installation.database
        psql = [str(postgres.binary("psql")), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", postgres.dsn(database=database)]
        done = subprocess.run([*psql, "-c", statement], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def stated(self, subject: str) -> list[str]:
        """Types of all that the newsletter has accepted to state about a subject, recorded yet or not."""
        found = self.sql(
            "select convert_from(statement, 'UTF8')::jsonb ->> 'type' from newsletter.outbox"
            f" where convert_from(statement, 'UTF8')::jsonb ->> 'subject' = '{subject}' order by accepted_at, id"
        )
        return found.split()

    def sweep(self) -> None:
        """What is due now is ended now: any number of sweepers may run, and this is one more."""
        from services.newsletter.domain import Speaker  # noqa: PLC0415
        from services.newsletter.worker import Sweeper  # noqa: PLC0415
        from shared import register  # noqa: PLC0415
        from shared.client import ServiceClient  # noqa: PLC0415
        from shared.clock import utc_now  # noqa: PLC0415
        from shared.software import software  # noqa: PLC0415

        async def sweep(db: Any) -> None:
            erasure = ServiceClient(self.base, self.installation.secrets.credential("newsletter"), "erasure")
            try:
                await Sweeper(db, Speaker.of(register.load(), software()), utc_now, os.urandom, erasure=erasure).sweep()
            finally:
                await erasure.close()

        self.as_newsletter(sweep)

    def as_newsletter(self, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
        """Do something on the newsletter's schema in its own role, as one more process of it would."""
        from shared.database import Database  # noqa: PLC0415

        async def run() -> None:
            db = await Database.connect(self.installation.settings().dsn("newsletter"), "newsletter")
            try:
                await work(db)
            finally:
                await db.close()

        asyncio.run(run())

    def log_files(self) -> list[Path]:
        """Every log that a process of this installation writes."""
        return sorted(self.installation.logs.glob("*.log"))

    def person(self, language: str = "en", name: str = "") -> Person:
        """Somebody nobody knows yet."""
        return Person(self, f"{name or 'p'}.{secrets.token_hex(4)}@example.org", Browser(language))


@dataclass
class Person:
    """One person with one address at one browser."""

    world: World
    address: str
    browser: Browser

    def __post_init__(self) -> None:
        self.world.addresses.add(self.address)

    # -- mails -----------------------------------------------------------------------------------------------------

    def count_mails(self) -> int:
        return len(self._listed())

    def _listed(self) -> list[dict[str, str]]:
        query = urllib.parse.urlencode({"to": self.address})
        return list(json.loads(Browser("en").get(f"{self.world.base}/inbox/messages?{query}").body))

    def mails(self) -> list[Mail]:
        """All of them, oldest first."""
        return [self._read(one["id"]) for one in self._listed()]

    def mail(self, number: int, seconds: float = 15) -> Mail:
        """The `number`-th mail, counted from 1, as soon as it is there."""
        found = until(f"mail {number}", lambda: self._listed()[number - 1 :], seconds)
        return self._read(found[0]["id"])

    def _read(self, mail_id: str) -> Mail:
        raw = Browser("en").get(f"{self.world.base}/inbox/messages/{mail_id}/raw").body
        mail = Mail(mail_id, email.message_from_bytes(raw, policy=email.policy.default), raw)  # type: ignore[arg-type]
        self.world.links.update(LINK.findall(mail.text), {mail.way_out})
        return mail

    # -- pages -----------------------------------------------------------------------------------------------------

    def open_form(self) -> Page:
        page = self.browser.get(f"{self.world.base}/newsletter")
        assert page.status == 200
        return page

    def send_form(self, page: Page, *, clicks: bool = False) -> Page:
        """Type the address, tick, press the button."""
        form = page.form("email")
        ticked = {NEWSLETTER, CLICKS} if clicks else {NEWSLETTER}
        return self.browser.submit(page, form, form.filled(self.address, ticked))

    def sign_up(self, *, clicks: bool = False) -> Mail:
        """Fill in the form and send it; the confirmation mail."""
        before = self.count_mails()
        answer = self.send_form(self.open_form(), clicks=clicks)
        assert answer.status == 200
        return self.mail(before + 1)

    def press_confirm(self, link: str) -> Page:
        """Open the page of a confirmation mail's link and press its button."""
        page = self.browser.get(link)
        assert page.status == 200
        return self.browser.submit(page, page.form(), page.form().filled())

    def subscribe(self, *, clicks: bool = False) -> tuple[Mail, Mail]:
        """The whole double opt-in; the confirmation mail and the welcome mail."""
        confirmation = self.sign_up(clicks=clicks)
        before = self.count_mails()
        answer = self.press_confirm(confirmation.confirm_link)
        assert answer.status == 200
        welcome = self.mail(before + 1)
        granted(self.world, self.subject(confirmation))
        return confirmation, welcome

    def one_click(self, link: str) -> Page:
        """What a mailbox provider posts for this person (RFC 8058)."""
        return Browser("en", "MailboxProvider/1.0").post(link, ONE_CLICK, origin=False)

    def press_unsubscribe(self, link: str, scope: str = "purpose") -> Page:
        """Open the page of a way out, choose, press its button."""
        page = self.browser.get(link)
        assert page.status == 200
        return self.browser.submit(page, page.form(), [("scope", scope)])

    # -- what is known of this person ------------------------------------------------------------------------------

    def subject(self, confirmation: Mail) -> str:
        """The pseudonym, as the newsletter's row of this confirmation mail has it."""
        token = confirmation.confirm_link.rsplit("/", 1)[1].split("?")[0]
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = self.world.sql(f"select subject from newsletter.request where token_hash = '\\x{digest}'")
        assert found, "no request has this token's hash"
        return found

    def quiet(self, subject: str) -> None:
        """Wait until nothing of this person is on its way any more: no mail waits, all statements are sealed."""
        waiting = (
            "select (select count(*) from newsletter.mail m join newsletter.request r on r.id = m.request"
            f" where r.subject = '{subject}' and m.ended_at is null)"
            " + (select count(*) from newsletter.outbox where sealed_at is null)"
        )
        until("the end of all that was on its way", lambda: self.world.sql(waiting) == "0")


def granted(world: World, subject: str, purpose: str = NEWSLETTER) -> None:
    """Wait until a permit is granted: what was just recorded is known to marketing, and it is fresh."""
    until("a granted permit", lambda: world.permit(subject, purpose)["decision"] == "granted")


def stopped(page: Page) -> bool:
    """Whether a withdrawal's answer says that marketing refuses from now on."""
    return page.status == 200 and page.headers.get("consent-effect") == "stopped"


def types(history: Iterable[Entry]) -> list[str]:
    return [entry.type for entry in history]
