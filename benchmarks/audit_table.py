"""What is compared with: the audit table that teams write themselves, on the same framework and the same server.

`python -m benchmarks.audit_table DSN PORT` takes a consent as JSON, checks it, and inserts one row. With `--chain` each
row holds the hash of the one before it, so one transaction at a time may look for the last one: an advisory lock.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import asyncpg
import uvicorn
from fastapi import FastAPI, Header
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints

SESSIONS: Final = 16
PLAIN: Final = "plain table"
CHAINED: Final = "chained table"

TABLE: Final = """
create table if not exists consent (
    id         bigint generated always as identity primary key,
    address    text not null,
    purpose    text not null,
    channel    text not null,
    notice     text not null,
    language   text not null,
    shown_at   timestamptz not null,
    agent      text not null,
    at         timestamptz not null,
    hash       bytea
);
create index if not exists consent_address on consent (address, purpose)
"""
_INSERT: Final = """
insert into consent (address, purpose, channel, notice, language, shown_at, agent, at, hash)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning id
"""
_LOCK: Final = "select pg_advisory_xact_lock(1)"
_LAST: Final = "select hash from consent order by id desc limit 1"


class Consent(BaseModel):
    """What the form sent."""

    model_config = ConfigDict(extra="forbid")

    address: Annotated[str, StringConstraints(max_length=320, pattern=r"^[^@\s]+@[^@\s]+$")]
    purpose: Annotated[str, StringConstraints(max_length=63)]
    channel: Annotated[str, StringConstraints(max_length=63)]
    notice: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    language: Annotated[str, StringConstraints(max_length=8)]
    shown_at: AwareDatetime


class Recorded(BaseModel):
    """The answer."""

    id: int


def hashed(before: bytes, row: tuple[Any, ...]) -> bytes:
    """Over the hash before it and the row as JSON."""
    return hashlib.sha256(before + json.dumps(row, default=str, separators=(",", ":")).encode()).digest()


def create_app(dsn: str, *, chain: bool) -> FastAPI:
    """The whole of it."""

    @asynccontextmanager
    async def pool(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(dsn, min_size=SESSIONS, max_size=SESSIONS) as app.state.pool:
            yield

    app = FastAPI(lifespan=pool)

    @app.post("/consents", status_code=201)
    async def record(consent: Consent, user_agent: Annotated[str, Header()] = "") -> Recorded:
        row = (
            consent.address,
            consent.purpose,
            consent.channel,
            consent.notice,
            consent.language,
            consent.shown_at,
            user_agent,
            datetime.now(UTC),
        )
        async with app.state.pool.acquire() as session:
            if not chain:
                return Recorded(id=await session.fetchval(_INSERT, *row, None))
            async with session.transaction():
                await session.execute(_LOCK)
                before = await session.fetchval(_LAST) or b""
                return Recorded(id=await session.fetchval(_INSERT, *row, hashed(before, row)))

    return app


async def create_table(dsn: str) -> None:
    """Before it is served."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(TABLE)
    finally:
        await connection.close()


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit_table")
    parser.add_argument("dsn")
    parser.add_argument("port", type=int)
    parser.add_argument("--chain", action="store_true")
    chosen = parser.parse_args()
    asyncio.run(create_table(chosen.dsn))
    # The event loop and the parser are uvicorn's best, as they are ours; lines of its log would cost it time.
    uvicorn.run(
        create_app(chosen.dsn, chain=chosen.chain),
        host="127.0.0.1",
        port=chosen.port,
        log_config=None,
        access_log=False,
    )


if __name__ == "__main__":
    main()
