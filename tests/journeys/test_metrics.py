"""What the running product tells Prometheus: every figure that is alarmed or drawn, and nothing about anybody."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from infra.observability import dashboard
from services.serve import ROLES
from tests.journeys.people import granted, stopped

if TYPE_CHECKING:
    from prometheus_client import Metric

    from tests.journeys.people import World

ROOT: Final = Path(__file__).resolve().parents[2]
PREFIXES: Final = {role.replace("-", "_"): role for role in [*ROLES, "start"]}
# `ledger_append_…` is the appender's, though it begins with the ledger's name.
NAME: Final = re.compile(rf"\b(?:{'|'.join(sorted(PREFIXES, key=len, reverse=True))})_[a-z_]+\b(?!\s*=)")
MOST_SERIES: Final = 40
"""Of one metric, but for the durations of requests: routes times methods times answers."""
OTHER_UNITS: Final = re.compile(r"_(ms|millis|milliseconds|minutes|hours|days|kb|kib|mb|percent)(_|$)")
LABELS: Final = {
    "act", "answer", "check", "compartment", "decision", "duty", "holder", "kind", "le", "limit", "link", "method",
    "outcome", "reason", "route", "scope", "shard", "source", "stage", "state", "status", "witness",
}  # fmt: skip


def scraped(world: World, service: str) -> str:
    """What Prometheus gets from one service, with its own credential."""
    installation = world.installation
    worker = service in {"ledger-append", "ledger-seal", "audience"}
    base = f"http://127.0.0.1:{installation._worker_ports[service]}" if worker else installation.base_url
    request = urllib.request.Request(
        f"{base}/metrics" if service == "start" else f"{base}/{service}/metrics",
        headers={"Authorization": f"Bearer {installation.secrets.credential('monitoring')}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def said(world: World) -> dict[str, str]:
    """The text of every service's metrics, after people have come, been written to, and gone."""
    person = world.person(name="nobody-counts-me")
    confirmation, welcome = person.subscribe()
    world.issue_is_out(world.begin_issue())
    granted(world, person.subject(confirmation))
    assert stopped(person.one_click(welcome.way_out))
    person.browser.get(f"{world.base}/newsletter/{person.address}?email={person.address}")
    person.quiet(person.subject(confirmation))
    return {service: scraped(world, service) for service in PREFIXES.values()}


@pytest.fixture(scope="module")
def families(said: dict[str, str]) -> dict[str, list[Metric]]:
    """The same, read."""
    return {service: list(text_string_to_metric_families(text)) for service, text in said.items()}


def test_every_metric_bears_its_services_name_a_base_unit_and_a_help_text(families: dict[str, list[Metric]]) -> None:
    for service, metrics in families.items():
        for metric in metrics:
            where = f"{service}: {metric.name}"
            assert metric.name.startswith(f"{service.replace('-', '_')}_"), where
            assert len(metric.documentation.split()) >= 2, where
            assert not OTHER_UNITS.search(metric.name), where
            assert metric.type in {"counter", "gauge", "histogram"}, where
            assert (metric.type == "histogram") <= metric.name.endswith("_seconds"), where
            for sample in metric.samples:
                assert (metric.type == "counter") <= sample.name.endswith("_total"), where
                assert sample.value >= 0, where


def test_labels_are_few_and_their_values_too(families: dict[str, list[Metric]]) -> None:
    for service, metrics in families.items():
        for metric in metrics:
            where = f"{service}: {metric.name}"
            assert {label for sample in metric.samples for label in sample.labels} <= LABELS, where
            if not metric.name.endswith("_http_request_seconds"):
                assert len(metric.samples) <= MOST_SERIES, where
            for sample in metric.samples:
                assert re.fullmatch(r"/[a-z0-9{}:_/.-]*|\(none\)", sample.labels.get("route", "/")), where
                others = [value for label, value in sample.labels.items() if label not in {"route", "le"}]
                assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _'-]{0,40}", value) for value in others), where


def test_no_metric_holds_anything_about_a_person(world: World, said: dict[str, str]) -> None:
    text = "\n".join(said.values())
    assert "@" not in text
    assert "nobody-counts-me" not in text
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", text)
    for link in world.links:
        assert link.rsplit("/", 1)[-1] not in text


def test_everything_that_is_alarmed_drawn_or_explained_is_there(families: dict[str, list[Metric]]) -> None:
    there = set()
    for metrics in families.values():
        for metric in metrics:
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(metric.type, [""])
            there |= {metric.name + suffix for suffix in suffixes}
    groups = yaml.safe_load((ROOT / "infra/observability/alerts.yml").read_text("utf-8"))["groups"]
    asked = {name for group in groups for rule in group["rules"] for name in NAME.findall(rule["expr"])}
    drawn = {
        name
        for panel in json.loads(dashboard.FILE.read_text("utf-8"))["panels"]
        for target in panel.get("targets", [])
        for name in NAME.findall(target["expr"])
    }

    runbook = (ROOT / "docs/runbook.md").read_text("utf-8")
    explained = {name for quoted in re.findall(r"`([^`\n]+)`", runbook) for name in NAME.findall(quoted)}
    explained -= {name for name in explained if name.endswith("_")}  # all of a kind

    assert len(asked) > 20
    assert len(explained) > 30
    assert len(drawn) > 30
    assert asked | drawn <= there
    assert explained <= there | {name.removesuffix("_bucket") for name in there}


def test_ages_are_of_now(families: dict[str, list[Metric]]) -> None:
    """Somebody is there to be seen, and everything works."""
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for metrics in families.values()
        for metric in metrics
        for sample in metric.samples
    }
    assert 0 < found["ledger_mark_age_seconds", "0", "newsletter"] < 10
    assert found["ledger_fresh_seconds", "0"] < 10
    assert found["marketing_follower_stale_seconds", "0"] < 10
    assert found["newsletter_outbox_unsealed", "0"] == 0
    appended = found["ledger_log_leaves", "0", "appended"]
    assert appended > 1
    assert found["newsletter_withdrawals_total", "stopped"] >= 1
    assert found["marketing_permits_total", "consent-in-force", "granted"] >= 2
    assert all(value == 1 for name, value in found.items() if name[0].endswith("_ready"))
