"""Receipts and histories in their JSON forms: what was read from the log, put together for people and verifiers.

Formats: docs/formats.md §15 and §17. Bytes are never altered on the way; a statement travels as the bytes that were
hashed.
"""

from __future__ import annotations

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

FORMAT: Final = "consent-ledger/receipt/1"


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


def opens(history: History, key: bytes) -> bool:
    """Whether this key opens the receipt of the one statement in `history`; in constant time."""
    [entry] = history.entries
    expected = getattr(entry.statement.data, "receipt_key_hash", None)
    return hmac.compare_digest(hashlib.sha256(key).hexdigest(), expected or "-" * 64) and expected is not None


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
