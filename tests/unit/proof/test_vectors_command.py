"""`consent-ledger log vectors`: exit status 1 for any disagreement, and one line for what is no vectors file."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli import app


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


LEAF = hashlib.sha256(b"\x00leaf").digest()
OTHER = hashlib.sha256(b"\x00other").digest()
ROOT = hashlib.sha256(b"\x01" + LEAF + OTHER).digest()


def case(*, wants_refusal: bool, index: int = 0) -> dict[str, Any]:
    return {
        "case": "made",
        "desc": "a tree of two",
        "leafIdx": index,
        "treeSize": 2,
        "root": encoded(ROOT),
        "leafHash": encoded(LEAF),
        "proof": [encoded(OTHER)],
        "wantErr": wants_refusal,
    }


@pytest.mark.parametrize(
    ("cases", "status"),
    [
        ([case(wants_refusal=False)], 0),
        ([case(wants_refusal=True, index=1)], 0),
        ([case(wants_refusal=True)], 1),
        ([case(wants_refusal=False), case(wants_refusal=False, index=1)], 1),
        ([{"case": "no layout"}], 1),
    ],
)
def test_it_exits_by_what_the_verifier_says(cases: list[Any], status: int, tmp_path: Path) -> None:
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps({"inclusion": cases, "consistency": []}))
    done = CliRunner().invoke(app, ["log", "vectors", str(path)])
    assert done.exit_code == status, done.output
    assert f"{len(cases)} cases, {status} disagreements" in done.output


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"inclusion": [], "consistency": []}'])
def test_what_is_no_vectors_file_gives_one_line_and_1(content: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.json"
    path.write_text(content)
    done = CliRunner().invoke(app, ["log", "vectors", str(path)])
    assert done.exit_code == 1
    assert len(done.output.strip().splitlines()) == 1


def test_a_file_that_is_not_there_gives_2(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["log", "vectors", str(tmp_path / "missing")]).exit_code == 2
