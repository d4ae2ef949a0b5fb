"""The proof of the latest word in a bundle: a withdrawal can no longer be left out, by either verifier."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from services.ledger.api.evidence import has_ended
from services.ledger.evidence.bundle import bundle, files_of
from services.ledger.evidence.document import Document
from services.ledger.reader import standalone
from services.ledger.reader.errors import Invalid
from services.ledger.reader.evidence import LATEST, Bundle
from services.ledger.reader.verify import verify
from tests.opt_in import OptIn, World
from tests.unit.proof.forging import Files, mended, with_json
from tests.unit.proof.proving import erase, made


@cache
def story(*, withdrawn: bool = True) -> OptIn:
    return OptIn(withdrawn=withdrawn).play()


def files(told: OptIn) -> Files:
    return files_of(replace(told.material, latest=made(told.world, "latest")))


def refusals(data: bytes, world: World) -> tuple[str, int]:
    """At which step each of the two verifiers refuses."""
    with pytest.raises(Invalid) as ours:
        verify(data, world.signer.vkey)
    with pytest.raises(standalone.Invalid) as its:
        standalone.check(data, world.signer.vkey)
    return ours.value.step, its.value.step


@pytest.mark.parametrize("withdrawn", [True, False])
def test_both_verifiers_say_that_there_is_no_later_word(withdrawn: bool) -> None:
    told = story(withdrawn=withdrawn)
    packed = mended(files(told))
    report = verify(packed, told.world.signer.vkey)
    assert report is not None
    assert any("holds no later word at this size" in one.text for one in report.findings)
    said = standalone.check(packed, told.world.signer.vkey).found
    assert any("holds no later word at this size" in text for _, text in said)


def test_no_evidence_is_made_of_a_record_that_has_begun_to_end() -> None:
    told = OptIn().play()
    assert not has_ended(made(told.world, "latest"))
    erase(told.world, "purpose:newsletter/email")
    assert has_ended(made(told.world, "latest"))


def test_without_the_proof_both_say_that_it_is_not_proven() -> None:
    packed = bundle(story().material)
    report = verify(packed, story().world.signer.vkey)
    assert report is not None
    assert any("not proven by this file" in one.text for one in report.findings)
    assert any("not proven" in text for _, text in standalone.check(packed, story().world.signer.vkey).found)


@pytest.mark.parametrize("language", ["de", "en"])
def test_the_printed_evidence_says_which_of_the_two_it_is(language: str) -> None:
    words = {"de": "kein späteres Wort", "en": "no later word"}[language]
    for latest, proven in ((made(story().world, "latest"), True), (None, False)):
        packed = bundle(replace(story().material, latest=latest))
        checked = Bundle(packed, story().world.signer.vkey)
        checked.verify()
        summary = json.dumps(Document(checked, packed, language, "0").content()["sections"][0], ensure_ascii=False)
        assert checked.latest_proven is proven
        assert words in summary
        assert ("Nicht bewiesen" in summary or "not proven" in summary) is not proven


def test_a_withdrawal_that_is_left_out_is_noticed_by_both() -> None:
    told = story()
    withdrawal = told.indexes["withdrawn"]
    left = {name: one for name, one in files(told).items() if name not in _files_of_entry(withdrawal)}
    assert refusals(mended(left), told.world) == ("9", 9)
    # Without the proof nobody could have seen that it is missing.
    del left[LATEST]
    assert verify(mended(left), told.world.signer.vkey) is not None


def _files_of_entry(index: int) -> set[str]:
    return {f"statements/{index}.json", f"records/{index}.jsonld", f"opened/{index}-evidence.json"}


def _swap(proof: dict[str, Any]) -> None:
    proof["words"].reverse()


def _absent(proof: dict[str, Any]) -> None:
    proof["words"][0]["place"] = {"siblings": [], "record": None}


def _older(proof: dict[str, Any]) -> None:
    proof["words"][0]["place"]["record"]["version"] = "1"


def _other_key(proof: dict[str, Any]) -> None:
    proof["label_key"] = "0" * 64


def _other_subject(proof: dict[str, Any]) -> None:
    proof["subject"] = World(seed=9).subject


def _other_map(proof: dict[str, Any]) -> None:
    leaf = proof["map_root"]["leaf"]
    proof["map_root"]["leaf"] = leaf[:20] + ("A" if leaf[20] != "A" else "B") + leaf[21:]


def _sibling(proof: dict[str, Any]) -> None:
    proof["words"][0]["place"]["siblings"][0] = "A" * 43


@pytest.mark.parametrize("change", [_swap, _absent, _older, _other_key, _other_subject, _other_map, _sibling])
def test_a_proof_that_says_something_else_is_refused_by_both(change: Callable[[dict[str, Any]], None]) -> None:
    told = story()
    assert refusals(mended(with_json(files(told), LATEST, change)), told.world) == ("9", 9)


def test_the_proof_of_another_checkpoint_is_refused_by_both() -> None:
    earlier = OptIn()
    earlier.request()
    earlier.confirmation_mail()
    earlier.confirm()
    proof = made(earlier.world, "latest")
    earlier.issue()
    forged = files_of(replace(earlier.material, latest=proof))
    assert refusals(mended(forged), earlier.world) == ("9", 9)
