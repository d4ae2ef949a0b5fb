"""Lint finds what is formally right and yet contradicts itself or the law."""

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli import app
from shared.register import Register, lint, load
from shared.register.read import read_files
from shared.register.register import PACKAGED

NEWSLETTER = "activities/newsletter.toml"


def test_the_packaged_register_has_only_the_contradiction_its_policy_brings_along() -> None:
    found = lint(load())

    assert [finding.code for finding in found if finding.level == "warning"] == ["authority-elsewhere"]
    assert "DE-NW" in found[0].message
    assert "DE-SN" in found[0].message


CASES: dict[str, tuple[str, str, str, str]] = {
    "transfer-without-safeguard": (
        NEWSLETTER,
        'safeguards = ["eu-gdpr:A45-3", "eu-gdpr:A46-2-c"]',
        "safeguards = []",
        "newsletter",
    ),
    "transfer-unclear": (NEWSLETTER, 'third_countries = "exceptional"', 'third_countries = "never"', "newsletter"),
    "field-not-needed": (NEWSLETTER, 'dpv = "pd:EmailAddress"', 'dpv = "pd:Gender"', "newsletter.fields.email"),
    "advertising-unasked": (
        NEWSLETTER,
        'dpv = "dpv:LegalCompliance"',
        'dpv = "dpv:TargetedAdvertising"',
        "newsletter.purposes.newsletter-suppression/internal",
    ),
    "long-retention": (
        NEWSLETTER,
        'until = "end-of-year"\nthen = "delete"\ndespite_erasure = "eu-gdpr:JustificationA17LegalClaims"',
        'until = "end-of-year"\nthen = "delete"',
        "newsletter.retention.evidence",
    ),
    "objection-unanswered": (
        NEWSLETTER,
        'review = "P12M"\nthen = "delete"\ndespite_erasure = "eu-gdpr:JustificationA17LegalClaims"',
        'review = "P12M"\nthen = "delete"',
        "newsletter.purposes.newsletter-suppression/internal",
    ),
}


@pytest.mark.parametrize("code", CASES)
def test_lint_names_the_contradiction_and_its_place(code: str) -> None:
    path, old, new, where = CASES[code]
    files = read_files(PACKAGED)
    assert old in files[path].decode(), f"{path} has changed; this test edits {old!r}"
    files[path] = files[path].decode().replace(old, new, 1).encode()

    found = lint(Register.from_files(files))

    assert (code, where) in {(finding.code, finding.where) for finding in found if finding.level == "warning"}
    assert code not in {finding.code for finding in lint(load())}


def test_calls_need_a_proof_of_five_years() -> None:
    files = read_files(PACKAGED)
    files = {
        path: content.replace(b"newsletter-clicks/email", b"newsletter-clicks/phone").replace(
            b'id = "newsletter-clicks"\nchannel = "email"',
            b'id = "newsletter-clicks"\nchannel = "phone"',
        )
        for path, content in files.items()
    }
    files["notices.lock"] = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {path}\n"
        for path, content in files.items()
        if path.startswith("notices/")
    ).encode()

    found = {(finding.code, finding.where) for finding in lint(Register.from_files(files))}

    assert ("phone-proof-too-short", "newsletter.purposes.newsletter-clicks/phone") in found


def test_the_command_fails_for_what_needs_a_decision_and_not_for_what_deserves_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSENT_LEDGER_REGISTER_DIR", str(tmp_path))
    for name, content in read_files(PACKAGED).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    asked = CliRunner().invoke(app, ["register", "lint"])
    assert asked.exit_code == 1
    assert "warning authority-elsewhere" in asked.output

    parties = tmp_path / "parties.toml"
    parties.write_bytes(parties.read_bytes().replace(b'"DE-NW"', b'"DE-SN"'))
    asked = CliRunner().invoke(app, ["register", "lint"])
    assert asked.exit_code == 0, asked.output
    assert "note no-fixed-end" in asked.output
    assert "warning" not in asked.output


def test_warnings_come_before_notes_and_are_one_line_each() -> None:
    found = lint(load())

    levels = [finding.level for finding in found]
    assert levels == sorted(levels, reverse=True)
    assert all("\n" not in str(finding) for finding in found)
