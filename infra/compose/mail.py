"""The demo's mail server in a container of its own: SMTP on port 1025, every mail shown on port 8080.

python -m infra.compose.mail FOLDER
"""

from __future__ import annotations

import asyncio
import functools
import sys
from pathlib import Path
from typing import Final

from infra.local import inbox
from shared import logs
from shared.access import Access
from shared.process import run, serve_http
from shared.secrets import Secrets

SMTP_PORT: Final = 1025
HTTP_PORT: Final = 8080
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - of the container; who reaches it is said by its networks


async def serve(folder: Path) -> int:
    """Until a signal comes. Nobody has a credential here."""
    mails = inbox.Inbox(folder)
    app = inbox.create_app(mails, Access.load(Secrets(folder)))
    return await run(
        {
            "http": functools.partial(serve_http, app, EVERYWHERE, HTTP_PORT),
            "inbox.smtp": functools.partial(inbox.serve_smtp, mails, EVERYWHERE, SMTP_PORT),
        }
    )


if __name__ == "__main__":
    logs.configure("INFO", "mail")
    raise SystemExit(asyncio.run(serve(Path(sys.argv[1]))))
