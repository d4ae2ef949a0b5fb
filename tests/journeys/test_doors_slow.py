"""Many clients that are slow on purpose: a visitor beside them notices nothing, and nothing of theirs is left."""

from __future__ import annotations

import contextlib
import resource
import socket
import urllib.parse
from typing import TYPE_CHECKING, Final

import pytest

from shared.connection import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.journeys.people import World

MANY: Final = Limits().connections + 60
HEAD: Final = b"POST /newsletter HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
SLOW: Final = {
    "silent": b"",
    "slow on headers": HEAD + b"X-Slow: ",
    "slow on bodies": HEAD + b"Content-Length: 60000\r\n\r\nemail=mara",
    "slow on chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nemai\r\n",
}


@pytest.fixture
def open_files() -> Iterator[None]:
    """As many as this machine lets us open: the limit under test is the server's."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("open_files")
@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW)
def test_slow_clients_do_not_keep_a_visitor_from_subscribing(world: World, sent: bytes) -> None:
    port = urllib.parse.urlsplit(world.base).port
    before = int(world.sql("select count(*) from newsletter.request"))
    with contextlib.ExitStack() as held:
        slow = []
        for _ in range(MANY):
            slow.append(held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)))
            slow[-1].sendall(sent)
        for one in slow:
            # One more byte from each that is still there, as such clients do.
            with contextlib.suppress(ConnectionError):
                one.sendall(b"x")
        person = world.person()
        confirmation, welcome = person.subscribe()
        assert world.history(person.subject(confirmation))
        assert person.one_click(welcome.way_out).status == 200
    # All the others are hung up on by now, and of what they began nothing was taken for a form.
    assert int(world.sql("select count(*) from newsletter.request")) == before + 1
