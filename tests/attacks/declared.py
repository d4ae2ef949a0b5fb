"""What the suite attacks: each attack is declared where it is tried, with who notices, and a run adds the figures.

`pytest tests/attacks --write-attacks` writes docs/attacks.md from the declarations and what the run measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: Final = (
    "alter",
    "delete",
    "insert",
    "reorder",
    "truncate",
    "fork",
    "back-date",
    "roll back to an old backup",
    "split view",
    "swap payloads or wrapped keys",
    "replay an old state map",
    "drop a withdrawal",
    "forge an absence proof",
    "invent a second key for a person",
    "erase, or keep from being erased",
    "forge a timestamp",
    "forge a cosignature",
    "one ciphertext, two addresses",
    "re-sign with a stolen old key",
    "speak in another source's name",
    "fill `consent.recorded` by hand",
    "two writers at once",
)
"""What the suite must try, in the order of the table."""

LATE: Final = "the signer until its next start; it reads old rows only then"


class Check(StrEnum):
    """Who may notice."""

    POSTGRESQL = "PostgreSQL"
    SIGNER = "signer"
    LOG_CHECK = "`log check`"
    HELD = "what a person holds"
    OUTSIDER = "an earlier checkpoint"
    AUDIT = "`log audit`"
    WITNESS = "witness"
    VERIFIER = "every verifier"
    APPENDER = "appender"
    EPOCH = "appender's epoch"
    FOLLOWER = "followers"


class After(StrEnum):
    """How long it stays unnoticed, if nobody does anything to look; the shortest first."""

    AT_ONCE = "at once"
    SECONDS = "seconds"
    BATCH = "with the next batch"
    MINUTE = "a minute, if a witness is asked"
    SWEEP = "the next walk through what is old"
    RUN = "when `log check` is run"
    LOOK = "when one of these looks"


class Needs(StrEnum):
    """What the attacker has."""

    DATABASE = "superuser on PostgreSQL"
    KAFKA = "writes to Kafka"
    DISK = "the signer's disk"
    SECRETS = "key-encryption keys"
    LOG_KEY = "the log's key"
    SOURCE_KEY = "a source's key"
    PUBLISHER_KEY = "the publisher's key"
    CODE = "an appender of their own"
    FILE = "a file that somebody is shown"


@dataclass(frozen=True)
class Attack:
    """One attack: what is tried with what, who must notice in which words, and who cannot."""

    kind: str
    tried: str
    needs: Sequence[Needs]
    noticed: Mapping[Check, str]
    """by whom, and words that must be in what is said"""
    blind: str = ""
    """who does not notice, and why"""
    sql: str = ""
    """all there is to it, if it is SQL alone"""

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.tried}"


@dataclass(frozen=True)
class Noticed:
    """By whom, in which words, after how long."""

    by: Check
    said: str
    seconds: float

    @property
    def after(self) -> After:
        """How long until this check looks by itself; a witness, at what it is given."""
        if self.by is Check.WITNESS and self.said.startswith("422"):
            return After.LOOK
        return looks(self.said) if self.by is Check.LOG_CHECK else _LOOKS.get(self.by, After.LOOK)


def looks(said: str) -> After:
    """When the check that runs behind the signer comes to what `log check` says: with every step, slowly with all that
    is old, or never, because it takes whole tables at once."""
    table, _, where = said.partition(", ")
    if table in {"log", "log_key", "cursor", "fresh", "progress", "arrived", "source_mark", "witness"}:
        return After.SECONDS
    place = where.partition(", ")[2]
    if place.startswith("from index"):  # all behind it is gone, the checkpoint too
        return After.SECONDS
    return After.RUN if table == "head" or (place.startswith("all:") and table != "checkpoint") else After.SWEEP


_LOOKS: Final = {
    Check.POSTGRESQL: After.AT_ONCE,
    Check.APPENDER: After.AT_ONCE,
    Check.EPOCH: After.AT_ONCE,
    Check.FOLLOWER: After.AT_ONCE,
    Check.SIGNER: After.BATCH,
    Check.WITNESS: After.MINUTE,
}


@dataclass(frozen=True)
class Chained:
    """What a plain hash chain says to an attack of this kind; nothing, if it does not notice."""

    kind: str
    tried: str
    said: str
    seconds: float


ATTACKS: Final[dict[str, Attack]] = {}
FIGURES: Final[dict[str, list[Noticed]]] = {}
"""What this run has measured, by the attack's name."""
CHAIN: Final[list[Chained]] = []
"""What the hash chain of the comparison has said in this run."""


def tries(*attacks: Attack) -> Any:
    """Declare attacks on the test that tries them; it asks for `notices`, and for `attack` if it wants to look."""
    for attack in attacks:
        ATTACKS[attack.name] = attack
    return pytest.mark.parametrize("attack", attacks, ids=[attack.name for attack in attacks])


@dataclass
class Notices:
    """What one test has seen noticed."""

    attack: Attack
    seen: list[Noticed] = field(default_factory=list)

    def by(self, check: Check, said: str, seconds: float) -> None:
        """Note who noticed and hold what was said against the words declared."""
        assert check in self.attack.noticed, f"{check} was not expected to notice; it says: {said}"
        words = self.attack.noticed[check]
        assert words in said, f"{check} says: {said}"
        self.seen.append(Noticed(check, said, seconds))

    @contextmanager
    def raising(self, check: Check, error: type[BaseException]) -> Iterator[None]:
        """What is done here must end in this error, and its words are what was said."""
        began = perf_counter()
        with pytest.raises(error) as caught:
            yield
        self.by(check, _words(caught.value), perf_counter() - began)

    def complete(self) -> None:
        """Everybody who was declared to notice has noticed."""
        assert {one.by for one in self.seen} == set(self.attack.noticed)
        FIGURES[self.attack.name] = self.seen


def _words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


_RANDOM: Final = (
    (re.compile(r"[0-9]+\.[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{22}"), "…"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f-]{17}"), "…"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "…"),
    (re.compile(r"\b[0-9]{13}\b"), "…"),
)


def lasting(said: str) -> str:
    """The words without what is another in each run: ids, hashes, moments."""
    for pattern, instead in _RANDOM:
        said = pattern.sub(instead, said)
    return said
