"""How much one network may do in a while, counted in this process's memory; and whose request it is, behind proxies.

No address is kept: counted is a hash of the network under a random key, and both are forgotten when the while is over.
The numbers and their reasons stand in limits.toml. Why in memory, and why never on the way out: ADR 0014.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, PositiveInt
from starlette.requests import Request

from shared import logs
from shared.clock import Clock
from shared.errors import Refused
from shared.identifiers import Random
from shared.metrics import Metrics
from shared.settings import Network, Settings

Address = IPv4Address | IPv6Address

LIMITS: Final = Path(__file__).with_name("limits.toml")
MOST_NETWORKS: Final = 100_000
"""Counted one by one: some twenty megabytes. Who has more networks than that is not stopped by counting them."""
_LONGEST_CHAIN: Final = 20

log = logs.logger("limits")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Networks(_Table):
    ipv4: int
    ipv6: int


class Limit(_Table):
    """So often within so many seconds, by one network and by everybody together (where that is limited)."""

    seconds: PositiveInt
    network: PositiveInt
    everybody: PositiveInt | None = None


class MailCap(_Table):
    """How many confirmation mails that nobody confirms one address gets. Counted by PostgreSQL, exactly."""

    seconds: PositiveInt
    address: PositiveInt
    same_after_seconds: PositiveInt

    @property
    def period(self) -> timedelta:
        return timedelta(seconds=self.seconds)

    @property
    def same_after(self) -> timedelta:
        """How long a mail that asks the same makes another one needless."""
        return timedelta(seconds=self.same_after_seconds)


class Numbers(_Table):
    """A file of limits."""

    networks: _Networks
    sign_ups: Limit
    unknown_links: Limit
    confirmation_mails: MailCap

    @classmethod
    def read(cls, path: Path | None = None) -> Numbers:
        """The file beside this one, or another installation's own; ValueError if it is not exactly such a file."""
        return cls.model_validate(tomllib.loads((path or LIMITS).read_text("utf-8")))


def client(request: Request, proxies: Sequence[Network]) -> Address | None:
    """Who asks: whoever connected to us, or, as long as that is a proxy of ours, whom it names (X-Forwarded-For).

    Each proxy adds at the right end whom it heard, so the first one from there that is no proxy of ours asks; what
    stands left of it, anybody can write. `Forwarded` is not read: a proxy that adds to the one header passes the
    other on as it came.
    """
    asking = _address(request.client.host) if request.client is not None else None
    named = ",".join(request.headers.getlist("x-forwarded-for")).split(",")[-_LONGEST_CHAIN:]
    while asking is not None and named and any(asking in proxy for proxy in proxies):
        heard = _address(named.pop())
        if heard is None:
            break
        asking = heard
    return asking


def _address(text: str) -> Address | None:
    """An address as proxies write it: some add the port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


class _While:
    """The counts of one limit since the last while was over."""

    def __init__(self, limit: Limit, clock: Clock, random: Random) -> None:
        self._limit, self._clock, self._random = limit, clock, random
        self._began: datetime | None = None
        self._key = b""
        self._everybody = 0
        self._networks: dict[bytes, int] = {}

    def take(self, network: bytes) -> int:
        """Count one, unless it is one too many: then the seconds until the while is over, else 0."""
        now, period = self._clock(), timedelta(seconds=self._limit.seconds)
        if self._began is None or not self._began <= now < self._began + period:
            self._began, self._key = now, self._random(32)
            self._everybody = 0
            self._networks.clear()
        digest = hashlib.blake2b(network, key=self._key, digest_size=16).digest()
        count = self._networks.get(digest, 0)
        # A network that is over its own limit takes nothing from everybody's.
        full = self._limit.everybody is not None and self._everybody >= self._limit.everybody
        if count >= self._limit.network or full:
            return max(1, int((self._began + period - now).total_seconds()))
        if count or len(self._networks) < MOST_NETWORKS:
            self._networks[digest] = count + 1
        self._everybody += 1
        return 0


class Limits:
    """The limits of one process."""

    def __init__(
        self, numbers: Numbers, proxies: Sequence[Network], clock: Clock, random: Random, metrics: Metrics
    ) -> None:
        self.confirmation_mails: Final = numbers.confirmation_mails
        self._prefixes = numbers.networks
        self._proxies = proxies
        self._whiles = {
            "sign-ups": _While(numbers.sign_ups, clock, random),
            "unknown-links": _While(numbers.unknown_links, clock, random),
        }
        self._limited = metrics.counter("limited", "Requests refused by a limit", ("limit",))
        self._unknown = metrics.counter(
            "unknown_links", "Links that open nothing: guessed, cut or long gone", ("link",)
        )
        self._told = False

    @classmethod
    def of(cls, settings: Settings, clock: Clock, random: Random, metrics: Metrics) -> Limits:
        return cls(Numbers.read(settings.limits), settings.trusted_proxies, clock, random, metrics)

    def sign_up(self, request: Request) -> None:
        """A form that would be recorded; Refused 429 if there were too many."""
        self._take("sign-ups", request)

    def unknown_link(self, request: Request, link: str) -> None:
        """A link that opens nothing; Refused 429 if there were too many. Asked only after looking: a link that does
        open is never refused."""
        self._unknown.labels(link).inc()
        self._take("unknown-links", request)

    def unknown_way_out(self) -> None:
        """Counted, and never limited."""
        self._unknown.labels("way-out").inc()

    def _take(self, limit: str, request: Request) -> None:
        seconds = self._whiles[limit].take(self._network(request))
        if seconds:
            self._limited.labels(limit).inc()
            raise Refused(
                "too-many",
                "Too much has come in within a short time. Nothing is lost; please try again in a few minutes.",
                status=429,
                retry_after=seconds,
            )

    def _network(self, request: Request) -> bytes:
        asking = client(request, self._proxies)
        if asking is None:
            return b""
        if not self._proxies and not self._told and "x-forwarded-for" in request.headers:
            self._told = True
            log.warning("forwarded-for-ignored", reason="no proxy is configured (CONSENT_LEDGER_TRUSTED_PROXIES)")
        prefix = self._prefixes.ipv4 if asking.version == 4 else self._prefixes.ipv6
        host_bits = asking.max_prefixlen - prefix
        return (int(asking) >> host_bits << host_bits).to_bytes(asking.max_prefixlen // 8, "big")
