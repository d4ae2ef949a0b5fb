"""The story `make demo` plays: an opt-in that can be proven, and a withdrawal that stops the next mail.

Every step is done through the doors that people, mailbox providers, services and compliance have. A tick is printed
only for what was checked here and now; the first check that fails ends the story.
"""

from __future__ import annotations

import base64
import email
import email.policy
import json
import re
import secrets
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import dkim
from cryptography.hazmat.primitives import serialization

from infra.local.browser import Browser, Page
from infra.local.installation import Installation
from infra.local.screen import Screen, check, until
from shared.clock import rfc3339, utc_now

if TYPE_CHECKING:
    from email.message import EmailMessage
    from pathlib import Path

LINK: Final = re.compile(r"https?://[^\s<>\"]+")
PURPOSE, CHANNEL = "newsletter", "email"
SCANNER: Final = "LinkScanner/1.0 (mail gateway)"


@dataclass(slots=True)
class Story:
    """One play on one installation."""

    installation: Installation
    screen: Screen
    person: Browser = field(default_factory=lambda: Browser("de-DE,de;q=0.9"))
    address: str = field(default_factory=lambda: f"anna.{secrets.token_hex(3)}@example.org")
    receipt: dict[str, Any] = field(default_factory=dict)
    receipt_link: str = ""
    subject: str = ""
    answer: Page | None = None
    issue: EmailMessage | None = None
    confirmed_at: float = 0.0
    consented_at: str = ""
    """A moment at which consent held."""
    receipt_within: float = 10.0

    @property
    def base(self) -> str:
        return self.installation.base_url

    @property
    def kept(self) -> Path:
        """Where this play keeps what the person and compliance keep."""
        return self.installation.folder / "evidence"

    # -- doors ---------------------------------------------------------------------------------------------------

    def mails(self, to: str) -> list[dict[str, str]]:
        return list(
            json.loads(Browser("en").get(self.installation.url(f"/inbox/messages?to={to.replace('+', '%2B')}")).body)
        )

    def raw(self, mail: dict[str, str]) -> bytes:
        return Browser("en").get(self.installation.url(f"/inbox/messages/{mail['id']}/raw")).body

    @staticmethod
    def message(raw: bytes) -> EmailMessage:
        return email.message_from_bytes(raw, policy=email.policy.default)

    def mail(self, to: str, number: int) -> tuple[dict[str, str], EmailMessage, bytes]:
        """The `number`-th mail (from 1) to an address, as soon as it is there."""
        found = until(f"mail {number} to {to}", lambda: self.mails(to)[number - 1 :])[0]
        raw = self.raw(found)
        return found, self.message(raw), raw

    def call(self, method: str, path: str, body: Any = None, caller: str = "demo") -> Any:
        """A service's call, with a credential of the demo."""
        request = urllib.request.Request(
            self.installation.url(path),
            None if body is None else json.dumps(body).encode(),
            {
                "Authorization": f"Bearer {self.installation.secrets.credential(caller)}",
                "Content-Type": "application/json",
            },
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def history(self, subject: str) -> list[dict[str, Any]]:
        """The recorded statements of a subject, in the order of the log."""
        entries = self.call("GET", f"/ledger/subjects/{subject}/history", caller="compliance")["entries"]
        return [json.loads(_bytes(entry["statement"])) for entry in entries if entry["statement"]]

    def permit(self, subject: str) -> dict[str, Any]:
        message_id = f"<probe-{secrets.token_hex(8)}@example.org>"
        body = {"subject": subject, "purpose": PURPOSE, "channel": CHANNEL, "message_id": message_id, "attempt": 1}
        return dict(self.call("POST", "/marketing/permits", body))

    def sign_up(self, browser: Browser, address: str) -> Page:
        """Open the form, decide on each purpose by itself (the newsletter yes, the rest no), send it."""
        page = browser.get(f"{self.base}/newsletter")
        check(page.status == 200, f"the form answered {page.status}")
        form = page.form()
        check(bool(form.boxes) and not any(default for *_, default in form.boxes), "a box is ticked in advance")
        answer = browser.submit(page, form, form.filled(address, [f"{PURPOSE}/{CHANNEL}"]))
        check(answer.status == 200, f"the form was answered by {answer.status}")
        return answer

    def confirm(self, browser: Browser, link: str) -> Page:
        page = browser.get(link)
        answer = browser.submit(page, page.form(), page.form().filled())
        check(answer.status == 200, f"the confirmation was answered by {answer.status}")
        return answer

    def subscribe(self, address: str) -> None:
        """Sign up and confirm, up to the welcome mail."""
        browser = Browser("en")
        before = len(self.mails(address))
        self.sign_up(browser, address)
        _, message, _ = self.mail(address, before + 1)
        self.confirm(browser, _link(message, "/newsletter/confirm/"))
        self.mail(address, before + 2)

    # -- the story -----------------------------------------------------------------------------------------------

    def form_and_same_answer(self) -> None:
        self.screen.step(1, "A person signs up, and decides on each purpose by itself")
        german, english = self.person.get(f"{self.base}/newsletter"), Browser("en").get(f"{self.base}/newsletter")
        check('lang="de"' in german.text and 'lang="en"' in english.text, "the page does not follow Accept-Language")
        self.screen.tick("the form and its notice, German or English", f"{german.seconds * 1000:.0f} ms", german.url)
        self.answer = self.sign_up(self.person, self.address)
        self.screen.tick("sent; the page says what happens next", f"{self.answer.seconds * 1000:.0f} ms")

    def mail_and_confirmation(self) -> None:
        self.screen.step(2, "A confirmation mail arrives; only the button on its page confirms")
        began = time.perf_counter()
        mail, message, _ = self.mail(self.address, 1)
        kinds = {part.get_content_type() for part in message.walk()}
        check({"text/plain", "text/html"} <= kinds, "the confirmation mail is not multipart")
        self.screen.tick(
            "confirmation mail in the inbox",
            f"{(time.perf_counter() - began) * 1000:.0f} ms",
            self.installation.url(f"/inbox/messages/{mail['id']}"),
        )
        link = _link(message, "/newsletter/confirm/")
        for _ in range(2):
            check(Browser("en", SCANNER).get(link).status == 200, "the link's page did not open")
        check(len(self.mails(self.address)) == 1, "a GET of the link had an effect")
        self.screen.tick("a mail scanner opened the link twice: nothing happened")
        self.confirmed_at = time.perf_counter()
        page = self.person.get(link)
        answer, again = (self.person.submit(page, page.form(), page.form().filled()) for _ in range(2))
        check(answer.status == 200, f"the confirmation was answered by {answer.status}")
        self.screen.tick("the button confirmed", f"{answer.seconds * 1000:.0f} ms")
        check(again.body == answer.body, "a second click is answered differently")
        self.screen.tick("a second click says the same and does nothing")

    def record_and_receipt(self) -> None:
        self.screen.step(3, "Both steps are recorded, sealed and published; the receipt is there")
        _, message, _ = self.mail(self.address, 2)
        self.receipt_link = _link(message, "/ledger/receipts/")
        answer = Browser("de").get(self.receipt_link, Accept="application/json")
        seconds = time.perf_counter() - self.confirmed_at
        check(answer.status == 200, f"the receipt answered {answer.status}")
        check(seconds < self.receipt_within, f"the receipt took {seconds:.2f} s after the confirmation")
        self.receipt = json.loads(answer.body)
        self.subject = str(json.loads(_bytes(self.receipt["statement"]))["subject"])
        self.screen.tick(
            "welcome mail, and the receipt its link opens",
            f"{seconds * 1000:.0f} ms after the click",
            self.receipt_link,
        )
        self.consented_at = rfc3339(utc_now())
        types = [statement["type"] for statement in self.history(self.subject)]
        check("ConsentRequested" in types and types.count("ConsentGiven") == 1, f"the record holds {types}")
        self.screen.tick(
            "the record: " + ", ".join(types),
            f"log size {self.checkpoint_size()}",
            f"{self.base}/ledger/log/0/checkpoint",
        )
        for each in self.mails(self.address):
            parsed = self.message(self.raw(each))
            check(parsed["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click", "a mail has no way out")
        self.screen.tick("each mail so far carries a way out")
        before = len(self.mails(self.address))
        known = self.sign_up(self.person, self.address)
        check(
            self.answer is not None and known.body == self.answer.body, "the answer tells whether an address is known"
        )
        until("a mail for the known address", lambda: len(self.mails(self.address)) > before)
        self.screen.tick("signing up a known address is answered with the same bytes", f"{len(known.body)} bytes")

    def checkpoint_size(self) -> int:
        return int(Browser("en").get(f"{self.base}/ledger/log/0/checkpoint").text.split("\n")[1])

    def campaign(self) -> None:
        self.screen.step(4, "Marketing asks for a permit, and sends issue 1")
        permit = self.permit(self.subject)
        check(permit["decision"] == "granted", f"the permit was refused: {permit['reason']}")
        self.screen.tick(
            "permit granted", f"log size {permit['size']}, all sources complete up to {permit['all_before'][11:23]}"
        )
        before = len(self.mails(self.address))
        name = f"issue-1-{secrets.token_hex(3)}"
        recipients = self.call("POST", "/marketing/campaigns", _issue(name, 1))["recipients"]
        mail, message, raw = self.mail(self.address, before + 1)
        self.issue = message
        check(message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click", "no one-click header")
        check("mailto:" not in message["List-Unsubscribe"], "a mailto way out")
        signed = re.search(r"h=([^;]+);", str(message["DKIM-Signature"]))
        names = {name.strip().lower() for name in signed.group(1).split(":")} if signed else set()
        check({"list-unsubscribe", "list-unsubscribe-post"} <= names, "DKIM does not cover both headers")
        check(dkim.verify(raw, dnsfunc=self._dkim_record), "the DKIM signature does not hold")
        self.screen.tick(
            f"issue 1 is out to {recipients}, DKIM-signed over both unsubscribe headers",
            "",
            self.installation.url(f"/inbox/messages/{mail['id']}"),
        )
        until("ConsentUsed and MessageSent", lambda: self._recorded(self.subject, "ConsentUsed"))
        self.screen.tick("ConsentUsed and MessageSent are recorded, naming the consent relied on")

    def _recorded(self, subject: str, type_name: str) -> bool:
        statements = self.history(subject)
        used = [one["id"] for one in statements if one["type"] == type_name]
        sent = [
            one
            for one in statements
            if one["type"] == "MessageSent" and set(one["data"].get("follows", [])) & set(used)
        ]
        return bool(used and sent)

    def _dkim_record(self, name: bytes, timeout: int = 5) -> bytes:  # noqa: ARG002 - dkimpy's signature
        _, pem = self.installation.secrets.dkim()
        key = serialization.load_pem_private_key(pem, None).public_key()
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return b"v=DKIM1; k=rsa; p=" + base64.b64encode(der)

    def withdrawal(self) -> None:
        self.screen.step(5, "The mailbox provider posts one click, and the next mail is stopped")
        url = str(self.issue["List-Unsubscribe"] if self.issue else "").strip("<>")
        provider = Browser("en", "MailboxProvider/1.0")
        answer = provider.post(url, [("List-Unsubscribe", "One-Click")], origin=False)
        check(answer.status == 200, f"the one click was answered by {answer.status}")
        check(_stopped(answer), "the answer does not say that mails are stopped")
        self.screen.tick(
            "answered: stopped, marketing refuses", f"{answer.seconds * 1000:.0f} ms from click to effect", url
        )
        permit = self.permit(self.subject)
        check(permit["decision"] == "refused", "a permit was granted after the answer")
        self.screen.tick(f"a permit asked now is refused: {permit['reason']}")
        again = provider.post(url, [("List-Unsubscribe", "One-Click")], origin=False)
        check(again.status == 200 and self._withdrawals() == 1, "posting again stated something")
        self.screen.tick("posting again answers the same and states nothing")
        self._campaign_in_progress()
        before = len(self.mails(self.address))
        self.sign_up(self.person, self.address)
        until("the new confirmation mail", lambda: len(self.mails(self.address)) > before)
        check(self.permit(self.subject)["decision"] == "refused", "a permit was granted before the new confirmation")
        name = f"issue-3-{secrets.token_hex(3)}"
        self.call("POST", "/marketing/campaigns", _issue(name, 3))
        until("the end of issue 3", lambda: self.call("GET", f"/marketing/campaigns/{name}")["state"] == "done")
        check(len(self.mails(self.address)) == before + 1, "something else than the confirmation was sent")
        self.screen.tick("signing up again needs a new double opt-in; until then only the confirmation was sent")

    def _withdrawals(self) -> int:
        return sum(one["type"] == "ConsentWithdrawn" for one in self.history(self.subject))

    def _campaign_in_progress(self) -> None:
        """Issue 2 goes to five people, a few a second; one whose mail is still waiting withdraws."""
        people = [f"b{number}.{secrets.token_hex(3)}@example.org" for number in range(5)]
        for address in people:
            self.subscribe(address)
        name = f"issue-2-{secrets.token_hex(3)}"
        before = {address: len(self.mails(address)) for address in people}
        self.call("POST", "/marketing/campaigns", _issue(name, 2))
        until("the first mail of issue 2", lambda: any(len(self.mails(one)) > before[one] for one in people))
        last = next((one for one in reversed(people) if len(self.mails(one)) == before[one]), None)
        check(last is not None, "issue 2 was over before anyone could withdraw")
        welcome = self.message(self.raw(self.mails(str(last))[-1]))
        link = str(welcome["List-Unsubscribe"]).strip("<>")
        answer = Browser("en").post(link, [("List-Unsubscribe", "One-Click")], origin=False)
        check(_stopped(answer), "the answer does not say that mails are stopped")
        at = len(self.mails(str(last)))
        until("the end of issue 2", lambda: self.call("GET", f"/marketing/campaigns/{name}")["state"] == "done", 60)
        check(len(self.mails(str(last))) == at, "a mail of the campaign left after the answer")
        deliveries = self.call("GET", f"/marketing/campaigns/{name}")["deliveries"]
        figure = ", ".join(f"{count} {state}" for state, count in sorted(deliveries.items()))
        check(at > before[str(last)] or deliveries.get("skipped", 0) > 0, f"nobody was skipped: {figure}")
        self.screen.tick("a campaign in progress stopped for a person who withdrew", figure)
        for address in people:
            # So that the demo can be played again and again without an ever longer list.
            mail = self.message(self.raw(self.mails(address)[-1]))
            Browser("en").post(
                str(mail["List-Unsubscribe"]).strip("<>"), [("List-Unsubscribe", "One-Click")], origin=False
            )


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _link(message: EmailMessage, path: str) -> str:
    body = message.get_body(("plain",))
    links = [link for link in LINK.findall(body.get_content() if body else "") if path in link]
    check(bool(links), f"the mail has no link to {path}")
    return str(links[0])


def _stopped(page: Page) -> bool:
    return page.headers.get("consent-effect") == "stopped"


def _issue(name: str, number: int) -> dict[str, Any]:
    return {
        "campaign": name,
        "purpose": PURPOSE,
        "channel": CHANNEL,
        "texts": {
            "de": {
                "subject": f"Ausgabe {number}: Was es Neues gibt",
                "text": "Guten Tag,\n\ndies ist eine Ausgabe unseres Newsletters.\n\nBis bald!",
            },
            "en": {
                "subject": f"Issue {number}: what is new",
                "text": "Hello,\n\nthis is an issue of our newsletter.\n\nSee you soon!",
            },
        },
    }
