"""The bytes around a statement on the two topics: headers, message authentication, the recorded value.

Formats: docs/formats.md, "Topics". Keys come as files to every process that needs one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from dataclasses import dataclass
from typing import Final

CONTENT_TYPE: Final = b"application/cloudevents+json; charset=UTF-8"
STATED: Final = b"consent-ledger/v1/stated"
ALIVE: Final = b"consent-ledger/v1/alive"
RECORDED: Final = b"consent-ledger/v1/recorded"
_RECORDED_HEAD: Final = struct.Struct(">IQH")

Headers = list[tuple[str, bytes]]


class MalformedRecord(Exception):
    """A value on `consent.recorded` does not have the layout of docs/formats.md."""


def _mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"\x00".join(parts), hashlib.sha256).hex().encode("ascii")


def stated_mac(key: bytes, origin: str, sequence: int, value: bytes) -> bytes:
    """HMAC(source key, domain || 00 || origin || 00 || sequence u64 || bytes), as 64 lower-case hex digits."""
    return _mac(key, STATED, origin.encode(), sequence.to_bytes(8, "big") + value)


def alive_mac(key: bytes, origin: str, sequence: int, value: bytes) -> bytes:
    """As `stated_mac`, for the control message that says up to when everything a source accepted is sealed."""
    return _mac(key, ALIVE, origin.encode(), sequence.to_bytes(8, "big") + value)


def recorded_mac(key: bytes, origin: str, kind: str, value: bytes) -> bytes:
    """HMAC(publisher key, domain || 00 || origin || 00 || kind || 00 || value), as 64 lower-case hex digits."""
    return _mac(key, RECORDED, origin.encode(), kind.encode(), value)


def mac_holds(expected: bytes, received: bytes | None) -> bool:
    """Constant-time comparison; an absent MAC never holds."""
    return received is not None and hmac.compare_digest(expected, received)


def stated_headers(kind: str, sequence: int, key_id: str, mac: bytes) -> Headers:
    """Headers of a message on `consent.stated`: kind is `statement` or `alive`."""
    headers: Headers = [("kind", kind.encode())]
    if kind == "statement":
        headers.append(("content-type", CONTENT_TYPE))
    return [*headers, ("sequence", str(sequence).encode()), ("mac-key", key_id.encode()), ("mac", mac)]


def recorded_headers(kind: str, mac: bytes) -> Headers:
    """Headers of a message on `consent.recorded`: kind is `leaf` or `heartbeat`."""
    return [("kind", kind.encode()), ("mac", mac)]


@dataclass(frozen=True, slots=True)
class RecordedValue:
    """shard u32 || index u64 || leaf length u16 || leaf || statement bytes (empty unless an EVENT's)."""

    shard: int
    index: int
    leaf: bytes
    statement: bytes

    def encode(self) -> bytes:
        return _RECORDED_HEAD.pack(self.shard, self.index, len(self.leaf)) + self.leaf + self.statement

    @classmethod
    def decode(cls, value: bytes) -> RecordedValue:
        if len(value) < _RECORDED_HEAD.size:
            raise MalformedRecord
        shard, index, length = _RECORDED_HEAD.unpack_from(value)
        leaf = value[_RECORDED_HEAD.size : _RECORDED_HEAD.size + length]
        if length == 0 or len(leaf) != length:
            raise MalformedRecord
        return cls(shard, index, leaf, value[_RECORDED_HEAD.size + length :])


def alive_value(source: str, shard: int, sequence: int, all_before: str) -> bytes:
    """The control message a relay sends once a second: everything it accepted before `all_before` is sealed."""
    return json.dumps(
        {"source": source, "shard": shard, "sequence": str(sequence), "all_before": all_before}, separators=(",", ":")
    ).encode()


def heartbeat_value(shard: int, checkpoint: str, marks: dict[str, str]) -> bytes:
    """The control message the publisher sends: the newest checkpoint note and the newest mark of each source."""
    return json.dumps({"shard": shard, "checkpoint": checkpoint, "marks": marks}, separators=(",", ":")).encode()
