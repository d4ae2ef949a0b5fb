"""A process: named tasks in one group, ended together by a signal, or by the first of them that ends on its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from shared import logs
from shared.connection import Connection, Limits
from shared.errors import Unavailable

Factory = Callable[[], Coroutine[Any, Any, None]]
Answer = TypeVar("Answer")

log = logs.logger("process")

_DRAIN_SECONDS: Final = 5
_LONGEST_PAUSE_SECONDS: Final = 5.0


async def _nothing_to_close() -> None:
    """A service that holds nothing open."""


async def _always_ready() -> Mapping[str, bool | str]:
    return {}


@dataclass(frozen=True, slots=True)
class Running:
    """What a service's main.py gives to services/serve.py: its doors, its tasks, its state, its end."""

    app: FastAPI | None = None
    tasks: Mapping[str, Factory] = field(default_factory=dict)
    """Each runs until it is cancelled; one that ends by itself ends the process."""
    ready: Callable[[], Awaitable[Mapping[str, bool | str]]] = _always_ready
    close: Callable[[], Awaitable[None]] = _nothing_to_close


class _Ended(Exception):
    """A task that should run for ever returned."""


def _no_hurry() -> None:
    """Whoever does not say otherwise waits as long as it takes."""


async def run(
    tasks: Mapping[str, Factory], stop: asyncio.Event | None = None, *, on_end: Callable[[], None] = _no_hurry
) -> int:
    """Run all until `stop` is set or SIGTERM or SIGINT comes (exit status 0), or until one ends or raises (1).

    `on_end` is called when that begins, before anything is cancelled; again if a task fails meanwhile.
    """
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_stray)
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)

    async def named(name: str, factory: Factory) -> None:
        try:
            await factory()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            log.critical("task-failed", task=name, exc_info=error)
            on_end()
            raise
        if not stop.is_set():
            log.critical("task-ended", task=name)
            on_end()
            raise _Ended

    status = 0
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(named(name, factory), name=name) for name, factory in tasks.items()]
            await stop.wait()
            on_end()
            # Every task survives being killed at any line, so cancelling is graceful enough; the HTTP server
            # alone finishes what it has begun.
            for task in running:
                task.cancel()
    except* Exception:  # noqa: BLE001 - each task has logged its own
        status = 1
    return status


def end_within(seconds: float) -> None:
    """End this process for good, with status 1, if it is still there then.

    Whatever we run survives being killed at any line; a library that does not let go of its end (Faust without a
    broker) must not keep a process that does nothing any more from being started anew.
    """
    loop = asyncio.get_running_loop()

    def wait() -> None:
        time.sleep(seconds)
        log.critical("did-not-end", seconds=seconds, tasks=sorted(task.get_name() for task in asyncio.all_tasks(loop)))
        os._exit(1)

    threading.Thread(target=wait, name="end", daemon=True).start()


def _stray(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's own handler would print the exception's text."""
    log.error("stray-exception", exc_info=context.get("exception"))


async def until_available(operation: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask again, with growing pauses, until the part we need answers: for the start of a process."""
    pause = 0.2
    while True:
        try:
            return await operation()
        except Unavailable as error:
            log.warning("waiting", service=error.service, seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to `run`."""
        yield


async def serve_http(
    app: ASGIApp,
    host: str,
    port: int,
    on_listening: Callable[[int], None] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> None:
    """Serve until cancelled, then finish the requests at hand. Port 0 takes any free one; it is logged."""
    server = _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=functools.partial(Connection, limits=limits),  # type: ignore[arg-type]  # it is called, not subclassed
            ws="none",
            access_log=False,
            log_config=None,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
    )
    serving = asyncio.ensure_future(server.serve())
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has a flag for it, no event
            await asyncio.sleep(0.01)
        if server.started:
            bound = server.servers[0].sockets[0].getsockname()[1]
            log.info("listening", port=bound)
            if on_listening is not None:
                on_listening(bound)
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
