"""A log replayed from its stored rows, batch by batch: its statements, its leaves, then what these lead to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from services.ledger import store
from services.ledger.integrity.finding import Finding, Pace, Progress
from services.ledger.integrity.leaves import Leaves, split
from services.ledger.integrity.statements import Statements
from services.ledger.reader.state_map import Map
from shared.database import Queries

_ROWS_AT_ONCE: Final = 8
_EVERY: Final = 1 << 63


class Replay:
    """One log from where `leaves` stands. A wrong leaf ends it: nothing behind it can be judged."""

    def __init__(
        self, leaves: Leaves, statements: Statements, pace: Pace, known: Callable[[], Map] | None = None
    ) -> None:
        """`known`: the state map to learn from what was said before, if not everything is replayed."""
        self.shard = leaves.shard
        self.leaves = leaves
        self.statements = statements
        self.stopped = False
        self.roots: dict[int, bytes] = {}
        """At the end of each batch; whoever has used them clears them."""
        self._pace = pace
        self._known = known

    @property
    def size(self) -> int:
        return self.leaves.replayed.size

    async def to(self, db: Queries, end: int = _EVERY) -> AsyncIterator[Finding | Progress]:
        """Replay the batches up to the one that ends there, with progress in between; every batch that there is, if
        nothing is said."""
        while self.size < end and not self.stopped:
            batches = await store.batches(db, self.shard, self.size, _ROWS_AT_ONCE)
            if not batches and end == _EVERY:
                return
            for finding in await self._next(db, batches, end):
                yield finding
            if not self.stopped:
                yield Progress(self.shard, self.size, end)
            await self._pace.rest()

    async def _next(self, db: Queries, batches: Sequence[store.Batch], end: int) -> list[Finding]:
        found: list[Finding] = []
        for batch in batches:
            if batch.first != self.size or batch.first + batch.n > end:
                what = f"leaf {self.size} is missing" if batch.first != self.size else f"no batch ends at {end}"
                found.append(Finding("leaf_batch", self.shard, f"first {batch.first}", what))
                self.stopped = True
            else:
                found += await self._batch(db, batch)
            if self.stopped or self.size == end:
                return found
        if not batches:
            self.stopped = True
            found.append(Finding("leaf_batch", self.shard, f"first {self.size}", f"leaf {self.size} is missing"))
        return found

    async def _batch(self, db: Queries, batch: store.Batch) -> list[Finding]:
        leaves = list(split(batch.leaves))
        unlike = self.leaves.unlike_signed(batch, leaves)
        if unlike is not None:
            self.stopped = True
            return [unlike]
        known = None if self._known is None else self._known()
        found = await self.statements.check(db, batch.first, leaves, known, self._pace)
        # What does not fit its own payload cannot be replayed past.
        self.stopped = any(one.table == "leaf_batch" for one in found)
        if self.stopped:
            return found
        wrong = await self.leaves.apply(db, batch, leaves, self._pace)
        if wrong is not None:
            self.stopped = True
            return [*found, wrong]
        self.roots[self.size] = self.leaves.replayed.tree_root()
        return found + await self.leaves.tiles(db, leaves)
