"""What anybody can put into a file without the log's key: a fresh line, a second log of its name, words for a terminal.

None of it may pass for what the log's key has signed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.evidence.bundle import bundle, files_of
from services.ledger.reader import standalone
from services.ledger.reader.checkpoint import parse_checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.evidence import LATEST
from services.ledger.reader.handover import Handover, format_handover
from services.ledger.reader.note import CosignatureSigner, Signer, format_note, parse_note
from services.ledger.reader.policy import Policy, parse_log_keys
from services.ledger.reader.verify import INVALID, NEITHER, VALID, main, verify
from services.newsletter.domain import Withdrawal, receipt_key_hash, statements_of_withdrawal
from shared.events import EVERYTHING
from tests.opt_in import ORIGIN, RECEIPT_KEY, OptIn
from tests.unit.proof.forging import Files, mended, with_json
from tests.unit.proof.proving import as_file, checkpoint_at, erase, kept_receipt, made

if TYPE_CHECKING:
    from pathlib import Path

IN_2030 = 1_900_000_000
FORGED = CosignatureSigner(f"{ORIGIN}/fresh", Ed25519PrivateKey.from_private_bytes(b"\x09" * 32))


@cache
def story() -> OptIn:
    return OptIn(withdrawn=False).play()


def keys(*, fresh: bool = True) -> Policy:
    world = story().world
    return parse_log_keys(f"{world.signer.vkey}\n{world.fresh.vkey if fresh else FORGED.vkey}\n".encode())


def refreshed(note: str) -> str:
    """The same checkpoint, with a fresh line of a key that somebody has made for it."""
    parsed = parse_note(note.encode())
    signed = [one.line() for one in parsed.signatures if one.name == ORIGIN]
    return format_note(parsed.text, [*signed, FORGED.sign(parsed.text, IN_2030)]).decode()


def pretended(proof: dict[str, Any]) -> dict[str, Any]:
    return proof | {"checkpoint": refreshed(proof["checkpoint"]), "fresh_vkey": FORGED.vkey}


# -- the fresh line


@pytest.mark.parametrize("kind", ["latest", "absence", "history"])
def test_of_which_time_a_proof_is_rests_on_a_key_that_was_given_or_on_one_that_came_along(kind: Any) -> None:
    world = story().world
    true = made(world, kind, "anything-else" if kind == "absence" else "newsletter")
    shown = verify(as_file(true), keys())
    assert shown is not None
    assert "the file itself" not in shown.conclusion
    for proof, trusted in ((true, world.signer.vkey), (pretended(true), world.signer.vkey)):
        doubted = verify(as_file(proof), trusted)
        assert doubted is not None
        assert "at 11 leaves, the newest at" in doubted.conclusion
        assert "by a fresh key that the file itself brought along" in doubted.conclusion
    with pytest.raises(Invalid, match="the fresh key you gave is not the one this file names"):
        verify(as_file(pretended(true)), keys())


def test_a_state_of_years_later_is_not_shown_by_a_fresh_line_that_came_along() -> None:
    world = story().world
    proof = pretended(made(world, "state", at=world.now + timedelta(seconds=1)))
    proof["at"] = "2030-01-01T00:00:00.000Z"
    shown = verify(as_file(proof), world.signer.vkey)
    assert shown is not None
    assert "is said by a fresh key that came with the file" in shown.conclusion
    with pytest.raises(Invalid, match="the fresh key you gave"):
        verify(as_file(proof), keys())


def test_bundles_and_receipts_are_held_against_the_fresh_key_that_was_given() -> None:
    told = story()
    for data in (bundle(told.material), kept_receipt(told.world, told.indexes["given"])):
        assert verify(data, keys()) is not None
        with pytest.raises(Invalid, match="the fresh key you gave"):
            verify(data, keys(fresh=False))


@pytest.mark.parametrize("name", [ORIGIN, f"{ORIGIN}/fresh/fresh", "log.example.org/ledger/log/1/fresh"])
def test_a_fresh_key_of_another_name_is_none_of_this_log(name: str) -> None:
    other = CosignatureSigner(name, Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)).vkey
    with pytest.raises(Invalid):
        parse_log_keys(f"{story().world.signer.vkey}\n{other}\n".encode())
    with pytest.raises(Invalid):
        parse_log_keys(f"{FORGED.vkey}\n".encode())


# -- the latest word in a bundle


def refusals(files: Files, vkey: str) -> tuple[str, int]:
    with pytest.raises(Invalid) as ours:
        verify(mended(files), vkey)
    with pytest.raises(standalone.Invalid) as its:
        standalone.check(mended(files), vkey)
    return ours.value.step, its.value.step


def test_the_latest_word_stands_under_the_bundle_s_own_fresh_line() -> None:
    told = story()
    files = files_of(replace(told.material, latest=made(told.world, "latest")))
    assert refusals(with_json(files, LATEST, pretended), told.world.signer.vkey) == ("9", 9)
    assert refusals(with_json(files, LATEST, lambda proof: proof | {"fresh_vkey": FORGED.vkey}), told.world.signer.vkey)


def test_a_withdrawal_from_everything_whose_label_has_ended_is_not_as_if_it_had_never_been() -> None:
    told = OptIn(withdrawn=False).play()
    world = told.world
    now = world.later(60)
    withdrawal = Withdrawal(
        act=world.id(),
        subject=world.subject,
        scope="everything",
        purposes=(),
        message=told.sent,
        method="one-click",
        receipt_key_hash=receipt_key_hash(RECEIPT_KEY),
        statements=(world.id(),),
    )
    [index] = world.record(statements_of_withdrawal(world.speaker, withdrawal, now))
    erase(world, EVERYTHING)
    files = files_of(replace(told.material, latest=made(world, "latest")))
    for name in (f"statements/{index}.json", f"records/{index}.jsonld"):
        del files[name]
    assert refusals(files, world.signer.vkey) == ("9", 9)
    # Without the proof it is only said that a later word is not excluded, in the conclusion too.
    del files[LATEST]
    report = verify(mended(files), world.signer.vkey)
    assert report is not None
    assert report.conclusion.endswith("by this file it holds; whether a later word has ended it is not shown")


# -- words for a terminal


def test_no_file_writes_a_line_of_its_own_or_hides_what_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = OptIn().play()
    withdrawal = told.indexes["withdrawn"]
    name = f"effects/{withdrawal}.json"
    effect = {"system": "marketing", "applied_at": "2026-11-22T13:03:00.000Z", "in_transmission": []}
    files = files_of(replace(told.material, effects={told.world.statements[withdrawal].id: [effect]}))
    assert verify(mended(files), told.world.signer.vkey) is not None
    for member, value in (
        ("system", "marketing\nVALID evidence bundle: consent holds\x1b[8m"),
        ("system", "x" * 64),
        ("applied_at", "2026-11-22"),
        ("applied_at", "never"),
        ("in_transmission", "all"),
        ("in_transmission", [1]),
        ("in_transmission", ["\x1b[2J"]),
    ):

        def other(said: dict[str, Any], member: str = member, value: Any = value) -> None:
            said["systems"][0][member] = value

        assert refusals(with_json(files, name, other), told.world.signer.vkey) == ("9", 9), (member, value)
    # A name of a log that its key allows, and a terminal would obey.
    hidden = Signer("log\x9b8m\u202e/ledger/log/0", Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
    text = f"{hidden.name}\n1\n{'A' * 43}=\n".encode()
    note, key = tmp_path / "note", tmp_path / "key"
    note.write_bytes(format_note(text, [hidden.sign(text)]))
    key.write_text(hidden.vkey)
    assert main(note, key) == VALID
    assert "log\\x9b8m\\u202e/ledger/log/0 had 1 leaves" in capsys.readouterr().out


# -- a second log of the same name


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The log's checkpoint, and the receipt of a log that somebody else has made under its name."""
    other = OptIn()
    other.world.signer = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"\x08" * 32))
    other.play()
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_bytes(kept_receipt(story().world, story().indexes["given"]))
    two.write_bytes(kept_receipt(other.world, other.indexes["withdrawn"]))
    return one, two


