"""The wiring of the newsletter: the only reader of settings here."""

from __future__ import annotations

import os
from pathlib import Path

from services.newsletter import api, dkim, handlers
from services.newsletter.domain import ACTIVITY, SOURCE, Speaker
from services.newsletter.letters import Letters
from services.newsletter.worker import Mails, Sweeper
from shared import register
from shared.access import Access
from shared.client import ServiceClient
from shared.clock import utc_now
from shared.database import Database
from shared.holder import Holder
from shared.kafka import Producer
from shared.limits import Limits
from shared.mail import MailServer
from shared.metrics import Metrics
from shared.outbox import Relay
from shared.pages import Pages
from shared.process import Running
from shared.secrets import Secrets
from shared.settings import Settings
from shared.software import software
from shared.web import create_app

HERE = Path(__file__).parent


async def open(settings: Settings) -> Running:  # noqa: A001 - every main.py has one
    """The newsletter: its pages, its relay, the queue of mails, the sweeper."""
    secrets = Secrets(settings.secrets_dir)
    db = await Database.connect(settings.dsn("newsletter"), "newsletter")
    credential = secrets.credential("newsletter")
    subjects = ServiceClient(settings.subjects_url, credential, "subjects")
    ledger = ServiceClient(settings.ledger_url, credential, "ledger")
    marketing = ServiceClient(settings.marketing_url, credential, "marketing")
    erasure = ServiceClient(settings.erasure_url, credential, "erasure")
    producer = Producer(settings.kafka, settings.kafka_login("newsletter"))
    metrics, pages = Metrics("newsletter"), Pages("newsletter", HERE)
    speaker = Speaker.of(register.load(settings.register_dir), software())
    own_key = secrets.own_source_key("newsletter")
    relay = Relay("newsletter", db, producer, ledger, own_key, settings, metrics=metrics)
    letters = Letters(
        register=speaker.register,
        activity=speaker.activity,
        base_url=settings.base_url,
        mail_domain=settings.mail_domain,
        sender=settings.mail_from,
        dkim=secrets.dkim(),
        way_out_keys=secrets.way_out_keys(),
    )
    mails = Mails(
        db=db,
        speaker=speaker,
        letters=letters,
        subjects=subjects,
        ledger=ledger,
        server=MailServer(settings.smtp_host, settings.smtp_port),
        clock=utc_now,
        random=os.urandom,
        metrics=metrics,
    )
    sweeper = Sweeper(db, speaker, utc_now, os.urandom, metrics, erasure)
    step = handlers.erasing(speaker, utc_now, os.urandom)
    holder = Holder(
        SOURCE, db, speaker.register, ACTIVITY, speaker.software, settings.shards, step, utc_now, os.urandom
    )

    async def ready() -> dict[str, bool | str]:
        await db.fetchval("select 1")
        return {"postgresql": True, **relay.ready()}

    app = create_app("newsletter", access=Access.load(secrets), metrics=metrics, ready=ready, error_page=pages.error)
    app.include_router(
        api.router(
            api.Parts(
                db=db,
                speaker=speaker,
                pages=pages,
                subjects=subjects,
                marketing=marketing,
                secrets=secrets,
                clock=utc_now,
                random=os.urandom,
                base_url=settings.base_url,
                metrics=metrics,
                limits=Limits.of(settings, utc_now, os.urandom, metrics),
            )
        )
    )

    app.include_router(holder.router())
    app.include_router(dkim.router(settings.mail_domain, secrets.dkim_keys()))

    async def close() -> None:
        await producer.stop()
        for client in (subjects, ledger, marketing, erasure):
            await client.close()
        await db.close()

    return Running(
        app,
        {"newsletter.relay": relay.run, "newsletter.mails": mails.run, "newsletter.sweeper": sweeper.run},
        ready,
        close,
    )
