"""The map is true: what the documents name exists, and the commands they tell people to type can be typed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer.main
from click import Group

from infra.local import demo
from services.cli import app
from services.serve import PROCESSES, ROLES
from shared import topics
from shared.register import load

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "services/README.md", ROOT / "client/README.md"]
)
FOLDERS = {"client", "services", "shared", "infra", "tests", "docs", "benchmarks", "requirements", ".ci"}
QUOTED = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:\.venv/bin/|\s|`|^)consent-ledger((?: [a-z][a-z-]*)+)", re.MULTILINE)
TARGET = re.compile(r"(?:`|^ *(?:\$ )?)make ([a-z][a-z-]*)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")
ADR = re.compile(r"\d{4}-[a-z0-9-]+\.md")


def text(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


def names_in(file: Path) -> set[str]:
    """`Class`, `Class.method`, `function`, `CONSTANT`: whatever a Python file defines on its first two levels."""
    found: set[str] = set()

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            match node:
                case ast.ClassDef():
                    found.add(prefix + node.name)
                    look(node.body, f"{prefix}{node.name}.")
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    found.add(prefix + node.name)
                case ast.Assign():
                    found.update(prefix + target.id for target in node.targets if isinstance(target, ast.Name))
                case ast.AnnAssign(target=ast.Name(id=name)):
                    found.add(prefix + name)

    look(ast.parse(file.read_text("utf-8")).body, "")
    return found


def what_is_wrong_with(document: str) -> list[str]:
    """Each quoted path that does not exist, and each `path:name` whose file does not define the name."""
    wrong = []
    for quoted in QUOTED.findall(text(document)):
        path, _, name = quoted.partition(":")
        if path.split("/")[0] not in FOLDERS or not re.fullmatch(r"[\w./*-]+", path) or "/" not in path:
            continue
        matches = list(ROOT.glob(path.rstrip("/"))) if "*" in path else [ROOT / path]
        if not matches or not all(match.exists() for match in matches):
            wrong.append(f"{quoted}: there is no such file")
        elif name and name not in names_in(matches[0]):
            wrong.append(f"{quoted}: the file does not define it")
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_function_that_a_document_names_exists(document: str) -> None:
    assert what_is_wrong_with(document) == []


def test_the_map_names_files_and_functions_to_begin_with() -> None:
    quoted = QUOTED.findall(text("ARCHITECTURE.md"))
    assert len([one for one in quoted if re.fullmatch(r"[\w./-]+\.py:[\w.]+", one)]) >= 10


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_to_a_file_leads_somewhere(document: str) -> None:
    base = (ROOT / document).parent
    assert [link for link in LINK.findall(text(document)) if not (base / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_that_a_document_names_exists(document: str) -> None:
    root = typer.main.get_command(app)
    for words in COMMAND.findall(text(document)):
        command, parts = root, words.split()
        while parts and isinstance(command, Group):
            assert parts[0] in command.commands, f"consent-ledger{words}"
            command = command.commands[parts.pop(0)]
        if command.name == "serve":
            assert set(parts) <= {*ROLES, "web"}, f"consent-ledger{words}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_target_that_a_document_names_is_in_the_makefile(document: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", text("Makefile"), re.MULTILINE))
    assert set(TARGET.findall(text(document))) <= targets


def test_the_readme_has_its_two_commands_and_its_places() -> None:
    readme = text("README.md")
    assert {"demo", "test"} <= set(TARGET.findall(readme))
    headings = re.findall(r"^## (.+)$", readme, re.MULTILINE)
    assert "Figures" in headings
    assert "Limits" in headings
    assert demo.main.__doc__


def test_every_service_topic_and_process_is_on_the_map() -> None:
    """The flow that is told is the flow that runs."""
    architecture, line_by_line = text("ARCHITECTURE.md"), text("services/README.md")
    folders = {path.parent.name for path in (ROOT / "services").glob("*/__init__.py")}

    assert [name for name in folders if f"**{name}**" not in line_by_line] == []
    for name in (topics.STATED, topics.RECORDED, *PROCESSES):
        assert f"`{name}`" in architecture, name
    for source in load().sources:
        assert source in folders


def test_every_decision_has_a_page_with_a_sentence_to_quote_and_is_listed() -> None:
    pages = sorted(path.name for path in (ROOT / "docs/adr").glob("*.md") if ADR.fullmatch(path.name))
    numbers = [int(name[:4]) for name in pages]
    assert numbers == list(range(1, len(pages) + 1))
    for name in pages:
        page = text(f"docs/adr/{name}")
        assert re.match(rf"# {name[:4]}: .+\n\n> .+\n", page), name
        assert len(page.splitlines()) <= 60, name
        assert f"adr/{name}" in text("ARCHITECTURE.md"), name
