"""An outsider's audit of a log, from what it serves and nothing else: every leaf, tile and checkpoint; no network here.

Whoever fetches asks `Audit` what to fetch, and gives it what came. It can be written to a file and read again, so that
an audit goes on where it ended, and so that a log that has lost or changed something since is found out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import HASH_SIZE, Tree, leaf_hash, root_of
from services.ledger.reader.policy import LogKey, Policy, format_log_keys, parse_log_keys
from services.ledger.reader.replica import Replica
from services.ledger.reader.state_map import RECORD_SIZE, Map
from services.ledger.reader.strict import Fields, parse_json

FORMAT: Final = "consent-ledger/audit/1"
TILE: Final = 256
MAX_ENTRIES: Final = TILE * (2 + 65535)
MAX_TILE: Final = TILE * HASH_SIZE

_HEADER_LIMIT: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile as the log should serve it, worked out from its leaves."""

    level: int
    n: int
    hashes: bytes

    @property
    def width(self) -> int:
        """How many hashes it has."""
        return len(self.hashes) // HASH_SIZE

    @property
    def path(self) -> str:
        """Where it is served, under the log's address."""
        return f"tile/{self.level}/{number(self.n)}{partial(self.width)}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint that the log's key has signed, and the note that shows it."""

    checkpoint: Checkpoint
    note: bytes


class Fork(Invalid):
    """The log contradicts what it signed before. Both notes together show it to anybody who has the log's key."""

    def __init__(self, why: str, before: Seen, now: Seen) -> None:
        super().__init__("log rule 7", f"the checkpoint of size {now.checkpoint.size}", why)
        self.notes = (before.note, now.note)


