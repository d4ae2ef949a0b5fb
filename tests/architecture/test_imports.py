"""Each import contract is broken once, in a copy of the tree: one that does not notice guards nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
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
    "ledger-layers": ("services/ledger/store.py", "services.ledger.prepare"),
}


def lint(tree: Path, contract: str | None = None) -> subprocess.CompletedProcess[str]:
    only = ["--contract", contract] if contract else []
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache", "--no-logo", *only], cwd=tree, capture_output=True, text=True, check=False
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The tree's Python files and the contracts, to be broken."""
    python_alone = shutil.ignore_patterns("__pycache__", "*.toml", "*.html", "*.sql", "*.json", "*.md", "*.css")
    for package in ("services", "shared", "infra"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=python_alone)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_has_its_violation() -> None:
    assert CONTRACTS.keys() == VIOLATIONS.keys()


def test_the_tree_as_it_is_keeps_every_contract() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_planted_violation_is_caught(contract: str, tree: Path) -> None:
    where, imported = VIOLATIONS[contract]
    # Without this, the test could pass for another reason than the import that is planted.
    assert lint(tree, contract).returncode == 0

    file = tree / where
    file.write_text(f"{file.read_text('utf-8')}\nimport {imported}\n", "utf-8")
    done = lint(tree, contract)

    assert done.returncode == 1
    assert f"{CONTRACTS[contract]['name'].split(':')[0]}" in " ".join(done.stdout.split())
    assert "BROKEN" in done.stdout


@pytest.mark.parametrize("contract", [name for name, one in CONTRACTS.items() if one.get("exhaustive")])
def test_a_file_that_no_layer_names_is_caught(contract: str, tree: Path) -> None:
    (container,) = CONTRACTS[contract]["containers"]
    (tree / container.replace(".", "/") / "stray.py").write_text('"""Nobody knows where this belongs."""\n', "utf-8")

    assert lint(tree, contract).returncode == 1


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
