"""The page that verifies itself: what is in the file. What it does in a browser: tests/browser."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from typing import TYPE_CHECKING

import pytest

from services.ledger.evidence.bundle import bundle
from services.ledger.evidence.page import VERIFIER, page_of
from services.ledger.reader import evidence as layout
from services.ledger.reader.page import bundle_of
from services.ledger.reader.verify import VALID, main
from services.ledger.record import RECORDED_TYPES
from shared.pages import LANGUAGES
from tests.opt_in import OptIn

if TYPE_CHECKING:
    from pathlib import Path


@cache
def story() -> OptIn:
    return OptIn().play()


@cache
def packed() -> bytes:
    return bundle(story().material)


def constant(name: str) -> str:
    """What the verifier in JavaScript says of one of its sets."""
    found = re.search(rf"const {name} = new Set\(\[(.*?)\]\)", VERIFIER.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_exact_bytes_of_the_bundle_lie_in_the_page(language: str) -> None:
    assert bundle_of(page_of(packed(), language)) == packed()  # type: ignore[arg-type]


def test_a_file_that_is_no_page_is_left_as_it_is() -> None:
    page = page_of(packed())
    for data in (b"", packed(), b"<!doctype html><p>", page[:-200000], page.replace(b"application/zip", b"text/plain")):
        assert bundle_of(data) == data


def test_equal_bundles_give_equal_pages() -> None:
    assert page_of(packed()) == page_of(packed())


def test_the_policy_lets_only_this_script_run_and_only_this_style_show() -> None:
    html = page_of(packed()).decode()
    script = html.rpartition("<script>")[2].removesuffix("</script>")
    style = html.partition('<style id="look">')[2].partition("</style>")[0]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in (script, style)]
    policy = html.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy == (
        f"default-src 'none'; script-src {hashes[0]}; style-src {hashes[1]}; base-uri 'none'; form-action 'none'"
    )


def test_the_page_names_no_place_to_load_from_and_says_nothing_of_the_person_by_itself() -> None:
    shell = page_of(packed()).replace(base64.b64encode(packed()), b"").decode()
    assert not re.search(r"\bsrc=|<link|@import|[ :]url\((?!.?data:)|fetch\(|XMLHttpRequest|import\(", shell)
    assert "Jane" not in shell
    assert story().world.subject not in shell


def test_the_verifier_in_javascript_knows_the_files_and_records_that_the_reader_knows() -> None:
    assert set(re.findall(r'"([^"]+)"', constant("SINGLE"))) == set(layout.SINGLE)
    assert set(re.findall(r'"([^"]+)"', constant("RECORDED"))) == set(RECORDED_TYPES)
    many = re.findall(r"\b([a-z]+)/", layout._MANY.pattern)
    assert [name for name in many if f"{name}/" not in VERIFIER.read_text("utf-8")] == []


def test_the_command_verifies_the_bundle_within_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, key = tmp_path / "evidence.html", tmp_path / "vkey"
    page.write_bytes(page_of(packed()))
    key.write_text(story().world.signer.vkey)
    assert main(page, key) == VALID
    assert "VALID evidence bundle" in capsys.readouterr().out
