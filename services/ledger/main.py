"""The wiring of the ledger's three processes: the API, the appender, and the signer with publisher and check."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger import store
from services.ledger.api import evidence as evidence_api
from services.ledger.api import log as log_api
from services.ledger.api import proofs as proofs_api
from services.ledger.api import receipts as receipts_api
from services.ledger.api import scripts as scripts_api
from services.ledger.api import statements as statements_api
from services.ledger.api import trust as trust_api
from services.ledger.append import Appender, Keys
from services.ledger.check import admission
from services.ledger.destroy import Destroyer
from services.ledger.evidence.signature import PdfSignature
from services.ledger.gauges import Gauges
from services.ledger.integrity.finding import Trusted
from services.ledger.integrity.running import RunningCheck
from services.ledger.keks import Keks
from services.ledger.log_keys import known_keys, signers
from services.ledger.outside.timestamps import Timestamps, answers
from services.ledger.outside.witnesses import Witnesses
from services.ledger.payloads import Payloads
from services.ledger.proofs.history import Histories
from services.ledger.proofs.issue import Prover
from services.ledger.proofs.sealed_map import SealedMaps
from services.ledger.publish import Publisher
from services.ledger.reader.authority import Authority, parse_authority
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import CosignatureSigner
from services.ledger.reader.policy import POLICY_LIMIT, Policy, parse_policy
from services.ledger.seal import Sealer
from shared.access import Access
from shared.client import ServiceClient
from shared.clock import utc_now
from shared.database import Database
from shared.errors import Corrupt, Refused
from shared.kafka import Consumer, Producer
from shared.limits import Limits
from shared.metrics import Metrics
from shared.outside import Outside
from shared.pages import Pages
from shared.process import Running
from shared.register import load
from shared.secrets import Secrets
from shared.settings import Settings
from shared.software import software
from shared.topics import RECORDED, STATED
from shared.web import create_app


async def open(settings: Settings) -> Running:  # noqa: A001 - every main.py has one
    """Everything the ledger answers over HTTP."""
    secrets = Secrets(settings.secrets_dir)
    metrics, pages = Metrics("ledger"), Pages("ledger", receipts_api.HERE)
    register = load(settings.register_dir)
    # Only of sources that state over HTTP; nobody is asked before there is one.
    voices = {
        source: statements_api.Voice(
            secrets.own_source_key(source), Producer(settings.kafka, settings.kafka_login(source))
        )
        for source in register.http_sources
    }
    async with AsyncExitStack() as opened:
        db = await Database.connect(settings.dsn("ledger"), "ledger")
        opened.push_async_callback(db.close)
        for voice in voices.values():
            opened.push_async_callback(voice.producer.stop)
        parts = log_api.Parts(db, Keks(secrets.keks), db.listen("ledger_sealed"), utc_now)
        maps = SealedMaps(db, db.listen("ledger_sealed"))
        histories = Histories(db, parts.keks, maps)
        registers = receipts_api.Registers(db, register)
        await registers.keep()
        # Without a credential: the ledger opens nothing in its own name, it passes on that of whoever asks.
        others = evidence_api.Others(
            ServiceClient(settings.subjects_url, "", "subjects"),
            ServiceClient(settings.newsletter_url, "", "newsletter"),
            ServiceClient(settings.marketing_url, "", "marketing"),
        )
        for client in (others.subjects, others.newsletter, others.marketing):
            opened.push_async_callback(client.close)
        door = statements_api.Door(db, settings.topic(STATED), voices)
        prover = Prover(db, histories)
        evidence = evidence_api.Evidence(
            parts,
            histories,
            prover,
            registers,
            door,
            others,
            os.urandom,
            PdfSignature.of(secrets, settings.timestamp_url),
            settings.base_url,
            software(),
        )
        close = opened.pop_all().aclose

    async def ready() -> dict[str, bool | str]:
        return await log_api.ready(parts)

    limits = Limits.of(settings, utc_now, os.urandom, metrics)
    app = create_app("ledger", access=Access.load(secrets), metrics=metrics, ready=ready, error_page=pages.error)
    app.include_router(log_api.router(parts))
    app.include_router(trust_api.router(parts))
    app.include_router(receipts_api.router(prover, registers, pages, limits))
    app.include_router(scripts_api.router())
    app.include_router(proofs_api.router(prover, registers, pages, limits))
    app.include_router(statements_api.router(parts, door))
    app.include_router(evidence_api.router(evidence))
    Gauges(db, utc_now, metrics)
    return Running(app, {"ledger.maps": maps.run}, ready, close)


async def open_append(settings: Settings) -> Running:
    """The owner of every shard's end: it appends and cannot sign."""
    secrets = Secrets(settings.secrets_dir)
    db = await Database.connect(settings.dsn("ledger_append"), "ledger")
    metrics = Metrics("ledger_append")
    keks = Keks(secrets.keks)
    keys = Keys(secrets.source_keys(), keks)
    register = load(settings.register_dir)
    admit = admission(register)
    topic, login = settings.topic(STATED), settings.kafka_login("ledger-append")

    def appender(shard: int) -> Appender:
        def consumer() -> Consumer:
            return Consumer(settings.kafka, topic, [shard], login=login)

        return Appender(
            shard,
            db,
            consumer,
            keys,
            admit,
            utc_now,
            os.urandom,
            metrics,
            register_version=register.version,
            erasure_spread=settings.erasure_spread,
        )

    shards = [appender(shard) for shard in settings.own_shards()]
    destroyers = [Destroyer(shard, db, keks, os.urandom, metrics) for shard in settings.own_shards()]

    async def ready() -> dict[str, bool | str]:
        owned = {f"shard {one.shard}": one.trouble or True for one in shards}
        return await _answers(db) | owned

    _spare_the_collector()
    app = create_app("ledger-append", access=Access.load(secrets), metrics=metrics, ready=ready)
    tasks = {f"ledger.append.{one.shard}": one.run for one in shards}
    tasks |= {f"ledger.destroy.{one.shard}": one.run for one in destroyers}
    return Running(app, tasks, ready, db.close)


