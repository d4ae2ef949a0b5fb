"""The wiring of marketing and of its audience: the only reader of settings here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from services.marketing import api, handlers, projection, store
from services.marketing.domain import ACTIVITY, Horizon
from services.marketing.letters import Letters
from services.marketing.permits import Permits
from services.marketing.sender import Sender
from shared import register
from shared.access import Access
from shared.client import ServiceClient
from shared.clock import utc_now
from shared.database import Database, Transaction
from shared.follower import Follower, Recorded
from shared.holder import Holder
from shared.kafka import Consumer, Producer
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
POOL = 8
NICENESS = 10
NICENESS_OF_SESSION = 5  # a third of what others get: beside many, ten would starve it of its own heartbeats


async def open(settings: Settings) -> Running:  # noqa: A001 - every main.py has one
    """Marketing: permits, effects, campaigns, the follower they rest on, and the relay."""
    secrets = Secrets(settings.secrets_dir)
    rules = register.load(settings.register_dir)
    db = await Database.connect(settings.dsn("marketing"), "marketing", max_size=POOL)
    credential = secrets.credential("marketing")
    subjects = ServiceClient(settings.subjects_url, credential, "subjects")
    ledger = ServiceClient(settings.ledger_url, credential, "ledger")
    login, topic = settings.kafka_login("marketing"), settings.topic("consent.recorded")
    producer = Producer(settings.kafka, login)
    metrics, pages = Metrics("marketing"), Pages("marketing", HERE)

    async def fold(tx: Transaction, records: Sequence[Recorded]) -> None:
        await projection.apply(tx, records, rules, utc_now())

    follower = Follower(
        "marketing",
        db,
        lambda shards, positions: Consumer(settings.kafka, topic, shards, positions, login),
        ledger,
        secrets.publisher_key(),
        settings.origins(),
        range(settings.shards),
        fold,
        metrics=metrics,
    )

    def horizon(shard: int) -> Horizon | None:
        heartbeat = follower.heartbeat(shard)
        return None if heartbeat is None else Horizon(heartbeat.size, heartbeat.marks)

    own_key = secrets.own_source_key("marketing")
    relay = Relay("marketing", db, producer, ledger, own_key, settings, metrics=metrics)
    letters = Letters(
        rules,
        base_url=settings.base_url,
        mail_domain=settings.mail_domain,
        sender=settings.mail_from,
        dkim=secrets.dkim(),
        way_out_keys=secrets.way_out_keys(),
    )
    permits = Permits(db, horizon, rules, utc_now, os.urandom, metrics)
    sender = Sender(
        db=db,
        permits=permits,
        register=rules,
        software=software(),
        letters=letters,
        subjects=subjects,
        ledger=ledger,
        mail_server=MailServer(settings.smtp_host, settings.smtp_port),
        clock=utc_now,
        random=os.urandom,
        metrics=metrics,
        rate=settings.campaign_rate,
    )

    async def ready() -> dict[str, bool | str]:
        await db.fetchval("select 1")
        heard = all(horizon(shard) is not None for shard in range(settings.shards))
        return {"postgresql": True, "heartbeat": heard or "none yet", **follower.ready(), **relay.ready()}

    audience_age = metrics.gauge(
        "audience_age_seconds", "Time since the shown audience was complete, by the page's figures", ("shard",)
    )

    async def measure_audience() -> None:
        for shard, seconds in await store.audience_ages(db):
            audience_age.labels(str(shard)).set(seconds)

    metrics.at_scrape(measure_audience, audience_age)
    app = create_app("marketing", access=Access.load(secrets), metrics=metrics, ready=ready, error_page=pages.error)
    holder = Holder(
        "marketing", db, rules, ACTIVITY, software(), settings.shards, handlers.erasing(utc_now), utc_now, os.urandom
    )
    app.include_router(holder.router())
    app.include_router(api.router(db, permits, horizon, rules, pages, utc_now, os.urandom))

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


def _step_back() -> None:
    """What it counts can wait: it must never take the processor from those who record and forbid."""
    os.nice(NICENESS)
    # Linux may weigh sessions against each other first (sched_autogroup), and then niceness counts only within one:
    # a process that is a session of its own has to lower that, too.
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICENESS_OF_SESSION), "ascii")


async def open_audience(settings: Settings) -> Running:
    """The audience: Faust, in a process of its own."""
    from services.marketing.worker import Audience  # noqa: PLC0415 - Faust is slow to import and only needed here

    _step_back()
    secrets = Secrets(settings.secrets_dir)
    db = await Database.connect(settings.dsn("marketing"), "marketing", max_size=2)
    ledger = ServiceClient(settings.ledger_url, secrets.credential("audience"), "ledger")
    metrics = Metrics("audience")
    audience = Audience(
        kafka=settings.kafka,
        login=settings.kafka_login("audience"),
        replication=settings.audience_replication,
        topic=settings.topic("consent.recorded"),
        name=f"{settings.topic_prefix}audience",
        origins=settings.origins(),
        publisher_key=secrets.publisher_key(),
        ledger=ledger,
        db=db,
        clock=utc_now,
        metrics=metrics,
    )

    async def ready() -> dict[str, bool | str]:
        await db.fetchval("select 1")
        return {"postgresql": True, **audience.ready()}

    async def close() -> None:
        await ledger.close()
        await db.close()

    app = create_app("audience", access=Access.load(secrets), metrics=metrics, ready=ready)
    return Running(app, {"audience.faust": audience.run, "audience.show": audience.show}, ready, close)
