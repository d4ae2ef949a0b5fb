"""What could not be recorded, for the command line: who dealt with it is noted, and nothing is ever removed."""

from __future__ import annotations

from typing import Any

from services.ledger import store
from services.ledger.api import REJECTS_SHOWN, reject_facts
from shared.database import Database
from shared.errors import Refused
from shared.settings import Settings


async def rejected_rows(settings: Settings) -> list[dict[str, Any]]:
    """Every unhandled reject, newest first."""
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    try:
        return [reject_facts(dict(row)) for row in await store.unhandled_rejects(db, REJECTS_SHOWN)]
    finally:
        await db.close()


async def handle(settings: Settings, number: int, by: str, reason: str) -> None:
    """Note that a named person has dealt with a reject; Refused if there is none that waits."""
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    try:
        if not await store.handle_reject(db, number, by, reason):
            raise Refused("no-such-reject", "No reject with this number waits for anybody.", status=404, number=number)
    finally:
        await db.close()
