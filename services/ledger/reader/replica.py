"""Replay a log leaf by leaf and refuse the first leaf that breaks a rule (docs/formats.md §10)."""

from collections.abc import Iterable

from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Erasure, Event, Leaf, MapRoot, parse_leaf
from services.ledger.reader.merkle import Tree, leaf_hash
from services.ledger.reader.state_map import EMPTY, Map

_FIRST = MapRoot(covers=0, map_root=EMPTY, labels=0, previous_plus_one=0)


class Replica:
    """What a log says after the leaves seen so far: its tree, its state map, and what the next leaf must fit.

    A refused leaf changes nothing; the replica still stands before it.
    """

    __slots__ = ("_last_map_root_plus_one", "_tree", "erased", "map", "recorded_at")

    def __init__(self) -> None:
        self.map = Map()
        self._tree = Tree()
        self.erased: set[bytes] = set()
        """Labels that have ended."""
        self.recorded_at = 0
        """Of the newest word, in milliseconds since 1970."""
        self._last_map_root_plus_one = 0

    @classmethod
    def resume(
        cls, tree: Tree, state_map: Map, erased: Iterable[bytes], recorded_at: int, last_map_root: int
    ) -> "Replica":
        """Go on where another stopped, with what it had. Nothing of it is checked: whoever resumes has done that, by
        the tree's root, the root of the map behind a MAP_ROOT, and the leaves for the rest."""
        replica = cls()
        replica.map, replica._tree = state_map, tree
        replica.erased, replica.recorded_at = set(erased), recorded_at
        replica._last_map_root_plus_one = last_map_root + 1
        return replica

    @property
    def size(self) -> int:
        """How many leaves have been applied, which is the index of the next."""
        return self._tree.size

    @property
    def perfect(self) -> tuple[bytes, ...]:
        """Roots of the tree's perfect subtrees, biggest first."""
        return self._tree.perfect

    @property
    def last_map_root(self) -> int:
        """Index of the newest MAP_ROOT; -1 if there is none yet."""
        return self._last_map_root_plus_one - 1

    def tree_root(self) -> bytes:
        """Root of the tree of all leaves applied."""
        return self._tree.root()

    def apply(self, leaf: bytes) -> Leaf:
        """Check the next leaf against all before it, take it in, and return it taken apart.

        The rules are numbered as in docs/formats.md §10; rule 7 is `check_checkpoint`.

        1. Leaf 0 is the MAP_ROOT of nothing.
        2. Type and length are known.
        3. A word's version follows the label's last version, and `previous` names that version's leaf.
        4. The label has no ERASURE.
        5. `recorded_at` does not go back.
        6. A MAP_ROOT covers everything before it, and has our map's root and count and the last MAP_ROOT's index.
        """
        # 2. (Before 1, which looks at the parts.)
        try:
            parsed = parse_leaf(leaf)
        except Invalid as error:
            raise self._refusal(2, error.what, error.why) from None
        # 1.
        if self.size == 0 and parsed != _FIRST:
            raise self._refusal(1, "the first leaf", "is not the MAP_ROOT of an empty log")
        if isinstance(parsed, MapRoot):
            self._check_map_root(parsed)
            self._last_map_root_plus_one = self.size + 1
            self._tree.append(leaf_hash(leaf))
            return parsed
        self._check_word(parsed)
        hashed = leaf_hash(leaf)
        self.map.set(parsed.label, parsed.version, self.size, hashed)
        if isinstance(parsed, Erasure):
            self.erased.add(parsed.label)
        self.recorded_at = parsed.recorded_at
        self._tree.append(hashed)
        return parsed

    def check_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Raise Invalid unless this checkpoint is one of the leaves applied so far, all of them.

        7. Its size is ours and at least 1, the last leaf is a MAP_ROOT, and its root is ours.
        """
        # 7.
        if checkpoint.size != self.size:
            raise Invalid("log rule 7", "the checkpoint's size", f"is {checkpoint.size}, not {self.size}")
        if self.size == 0 or self._last_map_root_plus_one != self.size:
            raise Invalid("log rule 7", "the checkpoint", "does not end in a MAP_ROOT")
        if checkpoint.root != self.tree_root():
            raise Invalid("log rule 7", "the checkpoint's root", "is not that of the leaves")

    def _check_word(self, word: Event | Erasure) -> None:
        # 4. (Before 3, so that a leaf after an erasure is named as what it is.)
        if word.label in self.erased:
            raise self._refusal(4, "the label", "has ended with an ERASURE")
        # 3.
        last = self.map.last(word.label)
        version, previous_plus_one = (1, 0) if last is None else (last[0] + 1, last[1] + 1)
        if word.version != version:
            raise self._refusal(3, "the version", f"is {word.version}, not {version}")
        if word.previous_plus_one != previous_plus_one:
            raise self._refusal(3, "previous index + 1", f"is {word.previous_plus_one}, not {previous_plus_one}")
        # 5.
        if word.recorded_at < self.recorded_at:
            raise self._refusal(5, "recorded_at", f"is {word.recorded_at}, before {self.recorded_at}")

    def _check_map_root(self, leaf: MapRoot) -> None:
        # 6.
        if leaf.covers != self.size:
            raise self._refusal(6, "covers", f"is {leaf.covers}, not the leaf's own index")
        if leaf.labels != len(self.map):
            raise self._refusal(6, "the number of labels", f"is {leaf.labels}, not {len(self.map)}")
        if leaf.previous_plus_one != self._last_map_root_plus_one:
            expected = self._last_map_root_plus_one
            raise self._refusal(6, "previous MAP_ROOT index + 1", f"is {leaf.previous_plus_one}, not {expected}")
        if leaf.map_root != self.map.root():
            raise self._refusal(6, "the map root", "is not that of the leaves before")

    def _refusal(self, rule: int, what: str, why: str) -> Invalid:
        return Invalid(f"log rule {rule}", f"leaf {self.size}: {what}", why, index=self.size)
