"""What followers read: sealed leaves with their statements opened again, as the values of consent.recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.ledger import store
from services.ledger.log.secrets import open_payload, payload_key, unwrap
from services.ledger.stored_tree import leaves
from shared.database import Queries
from shared.wire import RecordedValue


@dataclass(frozen=True, slots=True)
class Payloads:
    """Opens the payloads of one shard. Whoever asks knows that the leaves are sealed.

    Keys are unwrapped for each payload and never kept: that takes three microseconds, and once a key is destroyed
    nothing here opens any more.
    """

    shard: int
    keks: Mapping[int, bytes] = field(repr=False)

    async def recorded(self, db: Queries, start: int, end: int) -> list[RecordedValue]:
        """Leaves start … end-1, each EVENT with its statement, or with none once it is erased."""
        # Leaves first: a payload that is erased meanwhile is then simply gone, never a statement without a leaf.
        parts = await leaves(db, self.shard, start, end)
        statements: dict[int, bytes] = {}
        for row in await store.payloads(db, self.shard, start, end):
            if row["wrapped"] is not None:
                key = payload_key(unwrap(self.keks, row["subject"], row["wrapped"]))
                statements[row["index"]] = open_payload(key, self.shard, row["index"], row["payload"])
        return [
            RecordedValue(self.shard, index, leaf, statements.get(index, b""))
            for index, leaf in enumerate(parts, start)
        ]
