"""One client's connection: how slow it may be, how long a head it may send, and who gives way when there are too many.

What a proxy at the edge does for all (TLS, limits per address) is its own; what must hold without one is here. A
client that sends nothing, a byte a minute, or never reads its answer costs a file descriptor until its time is over.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared import logs

LARGEST_HEAD: Final = 64 * 1024
"""How much is kept of a head that does not end; what does end is judged by shared/web.py, which is stricter."""
_LINGER_SECONDS: Final = 5.0
"""How long we go on reading what was refused already."""

log = logs.logger("connection")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one server. Below the file descriptors that a process usually has (1024), with room for all else it opens."""

    connections: int = 500
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    stalled_seconds: float = 30.0
    """How long an answer may wait for its reader."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with deadlines.

    A connection waits for its client until a request is complete, and again once it is answered. Whoever waits longest
    gives way to a new client when all places are taken: so those who send nothing cannot keep out those who do.
    """

    def __init__(self, *arguments: Any, limits: Limits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._waiting_since: float | None = None
        self._in_head = True
        self._head_size = 0
        self._ends_after_this = False
        self._deadline: asyncio.TimerHandle | None = None
        self._reader_deadline: asyncio.TimerHandle | None = None

    # -- the client's side: bytes we wait for ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        if len(self.connections) > self._limits.connections and not self._make_room():
            self._refuse(503, "too-many-connections", "Everything is busy right now. Please try again in a moment.")
            return
        self._wait(self._limits.head_seconds)

    def _make_room(self) -> bool:
        others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
        waiting = [one for one in others if one._waiting_since is not None]  # noqa: SLF001 - its own kind
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one._waiting_since or 0.0)  # noqa: SLF001 - its own kind
        log.warning("gives-way", connections=len(self.connections))
        oldest.transport.abort()
        # It is told so in the next turn of the loop; until then it must not count, nor be chosen again.
        self.connections.discard(oldest)
        return True

    def data_received(self, data: bytes) -> None:
        if self._in_head and self._deadline is None:
            self._wait(self._limits.head_seconds)
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_size += len(data)
            if self._head_size > LARGEST_HEAD:
                self._refuse(431, "headers-too-large", "The request's headers are too large.")

    def on_headers_complete(self) -> None:
        self._in_head, self._head_size = False, 0
        self._wait(self._limits.body_seconds)
        super().on_headers_complete()
        # Hanging up on a client that is still sending would take back the answer it has not read yet.
        self._ends_after_this, self.cycle.keep_alive = not self.cycle.keep_alive, True

    def on_message_complete(self) -> None:
        self._in_head = True
        self._forget_deadline()
        self._waiting_since = None
        super().on_message_complete()
        if self._ends_after_this:
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head:
            self._wait(_LINGER_SECONDS)
        elif not self.pipeline:
            self._waiting_since = self.loop.time()

    def _wait(self, seconds: float) -> None:
        self._forget_deadline()
        self._waiting_since = self.loop.time()
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        answering = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (answering and self._in_head):
            # We are the slow ones: we read no further, or an earlier request is still being answered.
            self._wait(self._limits.head_seconds)
        elif self._head_size or (answering and not self.cycle.response_started):
            self._refuse(408, "too-slow", "The request did not arrive in time. Please send it again.")
        else:
            self.transport.close()

    # -- our side: bytes the client does not take ------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._reader_deadline is None:
            self._reader_deadline = self.loop.call_later(self._limits.stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_reader()

    def _forget_reader(self) -> None:
        if self._reader_deadline is not None:
            self._reader_deadline.cancel()
            self._reader_deadline = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self._forget_reader()
        self._waiting_since = None
        super().connection_lost(exc)

    # -- what no service has seen is refused here, in the form of shared/web.py ------------------------------------

    def send_400_response(self, _msg: str) -> None:
        self._refuse(400, "malformed-request", "This is not a request in HTTP/1.1 that can be read.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": code, "message": message}).encode()
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            *(["retry-after: 2"] if status == HTTPStatus.SERVICE_UNAVAILABLE else []),
            "connection: close",
        ]
        self.transport.write("\r\n".join(head).encode("ascii") + b"\r\n\r\n" + body)
        self.transport.close()
        log.info("refused", status=status, error=code)
