"""The wiring of marketing and of its audience: the only reader of settings here."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from shared.outbox.relay import Relay

from services.marketing import api
from services.marketing.audience import Audience
from services.marketing.sender import Sender
from services.marketing.worker import Fold, Horizons
from shared import register
from shared.access import Access
from shared.client import ServiceClient
from shared.clock import utc_now
from shared.database import Database
from shared.follower import Follower
from shared.kafka import Consumer, Producer
from shared.mail import MailServer
from shared.metrics import Metrics
from shared.pages import Pages
from shared.process import Running
from shared.secrets import Secrets
from shared.settings import Settings
from shared.web import create_app

HERE = Path(__file__).parent


async def open(settings: Settings) -> Running:  # noqa: A001 - every main.py has one
    """Marketing: permits, effects, campaigns, the follower that decides them and the relay."""
    secrets = Secrets(settings.secrets_dir)
    db = await Database.connect(settings.dsn("marketing"), "marketing")
    credential = secrets.credential("marketing")
    subjects = ServiceClient(settings.subjects_url, credential, "subjects")
    ledger = ServiceClient(settings.ledger_url, credential, "ledger")
    producer = Producer(settings.kafka)
    metrics, pages, horizons = Metrics("marketing"), Pages("marketing", HERE), Horizons()
    rules = register.load()

    follower = Follower(
        "marketing",
        db,
        lambda partitions, positions: Consumer(
            settings.kafka, settings.topic("consent.recorded"), partitions, positions
        ),
        ledger,
        secrets.publisher_key(),
        settings.origins(),
        range(settings.shards),
        Fold(utc_now).apply,
        horizons.on_heartbeat,
    )
    relay = Relay("marketing", db, producer, ledger, secrets.own_source_key("marketing"), settings, utc_now)
    sender = Sender(
        db=db,
        horizons=horizons,
        register=rules,
        subjects=subjects,
        ledger=ledger,
        mail_server=MailServer(settings.smtp_host, settings.smtp_port),
        mail_domain=settings.mail_domain,
        mail_from=settings.mail_from,
        base_url=settings.base_url,
        dkim=secrets.dkim(),
        way_out_keys=secrets.way_out_keys(),
        clock=utc_now,
        random=os.urandom,
        templates=Environment(
            loader=FileSystemLoader(HERE / "pages"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
        ),
        rate=settings.campaign_rate,
    )

    async def ready() -> dict[str, bool]:
        await db.fetchval("select 1")
        return {"postgresql": True, "heartbeat": all(horizons.of(shard) for shard in range(settings.shards))}

    app = create_app("marketing", access=Access.load(secrets), metrics=metrics, ready=ready, error_page=pages.error)
    app.include_router(api.router(db, horizons, rules, pages, metrics, utc_now, os.urandom))

    async def close() -> None:
        await producer.stop()
        await subjects.close()
        await ledger.close()
        await db.close()

    return Running(
        app,
        {"marketing.follower": follower.run, "marketing.relay": relay.run, "marketing.sender": sender.run},
        ready,
        close,
    )


async def open_audience(settings: Settings) -> Running:
    """The audience: Faust, in a process of its own."""
    secrets = Secrets(settings.secrets_dir)
    db = await Database.connect(settings.dsn("marketing"), "marketing", max_size=2)
    ledger = ServiceClient(settings.ledger_url, secrets.credential("audience"), "ledger")
    audience = Audience(
        kafka=settings.kafka,
        topic=settings.topic("consent.recorded"),
        name=f"{settings.topic_prefix}audience",
        origins=settings.origins(),
        publisher_key=secrets.publisher_key(),
        ledger=ledger,
        db=db,
        clock=utc_now,
    )

    async def ready() -> dict[str, bool]:
        await db.fetchval("select 1")
        return {"postgresql": True, "faust": audience.app.started}

    async def close() -> None:
        await ledger.close()
        await db.close()

    return Running(None, {"audience.faust": audience.run, "audience.show": audience.show}, ready, close)
