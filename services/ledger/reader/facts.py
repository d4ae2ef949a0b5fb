"""What a verified file says about a log, and what two such files say that cannot both be true of one honest log.

docs/formats.md §22. Every fact is signed: it follows from a checkpoint of the log's key and from hashes below its root.
So whatever contradicts itself here is proof of fraud, to whoever holds both files.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeVar

from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.commitment import label as label_of
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Erasure, Event, Leaf, MapRoot
from services.ledger.reader.map_proof import MapRecord
from services.ledger.reader.merkle import leaf_hash
from shared.clock import from_millis, rfc3339
from shared.events.matter import OVERTAKEN

_SUSPECT_LABELS: Final = 2  # of one matter, before it is clear which of them is that of `overtaken:`

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class LeafFact:
    """At this index of the log stands this leaf."""

    index: int
    leaf: bytes
    parsed: Leaf
    about: str = ""
    """The matter its statement is about, where one was shown."""


@dataclass(frozen=True, slots=True)
class MapFact:
    """In the map under the checkpoint of this size, the label has this record, or none."""

    size: int
    label: bytes
    record: MapRecord | None
    matter: str = ""


@dataclass(frozen=True, slots=True)
class LabelFact:
    """The subject's statements on this matter are under this label; `overtaken` None: or those overtaken on it."""

    subject: str
    matter: str
    overtaken: bool | None
    label: bytes


@dataclass
class Facts:
    """What one file, or two, say about a log."""

    origin: str
    vkey: str
    checkpoints: list[Checkpoint] = field(default_factory=list)
    leaves: list[LeafFact] = field(default_factory=list)
    maps: list[MapFact] = field(default_factory=list)
    pins: list[tuple[str, bytes]] = field(default_factory=list)
    label_keys: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    """(subject, pin) → KL, where it was shown"""
    labels: list[LabelFact] = field(default_factory=list)

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.checkpoints.append(checkpoint)

    def add_leaf(self, index: int, leaf: bytes, parsed: Leaf, about: str = "") -> None:
        self.leaves.append(LeafFact(index, leaf, parsed, about))

    def add_pin(self, subject: str, pin: bytes, label_key: bytes | None = None) -> None:
        self.pins.append((subject, pin))
        if label_key is not None:
            self.label_keys[subject, pin] = label_key

    def add_label(self, subject: str, matter: str, label: bytes, *, sure: bool = True) -> None:
        """`sure`: the matter is named with its `overtaken:`, if it has one."""
        overtaken = matter.startswith(OVERTAKEN) if sure else None
        self.labels.append(LabelFact(subject, matter.removeprefix(OVERTAKEN), overtaken, label))

    def add_map(self, size: int, label: bytes, record: MapRecord | None, matter: str = "") -> None:
        self.maps.append(MapFact(size, label, record, matter))

    def check_times(self, step: str) -> None:
        """Raise Invalid if `recorded_at` goes back along these leaves (docs/formats.md §10, rule 5)."""
        for earlier, later in pairwise(self._words()):
            if later[1].recorded_at < earlier[1].recorded_at:
                raise Invalid(step, f"the leaf at index {later[0]}", "was recorded before an earlier one")

    def _words(self) -> list[tuple[int, Event | Erasure]]:
        found = [(one.index, one.parsed) for one in self.leaves if not isinstance(one.parsed, MapRoot)]
        return sorted(found, key=lambda one: one[0])

    def with_those_of(self, other: "Facts") -> "Facts":
        """Both together; the same log is supposed."""
        return Facts(
            self.origin,
            self.vkey,
            self.checkpoints + other.checkpoints,
            self.leaves + other.leaves,
            self.maps + other.maps,
            self.pins + other.pins,
            self.label_keys | other.label_keys,
            self.labels + other.labels,
        )


def contradictions(facts: Facts) -> list[str]:
    """In plain words, each thing that cannot be true of one honest log; empty if there is none."""
    found = [
        *_forks(facts),
        *_rewritten(facts),
        *_second_keys(facts),
        *_second_labels(facts),
        *_replaced(facts),
        *_denied(facts),
        *_broken_rules(facts),
    ]
    return list(dict.fromkeys(found))


def _forks(facts: Facts) -> Iterator[str]:
    for size, roots in _grouped((one.size, one.root) for one in facts.checkpoints).items():
        if len(roots) > 1:
            yield (
                f"a fork: the log's key has signed two different histories of {size} leaves. Whoever was shown one of "
                "them was not shown what others were"
            )


def _rewritten(facts: Facts) -> Iterator[str]:
    for index, leaves in _grouped((one.index, one.leaf) for one in facts.leaves).items():
        if len(leaves) > 1:
            yield f"a rewritten log: at index {index} two different leaves are shown, each in a tree that was signed"


def _second_keys(facts: Facts) -> Iterator[str]:
    for subject, pins in _grouped(facts.pins).items():
        if len(pins) > 1:
            yield (
                f"a second key: the subject {subject} has two pins. A second record of the same person was invented, "
                "in which other things are said or missing"
            )


