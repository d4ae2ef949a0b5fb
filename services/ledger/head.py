"""What a shard's owner holds in memory between two batches, and how it is read anew from what is stored."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.ledger import snapshot, store, stored_tree
from services.ledger.log.secrets import SubjectSecrets, unwrap
from services.ledger.log.state_map import StateMap
from services.ledger.log.tree import TileWriter
from shared.database import Database
from shared.errors import Corrupt

SUBJECTS_KEPT: Final = 160_000  # 1.4 kB each with three matters; who is not kept costs a row read and five HMACs


class Subject:
    """One subject's secrets and, per matter it has words on, the label and when it was last restricted."""

    __slots__ = ("matters", "secrets")

    def __init__(self, secrets: SubjectSecrets) -> None:
        self.secrets = secrets
        self.matters: dict[str, tuple[bytes, str | None]] = {}

    def restricted_at(self, matter: str) -> str | None:
        """The latest `time` of any restrictive statement on this matter."""
        known = self.matters.get(matter)
        return None if known is None else known[1]


class Subjects:
    """The subjects lately spoken of. Whoever is forgotten is read again from the tables.

    Holds many more than two batches can name, so none that is only in memory yet is ever forgotten.
    """

    def __init__(self, shard: int, origin: str, keks: Mapping[int, bytes], kept: int = SUBJECTS_KEPT) -> None:
        self._shard = shard
        self._origin = origin
        self._keks = keks
        self._kept = kept
        self._known: OrderedDict[str, Subject] = OrderedDict()
        self._ended: set[str] = set()

    def get(self, name: str) -> Subject | None:
        """The subject, if it is at hand."""
        subject = self._known.get(name)
        if subject is not None:
            self._known.move_to_end(name)
        return subject

    def make(self, name: str, K: bytes) -> Subject:  # noqa: N803 - K is its name in the formats
        """A subject with this K and no matters yet."""
        subject = Subject(SubjectSecrets(K, self._origin, name))
        self._known[name] = subject
        if len(self._known) > self._kept:
            self._known.popitem(last=False)
        return subject

    def end(self, names: Iterable[str]) -> None:
        """Nothing is recorded of these any more, and nothing that follows from their keys is kept here."""
        for name in names:
            self._ended.add(name)
            self._known.pop(name, None)

    def has_ended(self, name: str) -> bool:
        return name in self._ended

    async def load(self, db: Database, names: Sequence[str]) -> None:
        """Read those of `names` that are stored and not at hand; what is unknown to both stays unknown."""
        # Those at hand first become the newest: making room for the others must not push them out.
        missing = [name for name in names if self.get(name) is None and name not in self._ended]
        if not missing:
            return
        rows = await store.subjects_to_append(db, missing)
        self.end(row["subject"] for row in rows if row["ended"])
        for row in rows:
            if row["subject"] in self._ended:
                continue
            subject = self.make(row["subject"], unwrap(self._keks, row["subject"], row["wrapped"]))
            for matter, restricted_at in zip(row["matters"], row["restricted_at"], strict=True):
                if matter is not None:
                    subject.matters[matter] = (subject.secrets.label(matter), restricted_at)


@dataclass(slots=True)
class Sequences:
    """Which sequence numbers of one source have arrived."""

    contiguous: int = 0
    beyond: set[int] = field(default_factory=set)
    gap_reported: bool = False

    def has(self, sequence: int) -> bool:
        return sequence <= self.contiguous or sequence in self.beyond

    def add(self, sequence: int) -> None:
        if sequence != self.contiguous + 1:
            self.beyond.add(sequence)
            return
        self.contiguous = sequence
        while self.contiguous + 1 in self.beyond:
            self.contiguous += 1
            self.beyond.remove(self.contiguous)


@dataclass(slots=True)
class Head:
    """One shard as its owner sees it: ahead of the tables by the batch that is being appended, never by more."""

    shard: int
    epoch: int
    next_offset: int
    recorded_at: int
    tree: TileWriter
    map: StateMap
    subjects: Subjects
    sequences: dict[str, Sequences]
    snapshot_at: int = 0
    """Size at which the map was last kept."""

    @property
    def size(self) -> int:
        return self.tree.size


async def load(db: Database, shard: int, epoch: int, keks: Mapping[int, bytes], *, subjects_kept: int) -> Head:
    """Read the shard anew, and believe the head row only as far as the leaves and tiles bear it out.

    Corrupt if they disagree; the epoch is ours, and one that is not the stored epoch is found at the next append.
    """
    origin = await store.origin(db, shard)
    row = await store.head(db, shard)
    size: int = row["size"]
    tree = await TileWriter.restore(size, stored_tree.StoredHashes(db, shard))
    if tree.edge.to_bytes() != row["edge"]:
        raise Corrupt("head.edge", f"shard {shard}, size {size}")
    state_map, snapshot_at = await snapshot.state_map_at(db, shard, size)
    if state_map.root() != row["map_root"]:
        raise Corrupt("head.map_root", f"shard {shard}, size {size}")
    sequences = {source: Sequences(number) for source, number in (await store.progress(db, shard)).items()}
    for early in await store.arrived(db, shard):
        sequences.setdefault(early["source"], Sequences()).beyond.add(early["sequence"])
    for source in await store.open_incidents(db, shard, store.SEQUENCE_GAP):
        sequences.setdefault(source, Sequences()).gap_reported = True
    return Head(
        shard=shard,
        epoch=epoch,
        next_offset=row["next_offset"],
        recorded_at=row["recorded_at"],
        tree=tree,
        map=state_map,
        subjects=Subjects(shard, origin, keks, subjects_kept),
        sequences=sequences,
        snapshot_at=snapshot_at,
    )


async def secrets(
    db: Database, shard: int, keks: Mapping[int, bytes], names: Collection[str]
) -> dict[str, SubjectSecrets]:
    """What follows from these subjects' keys, for once: they are at their end, so nobody keeps it."""
    origin = await store.origin(db, shard)
    return {
        row["subject"]: SubjectSecrets(unwrap(keks, row["subject"], row["wrapped"]), origin, row["subject"])
        for row in await store.subjects(db, list(names))
    }
