"""What could not be recorded, for the command line."""

from __future__ import annotations

from typing import Any

from services.ledger import store
from services.ledger.api import REJECTS_SHOWN, reject_facts
from shared.database import Database
from shared.settings import Settings


async def rejected_rows(settings: Settings) -> list[dict[str, Any]]:
    """Every unhandled reject, newest first."""
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    try:
        return [reject_facts(dict(row)) for row in await store.unhandled_rejects(db, REJECTS_SHOWN)]
    finally:
        await db.close()
