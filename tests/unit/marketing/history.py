"""What is recorded of a person, as marketing's follower is given it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from shared.clock import millis, rfc3339
from shared.events import Statement, encode, parse
from shared.follower import Recorded
from shared.identifiers import subject_id, uuid7
from shared.wire import RecordedValue

GOLDEN: Final = Path(__file__).parents[2] / "contracts" / "golden"
NOON: Final = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
NEWSLETTER: Final = "purpose:newsletter/email"


def person(shard: int = 0) -> str:
    return subject_id(shard, NOON, os.urandom)


def said(subject: str, name: str, second: float = 0.0, **data: Any) -> Statement:
    """A statement of this type at noon and so many seconds; None leaves a field out."""
    document = json.loads((GOLDEN / f"{name}.1.json").read_bytes())
    changed = {"purpose": "newsletter", **data} if "purpose" in document["data"] else data
    merged = {key: value for key, value in {**document["data"], **changed}.items() if value is not None}
    at = NOON + timedelta(seconds=second)
    head = {"id": uuid7(at, os.urandom), "subject": subject, "time": rfc3339(at)}
    return parse(json.dumps({**document, **head, "data": merged}).encode())


def given(subject: str, second: float = 0.0, purpose: str = "newsletter", **data: Any) -> Statement:
    return said(subject, "ConsentGiven", second, purpose=purpose, **data)


def withdrawn(subject: str, second: float = 0.0, purpose: str = "newsletter") -> Statement:
    return said(subject, "ConsentWithdrawn", second, purpose=purpose)


def withdrawn_all(subject: str, second: float = 0.0) -> Statement:
    return said(subject, "ConsentWithdrawn", second, scope="everything", purpose=None, channel=None)


def value(statement: Statement | None, index: int, shard: int = 0, at: datetime = NOON) -> RecordedValue:
    """As it travels on the topic; None is a MAP_ROOT."""
    if statement is None:
        return RecordedValue(shard, index, b"\x02" + bytes(56), b"")
    return RecordedValue(shard, index, b"\x01" + bytes(80) + millis(at).to_bytes(8, "big"), encode(statement))


def recorded(statement: Statement | None, index: int, shard: int = 0, at: datetime = NOON) -> Recorded:
    return Recorded.read(value(statement, index, shard, at).encode())
