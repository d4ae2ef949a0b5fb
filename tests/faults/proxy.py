"""Ways between two parts that can be made slow, narrow, silent, one-way, or cut while both parts live: TCP or Unix
sockets, all in one thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Address = tuple[str, int] | Path

_AT_ONCE: Final = 64 * 1024
_WAITING_AT_MOST: Final = 256  # pieces on their way in one direction
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing says RST, as a host does that was switched off and on


@dataclass
class _Direction:
    """What happens to bytes that go this way."""

    delay: float = 0.0
    bytes_per_second: float = 0.0
    ends_after: int | None = None
    open: asyncio.Event = field(default_factory=asyncio.Event)


class Way:
    """One way to one part. Whatever is done to it is done when the call returns."""

    def __init__(
        self, name: str, listens: Address, leads_to: Callable[[], Address], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.name, self.listens = name, listens
        self._leads_to, self._loop = leads_to, loop
        self._there, self._back = _Direction(), _Direction()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._hangs_up = False
        self.accepted = 0

    # -- what is done to it ----------------------------------------------------------------------------------------

    def heal(self) -> None:
        """As if nothing had ever been: what was held back arrives, who comes is let through."""
        self._do(self._heal())

    def cut(self) -> None:
        """The part is down: every connection is reset, and new ones are refused."""
        self._do(self._cut())

    def reset(self) -> None:
        """Every connection is reset, wherever it is; new ones are let through."""
        self._do(self._reset())

    def hang(self) -> None:
        """The network is gone: nothing arrives on either side, and neither side is told."""
        self._do(self._set(self._there.open.clear))
        self.lose_answers()

    def lose_answers(self) -> None:
        """What is asked arrives, what is answered does not."""
        self._do(self._set(self._back.open.clear))

    def hang_up(self) -> None:
        """Who comes is accepted, and dropped at once; what is open stays."""
        self._do(self._set(lambda: setattr(self, "_hangs_up", True)))

    def slow(self, delay: float, bytes_per_second: float = 0.0) -> None:
        """Each direction takes this long, and at most so many bytes a second per connection (0: any)."""

        def both() -> None:
            for direction in (self._there, self._back):
                direction.delay, direction.bytes_per_second = delay, bytes_per_second

        self._do(self._set(both))

    def end_after(self, asked: int) -> None:
        """Let so many more bytes of questions through, and then end whatever asks, in the middle of a word; until
        healed, nobody asks anything."""
        self._do(self._set(lambda: setattr(self._there, "ends_after", asked)))

    # -- how it is done --------------------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _set(self, change: Callable[[], object]) -> None:
        change()

    async def _heal(self) -> None:
        self._hangs_up = False
        for direction in (self._there, self._back):
            direction.delay = direction.bytes_per_second = 0.0
            direction.ends_after = None
            direction.open.set()
        if self._server is None:
            if isinstance(self.listens, Path):
                self._server = await asyncio.start_unix_server(self._accept, self.listens)
            else:
                self._server = await asyncio.start_server(self._accept, *self.listens, reuse_address=True)

    async def _cut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._reset()

    async def _reset(self) -> None:
        for writer in list(self._writers):
            _abort(writer)
        going_on = list(self._connections)
        for connection in going_on:
            connection.cancel()
        await asyncio.gather(*going_on, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._writers.add(writer)
        onward: asyncio.StreamWriter | None = None
        try:
            if self._hangs_up:
                return
            goal = self._leads_to()
            if isinstance(goal, Path):
                answers, onward = await asyncio.open_unix_connection(goal)
            else:
                answers, onward = await asyncio.open_connection(*goal)
            self._writers.add(onward)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(self._there, reader, onward))
                both.create_task(self._carry(self._back, answers, writer))
        except* (OSError, asyncio.CancelledError, _Ended):
            pass
        finally:
            for one in (writer, onward):
                if one is not None:
                    _abort(one)
                    self._writers.discard(one)
            self._connections.discard(task)

    async def _carry(self, direction: _Direction, source: asyncio.StreamReader, goal: asyncio.StreamWriter) -> None:
        waiting: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_WAITING_AT_MOST)
        reading = asyncio.ensure_future(self._read(direction, source, waiting))
        try:
            while True:
                due, piece = await waiting.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await direction.open.wait()
                if piece is None:
                    raise _Ended
                if not piece:
                    goal.write_eof()
                    return
                if direction.ends_after is not None:
                    direction.ends_after -= len(piece)
                    if direction.ends_after < 0:
                        goal.write(piece[: direction.ends_after])
                        raise _Ended
                goal.write(piece)
                await goal.drain()
                if direction.bytes_per_second:
                    await asyncio.sleep(len(piece) / direction.bytes_per_second)
        finally:
            reading.cancel()

    async def _read(
        self,
        direction: _Direction,
        source: asyncio.StreamReader,
        waiting: asyncio.Queue[tuple[float, bytes | None]],
    ) -> None:
        piece: bytes | None = b"-"
        while piece:
            try:
                piece = await source.read(_AT_ONCE)
            except OSError:
                piece = None
            await waiting.put((self._loop.time() + direction.delay, piece))


class _Ended(Exception):
    """This connection is to be reset."""


def _abort(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class Ways:
    """The thread in which ways live: `with Ways() as ways: way = ways.open("kafka", …)`."""

    def __init__(self) -> None:
        self.all: dict[str, Way] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ways", daemon=True)

    def open(self, name: str, listens: Address, leads_to: Callable[[], Address]) -> Way:
        """A new way; where it leads to is asked anew for each connection."""
        way = self.all[name] = Way(name, listens, leads_to, self._loop)
        way.heal()
        return way

    def __getitem__(self, name: str) -> Way:
        return self.all[name]

    def heal(self) -> None:
        """All of them."""
        for way in self.all.values():
            way.heal()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for way in self.all.values():
            way.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
