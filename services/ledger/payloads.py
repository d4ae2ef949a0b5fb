"""What followers read: sealed leaves with their statements opened again, as the values of consent.recorded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from services.ledger import store
from services.ledger.log.secrets import SubjectSecrets, unwrap
from services.ledger.stored_tree import leaves
from shared.database import Queries
from shared.wire import RecordedValue

_SUBJECTS_KEPT: Final = 20_000


class Payloads:
    """Opens the payloads of one shard. Whoever asks knows that the leaves are sealed."""

    def __init__(self, shard: int, origin: str, keks: Mapping[int, bytes], kept: int = _SUBJECTS_KEPT) -> None:
        self.shard = shard
        self._origin = origin
        self._keks = keks
        self._kept = kept
        self._secrets: OrderedDict[bytes, SubjectSecrets] = OrderedDict()

    async def recorded(self, db: Queries, start: int, end: int) -> list[RecordedValue]:
        """Leaves start … end-1, each EVENT with its statement, or with none once it is erased."""
        # Leaves first: a payload that is erased meanwhile is then simply gone, never a statement without a leaf.
        parts = await leaves(db, self.shard, start, end)
        statements: dict[int, bytes] = {}
        for row in await store.payloads(db, self.shard, start, end):
            if row["wrapped"] is not None:
                secrets = self.secrets_of(row["subject"], row["wrapped"])
                statements[row["index"]] = secrets.open_payload(self.shard, row["index"], row["payload"])
        return [
            RecordedValue(self.shard, index, leaf, statements.get(index, b""))
            for index, leaf in enumerate(parts, start)
        ]

    def secrets_of(self, subject: str, wrapped: bytes) -> SubjectSecrets:
        """All that the subject's key unlocks, as long as its wrapped key exists."""
        # By the wrapped key, which every caller has just read: once it is destroyed, nothing here opens any more.
        known = self._secrets.get(wrapped)
        if known is not None:
            self._secrets.move_to_end(wrapped)
            return known
        secrets = SubjectSecrets(unwrap(self._keks, subject, wrapped), self._origin, subject)
        self._secrets[wrapped] = secrets
        if len(self._secrets) > self._kept:
            self._secrets.popitem(last=False)
        return secrets
