"""One transaction with the rights of the tables' owner: for the commands that mend a log, and for nobody who serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from shared.database import Transaction
from shared.errors import Unavailable


@asynccontextmanager
async def as_owner(superuser_dsn: str) -> AsyncIterator[Transaction]:
    """Commits at the end of the block. It takes as long as it takes: a log is mended whole, or not at all."""
    settings = {"search_path": "ledger", "application_name": "consent-ledger operator", "timezone": "UTC"}
    try:
        connection = await asyncpg.connect(superuser_dsn, timeout=10, server_settings=settings)
    except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
        raise Unavailable("postgresql") from None
    try:
        async with connection.transaction():
            await connection.execute("set local role owner")
            yield Transaction(connection)
    finally:
        await connection.close()