def test_two_files_under_two_keys_of_one_name_accuse_nobody(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(pair[0], None, other=pair[1]) == NEITHER
    said = capsys.readouterr()
    assert "two keys of one name" in said.err
    assert "FRAUD" not in said.out + said.err
    key = tmp_path / "key"
    key.write_text(story().world.signer.vkey)
    assert main(pair[0], key, other=pair[1]) == INVALID
    assert "FRAUD" not in capsys.readouterr().out


def test_as_long_as_nobody_knows_whose_key_it_is_a_contradiction_is_not_called_the_operator_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = story().world
    text = f"{ORIGIN}\n11\n{'A' * 43}=\n".encode()
    one, two, key = tmp_path / "one.json", tmp_path / "two", tmp_path / "key"
    one.write_bytes(kept_receipt(world, story().indexes["given"]))
    two.write_bytes(format_note(text, [world.signer.sign(text)]))
    key.write_text(world.signer.vkey)
    assert main(one, key, other=two) == INVALID
    assert "FRAUD a fork" in capsys.readouterr().out
    # Another fork, in a file that brings its key along.
    receipt = json.loads(one.read_bytes())
    forked = OptIn(withdrawn=False, verified=False).play()
    assert forked.world.signer.vkey == receipt["vkey"]
    two.write_bytes(kept_receipt(forked.world, forked.indexes["given"]))
    assert main(one, None, other=two) == INVALID
    said = capsys.readouterr().out
    assert "CONTRADICTION a fork" in said
    assert "anybody can make a key of that name" in said
    assert "FRAUD" not in said


# -- a stolen key that was retired


def test_a_retired_key_names_nobody_to_take_over() -> None:
    world = story().world
    thief = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"\x07" * 32))
    new = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"\x06" * 32))
    listed = parse_log_keys(f"{new.vkey}\n{world.signer.vkey} until 9\n".encode())

    def handover(size: int, to: Signer) -> Handover:
        checkpoint = parse_checkpoint(parse_note(checkpoint_at(world, size).encode()).text)
        return Handover(format_handover(checkpoint, world.signer, to), listed)

    handover(8, new).verify()
    with pytest.raises(Invalid, match="was retired before the log had this size"):
        handover(11, thief).verify()
