"""One running installation for all foreign clients, and where they were built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.journeys.running import running_installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.local.installation import Installation
    from tests.parts import KafkaPart, PostgresPart


@pytest.fixture(scope="session")
def installation(kafka: KafkaPart, postgres: PostgresPart) -> Iterator[Installation]:
    with running_installation(kafka, postgres, "clients") as running:
        yield running


@pytest.fixture(scope="session")
def clients() -> Path:
    """The folder of the programs that `make test-clients` has built; a missing one fails."""
    folder = Path(os.environ.get("CONSENT_LEDGER_CLIENTS", ""))
    for name in ("fsck", "litewitness", "verifyproof"):
        if not (folder / name).is_file():
            pytest.fail(f"the foreign client {name} is not built; run `make test-clients`")
    return folder
