"""A mail server that outlives the services: keeps every mail it is handed, and can leave its sender waiting."""

from __future__ import annotations

import asyncio
import email
import email.policy
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from aiosmtpd.smtp import SMTP

from tests.journeys.people import Mail

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["confirmation", "welcome", "issue"]


@dataclass(frozen=True)
class Arrived:
    """One mail as it was handed over; the moment is `time.monotonic` of its last byte."""

    at: float
    to: str
    kind: Kind
    mail: Mail

    @property
    def statement(self) -> str:
        """Id of its MessageSent."""
        return self.mail.message_id.strip("<>").partition("@")[0]


def kind_of(mail: Mail) -> Kind:
    """What we were sent, as anybody can tell who reads it."""
    if mail.message["Auto-Submitted"] is None:
        return "issue"
    return "confirmation" if mail.links("/newsletter/confirm/") else "welcome"


def _nobody(_address: str, _kind: Kind | None) -> bool:
    return False


class MailServer:
    """Real SMTP on a port of its own, in a thread of its own; every mail is kept before it is acknowledged."""

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        self.port = 0
        self._held: list[str] = []
        self._refusal = ""
        self.refused: list[str] = []
        self._applies: Callable[[str, Kind | None], bool] = _nobody
        self._free = asyncio.Event()
        self._free.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._end = asyncio.Event()
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        def protocol() -> SMTP:
            return SMTP(self, enable_SMTPUTF8=True, hostname="localhost", loop=self._loop)

        async with await self._loop.create_server(protocol, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._end.wait()

    # -- what a test does to it ------------------------------------------------------------------------------------

    def hold_before_the_bytes(self, addresses: set[str]) -> None:
        """From now on leave whoever has a mail for one of these waiting, before it can hand it over."""
        self._hold(lambda address, kind: kind is None and address in addresses)

    def hold_after_the_bytes(self, kind: Kind) -> None:
        """From now on keep mails of this kind, and leave who handed them over waiting for our word."""
        self._hold(lambda _, its_kind: its_kind == kind)

    def _hold(self, applies: Callable[[str, Kind | None], bool]) -> None:
        self._held, self._applies = [], applies
        self._loop.call_soon_threadsafe(self._free.clear)

    @property
    def held(self) -> list[str]:
        """To whom the mails were whose senders were left waiting since."""
        return list(self._held)

    def let_go(self) -> None:
        """Answer them all, and whoever comes."""
        self._applies = _nobody
        self._loop.call_soon_threadsafe(self._free.set)

    def refuse(self, answer: str) -> None:
        """From now on answer every mail so (`451 …` not now, `550 …` never); the empty answer is to take it."""
        self._refusal, self.refused = answer, []

    def to(self, address: str, kind: Kind) -> list[Arrived]:
        """Mails of one kind to one address in the order of their coming, each once."""
        found = [one for one in list(self.arrived) if one.to == address and one.kind == kind]
        return list({one.mail.message_id: one for one in reversed(found)}.values())[::-1]

    # -- what aiosmtpd calls ---------------------------------------------------------------------------------------

    async def handle_RCPT(  # noqa: N802
        self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        await self._wait(address, None)
        return "250 2.1.5 fine"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        raw = envelope.original_content
        if self._refusal:
            self.refused += envelope.rcpt_tos
            return self._refusal
        mail = Mail("", email.message_from_bytes(raw, policy=email.policy.default), raw)
        for recipient in envelope.rcpt_tos:
            arrived = Arrived(time.monotonic(), recipient, kind_of(mail), mail)
            self.arrived.append(arrived)
            await self._wait(recipient, arrived.kind)
        return "250 2.0.0 kept"

    async def _wait(self, address: str, kind: Kind | None) -> None:
        if self._applies(address, kind):
            self._held.append(address)
            await self._free.wait()
