"""One whole installation on this machine: Kafka, PostgreSQL, secrets, a log, and every service as four processes.

What `make demo`, the journeys and the benchmarks run against. Everything it makes is below one state folder.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import asyncpg

from infra.local.kafka import Kafka
from infra.local.postgres import Postgres
from infra.local.processes import NotStarted, Process
from shared import kafka_users, register
from shared.access import grants
from shared.migrations import migrate
from shared.process import until_available
from shared.secrets import Secrets, create_secrets
from shared.settings import Settings
from shared.topics import ensure_topics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DATABASE: Final = "consent"
PROCESSES: Final = ("ledger-append", "ledger-seal", "web", "audience")
READY: Final = ("subjects", "ledger", "newsletter", "marketing", "erasure")
LIMITS: Final = Path(__file__).with_name("limits.toml")
COMMAND: Final = Path(sys.executable).parent / "consent-ledger"


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Installation:
    """`with Installation(folder, port=8080) as installation: … installation.base_url …`."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        kafka: Kafka | None = None,
        postgres: Postgres | None = None,
        database: str = DATABASE,
        settings: Mapping[str, str] | None = None,
        kafka_admin: str = "",
    ) -> None:
        """`kafka_admin` is the administrator's password, where Kafka has one."""
        self.folder = folder
        self.port = port or free_port()
        self.base_url = f"http://localhost:{self.port}"
        self._own_parts = kafka is None and postgres is None
        self.kafka = kafka or Kafka(folder)
        self.postgres = postgres or Postgres(folder)
        self.database = database
        """Its name; two installations on one server must differ in it, or each does the other's work."""
        self._extra = dict(settings or {})
        self._kafka_admin = kafka_admin
        if kafka_admin:
            self._extra["kafka_admin_mechanism"] = "PLAIN"
        self.processes: dict[str, Process] = {}
        self._smtp_port = free_port()
        self._worker_ports = {name: free_port() for name in PROCESSES}

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def secrets(self) -> Secrets:
        return Secrets(self.folder / "secrets")

    def url(self, path: str) -> str:
        """Where this path of any service answers: here all have one address."""
        return self.base_url + path

    def _identity(self) -> str:
        """Eight hex digits that name this installation's logs for ever."""
        path = self.folder / "installation.json"
        if not path.is_file():
            partial = path.with_suffix(".part")
            partial.write_text(json.dumps({"id": secrets.token_hex(4)}), "utf-8")
            partial.rename(path)
        return str(json.loads(path.read_text("utf-8"))["id"])

    def environment(self) -> dict[str, str]:
        """The settings of this installation as environment variables."""
        values = {
            "database": self.postgres.dsn("{role}", self.database),
            "superuser_dsn": self.postgres.dsn(database=self.database),
            "kafka": self.kafka.bootstrap,
            "base_url": self.base_url,
            "log_host": f"localhost/{self._identity()}",
            "secrets_dir": str(self.folder / "secrets"),
            "signer_dir": str(self.folder / "signer"),
            "smtp_host": "127.0.0.1",
            "smtp_port": str(self._smtp_port),
            "host": "127.0.0.1",
            "port": str(self.port),
            "demo": "true",
            "erasure_spread": "2",
            "limits": str(LIMITS),
            "inbox": str(self.inbox),
            **self._extra,
        }
        return {f"CONSENT_LEDGER_{name.upper()}": value for name, value in values.items()}

    def settings(self) -> Settings:
        """The same settings, for code that runs in this process."""
        values = {name.removeprefix("CONSENT_LEDGER_").lower(): value for name, value in self.environment().items()}
        values.pop("inbox")
        return Settings.model_validate(values)

    def start(self, say: Callable[[str, float], None] = lambda _what, _seconds: None) -> None:
        """Bring everything up and wait until each service says it is ready."""
        self.prepare(say)
        _timed(say, "every service", self.serve)

    def prepare(self, say: Callable[[str, float], None] = lambda _what, _seconds: None) -> None:
        """Bring up all that services stand on, and none of them."""
        self.logs.mkdir(parents=True, exist_ok=True)
        if self._own_parts:
            with ThreadPoolExecutor(2) as pool:
                starting = [
                    pool.submit(_timed, say, "Apache Kafka", self.kafka.start),
                    pool.submit(_timed, say, "PostgreSQL", self.postgres.start),
                ]
                for one in starting:
                    one.result()
        _timed(say, "schemas, topics, keys, the log", self._make_stores)

    def _make_stores(self) -> None:
        settings = self.settings()
        sources = register.load(settings.register_dir).sources
        callers = {*grants(), *self.secrets.grants()}
        users = kafka_users.users(sources) if self._kafka_admin else []
        create_secrets(settings.secrets_dir, os.urandom, sources, callers, settings.shards, kafka_users=users)
        if self._kafka_admin:
            (settings.secrets_dir / f"kafka-{kafka_users.ADMIN}").write_text(self._kafka_admin, "ascii")

        async def prepare() -> None:
            await _create_database(self.postgres.dsn(), self.database)
            # A broker takes connections a moment before it can make topics.
            topics = functools.partial(
                ensure_topics,
                settings.kafka,
                settings.topic_prefix,
                settings.shards,
                login=settings.kafka_login(kafka_users.ADMIN),
            )
            async with asyncio.timeout(30):
                await asyncio.gather(migrate(settings.superuser_dsn), until_available(topics))

        try:
            asyncio.run(prepare())
        except TimeoutError:
            raise NotStarted("the topics", "Kafka did not make them within 30 s", self.folder / "kafka.log") from None
        if self._kafka_admin:
            self.command("topics")
        if not (self.folder / "signer").exists():
            self.command("log", "create")

    def command(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run `consent-ledger …` with these settings; what it printed, or RuntimeError."""
        done = subprocess.run(
            [str(COMMAND), *arguments],
            env={**os.environ, **self.environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def serve(self, names: Sequence[str] = PROCESSES) -> None:
        """Start these processes and wait until each says it is ready."""
        for name in names:
            self.start_process(name)
        for service in READY if "web" in names else ():
            self._wait(f"{self.base_url}/{service}/health/ready", "web")
        for name in names:
            if name != "web":
                self._wait(self.ready_url(name), name)

    def open_doors(self) -> None:
        """Start the process with the pages alone and wait until it answers, however busy this machine is."""
        self.start_process("web")
        for service in READY:
            self._wait(f"{self.base_url}/{service}/health/live", "web", float("inf"))

    def ready_url(self, worker: str) -> str:
        """Where a process without pages says whether it is ready."""
        return f"http://127.0.0.1:{self._worker_ports[worker]}/{worker}/health/ready"

    def start_process(self, name: str) -> None:
        """Start one of the four processes (again)."""
        process = self.processes.setdefault(name, Process(self.folder, name, grace=15.0))
        process.start(
            self.command_of(name),
            directory=self.folder,
            log=self.logs / f"{name}.log",
            environment={**os.environ, **self.environment_of(name)},
        )

    def command_of(self, name: str) -> list[str]:
        """How one of the four processes is started."""
        return [str(COMMAND), "serve", name]

    def environment_of(self, name: str) -> dict[str, str]:
        """The settings of one of the four processes as environment variables."""
        return {**self.environment(), "CONSENT_LEDGER_WORKER_PORT": str(self._worker_ports[name])}

    def _wait(self, url: str, process: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        said = ""
        while True:
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except (urllib.error.URLError, OSError) as error:
                if isinstance(error, urllib.error.HTTPError):
                    said = f", it says {error.read().decode(errors='replace')}"
                log = self.logs / f"{process}.log"
                if not self.processes[process].running:
                    raise NotStarted(process, f"it ended with {self.processes[process].status}", log) from None
                if time.monotonic() > until:
                    raise NotStarted(process, f"not ready after {seconds:.0f} s{said}", log) from None
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the services, then the parts, in the order in which nothing is lost."""
        for name in ("web", "audience", "ledger-append", "ledger-seal"):
            if name in self.processes:
                self.processes[name].send(self.processes[name].stop_signal)
        for process in self.processes.values():
            process.stop()
        if self._own_parts:
            self.kafka.stop()
            self.postgres.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class CommandFailed(RuntimeError):
    """A command of ours ended with another status than 0."""

    def __init__(self, arguments: tuple[str, ...], status: int, printed: str, complained: str) -> None:
        self.status, self.printed, self.complained = status, printed, complained
        super().__init__(f"consent-ledger {' '.join(arguments)} ended with {status}\n{printed}{complained}")


def _timed(say: Callable[[str, float], None], what: str, step: Callable[[], None]) -> None:
    began = time.monotonic()
    step()
    say(what, time.monotonic() - began)


async def _create_database(superuser_dsn: str, name: str) -> None:
    connection = await asyncpg.connect(superuser_dsn)
    try:
        if not await connection.fetchval("select true from pg_database where datname = $1", name):
            await connection.execute(f"create database {name}")
    finally:
        await connection.close()
