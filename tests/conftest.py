"""What every test may ask for: the real parts, a database of its own, a topic prefix of its own."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator
from pathlib import PurePosixPath

import asyncpg
import hypothesis
import pytest
from hypothesis import HealthCheck
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from shared.migrations import migrate
from tests.parts import Database, KafkaPart, Parts, PostgresPart, plan

SHARE_AN_INSTALLATION = {"journeys", "attacks", "faults/running", "faults/parts"}
SHARES_ITS_PREPARATION = {"test_kafka_users.py", "test_log_check.py", "test_access.py", "test_imports.py"}
# The servers under test share the processor with us: how long an example takes says nothing about it.
hypothesis.settings.register_profile("real parts", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis.settings.load_profile("real parts")

TEMPLATE = "consent_template"
_numbers = itertools.count(1)
_parts = pytest.StashKey[Parts]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_parts] = Parts(plan())


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Make the first line of the report say what the tests run against, also when pytest is told to be quiet."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(str(session.config.stash[_parts].plan))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the parts last, after every fixture of every session is done with them."""
    if (parts := config.stash.get(_parts, None)) is not None:
        parts.close()


class Grouped(LoadScopeScheduling):
    """Keeps what shares one running installation, or one costly preparation, in one of pytest's worker processes.

    (xdist's own groups by marks go by a private attribute that pytest does not read any more.)
    """

    def _split_scope(self, nodeid: str) -> str:
        place = PurePosixPath(nodeid.partition("::")[0])
        if place.parts[1] in SHARE_AN_INSTALLATION or "/".join(place.parts[1:3]) in SHARE_AN_INSTALLATION:
            return str(place.parent)
        return str(place) if place.name in SHARES_ITS_PREPARATION else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Grouped:
    """Whatever `--dist` says."""
    return Grouped(config, log)


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> KafkaPart:
    """Return a real Kafka: `.bootstrap`, `.kind`, `.server` to stop, kill and restart it."""
    return pytestconfig.stash[_parts].kafka()


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> PostgresPart:
    """Return a real PostgreSQL: `.dsn(user, database)`, `.binary(name)`, `.kind`, `.server`."""
    return pytestconfig.stash[_parts].postgres()


@pytest.fixture(scope="session")
async def database_template(postgres: PostgresPart) -> AsyncIterator[str]:
    """Yield the name of a database with every service's schema in it, migrated once, to be cloned."""
    await _administer(postgres, f"drop database if exists {TEMPLATE} with (force)", f"create database {TEMPLATE}")
    await migrate(postgres.dsn(database=TEMPLATE))
    yield TEMPLATE
    await _administer(postgres, f"drop database {TEMPLATE} with (force)")


@pytest.fixture
async def database(postgres: PostgresPart, database_template: str) -> AsyncIterator[Database]:
    """Yield a fresh database with every service's schema, dropped after the test."""
    name = f"test_{next(_numbers)}_{secrets.token_hex(4)}"
    await _administer(postgres, f"create database {name} template {database_template}")
    yield Database(name, postgres)
    await _administer(postgres, f"drop database {name} with (force)")


@pytest.fixture
def topic_prefix() -> str:
    """Return a prefix that no other test uses, for topics and groups."""
    return f"test-{next(_numbers)}-{secrets.token_hex(4)}."


async def _administer(postgres: PostgresPart, *statements: str) -> None:
    connection = await asyncpg.connect(postgres.dsn())
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
