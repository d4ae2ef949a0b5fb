"""Structured logs without personal data: one JSON object per line on standard error.

What a third party's logger says is reduced to its template, because arguments and exception texts may quote
what a person typed; an exception is logged as its type and the places in our own code it passed.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

import structlog

_ROOT: Final = str(Path(__file__).resolve().parent.parent)
_OURS: Final = tuple(f"{_ROOT}/{folder}/" for folder in ("services", "shared", "infra"))
_FRAMES: Final = 12


def frames(error: BaseException) -> list[str]:
    """Where an exception passed through our own code, innermost last, as `file:line`; never its arguments."""
    return [
        f"{frame.filename[len(_ROOT) + 1 :]}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(_OURS)
    ][-_FRAMES:]


def facts_of(error: BaseException) -> dict[str, Any]:
    """An exception as log fields: its type, our frames, and the same for what a group holds."""
    facts: dict[str, Any] = {"exception": type(error).__qualname__, "at": frames(error)}
    if isinstance(error, BaseExceptionGroup):
        facts["of"] = [facts_of(inner) for inner in error.exceptions]
    return facts


def _without_arguments(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    elif isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event.update(facts_of(error))
    return event


class _Foreign(logging.Handler):
    """Other people's log records, as template and exception type only."""

    def emit(self, record: logging.LogRecord) -> None:
        # asyncio writes whole reprs, exception texts included, into the message itself.
        message = str(record.msg) if record.name != "asyncio" else "see exception"
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields.update(facts_of(record.exc_info[1]))
        structlog.get_logger("shared.logs").log(record.levelno, message.splitlines()[0] if message else "", **fields)


def configure(level: str, process: str) -> None:
    """Once per process, before anything logs."""

    def named(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = process
        return event

    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            named,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_arguments,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),  # the stream of that moment
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Foreign()]
    root.setLevel(max(number, logging.WARNING))


def logger(name: str) -> Any:
    """A logger whose calls take an event name and keyword facts: `log.info("sent", count=3)`."""
    return structlog.get_logger(component=name)
