"""Marketing on a real PostgreSQL, called in process."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

import services.marketing
from services.marketing import api, projection, store
from services.marketing.domain import Horizon
from services.marketing.permits import Permits
from services.marketing.store import Ask, Permit
from shared.access import Access
from shared.clock import rfc3339, utc_now
from shared.database import Database
from shared.events import Statement
from shared.metrics import Metrics
from shared.pages import Pages
from shared.register import Register, load
from shared.web import create_app
from tests.conftest import Database as OwnDatabase
from tests.unit.marketing.history import given, person, recorded

CALLERS: Final = {"demo": ["d-secret"], "newsletter": ["n-secret"]}
SCOPES: Final = {
    "demo": ["marketing.permits", "marketing.campaigns", "marketing.effects", "marketing.audience"],
    "newsletter": ["marketing.effects"],
}


@dataclass
class Marketing:
    """The service as its callers and its follower see it. Its clock stands still until it is moved, and began so long
    ago that PostgreSQL does not take what is stated for the future."""

    db: Database
    dsn: str
    register: Register
    now: datetime
    client: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)
    silent: bool = False
    indexes: Any = field(default_factory=itertools.count)
    applied: int = 0

    def __post_init__(self) -> None:
        self.permits = Permits(self.db, self.horizon, self.register, self.clock, os.urandom, Metrics("marketing"))

    def clock(self) -> datetime:
        return self.now

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)

    def horizon(self, shard: int = 0) -> Horizon | None:
        """The newest heartbeat: everything folded is sealed, and every mark is two seconds old."""
        mark = rfc3339(self.now - timedelta(seconds=2))
        return None if self.silent or shard else Horizon(self.applied, {"newsletter": mark})

    async def record(self, *statements: Statement) -> list[int]:
        """Fold recorded statements in one transaction, as the follower does; their indexes."""
        indexes = [next(self.indexes) for _ in statements]
        records = [recorded(statement, index) for statement, index in zip(statements, indexes, strict=True)]
        async with self.db.transaction() as tx:
            await projection.apply(tx, records, self.register, self.now)
            await self.move(tx, indexes[-1] + 1)
        self.applied = indexes[-1] + 1
        return indexes

    async def move(self, tx: Any, position: int) -> None:
        """What the follower does at the end of each transaction."""
        await tx.execute(
            "insert into position (shard, next) values (0, $1) on conflict (shard) do update set next = $1", position
        )
        await tx.execute("select pg_notify('marketing_applied', '')")

    async def subscriber(self, *purposes: str) -> str:
        """A person whose consent is recorded."""
        subject = person()
        await self.record(*(given(subject, purpose=purpose) for purpose in purposes or ("newsletter",)))
        return subject

    async def ask(self, subject: str, message_id: str = "", attempt: int = 1, purpose: str = "newsletter") -> Permit:
        return await self.permits.ask(
            Ask(subject, purpose, "email", message_id or f"<{person()}@example.org>", attempt)
        )

    async def redeem(self, permit: Permit) -> bool:
        async with self.db.transaction() as tx:
            return await store.redeem(tx, permit.id, self.now - timedelta(seconds=5), self.now)

    async def get(self, path: str, caller: str = "demo", **headers: str) -> httpx.Response:
        return await self.client.get(f"/marketing/{path}", headers={**_credential(caller), **headers})

    async def post(self, path: str, body: Any, caller: str = "demo") -> httpx.Response:
        return await self.client.post(f"/marketing/{path}", json=body, headers=_credential(caller))


def _credential(caller: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {caller}:{CALLERS[caller][0]}"}


@pytest.fixture
async def marketing(database: OwnDatabase) -> AsyncIterator[Marketing]:
    """Yield marketing without its tasks: nothing happens unless the test does it."""
    dsn = database.dsn("marketing")
    db = await Database.connect(dsn, "marketing")
    service = Marketing(db, dsn, load(), utc_now().replace(microsecond=0) - timedelta(days=30))

    async def ready() -> dict[str, bool]:
        return {"postgresql": await db.fetchval("select true")}

    metrics, pages = Metrics("marketing"), Pages("marketing", Path(services.marketing.__file__).parent)
    app = create_app("marketing", access=Access(CALLERS, SCOPES), metrics=metrics, ready=ready, error_page=pages.error)
    app.include_router(
        api.router(db, service.permits, service.horizon, service.register, pages, service.clock, os.urandom)
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://marketing.example.org") as client:
        service.client = client
        yield service
    await db.close()


@pytest.fixture
async def second(marketing: Marketing) -> AsyncIterator[Marketing]:
    """Yield another process of marketing on the same database."""
    db = await Database.connect(marketing.dsn, "marketing")
    yield replace(marketing, db=db)
    await db.close()
