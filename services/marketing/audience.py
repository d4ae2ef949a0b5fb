"""The live audience as a fold: who is in, per purpose, and how much was recorded, per hour.

Derived and rebuildable: nobody asks it for a permit. It stands on a mapping that may lose its last writes, or be read
again from the middle of a flush; so every value says up to which index it is true, and a leaf is never counted twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, MutableMapping
from datetime import datetime, timedelta
from typing import Any, Final

from services.marketing.store import Counted
from shared.clock import from_millis, parse_rfc3339, rfc3339
from shared.events import Standing, Statement, Word
from shared.follower import Recorded

HOURS_KEPT: Final = timedelta(hours=48)
Pair = tuple[str, str]


class Shard:
    """The figures of one shard. `kept` outlives us: Faust's table, in which all shards of a worker lie together.

    Keys of `kept`: a subject id → {"at", "words"}; `#<shard> <hour>` → {"at", "counts"}; `#<shard>` → {"next"}, which
    `flush` writes last: what is kept is always true at least up to there.
    """

    def __init__(self, shard: int, kept: MutableMapping[str, Any]) -> None:
        """Reads everything of the shard once: who is in is counted from the entries, never stored as a number."""
        self._shard, self._kept = shard, kept
        self._position = f"#{shard}"
        self._changed: dict[str, Any] = {}
        self._hours: dict[str, dict[str, Any]] = {}
        self.people: Counter[Pair] = Counter()
        for key, value in kept.items():
            if key.startswith(f"{shard}."):
                self.people.update(_in_force(_standing(value)))
            elif key.startswith(f"#{shard} "):
                self._hours[key] = value
        self.next: int = (kept.get(self._position) or {"next": 0})["next"]

    @property
    def waiting(self) -> int:
        """How many entries `flush` would write."""
        return len(self._changed)

    def fold(self, recorded: Recorded) -> None:
        """Count the next leaf; one that was counted before changes nothing."""
        if recorded.index < self.next:
            return
        if recorded.statement is not None and recorded.recorded_at is not None:
            self._fold_person(recorded.index, recorded.statement)
            self._fold_hour(recorded.index, recorded.statement.type, from_millis(recorded.recorded_at))
        self.next = recorded.index + 1

    def _fold_person(self, index: int, statement: Statement) -> None:
        subject = statement.subject
        entry = self._changed.get(subject) or self._kept.get(subject)
        if entry is not None and entry["at"] >= index:
            return
        before = _standing(entry)
        after, _overtaken = before.apply(statement, index)
        if after is before:
            return
        self.people.subtract(_in_force(before))
        self.people.update(_in_force(after))
        words = {matter: [word.status, word.index, word.restricted_at] for matter, word in after.words.items()}
        self._changed[subject] = {"at": index, "words": words}

    def _fold_hour(self, index: int, type_name: str, at: datetime) -> None:
        key = f"{self._position} {rfc3339(at.replace(minute=0, second=0, microsecond=0))}"
        entry = self._hours.get(key, {"at": -1, "counts": {}})
        if entry["at"] >= index:
            return
        counts = {**entry["counts"], type_name: entry["counts"].get(type_name, 0) + 1}
        self._changed[key] = self._hours[key] = {"at": index, "counts": counts}
        if len(counts) == 1 and counts[type_name] == 1:
            oldest = f"{self._position} {rfc3339(at - HOURS_KEPT)}"
            for old in [old for old in self._hours if old < oldest]:
                del self._hours[old]
                self._changed[old] = None

    def flush(self) -> None:
        """Write what changed, the position last. If we stop in between, the same leaves are folded again over it."""
        for key, value in self._changed.items():
            if value is not None:
                self._kept[key] = value
            elif key in self._kept:
                del self._kept[key]
        self._changed.clear()
        self._kept[self._position] = {"next": self.next}

    def counted(self, complete_at: datetime) -> Counted:
        """The figures as the page shows them."""
        hours = {
            (parse_rfc3339(key.split(" ", 1)[1]), type_name): number
            for key, entry in self._hours.items()
            for type_name, number in entry["counts"].items()
        }
        people = {pair: number for pair, number in self.people.items() if number}
        return Counted(self._shard, self.next, complete_at, people, hours)


def _standing(entry: Mapping[str, Any] | None) -> Standing:
    words = {} if entry is None else entry["words"]
    return Standing(
        {matter: Word(status, "", index, restricted_at) for matter, (status, index, restricted_at) in words.items()}
    )


def _in_force(standing: Standing) -> list[Pair]:
    pairs = []
    for matter in standing.words:
        kind, _, about = matter.partition(":")
        purpose, _, channel = about.partition("/")
        if kind == "purpose" and standing.permits(purpose, channel):
            pairs.append((purpose, channel))
    return pairs
