"""Another team's first day: its activity in the register, our package beside nothing else, a booth, a receipt."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest

from infra.local.installation import Installation, free_port
from infra.local.processes import Process
from infra.local.state import LOCAL, free_slot
from shared.clock import rfc3339, utc_now
from shared.register import Register, load
from shared.register.read import read_files
from shared.register.register import PACKAGED
from tests.parts import KafkaPart, PostgresPart

CLIENT: Final = Path(__file__).resolve().parents[2] / "client"
SCOPES: Final = ["subjects.seal", "ledger.statements", "ledger.attachments"]
DATABASE: Final = "consent_client"
TEAM: Final = "booth_team"
PROCESSES: Final = ("ledger-append", "ledger-seal", "web")
DEPENDENCY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def declared(distribution: str) -> set[str]:
    """Return every distribution that one needs on this machine, itself included; extras aside."""
    found: set[str] = set()
    waiting = [distribution]
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            wanted = importlib.metadata.distribution(name)
            if name not in found:
                found.add(name)
                waiting += [
                    match[0]
                    for line in wanted.requires or []
                    if "extra ==" not in line and (match := DEPENDENCY.match(line))
                ]
    return found


@dataclass(frozen=True)
class CleanRoom:
    """The built wheel and what it declares to need, and no other package of this environment."""

    site: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.site), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-S", "-W", "error"]

    def run(self, code: str) -> str:
        return subprocess.run(
            [*self.command, "-c", code], env=self.environment, check=True, capture_output=True, text=True
        ).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built from the folder as an installer would."""
    made = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(made)]
    subprocess.run(build, cwd=CLIENT, check=True, capture_output=True)
    (found,) = made.glob("*.whl")
    return found


