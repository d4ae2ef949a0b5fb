"""The stack of docker-compose.yml on an engine of our own, as its operator, its people and its attacker reach it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from infra.compose import secrets
from infra.local.installation import COMMAND, DATABASE, CommandFailed, free_port
from infra.local.postgres import installed_programs
from infra.local.state import CHECKOUT
from shared.secrets import Secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.compose.engine import Engine

VERSION: Final = "test"
PROJECT: Final = "consent-ledger-test"
ROLES: Final = ("newsletter", "subjects", "ledger", "ledger-append", "ledger-seal", "marketing", "audience")
STAYS_UP: Final = (*ROLES, "postgres", "kafka", "mail", "edge")
JOBS: Final = ("migrate", "topics")


@dataclass(frozen=True)
class Superuser:
    """PostgreSQL as its superuser reaches it from the machine; what infra/local/tampering.py asks for."""

    stack: Stack

    def dsn(self, user: str = "postgres", database: str = "postgres") -> str:
        """For a role without its password, which `Settings.dsn` adds."""
        password = (self.stack.folder / "secrets/database-postgres").read_text("ascii").strip()
        who = f"postgres:{quote(password)}" if user == "postgres" else quote(user, safe="{}")
        return f"postgresql://{who}@{self.stack.address('postgres')}:5432/{database}"

    @staticmethod
    def binary(name: str) -> Path:
        return installed_programs() / name


class Stack:
    """What the story calls an installation: `url`, `command`, `secrets`, `postgres`, `database`, `folder`, `logs`."""

    database = DATABASE

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder / "installation"
        self.logs = folder
        self.ports = {"edge": free_port(), "inbox": free_port()}
        self.base_url = f"http://localhost:{self.ports['edge']}"
        self.postgres = Superuser(self)

    @property
    def secrets(self) -> Secrets:
        return Secrets(self.folder / "secrets")

    @property
    def environment(self) -> dict[str, str]:
        """What an operator would write into .env."""
        return {
            "CONSENT_LEDGER_FOLDER": str(self.folder),
            "CONSENT_LEDGER_VERSION": VERSION,
            "CONSENT_LEDGER_UID": str(secrets.ORDINARY),
            "CONSENT_LEDGER_GID": str(secrets.ORDINARY),
            "CONSENT_LEDGER_EDGE_PORT": str(self.ports["edge"]),
            "CONSENT_LEDGER_INBOX_PORT": str(self.ports["inbox"]),
            "CONSENT_LEDGER_BASE_URL": self.base_url,
            "CONSENT_LEDGER_CAMPAIGN_RATE": "4",
        }

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`docker compose …` on our file."""
        files = (CHECKOUT / "docker-compose.yml", Path(__file__).with_name("story.yaml"))
        file = ["docker", "compose", "-p", PROJECT, "--project-directory", str(CHECKOUT), "--profile", "demo"]
        file += [word for one in files for word in ("-f", str(one))]
        return self.engine.run(*file, *arguments, check=check, environment=self.environment)

    def up(self) -> None:
        """The three steps at the head of docker-compose.yml."""
        secrets.create(self.folder)
        secrets.own(self.folder)
        self.compose("run", "--rm", "-T", "log-create")
        self.again()

    def again(self) -> None:
        """`docker compose up`, and the logs of those who do not come up."""
        done = self.compose("up", "--detach", "--wait", "--no-build", check=False)
        if done.returncode:
            logs = self.compose("logs", "--tail=40", check=False).stdout
            raise AssertionError(f"the stack did not come up\n{done.stderr[-3000:]}\n{logs[-12000:]}")

    def down(self) -> None:
        self.compose("--profile", "create", "--profile", "operate", "down", "--volumes", "--timeout", "20")

    # -- how it is reached -----------------------------------------------------------------------------------------

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine says of the one container of a service."""
        found: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", f"{PROJECT}-{service}-1"))
        return found[0]

    def address(self, service: str) -> str:
        """An address by which this machine, and nobody outside, reaches a container."""
        networks = self.inspect(service)["NetworkSettings"]["Networks"].values()
        return next(str(one["IPAddress"]) for one in networks if one["IPAddress"])

    def url(self, path: str) -> str:
        """Where this path answers: pages at the edge, what needs a credential at its own service."""
        service = path.split("/")[1]
        if service == "inbox":
            return f"http://localhost:{self.ports['inbox']}{path}"
        return f"http://{self.address(service)}:8080{path}"

    def command(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run `consent-ledger …` on this machine against the containers."""
        settings = {
            "DATABASE": self.postgres.dsn("{role}", DATABASE),
            "SUPERUSER_DSN": self.postgres.dsn(database=DATABASE),
            "SECRETS_DIR": str(self.folder / "secrets"),
            "SIGNER_DIR": str(self.folder / "signer"),
            **{
                f"{name.upper()}_URL": f"http://{self.address(name)}:8080"
                for name in ("newsletter", "subjects", "ledger", "marketing", "erasure")
            },
        }
        given = {f"CONSENT_LEDGER_{name}": value for name, value in settings.items()}
        done = subprocess.run(
            [str(COMMAND), *arguments],
            env={**os.environ, **given, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def select(self, statement: str) -> str:
        """One value, as PostgreSQL's superuser reads it."""
        psql = [str(self.postgres.binary("psql")), "-XAtq", "-d", self.postgres.dsn(database=DATABASE), "-c", statement]
        return subprocess.run(psql, check=True, capture_output=True, text=True).stdout.strip()

    # -- what happens to it ----------------------------------------------------------------------------------------

    def kill(self, service: str) -> float:
        """End a container's first process as the kernel would, and wait until all is ready again; seconds."""
        before = self.inspect(service)["State"]["Pid"]
        began = time.monotonic()
        os.kill(before, signal.SIGKILL)
        self.wait(f"{service} to be started again", lambda: self.inspect(service)["State"]["Pid"] not in {0, before})
        self.wait(f"everything to be ready after {service} was killed", self.is_ready)
        return time.monotonic() - began

    def is_ready(self) -> bool:
        """Whether every role says so, and the edge passes on."""
        asked = [f"http://{self.address(role)}:8080/{role}/health/ready" for role in ROLES]
        return all(map(_answers, [*asked, f"{self.base_url}/newsletter/health/live"]))

    def wait(self, what: str, holds: Any, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                if holds():
                    return
            except StopIteration:  # a container that is being started has no address yet
                pass
            if time.monotonic() > end:
                logs = self.compose("logs", "--tail=25", check=False).stdout
                raise AssertionError(f"waited in vain for {what}\n{logs[-15000:]}")
            time.sleep(0.1)

    def forget(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3):
            return True
    except (urllib.error.URLError, OSError):
        return False