def _second_labels(facts: Facts) -> Iterator[str]:
    doubled = {subject for subject, pins in _grouped(facts.pins).items() if len(pins) > 1}
    for (subject, matter), labels in _grouped(((one.subject, one.matter), one) for one in facts.labels).items():
        if subject in doubled:
            continue  # another key has other labels; that there are two keys is said already
        plain = {one.label for one in labels if one.overtaken is False}
        late = {one.label for one in labels if one.overtaken is True}
        either = {one.label for one in labels}
        keys = {key for (of, _), key in facts.label_keys.items() if of == subject}
        right = {label_of(key, prefix + matter) for key in keys for prefix in ("", OVERTAKEN)}
        if (
            len(plain) > 1
            or len(late) > 1
            or plain & late
            or len(either) > _SUSPECT_LABELS
            or (len(keys) == 1 and either - right)
        ):
            yield (
                f"a second label: what the subject {subject} said about {matter} stands under two labels, so that one "
                "record can be shown as complete while the other is kept back"
            )
    for subject, label in {(one.subject, one.label) for one in facts.labels}:
        about = {one.matter for one in facts.labels if (one.subject, one.label) == (subject, label)}
        if len(about) > 1:
            yield f"one label for two matters of the subject {subject}: {', '.join(sorted(about))}"


def _replaced(facts: Facts) -> Iterator[str]:
    versions = [
        ((one.parsed.label, one.parsed.version), (one.index, leaf_hash(one.leaf)))
        for one in facts.leaves
        if not isinstance(one.parsed, MapRoot)
    ]
    versions += [
        ((one.record.label, one.record.version), (one.record.index, one.record.leaf_hash))
        for one in facts.maps
        if one.record is not None
    ]
    for (label, version), leaves in _grouped(versions).items():
        if len(leaves) > 1:
            indexes = " and ".join(str(index) for index in sorted({index for index, _ in leaves}))
            yield (
                f"a replaced statement: version {version}{_about(facts, label)} is shown as two different leaves, at "
                f"index {indexes}"
            )


def _denied(facts: Facts) -> Iterator[str]:
    # A leaf that stands before the MAP_ROOT of a checkpoint is in its map, with this version or a later one.
    seen: list[tuple[bytes, int, int, int | None]] = [
        (one.parsed.label, one.parsed.version, one.index, one.parsed.recorded_at)
        for one in facts.leaves
        if not isinstance(one.parsed, MapRoot)
    ]
    seen += [(one.record.label, one.record.version, one.record.index, None) for one in facts.maps if one.record]
    for shown in facts.maps:
        for label, version, index, recorded_at in seen:
            if label != shown.label or index >= shown.size - 1:
                continue
            since = "" if recorded_at is None else f", recorded {_at(recorded_at)}"
            if shown.record is None:
                yield (
                    f"absence after presence: at {shown.size} leaves the operator's log says that nothing was ever "
                    f"recorded{_about(facts, label)}, and yet version {version} of it stands at index {index}{since}"
                )
            elif shown.record.version < version:
                yield (
                    f"an older state shown as the newest: at {shown.size} leaves the operator's log says that version "
                    f"{shown.record.version} is the last word{_about(facts, label)}, and yet version {version} stands "
                    f"at index {index}{since}"
                )


def _broken_rules(facts: Facts) -> Iterator[str]:
    words = [one for one in facts.leaves if not isinstance(one.parsed, MapRoot)]
    for earlier, later in pairwise(sorted(words, key=lambda one: one.index)):
        assert not isinstance(earlier.parsed, MapRoot)  # noqa: S101 - left out above
        assert not isinstance(later.parsed, MapRoot)  # noqa: S101
        if later.parsed.recorded_at < earlier.parsed.recorded_at:
            yield (
                f"a back-dated statement: index {later.index} claims {_at(later.parsed.recorded_at)}, and index "
                f"{earlier.index}, before it, {_at(earlier.parsed.recorded_at)}"
            )
    labelled = ((one.parsed.label, one) for one in words if not isinstance(one.parsed, MapRoot))
    for label, chain in _grouped(labelled).items():
        yield from _broken_chain(facts, label, sorted(chain, key=lambda one: one.index))
    ends = {one.size - 1 for one in facts.checkpoints}
    for one in words:
        if one.index in ends:
            yield f"a log without its map: the checkpoint of {one.index + 1} leaves does not end in a MAP_ROOT"
    roots = sorted({(one.index, one.parsed.labels) for one in facts.leaves if isinstance(one.parsed, MapRoot)})
    for (before, many), (after, fewer) in pairwise(roots):
        if fewer < many:
            yield f"labels left the map: it had {many} at index {before}, and {fewer} at index {after}"


def _broken_chain(facts: Facts, label: bytes, chain: Sequence[LeafFact]) -> Iterator[str]:
    about = _about(facts, label)
    for earlier, later in pairwise(chain):
        if isinstance(earlier.parsed, MapRoot) or isinstance(later.parsed, MapRoot) or earlier.leaf == later.leaf:
            continue
        if isinstance(earlier.parsed, Erasure):
            yield f"a word behind the last{about}: after the ERASURE at index {earlier.index}, one at {later.index}"
        elif later.parsed.version <= earlier.parsed.version:
            yield (
                f"versions that go back{about}: {earlier.parsed.version} at index {earlier.index}, then "
                f"{later.parsed.version} at index {later.index}"
            )
        elif later.parsed.version == earlier.parsed.version + 1 and later.parsed.previous_plus_one != earlier.index + 1:
            yield (
                f"a broken chain{about}: index {later.index} does not name index {earlier.index}, where the version "
                "before it stands"
            )


def _about(facts: Facts, label: bytes) -> str:
    """In words, what a label is about; its beginning where no file says it."""
    for one in facts.labels:
        if one.label == label:
            return f" of the subject {one.subject} about {OVERTAKEN * bool(one.overtaken)}{one.matter}"
    return f" under the label {label.hex()[:16]}…"


def _grouped(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, set[Value]]:
    groups: dict[Key, set[Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, set()).add(value)
    return groups


def _at(recorded_at: int) -> str:
    try:
        return rfc3339(from_millis(recorded_at))
    except (ValueError, OverflowError, OSError):
        return "an impossible time"
