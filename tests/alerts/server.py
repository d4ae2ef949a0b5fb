"""A real Prometheus with the committed scrape config and alerts, its clock run faster: it asks every second."""

from __future__ import annotations

import json
import re
import shutil
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import yaml

from infra.local.installation import free_port
from infra.local.processes import Process
from infra.local.screen import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.local.installation import Installation

OBSERVABILITY: Final = Path(__file__).resolve().parents[2] / "infra/observability"
WORKERS: Final = ("ledger-append", "ledger-seal", "audience")
# A minute of waiting is two seconds here, and what is counted over a quarter of an hour is counted over twenty; what an
# alert asks of an age is asked as it stands.
WAITS: Final = "2s"
COUNTS_OVER: Final = "20s"


def alerts() -> list[dict[str, Any]]:
    """Every committed alert."""
    groups = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def program(name: str) -> str:
    """Path of prometheus or promtool; a part that is missing is a failure."""
    found = shutil.which(name)
    assert found, f"{name} is missing; on Debian: apt-get install prometheus"
    return found


@dataclass(frozen=True)
class Firing:
    """One alert that fires."""

    name: str
    labels: dict[str, str]
    summary: str


class Prometheus:
    """Scrapes one installation, as infra/observability/prometheus.yml says."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._folder = installation.folder / "prometheus"
        self._port = free_port()
        self._process = Process(installation.folder, "prometheus")
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._folder.mkdir()
        (self._folder / "alerts.yml").write_text(self._rules(), "utf-8")
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(self._config()), "utf-8")
        command = [
            program("prometheus"),
            f"--config.file={self._folder}/prometheus.yml",
            f"--storage.tsdb.path={self._folder}/data",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        self._process.start(command, directory=self._folder, log=self._installation.logs / "prometheus.log")
        until("Prometheus", self._is_up, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def _is_up(self) -> bool:
        try:
            return len(self.ask("up")) == len(self._targets())
        except OSError:
            return False

    def _targets(self) -> list[dict[str, Any]]:
        config = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text("utf-8"))
        targets: list[dict[str, Any]] = config["scrape_configs"][0]["static_configs"]
        return targets

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        job = config["scrape_configs"][0]
        job["basic_auth"]["password_file"] = str(self._installation.folder / "secrets/credential-monitoring.1")
        for target in job["static_configs"]:
            service = target["labels"]["service"]
            worker = service in WORKERS
            port = self._installation._worker_ports[service] if worker else self._installation.port
            target["targets"] = [f"127.0.0.1:{port}"]
        return config

    def _rules(self) -> str:
        text = (OBSERVABILITY / "alerts.yml").read_text("utf-8")
        text = re.sub(r"\[\d+[mh]\]", f"[{COUNTS_OVER}]", text)
        return re.sub(r"^( +for:) \d+[mh]$", rf"\1 {WAITS}", text, flags=re.MULTILINE)

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.loads(answer.read())["data"]

    def ask(self, query: str) -> list[dict[str, Any]]:
        """An instant query's result."""
        return list(self._get("/api/v1/query?" + urllib.parse.urlencode({"query": query}))["result"])

    def firing(self) -> list[Firing]:
        """Every alert that fires now."""
        return [
            Firing(one["labels"]["alertname"], one["labels"], one["annotations"]["summary"])
            for one in self._get("/api/v1/alerts")["alerts"]
            if one["state"] == "firing"
        ]

    def names(self) -> set[str]:
        return {one.name for one in self.firing()}

    def fires(self, *names: str, meanwhile: Callable[[], object] = lambda: None, seconds: float = 60) -> list[Firing]:
        """Wait until each of these has fired; whatever else fired until then is among the answer."""
        seen: dict[tuple[str, str], Firing] = {}

        def all_of_them() -> bool:
            meanwhile()
            seen.update({(one.name, json.dumps(one.labels)): one for one in self.firing()})
            return {name for name, _ in seen} >= set(names)

        try:
            until("the alerts", all_of_them, seconds)
        except Exception as error:
            missing = set(names) - {name for name, _ in seen}
            raise AssertionError(f"did not fire: {sorted(missing)}") from error
        return list(seen.values())

    def falls_silent(self, seconds: float = 90) -> None:
        """Wait until nothing fires any more."""
        try:
            until("silence", lambda: not self.firing(), seconds)
        except Exception as error:
            raise AssertionError(f"still fires: {self.firing()}") from error
