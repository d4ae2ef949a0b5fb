"""The wiring of subjects: the only reader of settings here."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

from services.subjects import api, handlers, worker
from services.subjects.domain import ACTIVITY
from services.subjects.handlers import Parts
from services.subjects.keys import KeyEncryption, Peppers
from shared import register
from shared.access import Access
from shared.client import ServiceClient
from shared.clock import utc_now
from shared.database import Database
from shared.follower import Follower
from shared.holder import Holder
from shared.kafka import Consumer, Producer
from shared.metrics import Metrics
from shared.outbox import Relay
from shared.process import Running
from shared.secrets import Secrets
from shared.settings import Settings
from shared.software import software
from shared.web import create_app


async def open(settings: Settings) -> Running:  # noqa: A001 - every main.py has one
    """The three doors to identity, the follower that keeps suppression, and the rotation of keys."""
    secrets = Secrets(settings.secrets_dir)
    metrics, rules = Metrics("subjects"), register.load(settings.register_dir)
    ledger = ServiceClient(settings.ledger_url, secrets.credential("subjects"), "ledger")
    async with AsyncExitStack() as opened:
        db = await Database.connect(settings.dsn("subjects"), "subjects")
        opened.push_async_callback(db.close)
        opened.push_async_callback(ledger.close)
        producer = Producer(settings.kafka, settings.kafka_login("subjects"))
        opened.push_async_callback(producer.stop)
        parts = Parts(
            db,
            KeyEncryption(lambda: secrets.keks("subjects"), os.urandom),
            Peppers(secrets.peppers()),
            settings.shards,
            utc_now,
            os.urandom,
        )
        await handlers.start(db, parts.peppers)
        close = opened.pop_all().aclose
    login = settings.kafka_login("subjects")
    relay = Relay("subjects", db, producer, ledger, secrets.own_source_key("subjects"), settings, metrics=metrics)
    follower = Follower(
        "subjects",
        db,
        lambda shards, offsets: Consumer(settings.kafka, settings.topic("consent.recorded"), shards, offsets, login),
        ledger,
        secrets.publisher_key(),
        settings.origins(),
        range(settings.shards),
        worker.Fold(parts.peppers).apply,
        metrics=metrics,
    )

    async def ready() -> dict[str, bool | str]:
        await db.fetchval("select 1")
        return {"postgresql": True, **follower.ready(), **relay.ready()}

    app = create_app("subjects", access=Access.load(secrets), metrics=metrics, ready=ready)
    app.include_router(api.router(parts, metrics))
    holder = Holder(
        "subjects", db, rules, ACTIVITY, software(), settings.shards, handlers.erasing(), utc_now, os.urandom
    )
    app.include_router(holder.router())

    async def rotate() -> None:
        await worker.rotate(parts)

    tasks = {"subjects.follower": follower.run, "subjects.relay": relay.run, "subjects.rotation": rotate}
    return Running(app, tasks, ready, close)
