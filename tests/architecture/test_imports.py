"""Each import contract is broken once, in a copy of the tree: one that does not notice guards nothing."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
}

# contract → (file, import that it must catch)
VIOLATIONS = {
    "services": ("services/newsletter/domain.py", "services.marketing.domain"),
    "two-implementations": ("services/ledger/reader/merkle.py", "services.ledger.log.tree"),
    "signer": ("services/ledger/seal.py", "services.ledger.log.tree"),
    "appender": ("services/ledger/prepare.py", "services.ledger.reader.merkle"),
    "reader": ("services/ledger/reader/merkle.py", "shared.database"),
    "witness": ("services/witness/witness.py", "services.ledger.store"),
    "shared": ("shared/clock.py", "services.ledger.store"),
    "infra": ("infra/local/kafka.py", "services.ledger.store"),
    "demo": ("services/ledger/store.py", "infra.local.postgres"),
    "domain": ("services/marketing/domain.py", "asyncpg"),
    "handlers": ("services/newsletter/handlers.py", "shared.client"),
    "faust": ("services/marketing/sender.py", "faust"),
    "kafka": ("services/ledger/append.py", "aiokafka"),
    "newsletter-layers": ("services/newsletter/store.py", "services.newsletter.handlers"),
    "subjects-layers": ("services/subjects/store.py", "services.subjects.handlers"),
    "marketing-layers": ("services/marketing/domain.py", "services.marketing.store"),
    "erasure-layers": ("services/erasure/domain.py", "services.erasure.store"),
    "ledger-layers": ("services/ledger/store.py", "services.ledger.prepare"),
    "ledger-proofs": ("services/ledger/proofs/history.py", "services.ledger.proofs.issue"),
}


def lint(tree: Path, contract: str | None = None) -> subprocess.CompletedProcess[str]:
    only = ["--contract", contract] if contract else []
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache", "--no-logo", *only], cwd=tree, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree's Python files and the contracts, to be broken; whoever breaks it repairs it."""
    copy = tmp_path_factory.mktemp("tree")
    python_alone = shutil.ignore_patterns("__pycache__", "*.toml", "*.html", "*.sql", "*.json", "*.md", "*.css")
    for package in ("services", "shared", "infra"):
        shutil.copytree(ROOT / package, copy / package, ignore=python_alone)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@contextlib.contextmanager
def planted(file: Path, text: str) -> Iterator[None]:
    """The file with a text at its end, for a while; a file that was not there goes again."""
    before = file.read_bytes() if file.exists() else None
    file.write_bytes((before or b"") + text.encode())
    try:
        yield
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)


def test_every_contract_has_its_violation() -> None:
    assert CONTRACTS.keys() == VIOLATIONS.keys()


def test_the_tree_as_it_is_keeps_every_contract(tree: Path) -> None:
    """Without this, a planted violation could be caught for another reason than the import that is planted."""
    done = lint(tree)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_planted_violation_is_caught(contract: str, tree: Path) -> None:
    where, imported = VIOLATIONS[contract]

    with planted(tree / where, f"\nimport {imported}\n"):
        done = lint(tree, contract)

    assert done.returncode == 1
    assert f"{CONTRACTS[contract]['name']} BROKEN" in " ".join(done.stdout.split())


@pytest.mark.parametrize("contract", [name for name, one in CONTRACTS.items() if one.get("exhaustive")])
def test_a_file_that_no_layer_names_is_caught(contract: str, tree: Path) -> None:
    (container,) = CONTRACTS[contract]["containers"]

    with planted(tree / container.replace(".", "/") / "stray.py", '"""Nobody knows where this belongs."""\n'):
        done = lint(tree, contract)

    assert done.returncode == 1
    assert "stray" in done.stdout


def test_what_a_contract_names_exists() -> None:
    """A module that was renamed would leave its contract guarding nothing."""
    for contract in CONTRACTS.values():
        containers = contract.get("containers", [])
        named = [*containers, *contract.get("modules", []), *contract.get("source_modules", [])]
        named += contract.get("forbidden_modules", [])
        for layer in contract.get("layers", []):
            one_each = layer.replace(":", "|").split("|")
            named += [f"{container}.{name.strip(' ()')}" for container in containers for name in one_each]
        for name in named:
            if name.split(".")[0] in {"services", "shared", "infra"}:
                path = ROOT / name.replace(".", "/")
                assert path.is_dir() or path.with_suffix(".py").is_file(), name
