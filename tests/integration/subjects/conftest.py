"""Subjects on a real PostgreSQL, called in process."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from services.subjects import api, handlers, worker
from services.subjects.domain import ACTIVITY
from services.subjects.handlers import Parts
from services.subjects.keys import KeyEncryption, Peppers
from shared.access import Access
from shared.clock import utc_now
from shared.database import Database
from shared.events import Statement, encode, parse
from shared.follower import Recorded
from shared.holder import Holder, Task
from shared.identifiers import uuid7
from shared.metrics import Metrics
from shared.register import load
from shared.software import software
from shared.web import create_app
from shared.wire import RecordedValue
from tests.parts import Database as OwnDatabase

GOLDEN: Final = Path(__file__).parents[2] / "contracts" / "golden"
REQUEST: Final = "01a20320-a209-7d4e-8f50-0000000000aa"
ORDER: Final = "01a20320-a209-7d4e-8f50-000000000009"
CALLERS: Final = {"newsletter": ["n-secret"], "marketing": ["m-secret"], "compliance": ["c-secret"]}
GRANTS: Final = {
    "newsletter": ["subjects.seal", "subjects.open"],
    "marketing": ["subjects.open"],
    "compliance": ["subjects.disclose", "subjects.find"],
}


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def statement_id() -> str:
    return uuid7(utc_now(), os.urandom)


def app_of(parts: Parts) -> FastAPI:
    async def ready() -> dict[str, bool]:
        return {"postgresql": await parts.db.fetchval("select true")}

    metrics = Metrics("subjects")
    app = create_app("subjects", access=Access(CALLERS, GRANTS), metrics=metrics, ready=ready)
    app.include_router(api.router(parts, metrics))
    return app


@dataclass
class Subjects:
    """The service as its callers and its follower see it, and its database as nobody should."""

    parts: Parts
    client: httpx.AsyncClient
    superuser: asyncpg.Connection[Any]
    database: OwnDatabase
    indexes: Any = field(default_factory=itertools.count)

    async def post(self, path: str, body: Any, caller: str = "newsletter") -> httpx.Response:
        headers = {"Authorization": f"Bearer {caller}:{CALLERS[caller][0]}"}
        return await self.client.post(f"/subjects/{path}", json=body, headers=headers)

    async def seal(self, address: str, *items: dict[str, Any], controller: str = "controller") -> dict[str, Any]:
        identifier = {"kind": "email", "value": address}
        answer = await self.post("seal", {"controller": controller, "identifier": identifier, "items": list(items)})
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    async def subject(self, address: str) -> str:
        return str((await self.seal(address))["subject"])

    async def open(self, subject: str, scope: str = "advertising", purpose: str = "newsletter") -> httpx.Response:
        body = {"subject": subject, "scope": scope, "purpose": purpose, "channel": "email", "reason": "a test"}
        return await self.post("open", body, "marketing")

    async def may_advertise(self, subject: str, purpose: str = "newsletter") -> bool:
        answer = await self.open(subject, purpose=purpose)
        assert answer.status_code == 200 or answer.json()["error"] == "suppressed"
        return answer.status_code == 200

    def recorded(self, subject: str, name: str, second: int, index: int, **data: Any) -> Recorded:
        """A statement as it comes back from the ledger."""
        document = json.loads((GOLDEN / f"{name}.1.json").read_bytes())
        changed = {"purpose": "newsletter", **data} if "purpose" in document["data"] else data
        merged = {key: value for key, value in {**document["data"], **changed}.items() if value is not None}
        head = {"id": statement_id(), "subject": subject, "time": f"2026-11-22T12:00:{second:02d}.000Z"}
        raw = encode(parse(json.dumps({**document, **head, "data": merged}).encode()))
        leaf = b"\x01" + bytes(80) + index.to_bytes(8, "big")
        return Recorded.read(RecordedValue(0, index, leaf, raw).encode())

    async def record(
        self, subject: str, name: str, second: int = 0, index: int | None = None, **data: Any
    ) -> Statement:
        """Fold a recorded statement as the follower does."""
        recorded = self.recorded(subject, name, second, next(self.indexes) if index is None else index, **data)
        async with self.parts.db.transaction() as tx:
            await worker.Fold(self.parts.peppers).apply(tx, [recorded])
        assert recorded.statement is not None
        return recorded.statement

    async def with_keys(self, **changes: Any) -> Parts:
        """Another process on the same database, with other key files."""
        parts = replace(self.parts, **changes)
        await handlers.start(parts.db, parts.peppers)
        return parts

    def use(self, parts: Parts) -> None:
        self.parts = parts
        self.client._transport = httpx.ASGITransport(app_of(parts))

    async def delete(self, subject: str) -> None:
        """What an erasure leaves: the pseudonym's row, and what does not refer to it."""
        await self.erase(subject)

    async def erase(self, subject: str, ended: str | None = None, until: str | None = None) -> dict[str, Any]:
        """As the erasure service asks for it."""
        holder = Holder(
            "subjects", self.parts.db, load(), ACTIVITY, software(), 1, handlers.erasing(), utc_now, os.urandom
        )
        task = Task(request=REQUEST, order=ORDER, subject=subject, ended=ended, evidence_until=until)
        return dict(await holder.erase(task))


@pytest.fixture
async def subjects(database: OwnDatabase) -> AsyncIterator[Subjects]:
    db = await Database.connect(database.dsn("subjects"), "subjects")
    parts = Parts(
        db,
        KeyEncryption(lambda: {1: key("kek-1")}, os.urandom),
        Peppers({1: key("pepper-1")}),
        shards=1,
        clock=utc_now,
        random=os.urandom,
    )
    await handlers.start(db, parts.peppers)
    superuser = await asyncpg.connect(database.dsn())
    transport = httpx.ASGITransport(app_of(parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://subjects.example.org") as client:
        yield Subjects(parts, client, superuser, database)
    await superuser.close()
    await db.close()


Item = Callable[..., dict[str, Any]]


@pytest.fixture
def item() -> Item:
    """Make an item to seal."""

    def make(compartment: str = "evidence", statement: str = "", **fields: Any) -> dict[str, Any]:
        return {"statement": statement or statement_id(), "compartment": compartment, "fields": fields}

    return make
