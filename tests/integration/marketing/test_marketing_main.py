"""Marketing as it is wired: from a message on the real topic to a permit, and from a withdrawal to its effect."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.marketing.main import open as open_marketing
from shared.access import grants
from shared.clock import rfc3339, utc_now
from shared.kafka import Producer
from shared.process import Running
from shared.secrets import Secrets, create_secrets
from shared.settings import Settings
from shared.topics import ensure_topics
from tests.integration.marketing.publisher import Ledger
from tests.parts import Database as OwnDatabase
from tests.parts import KafkaPart
from tests.unit.marketing.history import given, person, withdrawn


@dataclass
class Wired:
    """The running service, and the other end of its topics."""

    ledger: Ledger
    running: Running
    client: httpx.AsyncClient
    ages: dict[str, float] = field(default_factory=lambda: {"newsletter": 2})
    """How far back the newest mark of each source lies, in seconds."""
    silent: bool = True

    async def beat(self) -> None:
        """Heartbeats as the publisher sends them, only faster."""
        while True:
            if not self.silent:
                now = utc_now()
                marks = {source: rfc3339(now - timedelta(seconds=age)) for source, age in self.ages.items()}
                await self.ledger.heartbeat(marks)
            await asyncio.sleep(0.1)

    async def consent(self, subject: str) -> None:
        """Recorded, published and in force."""
        await self.ledger.publish(self.ledger.record(given(subject, 1)))
        self.silent = False
        await self.until_permit(subject, "consent-in-force")

    async def permit(self, subject: str) -> dict[str, Any]:
        body = {"subject": subject, "purpose": "newsletter", "channel": "email", "attempt": 1}
        answer = await self.client.post("/marketing/permits", json={**body, "message_id": f"<{person()}@example.org>"})
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    async def until_permit(self, subject: str, reason: str) -> None:
        found = ""
        try:
            async with asyncio.timeout(30):
                while (found := (await self.permit(subject))["reason"]) != reason:  # noqa: ASYNC110 - it is asked
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pytest.fail(f"after 30 s the answer is {found}, not {reason}")

    async def checks(self) -> dict[str, Any]:
        return dict((await self.client.get("/marketing/health/ready")).json()["checks"])


@pytest.fixture
async def wired(kafka: KafkaPart, database: OwnDatabase, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Wired]:
    await ensure_topics(kafka.bootstrap, topic_prefix, 1)
    create_secrets(tmp_path, os.urandom, ["marketing"], grants(), shards=1)
    secrets = Secrets(tmp_path)
    producer = Producer(kafka.bootstrap)
    ledger = Ledger(kafka.bootstrap, topic_prefix, producer, secrets.publisher_key(), "localhost/ledger/log/0")
    async with ledger.answers():
        settings = Settings(
            database=database.dsn("{role}").replace("%7Brole%7D", "{role}"),
            kafka=kafka.bootstrap,
            topic_prefix=topic_prefix,
            secrets_dir=tmp_path,
            ledger_url=ledger.base_url,
        )
        running = await open_marketing(settings)
        assert running.app is not None
        tasks = [asyncio.create_task(factory()) for factory in running.tasks.values()]
        headers = {"Authorization": f"Bearer {secrets.credential('demo')}"}
        transport = httpx.ASGITransport(running.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            wired = Wired(ledger, running, client)
            tasks.append(asyncio.create_task(wired.beat()))
            yield wired
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await running.close()
    await producer.stop()


async def test_a_recorded_consent_is_granted_once_a_heartbeat_proves_it_is_the_newest_word(wired: Wired) -> None:
    subject = person()
    assert (await wired.permit(subject))["reason"] == "no-heartbeat"
    assert (await wired.client.get("/marketing/health/ready")).status_code == 503
    wired.ledger.record(None)
    await wired.consent(subject)
    permit = await wired.permit(subject)
    assert (permit["size"], permit["decision"]) == ("2", "granted")
    checks = await wired.checks()
    assert (checks["postgresql"], checks["heartbeat"], checks["follower"]) == (True, True, True)
    wired.ages = {"newsletter": 6}
    await wired.until_permit(subject, "stale")
    wired.ages = {}
    await wired.until_permit(subject, "source-not-heard")


async def test_a_withdrawal_wakes_who_waits_for_its_effect_and_refuses_from_then_on(wired: Wired) -> None:
    subject = person()
    await wired.consent(subject)
    statement = withdrawn(subject, 2)
    waiting = asyncio.create_task(wired.client.get(f"/marketing/effects/{statement.id}?wait=5"))
    await wired.ledger.publish(wired.ledger.record(statement))
    answer = await waiting
    assert (answer.status_code, answer.json()["index"], answer.json()["in_transmission"]) == (200, "1", [])
    assert (await wired.permit(subject))["reason"] == "no-consent-in-force"


async def test_a_withdrawal_that_kafka_lost_takes_effect_by_the_heartbeat(wired: Wired) -> None:
    subject = person()
    await wired.consent(subject)
    statement = withdrawn(subject, 2)
    wired.ledger.record(statement)
    assert (await wired.client.get(f"/marketing/effects/{statement.id}?wait=5")).status_code == 200
    assert (await wired.permit(subject))["decision"] == "refused"
