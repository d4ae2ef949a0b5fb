"""Whatever arrives, checking it gives one answer and never an error: a shard must not stop because of a message."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example
from hypothesis import given as whatever
from hypothesis import strategies as st

from services.ledger.check import Alive, Check, Reject, Stated, admission
from shared.clock import utc_now
from shared.kafka import Message
from shared.wire import alive_mac, stated_mac
from tests.integration.ledger.world import REGISTER, given, new_subject, requested, withdrawn

KEY = bytes(range(32))
ORIGIN = "test.example.org/ledger/log/0"
CHECK = Check(0, ORIGIN, {"newsletter.1": KEY}, admission(REGISTER))
SUBJECT = new_subject()
SAID = [given(SUBJECT), requested(SUBJECT), withdrawn(SUBJECT), withdrawn(SUBJECT, purpose=None)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def message(value: bytes, headers: dict[str, bytes]) -> Message:
    return Message(partition=0, offset=0, key=None, value=value, headers=headers)


def proven(value: bytes, kind: str = "statement") -> dict[str, bytes]:
    make = alive_mac if kind == "alive" else stated_mac
    mac = make(KEY, ORIGIN, 1, value)
    return {"kind": kind.encode(), "sequence": b"1", "mac-key": b"newsletter.1", "mac": mac}


def check(value: bytes, headers: dict[str, bytes]) -> Stated | Alive | Reject:
    (answer,) = CHECK.messages([message(value, headers)], utc_now())
    return answer


@whatever(st.binary(max_size=400), st.sampled_from(["statement", "alive"]))
@example(b"[" * 32_000, "statement")
@example(b'{"a":' * 6_000, "statement")
@example(b'{"specversion":"\\ud800"}', "statement")
@example(b'{"specversion":1e999999}', "alive")
def test_any_authentic_bytes_get_an_answer(value: bytes, kind: str) -> None:
    answer = check(value, proven(value, kind))
    assert isinstance(answer, Reject)
    assert (answer.source is None) == (kind == "alive")


@whatever(st.dictionaries(st.sampled_from(["kind", "sequence", "mac-key", "mac", "x"]), st.binary(max_size=80)))
def test_any_headers_get_an_answer_and_prove_nothing(headers: dict[str, bytes]) -> None:
    answer = check(SAID[0], headers)
    assert isinstance(answer, Reject)
    assert answer.source is None


@whatever(st.sampled_from(SAID), st.data())
def test_a_statement_with_anything_in_any_place_is_a_statement_or_a_reject(raw: bytes, data: st.DataObject) -> None:
    document: dict[str, Any] = json.loads(raw)
    place: dict[str, Any] = document
    if data.draw(st.booleans()):
        place = document["data"]
    name = data.draw(st.sampled_from([*place, "more"]))
    if data.draw(st.booleans()):
        place[name] = data.draw(JSON)
    else:
        place.pop(name, None)
    changed = json.dumps(document).encode()
    answer = check(changed, proven(changed))
    assert isinstance(answer, Stated | Reject)
    assert answer.source == "newsletter"


@whatever(st.sampled_from(SAID), st.integers(0, 10_000), st.integers(1, 255))
def test_a_statement_with_one_byte_changed_is_not_authentic(raw: bytes, at: int, by: int) -> None:
    changed = bytearray(raw)
    changed[at % len(raw)] ^= by
    answer = check(bytes(changed), proven(raw))
    assert isinstance(answer, Reject)
    assert (answer.reason, answer.source) == ("mac-does-not-hold", None)


def test_what_it_is_meant_for_passes() -> None:
    for raw in SAID:
        answer = check(raw, proven(raw))
        assert isinstance(answer, Stated)
        assert answer.raw == raw