async def open_seal(settings: Settings) -> Running:
    """The signer, which cannot append, and the publisher of what it has signed."""
    secrets = Secrets(settings.secrets_dir)
    producer = Producer(settings.kafka, settings.kafka_login("ledger-seal"))
    metrics = Metrics("ledger_seal")
    policy = _policy(settings)
    outside = Outside()
    sealers: list[Sealer] = []
    publishers: list[Publisher] = []
    tasks: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
    async with AsyncExitStack() as opened:
        db = await Database.connect(settings.dsn("ledger_seal"), "ledger")
        opened.push_async_callback(db.close)
        publisher_db = await Database.connect(settings.dsn("ledger_publish"), "ledger")
        opened.push_async_callback(publisher_db.close)
        check_db = await Database.connect(settings.dsn("ledger_check"), "ledger", max_size=3)
        opened.push_async_callback(check_db.close)
        opened.push_async_callback(producer.stop)
        opened.push_async_callback(outside.close)
        # From the table, not from the settings: an origin is fixed when the log is created.
        origins = {shard: await store.origin(db, shard) for shard in settings.own_shards()}
        private = {shard: secrets.log_keys(shard) for shard in origins}
        keys = {
            shard: signers(origin, await known_keys(db, shard), private[shard]) for shard, origin in origins.items()
        }
        witnesses = [Witnesses(shard, publisher_db, policy, outside, metrics) for shard in origins]
        # Before anything is signed: a witness that has seen more than our database shows that it was rolled back.
        await asyncio.gather(*(one.ask() for one in witnesses))
        close = opened.pop_all().aclose
    notice_keys: Mapping[str, Ed25519PublicKey] = {}
    with suppress(Corrupt):  # where they are not at hand, tokens are not looked at
        notice_keys = secrets.notice_public_keys()
    for shard, origin in origins.items():
        fresh = CosignatureSigner(f"{origin}/fresh", secrets.fresh_key(shard))
        sealer = Sealer(
            shard,
            origin,
            db,
            publisher_db,
            settings.signer_dir,
            keys[shard],
            fresh,
            utc_now,
            metrics,
        )
        sealers.append(sealer)
        tasks[f"ledger.seal.{shard}"] = sealer.run
        tasks[f"ledger.keys.{shard}"] = sealer.keep_keys
        publisher = Publisher(
            origin,
            publisher_db,
            producer,
            settings.topic(RECORDED),
            secrets.publisher_key(),
            Payloads(shard, Keks(secrets.keks)),
            metrics,
        )
        publishers.append(publisher)
        tasks[f"ledger.publish.{shard}"] = publisher.run
        # It is given what verifies, and nothing that signs.
        trusted = Trusted(
            Keks(secrets.keks),
            {shard: keys[shard][-1].vkey},
            {shard: fresh.vkey},
            notice_keys,
            settings.signer_dir,
            _authority(settings) if settings.timestamp_url else None,
            policy,
        )
        checking = RunningCheck(shard, check_db, trusted, publisher_db.listen("ledger_sealed"), utc_now)
        tasks[f"ledger.check.{shard}"] = checking.run
    answers(metrics)
    if settings.timestamp_url:
        authority = _authority(settings)
        for shard in origins:
            every, url = settings.timestamp_seconds, settings.timestamp_url
            stamping = Timestamps(shard, publisher_db, url, every, authority, outside, utc_now, metrics)
            tasks[f"ledger.timestamps.{shard}"] = stamping.run
    tasks |= {f"ledger.witnesses.{one.shard}": one.run for one in witnesses if one.peers}

    async def ready() -> dict[str, bool | str]:
        signing = {f"shard {one.shard}": one.trouble or True for one in sealers}
        publishing = {f"publishing shard {one.shard}": one.trouble or True for one in publishers}
        return await _answers(db) | signing | publishing

    _spare_the_collector()
    app = create_app("ledger-seal", access=Access.load(secrets), metrics=metrics, ready=ready)
    return Running(app, tasks, ready, close)


def _policy(settings: Settings) -> Policy:
    """The witnesses of this installation; Refused if the file is none."""
    if settings.witness_policy is None:
        return Policy(())
    try:
        with settings.witness_policy.open("rb") as file:
            return parse_policy(file.read(POLICY_LIMIT + 1))
    except (OSError, Invalid) as error:
        raise Refused("no-policy", f"CONSENT_LEDGER_WITNESS_POLICY: {error}") from None


def _authority(settings: Settings) -> Authority:
    """Whom timestamps are asked of; Refused if its certificates are not there."""
    try:
        return parse_authority((settings.timestamp_authority or Path()).read_bytes())
    except (OSError, Invalid) as error:
        raise Refused("no-authority", f"CONSENT_LEDGER_TIMESTAMP_AUTHORITY: {error}") from None


async def _answers(db: Database) -> dict[str, bool | str]:
    await db.fetchval("select 1")
    return {"postgresql": True}


def _spare_the_collector() -> None:
    """State maps are millions of objects without a cycle among them: walking them all the time finds nothing."""
    gc.set_threshold(100_000, 50, 100)
