"""The command: what is missing or wrong is one line that says so, and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("consent-ledger")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CONSENT_LEDGER_")} | environment
    return subprocess.run([COMMAND, *arguments], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [("migrate",), ("log", "create")])
def test_without_the_address_of_a_superuser_no_database_is_touched(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "CONSENT_LEDGER_SUPERUSER_DSN" in done.stderr


def test_a_wrong_setting_is_named_in_one_line_without_its_value() -> None:
    done = run("topics", CONSENT_LEDGER_SHARDS="many-secrets")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "CONSENT_LEDGER_SHARDS" in done.stderr
    assert "many-secrets" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evidence", "ada@example.org", "newsletter/email", "-o", "opt-in.zip"), "0.01a2008d-7400-"),
        (("proof", "latest", "nobody", "newsletter/email"), "0.01a2008d-7400-"),
        (("erase", "nobody", "--reason", "consent-withdrawn"), "0.01a2008d-7400-"),
        (("erase", "ada@example.org", "--reason", "because"), "no-longer-needed"),
        (("erase", "ada@example.org", "--reason", "objection", "--by", "somebody"), "representative"),
    ],
)
def test_who_and_why_are_looked_at_before_anybody_is_asked(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
