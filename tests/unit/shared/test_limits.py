"""Who asks, behind proxies; and how often one network may, without anybody's address being kept."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request

from infra.local.installation import LIMITS as LOCAL_LIMITS
from shared.errors import Refused
from shared.limits import Limits, Numbers, client
from shared.metrics import Metrics
from shared.settings import Settings

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def request(peer: str | None, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", one.encode("latin-1")) for one in forwarded]
    headers.append((b"forwarded", b"for=203.0.113.66"))
    return Request({"type": "http", "headers": headers, "client": None if peer is None else (peer, 4711)})


@dataclass
class Clock:
    now: datetime = field(default_factory=lambda: datetime(2026, 11, 22, 12, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Door:
    """Limits of three sign-ups a network and five for everybody, in ten minutes."""

    path: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        numbers = Numbers.read(self.path)
        self.metrics = Metrics("newsletter")
        self.limits = Limits(numbers, PROXIES, self.clock, os.urandom, self.metrics)

    def passes(self, peer: str, *forwarded: str) -> bool:
        try:
            self.limits.sign_up(request(peer, *forwarded))
        except Refused as refused:
            return not (refused.status == 429 and 0 < int(str(refused.facts["retry_after"])) <= 600)
        return True


@pytest.fixture
def door(tmp_path: Path) -> Door:
    path = tmp_path / "limits.toml"
    path.write_text(
        "[networks]\nipv4 = 24\nipv6 = 56\n"
        "[sign_ups]\nseconds = 600\nnetwork = 3\neverybody = 5\n"
        "[unknown_links]\nseconds = 600\nnetwork = 3\n"
        "[confirmation_mails]\nseconds = 86400\naddress = 3\nsame_after_seconds = 900\n",
        "utf-8",
    )
    return Door(path)


@pytest.mark.parametrize(
    ("peer", "forwarded", "asking"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.66, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.66", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.66, 198.51.100.7, 10.9.9.9"], "198.51.100.7"),
        ("10.0.0.1", ["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        ("10.0.0.1", ["203.0.113.66, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.66, 10.2.2.2, nonsense, 10.3.3.3"], "10.3.3.3"),
        ("10.0.0.1", ["198.51.100.7:41000"], "198.51.100.7"),
        ("fd00::1", ["[2001:db8::7]:41000"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("fe80::1%eth0", ["198.51.100.7"], "fe80::1"),
    ],
)
def test_the_client_is_whom_the_last_proxy_of_ours_heard(peer: str, forwarded: list[str], asking: str) -> None:
    assert client(request(peer, *forwarded), PROXIES) == ip_address(asking)


def test_without_configured_proxies_nobody_is_believed() -> None:
    assert client(request("10.0.0.1", "198.51.100.7"), ()) == ip_address("10.0.0.1")
    assert client(request(None, "198.51.100.7"), PROXIES) is None


@given(st.lists(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=60), max_size=5))
def test_whatever_a_stranger_writes_the_client_stays_the_same(written: list[str]) -> None:
    assert client(request("192.0.2.1", *written), PROXIES) == ip_address("192.0.2.1")
    through = client(request("10.0.0.1", ",".join([*written, "198.51.100.7"])), PROXIES)
    assert through == ip_address("198.51.100.7")


def test_a_network_that_has_had_its_share_waits_and_the_others_do_not(door: Door) -> None:
    assert [door.passes(f"192.0.2.{number}") for number in range(4)] == [True, True, True, False]
    assert door.passes("198.51.100.1")
    assert door.passes("2001:db8:0:100::1")
    assert b'newsletter_limited_total{limit="sign-ups"} 1.0' in door.metrics.render()


def test_a_network_is_what_one_party_is_given(door: Door) -> None:
    assert [door.passes(f"2001:db8:0:1{number:02x}::9") for number in range(4)] == [True, True, True, False]
    assert door.passes("2001:db8:0:200::1")


def test_who_is_over_the_own_limit_takes_nothing_from_everybodys(door: Door) -> None:
    for number in range(50):
        door.passes(f"192.0.2.{number}")
    assert door.passes("198.51.100.1")
    assert door.passes("203.0.113.1")
    assert not door.passes("233.252.0.1")


def test_when_the_while_is_over_everybody_may_again_and_the_key_is_another(door: Door) -> None:
    for _ in range(4):
        door.passes("192.0.2.1")
    counted = door.limits._whiles["sign-ups"]
    [digest], key = counted._networks, counted._key
    door.clock.now += timedelta(seconds=599)
    assert not door.passes("192.0.2.1")
    door.clock.now += timedelta(seconds=1)
    assert door.passes("192.0.2.1")
    assert counted._key != key
    assert digest not in counted._networks
    # A clock that was set back begins a new while, too: nobody waits for hours.
    door.clock.now -= timedelta(hours=1)
    assert [door.passes("192.0.2.1") for _ in range(4)] == [True, True, True, False]


def test_no_address_is_kept(door: Door) -> None:
    door.passes("10.0.0.1", "198.51.100.77")
    door.limits.unknown_link(request("10.0.0.1", "198.51.100.77"), "confirmation")
    kept = repr([vars(one) for one in door.limits._whiles.values()])
    assert "198.51.100" not in kept
    assert ip_address("198.51.100.0").packed not in {
        network for one in door.limits._whiles.values() for network in one._networks
    }


def test_links_that_open_nothing_are_counted_by_kind(door: Door) -> None:
    for _ in range(3):
        door.limits.unknown_link(request("192.0.2.1"), "receipt")
    with pytest.raises(Refused):
        door.limits.unknown_link(request("192.0.2.1"), "confirmation")
    for _ in range(50):
        door.limits.unknown_way_out()
    shown = door.metrics.render()
    for line in ('{link="receipt"} 3.0', '{link="confirmation"} 1.0', '{link="way-out"} 50.0'):
        assert f"newsletter_unknown_links_total{line}".encode() in shown


def test_more_networks_than_can_be_counted_are_let_through(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.limits.MOST_NETWORKS", 2)
    for number in range(5):
        door.limits.unknown_link(request(f"192.0.{number}.1"), "receipt")
    assert len(door.limits._whiles["unknown-links"]._networks) == 2


@pytest.mark.parametrize("path", [None, LOCAL_LIMITS])
def test_the_files_of_limits_can_be_read(path: Path | None) -> None:
    assert Numbers.read(path).confirmation_mails.address == 3


@pytest.mark.parametrize("change", [("network = 3", "network = 0"), ("seconds = 600", ""), ("ipv4", "ipv5")])
def test_a_file_of_limits_with_a_mistake_is_refused(door: Door, change: tuple[str, str]) -> None:
    door.path.write_text(door.path.read_text("utf-8").replace(*change), "utf-8")
    with pytest.raises(ValidationError):
        Numbers.read(door.path)


def test_proxies_are_named_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSENT_LEDGER_TRUSTED_PROXIES", "10.0.0.0/8, fd00::/8,192.0.2.1")
    assert Settings().trusted_proxies == (*PROXIES, ip_network("192.0.2.1/32"))
    monkeypatch.setenv("CONSENT_LEDGER_TRUSTED_PROXIES", "10.0.0.1/8")
    with pytest.raises(ValidationError, match="not a valid IPv4 network"):
        Settings()
