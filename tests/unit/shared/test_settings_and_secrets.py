"""One installation: what differs is set from outside, what is secret is a file."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import ValidationError

from shared.access import Access
from shared.errors import Corrupt, Refused
from shared.secrets import Secrets, create_secrets
from shared.settings import Settings


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    create_secrets(folder, os.urandom, ["newsletter", "web-log"], ["newsletter", "operator"], 2, ["ledger_append"])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_secret_is_there_and_only_its_owner_may_read_it(directory: Path) -> None:
    secrets = Secrets(directory)
    assert set(secrets.source_keys()) == {"newsletter.1", "web-log.1"}
    assert secrets.own_source_key("web-log") == ("web-log.1", secrets.source_keys()["web-log.1"])
    assert len(secrets.publisher_key()) == 32
    assert list(secrets.keks()) == [1]
    assert secrets.keks() != secrets.keks("subjects")
    assert list(secrets.peppers()) == [1]
    assert len(secrets.way_out_keys()[1]) == 64
    assert secrets.log_key(1).public_key() != secrets.fresh_key(1).public_key()
    name, key = secrets.notice_key()
    assert secrets.notice_public_keys()[name] == key.public_key()
    selector, pem = secrets.dkim()
    assert selector == "1"
    assert load_pem_private_key(pem, None) is not None
    assert set(secrets.callers()) == {"newsletter", "operator"}
    assert secrets.credential("operator") == f"operator:{secrets.callers()['operator'][0]}"
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_no_two_secrets_are_equal(directory: Path) -> None:
    values = [hashlib.sha256(value).digest() for value in contents(directory).values()]
    assert len(set(values)) == len(values)


def test_making_secrets_again_changes_none_and_adds_what_is_missing(directory: Path) -> None:
    before = contents(directory)
    create_secrets(directory, os.urandom, ["newsletter", "forms"], ["newsletter"], 3)
    after = contents(directory)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"source-forms.1", "log-2", "fresh-2"}


def test_two_are_valid_at_once_and_the_newest_is_used(directory: Path) -> None:
    for number, caller in itertools.product((2, 10), ("newsletter", "operator")):
        (directory / f"source-{caller}.{number}").write_text(f"{number:064x}\n")
        (directory / f"credential-{caller}.{number}").write_text(f"word-{number}\n")
    (directory / "kek-2").write_text("ab" * 32)
    (directory / "kek-10").write_text("cd" * 32)
    secrets = Secrets(directory)
    assert secrets.own_source_key("newsletter") == ("newsletter.10", (10).to_bytes(32, "big"))
    assert {"newsletter.1", "newsletter.2", "newsletter.10"} <= set(secrets.source_keys())
    assert secrets.callers()["operator"] == ["word-10", "word-2"]
    assert secrets.credential("operator") == "operator:word-10"
    assert list(secrets.keks()) == [1, 2, 10]


def test_a_rotated_away_number_1_is_not_made_again(directory: Path) -> None:
    (directory / "source-newsletter.2").write_text("ef" * 32)
    (directory / "source-newsletter.1").unlink()
    create_secrets(directory, os.urandom, ["newsletter"], [], 1)
    assert {name for name in Secrets(directory).source_keys() if name.startswith("newsletter")} == {"newsletter.2"}


@pytest.mark.parametrize("content", ["", "zz" * 32, "ab" * 31, "ab" * 33, "ä"])
def test_a_damaged_secret_stops_the_process_and_is_not_quoted(directory: Path, content: str) -> None:
    (directory / "publisher").write_text(content, encoding="utf-8")
    with pytest.raises(Corrupt) as raised:
        Secrets(directory).publisher_key()
    assert raised.value.where == f"publisher in {directory} (CONSENT_LEDGER_SECRETS_DIR)"
    assert not content or content not in str(raised.value)


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path)
    for ask in (secrets.publisher_key, secrets.keks, secrets.peppers, secrets.notice_key, secrets.dkim):
        with pytest.raises(Corrupt, match=rf"{tmp_path} \(CONSENT_LEDGER_SECRETS_DIR\)"):
            ask()
    for ask_by_name in (secrets.own_source_key, secrets.credential):
        with pytest.raises(Corrupt, match="newsletter"):
            ask_by_name("newsletter")
    assert secrets.source_keys() == {}
    assert secrets.callers() == {}


def test_mail_is_signed_by_the_key_of_the_highest_number(tmp_path: Path) -> None:
    for number in (9, 10, 2):
        (tmp_path / f"dkim-{number}.pem").write_text(str(number))
    assert Secrets(tmp_path).dkim() == ("10", b"10")
    assert set(Secrets(tmp_path).dkim_keys()) == {"2", "9", "10"}


def test_further_callers_stand_beside_their_credentials(directory: Path) -> None:
    assert Secrets(directory).grants() == {}
    (directory / "grants.toml").write_text('booth = ["ledger.statements"]\n')
    (directory / "credential-booth.1").write_text("word\n")
    access = Access.load(Secrets(directory))
    assert access.allow("Bearer booth:word", "ledger.statements") == "booth"
    with pytest.raises(Refused):
        access.allow("Bearer booth:word", "ledger.records")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSENT_LEDGER_BASE_URL", "https://consent.example.org/")
    monkeypatch.setenv("CONSENT_LEDGER_LEDGER_URL", "http://ledger:8080/")
    monkeypatch.setenv("CONSENT_LEDGER_SHARDS", "3")
    monkeypatch.setenv("CONSENT_LEDGER_TOPIC_PREFIX", "a.")
    monkeypatch.setenv("CONSENT_LEDGER_LOG_HOST", "log.example.org")
    settings = Settings()
    assert settings.base_url == settings.subjects_url == "https://consent.example.org"
    assert settings.ledger_url == "http://ledger:8080"
    assert settings.topic("consent.stated") == "a.consent.stated"
    assert settings.origins()[2] == "log.example.org/ledger/log/2"


@pytest.mark.parametrize(("named", "own"), [("", [0, 1, 2]), ("1", [1]), ("2, 0", [0, 2])])
def test_a_process_of_the_ledger_owns_the_shards_it_is_told(
    monkeypatch: pytest.MonkeyPatch, named: str, own: list[int]
) -> None:
    monkeypatch.setenv("CONSENT_LEDGER_LEDGER_SHARDS", named)
    assert Settings(shards=3).own_shards() == own


def test_a_shard_that_does_not_exist_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSENT_LEDGER_LEDGER_SHARDS", "1")
    with pytest.raises(ValidationError, match="does not have"):
        Settings()


@pytest.mark.parametrize(
    "address", ["http://consent.example.org", "http://localhost.example.org", "consent.example.org"]
)
def test_links_in_mails_are_https_but_on_this_machine(address: str) -> None:
    with pytest.raises(ValidationError, match="https"):
        Settings(base_url=address)
    for fine in ("https://consent.example.org", "http://localhost:8080", "http://[::1]:8080"):
        assert Settings(base_url=fine).base_url == fine


def test_a_role_with_a_password_file_gets_it_into_its_address(directory: Path) -> None:
    settings = Settings(database="postgresql://{role}@/consent?host=/sock", secrets_dir=directory)
    (directory / "database-ledger_append").write_text("p&s w?rd\n")
    assert settings.dsn("ledger_append") == ("postgresql://ledger_append@/consent?host=/sock&password=p%26s%20w%3Frd")
    assert settings.dsn("marketing") == "postgresql://marketing@/consent?host=/sock"
    assert (
        Settings(database="postgresql://{role}@db/consent", secrets_dir=directory)
        .dsn("ledger_append")
        .endswith("/consent?password=p%26s%20w%3Frd")
    )
