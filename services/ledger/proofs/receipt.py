"""Receipts and histories in their JSON forms: what was read from the log, put together for people and verifiers.

Formats: docs/formats.md §15 and §17. Bytes are never altered on the way; a statement travels as the bytes that were
hashed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from services.ledger import record as records
from services.ledger.proofs.history import History, Proven
from services.ledger.reader.proof import format_proof
from services.ledger.reader.strict import encode_base64url
from shared import erasure_key
from shared.events import Statement

FORMAT: Final = "consent-ledger/receipt/1"
KEY_SIZE: Final = 16
RECEIPTED_TYPES: Final = records.RECORDED_TYPES | records.ERASURE_TYPES.keys()
"""The statements that have receipts: whatever a person said, or an erasure did."""


@dataclass(frozen=True)
class Snapshot:
    """A register snapshot: its bytes, whose SHA-256 statements name, and what they say."""

    raw: bytes

    @cached_property
    def content(self) -> Mapping[str, Any]:
        return records.parse_snapshot(self.raw)

    @cached_property
    def version(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()


def receipt(history: History, snapshot: Snapshot) -> dict[str, Any]:
    """The receipt of the one statement in `history`; raises NoRecord if there is none of its kind."""
    [entry] = history.entries
    return {
        "format": FORMAT,
        "origin": history.log.origin,
        "shard": history.log.shard,
        "index": str(entry.index),
        "leaf": encode_base64url(entry.leaf),
        "statement": encode_base64url(entry.raw),
        "pin": entry.pin.hex(),
        "opening": entry.opening.hex(),
        "proof": proof(history).decode(),
        "vkey": history.log.vkey,
        "fresh_vkey": history.log.fresh_vkey,
        "register": snapshot.raw.decode(),
        "record": records.record(entry.statement, snapshot.content),
    }


def proof(history: History) -> bytes:
    """The C2SP tlog-proof of the one statement in `history`."""
    [entry] = history.entries
    return format_proof(entry.index, entry.hashes, history.note.encode())


def opens(statement: Statement, key: str) -> bool:
    """Whether this key opens the receipt of this statement; in constant time.

    Most carry the hash of a key of 16 bytes; a request that of the token in its confirmation mail, which is as secret.
    The order of an erasure carries none: its id is made from the key.
    """
    if statement.type == "ErasureOrdered":
        return opens_order(statement.id, key)
    hashed = getattr(statement.data, "receipt_key_hash", None)
    raw: bytes | None = key.encode("ascii", "replace")
    if hashed is None:
        hashed = getattr(statement.data, "token_hash", None)
    else:
        raw = _decoded(key)
    given = hashlib.sha256(raw or b"").hexdigest()
    return hmac.compare_digest(given, hashed or "-" * 64) and None not in {raw, hashed}


def opens_order(order: str, key: str) -> bool:
    """Whether this key opens the order of an erasure with this id, or did while it could be read."""
    raw = _decoded(key)
    return raw is not None and erasure_key.is_key_of(order, raw)


def _decoded(key: str) -> bytes | None:
    """The 16 bytes of a capability; None of any other length or spelling opens anything."""
    try:
        raw = base64.urlsafe_b64decode(key.encode("ascii") + b"=" * (-len(key) % 4))
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == KEY_SIZE and encode_base64url(raw) == key else None


def belong_together(one: Statement, other: Statement) -> bool:
    """Whether the key of one opens the receipt of the other, both being of one subject: they are of one act or of the
    erasure by one request, one follows the other, or both follow the same."""
    if one.id == other.id or one.data.act == other.data.act:
        return True
    request = getattr(one.data, "request", None)
    if request is not None and request == getattr(other.data, "request", None):
        return True
    mine, theirs = ({said.id, *getattr(said.data, "follows", [])} for said in (one, other))
    return not mine.isdisjoint(theirs)


def history_json(history: History) -> dict[str, Any]:
    """The answer of GET /ledger/subjects/{subject}/history."""
    return {
        "origin": history.log.origin,
        "shard": history.log.shard,
        "subject": history.subject,
        "checkpoint": history.note,
        "vkey": history.log.vkey,
        "fresh_vkey": history.log.fresh_vkey,
        "entries": [entry_json(entry) for entry in history.entries],
    }


def entry_json(entry: Proven) -> dict[str, Any]:
    """One statement with all that ties it to the log."""
    return {
        "index": str(entry.index),
        "matter": entry.matter,
        "overtaken": entry.overtaken,
        "leaf": encode_base64url(entry.leaf),
        "statement": encode_base64url(entry.raw),
        "pin": entry.pin.hex(),
        "opening": entry.opening.hex(),
        "hashes": [encode_base64url(one) for one in entry.hashes],
    }


def to_bytes(value: Mapping[str, Any]) -> bytes:
    """A receipt as the file people keep."""
    return json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n"
