"""The signed acceptance: what it says alone, and who is caught when something else is held against it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.evidence.bundle import bundle
from services.ledger.proofs.receipt import Snapshot, receipt, to_bytes
from services.ledger.reader.verify import INVALID, NEITHER, VALID, main
from shared import acceptance
from shared.register import load
from shared.served_notice import compact, key_set
from tests.opt_in import START, OptIn

if TYPE_CHECKING:
    from pathlib import Path

    from shared.acceptance import Accepted

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@cache
def story() -> OptIn:
    return OptIn().play()


def accepted(name: str) -> Accepted:
    index = story().indexes[name]
    return story().world.statements[index].id, hashlib.sha256(story().world.raws[index]).hexdigest()


@dataclass
class Desk:
    """A folder with the files that somebody holds against each other."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    said: str = field(default="")

    def verify(self, token: str, beside: bytes | None = None, keys: bool = True, vkey: bool = True) -> int:
        (self.folder / "acceptance.txt").write_text(token + "\n")
        (self.folder / "keys.json").write_text(json.dumps(key_set({"notice-1": KEY.public_key()})))
        (self.folder / "vkey").write_text(story().world.signer.vkey)
        other = None
        if beside is not None:
            other = self.folder / "beside"
            other.write_bytes(beside)
        status = main(
            self.folder / "acceptance.txt",
            self.folder / "vkey" if vkey else None,
            None,
            other,
            None,
            self.folder / "keys.json" if keys else None,
        )
        out, err = self.capsys.readouterr()
        self.said = out + err
        return status


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def token(*statements: Accepted) -> str:
    return acceptance.issue("notice-1", KEY, "newsletter", statements, START)


def a_receipt(name: str) -> bytes:
    return to_bytes(receipt(story().world.history([story().indexes[name]]), Snapshot(load().snapshot())))


def test_alone_it_says_what_was_signed_for_and_that_this_shows_no_record(desk: Desk) -> None:
    assert desk.verify(token(accepted("given"), accepted("request"))) == VALID
    assert "newsletter signed at 2026-11-22T12:00:00.123Z that it holds 2 statements" in desk.said
    assert "Whether the log has them too is not said by this" in desk.said
    assert accepted("given")[1] in desk.said


def test_beside_its_receipt_it_says_that_the_log_has_the_same_bytes(desk: Desk) -> None:
    assert desk.verify(token(accepted("given")), a_receipt("given")) == VALID
    assert "the log has them, byte for byte" in desk.said


def test_a_bundle_shows_each_of_several(desk: Desk) -> None:
    assert desk.verify(token(accepted("request"), accepted("withdrawn")), bundle(story().material)) == VALID
    assert desk.said.count("recorded as accepted") == 2


def test_other_bytes_under_the_same_id_are_fraud_of_the_operator(desk: Desk) -> None:
    statement, _ = accepted("given")
    assert desk.verify(token((statement, "0" * 64)), a_receipt("given")) == INVALID
    assert "FRAUD: newsletter signed for other bytes than the log" in desk.said


def test_what_a_file_does_not_have_is_named_and_who_would_be_caught(desk: Desk) -> None:
    assert desk.verify(token(accepted("withdrawn")), a_receipt("given")) == INVALID
    assert "NOT SHOWN" in desk.said
    assert accepted("withdrawn")[0] in desk.said


def test_the_same_id_of_another_source_is_another_statement(desk: Desk) -> None:
    other = acceptance.issue("notice-1", KEY, "booth", [accepted("given")], START)
    assert desk.verify(other, a_receipt("given")) == INVALID
    assert "NOT SHOWN" in desk.said


def test_a_file_that_does_not_verify_shows_nothing_about_it(desk: Desk) -> None:
    assert desk.verify(token(accepted("given")), a_receipt("given").replace(b'"pin": "', b'"pin": "0', 1)) == INVALID
    assert "INVALID receipt" in desk.said


def test_every_flipped_bit_is_noticed(desk: Desk) -> None:
    whole = token(accepted("given"))
    for place in range(0, len(whole), 3):
        altered = whole[:place] + chr(ord(whole[place]) ^ 1) + whole[place + 1 :]
        assert desk.verify(altered) in {INVALID, NEITHER}, place


def test_a_token_of_another_kind_is_no_acceptance(desk: Desk) -> None:
    served = compact("notice-1", KEY, "consent-ledger-served-notice+jwt", {"format": acceptance.FORMAT})
    assert desk.verify(served) == INVALID
    assert "of another kind" in desk.said


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"format": "consent-ledger/acceptance/2"},
        {"accepted_at": "yesterday"},
        {"statements": []},
        {"statements": [{"id": "x", "sha256": "0" * 64}]},
        {"statements": [{"id": "01a20561-1d9d-7415-8474-7f0dc45ad504", "sha256": "0" * 63}]},
        {"more": 1},
    ],
)
def test_signed_nonsense_is_refused(desk: Desk, claims: dict[str, object]) -> None:
    good: dict[str, object] = {
        "format": acceptance.FORMAT,
        "source": "newsletter",
        "accepted_at": "2026-11-22T12:00:00.123Z",
        "statements": [{"id": accepted("given")[0], "sha256": accepted("given")[1]}],
    }
    said = good | claims if claims else {}
    assert desk.verify(compact("notice-1", KEY, acceptance.TYPE, said)) == INVALID


def test_without_the_keys_nothing_is_judged_and_without_the_log_s_key_nothing_is_settled(desk: Desk) -> None:
    assert desk.verify(token(accepted("given")), keys=False) == NEITHER
    assert "--notice-keys" in desk.said
    assert desk.verify(token(accepted("given")), a_receipt("given"), vkey=False) == INVALID
    assert "not settled" in desk.said


def test_equal_words_give_an_equal_signature_of_one_length() -> None:
    assert token(accepted("given")) == token(accepted("given"))
    assert len(token(accepted("given"))) == len(token(accepted("request")))
