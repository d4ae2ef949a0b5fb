"""Log lines of the package go to Python's own logging, as an event and its facts; never anything personal."""

from __future__ import annotations

import logging
from typing import Any


class Logger:
    """`log.warning("relay-waits", step="send")` becomes `relay-waits step=send`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"consent_ledger_client.{name}")

    def _log(self, level: int, event: str, facts: dict[str, Any]) -> None:
        error = facts.pop("exc_info", None)
        if error is not None:
            facts["exception"] = type(error).__name__  # its text may quote what a person typed
        self._logger.log(level, "%s", " ".join([event, *(f"{name}={value}" for name, value in facts.items())]))

    def info(self, event: str, **facts: Any) -> None:
        self._log(logging.INFO, event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._log(logging.WARNING, event, facts)

    def error(self, event: str, **facts: Any) -> None:
        self._log(logging.ERROR, event, facts)


def logger(name: str) -> Logger:
    return Logger(name)
