"""What arrives on `consent.recorded`, read: leaves with their statements, and heartbeats."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal

from shared import events
from shared.errors import Corrupt
from shared.events import Statement
from shared.wire import MalformedRecord, RecordedValue

_parsed = lru_cache(maxsize=2048)(events.parse)
"""Several followers in one process read the same statements at about the same time; a statement never changes."""

Kind = Literal["event", "map_root", "erasure"]

_KINDS: Final[Mapping[tuple[int, int], Kind]] = {(1, 89): "event", (2, 57): "map_root", (3, 89): "erasure"}


@dataclass(frozen=True, slots=True)
class Recorded:
    """One leaf of one log. `statement` is None for other leaves than events, and for an event that was erased."""

    shard: int
    index: int
    leaf: bytes
    kind: Kind
    recorded_at: int | None
    """Milliseconds since 1970, of events and erasures."""
    statement: Statement | None
    raw: bytes
    """The statement's bytes as stated; empty where there is none."""

    @classmethod
    def read(cls, value: bytes) -> Recorded:
        """Raises MalformedRecord for a wrong layout. Corrupt for a leaf or statement we do not know: a follower
        that skipped it might act against what it says, so it stops until it is brought up to date."""
        record = RecordedValue.decode(value)
        kind = _KINDS.get((record.leaf[0], len(record.leaf)))
        where = f"{record.shard}/{record.index}"
        if kind is None:
            raise Corrupt("a leaf of unknown type or length", where)
        if kind != "event" and record.statement:
            raise MalformedRecord
        statement = None
        if record.statement:
            try:
                statement = _parsed(record.statement)
            except events.Malformed:
                raise Corrupt("a recorded statement that this version cannot read", where) from None
        recorded_at = None if kind == "map_root" else int.from_bytes(record.leaf[81:89], "big")
        return cls(record.shard, record.index, record.leaf, kind, recorded_at, statement, record.statement)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The publisher's word of a shard: the newest checkpoint and, per source, the mark it had read before that."""

    shard: int
    size: int
    root: bytes
    checkpoint: str
    marks: Mapping[str, str]
    """Per source `all_before` as RFC 3339: everything it accepted earlier is within `size`."""
    received_at: datetime

    @classmethod
    def read(cls, value: bytes, received_at: datetime) -> Heartbeat:
        """Raises MalformedRecord."""
        try:
            document = json.loads(value)
            checkpoint = document["checkpoint"]
            _origin, size, root = checkpoint.split("\n", 3)[:3]
            marks = {str(source): str(mark) for source, mark in document["marks"].items()}
            return cls(
                int(document["shard"]), int(size), base64.b64decode(root, validate=True), checkpoint, marks, received_at
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise MalformedRecord from None
