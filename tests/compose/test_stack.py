"""docker-compose.yml really up: hardened, joined as it says, the story told, every container killed, nothing lost."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.error
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from infra.local.browser import Browser
from infra.local.play import play
from infra.local.screen import Broken, Screen, until
from infra.local.state import CHECKOUT
from infra.local.story import Story
from shared.software import software
from tests.compose.stack import JOBS, ROLES, STAYS_UP

if TYPE_CHECKING:
    from tests.compose.stack import Stack

pytestmark = pytest.mark.timeout(1200)  # the first test waits for images and for the stack

# The demo's mail server keeps what it took in memory; whose mails are lost with it is not what is asked here.
UNSEALED: Final = "select count(*) from newsletter.outbox where sealed_at is null"
KILLED: Final = tuple(name for name in STAYS_UP if name != "mail")
SAYS: Final = """
import concurrent.futures, json, os, socket, sys
status = dict(line.split(":", 1) for line in open("/proc/1/status") if ":" in line)
def writes(path):
    try:
        open(path, "w").close()
    except OSError:
        return False
    return True
def found(name):
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False
with concurrent.futures.ThreadPoolExecutor(len(sys.argv)) as threads:
    answers = dict(zip(sys.argv[1:], threads.map(found, sys.argv[1:])))
print(json.dumps({
    "user": status["Uid"].split()[0],
    "capabilities": int(status["CapEff"], 16),
    "new privileges": status["NoNewPrivs"].strip(),
    "writes": [path for path in ("/usr/x", "/etc/x", "/x", "/app/x", "/run/x") if writes(path)],
    "environment": sorted(os.environ),
    "secrets": sorted(os.listdir("/run/secrets")) if os.path.isdir("/run/secrets") else [],
    "found": [name for name, is_there in answers.items() if is_there],
}))
"""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text("utf-8"))
    parsed["services"]["marketing"]["secrets"].append("credential-demo.1")  # story.yaml
    return parsed


@pytest.fixture(scope="module")
def said(stack: Stack) -> dict[str, dict[str, Any]]:
    """What each container says of itself, from within."""
    return {
        name: json.loads(stack.engine.docker("exec", f"consent-ledger-test-{name}-1", "python3", "-c", SAYS, *STAYS_UP))
        for name in STAYS_UP
    }


def test_every_container_is_up_and_every_job_is_done(stack: Stack) -> None:
    for name in STAYS_UP:
        # Whether it was started once or, like Faust on a busy machine, twice, is not asked.
        state = stack.inspect(name)["State"]
        assert (state["Status"], state["Health"]["Status"]) == ("running", "healthy"), name
    for name in JOBS:
        assert stack.inspect(name)["State"]["ExitCode"] == 0


def test_no_container_can_do_more_than_it_must(said: dict[str, dict[str, Any]]) -> None:
    for name, one in said.items():
        assert one["user"] in {"1000", "101"}, name
        assert one["capabilities"] == 0, name
        assert one["new privileges"] == "1", name
        assert one["writes"] == [], name
        assert not [variable for variable in one["environment"] if variable.endswith(("PASSWORD", "SECRET"))], name


def test_a_container_holds_the_secrets_it_is_given_and_no_other(
    said: dict[str, dict[str, Any]], document: dict[str, Any]
) -> None:
    for name, one in said.items():
        given = {secret for secret in document["services"][name].get("secrets", []) if isinstance(secret, str)}
        assert set(one["secrets"]) == given, name


def test_a_container_finds_whom_it_shares_a_network_with_and_nobody_else(
    said: dict[str, dict[str, Any]], document: dict[str, Any]
) -> None:
    services = document["services"]
    for name, one in said.items():
        near = {other for other in STAYS_UP if set(services[other]["networks"]) & set(services[name]["networks"])}
        assert set(one["found"]) == near, name


def test_the_edge_passes_on_what_is_open_and_nothing_else(stack: Stack) -> None:
    for path, status in {
        "/": 303,
        "/newsletter": 200,
        "/ledger/log/0/checkpoint": 200,
        "/newsletter/health/ready": 200,
        "/newsletter/metrics": 404,
        "/newsletter/openapi.json": 404,
        "/ledger/metrics": 404,
        "/ledger/records?shard=0&from=0&limit=1": 404,
        "/ledger/sources/newsletter/sealed": 404,
        "/marketing/permits": 404,
        "/subjects/open": 404,
    }.items():
        if status == 303:
            assert Browser("en").get(stack.base_url + path).url.startswith(stack.base_url)
            continue
        assert Browser("en").get(stack.base_url + path).status == status, path


def test_the_story_is_told_to_its_end(stack: Stack) -> None:
    out = io.StringIO()
    assert play(stack, Screen(out), receipt_within=30.0), out.getvalue()  # type: ignore[arg-type]
    assert out.getvalue().count("✓") > 20


def test_an_operator_checks_the_log_and_exports_evidence_in_a_container(stack: Stack) -> None:
    done = stack.compose("run", "--rm", "-T", "operator", "consent-ledger", "log", "check")
    assert "verify" in done.stdout
    version = stack.compose("run", "--rm", "-T", "operator", "consent-ledger", "version")
    assert version.stdout.strip() == software()
    assert stack.compose("run", "--rm", "-T", "operator", "consent-ledger", "rejected", "list").stdout.strip() == ""


@dataclass
class Crowd:
    """A few people one after another, who try again when a page does not answer; what they were told is remembered."""

    story: Story
    confirmed: list[str] = field(default_factory=list)
    failures: int = 0
    now: threading.Event = field(default_factory=threading.Event)
    stopped: bool = False

    def run(self) -> None:
        while not self.stopped:
            self.now.clear()
            address = f"crowd.{len(self.confirmed)}.{time.monotonic_ns()}@example.org"
            try:
                self.story.subscribe(address)
            except (Broken, OSError, LookupError, urllib.error.URLError):
                self.failures += 1
            else:
                self.confirmed.append(address)
            # One network may sign up 120 times in ten minutes, and on a busy machine this takes longer than that.
            self.now.wait(6.5)


def test_every_container_is_killed_and_all_goes_on(stack: Stack) -> None:
    crowd = Crowd(Story(stack, Screen(io.StringIO())))  # type: ignore[arg-type]
    person = threading.Thread(target=crowd.run)
    person.start()
    took = {}
    try:
        for name in KILLED:
            took[name] = round(stack.kill(name), 1)
            before = len(crowd.confirmed)
            crowd.now.set()
            until(f"an opt-in after {name} was killed", lambda before=before: len(crowd.confirmed) > before, 180)
    finally:
        crowd.stopped = True
        crowd.now.set()
        person.join()
    print(  # noqa: T201 - for whoever reads the log of a run
        f"killed, and ready again after seconds: {took}; opt-ins {len(crowd.confirmed)}, tried again {crowd.failures}"
    )
    log = stack.compose("run", "--rm", "-T", "operator", "consent-ledger", "log", "check").stdout
    assert "verify" in log
    assert int(stack.select("select count(*) from newsletter.request where state = 'confirmed'")) >= len(
        crowd.confirmed
    )
    until("every statement in the ledger", lambda: stack.select(UNSEALED) == "0", 60)
    assert {name: stack.inspect(name)["RestartCount"] >= 1 for name in ROLES} == dict.fromkeys(ROLES, True)


def test_up_again_changes_nothing(stack: Stack) -> None:
    before = {name: stack.inspect(name)["Id"] for name in STAYS_UP}
    size = Browser("en").get(f"{stack.base_url}/ledger/log/0/checkpoint").text.split("\n")[1]
    stack.again()
    assert {name: stack.inspect(name)["Id"] for name in STAYS_UP} == before
    assert int(Browser("en").get(f"{stack.base_url}/ledger/log/0/checkpoint").text.split("\n")[1]) >= int(size)
