"""One handle on the real Kafka and the real PostgreSQL that the tests run against, wherever these come from.

In this order: an address from the environment (`CONSENT_LEDGER_TEST_KAFKA=host:port`,
`CONSENT_LEDGER_TEST_POSTGRES=postgresql://superuser:password@host:port/`), a container if an engine answers and has
the image already, else a local process. A part that cannot be had is a failure, never a skip.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from infra.local.kafka import Kafka, answers, free_ports
from infra.local.postgres import Postgres, installed_programs
from infra.local.state import LOCAL, State, free_slot

KAFKA_IMAGE = "apache/kafka:4.4.0"
POSTGRES_IMAGE = "postgres:18"
ENGINE_ANSWERS_WITHIN = 2  # seconds
CONTAINER_READY_WITHIN = 60  # seconds


class Server(Protocol):
    """What a fault test does to a part."""

    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...


class Unmovable:
    """A part that somebody else runs: it cannot be stopped from here, and a test that must do so fails."""

    def stop(self) -> None:
        pass

    def kill(self) -> None:
        raise AssertionError("this test kills a part; run it without an address in CONSENT_LEDGER_TEST_…")

    restart = kill


@dataclass(frozen=True)
class KafkaPart:
    """A Kafka broker: `kind` is address, container or local."""

    kind: str
    bootstrap: str
    server: Server = field(repr=False)


@dataclass(frozen=True)
class PostgresPart:
    """A PostgreSQL server: `kind` is address, container or local. Every role is trusted, none needs a password."""

    kind: str
    server: Server = field(repr=False)
    host: str
    port: int | None = None
    password: str | None = field(default=None, repr=False)

    def dsn(self, user: str = "postgres", database: str = "postgres") -> str:
        """Return the address of a database for a role (or for the template `{role}`)."""
        role = quote(user, safe="{}")
        who = role if self.password is None else f"{role}:{quote(self.password)}"
        if self.host.startswith("/"):
            return f"postgresql://{who}@/{quote(database)}?host={quote(self.host, safe='/')}"
        return f"postgresql://{who}@{self.host}:{self.port or 5432}/{quote(database)}"

    def binary(self, name: str) -> Path:
        """Path of psql, pg_dump, … of version 18."""
        return installed_programs() / name


@dataclass(frozen=True)
class Database:
    """A database that belongs to one test alone."""

    name: str
    part: PostgresPart

    def dsn(self, user: str = "postgres") -> str:
        """Return its address for a role."""
        return self.part.dsn(user, self.name)


@dataclass(frozen=True)
class Plan:
    """Where each part will come from; made without starting anything."""

    kafka: str
    postgres: str

    def __str__(self) -> str:
        return f"real parts: Kafka {self.kafka}, PostgreSQL {self.postgres}"


def plan(environment: Mapping[str, str] = os.environ) -> Plan:
    """Decide where the parts come from."""
    images = _images_at_hand()

    def choose(variable: str, image: str) -> str:
        if environment.get(variable):
            return f"at the address in {variable}"
        return f"in a container of {image}" if image in images else "as a local process"

    return Plan(
        kafka=choose("CONSENT_LEDGER_TEST_KAFKA", KAFKA_IMAGE),
        postgres=choose("CONSENT_LEDGER_TEST_POSTGRES", POSTGRES_IMAGE),
    )


def _images_at_hand() -> set[str]:
    """Return our images that a container engine has already; empty if none answers. Nothing is ever pulled."""
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return set()
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415  slow to import, and of no use without an engine
    from docker.errors import DockerException  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        client = docker.from_env(timeout=ENGINE_ANSWERS_WITHIN)
        try:
            known = {tag for image in client.images.list() for tag in image.tags}
        finally:
            client.close()
    except (DockerException, OSError):
        return set()
    return known & {KAFKA_IMAGE, POSTGRES_IMAGE}


class Parts:
    """The parts of one test session: each started when first asked for, all stopped by `close`."""

    def __init__(self, chosen: Plan) -> None:
        self.plan = chosen
        self._open = contextlib.ExitStack()
        self._state: State | None = None
        self._kafka: KafkaPart | None = None
        self._postgres: PostgresPart | None = None

    def kafka(self) -> KafkaPart:
        """Return the broker, started if need be."""
        if self._kafka is None:
            self._kafka = self._open.enter_context(self._start_kafka())
        return self._kafka

    def postgres(self) -> PostgresPart:
        """Return the server, started if need be."""
        if self._postgres is None:
            self._postgres = self._open.enter_context(self._start_postgres())
        return self._postgres

    def close(self) -> None:
        """Stop what was started."""
        self._open.close()

    def state_folder(self) -> Path:
        """Return a folder that no other test session uses now, emptied of what an earlier one kept."""
        if self._state is None:
            self._state = free_slot(LOCAL / "tests", "a test run")
            self._open.callback(self._state.release)
            self._state.empty()
        return self._state.folder

    @contextlib.contextmanager
    def _start_kafka(self) -> Iterator[KafkaPart]:
        if "address" in self.plan.kafka:
            yield KafkaPart("address", os.environ["CONSENT_LEDGER_TEST_KAFKA"], Unmovable())
        elif "container" in self.plan.kafka:
            with _kafka_container().run() as server:
                yield KafkaPart("container", f"127.0.0.1:{server.port}", server)
        else:
            with Kafka(self.state_folder()) as broker:
                yield KafkaPart("local", broker.bootstrap, broker)

    @contextlib.contextmanager
    def _start_postgres(self) -> Iterator[PostgresPart]:
        if "address" in self.plan.postgres:
            address = urlsplit(os.environ["CONSENT_LEDGER_TEST_POSTGRES"])
            yield PostgresPart("address", Unmovable(), address.hostname or "localhost", address.port, address.password)
        elif "container" in self.plan.postgres:
            with _postgres_container().run() as container:
                yield PostgresPart("container", container, "127.0.0.1", container.port)
        else:
            with Postgres(self.state_folder()) as server:
                yield PostgresPart("local", server, server.socket_dir)


@dataclass(frozen=True)
class _Container:
    """How an image is run; we choose the port outside: a broker must know it, and a restart must not change it."""

    image: str
    port: int
    inside: int
    environment: Mapping[str, str]
    ready: Callable[[int], bool] = field(repr=False)

    @contextlib.contextmanager
    def run(self) -> Iterator[_ContainerServer]:
        """Start it, and stop and remove it afterwards."""
        from testcontainers.core.config import testcontainers_config  # noqa: PLC0415  slow, and seldom needed
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415

        testcontainers_config.ryuk_disabled = True  # its image may not be here either; we stop our containers ourselves
        container = DockerContainer(self.image).with_bind_ports(self.inside, self.port)
        for name, value in self.environment.items():
            container.with_env(name, value)
        with container:
            server = _ContainerServer(self, container)
            server.wait_ready()
            yield server


def _postgres_container() -> _Container:
    def ready(port: int) -> bool:
        # The image sets itself up with a server that listens on no address, so the first answer is the real one's.
        ask = [str(installed_programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
        return subprocess.run(ask, check=False).returncode == 0

    settings = {"POSTGRES_HOST_AUTH_METHOD": "trust"}
    return _Container(POSTGRES_IMAGE, free_ports()[0], 5432, settings, ready)


def _kafka_container() -> _Container:
    port = free_ports()[0]
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://127.0.0.1:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@127.0.0.1:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_BROKER_SESSION_TIMEOUT_MS": "2000",
        "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS": "500",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
    return _Container(KAFKA_IMAGE, port, port, settings, answers)


class _ContainerServer:
    def __init__(self, options: _Container, container: Any) -> None:
        self._options, self._container = options, container

    @property
    def port(self) -> int:
        return self._options.port

    def wait_ready(self) -> None:
        end = time.monotonic() + CONTAINER_READY_WITHIN
        while not self._options.ready(self.port):
            if time.monotonic() > end:
                raise AssertionError(f"the container of {self._options.image} did not come up")
            time.sleep(0.05)

    def stop(self) -> None:
        self._container.get_wrapped_container().stop()

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def restart(self) -> None:
        self._container.get_wrapped_container().restart()
        self.wait_ready()
