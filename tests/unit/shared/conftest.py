"""What several of these tests need."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from shared import logs


@pytest.fixture
def logging_as_in_production() -> Iterator[None]:
    """Configured as a process does it, and put back afterwards: the configuration is global."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure("INFO", "probe")
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
