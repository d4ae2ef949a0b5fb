"""The page tells of what is tried, all of it and nothing else."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.attacks import report
from tests.attacks.declared import ATTACKS, KINDS
from tests.attacks.test_chain import CASES

for path in sorted(Path(__file__).parent.glob("test_*.py")):
    importlib.import_module(f"tests.attacks.{path.stem}")


def test_everything_that_must_be_tried_is_tried() -> None:
    assert {attack.kind for attack in ATTACKS.values()} == set(KINDS)
    assert all(attack.noticed for attack in ATTACKS.values())


def test_the_chain_is_tried_with_every_kind_that_means_something_to_it() -> None:
    assert set(KINDS) - {kind for kind, *_ in CASES} == {
        "erase, or keep from being erased",
        "forge a timestamp",
        "forge a cosignature",
    }


def test_the_page_names_every_attack_and_no_other() -> None:
    ours, chain = report.named()
    assert ours == {report.folded(attack) for attack in ATTACKS.values()}, "write it anew: make attacks"
    assert chain == {f"{kind}: {tried}".lower() for kind, tried, *_ in CASES}, "write it anew: make attacks"
