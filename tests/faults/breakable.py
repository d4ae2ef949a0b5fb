"""A whole installation that can be broken: its own Kafka and PostgreSQL, and a way in between wherever two parts talk.

`ways["web.kafka"]`, `ways["ledger-append.postgresql"]`, `ways["audience.ledger"]`, … are named after who goes there
and where; `clocks["ledger-seal"]` is what that process takes for the time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from infra.local.installation import DATABASE, PROCESSES, Installation
from infra.local.kafka import HOST, Kafka, free_ports
from infra.local.postgres import SOCKET, Postgres
from infra.local.state import LOCAL, free_slot
from tests.faults.proxy import Way, Ways
from tests.faults.shifted import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from infra.local.processes import Process

SERVICES: Final = {"web": ("subjects", "ledger", "marketing"), "audience": ("ledger",)}
"""Whom each process calls over HTTP."""


class MovablePostgres(Postgres):
    """A server that can be started behind another command: `enter` is what its own is preceded by."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.enter: list[str] = []

    def _run(self, process: Process, command: Sequence[str]) -> None:
        if not self.enter or process is not self._server:
            super()._run(process, command)
            return
        environment = {"PATH": os.defpath, "LC_ALL": "C"}
        process.start([*self.enter, *command], directory=Path("/"), log=self.log, environment=environment)


class Breakable(Installation):
    """An installation whose four processes reach everything over ways; we, and its commands, go directly."""

    postgres: MovablePostgres

    def __init__(
        self,
        folder: Path,
        ways: Ways,
        sockets: Path,
        smtp_port: Callable[[], int],
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`sockets` is a folder with a short path; `smtp_port` is asked for each mail where the mail server is."""
        self.ways, self._sockets = ways, sockets
        # Like the broker's own, below the ports of outgoing connections: a way that is cut must get its port back.
        count = len(PROCESSES) + sum(map(len, SERVICES.values())) + 1
        ports = iter(free_ports(count))
        self._kafka_ports = dict(zip(PROCESSES, ports, strict=False))
        listeners = {_listener(name): port for name, port in self._kafka_ports.items()}
        kafka, self.postgres = Kafka(folder, ways=listeners), MovablePostgres(folder)
        super().__init__(folder, kafka=kafka, postgres=self.postgres, settings={"demo": "false", **(settings or {})})
        self._own_parts = True
        self.clocks: dict[str, Clock] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for name in PROCESSES:
            self.clocks[name] = Clock(folder / f"{name}.clock")
            self._open(f"{name}.kafka", (HOST, self._kafka_ports[name]), self._broker(name))
            place = sockets / name
            place.mkdir(mode=0o700)
            self._open(f"{name}.postgresql", place / SOCKET, lambda: Path(self.postgres.socket_dir) / SOCKET)
        self._urls: dict[str, dict[str, str]] = {}
        for name, services in SERVICES.items():
            for service in services:
                port = next(ports)
                self._open(f"{name}.{service}", (HOST, port), lambda: (HOST, self.port))
                self._urls.setdefault(name, {})[f"{service}_url"] = f"http://{HOST}:{port}"
        port = next(ports)
        self._open("web.mail", (HOST, port), lambda: (HOST, smtp_port()))
        self._extra["smtp_port"] = str(port)

    def _open(self, name: str, listens: tuple[str, int] | Path, leads_to: Callable[[], tuple[str, int] | Path]) -> None:
        self.ways.open(name, listens, leads_to)

    def _broker(self, name: str) -> Callable[[], tuple[str, int]]:
        return lambda: (HOST, self.kafka.port_of(_listener(name)))

    def to(self, part: str) -> list[Way]:
        """Every way to this part: `kafka`, `postgresql`, `ledger`, `mail`, …"""
        return [way for name, way in self.ways.all.items() if name.endswith(f".{part}")]

    def command_of(self, name: str) -> list[str]:
        return [sys.executable, "-m", "tests.faults.shifted", str(self.clocks[name].file), "serve", name]

    def environment_of(self, name: str) -> dict[str, str]:
        own = {
            "database": f"postgresql://{{role}}@/{DATABASE}?host={quote(str(self._sockets / name), safe='/')}",
            "kafka": f"{HOST}:{self._kafka_ports[name]}",
            **self._urls.get(name, {}),
        }
        return super().environment_of(name) | {f"CONSENT_LEDGER_{key.upper()}": value for key, value in own.items()}


def _listener(process: str) -> str:
    return process.replace("-", "").upper()


@contextlib.contextmanager
def breakable_installation(
    what: str, smtp_port: Callable[[], int], settings: Mapping[str, str] | None = None
) -> Iterator[Breakable]:
    """Everything running, from an empty state folder."""
    with (
        free_slot(LOCAL / "tests" / what, f"the {what} tests") as state,
        tempfile.TemporaryDirectory(prefix="ways-") as sockets,
        Ways() as ways,
    ):
        state.empty()
        with Breakable(state.folder, ways, Path(sockets), smtp_port, settings) as installation:
            yield installation
