"""A whole installation for proofs: people, mails and subjects as the newsletter's tests have them, and a real log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.ledger import main as ledger_main
from services.ledger.evidence.bundle import Wanted, export
from services.ledger.procedures.create import create_log
from services.ledger.reader.verify import Report
from services.newsletter import api, dkim
from shared.access import Access
from shared.events import Statement, parse
from shared.metrics import Metrics
from shared.process import serve_http
from shared.settings import Settings
from shared.topics import ensure_topics
from shared.web import create_app
from tests.conftest import Database
from tests.integration.ledger.test_statements_api import running
from tests.integration.ledger.world import World as Ledger
from tests.integration.newsletter.conftest import World as Front
from tests.integration.newsletter.conftest import free_port, links
from tests.integration.newsletter.conftest import secrets_dir as secrets_dir  # noqa: PLC0414 - a fixture of theirs
from tests.integration.newsletter.conftest import world as front  # noqa: F401 - a fixture of theirs
from tests.parts import KafkaPart

ADDRESS = "jane.doe@example.org"


@dataclass
class Installation:
    """Everything a test touches."""

    settings: Settings
    front: Front
    ledger: Ledger
    superuser: asyncpg.Connection[Any]
    passed_on: int = 0

    def caller(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.front.secrets.credential(name)}", "Accept": "application/json"}

    async def pass_on(self, *, seal: bool = True) -> list[Statement]:
        """Give what the newsletter has stated since to the ledger, and then to the followers; what it was."""
        rows = await self.superuser.fetch("select statement from newsletter.outbox order by accepted_at, id")
        raws = [row["statement"] for row in rows][self.passed_on :]
        self.passed_on += len(raws)
        await self.ledger.state(*raws)
        if seal:
            await self.ledger.run_through()
        else:
            await self.ledger.append(await self.ledger.appender())
        await self.front.record()
        return [parse(raw) for raw in raws]

    async def opt_in(self, *purposes: str) -> list[str]:
        """Sign up, confirm and wait for the welcome; the links to the receipts."""
        answer = await self.front.http.post(await self.front.asked(ADDRESS, *purposes))
        assert answer.status_code == 200, answer.text
        await self.pass_on()
        welcome = await self.front.mail(ADDRESS, 2)
        await self.front.no_mail_waits()
        await self.pass_on()
        return links(welcome, "/ledger/receipts/")

    async def exported(self, path: Path, purpose: str = "newsletter", **otherwise: str) -> Report:
        """Ask for evidence while the ledger is at work."""
        asked = {"channel": "email", "role": "compliance", "reason": "a test of ours", **otherwise}
        subject = asked.pop("subject", "") or await self.subject()
        try:
            async with running(self.ledger):
                return await export(self.settings, Wanted(subject=subject, purpose=purpose, **asked), path)
        finally:
            self.ledger.offsets[0] = await self.ledger.next_offset()

    async def subject(self) -> str:
        return str(await self.superuser.fetchval("select subject from ledger.subject_key where subject <> '0.system'"))


@pytest.fixture
async def installation(
    front: Front,  # noqa: F811 - the fixture imported above
    database: Database,
    kafka: KafkaPart,
    topic_prefix: str,
) -> AsyncIterator[Installation]:
    """Yield an installation whose log is created and empty."""
    port, ledger_port = free_port(), free_port()
    settings = front.settings.model_copy(
        update={
            "superuser_dsn": database.dsn(),
            "kafka": kafka.bootstrap,
            "topic_prefix": topic_prefix,
            "newsletter_url": f"http://127.0.0.1:{port}",
            "ledger_url": f"http://127.0.0.1:{ledger_port}",
            "subjects_url": front.settings.base_url,
            "marketing_url": front.settings.base_url,
        }
    )
    await ensure_topics(settings.kafka, topic_prefix, 1, replication=1)
    await create_log(settings, 0)

    async def ready() -> dict[str, bool]:
        return {}

    app = create_app("newsletter", access=Access({}, {}), metrics=Metrics("keys"), ready=ready)
    app.include_router(api.router(front.newsletter))
    app.include_router(dkim.router(settings.mail_domain, front.secrets.dkim_keys()))
    listening = asyncio.Event()
    serving = asyncio.create_task(serve_http(app, "127.0.0.1", port, lambda _: listening.set()))
    opened = await ledger_main.open(settings)
    following = [asyncio.create_task(task()) for task in opened.tasks.values()]
    answering = asyncio.Event()
    at_the_door = asyncio.create_task(serve_http(opened.app, "127.0.0.1", ledger_port, lambda _: answering.set()))
    await listening.wait()
    await answering.wait()
    ledger = Ledger(settings, front.secrets)
    superuser = await asyncpg.connect(database.dsn())
    try:
        yield Installation(settings, front, ledger, superuser)
    finally:
        await superuser.close()
        await ledger.close()
        for task in (serving, at_the_door, *following):
            task.cancel()
        await asyncio.gather(serving, at_the_door, *following, return_exceptions=True)
        await opened.close()
