"""What our mails say: the confirmation and the welcome, free of advertising, in the person's language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from services.newsletter.domain import Asked, Request
from services.newsletter.store import Mail
from shared.mail import Letter, compose, message_id, sign
from shared.pages import Texts, load_texts
from shared.register import Activity, NotInRegister, Register
from shared.sealing import base64url
from shared.way_out import WayOut, mint

HERE: Final = Path(__file__).parent
_LOCAL: Final = ZoneInfo("Europe/Berlin")


def moment(texts: Texts, at: datetime) -> str:
    """A date and time as people read it, in German local time."""
    local = at.astimezone(_LOCAL)
    month = texts("months").split()[local.month - 1]
    return texts("date", day=local.day, month=month, year=local.year, hour=local.hour, minute=local.minute)


def label_of(register: Register, notice_hash: str, asked: Asked) -> str:
    """The words of a box as they stood in the notice that was shown; its key if that notice is not known any more."""
    notice = register.notice_by_hash(notice_hash)
    try:
        return notice.label(asked.purpose, asked.channel) if notice is not None else asked.key
    except NotInRegister:
        return asked.key


def title_of(activity: Activity, purpose: str, channel: str, language: str) -> str:
    """A purpose's short name; a purpose the register has dropped is named by its key."""
    try:
        return activity.purpose(purpose, channel).title[language]
    except NotInRegister:
        return f"{purpose}/{channel}"


@dataclass(frozen=True)
class Letters:
    """Writes a mail to its exact signed bytes. Equal input gives equal bytes: its date and its id are the row's."""

    register: Register
    activity: Activity
    base_url: str
    mail_domain: str
    sender: str
    dkim: tuple[str, bytes]
    way_out_keys: Mapping[int, bytes]

    def __post_init__(self) -> None:
        environment = Environment(
            loader=FileSystemLoader(HERE / "pages" / "letters"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        object.__setattr__(self, "_environment", environment)
        texts = {language: load_texts((HERE,), language) for language in self.register.languages}
        object.__setattr__(self, "_texts", texts)

    def confirmation(self, mail: Mail, request: Request, to: str, token: str) -> bytes:
        """The one mail a sign-up may cause before it is confirmed."""
        texts = self._words(request.language)
        return self._write(
            mail,
            request,
            to,
            request.asked,
            at=moment(texts, request.requested_at),
            until=moment(texts, request.expires_at),
            confirm_url=f"{self.base_url}/newsletter/confirm/{token}",
            purposes=[{"label": label_of(self.register, request.notice, one)} for one in request.asked],
        )

    def welcome(self, mail: Mail, request: Request, to: str, receipts: Sequence[tuple[Asked, str, bytes]]) -> bytes:
        """What was confirmed, with the receipt of each: the purpose, its ConsentGiven, the key to the receipt."""
        texts = self._words(request.language)
        return self._write(
            mail,
            request,
            to,
            [asked for asked, _, _ in receipts],
            at=moment(texts, request.decided_at or mail.created_at),
            purposes=[
                {
                    "label": label_of(self.register, request.notice, asked),
                    "title": title_of(self.activity, asked.purpose, asked.channel, request.language),
                    "receipt_url": self.receipt_url(given, key),
                }
                for asked, given, key in receipts
            ],
        )

    def receipt_url(self, statement: str, key: bytes) -> str:
        return f"{self.base_url}/ledger/receipts/{statement}?key={base64url(key)}"

    def _words(self, language: str) -> Texts:
        texts: Mapping[str, Texts] = self.__dict__["_texts"]
        return texts[language]

    def _write(self, mail: Mail, request: Request, to: str, about: Sequence[Asked], **values: Any) -> bytes:
        texts = self._words(request.language)
        environment: Environment = self.__dict__["_environment"]
        way_out = WayOut(request.subject, tuple((one.purpose, one.channel) for one in about), mail.id)
        url = f"{self.base_url}/newsletter/unsubscribe/{mint(self.way_out_keys, way_out)}"
        controller, kind = self.activity.controller, mail.kind
        values |= {
            "t": texts,
            "language": request.language,
            "subject": texts(f"mail.{kind}.subject"),
            # Whoever was written to in a language is shown the page in it, whatever the browser prefers.
            "way_out_url": f"{url}?lang={request.language}",
            "imprint": texts(
                "mail.imprint",
                controller=controller.name,
                address=", ".join(controller.address),
                email=controller.email,
            ),
        }
        letter = Letter(
            message_id=message_id(mail.id, self.mail_domain),
            date=mail.created_at,
            sender_name=self.activity.sender.name,
            sender=self.sender,
            to=to,
            subject=values["subject"],
            text=environment.get_template(f"{kind}.txt").render(values) + "\n",
            html=environment.get_template(f"{kind}.html").render(values) + "\n",
            language=request.language,
            way_out_url=url,
            auto_submitted=True,
        )
        selector, key = self.dkim
        return sign(compose(letter), self.mail_domain, selector, key, mail.created_at)
