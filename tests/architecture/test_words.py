"""What is written: both languages say the same things, and nothing is left half done or tied to one machine."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).relative_to(ROOT).as_posix()
GERMAN = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("s*/**/texts.de.toml")) + [
    path.relative_to(ROOT).as_posix() for path in ROOT.glob("infra/**/texts.de.toml")
]
GAP = re.compile(r"{(\w*)}")
# A note to oneself begins a line or stands in a comment; the register has a rule that names such words in code.
UNFINISHED = re.compile(r"(?:^[ *>-]*|(?:#|--|//|/[*]|<!--).*?)\b(TODO|FIXME|XXX|HACK)\b", re.MULTILINE)
NOT_RUN = re.compile(r"pytest\.(skip|xfail|importorskip)\b|pytest\.mark\.(skip|skipif|xfail)\b|unittest\.skip")
# Sources name no registry and no machine: packages come from wherever the one who installs says.
# Not that of a container: where the image of Apache Kafka takes its settings from.
PLACES = re.compile(r"(?<![\w.$}/])/(?:home|root|Users|work|mnt(?!/shared/config))/[A-Za-z0-9._-]+")
ADDRESS = re.compile(r"https?://(?P<host>[A-Za-z0-9.-]+)")
PUBLIC = {"pypi.org", "files.pythonhosted.org", "repo1.maven.org", "repo.maven.apache.org", "registry.npmjs.org"}
MIRROR = re.compile(r"mirror|proxy|artifactory|nexus|registry|index-url|simple/", re.IGNORECASE)


def tracked() -> list[str]:
    """Every file of the tree that is, or is about to be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(path for path in listed.stdout.splitlines() if (ROOT / path).is_file())


def texts() -> list[tuple[str, str]]:
    """Every file of ours that is text, with what is in it."""
    found = []
    for path in tracked():
        try:
            found.append((path, (ROOT / path).read_text("utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def keys(table: dict[str, Any], prefix: str = "") -> set[str]:
    """The paths of all values, with the gaps that each value fills in."""
    found: set[str] = set()
    for name, value in table.items():
        if isinstance(value, dict):
            found |= keys(value, f"{prefix}{name}.")
        else:
            found.add(f"{prefix}{name} {sorted(set(GAP.findall(str(value))))}")
    return found


def test_there_are_texts_to_compare() -> None:
    assert len(GERMAN) >= 5


@pytest.mark.parametrize("german", GERMAN)
def test_both_languages_have_the_same_texts_with_the_same_gaps(german: str) -> None:
    english = german.replace("texts.de.toml", "texts.en.toml")
    said = [tomllib.loads((ROOT / path).read_text("utf-8")) for path in (german, english)]

    assert keys(said[0]) == keys(said[1])
    assert all(isinstance(value, dict) or str(value).strip() for one in said for value in one.values())


def test_nothing_is_marked_as_unfinished() -> None:
    found = [path for path, text in texts() if path != HERE and UNFINISHED.search(text)]
    assert found == []


def test_no_document_has_a_place_that_is_still_to_be_written() -> None:
    place = re.compile(r"\(to be written|\bTBD\b", re.IGNORECASE)
    found = [path for path, text in texts() if path.endswith(".md") and place.search(text)]
    assert found == []


def test_no_test_is_kept_from_running() -> None:
    found = [path for path, text in texts() if path.startswith("tests/") and path != HERE and NOT_RUN.search(text)]
    assert found == []


def mirrors() -> set[str]:
    """The hosts that this machine gets its packages from, other than the public ones."""
    says = [value for name, value in os.environ.items() if re.search(r"INDEX|REGISTRY|MIRROR|PROXY", name.upper())]
    for file in (
        "/etc/pip.conf",
        "~/.pip/pip.conf",
        "~/.config/pip/pip.conf",
        "~/.config/uv/uv.toml",
        "/etc/uv/uv.toml",
    ):
        path = Path(file).expanduser()
        if path.is_file():
            says.append(path.read_text("utf-8"))
    hosts = {match["host"] for text in says for match in ADDRESS.finditer(text)}
    return {host for host in hosts if "." in host and host not in PUBLIC and not host.startswith("127.")}


def test_no_file_knows_a_path_of_the_machine_it_was_written_on() -> None:
    found = {path: match[0] for path, text in texts() if path != HERE and (match := PLACES.search(text))}
    assert found == {}
    if len(ROOT.parts) > 2:
        assert [path for path, text in texts() if str(ROOT) in text] == []


def test_no_file_names_a_mirror_of_a_package_registry() -> None:
    hosts = mirrors()
    named = []
    for path, text in texts():
        if path == HERE:
            continue
        others = (match[0] for match in ADDRESS.finditer(text) if match["host"] not in PUBLIC)
        suspicious = [address for address in others if MIRROR.search(address)]
        named += [f"{path}: {one}" for one in [*suspicious, *(host for host in hosts if host in text)]]
    assert named == []


def test_the_lock_names_packages_and_hashes_and_no_address() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text("utf-8")
        assert "://" not in text, lock.name
        assert not re.search(r"^\s*--(?!hash=)", text, re.MULTILINE), lock.name
        pinned = re.findall(r"^([a-z0-9][a-z0-9._-]*)==", text, re.MULTILINE | re.IGNORECASE)
        blocks = [block for block in re.split(r"\n(?=\S)", text) if "==" in block.split("\n")[0]]
        assert len(pinned) == len(blocks) > 0
        assert all("--hash=sha256:" in block for block in blocks), lock.name


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "base", "manager", "misc", "core"])
def test_no_file_has_a_name_that_says_nothing(name: str) -> None:
    found = [path for path in tracked() if Path(path).stem == name and Path(path).suffix == ".py"]
    assert found == []


def test_every_module_says_its_one_job_first() -> None:
    silent = []
    for path, text in texts():
        if path.endswith(".py") and text.strip() and not path.startswith("tests/"):
            body = text.split("\n", 1)[1] if text.startswith("#!") else text
            if not body.startswith('"""'):
                silent.append(path)
    assert silent == []
