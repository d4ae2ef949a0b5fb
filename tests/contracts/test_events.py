"""Every published version of every statement type keeps its golden bytes, its schema and its meaning."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator

from shared.events import DATA_TYPES, encode, matter_of, parse
from shared.events.schemas import DIRECTORY, files

FORMATS: Final = Path(__file__).resolve().parents[2] / "docs/formats.md"
GOLDEN: Final = Path(__file__).with_name("golden")

# Published bytes never change: a new shape is a new version with a line of its own.
PUBLISHED: Final = {
    "NoticePublished.1.json": "358dd52f89b924be52207144810b741f6ebc91cb8beb9e00bec4c54b1bbdb158",
    "ConsentRequested.1.json": "a0f023ce738b6351b38955ef075ce99067a2ee43d660a408dbf2136b85dac7c6",
    "ConsentGiven.1.json": "08f2b3185e87e4b4134317fdd6d6969cab402ec56c8174bb00dbfaff1b242659",
    "ConsentRefused.1.json": "3b10f6f6311833757622dd91a485ff791ed2a8b4e28d385ac1670145a02172f8",
    "ConsentWithdrawn.1.json": "39d0edc2a888abcb6b13b3ffad7c061a36b448b78dd0762c71800e02f77dde46",
    "ConsentExpired.1.json": "ca9cf77c85b8fa34be266729ab2e2791db7be3cf2e516d7de945ff30216e7045",
    "ConsentUsed.1.json": "75fb72fdf0809c6034da27e3c189794bc1626c5061485f08153a44b90460d9f2",
    "MessageSent.1.json": "0e9765f7b8b8dea5199b3a9c20f1307e0c07768514c04012b548ba77d25b43f8",
    "RetentionExecuted.1.json": "7fb2298d48f1566f864178a52ae05e9846fb0a75ae25eb3d5bd938f004a9bb86",
    "ErasureOrdered.1.json": "c98cb6fabe86890082f8e9c3d976e1a2a8ebb1d20ff5d8ab76e125d6c63edb8c",
    "ErasureHeld.1.json": "09077234614e40af232dfa6e7a7284fdb85cfa80a7cc95eaa3af23d7c13ceb6f",
    "DataErased.1.json": "2b32e820c142ce26b324430e2661680bcafb974f7af5b2732831ff6c86b61fe0",
    "ErasureCompleted.1.json": "7a13f37f704b957a22ee50b369d19619698f700de083e30f8cf7adc9ac6b2993",
    "RecordAccessed.1.json": "98ffcd318838c9a40c0c6dbc1c8eefede6f14842358446dd221cc3a67e573b90",
}

MATTERS: Final = {
    "NoticePublished.1.json": "notice:9368a7d21e018f64ae3327d2f25cd4d7693b2d85328e4bb680bcfcbd4c26b90e",
    "ConsentRequested.1.json": "ask:newsletter/email",
    "ConsentGiven.1.json": "purpose:newsletter/email",
    "ConsentRefused.1.json": "ask:newsletter-measurement/email",
    "ConsentWithdrawn.1.json": "purpose:newsletter/email",
    "ConsentExpired.1.json": "ask:newsletter/email",
    "ConsentUsed.1.json": "use:newsletter/email",
    "MessageSent.1.json": "use:newsletter/email",
    "RetentionExecuted.1.json": "data:newsletter",
    "ErasureOrdered.1.json": "request:01a20320-a209-7d4e-8f50-0000000000aa",
    "ErasureHeld.1.json": "request:01a20320-a209-7d4e-8f50-0000000000aa",
    "DataErased.1.json": "request:01a20320-a209-7d4e-8f50-0000000000aa",
    "ErasureCompleted.1.json": "request:01a20320-a209-7d4e-8f50-0000000000aa",
    "RecordAccessed.1.json": "access:newsletter",
}


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((DIRECTORY / name).read_bytes())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_example_in_the_documents_is_a_statement() -> None:
    (example,) = re.findall(r'^\{"specversion".*\}$', FORMATS.read_text("utf-8"), re.MULTILINE)
    assert encode(parse(example.encode())).decode() == example


def test_every_type_and_version_has_one_golden_file() -> None:
    expected = {f"{name}.{version}.json" for name, version in DATA_TYPES}
    assert {path.name for path in GOLDEN.iterdir()} == expected == set(PUBLISHED) == set(MATTERS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_bytes_are_the_published_ones(name: str) -> None:
    assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_golden_statement_is_read_and_written_to_the_same_bytes(name: str) -> None:
    raw = (GOLDEN / name).read_bytes()
    statement = parse(raw)
    assert f"{statement.type}.{statement.dataschema.rsplit('/', 1)[1]}.json" == name
    assert encode(statement) == raw


@pytest.mark.parametrize("name", MATTERS)
def test_a_golden_statement_keeps_its_matter(name: str) -> None:
    assert matter_of(parse((GOLDEN / name).read_bytes())) == MATTERS[name]


def test_schemas_are_current_and_no_other_file_pretends_to_be_one() -> None:
    assert {path: path.read_bytes() for path in DIRECTORY.glob("*.json")} == files()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_golden_statement_obeys_its_schema(name: str) -> None:
    assert list(validator(name).iter_errors(json.loads((GOLDEN / name).read_bytes()))) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_schema_refuses_what_the_models_refuse(name: str) -> None:
    golden: dict[str, Any] = json.loads((GOLDEN / name).read_bytes())
    check = validator(name)
    for broken in (
        {**golden, "surprise": 1},
        {**golden, "type": "Other"},
        {**golden, "dataschema": "consent-ledger/Other/1"},
        {**golden, "data": {**golden["data"], "surprise": 1}},
        {**golden, "data": {**golden["data"], "act": 7}},
        {key: value for key, value in golden.items() if key != "specversion"},
        {**golden, "data": {**golden["data"], "sealed": {"open": {"ciphertext": "AAAA", "key_hash": "0" * 64}}}},
    ):
        assert not check.is_valid(broken)


def test_the_schema_of_a_withdrawal_knows_that_everything_names_no_purpose() -> None:
    golden = json.loads((GOLDEN / "ConsentWithdrawn.1.json").read_bytes())
    check = validator("ConsentWithdrawn.1.json")
    everything = {key: value for key, value in golden["data"].items() if key not in {"purpose", "channel"}}
    assert check.is_valid({**golden, "data": {**everything, "scope": "everything"}})
    assert not check.is_valid({**golden, "data": {**golden["data"], "scope": "everything"}})
    assert not check.is_valid({**golden, "data": everything})
