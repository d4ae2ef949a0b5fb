"""docker-compose.yml: every role once, least privilege, secrets by file, networks that join only who must talk."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import os
import re
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from infra import kafka_rights
from infra.compose.healthy import paths
from infra.compose.secrets import create
from infra.compose.validate import problems
from services.serve import ROLES
from shared import kafka_users, migrations
from shared.process import Running
from shared.register import load
from shared.secrets import Secrets
from tests.conftest import Database

ROOT = Path(__file__).resolve().parents[2]
ROLES_OF_DB = set(migrations.roles())
JOBS = {"migrate", "topics", "log-create", "mend", "operator"}
BUILT_ON = {"postgres", "kafka", "mail", "edge"}
ASKS = {
    "newsletter": {"postgres", "kafka", "mail", "subjects", "ledger", "marketing", "erasure"},
    "subjects": {"postgres", "kafka", "ledger"},
    "ledger": {"postgres", "kafka", "subjects", "newsletter", "marketing"},
    "ledger-append": {"postgres", "kafka"},
    "ledger-seal": {"postgres", "kafka"},
    "marketing": {"postgres", "kafka", "mail", "subjects", "ledger"},
    "audience": {"postgres", "kafka", "ledger"},
    "erasure": {"postgres", "kafka", "ledger", "newsletter", "marketing", "subjects"},
    "migrate": {"postgres"},
    "topics": {"kafka"},
    "log-create": {"postgres"},
    "mend": {"postgres", "kafka"},
    "operator": {"postgres", "ledger", "subjects", "newsletter", "erasure"},
    "edge": {"newsletter", "ledger"},
    "mail": set(),
    "postgres": set(),
    "kafka": set(),
}
# Whoever shares a network with one of these asks it or is asked by it.
KEEPERS = ("subjects", "ledger-seal", "mail", "edge")


def secrets_of(service: dict[str, Any]) -> set[str]:
    return {one if isinstance(one, str) else one["source"] for one in service.get("secrets", [])}


def test_every_role_is_a_service_and_nothing_else_is(compose: dict[str, Any]) -> None:
    assert compose["services"].keys() == ROLES.keys() | JOBS | BUILT_ON
    for role in ROLES:
        assert compose["services"][role]["command"] == ["consent-ledger", "serve", role]


def test_every_container_is_an_ordinary_user_on_a_file_system_it_cannot_write(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not re.match(r"(0|root)(:|$)", service["user"]), name
        assert "privileged" not in service, name


def test_everything_that_stays_up_has_a_health_check(compose: dict[str, Any]) -> None:
    ours = {name for name, one in compose["services"].items() if "build" in one}
    assert ours == ROLES.keys() | JOBS | {"mail"}
    assert "\nHEALTHCHECK " in (ROOT / "Dockerfile").read_text("utf-8")
    assert {name for name, one in compose["services"].items() if "healthcheck" in one} == BUILT_ON - {"mail"}


@pytest.mark.parametrize("role", [*ROLES])
def test_the_health_check_asks_what_the_container_serves(role: str) -> None:
    assert paths(f"/venv/bin/python3\0/venv/bin/consent-ledger\0serve\0{role}\0".encode()) == [f"/{role}/health/ready"]
    assert paths(b"python3\0-m\0infra.compose.mail\0/tmp/mails\0") == ["/inbox/health/ready"]
    assert paths(b"/venv/bin/python3\0/venv/bin/consent-ledger\0migrate\0") == []


def test_no_secret_is_in_the_environment(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            assert "PASSWORD" not in variable or variable.endswith("_FILE"), name
            assert not re.search(r"://[^/@{]*:[^/@]*@", str(value)), name
    assert {file["file"].rsplit("/", 1)[1] for file in compose["secrets"].values()} == compose["secrets"].keys()


def test_every_secret_that_is_mounted_can_be_made(compose: dict[str, Any], tmp_path: Path) -> None:
    made = {path.name for path in create(tmp_path).iterdir()}
    mounted = {name for service in compose["services"].values() for name in secrets_of(service)}

    assert mounted == compose["secrets"].keys()
    assert mounted <= made


def test_making_the_secrets_again_changes_none(tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in create(tmp_path).iterdir()}
    assert {path.name: path.read_bytes() for path in create(tmp_path).iterdir()} == before
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o600}
    assert Secrets(tmp_path / "secrets").evidence_signer() is None, "empty files are none"


def test_keys_are_where_they_must_be_and_nowhere_else(compose: dict[str, Any]) -> None:
    def holders(secret: str) -> set[str]:
        return {name for name, service in compose["services"].items() if secret in secrets_of(service)}

    assert holders("log-0") == holders("fresh-0") == {"ledger-seal", "log-create", "mend"}
    assert holders("subjects-kek-1") == holders("pepper-1") == {"subjects"}
    assert holders("kek-1") == {"ledger", "ledger-append", "ledger-seal", "mend", "operator"}
    assert holders("notice-1") == {"newsletter"}
    assert holders("evidence-key.pem") == {"ledger"}
    assert holders("source-newsletter.1") == {"newsletter", "ledger-append", "mend"}
    for source in ("marketing", "subjects", "erasure"):
        assert holders(f"source-{source}.1") == {source, "ledger-append", "mend"}
    assert holders("postgres.pgpass") == {"migrate", "log-create", "mend"}
    assert holders("kafka-admin") == {"topics", "mend"}
    assert holders("kafka.properties") == {"kafka"}
    for user in kafka_users.users(load().sources):
        assert holders(f"kafka-{user}") == {"topics", user}


def test_the_broker_is_told_what_the_tests_of_its_rights_tell_theirs(compose: dict[str, Any]) -> None:
    environment = compose["services"]["kafka"]["environment"]
    for name, value in kafka_rights.OPEN.items():
        assert environment[f"KAFKA_{name.upper().replace('.', '_')}"] == value, name
    listeners = environment["KAFKA_LISTENERS"] + environment["KAFKA_ADVERTISED_LISTENERS"]
    assert "PLAINTEXT:" not in listeners


def test_every_database_role_has_a_password_that_only_its_service_and_the_migration_hold(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    for role in migrations.roles():
        holders = {name for name, one in services.items() if f"database-{role}" in secrets_of(one)} - {"migrate"}
        assert f"database-{role}" in secrets_of(services["migrate"])
        of_service = role.split("_")[0]
        assert holders, role
        allowed = {of_service, role.replace("_", "-"), "audience" if of_service == "marketing" else of_service}
        assert holders <= allowed | {"ledger-seal", "operator"}, role


async def test_the_secrets_a_role_is_given_are_enough_to_open_it(roles: dict[str, Running]) -> None:
    assert roles.keys() == ROLES.keys()


async def test_migrating_gives_every_role_the_password_of_its_file(database: Database, tmp_path: Path) -> None:
    secrets = create(tmp_path)
    environment = {"CONSENT_LEDGER_SUPERUSER_DSN": database.dsn(), "CONSENT_LEDGER_SECRETS_DIR": str(secrets)}
    command = str(Path(sys.executable).with_name("consent-ledger"))
    migrating = await asyncio.create_subprocess_exec(command, "migrate", env={**os.environ, **environment})
    assert await migrating.wait() == 0

    connection = await asyncpg.connect(database.dsn())
    try:
        rows = await connection.fetch(
            "select rolname, rolpassword from pg_authid where rolname = any($1)", [*ROLES_OF_DB]
        )
        assert {row["rolname"] for row in rows} == ROLES_OF_DB
        for row in rows:
            password = (secrets / f"database-{row['rolname']}").read_text("ascii").strip()
            assert is_scram_of(row["rolpassword"], password), row["rolname"]
    finally:
        for role in ROLES_OF_DB:
            await connection.execute(f"alter role {role} password null")
        await connection.close()


def is_scram_of(stored: str, password: str) -> bool:
    """Whether PostgreSQL's SCRAM-SHA-256 verifier is that of the password (RFC 5802, RFC 7677)."""
    iterations, salt, keys = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$(.+)", stored).groups()  # type: ignore[union-attr]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    server = hmac.digest(salted, b"Server Key", "sha256")
    return base64.b64decode(keys.partition(":")[2]) == server


