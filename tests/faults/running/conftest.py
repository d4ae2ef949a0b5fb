"""One running installation whose processes are killed and stopped, with a mail server and a crowd that outlive them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.running.crowd import Crowd
from tests.faults.running.mail_server import MailServer
from tests.journeys.people import World
from tests.journeys.running import running_installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.local.installation import Installation
    from tests.parts import KafkaPart, PostgresPart

SEED = 20200205


@pytest.fixture(autouse=True)
def seed() -> None:
    """Say what the crowd's choices follow from, wherever a test fails."""
    print(f"seed {SEED}")  # noqa: T201


@pytest.fixture(scope="session")
def mails() -> Iterator[MailServer]:
    """Yield the mail server."""
    with MailServer() as server:
        yield server


@pytest.fixture(scope="session")
def installation(kafka: KafkaPart, postgres: PostgresPart, mails: MailServer) -> Iterator[Installation]:
    """Yield the installation; its mails go to our server, several at a time."""
    settings = {"demo": "false", "smtp_port": str(mails.port), "campaign_rate": "0"}
    with running_installation(kafka, postgres, "faults", settings) as running:
        yield running


@pytest.fixture(scope="session")
def world(installation: Installation) -> World:
    """Return the installation as people see it."""
    return World(installation)


@pytest.fixture(scope="session")
def crowd(installation: Installation, mails: MailServer) -> Crowd:
    """Return the crowd; all choices of all tests follow from the seed."""
    return Crowd(installation.base_url, mails, SEED)
