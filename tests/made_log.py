"""A log made by hand, right or wrong as a test wants it, signed, and served as C2SP tlog-tiles has it."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.log.leaf import erasure_leaf, event_leaf, leaf_hash, map_root_leaf
from services.ledger.log.state_map import StateMap
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.merkle import root_of
from services.ledger.reader.note import CosignatureSigner, Signer, format_note

ORIGIN = "log.example.org/ledger/log/0"
NOW = 1580895000000
_TILE = re.compile(r"tile/(\d+|entries)/((?:x\d{3}/)*\d{3})(?:\.p/(\d+))?\Z")


def key(seed: int) -> Ed25519PrivateKey:
    """The same key for the same seed."""
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


SIGNER = Signer(ORIGIN, key(1))
FRESH = CosignatureSigner(f"{ORIGIN}/fresh", key(2))


@dataclass
class MadeLog:
    """`leaves` may be altered at will; what was altered is hashed and signed as it stands."""

    leaves: list[bytes] = field(default_factory=lambda: [map_root_leaf(0, bytes(32), 0, 0)])
    sizes: list[int] = field(default_factory=lambda: [1])
    """Where checkpoints were signed."""
    state_map: StateMap = field(default_factory=StateMap)
    last: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """label → version, index"""

    def say(self, label: bytes, *, erased: bool = False, at: int | None = None) -> int:
        """Append the next word on a label; answers its index."""
        version, previous = self.last.get(label, (0, -1))
        index, at = len(self.leaves), NOW + len(self.leaves) if at is None else at
        if erased:
            leaf = erasure_leaf(label, version + 1, previous + 1, at)
        else:
            leaf = event_leaf(label, version + 1, previous + 1, sha256(b"%d" % index).digest(), at)
        self.leaves.append(leaf)
        self.last[label] = (version + 1, index)
        self.state_map.update(label, version + 1, index, leaf_hash(leaf))
        return index

    def end(self, *, signed: bool = True) -> int:
        """Append a MAP_ROOT, and sign there; answers the size."""
        covers = len(self.leaves)
        before = max(index for index, leaf in enumerate(self.leaves) if leaf[0] == 2)
        self.leaves.append(map_root_leaf(covers, self.state_map.root(), len(self.state_map), before + 1))
        if signed:
            self.sizes.append(len(self.leaves))
        return len(self.leaves)

    def fork(self) -> MadeLog:
        """The same history, to go on in another way."""
        return copy.deepcopy(self)

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        """What is, or would be, signed."""
        size = self.sizes[-1] if size is None else size
        return Checkpoint(ORIGIN, size, root_of([leaf_hash(leaf) for leaf in self.leaves[:size]]))

    def note(self, size: int | None = None, time: int = 1580895002) -> bytes:
        """The checkpoint as it is served."""
        text = self.checkpoint(size).text()
        return format_note(text, [SIGNER.sign(text), FRESH.sign(text, time)])

    def resource(self, path: str) -> bytes | None:
        """What is served under the log's address."""
        if path in {"checkpoint", "vkey", "fresh-vkey"}:
            lines = {"vkey": SIGNER.vkey, "fresh-vkey": FRESH.vkey}
            return self.note() if path == "checkpoint" else f"{lines[path]}\n".encode()
        match = _TILE.match(path)
        if match is None:
            return None
        n, width = int(match[2].replace("x", "").replace("/", "")), int(match[3] or 256)
        below = 1 if match[1] == "entries" else 256 ** int(match[1])
        if (n * 256 + width) * below > self.sizes[-1]:
            return None
        parts = [self.leaves[at : at + below] for at in range(n * 256 * below, (n * 256 + width) * below, below)]
        if match[1] == "entries":
            return b"".join(len(leaf).to_bytes(2, "big") + leaf for (leaf,) in parts)
        return b"".join(root_of([leaf_hash(leaf) for leaf in part]) for part in parts)


def made(batches: int = 6, words: int = 100, seed: int = 1) -> MadeLog:
    """A good log: some labels are spoken of often, some end."""
    random, log = Random(seed), MadeLog()
    labels = [sha256(b"%d" % number).digest() for number in range(words)]
    ended: set[bytes] = set()
    for batch in range(batches):
        for _ in range(words):
            label = random.choice(labels)
            if label not in ended:
                erased = random.random() < 0.03
                log.say(label, erased=erased)
                ended |= {label} if erased else set()
        log.end(signed=batch % 2 == 1)
    return log
