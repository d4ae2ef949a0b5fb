"""One running installation, its mail server, and a real Prometheus that watches it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.alerts.server import Prometheus
from tests.faults.running.mail_server import MailServer
from tests.journeys.people import World
from tests.journeys.running import running_installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.local.installation import Installation
    from tests.parts import KafkaPart, PostgresPart


class Moody(MailServer):
    """A mail server that says what it is told to say."""

    def __init__(self) -> None:
        super().__init__()
        self.mood = ""

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        return self.mood or await super().handle_RCPT(server, session, envelope, address, options)


@pytest.fixture(scope="session")
def mails() -> Iterator[Moody]:
    """Yield the mail server."""
    with Moody() as server:
        yield server


@pytest.fixture(scope="session")
def installation(kafka: KafkaPart, postgres: PostgresPart, mails: Moody) -> Iterator[Installation]:
    """Yield the installation; its mails go to our server."""
    settings = {"demo": "false", "smtp_port": str(mails.port)}
    with running_installation(kafka, postgres, "alerts", settings) as running:
        yield running


@pytest.fixture(scope="session")
def world(installation: Installation) -> World:
    """Return the installation as people see it."""
    return World(installation)


@pytest.fixture(scope="session")
def watching(installation: Installation) -> Iterator[Prometheus]:
    """Yield Prometheus."""
    with Prometheus(installation) as server:
        yield server


@pytest.fixture
def prometheus(watching: Prometheus) -> Iterator[Prometheus]:
    """Yield Prometheus while nothing fires; what a test provokes is gone when it ends."""
    watching.falls_silent()
    yield watching
    watching.falls_silent()
