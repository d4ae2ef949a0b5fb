"""Which numbers of a source are accounted for, in whatever order they come."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as some

from services.ledger.integrity.numbers import Numbers


def test_what_comes_in_a_row_leaves_no_gap() -> None:
    numbers = Numbers()
    for number in range(1, 1001):
        numbers.add("newsletter", number)
    assert list(numbers.missing("newsletter", 1000)) == []
    assert list(numbers.missing("newsletter", 1001)) == [(1001, 1001)]
    assert list(numbers.missing("marketing", 2)) == [(1, 2)]


@given(some.lists(some.tuples(some.integers(1, 60), some.integers(0, 5)), max_size=30), some.integers(0, 70))
def test_the_gaps_are_the_numbers_that_nobody_has_named(spans: list[tuple[int, int]], upto: int) -> None:
    numbers = Numbers()
    named: set[int] = set()
    for first, more in spans:
        numbers.add("newsletter", first, first + more)
        named |= set(range(first, first + more + 1))
    gaps = list(numbers.missing("newsletter", upto))
    assert {number for first, last in gaps for number in range(first, last + 1)} == set(range(1, upto + 1)) - named
    assert all(end + 1 < start for (_, end), (start, _) in pairwise(gaps))
