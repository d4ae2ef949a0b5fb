"""A file of proof cases is run as it says, and each disagreement is named."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import leaf_hash, node_hash
from services.ledger.reader.vectors import run_vectors

H0, H1, H2 = (leaf_hash(bytes([n])) for n in range(3))
PAIR = node_hash(H0, H1)
ROOT = node_hash(PAIR, H2)

Case = dict[str, Any]


def text(one: bytes) -> str:
    return b64encode(one).decode()


def inclusion(**changes: object) -> Case:
    case: Case = {"case": "0/happy", "desc": "happy path", "leafIdx": 1, "treeSize": 3, "root": text(ROOT)}
    return {**case, "leafHash": text(H1), "proof": [text(H0), text(H2)], "wantErr": False, **changes}


def consistency(**changes: object) -> Case:
    case: Case = {"case": "1/happy", "desc": "happy path", "size1": 2, "size2": 3, "root1": text(PAIR)}
    return {**case, "root2": text(ROOT), "proof": [text(H2)], "wantErr": False, **changes}


def written(tmp_path: Path, inclusions: list[Any], consistencies: list[Any]) -> Path:
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps({"source": "ours", "inclusion": inclusions, "consistency": consistencies}))
    return path


def test_cases_with_the_wanted_outcome_agree(tmp_path: Path) -> None:
    inclusions = [
        inclusion(),
        inclusion(leafIdx=0, wantErr=True),
        inclusion(leafIdx=2**64 - 1, wantErr=True),
        inclusion(treeSize=0, proof=None, wantErr=True),
        inclusion(leafIdx=0, treeSize=1, root=text(H1), proof=None),
        inclusion(leafHash="", wantErr=True),
    ]
    consistencies = [
        consistency(),
        consistency(size1=0, wantErr=True),
        consistency(root1=text(H0), wantErr=True),
        consistency(size1=3, root1=text(ROOT), proof=None),
    ]
    run = run_vectors(written(tmp_path, inclusions, consistencies))
    assert (run.cases, run.disagreements, run.refused_for_length) == (10, (), ())


def test_an_outcome_that_is_not_wanted_is_named(tmp_path: Path) -> None:
    run = run_vectors(written(tmp_path, [inclusion(wantErr=True)], [consistency(proof=[])]))
    assert len(run.disagreements) == 2
    assert run.disagreements[0].startswith("inclusion 0/happy: accepted")
    assert run.disagreements[1].startswith("consistency 1/happy: refused")


def test_two_equal_roots_that_are_no_hashes_are_refused_and_told_apart(tmp_path: Path) -> None:
    case = consistency(size1=1, size2=1, root1=text(b"don't care"), root2=text(b"don't care"), proof=[])
    run = run_vectors(written(tmp_path, [inclusion()], [case]))
    assert run.disagreements == ()
    assert len(run.refused_for_length) == 1
    assert run.refused_for_length[0].startswith("consistency 1/happy:")


def test_a_run_is_told_case_by_case_with_the_counts_last(tmp_path: Path) -> None:
    short = consistency(size1=1, size2=1, root1=text(b"short"), root2=text(b"short"), proof=[])
    told = str(run_vectors(written(tmp_path, [inclusion(wantErr=True)], [consistency(), short]))).split("\n")
    assert len(told) == 3
    assert told[0].startswith("inclusion 0/happy: accepted")
    assert told[2].startswith("3 cases, 1 disagreements, 1 refused because")


@pytest.mark.parametrize(
    "changes",
    [
        {"size1": 0, "size2": 0, "proof": []},
        {"size1": 1, "size2": 2, "proof": []},
        {"size1": 1, "size2": 1, "proof": [text(H2)]},
        {"size1": 1, "size2": 1, "proof": [], "root2": text(b"other")},
    ],
)
def test_a_short_root_excuses_nothing_else(tmp_path: Path, changes: Case) -> None:
    short = {"root1": text(b"short"), "root2": text(b"short")}
    run = run_vectors(written(tmp_path, [inclusion(leafHash=text(b"short"))], [consistency(**{**short, **changes})]))
    assert len(run.disagreements) == 2
    assert run.refused_for_length == ()


@pytest.mark.parametrize(
    "case",
    [
        None,
        [],
        {},
        inclusion(leafIdx="1"),
        inclusion(leafIdx=True),
        inclusion(treeSize=3.0),
        inclusion(root=None),
        inclusion(root="*"),
        inclusion(proof="x"),
        inclusion(proof=[1]),
        inclusion(wantErr=None),
        inclusion(wantErr=0),
    ],
)
def test_a_case_without_the_layout_is_a_disagreement(tmp_path: Path, case: object) -> None:
    run = run_vectors(written(tmp_path, [case], [consistency()]))
    assert run.cases == 2
    assert len(run.disagreements) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"inclusion": []}',
        b'{"inclusion": [], "consistency": {}}',
        b'{"inclusion": [], "consistency": []}',
        b'{"inclusion": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_vectors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vectors.json"
    path.write_bytes(content)
    with pytest.raises(Invalid, match="vectors"):
        run_vectors(path)
