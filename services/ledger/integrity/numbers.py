"""What counts as arrived, against what stands there: under each number of a source a statement, a reject, a reason."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from services.ledger.integrity.finding import Finding, Pace
from shared.database import Queries, Row

_AHEAD: Final = "1 minute"
"""Clocks of ours differ by some seconds at most, or nothing is appended."""
_ROWS_AT_ONCE: Final = 5000


class Numbers:
    """Which sequence numbers of each source are accounted for; nearly always one long run."""

    def __init__(self) -> None:
        self._starts: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}

    def add(self, source: str, first: int, last: int | None = None) -> None:
        """These are accounted for, the last one included."""
        last = first if last is None else last
        if last < first:
            return
        starts, ends = self._starts.setdefault(source, []), self._ends.setdefault(source, [])
        # Every run that these touch becomes one with them.
        low, high = bisect_left(ends, first - 1), bisect_right(starts, last + 1)
        if low < high:
            first, last = min(first, starts[low]), max(last, ends[high - 1])
        starts[low:high], ends[low:high] = [first], [last]

    def missing(self, source: str, upto: int) -> Iterator[tuple[int, int]]:
        """The gaps from 1 to this number, first and last of each."""
        after = 0
        for start, end in zip(self._starts.get(source, ()), self._ends.get(source, ()), strict=True):
            if start > upto:
                break
            if start > after + 1:
                yield after + 1, start - 1
            after = end
        if after < upto:
            yield after + 1, upto


async def take_for_granted(db: Queries, shard: int, size: int, numbers: Numbers) -> None:
    """Believe what counted as arrived when the log had this size; whoever replays from the first leaf need not."""
    for row in await _claimed(db, shard, size):
        numbers.add(row["source"], 1, row["contiguous"])
    for row in await db.fetch("select source, sequence from arrived where shard = $1", shard):
        numbers.add(row["source"], row["sequence"])


async def check_numbers(
    db: Queries, shard: int, size: int, numbers: Numbers, pace: Pace, *, unread: bool, everything: bool
) -> list[Finding]:
    """Hold `progress`, `arrived` and `source_mark` against the numbers of all statements up to a size.

    `unread`: some of those statements are erased, and their numbers are still to be read; `everything`: what arrived
    beyond a gap is looked at, too, if no leaf stands behind this size.
    """
    found = []
    for row in await _claimed(db, shard, size):
        source, upto = row["source"], row["contiguous"]
        missing = await _missing(db, shard, source, upto, numbers, pace, unread=unread)
        if missing is not None:
            what = f"number {missing} counts as arrived, and nothing stands under it"
            found.append(Finding("progress", shard, f"source {source}", what))
    if everything:
        for row in await db.fetch(
            """select source, sequence from arrived
               where shard = $1 and (select h.size from head h where h.shard = $1) = $2 order by 1, 2""",
            shard,
            size,
        ):
            source, number = row["source"], row["sequence"]
            if any(first <= number <= last for first, last in numbers.missing(source, number)):
                await _account(db, shard, source, number, number, numbers)
            if any(first <= number <= last for first, last in numbers.missing(source, number)):
                what = f"number {number} counts as arrived, and nothing stands under it"
                found.append(Finding("arrived", shard, f"source {source}", what))
    rows = await db.fetch(
        """select source from source_mark
           where shard = $1 and all_before > clock_timestamp() + $2::text::interval order by source""",
        shard,
        _AHEAD,
    )
    return found + [Finding("source_mark", shard, f"source {row['source']}", "lies in the future") for row in rows]


async def _claimed(db: Queries, shard: int, size: int) -> list[Row]:
    return await db.fetch(
        """select source, max(contiguous) as contiguous from progress
           where shard = $1 and size <= $2 group by source order by source""",
        shard,
        size,
    )


async def _missing(
    db: Queries, shard: int, source: str, upto: int, numbers: Numbers, pace: Pace, *, unread: bool
) -> int | None:
    """The first number that nothing stands under."""
    for first, last in list(numbers.missing(source, upto)):
        await _account(db, shard, source, first, last, numbers)
    for row in await db.fetch(
        """select first, last from empty_number e
           where shard = $1 and source = $2
             and (why = 'repetition' or exists (
                 select from incident i where i.shard = e.shard and i.kind = 'sequence-gap' and i.about = e.source
                   and i.closed_by <> 'ledger'))""",
        shard,
        source,
    ):
        numbers.add(source, row["first"], row["last"])
    left = list(numbers.missing(source, upto))
    if left and unread:
        await _read_all(db, shard, source, left[0][0], left[-1][1], numbers, pace)
        left = list(numbers.missing(source, upto))
    return left[0][0] if left else None


async def _read_all(db: Queries, shard: int, source: str, first: int, last: int, numbers: Numbers, pace: Pace) -> None:
    """Take in every statement that has one of these numbers. There is no index for it: only where statements are
    erased, which alone knew theirs, is it asked, and then of some thousand rows at a time."""
    after: UUID | None = UUID(int=0)
    while after is not None:
        upto = await db.fetchval(
            "select id from seen where shard = $1 and id > $2 order by id offset $3 limit 1",
            shard,
            after,
            _ROWS_AT_ONCE,
        )
        for row in await db.fetch(
            """select sequence from seen
               where shard = $1 and id > $2 and id <= coalesce($3, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
                 and source = $4 and sequence between $5 and $6""",
            shard,
            after,
            upto,
            source,
            first,
            last,
        ):
            numbers.add(source, row["sequence"])
        after = upto
        await pace.rest()


async def _account(db: Queries, shard: int, source: str, first: int, last: int, numbers: Numbers) -> None:
    """Take in what was rejected under these numbers: it was answered, with a reason. So was what was taken out with a
    tail; until that is read again nothing else stands there, and in this order none of it is missed."""
    for row in await db.fetch(
        """select (content->>'sequence')::bigint as sequence from dropped_row
           where source = 'rejected' and (content->>'shard')::integer = $1 and content->>'source' = $2
             and (content->>'stated_offset')::bigint >= (select next_offset from head where shard = $1)""",
        shard,
        source,
    ):
        numbers.add(source, row["sequence"])
    for row in await db.fetch(
        "select sequence from rejected where shard = $1 and source = $2 and sequence between $3 and $4",
        shard,
        source,
        first,
        last,
    ):
        numbers.add(source, row["sequence"])
