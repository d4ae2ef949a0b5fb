"""Stage 3: what a checked batch adds to the log, worked out in memory: leaves, tree, map, and every row beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from services.ledger import store
from services.ledger.check import ERASING, Alive, Reject, Stated
from services.ledger.head import Head, Sequences, Subject
from services.ledger.log.leaf import erasure_leaf, event_leaf, leaf_hash, map_root_leaf
from services.ledger.log.secrets import SubjectSecrets, wrap
from services.ledger.log.tree import Tile
from shared.clock import parse_rfc3339
from shared.errors import Corrupt
from shared.events import EVERYTHING, RESTRICTIVE, Statement, is_overtaken, matter_of
from shared.events.matter import OVERTAKEN
from shared.identifiers import Random

NONCE_SIZE: Final = 12
KEY_SIZE: Final = 32

ERASED: Final = "erased-subject"
ID_REUSED: Final = "id-reused"
SEQUENCE_REUSED: Final = "sequence-reused"
UNCOUNTED: Final = "uncounted-statement"

_YIELD_EVERY: Final = 100

Names = Mapping[tuple[str, str], bytes]
"""(source, id) of statements → the hash of their bytes."""


@dataclass(slots=True)
class Prepared:
    """One batch, complete: the arguments of the one statement that appends it, and nothing decided later."""

    # The compare-and-swap.
    shard: int
    epoch: int
    size: int
    next_offset: int
    new_size: int = 0
    new_next_offset: int = 0
    edge: bytes = b""
    map_root: bytes = b""
    root: bytes = b""
    recorded_at: int = 0
    # The log.
    leaves: list[bytes] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    # Beside each EVENT, in the order of their indexes, which begin at `size`.
    events: list[tuple[str, str, int, bytes, str, bytes]] = field(default_factory=list)
    """source, id, sequence, statement hash, subject, payload"""
    new_subjects: list[tuple[str, bytes]] = field(default_factory=list)
    """subject, wrapped K"""
    matters: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """(subject, matter) → restricted at: new ones, and those restricted anew"""
    overtaken: list[tuple[str, int, str, int]] = field(default_factory=list)
    """source, sequence, id, index"""
    erasures: dict[str, tuple[datetime | None, int | None]] = field(default_factory=dict)
    """subject → held until, index of its completion"""
    ended: list[tuple[str, str, int]] = field(default_factory=list)
    """subject, matter, index of its ERASURE"""
    # What is no leaf.
    rejects: dict[tuple[str | None, int | None, bytes, str], tuple[Reject, int]] = field(default_factory=dict)
    """each kind of reject once, the newest of it, and how many there were"""
    marks: dict[str, Alive] = field(default_factory=dict)
    progress: dict[str, int] = field(default_factory=dict)
    """source → contiguous"""
    arrived: list[tuple[str, int]] = field(default_factory=list)
    repetitions: list[tuple[str, int]] = field(default_factory=list)
    """source, sequence: a new number for what stands under another, so nothing of its own stands under it"""
    opened: list[tuple[str, str, str]] = field(default_factory=list)
    """kind, about, detail"""
    closed: list[tuple[str, str]] = field(default_factory=list)
    """kind, about"""
    # For the owner of the shard, not for the tables.
    names: dict[tuple[str, str], bytes] = field(default_factory=dict)
    rejected_hashes: set[bytes] = field(default_factory=set)
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of earlier batches about the statements at hand."""

    names: Names = field(default_factory=dict)
    rejected: frozenset[bytes] = frozenset()


