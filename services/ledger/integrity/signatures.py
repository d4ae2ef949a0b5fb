"""The log's keys, what they have signed, and the lines beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from services.ledger import store
from services.ledger.integrity.finding import Finding, Trusted
from services.ledger.log_keys import KnownKey, known_keys, published
from services.ledger.reader.errors import Invalid
from services.ledger.reader.handover import Handover
from services.ledger.reader.note import CosignatureVerifier, parse_note
from services.ledger.reader.policy import Policy
from shared.database import Queries, Row


class Signatures:
    """Of one log."""

    def __init__(self, trusted: Trusted, log: Row) -> None:
        self.shard: int = log["shard"]
        self._origin: str = log["origin"]
        self._trusted = trusted
        self._fresh_vkey: str = log["fresh_vkey"]

    async def check_keys(self, db: Queries) -> list[Finding]:
        """The keys that sign this log, or have signed it, against those that we have; each against the one before."""
        keys = await known_keys(db, self.shard)
        first = await db.fetchval("select vkey from log where shard = $1", self.shard)
        return list(self._wrong_keys(keys, first))

    def _wrong_keys(self, keys: Sequence[KnownKey], first: str) -> Iterator[Finding]:
        known = [key.vkey for key in keys]
        if first != known[0] or self._trusted.vkeys.get(self.shard, first) not in known:
            yield Finding("log", self.shard, "vkey", "is not the key that we have")
        if self._trusted.fresh_vkeys.get(self.shard, self._fresh_vkey) != self._fresh_vkey:
            yield Finding("log", self.shard, "fresh_vkey", "is not the key that we have")
        for before, key in pairwise(keys):
            where = f"number {key.number}"
            try:
                handover = Handover((key.handover or "").encode(), before.vkey)
                handover.verify()
            except Invalid as invalid:
                yield Finding("log_key", self.shard, where, f"{invalid.what} {invalid.why}")
                continue
            if (handover.old, handover.new) != (before.vkey, key.vkey):
                yield Finding("log_key", self.shard, where, "its handover is about other keys")

    async def check_checkpoints(
        self,
        db: Queries,
        rows: Sequence[Row],
        roots: Mapping[int, bytes],
        size: int,
        *,
        previous: int | None = None,
        stopped: bool = False,
    ) -> list[Finding]:
        """Checkpoints, one behind the other, the first behind `previous`: signed, and of the leaves at a batch's end.

        `roots` are those of the sizes that a replay has come by, on its way to `size`.
        """
        policy = Policy(tuple(published(await known_keys(db, self.shard))))
        found = []
        for row in rows:
            what = self._wrong_checkpoint(policy, row, roots, size, previous, stopped=stopped)
            if what is not None:
                found.append(Finding("checkpoint", self.shard, f"size {row['size']}", what))
            previous = row["size"]
        return found

    def _wrong_checkpoint(
        self, policy: Policy, row: Row, roots: Mapping[int, bytes], size: int, previous: int | None, *, stopped: bool
    ) -> str | None:
        try:
            checkpoint = policy.verify(row["note"].encode()).checkpoint
        except Invalid as invalid:
            return f"{invalid.what} {invalid.why}"
        if (checkpoint.size, checkpoint.root, checkpoint.origin) != (row["size"], row["root"], self._origin):
            return "the row does not say what its note says"
        if row["previous"] != previous:
            return f"follows {row['previous']}, not {previous}"
        if row["size"] <= size and roots.get(row["size"]) != row["root"]:
            return "is signed, but is not the root of the leaves at the end of a batch"
        if row["size"] > size and not stopped:
            return "covers leaves that are not there"
        return None

    async def check_served(self, db: Queries) -> list[Finding]:
        """How far it is published, and the line that says that the newest checkpoint is the newest."""
        found = []
        # In this order: the publisher follows the signer.
        cursor = await store.published(db, self.shard)
        sealed = await store.sealed_size(db, self.shard)
        if cursor > sealed:
            what = f"is {cursor}, beyond the sealed size {sealed}"
            found.append(Finding("cursor", self.shard, "next", what))
        served = await store.served_checkpoint(db, self.shard)
        try:
            verifier = CosignatureVerifier(self._trusted.fresh_vkeys.get(self.shard, self._fresh_vkey))
            verifier.verify(parse_note((served[1] if served else "").encode()))
        except Invalid as invalid:
            found.append(Finding("fresh", self.shard, "line", f"{invalid.what} {invalid.why}"))
        return found
