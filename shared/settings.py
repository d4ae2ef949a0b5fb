"""Settings: everything that differs between two installations, from environment variables CONSENT_LEDGER_*.

Only main.py files, services/cli.py and services/serve.py read them; everybody else is given values.
"""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.kafka_login import SCRAM, Login

Network = IPv4Network | IPv6Network

_THIS_MACHINE: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Settings(BaseSettings):
    """One installation. Secrets are not here: they are files in `secrets_dir` (shared/secrets.py)."""

    model_config = SettingsConfigDict(env_prefix="CONSENT_LEDGER_", extra="ignore", frozen=True)

    database: str = "postgresql://{role}@127.0.0.1:5432/consent"
    """DSN with `{role}` in it; the password, if there is a file for the role, is added by `dsn`."""
    superuser_dsn: str = ""
    """Only for `migrate`, `log create` and restores; no service is given it."""
    kafka: str = "127.0.0.1:9092"
    kafka_authority: Path | None = None
    """File with the certificates of those who sign the brokers' certificates; named, it makes every line TLS."""
    kafka_admin_mechanism: str = SCRAM
    """How `topics` logs in. PLAIN where the administrator is a user of the broker's own settings: of users by SCRAM
    there is none before there is somebody to make the first."""
    audience_replication: int = Field(default=1, ge=1)
    """On how many brokers what the audience has counted is kept; one is enough, for it can be counted anew."""
    topic_prefix: str = ""
    shards: int = Field(default=1, ge=1, le=1024)
    ledger_shards: Annotated[frozenset[int], NoDecode] = frozenset()
    """Those of them that this process appends to or seals (by commas); none named is all. A shard is one loop, and a
    process has one core: more shards than that get more only from more processes."""
    base_url: str = "http://localhost:8080"
    """What people's links start with; without a slash at the end. https, but on this machine (the demo)."""
    log_host: str = "localhost"
    """First part of every log's origin; fixed for ever when the log is created."""
    secrets_dir: Path = Path("secrets")
    signer_dir: Path = Path("signer")
    register_dir: Path | None = None
    """The processing register of another company or team; none is the one that comes with the code."""
    witness_policy: Path | None = None
    """A tlog-policy file: the witnesses that get every checkpoint, each with its address, and how many of them are
    enough. None: nobody is asked."""
    timestamp_url: str = ""
    """A time-stamp authority (RFC 3161) that timestamps checkpoints; empty: none."""
    timestamp_authority: Path | None = None
    """File with its certificates (PEM): the root, and those between, if its answers do not bring them along."""
    timestamp_seconds: float = Field(default=3600.0, gt=0.0)
    """Between two timestamps, at least."""
    subjects_url: str = ""
    ledger_url: str = ""
    marketing_url: str = ""
    newsletter_url: str = ""
    erasure_url: str = ""
    smtp_host: str = "127.0.0.1"
    smtp_port: int = 25
    mail_domain: str = "example.org"
    mail_from: str = "newsletter@example.org"
    host: str = "127.0.0.1"
    port: int = 8080
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()
    """Networks (10.0.0.0/8, fd00::/8; by commas) of the proxies in front of us: from them, and from nobody else,
    X-Forwarded-For is believed. Empty: whoever connects is the client, and behind a proxy everybody is one network."""
    limits: Path | None = None
    """A file in the place of shared/limits.toml."""
    worker_port: int = 0
    """Health and metrics of a process without pages; 0 takes any free port and logs it."""
    demo: bool = False
    campaign_rate: float = Field(default=0.0, ge=0.0)
    """Mails per second; 0 is as fast as it goes."""
    erasure_spread: float = Field(default=86_400.0, ge=0.0)
    """Over how many seconds the ledger strews the ERASURE leaves of one person, so that others' stand between them."""
    log_level: str = "INFO"

    @field_validator("base_url", "subjects_url", "ledger_url", "marketing_url", "newsletter_url", "erasure_url")
    @classmethod
    def _without_trailing_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("witness_policy", "timestamp_authority", mode="before")
    @classmethod
    def _nothing_is_none(cls, value: object) -> object:
        return value or None

    @field_validator("trusted_proxies", "ledger_shards", mode="before")
    @classmethod
    def _by_commas(cls, value: object) -> object:
        return [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _own_shards_exist(self) -> Self:
        if not self.ledger_shards <= set(range(self.shards)):
            message = "a shard is named that this installation does not have"
            raise ValueError(message)
        return self

    @field_validator("base_url")
    @classmethod
    def _is_https(cls, value: str) -> str:
        # RFC 8058 §3.1: mailbox providers post to https alone; and a link in a mail opens what is somebody's own.
        address = urlsplit(value)
        if address.scheme == "https" or (address.scheme == "http" and address.hostname in _THIS_MACHINE):
            return value
        message = "links in mails need https (http only on localhost)"
        raise ValueError(message)

    def model_post_init(self, _context: object, /) -> None:
        for name in ("subjects_url", "ledger_url", "marketing_url", "newsletter_url", "erasure_url"):
            if not getattr(self, name):
                object.__setattr__(self, name, self.base_url)

    def dsn(self, role: str) -> str:
        """The address of the database for one role."""
        address = self.database.replace("{role}", role)
        password = self.secrets_dir / f"database-{role}"
        if not password.is_file():
            return address
        joint = "&" if "?" in address else "?"
        return f"{address}{joint}password={quote(password.read_text('utf-8').strip(), safe='')}"

    def kafka_login(self, user: str) -> Login:
        """Who one service is to the brokers: with a password if there is a file for the user, else nobody."""
        file = self.secrets_dir / f"kafka-{user}"
        if not file.is_file():
            return Login(authority=self.kafka_authority)
        mechanism = self.kafka_admin_mechanism if user == "admin" else SCRAM
        return Login(user, file.read_text("utf-8").strip(), self.kafka_authority, mechanism)

    def origin(self, shard: int) -> str:
        """The name of a shard's log: `<host>/ledger/log/<shard>`, no scheme (C2SP tlog-checkpoint)."""
        return f"{self.log_host}/ledger/log/{shard}"

    def origins(self) -> dict[int, str]:
        return {shard: self.origin(shard) for shard in range(self.shards)}

    def own_shards(self) -> list[int]:
        """The shards whose ends a process of the ledger owns."""
        return [shard for shard in range(self.shards) if not self.ledger_shards or shard in self.ledger_shards]

    def topic(self, name: str) -> str:
        return self.topic_prefix + name