class Prepare:
    """Puts batches together for one shard; keys and randomness are given to it."""

    def __init__(self, keks: Mapping[int, bytes], random: Random) -> None:
        self._keks = keks
        self._random = random

    async def batch(
        self, head: Head, checked: Sequence[Stated | Alive | Reject], known: Known, now_ms: int, next_offset: int
    ) -> Prepared:
        """The next batch. Changes `head` as if it were appended already: if it is not, drop `head`.

        Every subject in `checked` that is stored must have been loaded into `head.subjects`.
        """
        recorded_at = max(now_ms, head.recorded_at)
        prepared = Prepared(
            shard=head.shard,
            epoch=head.epoch,
            size=head.size,
            next_offset=head.next_offset,
            new_next_offset=next_offset,
            recorded_at=recorded_at,
        )
        head.map.begin()
        touched: dict[str, Sequences] = {}
        nonces = self._random(NONCE_SIZE * len(checked))
        hashes: list[bytes] = []
        for number, item in enumerate(checked):
            if number % _YIELD_EVERY == _YIELD_EVERY - 1:
                # The batch before this one is on its way to PostgreSQL through the same event loop.
                await asyncio.sleep(0)
            if isinstance(item, Alive):
                prepared.marks[item.source] = item
                continue
            sequences = _sequences_of(head, touched, item)
            repeated = sequences is not None and sequences.has(item.sequence or 0)
            if isinstance(item, Reject):
                _reject(prepared, item)
            elif not self._is_new(prepared, item, known, repeated):
                pass
            elif head.subjects.has_ended(item.statement.subject):
                # A label that has an ERASURE takes no other leaf, and a new K would be a second key for one subject.
                _reject(prepared, item.rejected(ERASED))
            else:
                _note_uncounted(head, prepared, item, known)
                nonce = nonces[number * NONCE_SIZE : (number + 1) * NONCE_SIZE]
                hashes.append(self._append(head, prepared, item, recorded_at, nonce))
            if sequences is not None and item.source and item.sequence and not repeated:
                sequences.add(item.sequence)
                if item.sequence > sequences.contiguous:
                    prepared.arrived.append((item.source, item.sequence))
        _note_sequences(prepared, touched)
        _finish(head, prepared, hashes)
        return prepared

    async def endings(
        self, head: Head, due: Sequence[tuple[str, str]], secrets: Mapping[str, SubjectSecrets], now_ms: int
    ) -> Prepared:
        """A batch of nothing but ERASURE leaves, one for each (subject, matter), in the order of their labels: it says
        nothing of which belong together. Changes `head` as `batch` does."""
        prepared = Prepared(
            shard=head.shard,
            epoch=head.epoch,
            size=head.size,
            next_offset=head.next_offset,
            new_next_offset=head.next_offset,
            recorded_at=max(now_ms, head.recorded_at),
        )
        head.map.begin()
        hashes: list[bytes] = []
        for label, name, matter in sorted((secrets[name].label(matter), name, matter) for name, matter in due):
            last = head.map.get(label)
            if last is None:
                raise Corrupt("matter", f"shard {head.shard}: one of a subject that is erased has no label")
            version, index = last[0] + 1, prepared.size + len(prepared.leaves)
            leaf = erasure_leaf(label, version, last[1] + 1, prepared.recorded_at)
            hashes.append(leaf_hash(leaf))
            head.map.update(label, version, index, hashes[-1])
            prepared.leaves.append(leaf)
            prepared.ended.append((name, matter, index))
        _finish(head, prepared, hashes)
        return prepared

    def _is_new(self, prepared: Prepared, item: Stated, known: Known, repeated: bool) -> bool:
        name = (item.source, item.statement.id)
        before = prepared.names.get(name) or known.names.get(name)
        if before == item.statement_hash:
            prepared.duplicates += 1
            if item.sequence and not repeated:
                prepared.repetitions.append((item.source, item.sequence))
            return False
        if before is not None:
            _reject(
                prepared,
                Reject(
                    item.offset,
                    ID_REUSED,
                    item.raw,
                    item.statement_hash,
                    item.source,
                    item.sequence,
                    item.statement.id,
                ),
            )
            prepared.opened.append((ID_REUSED, f"{item.source}/{item.statement.id}", "the same id with other bytes"))
            return False
        if repeated:
            if item.statement_hash in known.rejected or item.statement_hash in prepared.rejected_hashes:
                # Rejected when it came first, and its source was told so: it stays rejected.
                prepared.duplicates += 1
                return False
            # An authentic statement that we do not have is never dropped; that its number was used is for a person.
            detail = "a sequence number that has arrived came with another statement"
            prepared.opened.append((SEQUENCE_REUSED, f"{item.source}/{item.sequence}", detail))
        return True

    def _append(self, head: Head, prepared: Prepared, item: Stated, recorded_at: int, nonce: bytes) -> bytes:
        """Add the leaf of one statement, and its rows; answers the leaf's hash."""
        statement, index = item.statement, prepared.size + len(prepared.leaves)
        subject = head.subjects.get(statement.subject)
        if subject is None:
            subject = self._new_subject(head, prepared, statement.subject)
        matter = matter_of(statement)
        restricted_at = subject.restricted_at(matter)
        if is_overtaken(statement.type, statement.time, restricted_at, subject.restricted_at(EVERYTHING)):
            matter = OVERTAKEN + matter
            restricted_at = subject.restricted_at(matter)
            prepared.overtaken.append((item.source, item.sequence, statement.id, index))
        elif statement.type in RESTRICTIVE and (restricted_at is None or statement.time > restricted_at):
            restricted_at = statement.time
        label, version, previous_plus_one = _place(head, prepared, subject, statement.subject, matter, restricted_at)
        commitment = subject.secrets.commitment(label, version, item.raw)
        leaf = event_leaf(label, version, previous_plus_one, commitment, recorded_at)
        hashed = leaf_hash(leaf)
        head.map.update(label, version, index, hashed)
        prepared.leaves.append(leaf)
        payload = subject.secrets.seal_payload(head.shard, index, item.raw, nonce)
        prepared.events.append(
            (item.source, statement.id, item.sequence, item.statement_hash, statement.subject, payload)
        )
        prepared.names[item.source, statement.id] = item.statement_hash
        if statement.type in ERASING:
            _note_erasure(prepared, statement, index)
        return hashed

    def _new_subject(self, head: Head, prepared: Prepared, name: str) -> Subject:
        fresh = self._random(KEY_SIZE + NONCE_SIZE)
        K = fresh[:KEY_SIZE]  # noqa: N806 - its name in the formats
        newest = max(self._keks)
        prepared.new_subjects.append((name, wrap(newest, self._keks[newest], name, K, fresh[KEY_SIZE:])))
        return head.subjects.make(name, K)


