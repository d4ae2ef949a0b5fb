"""A receipt: what a true one shows, at which step a false one fails, and what opens it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from services.ledger.proofs.history import History
from services.ledger.proofs.receipt import Snapshot, opens, proof, receipt, to_bytes
from services.ledger.reader.errors import Invalid
from services.ledger.reader.proof import verify_proof
from services.ledger.reader.strict import encode_base64url
from services.ledger.reader.verify import Report, verify
from shared.register import load
from tests.opt_in import RECEIPT_KEY, OptIn, World


@cache
def story() -> OptIn:
    return OptIn().play()


@cache
def snapshot() -> Snapshot:
    return Snapshot(load().snapshot())


def history(of: str = "given") -> History:
    return story().world.history([story().indexes[of]])


def made(of: str = "given") -> dict[str, Any]:
    return receipt(history(of), snapshot())


def checked(value: dict[str, Any]) -> Report:
    report = verify(to_bytes(value), story().world.signer.vkey)
    assert report is not None
    return report


@pytest.mark.parametrize("of", ["request", "refused", "given", "withdrawn"])
def test_the_receipt_of_every_word_about_a_consent_verifies(of: str) -> None:
    report = checked(made(of))
    assert report.kind == "receipt"
    assert [finding.step for finding in report.findings] == [2, 3, 4, 6]


def test_the_layout_of_its_json_does_not_matter() -> None:
    compact = json.dumps(dict(reversed(made().items())), separators=(",", ":")).encode()
    assert verify(compact, story().world.signer.vkey) is not None


def test_its_proof_is_a_tlog_proof_that_verifies_by_itself() -> None:
    checkpoint = verify_proof(proof(history()), history().entries[0].leaf, story().world.signer.vkey)
    assert checkpoint.size == len(story().world.leaves)


def _other(member: str, value: Any) -> Any:
    """The member with something else in it."""
    match member:
        case "shard":
            return value + 1
        case "record":
            return {**value, "dct:date": "yesterday"}
        case "register":
            return value.replace("P3Y", "P9Y")
        case "proof":
            return value.replace("index 6", "index 4")
        case "index":
            return "4"
        case "statement":
            return encode_base64url(story().world.raws[11])
        case "leaf":
            return encode_base64url(story().world.leaves[11])
        case _:
            return f"{value[:-1]}{'0' if value[-1] != '0' else '1'}"


STEPS = {
    "format": "1",
    "vkey": "2",
    "fresh_vkey": "2",
    "origin": "2",
    "proof": "3",
    "index": "3",
    "leaf": "3",
    "statement": "3",
    "pin": "3",
    "opening": "3",
    "shard": "4",
    "register": "6",
    "record": "6",
}


@pytest.mark.parametrize("member", sorted(STEPS))
def test_any_member_changed_fails_at_its_step(member: str) -> None:
    value = made()
    value[member] = _other(member, value[member])
    with pytest.raises(Invalid) as failure:
        checked(value)
    assert failure.value.step == STEPS[member]


def test_the_table_of_steps_names_every_member() -> None:
    assert set(STEPS) == set(made())


@pytest.mark.parametrize("member", sorted(STEPS))
def test_any_member_missing_fails(member: str) -> None:
    value = made()
    del value[member]
    with pytest.raises(Invalid) as failure:
        checked(value)
    assert failure.value.step == "1"


def test_a_receipt_of_another_log_fails_at_step_2() -> None:
    with pytest.raises(Invalid) as failure:
        verify(to_bytes(made()), World(seed=3).signer.vkey)
    assert failure.value.step == "2"


def test_a_name_twice_is_refused() -> None:
    whole = to_bytes(made())
    doubled = whole.replace(b'"shard": 0', b'"shard": 0, "shard": 0')
    with pytest.raises(Invalid, match="strict JSON"):
        verify(doubled, story().world.signer.vkey)


def test_only_the_key_that_the_statement_names_opens_it() -> None:
    assert opens(history(), RECEIPT_KEY)
    assert not opens(history(), bytes(16))
    assert not opens(history(), b"")


def test_a_statement_without_a_key_hash_opens_for_nobody() -> None:
    assert not opens(history("request"), RECEIPT_KEY)
    assert not opens(history("request"), b"-" * 64)
