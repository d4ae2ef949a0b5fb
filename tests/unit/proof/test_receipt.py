"""A receipt: what a true one shows, at which step a false one fails, and what opens it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from services.ledger.proofs.history import History
from services.ledger.proofs.receipt import Snapshot, belong_together, opens, opens_order, proof, receipt, to_bytes
from services.ledger.reader.errors import Invalid
from services.ledger.reader.proof import verify_proof
from services.ledger.reader.strict import encode_base64url
from services.ledger.reader.verify import Report, verify
from shared.events import Statement
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


def statement(of: str) -> Statement:
    return erased().world.statements[erased().indexes[of]]


@cache
def erased() -> OptIn:
    told = OptIn().play()
    told.erase()
    return told


def test_only_the_key_that_the_statement_names_opens_it() -> None:
    key = encode_base64url(RECEIPT_KEY)
    assert opens(statement("given"), key)
    for other in (encode_base64url(bytes(16)), "", key + "=", key[:-1], encode_base64url(RECEIPT_KEY + b"x"), "\u00e4"):
        assert not opens(statement("given"), other), other


def test_a_request_opens_by_the_token_of_its_mail_and_by_nothing_else() -> None:
    assert opens(statement("request"), erased().token)
    hashed = statement("request").data.token_hash
    for other in (
        encode_base64url(RECEIPT_KEY),
        erased().token[:-1],
        hashed,
        encode_base64url(bytes.fromhex(hashed)),
        "",
    ):
        assert not opens(statement("request"), other), other


def test_the_order_of_an_erasure_opens_by_the_key_that_its_id_was_made_from() -> None:
    key = encode_base64url(RECEIPT_KEY)
    assert opens(statement("ordered"), key)
    for other in (encode_base64url(bytes(16)), "", key + "=", key[:-1], erased().token, "-" * 64, "\u00e4"):
        assert not opens(statement("ordered"), other), other
    # The key of another statement does not open an order that happens to have an id like any other.
    for of in ("ended", "erased", "completed"):
        assert not opens_order(statement(of).id, key)


@pytest.mark.parametrize("of", ["refused", "ended", "erased", "completed"])
def test_a_statement_without_a_key_hash_opens_for_nobody_by_itself(of: str) -> None:
    for key in (encode_base64url(RECEIPT_KEY), erased().token, "-" * 64, ""):
        assert not opens(statement(of), key)


@pytest.mark.parametrize(
    ("of", "together"),
    [
        ("request", {"request", "refused", "mail", "given"}),
        ("given", {"request", "mail", "given", "used"}),
        ("ordered", {"ended", "ordered", "held", "erased", "completed"}),
        ("held", {"ordered", "held", "erased", "completed"}),
    ],
)
def test_what_is_of_one_act_belongs_together_and_nothing_else(of: str, together: set[str]) -> None:
    found = {name for name in erased().indexes if belong_together(statement(of), statement(name))}
    assert found == together
    assert all(belong_together(statement(name), statement(of)) for name in found)


@pytest.mark.parametrize("of", ["ordered", "held", "ended", "erased", "completed"])
def test_the_receipts_of_an_erasure_verify_and_one_bit_is_noticed(of: str) -> None:
    told = erased()
    whole = to_bytes(receipt(told.world.history([told.indexes[of]]), snapshot()))
    report = verify(whole, told.world.signer.vkey)
    assert report is not None
    assert statement(of).type in report.conclusion
    forged = json.loads(whole)
    forged["record"]["dct:date"]["@value"] = "2020-02-05T09:30:00.000Z"
    with pytest.raises(Invalid) as refused:
        verify(to_bytes(forged), told.world.signer.vkey)
    assert refused.value.step == "6"
