"""The ways that fault tests break do to bytes what they say, and nothing else."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.proxy import Way, Ways

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while said := self.request.recv(65536):
                self.request.sendall(said)
        except OSError:
            pass


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    """Yield a way from a Unix socket to an echo on TCP."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server, Ways() as ways:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield ways.open("a.b", tmp_path / "s", lambda: ("127.0.0.1", server.server_address[1]))
        server.shutdown()


def connected(way: Way) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(way.listens))
    return connection


def echoed(connection: socket.socket, said: bytes) -> bytes:
    connection.sendall(said)
    return received(connection, len(said))


def received(connection: socket.socket, count: int) -> bytes:
    with connection.makefile("rb", buffering=0) as stream:
        parts = b""
        while len(parts) < count and (part := stream.read(count - len(parts))):
            parts += part
        return parts


def test_a_whole_way_carries_everything_both_ways_and_to_the_end(way: Way) -> None:
    with connected(way) as connection:
        said = bytes(range(256)) * 2000
        threading.Thread(target=connection.sendall, args=(said,)).start()
        assert received(connection, len(said)) == said
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_a_slow_way_takes_its_time_in_each_direction(way: Way) -> None:
    with connected(way) as connection:
        way.slow(0.1)
        began = time.monotonic()
        assert echoed(connection, b"slow") == b"slow"
        assert time.monotonic() - began >= 0.2
        way.slow(0.0, bytes_per_second=10_000)
        began = time.monotonic()
        assert echoed(connection, bytes(3000)) == bytes(3000)
        assert echoed(connection, b"!") == b"!"
        assert time.monotonic() - began >= 0.3


def test_a_way_that_is_cut_refuses_and_is_whole_again_when_healed(way: Way) -> None:
    with connected(way) as connection:
        assert echoed(connection, b"one") == b"one"
        way.cut()
        assert connection.recv(1) == b""
    with pytest.raises(OSError):  # noqa: PT011 - which one differs between systems
        connected(way)
    way.heal()
    with connected(way) as connection:
        assert echoed(connection, b"two") == b"two"
        way.reset()
        assert connection.recv(1) == b""
    with connected(way) as connection:
        assert echoed(connection, b"three") == b"three"


def test_a_way_that_hangs_tells_nobody_and_loses_nothing(way: Way) -> None:
    with connected(way) as connection:
        assert echoed(connection, b"one") == b"one"
        for silence in (way.hang, way.lose_answers):
            silence()
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                echoed(connection, b"two")
            connection.settimeout(5)
            way.heal()
            assert received(connection, 3) == b"two"


def test_a_way_ends_in_the_middle_of_a_word_or_as_soon_as_it_has_begun(way: Way) -> None:
    with connected(way) as connection:
        way.end_after(2)
        connection.sendall(b"three")
        assert len(connection.recv(5)) <= 2
        assert connection.recv(5) == b""
    way.heal()
    way.hang_up()
    with connected(way) as connection:
        assert connection.recv(1) == b""
