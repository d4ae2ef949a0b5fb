"""docs/asyncapi.json: what stands there is what the code writes, and every message we have describes itself by it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft7Validator

from shared import topics, wire
from shared.asyncapi import DOCUMENT, as_file
from shared.events import DATA_TYPES

GOLDEN: Final = Path(__file__).with_name("golden")
COMMITTED: Final[dict[str, Any]] = json.loads(DOCUMENT.read_text("utf-8"))


def errors(schema: dict[str, Any], value: object) -> list[str]:
    """What is wrong with a value under a schema of the document."""
    whole = {**schema, "components": COMMITTED["components"]}
    Draft7Validator.check_schema(whole)
    return [error.message for error in Draft7Validator(whole).iter_errors(value)]


def message(name: str) -> dict[str, Any]:
    found: dict[str, Any] = COMMITTED["components"]["messages"][name]
    return found


def headers(written: wire.Headers) -> dict[str, str]:
    return {name: value.decode("ascii") for name, value in written}


def test_the_document_is_what_the_code_says() -> None:
    assert DOCUMENT.read_bytes() == as_file(), "run `python -m shared.asyncapi` and commit it"


def test_every_reference_leads_somewhere() -> None:
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', DOCUMENT.read_text("utf-8")):
        place: Any = COMMITTED
        for part in reference.split("/"):
            place = place[part]


def test_both_topics_and_every_type_are_in_it() -> None:
    channels = {channel["address"]: channel for channel in COMMITTED["channels"].values()}
    assert channels.keys() == {topics.STATED, topics.RECORDED}
    assert channels[topics.STATED]["messages"].keys() == {*(f"{name}{n}" for name, n in DATA_TYPES), "alive"}
    assert channels[topics.RECORDED]["messages"].keys() == {"leaf", "heartbeat"}
    for channel in channels.values():
        kept = channel["bindings"]["kafka"]["topicConfiguration"]
        assert str(kept["retention.ms"]) == topics.CONFIG["retention.ms"]
        assert ",".join(kept["cleanup.policy"]) == topics.CONFIG["cleanup.policy"]


@pytest.mark.parametrize(("name", "version"), DATA_TYPES)
def test_a_published_statement_is_its_own_message_and_no_other(name: str, version: int) -> None:
    golden = json.loads((GOLDEN / f"{name}.{version}.json").read_bytes())
    fits = {f"{other}{n}" for other, n in DATA_TYPES if not errors(message(f"{other}{n}")["payload"], golden)}
    assert fits == {f"{name}{version}"}
    for wrong in ({**golden, "more": 1}, {**golden, "data": {**golden["data"], "more": 1}}, {**golden, "id": "x"}):
        assert errors(message(f"{name}{version}")["payload"], wrong)
    key = message(f"{name}{version}")["bindings"]["kafka"]["key"]
    assert errors(key, golden["subject"]) == []
    assert errors(key, "somebody@example.org")


def test_a_word_that_needs_another_is_refused_without_it() -> None:
    golden = json.loads((GOLDEN / "MessageSent.1.json").read_bytes())
    assert "permit" in golden["data"]
    del golden["data"]["permit"]
    assert errors(message("MessageSent1")["payload"], golden)


def test_marks_and_headers_are_as_the_code_writes_them() -> None:
    mac = wire.stated_mac(b"key", "log.example.org/ledger/log/0", 7, b"{}")
    for kind in ("statement", "alive"):
        schema = message("alive" if kind == "alive" else "ConsentGiven1")["headers"]
        written = headers(wire.stated_headers(kind, 7, "newsletter.1", mac))
        assert errors(schema, written) == []
        assert all(errors(schema, {**written, name: "?"}) for name in written)
        assert all(errors(schema, {n: v for n, v in written.items() if n != name}) for name in written)
    for kind in ("leaf", "heartbeat"):
        assert errors(message(kind)["headers"], headers(wire.recorded_headers(kind, mac))) == []
    alive = json.loads(wire.alive_value("newsletter", 0, 17, "2020-02-05T09:30:00.000Z"))
    beat = json.loads(wire.heartbeat_value(0, "a note", {"newsletter": "2020-02-05T09:30:00.000Z"}))
    assert errors(message("alive")["payload"], alive) == errors(message("heartbeat")["payload"], beat) == []
    assert errors(message("alive")["payload"], {**alive, "sequence": 17})
    assert errors(message("heartbeat")["payload"], {**beat, "marks": {"NEWS": "now"}})
