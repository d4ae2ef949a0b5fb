"""Which software stated what: each verifier tells it, shows it where acts are shown, and refuses what is no name."""

from __future__ import annotations

import json
import re

import pytest

from services.ledger.api.receipts import HERE
from services.ledger.evidence.bundle import bundle
from services.ledger.evidence.document import Document
from services.ledger.proofs.receipt import Snapshot, receipt, to_bytes
from services.ledger.reader import standalone
from services.ledger.reader.errors import Invalid
from services.ledger.reader.evidence import Bundle
from services.ledger.reader.stated_by import stated_by
from services.ledger.reader.verify import verify
from shared.pages import load_texts
from shared.register import load
from shared.software import software
from tests.contracts.consent_record import against_schema, against_shapes
from tests.unit.proof.programs import OLD, programs, upgraded


def steps(data: bytes, vkey: str) -> tuple[str, str]:
    """At which step the two verifiers refuse a bundle; nothing where they do not."""
    said = ["", ""]
    try:
        verify(data, vkey)
    except Invalid as error:
        said[0] = error.step
    try:
        standalone.check(data, vkey)
    except standalone.Invalid as error:
        said[1] = str(error.step)
    return said[0], said[1]


def test_a_name_is_there_in_version_2_and_only_there_and_is_one() -> None:
    for name, data, vkey in programs():
        # Of what is no text at all, the small verifier says only that it cannot be understood.
        refused = ("4", "0") if name in {"none", "a number"} else ("4", "4")
        assert steps(data, vkey) == (("", "") if name.startswith("true") else refused), name


def test_both_tell_it_in_the_same_words_for_each_statement() -> None:
    told = upgraded()
    packed, vkey = bundle(told.material), told.world.signer.vkey
    checked = Bundle(packed, vkey)
    checked.verify()
    found = stated_by(checked.recorded)
    assert [name for name, _ in found] == ["", OLD, software()]
    indexes = {
        name: {one.index for one in checked.recorded if one.statement.data.software == name} for name, _ in found
    }
    for name, where in found:
        spans = [[int(end) for end in span.split("-")] for span in where.split(", ")]
        within = {one.index for one in checked.recorded if any(span[0] <= one.index <= span[-1] for span in spans)}
        assert within == indexes[name]
    [said] = [one.text for one in checked.findings if one.text.startswith("stated by")]
    assert said.startswith(f"stated by, in the statements' own words: not named (index {found[0][1]}); {OLD} (index ")
    assert (4, said) in standalone.check(packed, vkey).found


@pytest.mark.parametrize("language", ["de", "en"])
def test_the_printed_evidence_names_it_for_each_entry_and_says_where_none_is(language: str) -> None:
    told = upgraded()
    packed = bundle(told.material)
    checked = Bundle(packed, told.world.signer.vkey)
    checked.verify()
    shown = Document(checked, packed, language, "a printer 3").content()["sections"][11]
    text = json.dumps(shown, ensure_ascii=False)
    for name, where in stated_by(checked.recorded):
        assert where in text
        assert name in text
    assert {"de": "nicht aufgezeichnet", "en": "not recorded"}[language] in text
    assert "a printer 3" in text


def test_a_record_names_it_and_of_version_1_stays_what_it_was() -> None:
    told = upgraded()
    snapshot = Snapshot(load().snapshot())
    for name, named in (("request", None), ("given", software())):
        whole = receipt(told.world.history([told.indexes[name]]), snapshot)
        made = whole["record"].get("dpv:isImplementedUsingTechnology")
        assert made == (named and {"@type": "dpv:Technology", "dct:identifier": named})
        assert against_schema(whole["record"]) == []
        assert against_shapes(whole["record"]) == ""
        report = verify(to_bytes(whole), told.world.signer.vkey)
        assert report is not None
        said = [re.search(r"stated by (.*), as it says itself", one.text) for one in report.findings]
        assert [one[1] for one in said if one] == ([named] if named else [])


@pytest.mark.parametrize("language", ["de", "en"])
def test_the_page_of_a_receipt_has_words_for_it(language: str) -> None:
    texts = load_texts((HERE,), language)
    assert all(key in texts for key in ("receipt.facts.software", "receipt.facts.no_software", "proof.software"))
