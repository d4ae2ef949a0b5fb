"""What a campaign's mail is: its text in the person's language, and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from services.marketing.store import Delivery
from shared.mail import Letter, compose, message_id, sign
from shared.pages import load_texts
from shared.register import Register
from shared.way_out import WayOut, mint

HERE: Final = Path(__file__).parent


class Letters:
    """Writes a mail to its exact signed bytes. Equal input gives equal bytes: its date is the campaign's."""

    def __init__(
        self,
        register: Register,
        *,
        base_url: str,
        mail_domain: str,
        sender: str,
        dkim: tuple[str, bytes],
        way_out_keys: Mapping[int, bytes],
    ) -> None:
        """`sender` is the address mails come from; `dkim` is selector and private key (PEM)."""
        self.sender = sender
        self._register = register
        self._base_url = base_url
        self._mail_domain = mail_domain
        self._dkim = dkim
        self._way_out_keys = way_out_keys
        self._texts = {language: load_texts((HERE,), language) for language in register.languages}
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "letters"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def message_id(self, delivery: Delivery) -> str:
        return message_id(delivery.statement, self._mail_domain)

    def issue(self, delivery: Delivery, to: str) -> bytes:
        """One mail to one address."""
        activity = self._register.activity_of(delivery.purpose, delivery.channel)
        way_out = WayOut(delivery.subject, ((delivery.purpose, delivery.channel),), delivery.statement)
        url = f"{self._base_url}/newsletter/unsubscribe/{mint(self._way_out_keys, way_out)}"
        controller, t = activity.controller, self._texts[delivery.language]
        subject, text = delivery.text["subject"], delivery.text["text"].replace("\r\n", "\n").strip("\n")
        values = {
            "t": t,
            "language": delivery.language,
            "subject": subject,
            "text": text,
            "paragraphs": [paragraph for paragraph in text.split("\n\n") if paragraph.strip()],
            "purpose": activity.purpose(delivery.purpose, delivery.channel).title[delivery.language],
            # Whoever was written to in a language is shown the page in it, whatever the browser prefers.
            "way_out_url": f"{url}?lang={delivery.language}",
            "imprint": t(
                "mail.imprint",
                controller=controller.name,
                address=", ".join(controller.address),
                email=controller.email,
            ),
        }
        letter = Letter(
            message_id=self.message_id(delivery),
            date=delivery.created_at,
            sender_name=activity.sender.name,
            sender=self.sender,
            to=to,
            subject=subject,
            text=self._templates.get_template("issue.txt").render(values) + "\n",
            html=self._templates.get_template("issue.html").render(values) + "\n",
            language=delivery.language,
            way_out_url=url,
            auto_submitted=False,
        )
        selector, key = self._dkim
        return sign(compose(letter), self._mail_domain, selector, key, delivery.created_at)
