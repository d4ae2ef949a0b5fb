"""Stage 2: what one message on consent.stated is, judged by its own bytes: statement, mark, or reject with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple

from shared.clock import parse_rfc3339, rfc3339
from shared.events import MAX_STATEMENT_BYTES, Malformed, Statement, parse
from shared.events.envelope import strict_json
from shared.identifiers import SOURCE_PATTERN, SYSTEM_SUBJECT, shard_of
from shared.kafka import Message
from shared.register import NotInRegister, Register
from shared.wire import alive_mac, mac_holds, stated_mac

AHEAD_OF_US: Final = timedelta(minutes=2)
MARK_AHEAD_OF_US: Final = timedelta(seconds=5)

ERASING: Final = frozenset({"ErasureOrdered", "ErasureHeld", "ErasureCompleted"})

Admission = Callable[[Statement], str | None]
"""What the register says to a statement: None, or the reason it does not accept it."""

_About = tuple[str, str] | None  # purpose and channel
_Shown = tuple[str, str] | None  # a notice's hash and language

_DECIMAL: Final = re.compile(rb"(0|[1-9][0-9]{0,18})\Z")
_KEY_ID: Final = re.compile(rf"({SOURCE_PATTERN})\.[1-9][0-9]{{0,8}}\Z".encode())
_MAX_SEQUENCE: Final = 2**63 - 1


class Stated(NamedTuple):
    """A statement that is well formed, authentic and admitted. Whether it is new is not known here."""

    offset: int
    source: str
    sequence: int
    """0: stated over HTTP or played again, so nobody counts on it; never a gap, always looked up, always judged anew"""
    raw: bytes
    statement_hash: bytes
    statement: Statement

    def rejected(self, reason: str) -> Reject:
        """The same message as one that cannot be recorded after all."""
        return Reject(self.offset, reason, self.raw, self.statement_hash, self.source, self.sequence, self.statement.id)


@dataclass(frozen=True, slots=True)
class Alive:
    """Everything `source` accepted before `all_before` is sealed."""

    source: str
    sequence: int
    all_before: datetime


@dataclass(frozen=True, slots=True)
class Reject:
    """A message that cannot be recorded. Only with a source was it proven who sent it: then it counts as arrived."""

    offset: int
    reason: str
    raw: bytes
    statement_hash: bytes
    source: str | None = None
    sequence: int | None = None
    statement_id: str | None = None


class Check:
    """The rules for one shard; pure but for the keys and the register it is given."""

    def __init__(self, shard: int, origin: str, source_keys: Mapping[str, bytes], admission: Admission) -> None:
        self._shard = shard
        self._origin = origin
        self._keys = {
            key_id.encode("ascii"): (_source_of(key_id.encode("ascii")), key) for key_id, key in source_keys.items()
        }
        self._admission = admission

    def messages(self, messages: list[Message], now: datetime) -> list[Stated | Alive | Reject]:
        """One answer for each message, in order; `now` becomes the batch's recorded_at, or is before it."""
        latest = rfc3339(now + AHEAD_OF_US)
        return [self._message(message, latest, now) for message in messages]

    def _message(self, message: Message, latest: str, now: datetime) -> Stated | Alive | Reject:
        headers, raw = message.headers, message.value
        kind = headers.get("kind")
        if kind == b"alive":
            return self._alive(message, now)
        hashed = sha256(raw).digest()

        def unproven(reason: str) -> Reject:
            return Reject(message.offset, reason, raw, hashed)

        if kind != b"statement":
            return unproven("unknown-kind")
        proven = self._proven(headers, raw)
        if isinstance(proven, str):
            return unproven(proven)
        source, sequence = proven

        # From here on the sender is known: whatever is wrong counts as arrived, so that it blocks nobody.
        judged, statement_id = self._statement(source, raw, latest)
        if isinstance(judged, str):
            return Reject(message.offset, judged, raw, hashed, source, sequence, statement_id)
        return Stated(message.offset, source, sequence, raw, hashed, judged)

    def _statement(self, source: str, raw: bytes, latest: str) -> tuple[Statement | str, str | None]:
        """The statement, or the reason against it; and its id, as far as it could be read."""
        if not raw:
            return "empty", None
        if len(raw) > MAX_STATEMENT_BYTES:
            return "too-large", None
        try:
            statement = parse(raw)
        except Malformed as malformed:
            return malformed.reason, None
        reason = None
        if statement.source != source:
            reason = "source-is-not-the-key's"
        elif shard_of(statement.subject) != self._shard:
            reason = "wrong-shard"
        elif statement.time > latest:
            reason = "time-in-the-future"
        return reason or self._admission(statement) or statement, statement.id

    def _proven(self, headers: Mapping[str, bytes], raw: bytes) -> tuple[str, int] | str:
        """Source and sequence that the MAC proves, or the reason why it proves nothing."""
        key_id = headers.get("mac-key", b"")
        known = self._keys.get(key_id)
        if known is None:
            return "unknown-key"
        source, key = known
        number = headers.get("sequence", b"")
        if not _DECIMAL.match(number) or int(number) > _MAX_SEQUENCE:
            return "no-sequence"
        sequence = int(number)
        if not mac_holds(stated_mac(key, self._origin, sequence, raw), headers.get("mac")):
            return "mac-does-not-hold"
        return source, sequence

    def _alive(self, message: Message, now: datetime) -> Alive | Reject:
        headers, raw = message.headers, message.value

        key_id = headers.get("mac-key", b"")

        def unproven(reason: str) -> Reject:
            # One kind of reject per key, not per mark: a source with a wrong key sends another mark every second.
            return Reject(message.offset, reason, raw, sha256(b"alive\x00" + key_id).digest())

        known = self._keys.get(key_id)
        if known is None:
            return unproven("unknown-key")
        source, key = known
        number = headers.get("sequence", b"")
        if not _DECIMAL.match(number) or int(number) > _MAX_SEQUENCE:
            return unproven("no-sequence")
        if not mac_holds(alive_mac(key, self._origin, int(number), raw), headers.get("mac")):
            return unproven("mac-does-not-hold")
        try:
            mark = strict_json(raw)
            all_before = parse_rfc3339(mark["all_before"])
            fits = mark == {
                "source": source,
                "shard": self._shard,
                "sequence": number.decode("ascii"),
                "all_before": mark["all_before"],
            }
        except (Malformed, ValueError, TypeError, KeyError):
            return unproven("malformed-mark")
        # A mark from the future would make every permit look fresh for as long as it lies ahead.
        if not fits or all_before > now + MARK_AHEAD_OF_US:
            return unproven("malformed-mark")
        return Alive(source, int(number), all_before)


