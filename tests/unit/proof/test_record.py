"""The consent record: the sections and fields of ISO/IEC TS 27560, made of statement and register and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.ledger.record import PROFILE, NoRecord, parse_snapshot, record
from shared.events import parse
from shared.register import load
from tests.opt_in import OptIn

SNAPSHOT = parse_snapshot(load().snapshot())
GOLDEN = Path(__file__).parents[2] / "contracts" / "golden"


def of(name: str) -> dict[str, Any]:
    story = OptIn().play()
    return record(story.world.statements[story.indexes[name]], SNAPSHOT)


def test_it_has_the_mandatory_fields_of_all_four_sections() -> None:
    made = of("given")
    assert made["dct:conformsTo"] == PROFILE
    assert made["@type"] == "dpv:ConsentRecord"
    header = {"dct:conformsTo", "dct:identifier", "dpv:hasDataSubject"}
    processing = {"dpv:hasNotice", "dpv:hasProcess", "dpv:hasJurisdiction", "dpv:hasConsentControl", "dpv:hasRecipient"}
    parties = {"dpv:hasDataController", "dpv:hasAuthority"}
    assert header | processing | parties | {"dpv:hasConsentStatus"} <= set(made)
    [process] = made["dpv:hasProcess"]
    assert {"dpv:hasPurpose", "dpv:hasPersonalData", "dpv:hasStorageCondition"} <= set(process)
    controller = made["dpv:hasDataController"]
    assert {"dct:identifier", "dpv:hasName", "dpv:hasAddress", "dpv:hasContact", "@type"} <= set(controller)
    event = made["dpv:hasConsentStatus"]
    assert {"dpv:isIndicatedAtTime", "dpv:hasDuration", "dpv:isIndicatedBy", "@type"} <= set(event)


def test_a_consent_names_the_notice_that_was_shown_and_how_it_was_expressed() -> None:
    story = OptIn().play()
    statement = story.world.statements[story.indexes["given"]]
    made = record(statement, SNAPSHOT)
    [notice] = made["dpv:hasNotice"]
    assert notice["dct:identifier"] == f"sha256:{statement.data.notice.hash}"
    assert made["dpv:hasConsentStatus"]["@type"] == ["dpv:ConsentGiven", "dpv:ExplicitlyExpressedConsent"]
    assert made["dpv:hasConsentStatus"]["dct:relation"] == [f"urn:uuid:{one}" for one in statement.data.follows]


def test_its_rights_are_those_of_the_legal_basis_and_stand_in_the_order_of_the_law() -> None:
    rights = [one["@type"][1] for one in of("given")["dpv:hasRight"]]
    assert rights[0] == "eu-gdpr:A7-3"
    assert rights[-1] == "eu-gdpr:A77"
    assert "eu-gdpr:A20" in rights
    assert "eu-gdpr:A21" not in rights


def test_a_withdrawal_of_everything_names_every_purpose() -> None:
    raw = json.loads((GOLDEN / "ConsentWithdrawn.1.json").read_bytes())
    del raw["data"]["purpose"], raw["data"]["channel"]
    raw["data"]["scope"] = "everything"
    made = record(parse(json.dumps(raw).encode()), SNAPSHOT)
    assert [one["dct:identifier"] for one in made["dpv:hasProcess"]] == ["newsletter/email", "newsletter-clicks/email"]


def test_every_prefix_it_uses_stands_in_its_context() -> None:
    made = of("given")
    prefixes = {key.partition(":")[0] for key in _names(made) if ":" in key and not key.startswith("@")}
    assert prefixes <= set(made["@context"])


def _names(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {name for one in value.values() for name in _names(one)}
    if isinstance(value, list):
        return {name for one in value for name in _names(one)}
    return set()


@pytest.mark.parametrize("name", ["used", "sent", "mail"])
def test_what_is_no_word_about_a_consent_has_no_record(name: str) -> None:
    with pytest.raises(NoRecord):
        of(name)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"format":"consent-ledger/register/2"}', b"[" * 100_000])
def test_what_is_no_snapshot_is_refused(raw: bytes) -> None:
    with pytest.raises(NoRecord):
        parse_snapshot(raw)


@pytest.mark.parametrize(
    "files", [None, [], {}, {"parties.toml": 3}, {"activities/newsletter.toml": {"purposes": "all"}}]
)
def test_a_register_that_does_not_know_the_statement_makes_no_record(files: Any) -> None:
    story = OptIn().play()
    with pytest.raises(NoRecord):
        record(story.world.statements[story.indexes["given"]], {"format": "consent-ledger/register/1", "files": files})
