"""Handing a mail to a real SMTP server: what each answer, and the lack of one, is taken for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP

from shared.mail import Answer, MailServer
from tests.integration.newsletter.conftest import Mailbox, free_port

RAW = b"Subject: hello\r\n\r\n.a line that starts with a dot\r\n"
FROM, TO = "newsletter@example.org", "mara@example.net"


@asynccontextmanager
async def listening(factory: Callable[[], asyncio.Protocol]) -> AsyncIterator[MailServer]:
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    try:
        yield MailServer("127.0.0.1", server.sockets[0].getsockname()[1], timeout=1)
    finally:
        server.close()
        await server.wait_closed()


class Script(asyncio.Protocol):
    """A server that says these lines, one per command, and hangs up after the last."""

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._say()

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n"):
            self._say()

    def _say(self) -> None:
        if self._lines:
            self._transport.write(self._lines.pop(0).encode() + b"\r\n")
        else:
            self._transport.close()


async def test_the_bytes_arrive_as_they_are() -> None:
    mailbox = Mailbox()
    await mailbox.start()
    answer = await MailServer("127.0.0.1", mailbox.port).deliver(RAW, FROM, TO)
    await mailbox.stop()
    assert (answer.outcome, answer.code) == ("accepted", 250)
    assert mailbox.received == [(TO, RAW)]


@pytest.mark.parametrize(
    ("lines", "outcome", "uncertain"),
    [
        (["554 go away"], "deferred", False),
        (["421 too busy"], "deferred", False),
        (["220 hi", "250 ok", "250 ok", "550 unknown"], "refused", False),
        (["220 hi", "250 ok", "250 ok", "450 greylisted"], "deferred", False),
        (["220 hi", "250 ok", "451 later"], "deferred", False),
        (["220 hi", "250 ok"], "deferred", False),
        (["220 hi", "250 ok", "250 ok", "250 ok", "354 go on", "554 spam"], "refused", False),
        (["220 hi", "250 ok", "250 ok", "250 ok", "354 go on", "452 full"], "deferred", False),
        (["220 hi", "250 ok", "250 ok", "250 ok", "354 go on"], "deferred", True),
        (["220 hi", "250 ok", "250 ok", "250 ok", "354 go on", "250 kept"], "accepted", False),
    ],
)
async def test_each_answer_is_taken_for_what_it_is(lines: list[str], outcome: str, uncertain: bool) -> None:
    async with listening(lambda: Script(*lines)) as server:
        answer = await server.deliver(RAW, FROM, TO)
    assert (answer.outcome, answer.uncertain) == (outcome, uncertain)


async def test_a_server_that_is_not_there_is_tried_again() -> None:
    answer = await MailServer("127.0.0.1", free_port(), timeout=1).deliver(RAW, FROM, TO)
    assert (answer.outcome, answer.code, answer.uncertain) == ("deferred", 0, False)


async def test_a_server_that_says_nothing_is_not_waited_for_for_ever() -> None:
    async with listening(asyncio.Protocol) as server:
        answer = await server.deliver(RAW, FROM, TO)
    assert answer.outcome == "deferred"


@pytest.mark.parametrize("able", [True, False])
async def test_an_internationalised_address_goes_out_only_to_a_server_that_takes_it(able: bool) -> None:
    mailbox = Mailbox()

    def smtp() -> Any:
        return SMTP(mailbox, enable_SMTPUTF8=able, hostname="localhost", loop=asyncio.get_running_loop())

    async with listening(smtp) as server:
        answer: Answer = await server.deliver(RAW, FROM, "jörg@bücher.example")
    assert answer.outcome == ("accepted" if able else "refused")
    assert [to for to, _ in mailbox.received] == (["jörg@xn--bcher-kva.example"] if able else [])
