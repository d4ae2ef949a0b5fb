"""infra/kubernetes as Kustomize renders it: valid, hardened, secrets one by one, and only those talk who must."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from infra.compose import secrets
from infra.kafka_rights import OPEN
from infra.local import debian
from infra.local.state import CHECKOUT
from services.serve import ROLES
from shared.settings import Settings
from tests.architecture.test_compose import ASKS, secrets_of

VERSIONS: Final = ("1.30", "1.37")  # of Kubernetes: the oldest and the newest we say anything about
# Without Kafka they are not ready, and still answer what needs PostgreSQL alone: a withdrawal above all.
REACHED: Final = {"newsletter", "subjects", "ledger", "marketing", "erasure"}
ALONE: Final = {"ledger-append", "ledger-seal"}  # two at once would hinder each other, or sign two histories
# Not in the compose file, or not in the cluster: the edge is the ingress, the mail server somebody else's.
ELSEWHERE: Final = {"edge", "mail", "operator"}

Manifests = list[dict[str, Any]]


def render(folder: Path) -> str:
    done = subprocess.run(
        [str(debian.program(debian.KUSTOMIZE)), "build", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def validate(file: Path, version: str) -> subprocess.CompletedProcess[str]:
    command = [os.environ["CONSENT_LEDGER_VALIDATE"], "--strict", "--quiet", "-k", version, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example overlay, its `create` and its `mend`, with secrets as an operator makes them."""
    copy = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(CHECKOUT / "infra/kubernetes", copy, ignore=shutil.ignore_patterns("secrets"))
    secrets.create(copy / "overlays/example")
    example = copy / "overlays/example"
    return "---\n".join(render(folder) for folder in (example, example / "create", example / "mend"))


@pytest.fixture(scope="session")
def manifests(rendered: str) -> Manifests:
    return [one for one in yaml.safe_load_all(rendered) if one]


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text("utf-8"))
    return document


def of(manifests: Manifests, *kinds: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] in kinds}


def pods(manifests: Manifests) -> dict[str, dict[str, Any]]:
    return {
        name: one["spec"]["template"]["spec"] for name, one in of(manifests, "Deployment", "StatefulSet", "Job").items()
    }


