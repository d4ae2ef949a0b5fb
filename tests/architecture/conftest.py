"""The installation as docker-compose.yml describes it: every role, each with the secrets it is given and no other."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.compose import secrets
from services.ledger.procedures.create import create_log
from services.serve import ROLES, open_role
from shared.process import Running
from shared.settings import Settings
from tests.conftest import Database

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """docker-compose.yml, parsed."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return document


@pytest.fixture
async def roles(
    compose: dict[str, Any], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, Running]]:
    """Every role opened on an empty log, nothing of it running; what a role is not given it cannot read."""
    monkeypatch.setattr(os, "nice", lambda _: 0)  # a role may step back for the others, the tests may not
    everything = secrets.create(tmp_path / "installation")

    def settings(service: str) -> Settings:
        given = tmp_path / service
        given.mkdir()
        for name in compose["services"][service]["secrets"]:
            (given / name).write_bytes((everything / name).read_bytes())
        return Settings(
            database=database.dsn("{role}"),
            superuser_dsn=database.dsn(),
            kafka="127.0.0.1:1",  # nothing is running, so nobody asks it
            secrets_dir=given,
            signer_dir=everything.parent / "signer",
        )

    await create_log(settings("log-create"), 0)
    async with AsyncExitStack() as opened:
        running = {}
        for role in ROLES:
            running[role] = await open_role(role, settings(role))
            opened.push_async_callback(running[role].close)
        yield running