def _sequences_of(head: Head, touched: dict[str, Sequences], item: Stated | Reject) -> Sequences | None:
    """The sequences of the source that this item was proven to come from, if it has a number there."""
    if item.source is None or not item.sequence:
        return None
    if item.source not in touched:
        touched[item.source] = head.sequences.setdefault(item.source, Sequences())
    return touched[item.source]


def _place(
    head: Head, prepared: Prepared, subject: Subject, name: str, matter: str, restricted_at: str | None
) -> tuple[bytes, int, int]:
    """Label, version and previous index + 1 of the subject's next word on a matter."""
    known = subject.matters.get(matter)
    if known is None:
        label = subject.secrets.label(matter)
        subject.matters[matter] = (label, restricted_at)
        prepared.matters[name, matter] = restricted_at
    else:
        label = known[0]
        if known[1] != restricted_at:
            subject.matters[matter] = (label, restricted_at)
            prepared.matters[name, matter] = restricted_at
    last = head.map.get(label)
    return (label, 1, 0) if last is None else (label, last[0] + 1, last[1] + 1)


def _note_erasure(prepared: Prepared, statement: Statement, index: int) -> None:
    until, completed = prepared.erasures.get(statement.subject, (None, None))
    named = statement.data.until if statement.type == "ErasureHeld" else statement.data.evidence_until
    held = None if named is None else parse_rfc3339(named)
    prepared.erasures[statement.subject] = (
        max(filter(None, (until, held)), default=None),
        index if completed is None and statement.type == "ErasureCompleted" else completed,
    )


def _finish(head: Head, prepared: Prepared, hashes: list[bytes]) -> None:
    if prepared.leaves:
        _end_with_map_root(head, prepared, hashes)
    else:
        prepared.map_root = head.map.root()
    prepared.new_size = head.size
    prepared.edge = head.tree.edge.to_bytes()
    prepared.root = head.tree.root()
    head.next_offset = prepared.new_next_offset
    head.recorded_at = prepared.recorded_at
    # Growing the map's buckets is put off to here; taking a batch back is never tried, `head` is dropped instead.
    head.map.commit()


def _end_with_map_root(head: Head, prepared: Prepared, hashes: list[bytes]) -> None:
    covers = prepared.size + len(prepared.leaves)
    prepared.map_root = head.map.root()
    # Every batch ends in a MAP_ROOT, so the one before is the leaf just before this batch.
    leaf = map_root_leaf(covers, prepared.map_root, len(head.map), prepared.size)
    prepared.leaves.append(leaf)
    prepared.tiles = head.tree.extend([*hashes, leaf_hash(leaf)])


def _reject(prepared: Prepared, reject: Reject) -> None:
    key = (reject.source, reject.sequence, reject.statement_hash, reject.reason)
    prepared.rejects[key] = (reject, prepared.rejects[key][1] + 1 if key in prepared.rejects else 1)
    if reject.source is not None:
        prepared.rejected_hashes.add(reject.statement_hash)


def _note_uncounted(head: Head, prepared: Prepared, item: Stated, known: Known) -> None:
    """A source whose relay numbers its statements says nothing without a number, but what is played again after it was
    rejected: such a one leaves no gap, so it is what somebody else would send who has the source's key."""
    was_rejected = item.statement_hash in known.rejected or item.statement_hash in prepared.rejected_hashes
    if not item.sequence and item.source in head.sequences and not was_rejected:
        detail = f"{item.statement.id} came without a number, as nothing else of this source does"
        prepared.opened.append((UNCOUNTED, item.source, detail))


def _note_sequences(prepared: Prepared, touched: Mapping[str, Sequences]) -> None:
    for source, sequences in touched.items():
        prepared.progress[source] = sequences.contiguous
        if sequences.beyond and not sequences.gap_reported:
            sequences.gap_reported = True
            detail = f"waiting for {sequences.contiguous + 1}, {max(sequences.beyond)} has arrived"
            prepared.opened.append((store.SEQUENCE_GAP, source, detail))
        elif sequences.gap_reported and not sequences.beyond:
            sequences.gap_reported = False
            prepared.closed.append((store.SEQUENCE_GAP, source))
    prepared.arrived = [(source, n) for source, n in prepared.arrived if n > prepared.progress[source]]
