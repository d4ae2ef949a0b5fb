"""One log, built once for all attacks by the real parts; each attack gets a copy of database and files to itself."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.attacks import auditing, report, witnessing
from tests.attacks.declared import CHAIN, FIGURES, Attack, Notices
from tests.attacks.liar import Liar
from tests.attacks.site import Site, build
from tests.conftest import _administer as administer
from tests.parts import Database, PostgresPart


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-attacks", action="store_true", help="write docs/attacks.md from this run")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption("--write-attacks", default=False) and exitstatus == 0:
        report.write(FIGURES, CHAIN)


@pytest.fixture
def notices(attack: Attack) -> Iterator[Notices]:
    """Return where a test notes who noticed; at its end, everybody who was declared must have."""
    seen = Notices(attack)
    yield seen
    seen.complete()


@pytest.fixture(scope="session")
async def untouched(
    postgres: PostgresPart, database_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """Return the log as it was before anything was attacked."""
    names = [f"{name}_{secrets.token_hex(4)}" for name in ("attacked", "forged", "forged_too")]
    for name in names:
        await administer(postgres, f"create database {name} template {database_template}")
    attacked, *spare = (Database(name, postgres) for name in names)
    site = await build(attacked, tmp_path_factory.mktemp("attacked"), spare)
    log = await Liar.of(site)
    site.kept["position"] = auditing.position(log, site.kept["checkpoint 1"])
    await witnessing.begin(site.folder / "witness", log, *(site.kept[f"checkpoint {number}"] for number in range(4)))
    yield site
    for name in names:
        await administer(postgres, f"drop database {name} with (force)")


@pytest.fixture
async def site(untouched: Site, tmp_path: Path) -> AsyncIterator[Site]:
    """Return the log, rows and files as they were, to be attacked; to clone the database costs ten times that."""
    shutil.copytree(untouched.folder, tmp_path / "site")
    copy = await untouched.again(tmp_path / "site")
    yield copy
    await copy.close()
