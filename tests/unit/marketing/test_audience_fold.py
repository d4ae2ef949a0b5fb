"""The audience as a fold: exact, whatever its store loses and however often it is read again."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from services.marketing.audience import Shard
from services.marketing.store import Counted
from shared.events import Statement
from shared.follower import Recorded
from tests.unit.marketing.history import NOON, given, person, recorded, said, withdrawn, withdrawn_all

ADA, BOB = person(), person()


def log(*statements: Statement | None) -> list[Recorded]:
    return [recorded(statement, index) for index, statement in enumerate(statements)]


def folded(records: Sequence[Recorded], kept: MutableMapping[str, Any] | None = None) -> Shard:
    shard = Shard(0, {} if kept is None else kept)
    for record in records:
        shard.fold(record)
    return shard


def figures(shard: Shard) -> Counted:
    return shard.counted(NOON)


def people(*statements: Statement | None) -> dict[tuple[str, str], int]:
    return dict(figures(folded(log(*statements))).people)


HISTORY = log(
    None,
    said(ADA, "ConsentRequested", 0),
    given(ADA, 1),
    given(ADA, 2, "newsletter-clicks"),
    None,
    given(BOB, 3),
    said(ADA, "ConsentUsed", 4),
    withdrawn(ADA, 5),
    withdrawn_all(BOB, 6),
    given(BOB, 5),  # late: overtaken
    given(ADA, 8),
    None,
)
EXPECTED = {("newsletter", "email"): 1, ("newsletter-clicks", "email"): 1}


def test_people_are_counted_per_purpose_and_once() -> None:
    assert people(given(ADA, 1), given(ADA, 2), given(BOB, 1)) == {("newsletter", "email"): 2}


def test_who_withdraws_is_out_and_who_agrees_again_is_in() -> None:
    assert people(given(ADA, 1), withdrawn(ADA, 2)) == {}
    assert people(given(ADA, 1), withdrawn(ADA, 2), given(ADA, 3)) == {("newsletter", "email"): 1}


def test_withdrawing_everything_ends_every_purpose() -> None:
    assert people(given(ADA, 1), given(ADA, 2, "newsletter-clicks"), withdrawn_all(ADA, 3)) == {}


def test_what_decides_nothing_counts_nobody() -> None:
    assert people(said(ADA, "ConsentRequested", 1), said(ADA, "MessageSent", 2), None) == {}


def test_hours_count_by_the_time_of_recording_and_old_ones_go() -> None:
    late = NOON + timedelta(hours=1, minutes=59)
    records = [
        recorded(given(ADA, -86_400), 0),
        recorded(withdrawn(ADA, 1), 1, at=late),
        recorded(given(ADA, 2), 2, at=late),
        recorded(given(BOB, 2), 3, at=late),
    ]
    assert figures(folded(records)).hours == {
        (NOON, "ConsentGiven"): 1,
        (NOON + timedelta(hours=1), "ConsentWithdrawn"): 1,
        (NOON + timedelta(hours=1), "ConsentGiven"): 2,
    }
    kept: dict[str, Any] = {}
    shard = folded(records, kept)
    shard.flush()
    shard.fold(recorded(given(ADA, 3), 4, at=NOON + timedelta(hours=49)))
    shard.flush()
    assert {hour for hour, _ in figures(shard).hours} == {NOON + timedelta(hours=1), NOON + timedelta(hours=49)}
    assert figures(Shard(0, kept)) == figures(shard)


def test_it_goes_on_from_what_was_kept() -> None:
    kept: dict[str, Any] = {}
    for record in HISTORY:
        shard = folded([record], kept)
        shard.flush()
    assert figures(Shard(0, kept)) == figures(folded(HISTORY))
    assert figures(Shard(0, kept)).people == EXPECTED


def test_each_shard_counts_its_own() -> None:
    kept: dict[str, Any] = {}
    there = person(1)
    for number, subject in ((0, ADA), (1, there)):
        shard = Shard(number, kept)
        shard.fold(recorded(given(subject, 1), 0, number))
        shard.flush()
    for number in (0, 1):
        assert figures(Shard(number, kept)).people == {("newsletter", "email"): 1}
        assert Shard(number, kept).next == 1


class Stopped(Exception):
    """The process dies here."""


class Losing(dict[str, Any]):
    """A store that takes so many writes and then dies, as a changelog does whose end was never sent."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self._left = writes

    def _spend(self) -> None:
        if self._left == 0:
            raise Stopped
        self._left -= 1

    def __setitem__(self, key: str, value: Any) -> None:
        self._spend()
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self._spend()
        super().__delitem__(key)


def _run(records: Sequence[Recorded], kept: MutableMapping[str, Any], flushes: Sequence[int]) -> None:
    """Fold what is not kept yet, flushing after each of these indexes and at the end."""
    shard = Shard(0, kept)
    for record in records[shard.next :]:
        shard.fold(record)
        if record.index in flushes:
            shard.flush()
    shard.flush()


def _boundaries(records: Sequence[Recorded], flushes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """What is kept if the process dies before each write of a run, and once it has finished."""
    for writes in range(10_000):
        kept = Losing(writes)
        try:
            _run(records, kept, flushes)
        except Stopped:
            yield dict(kept)
        else:
            yield dict(kept)
            return


@pytest.mark.parametrize("flushes", [range(len(HISTORY)), [3, 7], []], ids=["each leaf", "some", "at the end"])
def test_killed_before_any_write_it_counts_nothing_twice_and_misses_nothing(flushes: Sequence[int]) -> None:
    expected = figures(folded(HISTORY))
    stops = 0
    for kept in _boundaries(HISTORY, flushes):
        stops += 1
        # Killed once more, in the middle of catching up with other flushes, and then left in peace.
        for twice in (None, 1, 2, 5):
            store = dict(kept)
            if twice is not None:
                again = Losing(twice)
                dict.update(again, store)
                with suppress(Stopped):
                    _run(HISTORY, again, [1, 6])
                store = dict(again)
            _run(HISTORY, store, flushes)
            assert figures(Shard(0, store)) == expected
    assert stops >= 5


WORDS = st.tuples(
    st.sampled_from([ADA, BOB]),
    st.sampled_from(["given", "withdrawn", "withdrawn_all"]),
    st.sampled_from(["newsletter", "newsletter-clicks"]),
    st.integers(0, 20),
)


def _statement(subject: str, kind: str, purpose: str, second: int) -> Statement:
    if kind == "withdrawn_all":
        return withdrawn_all(subject, second)
    return given(subject, second, purpose) if kind == "given" else withdrawn(subject, second, purpose)


@for_all(st.lists(WORDS, max_size=12), st.integers(0, 30), st.sets(st.integers(0, 11)))
def test_any_history_killed_anywhere_gives_the_same_figures(
    words: list[tuple[str, str, str, int]], writes: int, flushes: set[int]
) -> None:
    records = log(*(_statement(*word) for word in words))
    kept = Losing(writes)
    with suppress(Stopped):
        _run(records, kept, sorted(flushes))
    store = dict(kept)
    # What was read before the kill is delivered again.
    shard = Shard(0, store)
    for record in [*records[shard.next :], *records]:
        shard.fold(record)
    assert figures(shard) == figures(folded(records))