def furnished(wheel: Path, site: Path, extra: str = "") -> CleanRoom:
    """Unpack the wheel there, beside what it declares to need (with an extra), and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    for line in lines:
        needed = line.removeprefix("Requires-Dist: ")
        if needed == line or ("extra ==" in line and f"extra == '{extra}'" not in line):
            continue
        match = DEPENDENCY.match(needed)
        assert match is not None
        for name in declared(match[0]):
            for file in importlib.metadata.distribution(name).files or []:
                top, place = site / file.parts[0], Path(str(file.locate()))
                if file.parts[0] not in {"..", "__pycache__"} and not top.exists():
                    top.symlink_to([place, *place.parents][len(file.parts) - 1])
    return CleanRoom(site)


@pytest.fixture(scope="module")
def room(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanRoom:
    """Return the wheel installed where nothing else of ours is."""
    return furnished(wheel, tmp_path_factory.mktemp("site"))


@dataclass(frozen=True)
class Team:
    """The booth as it runs, and what it runs against."""

    installation: Installation
    register: Register
    url: str
    dsn: str
    another_booth: Callable[[str], AbstractContextManager[str]]
    """A second booth with another credential; its address."""

    def agree(self, email: str) -> dict[str, Any]:
        answer = self.press(self.url, email)
        assert answer.status_code == 201
        said: dict[str, Any] = answer.json()
        return said

    def press(self, booth: str, email: str) -> httpx.Response:
        form = {"email": email, "badge": hashlib.sha256(email.encode()).hexdigest()}
        form["until"] = rfc3339(utc_now() + timedelta(days=7))
        return httpx.post(f"{booth}/agree", data=form, timeout=30)

    def outbox(self) -> list[dict[str, Any]]:
        async def rows() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.dsn)
            try:
                found = await connection.fetch(
                    "select o.*, v.statement as visitor from outbox o left join visitor v on v.statement = o.id"
                    " order by accepted_at, id"
                )
                return [dict(row) for row in found]
            finally:
                await connection.close()

        return asyncio.run(rows())

    def sealed(self, statement: str) -> dict[str, Any]:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for row in self.outbox():
                if str(row["id"]) == statement and row["sealed_at"] is not None:
                    return row
            time.sleep(0.1)
        raise AssertionError("not sealed within a minute")


def own_register(folder: Path) -> Path:
    """Make the register of an installation that has a booth: the packaged one, and what the example adds to it."""
    shutil.copytree(PACKAGED, folder)
    for name, content in read_files(CLIENT / "example/register").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("ab") as file:
            file.write(content)
    return folder


def psql(postgres: PostgresPart, *commands: str, database: str = "postgres") -> None:
    run = [str(postgres.binary("psql")), "-Xq", "-v", "ON_ERROR_STOP=1", "-d", postgres.dsn(database=database)]
    subprocess.run([*run, *(part for one in commands for part in ("-c", one))], check=True, capture_output=True)


@pytest.fixture(scope="module")
def team(room: CleanRoom, kafka: KafkaPart, postgres: PostgresPart) -> Iterator[Team]:
    """Return a booth that runs in the clean room, against a ledger with its activity in the register."""
    with free_slot(LOCAL / "tests/client", "the tests of the client package") as state:
        state.empty()
        drop = [f"drop database if exists {name} with (force)" for name in (DATABASE, TEAM)]
        psql(postgres, *drop, f"create database {TEAM}")
        register = own_register(state.folder / "register")
        secrets = state.folder / "secrets"
        secrets.mkdir(mode=0o700)
        (secrets / "grants.toml").write_text(f"booth = {json.dumps(SCOPES)}\n")
        settings = {"topic_prefix": f"client-{id(state)}.", "register_dir": str(register)}
        parts = {"kafka": kafka, "postgres": postgres}
        installation = Installation(state.folder, **parts, database=DATABASE, settings=settings)  # type: ignore[arg-type]
        outbox = room.run("import consent_ledger_client as c; print(c.outbox_sql())")
        psql(postgres, outbox, "create table visitor (statement uuid primary key, subject text)", database=TEAM)
        try:
            installation.prepare()
            installation.serve(PROCESSES)
            loaded = load(register)
            environment = room.environment | {
                "REGISTER_VERSION": loaded.version,
                "NOTICE_HASH": loaded.activity("booth").notice("en").hash,
                "DSN": postgres.dsn(database=TEAM),
                "URL": installation.base_url,
            }

            @contextmanager
            def booth(credential: str, name: str = "another-booth") -> Iterator[str]:
                process, port = Process(state.folder, name, grace=15.0), free_port()
                process.start(
                    [*room.command, str(CLIENT / "example/booth.py")],
                    directory=state.folder,
                    log=state.folder / f"{name}.log",
                    environment=environment | {"CREDENTIAL": credential, "PORT": str(port)},
                )
                try:
                    wait_for(port)
                    yield f"http://127.0.0.1:{port}"
                finally:
                    process.stop()

            with booth(installation.secrets.credential("booth"), "booth") as url:
                yield Team(installation, loaded, url, postgres.dsn(database=TEAM), booth)
        finally:
            installation.stop()
            psql(postgres, *drop)


def wait_for(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("the booth did not start")


def test_the_package_needs_what_it_declares_and_nothing_else(room: CleanRoom) -> None:
    loaded = room.run("import sys, consent_ledger_client; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert {"asyncpg", "aiohttp", "pydantic"} <= set(loaded)
    assert not {"shared", "services", "structlog", "fastapi", "aiokafka", "prometheus_client"} & set(loaded)


def test_with_kafka_it_has_the_relay_of_our_own_services(wheel: Path, tmp_path: Path) -> None:
    told = furnished(wheel, tmp_path, "kafka").run(
        "from consent_ledger_client.outbox.relay import Relay; from consent_ledger_client.kafka import Producer;"
        "print(Relay.__module__, Producer('127.0.0.1:1') is not None)"
    )
    assert told.split() == ["consent_ledger_client.outbox.relay", "True"]


def test_the_package_is_the_modules_our_own_services_run(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {
            name.removeprefix("consent_ledger_client/"): archive.read(name).decode()
            for name in archive.namelist()
            if name.endswith((".py", ".sql"))
        }
    shared = CLIENT.parent / "shared"
    same = {
        name
        for name, text in shipped.items()
        if (shared / name).is_file()
        and text == re.sub(r"(from|import) shared\b", r"\1 consent_ledger_client", (shared / name).read_text("utf-8"))
    }
    own = {
        path.relative_to(CLIENT / "consent_ledger_client").as_posix()
        for path in (CLIENT / "consent_ledger_client").rglob("*.*")
        if path.suffix != ".pyc"
    }
    assert shipped.keys() - same == own
    assert {"outbox/put.py", "outbox/relay.py", "outbox/outbox.sql", "events/types.py", "wire.py"} <= same
    for text in shipped.values():
        for module in re.findall(r"^\s*(?:from|import) consent_ledger_client\.([a-z_.]+)", text, re.MULTILINE):
            path = module.replace(".", "/")
            assert {f"{path}.py", f"{path}/__init__.py"} & shipped.keys(), module
    assert not any("import shared" in text or "from shared" in text for text in shipped.values())


def test_a_visitor_agrees_at_the_booth_and_keeps_a_receipt(team: Team) -> None:
    said = team.agree("grace@example.org")
    row = team.sealed(said["statement"])
    assert (row["result"], row["visitor"]) == ("recorded", row["id"])
    ledger = team.installation.base_url
    receipt = httpx.get(f"{ledger}{said['receipt']}&format=json", timeout=10).json()
    assert receipt["index"] == str(row["index"])
    assert receipt["record"]["dpv:hasDataSubject"]
    file, vkey = team.installation.folder / "receipt.json", team.installation.folder / "log.vkey"
    file.write_text(json.dumps(receipt))
    vkey.write_bytes(httpx.get(f"{ledger}/ledger/log/0/vkey", timeout=10).content)
    assert "VALID" in team.installation.command("verify", str(file), "--vkey", str(vkey))
    assert b"grace@example.org" not in b"".join(bytes(row["statement"]) for row in team.outbox())


def test_a_booth_that_the_ledger_does_not_know_says_so_to_its_operator_and_not_to_the_visitor(team: Team) -> None:
    rows = len(team.outbox())
    with team.another_booth("booth:wrong") as booth:
        answer = team.press(booth, "hedy@example.org")
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert "refuses our credential" in (team.installation.folder / "another-booth.log").read_text()
    # What is wrong with the form is the visitor's.
    answer = team.press(team.url, "not an address")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid-address")
    assert len(team.outbox()) == rows


def test_a_ledger_that_is_killed_is_posted_to_again_and_records_once(team: Team) -> None:
    team.installation.processes["ledger-append"].kill()
    said = team.agree("ada@example.org")
    assert [row["sealed_at"] for row in team.outbox()][-1] is None
    team.installation.serve(["ledger-append"])
    assert team.sealed(said["statement"])["result"] == "recorded"
    indexes = [row["index"] for row in team.outbox()]
    assert len(indexes) == len(set(indexes)) >= 2


def test_what_the_register_does_not_know_is_rejected_and_can_be_played_again(team: Team) -> None:
    """The outbox says why, the ledger's operator sees the same, and mends it."""
    said = team.agree("mary@example.org")
    statement = bytes(next(row["statement"] for row in team.outbox() if str(row["id"]) == said["statement"]))
    team.sealed(said["statement"])
    document = json.loads(statement)
    document["id"] = document["id"][:-4] + "ffff"
    document["data"]["purpose"] = "fair-raffle"
    refused = httpx.post(
        f"{team.installation.base_url}/ledger/statements",
        content=json.dumps(document),
        headers={"Authorization": f"Bearer {team.installation.secrets.credential('booth')}"},
        timeout=30,
    )
    assert (refused.status_code, refused.json()["reason"]) == (422, "unknown-purpose")
    (row,) = [json.loads(line) for line in team.installation.command("rejected", "list").splitlines()]
    assert (row["source"], row["statement_id"], row["reason"]) == ("booth", document["id"], "unknown-purpose")
    # The activity learns the purpose, and whoever judges is restarted with it.
    learn_the_raffle(team.installation.folder / "register")
    team.installation.processes["ledger-append"].stop()
    team.installation.serve(["ledger-append"])
    by = ["--by", "Ada", "--reason", "the raffle is in the register now"]
    assert "recorded at index" in team.installation.command("rejected", "replay", str(row["number"]), *by)
    assert team.installation.command("rejected", "list") == ""
    assert "log" in team.installation.command("log", "check")


def learn_the_raffle(register: Path) -> None:
    """Add a second purpose to the booth, and with it the next version of its notice."""
    activity = register / "activities/booth.toml"
    text = activity.read_text("utf-8").replace("notice = 1\n", "notice = 2\n")
    purpose = re.search(r"\[\[purposes\]\]\n.*?norms = \[\]\n", text, re.DOTALL)
    assert purpose is not None
    raffle = purpose[0].replace("fair-news", "fair-raffle")
    text = text.replace(purpose[0], purpose[0] + "\n" + raffle)
    activity.write_text(text, "utf-8")
    for language in ("de", "en"):
        notice = register / f"notices/booth/1.{language}.md"
        lines = notice.read_text("utf-8").splitlines(keepends=True)
        (box,) = [line for line in lines if line.startswith("[ ]")]
        after = "".join(
            line + "\n" + line.replace("fair-news", "fair-raffle") if line == box else line for line in lines
        )
        (register / f"notices/booth/2.{language}.md").write_text(after, "utf-8")
        with (register / "notices.lock").open("a") as lock:
            lock.write(f"{hashlib.sha256(after.encode()).hexdigest()}  notices/booth/2.{language}.md\n")
