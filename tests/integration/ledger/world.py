"""A ledger on real parts that a test drives stage by stage, and a judge that believes only what is stored."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from services.ledger.append import Appender, Keys, Stale
from services.ledger.check import admission
from services.ledger.payloads import Payloads
from services.ledger.procedures.create import create_log
from services.ledger.publish import Publisher
from services.ledger.reader.checkpoint import verify_checkpoint
from services.ledger.reader.commitment import commitment, derive, label, open_payload, opening, pin, unwrap
from services.ledger.reader.leaf import Event, parse_leaf
from services.ledger.reader.note import CosignatureSigner, Signer
from services.ledger.reader.replica import Replica
from services.ledger.seal import Sealer
from shared.clock import rfc3339, utc_now
from shared.database import Database
from shared.events import Statement, encode, matter_of, parse
from shared.events import types as words
from shared.identifiers import subject_id, uuid7
from shared.kafka import Consumer, Outgoing, Producer
from shared.register import load
from shared.secrets import Secrets, create_secrets
from shared.settings import Settings
from shared.topics import RECORDED, STATED, ensure_topics
from shared.wire import RecordedValue, alive_mac, alive_value, stated_headers, stated_mac

REGISTER = load()
NOTICE = REGISTER.activity("newsletter").notice("de")
BASIS = "eu-gdpr:A6-1-a-explicit-consent"


def new_subject(shard: int = 0) -> str:
    return subject_id(shard, utc_now(), os.urandom)


def new_id() -> str:
    return uuid7(utc_now(), os.urandom)


def _common() -> dict[str, Any]:
    return {
        "controller": "controller",
        "sender": "controller",
        "act": new_id(),
        "by": "person",
        "activity": "newsletter",
        "register_version": REGISTER.version,
    }


def _shown(purpose: str) -> dict[str, Any]:
    return _common() | {
        "purpose": purpose,
        "channel": "email",
        "legal_basis": BASIS,
        "expression": "explicit",
        "notice": words.Notice(hash=NOTICE.hash, language="de"),
        "method": "web-form",
    }


def stated(data: words.Data, subject: str, at: datetime | None = None, source: str = "newsletter") -> bytes:
    """The bytes of a statement as a collector commits them."""
    return encode(Statement.of(data, id=new_id(), source=source, subject=subject, time=rfc3339(at or utc_now())))


def given(subject: str, at: datetime | None = None, purpose: str = "newsletter", notice: str = NOTICE.hash) -> bytes:
    shown = _shown(purpose) | {"notice": words.Notice(hash=notice, language="de")}
    data = words.ConsentGiven(
        **shown, status="ConsentGiven", stage="proven", follows=[new_id()], receipt_key_hash="d" * 64
    )
    return stated(data, subject, at)


def requested(subject: str, at: datetime | None = None) -> bytes:
    now = utc_now()
    data = words.ConsentRequested(
        **_shown("newsletter"),
        status="ConsentRequested",
        stage="asked",
        expires_at=rfc3339(now + timedelta(days=2)),
        token_hash="e" * 64,
    )
    return stated(data, subject, at)


def withdrawn(subject: str, at: datetime | None = None, purpose: str | None = "newsletter") -> bytes:
    """A withdrawal of one purpose, or of everything."""
    what: dict[str, Any] = {"scope": "everything"}
    if purpose is not None:
        what = {"scope": "purpose", "purpose": purpose, "channel": "email"}
    return stated(
        words.ConsentWithdrawn(**_common(), **what, status="ConsentWithdrawn", method="one-click"), subject, at
    )


def ordered(subject: str, request: str, until: datetime | None = None) -> bytes:
    data = words.ErasureOrdered(
        **_common(),
        request=request,
        reason="consent-withdrawn",
        holders=["newsletter"],
        evidence_until=None if until is None else rfc3339(until),
    )
    return stated(data, subject, source="erasure")


def completed(subject: str, request: str, until: datetime | None = None) -> bytes:
    data = words.ErasureCompleted(
        **_common(),
        request=request,
        follows=[new_id(), new_id()],
        evidence_until=None if until is None else rfc3339(until),
    )
    return stated(data, subject, source="erasure")


def held(subject: str, request: str, until: datetime) -> bytes:
    data = words.ErasureHeld(**_common(), request=request, until=rfc3339(until), ground="legal-claims")
    return stated(data, subject, source="erasure")


@dataclass
class Judgement:
    """What the reader found in the tables, and nothing else."""

    size: int
    sealed: int
    statements: list[bytes]
    """in the order of the log"""
    matters: list[str]
    indexes: dict[bytes, int] = field(default_factory=dict)


class World:
    """One installation with one or more shards, its parts made as often as a test wants."""

    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self.settings = settings
        self.secrets = secrets
        self.sequences: dict[tuple[str, int], int] = {}
        self.offsets: dict[int, int] = {}
        self.producer = Producer(settings.kafka)
        self._databases: dict[str, Database] = {}
        self._open: list[Any] = []

    async def database(self, role: str) -> Database:
        if role not in self._databases:
            self._databases[role] = await Database.connect(self.settings.dsn(role), "ledger", max_size=4)
            self._open.append(self._databases[role].close)
        return self._databases[role]

    async def appender(self, shard: int = 0, db: Any = None, consumer: Any = None, **options: Any) -> Appender:
        topic = self.settings.topic(STATED)
        made = Appender(
            shard,
            db or await self.database("ledger_append"),
            consumer or (lambda: Consumer(self.settings.kafka, topic, [shard])),
            Keys(self.secrets.source_keys(), self.secrets.keks()),
            admission(REGISTER),
            options.pop("clock", utc_now),
            os.urandom,
            register_version=REGISTER.version,
            **options,
        )
        self._open.insert(0, made.drop)
        return made

    async def sealer(self, shard: int = 0, db: Any = None, **options: Any) -> Sealer:
        origin = self.settings.origin(shard)
        return Sealer(
            shard,
            origin,
            db or await self.database("ledger_seal"),
            await self.database("ledger_publish"),
            self.settings.signer_dir,
            options.pop("log_keys", None) or [Signer(origin, self.secrets.log_key(shard))],
            CosignatureSigner(f"{origin}/fresh", self.secrets.fresh_key(shard)),
            options.pop("clock", utc_now),
        )

    async def publisher(self, shard: int = 0, db: Any = None, producer: Any = None) -> Publisher:
        origin = self.settings.origin(shard)
        return Publisher(
            origin,
            db or await self.database("ledger_publish"),
            producer or self.producer,
            self.settings.topic(RECORDED),
            self.secrets.publisher_key(),
            Payloads(shard, self.secrets.keks()),
        )

    def message(
        self,
        raw: bytes,
        *,
        source: str = "newsletter",
        shard: int = 0,
        sequence: int | None = None,
        kind: str = "statement",
        origin: str | None = None,
        headers: dict[str, bytes] | None = None,
    ) -> Outgoing:
        """A message as a relay sends it; `headers` replaces single ones."""
        if sequence is None:
            sequence = self.sequences.get((source, shard), 0) + 1
        self.sequences[source, shard] = max(sequence, self.sequences.get((source, shard), 0))
        key_id, key = self.secrets.own_source_key(source)
        make = alive_mac if kind == "alive" else stated_mac
        mac = make(key, origin or self.settings.origin(shard), sequence, raw)
        made = dict(stated_headers(kind, sequence, key_id, mac)) | (headers or {})
        return Outgoing(self.settings.topic(STATED), shard, b"subject", raw, list(made.items()))

    def alive(self, all_before: datetime, *, source: str = "newsletter", shard: int = 0) -> Outgoing:
        sequence = self.sequences.get((source, shard), 0)
        return self.message(
            alive_value(source, shard, sequence, rfc3339(all_before)),
            source=source,
            shard=shard,
            sequence=sequence,
            kind="alive",
        )

    async def send(self, messages: Sequence[Outgoing]) -> None:
        await self.producer.send_many(messages)
        for message in messages:
            self.offsets[message.partition] = self.offsets.get(message.partition, 0) + 1

    async def state(self, *statements: bytes, shard: int = 0) -> None:
        """Say these as the newsletter."""
        await self.send([self.message(raw, shard=shard) for raw in statements])

    async def append(self, appender: Appender) -> None:
        """Append until everything that was sent is consumed."""
        shard = appender.shard
        while await self.next_offset(shard) < self.offsets.get(shard, 0):
            try:
                await appender.step(timeout_ms=200)
                await appender.settled()
            except Stale:
                await appender.drop()

    async def next_offset(self, shard: int = 0) -> int:
        return int(await self.value("select next_offset from head where shard = $1", shard))

    async def seal(self, sealer: Sealer) -> None:
        await sealer.open()
        try:
            while await sealer.step():
                pass
        finally:
            sealer.close()

    async def publish(self, publisher: Publisher) -> None:
        while await publisher.step():
            pass

    async def run_through(self, shard: int = 0) -> None:
        """Append, seal and publish everything, each by a new process."""
        appender = await self.appender(shard)
        await self.append(appender)
        await appender.drop()
        await self.seal(await self.sealer(shard))
        await self.publish(await self.publisher(shard))

    async def recorded(self, shard: int = 0) -> list[tuple[str, bytes]]:
        """Everything on consent.recorded: kind and value."""
        consumer = Consumer(self.settings.kafka, self.settings.topic(RECORDED), [shard], {shard: 0})
        await consumer.start()
        try:
            end = (await consumer.end_offsets())[shard]
            found: list[tuple[str, bytes]] = []
            while len(found) < end:
                messages = await consumer.fetch()
                found += [(message.headers["kind"].decode(), message.value) for message in messages]
            return found
        finally:
            await consumer.stop()

    async def rows(self, sql: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.settings.superuser_dsn, server_settings={"search_path": "ledger"})
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    async def value(self, sql: str, *arguments: Any) -> Any:
        return (await self.rows(sql, *arguments))[0][0]

    async def as_superuser(self, sql: str) -> None:
        """What only somebody with every right can do, who switches the triggers off first."""
        connection = await asyncpg.connect(self.settings.superuser_dsn, server_settings={"search_path": "ledger"})
        try:
            await connection.execute("set session_replication_role = replica")
            await connection.execute(sql)
        finally:
            await connection.close()

    async def judge(self, shard: int = 0) -> Judgement:
        """Verify what is stored by the reader alone; raises Invalid where it does not hold."""
        origin = self.settings.origin(shard)
        replica, events = Replica(), dict[int, Event]()
        roots: dict[int, bytes] = {}
        for row in await self.rows("select first, n, leaves from leaf_batch where shard = $1 order by first", shard):
            assert row["first"] == replica.size
            joined, at = row["leaves"], 0
            while at < len(joined):
                leaf = joined[at : at + (57 if joined[at] == 2 else 89)]
                parsed = parse_leaf(leaf)
                if isinstance(parsed, Event):
                    events[replica.size] = parsed
                replica.apply(leaf)
                at += len(leaf)
            assert row["first"] + row["n"] == replica.size
            roots[replica.size] = replica.tree_root()
        vkey = Signer(origin, self.secrets.log_key(shard)).vkey
        sealed = 0
        for row in await self.rows("select size, previous, note from checkpoint where shard = $1 order by size", shard):
            checkpoint = verify_checkpoint(row["note"].encode(), vkey)
            assert (row["previous"] or 0) == sealed
            assert checkpoint.root == roots[checkpoint.size]
            sealed = checkpoint.size
        keys = {
            row["subject"]: derive(unwrap(self.secrets.keks(), row["subject"], row["wrapped"]))
            for row in await self.rows("select subject, wrapped from subject_key where shard = $1", shard)
        }
        judgement = Judgement(replica.size, sealed, [], [])
        payloads = await self.rows("select index, subject, payload from payload where shard = $1 order by index", shard)
        assert [row["index"] for row in payloads] == sorted(events)
        for row in payloads:
            event, key = events[row["index"]], keys[row["subject"]]
            raw = open_payload(key.payload_key, shard, row["index"], row["payload"])
            fingerprint = pin(key.label_key, origin, row["subject"])
            secret = opening(key.opening_key, event.label, event.version)
            assert commitment(secret, fingerprint, event.label, event.version, raw) == event.commitment
            matter = matter_of(parse(raw))
            if label(key.label_key, matter) != event.label:
                matter = f"overtaken:{matter}"
                assert label(key.label_key, matter) == event.label
            judgement.statements.append(raw)
            judgement.matters.append(matter)
            judgement.indexes[raw] = row["index"]
        return judgement

    async def close(self) -> None:
        await self.producer.stop()
        for close in self._open:
            await close()


def leaf_values(recorded: list[tuple[str, bytes]]) -> list[RecordedValue]:
    """The leaves among what is on consent.recorded."""
    return [RecordedValue.decode(value) for kind, value in recorded if kind == "leaf"]


def settings_of(database: Any, kafka: Any, prefix: str, folder: Path, shards: int = 1) -> Settings:
    """The settings of an installation whose files lie in `folder`."""
    return Settings(
        database=database.dsn("ROLE").replace("ROLE", "{role}"),
        superuser_dsn=database.dsn(),
        kafka=kafka.bootstrap,
        topic_prefix=prefix,
        shards=shards,
        log_host="test.example.org",
        secrets_dir=folder / "secrets",
        signer_dir=folder / "signer",
    )


@asynccontextmanager
async def open_world(database: Any, kafka: Any, prefix: str, folder: Path, shards: int = 1) -> AsyncIterator[World]:
    settings = settings_of(database, kafka, prefix, folder, shards)
    sources = ["newsletter", "marketing", "subjects", "erasure", "ledger"]
    create_secrets(settings.secrets_dir, os.urandom, sources, ["operator", "newsletter"], shards)
    await ensure_topics(settings.kafka, prefix, shards, replication=1)
    world = World(settings, Secrets(settings.secrets_dir))
    for shard in range(shards):
        await create_log(settings, shard)
    try:
        yield world
    finally:
        await world.close()