def admission(register: Register) -> Admission:
    """The register's word: who may state what for which activity, and which purposes and notices there are."""

    @lru_cache(maxsize=4096)  # of the few that are ever said, nearly every statement is a repetition
    def judged(source: str, kind: str, activity: str, about: _About, shown: _Shown) -> str | None:
        if not register.may_state(source, kind, activity):
            return "source-may-not-state-this"
        if about is not None and not _is_asked(register, activity, *about):
            return "unknown-purpose"
        if shown is not None:
            notice = register.notice_by_hash(shown[0])
            if notice is None or (notice.activity, notice.language) != (activity, shown[1]):
                return "unknown-notice"
        return None

    def judge(statement: Statement) -> str | None:
        data = statement.data
        if statement.subject == SYSTEM_SUBJECT and statement.type in ERASING:
            return "nobody-to-erase"
        purpose, channel = getattr(data, "purpose", None), getattr(data, "channel", None)
        about = None if purpose is None or channel is None else (purpose, channel)
        notice = getattr(data, "notice", None)
        shown = None if notice is None else (notice.hash, notice.language)
        return judged(statement.source, statement.type, data.activity, about, shown)

    return judge


def _is_asked(register: Register, activity: str, purpose: str, channel: str) -> bool:
    try:
        register.activity(activity).purpose(purpose, channel)
    except NotInRegister:
        return False
    return True


def _source_of(key_id: bytes) -> str:
    match = _KEY_ID.match(key_id)
    if match is None:
        raise ValueError("a source key's id is <source>.<n>")
    return match[1].decode("ascii")
