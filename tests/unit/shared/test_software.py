"""What a statement says of the software that makes it: anyone makes the hash again, from whatever they have of us."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from shared.events.types import ConsentRefused
from shared.software import VERSION, listing, software

CHECKOUT = Path(__file__).resolve().parents[3]
COMMAND = "find services shared -type f ! -path '*/__pycache__/*' | LC_ALL=C sort | xargs sha256sum | sha256sum"


def by_hand(folder: Path) -> str:
    """What somebody gets who has the files and coreutils, and nothing of ours that runs."""
    done = subprocess.run(COMMAND, shell=True, cwd=folder, check=True, capture_output=True, text=True)  # noqa: S602 - the command of the documents, as it stands there
    return f"consent-ledger {VERSION} sha256:{done.stdout.split()[0]}"


def test_the_command_in_the_documents_makes_the_same_hash() -> None:
    for place in ("shared/software.py", "services/cli.py", "docs/formats.md"):
        assert COMMAND in (CHECKOUT / place).read_text("utf-8"), place
    assert by_hand(CHECKOUT) == software()


def test_a_wheel_is_the_same_software(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert by_hand(tmp_path / "unpacked") == software(tmp_path / "unpacked") == software()


def test_an_image_gets_the_two_folders_as_they_are() -> None:
    dockerfile = (CHECKOUT / "Dockerfile").read_text("utf-8")
    assert {"COPY services /app/services", "COPY shared /app/shared"} <= set(dockerfile.splitlines())
    ignored = (CHECKOUT / ".dockerignore").read_text("utf-8").splitlines()
    assert {line for line in ignored if not line.startswith("!")} == {"*", "**/__pycache__"}


def test_its_version_is_that_of_the_package() -> None:
    assert tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["version"] == VERSION


def test_it_fits_into_a_statement() -> None:
    (rule,) = ConsentRefused.model_json_schema()["properties"]["software"]["pattern"].split("\n")
    assert re.search(rule, software())


@pytest.mark.parametrize("change", ["another byte", "another name", "one file more", "one file less"])
def test_any_change_is_other_software_and_what_is_compiled_is_none(change: str, tmp_path: Path) -> None:
    for package in ("services/a", "shared"):
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "one.py").write_bytes(b"one = 1\n")
    before = listing(tmp_path)
    assert [line.split(b"  ")[1] for line in before.splitlines()] == [b"services/a/one.py", b"shared/one.py"]
    (tmp_path / "services/a/__pycache__").mkdir()
    (tmp_path / "services/a/__pycache__/one.pyc").write_bytes(b"compiled")
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra/one.py").write_bytes(b"one = 1\n")
    assert listing(tmp_path) == before
    file = tmp_path / "services/a/one.py"
    match change:
        case "another byte":
            file.write_bytes(b"one = 2\n")
        case "another name":
            file.rename(file.with_name("two.py"))
        case "one file more":
            shutil.copy(file, file.with_name("two.py"))
        case _:
            file.unlink()
    assert listing(tmp_path) != before
    assert by_hand(tmp_path) == software(tmp_path)
