"""Every published version of every statement type keeps its golden bytes, its schema and its meaning."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator

from shared.events import DATA_TYPES, Malformed, Statement, encode, matter_of, parse
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
    "NoticePublished.2.json": "dc5e019c46c2fcb08739b5d4f3e8c82a7c9a0e5666f040250aadb0ecaac591a4",
    "ConsentRequested.2.json": "4a1bcff4d7e4b284597e1efe74ea01a6bf07a9e9352a148e98f2faf18d6e0197",
    "ConsentGiven.2.json": "83ec75bde96b05a46d5ce1be43e0cfc08fceb3b046f1f994a10bde7a236c5fd5",
    "ConsentRefused.2.json": "cb582fc472da7e2c177bb8fd2d697d3eebaf98f08082b6e1ff3cc926e20f38de",
    "ConsentWithdrawn.2.json": "06c166498c3ec44b983752c350127a294505f3bf5443577205177c2090861f63",
    "ConsentExpired.2.json": "b164bd56c32ebd921b5b7e220ccfda2781a0a1749374ea447d391a33976e61d9",
    "ConsentUsed.2.json": "751c403605ad3b36345804fe18308e76c5cac3097bf8ef3aa52e96e2b3a4e529",
    "MessageSent.2.json": "5c52b310d6a8bc96ecfebf6c4bb180c9a3476c51ea221787cc0e7c7719c7e953",
    "RetentionExecuted.2.json": "e0ffcada9d69002e026822e85cd3309156b0f0d113a3ffb91ee50756a7f9913c",
    "ErasureOrdered.2.json": "2aa8db5a73f4ebb97ae6c36220965fa7071e4b87d6117450e9c28a791de1957a",
    "ErasureHeld.2.json": "e1b31febdda43b5c50930e30b200e43ce111431445c4297cee1651e61858bfc2",
    "DataErased.2.json": "0ec2fbc945b7bed143bcc4976c603bfc34bfa9d17f0a55b5eb3f7ef00b2e282f",
    "ErasureCompleted.2.json": "49ad28467a295c8036154922a0bfefb5c35e09a5a83cbf9a69b63d2690976d62",
    "RecordAccessed.2.json": "06d5c833ea8fa7ce76b92960e8b1914070730050add971625daf5e7a7f7e31f9",
}

_MATTERS: Final = {
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
MATTERS: Final = _MATTERS | {name.replace(".1.", ".2."): matter for name, matter in _MATTERS.items()}


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


@pytest.mark.parametrize("name", _MATTERS)
def test_version_2_is_version_1_and_the_software_that_states_it(name: str) -> None:
    first, second = (parse((GOLDEN / file).read_bytes()) for file in (name, name.replace(".1.", ".2.")))
    assert second.data.software == "consent-ledger 0.1.0 sha256:" + "5" * 64
    without = type(second.data).model_validate(second.data.model_dump(exclude={"software"}))
    told = {"id": second.id, "source": second.source, "subject": second.subject, "time": second.time}
    assert Statement.of(without, **told) == first


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("software", ["a program 7", None, "", "ä", "x\ny", "x" * 128, 7])
def test_software_stands_in_version_2_and_only_there(name: str, software: object) -> None:
    golden: dict[str, Any] = json.loads((GOLDEN / name).read_bytes())
    without = {member: value for member, value in golden["data"].items() if member != "software"}
    second = name.endswith(".2.json")
    for data, right in (
        (without, not second),
        ({**without, "software": software}, second and software == "a program 7"),
    ):
        changed = {**golden, "data": data}
        assert validator(name).is_valid(changed) == right
        raw = json.dumps(changed, separators=(",", ":")).encode()
        if right:
            assert parse(raw).data.software == data.get("software", "")
        else:
            with pytest.raises(Malformed, match="software"):
                parse(raw)


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
