"""One ledger for each test, on the real parts of the session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.integration.ledger.world import World, open_world
from tests.parts import KafkaPart


@pytest.fixture
async def world(database: Database, kafka: KafkaPart, topic_prefix: str, tmp_path: Path) -> AsyncIterator[World]:
    """Return an installation with one shard whose log has leaf 0."""
    async with open_world(database, kafka, topic_prefix, tmp_path) as opened:
        yield opened


@pytest.fixture
async def two_shards(database: Database, kafka: KafkaPart, topic_prefix: str, tmp_path: Path) -> AsyncIterator[World]:
    """Return an installation with two shards."""
    async with open_world(database, kafka, topic_prefix, tmp_path, shards=2) as opened:
        yield opened
