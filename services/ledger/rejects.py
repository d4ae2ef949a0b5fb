"""What waits for a person, for the command line: rejects and incidents, and who dealt with each; none is removed."""

from __future__ import annotations

from typing import Any

from services.ledger import store
from services.ledger.api import REJECTS_SHOWN, incident_facts, reject_facts
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


async def open_incidents(settings: Settings) -> list[dict[str, Any]]:
    """Every open incident, oldest first."""
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    try:
        return [incident_facts(dict(row)) for row in await store.incidents(db)]
    finally:
        await db.close()


async def close_incident(settings: Settings, number: int, by: str, reason: str) -> None:
    """Close an incident in the name of a person; Refused if it is not open.

    A sequence gap that is closed so gives up the missing statements: the ledger counts them as arrived.
    """
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    try:
        if not await store.close_incident_by(db, number, by, reason):
            raise Refused("no-such-incident", "No incident with this number is open.", status=404, number=number)
    finally:
        await db.close()
