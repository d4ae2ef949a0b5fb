"""The back door: follow `consent.recorded`, fold each leaf once, keep the newest heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.marketing import projection
from services.marketing.handlers import Horizon

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.database import Transaction
    from shared.follower import Heartbeat, Recorded


class Horizons:
    """The newest heartbeat per shard, in memory only: after a start nothing is known, so permits are refused."""

    def __init__(self) -> None:
        self._newest: dict[int, Horizon] = {}

    async def on_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Keep it unless it is older than what we have: sizes never shrink, marks never go back."""
        earlier = self._newest.get(heartbeat.shard)
        if earlier is None:
            self._newest[heartbeat.shard] = Horizon(heartbeat.size, dict(heartbeat.marks))
            return
        marks = dict(earlier.marks)
        for source, mark in heartbeat.marks.items():
            marks[source] = max(mark, marks.get(source, mark))
        self._newest[heartbeat.shard] = Horizon(max(heartbeat.size, earlier.size), marks)

    def of(self, shard: int) -> Horizon | None:
        return self._newest.get(shard)


class Fold:
    """`apply` for the follower, with the clock passed in."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def apply(self, tx: Transaction, recorded: Recorded) -> None:
        await projection.apply(tx, recorded, self._clock())
