"""What a check says, and what it believes without asking PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger.reader.authority import Authority
from services.ledger.reader.policy import Policy

_LONGEST_REST_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One wrong row: which table, which shard, where in it, and what is wrong. Nothing personal."""

    table: str
    shard: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.table}, shard {self.shard}, {self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How many leaves of a shard have been checked."""

    shard: int
    checked: int
    size: int


@dataclass(frozen=True, slots=True)
class Trusted:
    """Keys, and the signer's own files where they are."""

    keks: Mapping[int, bytes]
    vkeys: Mapping[int, str] = field(default_factory=dict)
    """By shard, the newest key of the log whose file is here."""
    fresh_vkeys: Mapping[int, str] = field(default_factory=dict)
    notice_keys: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    signer_dir: Path | None = None
    authority: Authority | None = None
    """Whose timestamps of checkpoints are believed."""
    witnesses: Policy | None = None
    """Whose cosignatures are believed; None if that is not known here."""


class Pace:
    """After each piece of work, a rest so many times as long as the work took: a bounded share of the processor and of
    PostgreSQL, whatever there is to do."""

    def __init__(self, rests: float = 0.0) -> None:
        self._rests = rests
        self._began = monotonic()

    def begin(self) -> None:
        """What was waited for until now was no work."""
        self._began = monotonic()

    async def rest(self) -> None:
        """Between two pieces of some milliseconds."""
        took = monotonic() - self._began
        await asyncio.sleep(min(self._rests * took, _LONGEST_REST_SECONDS))
        self._began = monotonic()
