"""A container engine of our own: it shares no socket, no image, no network and no container with any other."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from infra.local import debian
from infra.local.processes import PAUSE, NotStarted, Process
from infra.local.state import short_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

READY_WITHIN: Final = 60.0


class Engine:
    """`with Engine(folder) as engine: engine.docker("ps")`. Needs root."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.log = state_dir / "dockerd.log"
        # The path of a socket has at most 107 bytes, and these go some folders down.
        self._folder = Path(tempfile.gettempdir()) / f"consent-ledger-engine-{short_hash(state_dir)}"
        self._daemon = Process(state_dir, "dockerd", grace=60.0)

    @property
    def environment(self) -> dict[str, str]:
        """Leads every client to this engine, and to the settings of nobody's home."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_"))},
            "DOCKER_HOST": f"unix://{self._folder}/docker.sock",
            "DOCKER_CONFIG": str(self._folder / "config"),
            "DOCKER_BUILDKIT": "0",  # the builder that every engine has
        }

    def start(self) -> None:
        """Return when it answers."""
        if os.geteuid() != 0:
            raise NotStarted("the container engine", "only root can start one")
        dockerd = shutil.which("dockerd")
        if dockerd is None:
            raise NotStarted("the container engine", "dockerd is missing; on Debian: apt-get install docker.io")
        self._daemon.claim()
        self._sweep()  # what a killed run left
        plugins = self._folder / "config/cli-plugins"
        plugins.mkdir(mode=0o700, parents=True)
        (plugins / "docker-compose").symlink_to(debian.program(debian.COMPOSE))
        settings = self._folder / "daemon.json"  # and nobody else's
        settings.write_text("{}", "ascii")
        self._daemon.start(
            [
                dockerd,
                f"--data-root={self._folder}/data",
                f"--exec-root={self._folder}/run",
                f"--config-file={settings}",
                f"--pidfile={self._folder}/docker.pid",
                f"--host=unix://{self._folder}/docker.sock",
                # Of the machine's own networks nothing is changed: no rule, no address translation, no bridge of ours
                # but those of compose's networks. So nothing in a container finds a way out; builds use the host's.
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                "--bridge=none",
                "--containerd-namespace=consent-ledger-test",
                "--containerd-plugins-namespace=consent-ledger-test-plugins",
            ],
            directory=self._folder,
            log=self.log,
        )
        end = time.monotonic() + READY_WITHIN
        while self.run("docker", "info", check=False).returncode:
            if not self._daemon.running or time.monotonic() > end:
                raise NotStarted("the container engine", f"status {self._daemon.status}", self.log)
            time.sleep(PAUSE)

    def run(
        self,
        *command: str,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
        given: bytes | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a client of this engine."""
        done = subprocess.run(
            command, env={**self.environment, **(environment or {})}, input=given, capture_output=True, check=False
        )
        said = subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())
        if check and said.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {said.returncode}\n{said.stdout}\n{said.stderr}")
        return said

    def docker(self, *arguments: str) -> str:
        """What `docker …` printed."""
        return self.run("docker", *arguments).stdout.strip()

    def stop(self) -> None:
        """Remove every container and network, stop the engine, and leave nothing of it."""
        if self._daemon.running:
            if containers := self.docker("ps", "-aq").split():
                self.docker("rm", "-fv", *containers)
            self.docker("network", "prune", "-f")
        self._daemon.stop()
        self._sweep()

    def _sweep(self) -> None:
        for line in Path("/proc/self/mounts").read_text("utf-8").splitlines():
            if (place := line.split()[1]).startswith(f"{self._folder}/"):
                subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
