"""`consent-ledger verify`: exit status, steps and reasons, as somebody at a terminal sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.evidence.bundle import bundle, write
from services.ledger.proofs.receipt import Snapshot, receipt, to_bytes
from services.ledger.reader.note import CosignatureSigner, parse_note
from services.ledger.reader.verify import main
from shared.errors import Refused
from shared.register import load
from tests.opt_in import OptIn


@cache
def story() -> OptIn:
    return OptIn().play()


@pytest.fixture
def vkey(tmp_path: Path) -> Path:
    path = tmp_path / "vkey"
    path.write_text(story().world.signer.vkey + "\n")
    return path


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    path = tmp_path / "opt-in.zip"
    path.write_bytes(bundle(story().material))
    return path


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "receipt.json"
    history = story().world.history([story().indexes["given"]])
    path.write_bytes(to_bytes(receipt(history, Snapshot(load().snapshot()))))
    return path


def test_a_bundle_is_valid_and_every_step_says_why(
    zipped: Path, vkey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(zipped, vkey) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == sorted(line.split()[0] for line in lines[:-1])
    assert {line.split()[0] for line in lines[:-1]} == {str(step) for step in range(1, 10)}
    assert lines[-1].startswith("VALID evidence bundle: consent to newsletter/email")


def test_a_receipt_is_valid(kept: Path, vkey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(kept, vkey) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("VALID receipt: ConsentGiven")


@pytest.mark.parametrize("which", ["zipped", "kept"])
def test_without_a_key_it_says_whose_signed_and_is_not_satisfied(
    which: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(request.getfixturevalue(which), None) == 1
    said = capsys.readouterr().out
    assert story().world.signer.vkey in said
    assert "compare it yourself" in said
    assert "VALID" not in said


def test_an_invalid_bundle_names_the_step_and_the_reason(
    zipped: Path, vkey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = bytearray(zipped.read_bytes())
    whole[len(whole) // 2] ^= 1
    zipped.write_bytes(whole)
    assert main(zipped, vkey) == 1
    assert "INVALID evidence bundle: step 1:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"hello", b"PK\x03\x04 some other archive", b"\x00" * 1000, b'{"leaf": "", "a": 1}']
)
def test_what_is_neither_gives_2(
    content: bytes, tmp_path: Path, vkey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert main(path, vkey) == 2
    said = capsys.readouterr()
    assert "neither" in said.err
    assert said.out == ""


def test_a_file_that_cannot_be_read_gives_2(tmp_path: Path, vkey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tmp_path / "missing", vkey) == 2
    assert main(tmp_path, vkey) == 2
    assert main(vkey, tmp_path / "missing") == 2
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 3)
    assert "cannot read the verifier key" in said.err.splitlines()[-1]


@pytest.mark.parametrize("key", [b"", b"\xff\xfe", b"no key", b"a" * 10_000, b"name+00000000+AAAA\n"])
def test_a_key_that_is_none_gives_2(key: bytes, kept: Path, vkey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vkey.write_bytes(key)
    assert main(kept, vkey) == 2
    said = capsys.readouterr()
    assert "key given is none" in said.err
    assert said.out == ""


def test_the_command_needs_no_installation_and_no_terminal_s_language(zipped: Path, vkey: Path) -> None:
    command = [str(Path(sys.executable).with_name("consent-ledger")), "verify", str(zipped), "--vkey", str(vkey)]
    plain = {"PATH": os.defpath, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=plain, cwd=zipped.parent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(b"VALID")


def test_a_bundle_is_written_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    path.write_bytes(b"an older one")
    write(path, b"content")
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot-write"):
        write(tmp_path / "missing" / "out.zip", b"content")


WITNESS = CosignatureSigner("witness.example", Ed25519PrivateKey.from_private_bytes(b"\x07" * 32))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy"
    path.write_text(f"log {story().world.signer.vkey}\nwitness them {WITNESS.vkey}\nquorum them\n")
    return path


def cosign(kept: Path) -> None:
    """Put the witness's line under the receipt's checkpoint."""
    value = json.loads(kept.read_bytes())
    checkpoint = value["proof"].partition("\n\n")[2]
    value["proof"] += WITNESS.sign(parse_note(checkpoint.encode()).text, 1_790_000_000).decode()
    kept.write_bytes(json.dumps(value).encode())


def test_a_receipt_that_nobody_witnessed_does_not_hold_under_a_policy_that_wants_a_witness(
    kept: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(kept, None, policy) == 1
    said = capsys.readouterr().out
    assert "INVALID receipt: step 2" in said
    assert "no quorum" in said


def test_a_cosigned_receipt_is_valid_under_the_policy_and_says_who_cosigned_when(
    kept: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cosign(kept)
    assert main(kept, None, policy) == 0
    assert "cosigned by them at 2026-09-21" in capsys.readouterr().out


def test_a_policy_that_names_no_log_takes_the_key_from_beside_it_or_leaves_it_open(
    kept: Path, policy: Path, vkey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cosign(kept)
    policy.write_text("".join(policy.read_text().splitlines(keepends=True)[1:]))
    assert main(kept, None, policy) == 1
    assert "not settled" in capsys.readouterr().out
    assert main(kept, vkey, policy) == 0


def test_a_policy_that_is_none_gives_2(kept: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy.write_text("quorum of three\n")
    assert main(kept, None, policy) == 2
    assert "the policy given is none" in capsys.readouterr().err