def mounted(pod: dict[str, Any]) -> set[str]:
    volumes = [one["secret"] for one in pod["volumes"] if "secret" in one]
    return {item["key"] for volume in volumes for item in volume["items"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_is_valid_for_kubernetes(rendered: str, version: str, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(rendered, "utf-8")
    done = validate(tmp_path / "all.yaml", version)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("replicas: 2", 'replicas: "2"'),
        ("readOnlyRootFilesystem: true", "readonlyRootFilesystem: true"),
        ("minAvailable: 1", "minAvailable: [1]"),
        ("policyTypes:", "policies:"),
    ],
)
def test_a_planted_mistake_is_refused(rendered: str, right: str, wrong: str, tmp_path: Path) -> None:
    assert right in rendered
    (tmp_path / "all.yaml").write_text(rendered.replace(right, wrong, 1), "utf-8")
    assert validate(tmp_path / "all.yaml", VERSIONS[-1]).returncode != 0


def test_every_role_and_job_of_the_compose_file_is_there(manifests: Manifests, compose: dict[str, Any]) -> None:
    assert pods(manifests).keys() == compose["services"].keys() - ELSEWHERE
    for role in ROLES:
        (container,) = pods(manifests)[role]["containers"]
        assert container["args"] == compose["services"][role]["command"]


def test_every_pod_is_one_that_a_restricted_namespace_admits(manifests: Manifests) -> None:
    labels = of(manifests, "Namespace")["consent-ledger"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in pods(manifests).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name


def test_everything_that_stays_up_is_probed_and_everything_says_what_it_takes(manifests: Manifests) -> None:
    for name, pod in pods(manifests).items():
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
            if name not in of(manifests, "Job"):
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name
            if name in ROLES:
                asked = "live" if name in REACHED else "ready"
                assert container["readinessProbe"]["httpGet"]["path"] == f"/{name}/health/{asked}"
                assert container["livenessProbe"]["httpGet"]["path"] == f"/{name}/health/live"


def test_who_must_be_alone_is_never_two(manifests: Manifests) -> None:
    for name in ALONE:
        owner = of(manifests, "StatefulSet")[name]
        assert owner["spec"]["replicas"] == 1
        assert name not in of(manifests, "PodDisruptionBudget")
    for name, one in of(manifests, "Deployment").items():
        budget = name in of(manifests, "PodDisruptionBudget")
        assert budget == (one["spec"]["replicas"] > 1), name


def test_a_pod_is_given_the_secrets_that_its_container_is_given(manifests: Manifests, compose: dict[str, Any]) -> None:
    made = of(manifests, "Secret")["consent-ledger"]["data"].keys()
    for name, pod in pods(manifests).items():
        expected = secrets_of(compose["services"][name]) - {"postgres.pgpass"}
        assert mounted(pod) == expected, name
        assert expected <= made
    by_name = {name for name, pod in pods(manifests).items() if "secretKeyRef" in str(pod)}
    assert by_name == {"migrate", "log-create", "mend"}
    assert of(manifests, "ConfigMap").keys() == {"consent-ledger"}


def test_only_those_talk_who_must(manifests: Manifests) -> None:
    policies = of(manifests, "NetworkPolicy")
    nobody = policies["nobody"]["spec"]
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

    def names(rules: list[dict[str, Any]], side: str) -> set[str]:
        return {peer["podSelector"]["matchLabels"]["app"] for rule in rules for peer in rule[side]}

    asks = {name: asked - ELSEWHERE for name, asked in ASKS.items() if name not in ELSEWHERE}
    asks["kafka"] = {"kafka"}  # itself, by its own name
    for name, asked in asks.items():
        spec = policies[name]["spec"]
        assert spec["podSelector"] == {"matchLabels": {"app": name}}
        assert names(spec.get("egress", []), "to") == asked, name
        asking = {other for other, others in asks.items() if name in others}
        assert names(spec.get("ingress", []), "from") == asking, name
    assert policies.keys() == asks.keys() | {
        "nobody",
        "names",
        "from-outside",
        "to-the-mail-server",
        "to-the-witnesses",
        "to-the-time-stamp-authority",
    }


def test_only_what_is_open_is_reached_from_outside(manifests: Manifests) -> None:
    (rule,) = of(manifests, "Ingress")["consent-ledger"]["spec"]["rules"]
    paths = {one["path"]: one["backend"]["service"]["name"] for one in rule["http"]["paths"]}
    assert paths == {"/newsletter": "newsletter", "/ledger/log": "ledger", "/ledger/receipts": "ledger"}
    assert {one["spec"].get("type", "ClusterIP") for one in of(manifests, "Service").values()} == {"ClusterIP"}


def test_every_setting_that_is_given_exists(manifests: Manifests) -> None:
    known = {f"CONSENT_LEDGER_{name.upper()}" for name in Settings.model_fields}
    given = of(manifests, "ConfigMap")["consent-ledger"]["data"]
    assert given.keys() <= known
    values = {name.removeprefix("CONSENT_LEDGER_").lower(): value for name, value in given.items()}
    assert Settings.model_validate(values).base_url == "https://consent.example.org"


def test_the_broker_is_told_what_the_tests_of_its_rights_tell_theirs(manifests: Manifests) -> None:
    (container,) = pods(manifests)["kafka"]["containers"]
    given = {one["name"]: one["value"] for one in container["env"]}
    for name, value in OPEN.items():
        assert given[f"KAFKA_{name.upper().replace('.', '_')}"] == value, name


def test_no_password_stands_in_a_manifest() -> None:
    for path in (CHECKOUT / "infra/kubernetes").rglob("*"):
        if path.is_file() and "secrets" not in path.parts:
            assert not re.search(r"(?i)password=[^$\s]", path.read_text("utf-8")), path
