"""A service of the tests' own: one schema with an outbox, a position and a fold that remembers what it was given."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from shared import migrations, topics
from shared.clock import rfc3339, utc_now
from shared.database import Database
from shared.events import Statement
from shared.events.types import ConsentWithdrawn
from shared.identifiers import subject_id, uuid7
from shared.kafka import Producer
from tests.integration.shared.counterpart import Counterpart
from tests.parts import KafkaPart, PostgresPart

SHARED = Path(migrations.__file__).parent
TEMPLATE = "probe_template"

PROBE = """
-- include: shared/outbox/outbox.sql
-- include: shared/outbox/progress.sql
-- include: shared/follower/follower.sql
-- include: shared/follower/believed.sql
create table folded (
    shard integer, index bigint, kind text not null, statement bytea not null, primary key (shard, index)
);
create table thing (id integer primary key, note text not null);
grant select, insert, update, delete on all tables in schema probe to probe;
"""


def probe_root(folder: Path) -> Path:
    """A tree with one service in it, as `migrate` finds it."""
    (folder / "services/probe/migrations").mkdir(parents=True)
    (folder / "services/probe/migrations/0001-probe.sql").write_text(PROBE)
    for part in ("outbox/outbox.sql", "outbox/progress.sql", "follower/follower.sql", "follower/believed.sql"):
        (folder / "shared" / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / "shared" / part).write_text((SHARED / part).read_text())
    return folder


async def administer(postgres: PostgresPart, *statements: str) -> None:
    connection = await asyncpg.connect(postgres.dsn())
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
async def probe_template(postgres: PostgresPart, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    await administer(postgres, f"drop database if exists {TEMPLATE} with (force)", f"create database {TEMPLATE}")
    await migrations.migrate(postgres.dsn(database=TEMPLATE), root=probe_root(tmp_path_factory.mktemp("probe")))
    yield TEMPLATE
    await administer(postgres, f"drop database {TEMPLATE} with (force)")


@pytest.fixture
async def probe_dsn(postgres: PostgresPart, probe_template: str) -> AsyncIterator[str]:
    """Address of a fresh database for the role `probe`."""
    name = f"probe_{secrets.token_hex(6)}"
    await administer(postgres, f"create database {name} template {probe_template}")
    yield postgres.dsn("probe", name)
    await administer(postgres, f"drop database {name} with (force)")


@pytest.fixture
async def empty_dsn(postgres: PostgresPart) -> AsyncIterator[str]:
    """Address of a database with nothing in it, for the superuser."""
    name = f"empty_{secrets.token_hex(6)}"
    await administer(postgres, f"create database {name}")
    yield postgres.dsn(database=name)
    await administer(postgres, f"drop database {name} with (force)")


@pytest.fixture
async def db(probe_dsn: str) -> AsyncIterator[Database]:
    database = await Database.connect(probe_dsn, "probe")
    yield database
    await database.close()


@dataclass(frozen=True)
class Site:
    """What of an installation relay and follower need; `shared.settings.Settings` has the same two."""

    prefix: str
    shards: int

    def topic(self, name: str) -> str:
        return self.prefix + name

    def origins(self) -> dict[int, str]:
        return {shard: f"test.example/ledger/log/{shard}" for shard in range(self.shards)}


@pytest.fixture
async def site(kafka: KafkaPart, topic_prefix: str) -> Site:
    await topics.ensure_topics(kafka.bootstrap, topic_prefix, shards=2)
    return Site(topic_prefix, 2)


@pytest.fixture
async def producer(kafka: KafkaPart) -> AsyncIterator[Producer]:
    producer = Producer(kafka.bootstrap)
    yield producer
    await producer.stop()


@pytest.fixture
async def counterpart(kafka: KafkaPart, site: Site) -> AsyncIterator[Counterpart]:
    async with Counterpart(kafka.bootstrap, site.prefix, site.origins()) as ledger:
        yield ledger


def withdrawal(shard: int = 0) -> Statement:
    """Some statement of the source `probe`."""
    data = ConsentWithdrawn(
        controller="controller",
        sender="sender",
        act="5f0c1f5e-6a0b-4c7d-9e8f-001122334455",
        by="person",
        activity="newsletter",
        register_version="0" * 64,
        scope="everything",
        status="ConsentWithdrawn",
        method="link",
    )
    now = utc_now()
    return Statement.of(
        data,
        id=uuid7(now, os.urandom),
        source="probe",
        subject=subject_id(shard, now, os.urandom),
        time=rfc3339(now),
    )
