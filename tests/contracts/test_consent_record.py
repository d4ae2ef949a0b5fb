"""Every consent record we make passes our JSON Schema and our SHACL shapes, and neither passes just anything."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from services.ledger.record import ERASURE_TYPES, RECORDED_TYPES, record
from shared.events import Statement, parse
from shared.register import load
from tests.contracts.consent_record import against_schema, against_shapes

GOLDEN: Final = Path(__file__).parent / "golden"
# What TS 27560 requires of a record, or the law of whoever keeps one.
REQUIRED: Final = (
    "dct:conformsTo", "dct:identifier", "dct:date", "dct:source", "dpv:hasDataSubject", "dpv:hasNotice",
    "dpv:hasProcess", "dpv:hasLegalBasis", "dpv:hasJurisdiction", "dpv:hasApplicableLaw", "dpv:hasConsentControl",
    "dpv:hasRight", "dpv:hasDataController", "dpv:hasDataProtectionOfficer", "dpv:hasAuthority", "dpv:hasRecipient",
    "dct:publisher", "dpv:hasConsentStatus",
)  # fmt: skip
IN_A_PROCESS: Final = (
    "dct:title", "dpv:hasService", "dpv:hasPurpose", "dpv:hasPersonalData", "dpv:hasStorageCondition",
    "dpv:hasLocation", "dpv:hasRule", "dpv:hasRecipient",
)  # fmt: skip
IN_AN_EVENT: Final = ("@type", "dct:identifier", "dpv:isIndicatedAtTime", "dpv:isIndicatedBy", "dpv:hasDuration")


def golden(name: str) -> Statement:
    """A golden statement; one is older than the register, which has another name for its purpose."""
    return parse((GOLDEN / f"{name}.1.json").read_bytes().replace(b"newsletter-measurement", b"newsletter-clicks"))


@cache
def made(name: str) -> dict[str, Any]:
    """The record of a golden statement, by the register as it is."""
    return record(golden(name), json.loads(load().snapshot()))


@pytest.mark.parametrize("name", sorted(RECORDED_TYPES))
def test_the_record_of_each_golden_statement_conforms(name: str) -> None:
    assert against_schema(made(name)) == []
    assert against_shapes(made(name)) == ""


@pytest.mark.parametrize("member", REQUIRED)
def test_a_record_without_a_field_conforms_to_neither(member: str) -> None:
    lacking = {name: value for name, value in made("ConsentGiven").items() if name != member}
    assert against_schema(lacking) != []
    assert against_shapes(lacking) != ""


@pytest.mark.parametrize("member", IN_A_PROCESS)
def test_a_process_without_a_field_conforms_to_neither(member: str) -> None:
    lacking = copy.deepcopy(made("ConsentGiven"))
    del lacking["dpv:hasProcess"][0][member]
    assert against_schema(lacking) != []
    assert against_shapes(lacking) != ""


@pytest.mark.parametrize("member", IN_AN_EVENT)
def test_an_event_without_a_field_conforms_to_neither(member: str) -> None:
    lacking = copy.deepcopy(made("ConsentWithdrawn"))
    del lacking["dpv:hasConsentStatus"][member]
    assert against_schema(lacking) != []
    assert against_shapes(lacking) != ""


def test_a_status_of_another_vocabulary_conforms_to_neither() -> None:
    strange = copy.deepcopy(made("ConsentGiven"))
    strange["dpv:hasConsentStatus"]["@type"] = ["dpv:ConsentAssumed"]
    assert against_schema(strange) != []
    assert against_shapes(strange) != ""


@pytest.mark.parametrize("name", sorted(ERASURE_TYPES))
def test_the_record_of_each_statement_of_an_erasure_conforms(name: str) -> None:
    assert against_schema(made(name), "erasure") == []
    assert against_shapes(made(name), "erasure") == ""
    # A record of one kind is none of the other.
    assert against_schema(made(name)) != []
    assert against_schema(made("ConsentGiven"), "erasure") != []


@pytest.mark.parametrize("member", sorted(set(made("DataErased")) - {"@context", "@id", "@type"}))
def test_the_record_of_an_erasure_without_a_field_conforms_to_neither(member: str) -> None:
    lacking = {name: value for name, value in made("DataErased").items() if name != member}
    assert against_schema(lacking, "erasure") != []
    assert against_shapes(lacking, "erasure") != ""


@pytest.mark.parametrize("member", ["dct:isPartOf", "dpv:hasStatus", "dpv:hasProcessing", "dpv:isImplementedByEntity"])
def test_an_erasure_that_does_not_say_what_was_done_conforms_to_neither(member: str) -> None:
    lacking = copy.deepcopy(made("DataErased"))
    del lacking["dct:hasPart"][member]
    assert against_schema(lacking, "erasure") != []
    assert against_shapes(lacking, "erasure") != ""
