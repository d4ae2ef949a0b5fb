"""The wiring of erasure: the only reader of settings here."""

from __future__ import annotations

import os

from services.erasure import api
from services.erasure.domain import ACTIVITY, SOURCE
from services.erasure.handlers import Speaker
from services.erasure.worker import Tasks
from shared import register
from shared.access import Access
from shared.client import ServiceClient
from shared.clock import utc_now
from shared.database import Database
from shared.kafka import Producer
from shared.metrics import Metrics
from shared.outbox import Relay
from shared.process import Running
from shared.secrets import Secrets
from shared.settings import Settings
from shared.software import software
from shared.web import create_app


async def open(settings: Settings) -> Running:  # noqa: A001 - every main.py has one
    """Orders, the relay that states them, and the tasks."""
    secrets = Secrets(settings.secrets_dir)
    db = await Database.connect(settings.dsn("erasure"), "erasure", max_size=4)
    credential = secrets.credential("erasure")
    ledger = ServiceClient(settings.ledger_url, credential, "ledger")
    holders = {
        "newsletter": ServiceClient(settings.newsletter_url, credential, "newsletter"),
        "marketing": ServiceClient(settings.marketing_url, credential, "marketing"),
        "subjects": ServiceClient(settings.subjects_url, credential, "subjects"),
    }
    producer = Producer(settings.kafka, settings.kafka_login("erasure"))
    metrics, rules = Metrics("erasure"), register.load(settings.register_dir)
    speaker = Speaker(rules, rules.activity(ACTIVITY), software())
    relay = Relay(SOURCE, db, producer, ledger, secrets.own_source_key(SOURCE), settings, metrics=metrics)
    tasks = Tasks(db, speaker, holders, utc_now, os.urandom, metrics)

    async def ready() -> dict[str, bool | str]:
        await db.fetchval("select 1")
        return {"postgresql": True, **relay.ready()}

    app = create_app("erasure", access=Access.load(secrets), metrics=metrics, ready=ready)
    app.include_router(api.router(db, speaker, ledger, utc_now, os.urandom, settings.base_url))

    async def close() -> None:
        await producer.stop()
        for client in (ledger, *holders.values()):
            await client.close()
        await db.close()

    return Running(app, {"erasure.relay": relay.run, "erasure.tasks": tasks.run}, ready, close)