@dataclass
class Audit:
    """One log under its key, replayed as far as `size`."""

    keys: tuple[LogKey, ...]
    """Of the log; one that is retired has signed up to a size and no further."""
    compared: bool
    """Whether they came from elsewhere than the log itself."""
    replica: Replica = field(default_factory=Replica)
    seen: list[Seen] = field(default_factory=list)
    """The last checkpoint that was replayed to, and those ahead of us, by size."""
    levels: list[list[bytes]] = field(default_factory=list)
    """For each level of tiles, the hashes of the one that is not full."""

    @property
    def size(self) -> int:
        """How many leaves were replayed."""
        return self.replica.size

    def see(self, note: bytes) -> Checkpoint:
        """Take in a checkpoint that the log serves now. Invalid if it is not signed by the log's key; Fork if it
        contradicts another that was seen: it is smaller, or of one size with another root."""
        now = self._signed(note)
        newest = self.seen[-1] if self.seen else now
        if now.checkpoint.size < newest.checkpoint.size:
            raise Fork(f"was served after one of size {newest.checkpoint.size}: it was rolled back", newest, now)
        if now.checkpoint.size > newest.checkpoint.size or not self.seen:
            self.seen.append(now)
        return now.checkpoint

    def see_cosigned(self, note: bytes) -> bool:
        """Take in the newest checkpoint that witnesses have cosigned, which may be older than the newest, before that
        is seen. Whether it can be held against the leaves: not if it is older than what was replayed and was not seen
        then. Invalid and Fork as above."""
        now = self._signed(note)
        sizes = {one.checkpoint.size for one in self.seen}
        if now.checkpoint.size > self.size and now.checkpoint.size not in sizes:
            self.seen = sorted([*self.seen, now], key=lambda one: one.checkpoint.size)
            return True
        return now.checkpoint.size in sizes

    def _signed(self, note: bytes) -> Seen:
        now = Seen(Policy(self.keys).verify(note).checkpoint, note)
        for before in self.seen:
            if now.checkpoint.origin != before.checkpoint.origin:
                raise Invalid("audit", "the checkpoint", "is of another log")
            if now.checkpoint.size == before.checkpoint.size and now.checkpoint.root != before.checkpoint.root:
                raise Fork("has another root than the one that was signed before for this size", before, now)
        return now

    @property
    def target(self) -> int:
        """The size of the newest checkpoint."""
        return self.seen[-1].checkpoint.size if self.seen else 0

    def bundles(self) -> Iterator[tuple[int, int, str]]:
        """What to fetch up to the target: index of the first entry, how many, and the path under the log's address."""
        target = self.target
        for n in range(self.size // TILE, -(-target // TILE)):
            width = min(TILE, target - n * TILE)
            if n * TILE + width > self.size:
                yield n * TILE, width, f"tile/entries/{number(n)}{partial(width)}"

    def take(self, start: int, width: int, entries: bytes) -> list[Tile]:
        """Replay a bundle of entries that begins at or before our size; answers the tiles that are full now.

        Invalid names the first leaf that breaks a rule (docs/formats.md §10), or the first checkpoint on the way that
        is not that of the leaves.
        """
        leaves = split_entries(start, width, entries)
        known = self.levels[0] if self.levels else []
        for index in range(start, self.size):
            if leaf_hash(leaves[index - start]) != known[index - start]:
                raise Invalid("audit", f"leaf {index}", "is not the one that was served before", index=index)
        full: list[Tile] = []
        ahead = [one for one in self.seen if one.checkpoint.size > self.size]
        for leaf in leaves[self.size - start :]:
            self.replica.apply(leaf)
            full += self._grow(leaf_hash(leaf))
            if ahead and ahead[0].checkpoint.size == self.size:
                self._reach(ahead.pop(0))
        return full

    def partial_tiles(self) -> list[Tile]:
        """The tiles that are not full at our size, one a level at most."""
        return [
            Tile(level, self.size // TILE ** (level + 1), b"".join(hashes))
            for level, hashes in enumerate(self.levels)
            if hashes
        ]

    def to_bytes(self) -> bytes:
        """Everything that is needed to go on from here."""
        erased = sorted(self.replica.erased)
        header = {
            "format": FORMAT,
            "keys": format_log_keys(self.keys),
            "compared": self.compared,
            "size": str(self.size),
            "labels": str(len(self.replica.map)),
            "erased": str(len(erased)),
            "recorded_at": str(self.replica.recorded_at),
            "last_map_root": str(self.replica.last_map_root),
            "widths": [len(level) for level in self.levels],
            "seen": [one.note.decode() for one in self.seen],
        }
        parts = [json.dumps(header).encode() + b"\n"]
        parts += [b"".join(level) for level in self.levels]
        parts += [b"".join(erased), b"".join(self.replica.map.records())]
        digest = sha256()
        for part in parts:
            digest.update(part)
        return b"".join([*parts, digest.digest()])

    @classmethod
    def from_bytes(cls, data: bytes) -> Audit:
        """What `to_bytes` wrote, or Invalid.

        1. The bytes are whole.
        2. The header is one of ours.
        3. What follows it has the lengths that it says.
        4. The tiles lead to the root of the last checkpoint that was replayed to, if that is where we stand.
        """
        # 1.
        header, _, body = data[:-HASH_SIZE].partition(b"\n")
        if len(header) > _HEADER_LIMIT or sha256(data[:-HASH_SIZE]).digest() != data[-HASH_SIZE:]:
            raise Invalid("position 1", "the file", "is damaged, or is no position of an audit")
        # 2.
        fields = Fields("position 2", "the header", parse_json("position 2", "the header", header))
        if fields.text("format") != FORMAT:
            raise Invalid("position 2", "the file", "is of another format")
        size, widths = fields.decimal("size"), fields.get("widths")
        expected = [size >> 8 * level & 255 for level in range(len(widths) if isinstance(widths, list) else 0)]
        if widths != expected:
            raise Invalid("position 2", "the tiles", "do not belong to the size")
        # 3.
        lengths = [*widths, fields.decimal("erased")]
        if len(body) != HASH_SIZE * sum(lengths) + RECORD_SIZE * fields.decimal("labels"):
            raise Invalid("position 3", "the file", "has not the length that its header says")
        at, lists = 0, list[list[bytes]]()
        for length in lengths:
            lists.append([body[one : one + HASH_SIZE] for one in range(at, at + HASH_SIZE * length, HASH_SIZE)])
            at += HASH_SIZE * length
        erased = lists.pop()
        state_map = Map.of(body[one : one + RECORD_SIZE] for one in range(at, len(body), RECORD_SIZE))
        tree = Tree.of(size, [one for level in reversed(lists) for one in _perfect(level)])
        keys = parse_log_keys(fields.text("keys").encode()).logs
        replica = Replica.resume(
            tree, state_map, erased, fields.decimal("recorded_at"), fields.decimal("last_map_root")
        )
        notes = [str(note).encode() for note in fields.array("seen", 1000)]
        seen = [Seen(Policy(keys).verify(note).checkpoint, note) for note in notes]
        # 4.
        for one in seen:
            if one.checkpoint.size == size and one.checkpoint.root != tree.root():
                raise Invalid("position 4", "the tiles", "do not lead to the checkpoint's root")
        return cls(keys, fields.flag("compared"), replica, seen, lists)

    def _grow(self, one: bytes) -> list[Tile]:
        full: list[Tile] = []
        level = 0
        while True:
            if level == len(self.levels):
                self.levels.append([])
            hashes = self.levels[level]
            hashes.append(one)
            if len(hashes) < TILE:
                return full
            full.append(Tile(level, self.size // TILE ** (level + 1) - 1, b"".join(hashes)))
            one = root_of(hashes)
            hashes.clear()
            level += 1

    def _reach(self, one: Seen) -> None:
        self.replica.check_checkpoint(one.checkpoint)
        self.seen = [other for other in self.seen if other.checkpoint.size >= one.checkpoint.size]


def split_entries(start: int, width: int, data: bytes) -> list[bytes]:
    """The leaves of a bundle of entries (docs/formats.md §12), or Invalid unless there are exactly so many."""
    leaves: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data) or at + 2 > len(data) or len(leaves) == width:
            raise Invalid("audit", f"the entries from {start}", f"are not {width} leaves", index=start + len(leaves))
        leaves.append(data[at + 2 : end])
        at = end
    if len(leaves) != width:
        raise Invalid("audit", f"the entries from {start}", f"are {len(leaves)}, not {width}", index=start)
    return leaves


def check_tile(expected: Tile, served: bytes) -> None:
    """Raise Invalid unless the log serves the hashes of its own leaves; names the first that differs."""
    if served == expected.hashes:
        return
    if len(served) != len(expected.hashes):
        raise Invalid("audit", expected.path, f"has {len(served)} bytes, not {len(expected.hashes)}")
    at = next(at for at in range(0, len(served), HASH_SIZE) if served[at : at + 32] != expected.hashes[at : at + 32])
    first = (expected.n * TILE + at // HASH_SIZE) * TILE**expected.level
    last = first + TILE**expected.level - 1
    leaves = f"leaf {first}" if first == last else f"leaves {first} to {last}"
    raise Invalid("audit", f"{expected.path}: the hash of {leaves}", "is not that of the entries served", index=first)


def number(n: int) -> str:
    """A tile's number in groups of three digits (docs/formats.md §12)."""
    groups = [f"{n % 1000:03d}"]
    while n := n // 1000:
        groups.append(f"x{n % 1000:03d}")
    return "/".join(reversed(groups))


def partial(width: int) -> str:
    """The end of a tile's path: nothing for a full one."""
    return "" if width == TILE else f".p/{width}"


def _perfect(hashes: Sequence[bytes]) -> tuple[bytes, ...]:
    tree = Tree()
    for one in hashes:
        tree.append(one)
    return tree.perfect
