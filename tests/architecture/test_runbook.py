"""Alerts, runbook and tests belong together: each alert has its page, its cases and its provocation, and no other."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from click import Command, Context, Group

from infra.observability import dashboard
from services.cli import app
from services.ledger import prepare, seal, store
from services.ledger.outside import witnesses
from services.serve import ROLES
from shared.access import grants

ROOT = Path(__file__).resolve().parents[2]
OBSERVABILITY = ROOT / "infra/observability"
RUNBOOK = (ROOT / "docs/runbook.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
PARTS = ("For people.", "Look.", "Do.", "By itself.", "Call.")
COMMAND = re.compile(r"^(consent-ledger .+)$|`(consent-ledger [^`]+)`", re.MULTILINE)
LOGGED = re.compile(r"log(?:ger)?\.(?:info|warning|error|critical)\(\s*\"([a-z-]+)\"")


def rules() -> dict[str, dict[str, Any]]:
    """Every alert by its name."""
    groups = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_every_alert_has_its_section_and_every_section_its_alert_in_the_same_order() -> None:
    assert list(SECTIONS) == list(rules())


@pytest.mark.parametrize("alert", rules())
def test_an_alert_says_how_urgent_it_is_and_where_to_read_on(alert: str) -> None:
    rule = rules()[alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"


@pytest.mark.parametrize("alert", rules())
def test_a_section_says_what_it_means_how_to_look_what_to_do_and_whom_to_call(alert: str) -> None:
    said = re.findall(r"^\*\*([^*]+)\*\*", SECTIONS[alert], re.MULTILINE)
    assert tuple(said) == PARTS


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_quiet() -> None:
    cases = yaml.safe_load((OBSERVABILITY / "alerts_test.yml").read_text("utf-8"))["tests"]
    names = [case["name"] for case in cases]
    assert names == [f"{alert} {what}" for alert in rules() for what in ("fires", "is quiet")]
    for case in cases:
        last = case["alert_rule_test"][-1]
        assert last["alertname"] == case["name"].split()[0]
        assert bool(last["exp_alerts"]) == case["name"].endswith("fires")


def test_every_alert_is_provoked_on_a_running_installation() -> None:
    provoked = set(re.findall(r"\"(\w+)\"", " ".join(calls_of_fires())))
    assert set(rules()) <= provoked


def calls_of_fires() -> list[str]:
    """What the tests wait for, as they write it down."""
    text = (ROOT / "tests/alerts/test_alerts.py").read_text("utf-8")
    return re.findall(r"prometheus\.fires\(([^)]*)\)", text)


def commands() -> list[str]:
    """Each line with our command in the runbook."""
    return [block or quoted for block, quoted in COMMAND.findall(RUNBOOK)]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_of_the_runbook_is_understood_as_it_stands(line: str) -> None:
    command: Command = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    context = Context(command, info_name="consent-ledger")
    while isinstance(command, Group):
        name = words.pop(0)
        assert name in command.commands, line
        command = command.commands[name]
        context = Context(command, info_name=name, parent=context)
    command.make_context(command.name, words, parent=context)  # raises what a person would be told
    if command.name == "serve":
        assert set(words) <= {*ROLES, "web"}


def test_the_runbook_has_the_commands_that_end_what_waits_for_a_person() -> None:
    said = {" ".join(line.split()[1:3]) for line in commands()}
    assert {
        "incidents list",
        "incidents close",
        "rejected list",
        "rejected handle",
        "rejected replay",
        "log check",
        "log drop-tail",
        "log restore",
    } <= said


def test_every_address_in_the_runbook_is_one_of_ours() -> None:
    paths = re.findall(r"http://localhost:8080(/\S+?)[`\n]", RUNBOOK)
    assert len(paths) > 4
    for path in paths:
        service, rest = path[1:].split("/", 1)
        assert service in ROLES, path
        assert rest == "health/ready" or path == "/marketing/campaigns/NAME", path


def test_every_kind_of_incident_is_explained() -> None:
    kinds = {prepare.ID_REUSED, prepare.SEQUENCE_REUSED, prepare.UNCOUNTED, seal.AHEAD_OF_CLOCK}
    kinds |= {store.SIGNER_DISAGREES, store.SEQUENCE_GAP, store.POSITION_GONE, store.TAIL_DROPPED, store.RECORDS_LOST}
    kinds |= {store.WRONG_ROW}
    kinds |= {witnesses.KNOWS_MORE, witnesses.DISAGREES}
    explained = re.findall(
        r"`([a-z-]+)`", "".join(re.findall(r"^\| (`.*?) \|", SECTIONS["IncidentOpen"], re.MULTILINE))
    )
    assert set(explained) == kinds


def test_every_event_that_the_runbook_looks_for_is_logged() -> None:
    logged = {
        event
        for folder in ("services", "shared")
        for file in (ROOT / folder).rglob("*.py")
        for event in LOGGED.findall(file.read_text("utf-8"))
    }
    named = {
        "task-failed", "mail-deferred", "relay-waits", "not-sealed-in-time", "reading-anew", "rejected", "disagrees",
        "ahead-of-clock", "waiting", "snapshot-refused", "signing", "witness-silent", "follower-waits",
        "wrong-row", "check-failed", "doubtful-message", "corrupt", "clocks-differ",
    }  # fmt: skip
    assert {event for event in named if f"`{event}`" in RUNBOOK} == named
    assert named <= logged


def test_prometheus_watches_every_role_with_a_credential_that_opens_nothing_else() -> None:
    config = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text("utf-8"))
    [job] = config["scrape_configs"]
    watched = {one["labels"]["service"]: one["labels"]["__metrics_path__"] for one in job["static_configs"]}
    caller = job["basic_auth"]["username"]

    assert watched == {role: f"/{role}/metrics" for role in ROLES}
    assert job["basic_auth"]["password_file"].endswith(f"/credential-{caller}.1")
    assert set(grants()[caller]) == {f"{role}.metrics" for role in [*ROLES, "start"]}
    assert config["rule_files"] == ["alerts.yml"]


def test_the_dashboard_is_what_its_code_makes() -> None:
    assert dashboard.FILE.read_text("utf-8") == dashboard.document()


def test_every_panel_of_the_dashboard_says_what_it_shows() -> None:
    panels = json.loads((OBSERVABILITY / "dashboard.json").read_text("utf-8"))["panels"]
    drawn = [panel for panel in panels if panel["type"] != "row"]
    assert len(drawn) > 20
    for panel in drawn:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
    assert len({panel["id"] for panel in panels}) == len(panels)
