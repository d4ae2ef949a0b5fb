"""The queries about the keys that sign a log, and which of them whom serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.reader.note import Signer
from services.ledger.reader.policy import LogKey
from shared.database import Queries
from shared.errors import Corrupt


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One key of a log, first to newest by number."""

    number: int
    vkey: str
    since: int | None
    until: int | None
    handover: str | None

    def signs(self, size: int) -> bool:
        """Whether the checkpoint of this size bears its signature."""
        return self.since is not None and self.since <= size and (self.until is None or size <= self.until)


async def known_keys(db: Queries, shard: int) -> list[KnownKey]:
    """Every key of a log, the first one first."""
    rows = await db.fetch(
        "select number, vkey, since, until, handover from log_key where shard = $1 order by number", shard
    )
    return [KnownKey(**row) for row in rows]


def vkey_of(keys: Sequence[KnownKey], size: int) -> str:
    """The newest key that has signed the checkpoint of this size."""
    return [key.vkey for key in keys if key.signs(size)][-1]


def published(keys: Sequence[KnownKey]) -> list[LogKey]:
    """What verifiers are told: the newest first, one that has not signed yet too."""
    return [LogKey(key.vkey, None, key.until) for key in reversed(keys)]


def signers(origin: str, keys: Sequence[KnownKey], private: Mapping[int, Ed25519PrivateKey]) -> list[Signer]:
    """Those that sign now, the oldest first; Corrupt if a file is not the key that is known under its number."""
    found = []
    for key in keys:
        if key.until is not None or key.number not in private:
            continue
        signer = Signer(origin, private[key.number])
        if signer.vkey != key.vkey:
            raise Corrupt("the log's key", f"{origin}: the file of key {key.number} is another key")
        found.append(signer)
    if not found:
        raise Corrupt("the log's key", f"{origin}: there is none here that may sign")
    return found


async def began(db: Queries, shard: int, vkeys: Sequence[str], size: int) -> None:
    """Note that these keys have signed, from this size on if they had not before."""
    await db.execute(
        "update log_key set since = $3 where shard = $1 and vkey = any($2) and since is null", shard, vkeys, size
    )
