"""Runs services: any of them in one process, or all of them as four processes that stand and fall together.

With cli.py the only file that imports several services. One machine: `web` (every service with pages or an API,
their relays and followers), `ledger-append`, `ledger-seal`, `audience`. Several machines: the same names, one a role.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop
from fastapi import FastAPI

from services.start import api as start
from shared import logs
from shared.access import Access
from shared.errors import Corrupt
from shared.metrics import Metrics
from shared.process import Running, end_within, run, serve_http, until_available
from shared.secrets import Secrets
from shared.settings import Settings
from shared.web import combine, create_app, watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

ROLES: Final = {
    "newsletter": ("services.newsletter.main", "open"),
    "subjects": ("services.subjects.main", "open"),
    "ledger": ("services.ledger.main", "open"),
    "marketing": ("services.marketing.main", "open"),
    "erasure": ("services.erasure.main", "open"),
    "ledger-append": ("services.ledger.main", "open_append"),
    "ledger-seal": ("services.ledger.main", "open_seal"),
    "audience": ("services.marketing.main", "open_audience"),
}
WEB: Final = ("subjects", "ledger", "newsletter", "marketing", "erasure")
WORKERS: Final = ("ledger-append", "ledger-seal", "audience")
PROCESSES: Final = ("web", "ledger-append", "ledger-seal", "audience")

END_SECONDS: Final = 20.0
"""From the first task's end, or a signal, to ours: more than any task takes that ends as it should."""

log = logs.logger("serve")


async def open_role(role: str, settings: Settings) -> Running:
    """One role's doors and tasks; modules are imported here, so a process holds only what it runs."""
    module, function = ROLES[role]
    opener: Callable[[Settings], Awaitable[Running]] = getattr(importlib.import_module(module), function)
    return await until_available(functools.partial(opener, settings))


def _health_only(role: str, access: Access, one: Running) -> FastAPI:
    return create_app(role, access=access, metrics=Metrics(role), ready=one.ready)


async def serve(roles: Sequence[str], settings: Settings, name: str) -> int:
    """Serve these roles in this process until a signal comes; exit status as of shared.process.run."""
    logs.configure(settings.log_level, name)
    running = {role: await open_role(role, settings) for role in roles}
    access = Access.load(Secrets(settings.secrets_dir))
    apps = [one.app or _health_only(role, access, one) for role, one in running.items()]
    tasks = {task: factory for one in running.values() for task, factory in one.tasks.items()}
    port = settings.port
    if set(roles) <= set(WORKERS):
        port = settings.worker_port
    else:
        apps.append(start.app(running, access, demo=settings.demo))
        if settings.demo:
            from infra.local import inbox  # noqa: PLC0415 - the demo's mail server is no part of an installation

            mails = inbox.Inbox(Path(os.environ["CONSENT_LEDGER_INBOX"]))
            apps.append(inbox.create_app(mails, access))
            tasks["inbox.smtp"] = functools.partial(inbox.serve_smtp, mails, settings.smtp_host, settings.smtp_port)
    tasks["http"] = functools.partial(serve_http, combine(apps), settings.host, port)
    for app in apps:
        tasks[f"{app.state.name}.watch"] = functools.partial(watch, app, asyncio.sleep)
    try:
        return await run(tasks, on_end=functools.partial(end_within, END_SECONDS))
    finally:
        await close_all(running)


async def close_all(running: Mapping[str, Running]) -> None:
    """Close what was opened, last first. What one of them cannot close says so, and keeps no other open."""
    for role, one in reversed(list(running.items())):
        try:
            await one.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are closed too
            log.warning("not-closed", role=role, exception=type(error).__name__)


def supervise() -> int:
    """All as four processes; when one ends, the others are asked to, and its status is ours."""
    children: dict[str, subprocess.Popen[bytes]] = {}
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True
        for child in children.values():
            child.terminate()

    # Before there is a child: a signal that came in between would end us alone.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    # Only we hold the end of this pipe that is written to, so however we end, the children read its end.
    lifeline, _held = os.pipe()
    for name in PROCESSES:
        if not asked:
            command = [sys.argv[0], "serve", name, "--lifeline", str(lifeline)]
            children[name] = subprocess.Popen(command, pass_fds=[lifeline])
    if not asked:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    if not asked:
        ended = next(name for name, child in children.items() if child.poll() is not None)
        print(f"consent-ledger: {ended} ended; stopping the others", file=sys.stderr)
    for child in children.values():
        child.terminate()
    return max((_status(child.wait()) for child in children.values()), default=0)


def _status(code: int) -> int:
    """A child's exit status; whoever was asked to end before it could listen has ended as asked."""
    if code == -signal.SIGTERM:
        return 0
    return 128 - code if code < 0 else code


def _end_with(lifeline: int) -> None:
    """End this process, as a signal would, when the process at the other end of this pipe is gone."""

    def wait() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def main(names: Sequence[str], lifeline: int | None = None) -> int:
    """Serve what is named; nothing named is everything. `lifeline` is a pipe to whoever we must not outlive."""
    if lifeline is not None:
        _end_with(lifeline)
    if not names:
        return supervise()
    roles = [role for name in names for role in (WEB if name == "web" else (name,))]
    unknown = sorted(set(roles) - set(ROLES))
    if unknown:
        known = ", ".join(("web", *ROLES))
        print(f"consent-ledger: no service is called {', '.join(unknown)}. There are: {known}.", file=sys.stderr)
        return 2
    settings = Settings()
    try:
        return uvloop.run(serve(roles, settings, "+".join(names)))
    except Corrupt as error:
        log.critical("corrupt", what=error.what, where=error.where)
        return 1
