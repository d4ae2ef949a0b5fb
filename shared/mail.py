"""Mails as the system sends them: composed to the same bytes each time, DKIM-signed, archived, handed to a server.

Every mail carries a way out (RFC 2369, RFC 8058), also the confirmation and the welcome, and the signature covers it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from functools import lru_cache
from typing import Final, Literal

import aiosmtplib
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from shared.contact_points import parse_email
from shared.errors import Corrupt
from shared.events.types import Attachment
from shared.sealing import Caller, base64url, seal, store

ONE_CLICK: Final = "List-Unsubscribe=One-Click"
"""The body a mailbox provider posts to the way out (RFC 8058 §3.2)."""

_SIGNED: Final = (
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "content-language",
    "auto-submitted",
    "list-unsubscribe",
    "list-unsubscribe-post",
)
_GOODBYE_SECONDS: Final = 2
_FOLD: Final = re.compile(rb"\r\n(?=[ \t])")
_BLANKS: Final = re.compile(rb"[ \t]+")


@dataclass(frozen=True, slots=True)
class Letter:
    """What a mail says. `message_id` has its brackets; `sender` and `to` are addresses, the latter as typed."""

    message_id: str
    date: datetime
    sender_name: str
    sender: str
    to: str
    subject: str
    text: str
    html: str
    language: str
    way_out_url: str
    auto_submitted: bool


def message_id(statement: str, domain: str) -> str:
    """The Message-ID of the mail whose MessageSent has this id: so a way out names its mail without a table."""
    return f"<{statement}@{domain}>"


def _mailbox(address: str) -> tuple[str, bool]:
    """An address for envelope and header, and whether it needs SMTPUTF8 (RFC 6531); Refused if it is none.

    A domain always has an ASCII form and is sent in it; a local part has none and is kept as typed.
    """
    local = address.strip(" ").rpartition("@")[0]
    domain = parse_email(address).normalised.rpartition("@")[2]
    return f"{local}@{domain}", not local.isascii()


def compose(letter: Letter) -> bytes:
    """The mail with CRLF line ends; equal letters give equal bytes, so a mail sent again is the same mail."""
    to, utf8 = _mailbox(letter.to)
    policy = SMTPUTF8 if utf8 else SMTP
    message = EmailMessage(policy=policy)
    message["From"] = Address(letter.sender_name, addr_spec=letter.sender)
    local, _, domain = to.rpartition("@")
    message["To"] = Address(username=local, domain=domain)
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(letter.date)
    message["Message-ID"] = letter.message_id
    if letter.auto_submitted:
        message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.text, cte="quoted-printable")
    message.add_alternative(letter.html, subtype="html", cte="quoted-printable")
    # Not before: making it multipart moves every Content- header into the first part.
    message["Content-Language"] = letter.language
    message.set_boundary("=_" + hashlib.sha256(f"{letter.message_id}\n{letter.text}".encode()).hexdigest()[:40])
    head, blank, body = message.as_bytes().partition(b"\r\n\r\n")
    # Written by hand: the library would fold the address, and providers are known to read one line only.
    way_out = f"List-Unsubscribe: <{letter.way_out_url}>\r\nList-Unsubscribe-Post: {ONE_CLICK}"
    return head + b"\r\n" + way_out.encode("ascii") + blank + body


@lru_cache(maxsize=8)
def _private_key(pem: bytes) -> RSAPrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, RSAPrivateKey):
        raise Corrupt("DKIM key is not RSA", "dkim")
    return key


def _relaxed_header(name: str, value: bytes) -> bytes:
    """RFC 6376 §3.4.2, without the line end."""
    return name.lower().encode("ascii") + b":" + _BLANKS.sub(b" ", _FOLD.sub(b"", value)).strip(b" \t\r\n")


def _relaxed_body(body: bytes) -> bytes:
    """RFC 6376 §3.4.4."""
    lines = [_BLANKS.sub(b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


def sign(raw: bytes, domain: str, selector: str, key_pem: bytes, at: datetime) -> bytes:
    """`raw` with a DKIM-Signature in front (RFC 6376, rsa-sha256, relaxed/relaxed); equal input, equal bytes.

    From, Subject and both List-Unsubscribe headers are named once more than they occur, so that none can be added.
    """
    head, _, body = raw.partition(b"\r\n\r\n")
    headers: dict[str, bytes] = {}
    for line in _FOLD.sub(b"\x00", head).split(b"\r\n"):
        name, _, content = line.partition(b":")
        headers[name.decode("ascii").lower()] = content.replace(b"\x00", b"\r\n")
    present = [name for name in _SIGNED if name in headers]
    named = [*present, "from", "subject", "list-unsubscribe", "list-unsubscribe-post"]
    digest = base64.b64encode(hashlib.sha256(_relaxed_body(body)).digest()).decode("ascii")
    folded = ":\r\n  ".join(":".join(named[start : start + 5]) for start in range(0, len(named), 5))
    value = (
        f" v=1; a=rsa-sha256; c=relaxed/relaxed; d={domain}; s={selector};\r\n"
        f" t={int(at.timestamp())};\r\n h={folded};\r\n bh={digest};\r\n b="
    )
    signed = b"".join(_relaxed_header(name, headers[name]) + b"\r\n" for name in present)
    signed += _relaxed_header("dkim-signature", value.encode("ascii"))
    signature = base64.b64encode(_private_key(key_pem).sign(signed, padding.PKCS1v15(), hashes.SHA256())).decode(
        "ascii"
    )
    lines = "\r\n  ".join(signature[start : start + 72] for start in range(0, len(signature), 72))
    return f"DKIM-Signature:{value}{lines}\r\n".encode("ascii") + raw


@dataclass(frozen=True, slots=True)
class Answer:
    """What the mail server made of a mail. `text` may quote the address: it is sealed, never logged.

    `deferred` may be tried again. If `uncertain`, the mail was on the wire when the answer failed to come, so it may
    have been accepted: who promised at most once must not try again.
    """

    outcome: Literal["accepted", "refused", "deferred"]
    code: int
    text: str
    uncertain: bool = False


class MailServer:
    """The way to one mail server; a connection per mail, so nothing is left over from one to the next."""

    def __init__(self, host: str, port: int, timeout: float = 30) -> None:
        self._host = host
        self._port = port
        self._timeout = timeout

    async def deliver(self, raw: bytes, sender: str, to: str, *, within: float | None = None) -> Answer:
        """Hand over one mail, byte for byte; never raises for what a server or a network does.

        What cannot begin to leave `within` so many seconds does not leave any more: the answer is then `deferred`.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        recipient, utf8 = _mailbox(to)
        smtp = aiosmtplib.SMTP(
            hostname=self._host, port=self._port, timeout=self._timeout, local_hostname=sender.rpartition("@")[2]
        )
        on_the_wire = False
        try:
            await smtp.connect()
            if utf8 and not smtp.supports_extension("smtputf8"):
                return Answer("refused", 550, "the mail server does not take internationalised addresses (RFC 6531)")
            options = ["SMTPUTF8", "BODY=8BITMIME"] if utf8 else []
            await smtp.mail(sender, options=options, encoding="utf-8" if utf8 else "ascii")
            await smtp.rcpt(recipient, encoding="utf-8" if utf8 else "ascii")
            if within is not None and clock() - began > within:
                # The server was slow, or we were stopped and somebody else has answered for this mail meanwhile.
                return Answer("deferred", 0, "too late")
            on_the_wire = True
            response = await smtp.data(raw)
            # From here on it is theirs; how the connection ends changes nothing.
            with suppress(aiosmtplib.SMTPException, OSError):
                await smtp.quit(timeout=_GOODBYE_SECONDS)
            return Answer("accepted", response.code, response.message)
        except aiosmtplib.SMTPResponseException as error:
            permanent = 500 <= error.code < 600 and not isinstance(error, aiosmtplib.SMTPConnectError)
            return Answer("refused" if permanent else "deferred", error.code, error.message)
        except (aiosmtplib.SMTPException, OSError) as error:
            return Answer("deferred", 0, type(error).__name__, uncertain=on_the_wire)
        finally:
            smtp.close()


async def archive(
    subjects: Caller,
    ledger: Caller,
    *,
    subject: str,
    statement_id: str,
    kind: str,
    raw: bytes,
    controller: str = "controller",
) -> Attachment:
    """Keep the exact bytes of a mail before it goes out: sealed as attachment/0 of its MessageSent. Idempotent."""
    item: dict[str, object] = {"statement": statement_id, "compartment": "attachment/0", "content": base64url(raw)}
    _, [sealed] = await seal(subjects, controller, [item], subject=subject)
    return await store(ledger, sealed, kind)
