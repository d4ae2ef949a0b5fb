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
    with running_installation(kafka, postgres, "journeys") as running:
        yield running


@pytest.fixture(scope="session")
def world(installation: Installation) -> World:
    """Return the installation as people see it."""
    return World(installation)