def test_those_who_must_talk_share_a_network(compose: dict[str, Any]) -> None:
    assert compose["services"].keys() == ASKS.keys()
    for name, asked in ASKS.items():
        for other in asked:
            shared = set(compose["services"][name]["networks"]) & set(compose["services"][other]["networks"])
            assert shared - {"outside"}, (name, other)


@pytest.mark.parametrize("keeper", KEEPERS)
def test_nobody_else_shares_a_network_with_a_keeper(keeper: str, compose: dict[str, Any]) -> None:
    for network in set(compose["services"][keeper]["networks"]) - {"outside"}:
        there = {name for name, service in compose["services"].items() if network in service["networks"]}
        for other in there - {keeper}:
            assert other in ASKS[keeper] | JOBS or keeper in ASKS[other], (keeper, other, network)


def test_only_the_edge_and_the_inbox_are_reached_from_outside(compose: dict[str, Any]) -> None:
    networks = compose["networks"]
    ways_out = {name for name, network in networks.items() if not network.get("internal")}
    assert ways_out == {"outside", "mail", "witnesses", "timestamps"}
    assert {name for name, one in compose["services"].items() if "mail" in one["networks"]} == {
        "newsletter",
        "marketing",
        "mail",
    }
    assert {name for name, one in compose["services"].items() if "outside" in one["networks"]} == {"edge", "mail"}
    assert {name for name, one in compose["services"].items() if "witnesses" in one["networks"]} == {"ledger-seal"}
    assert {name for name, one in compose["services"].items() if "timestamps" in one["networks"]} == {"ledger"}
    assert {name for name, one in compose["services"].items() if "ports" in one} == {"edge", "mail"}
    for service in compose["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_no_network_is_there_for_one(compose: dict[str, Any]) -> None:
    for network in compose["networks"].keys() - {"outside", "witnesses", "timestamps"}:
        assert len([name for name, one in compose["services"].items() if network in one["networks"]]) > 1, network
    joined = {network for service in compose["services"].values() for network in service["networks"]}
    assert joined == compose["networks"].keys()


def test_the_signers_files_are_mounted_by_nobody_but_the_signer_and_who_mends(compose: dict[str, Any]) -> None:
    holders = {name for name, one in compose["services"].items() if any("/signer" in v for v in one.get("volumes", []))}
    assert holders == {"ledger-seal", "log-create", "mend"}


def test_the_edge_passes_on_only_what_is_open(compose: dict[str, Any]) -> None:
    text = (ROOT / "infra/compose/edge.conf").read_text("utf-8")
    upstreams = set(re.findall(r"http://([a-z-]+):8080", text))

    assert upstreams == ASKS["edge"]
    assert "access_log off;" in text
    for closed in ("attachments", "records", "sources", "subjects", "marketing", "rejected", "incidents"):
        assert f"/{closed}" not in text


def test_every_setting_that_is_given_exists(compose: dict[str, Any]) -> None:
    from shared.settings import Settings  # noqa: PLC0415 - needed here alone

    known = {f"CONSENT_LEDGER_{name.upper()}" for name in Settings.model_fields}
    ours = [one["environment"] for name, one in compose["services"].items() if name in ROLES.keys() | JOBS]
    assert set(itertools.chain.from_iterable(ours)) <= known


def test_the_validation_names_the_place_of_a_mistake() -> None:
    schema = {"properties": {"services": {"additionalProperties": {"properties": {"image": {"type": "string"}}}}}}
    assert problems(schema, {"services": {"mail": {"image": "mail:1"}}}) == []
    assert problems(schema, {"services": {"mail": {"image": 1}}}) == ["services.mail.image: 1 is not of type 'string'"]
