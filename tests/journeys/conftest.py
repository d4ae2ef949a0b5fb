"""The one running installation that all journeys share; people are told apart by their addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.journeys.people import World
from tests.journeys.running import running_installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.local.installation import Installation
    from tests.parts import KafkaPart, PostgresPart


@pytest.fixture(scope="session")
def installation(kafka: KafkaPart, postgres: PostgresPart) -> Iterator[Installation]:
    """Yield the installation."""
    # Whoever says nothing is this machine; a test that comes from another network says so as a proxy does.
    with running_installation(kafka, postgres, "journeys", {"trusted_proxies": "127.0.0.1/32"}) as running:
        yield running


@pytest.fixture(scope="session")
def world(installation: Installation) -> World:
    """Return the installation as people see it."""
    return World(installation)
