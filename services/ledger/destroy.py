"""Behind the appender: destroy what is at its end, and wrap living keys anew after a key-encryption key has changed.

Who may decide is the recorded statement, who may delete is one procedure of the database. What happens here can stop at
any line: until the procedure's commit nothing is gone, after it everything is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

import asyncpg

from services.ledger import store
from services.ledger.keks import Keks
from services.ledger.log.leaf import ERASURE, MAP_ROOT
from services.ledger.log.secrets import NONCE_SIZE, open_payload, payload_key, unwrap, wrap
from services.ledger.stored_tree import leaves
from shared import logs
from shared.database import Queries
from shared.errors import Corrupt, Unavailable
from shared.events import Malformed, Statement, parse
from shared.identifiers import Random
from shared.metrics import Metrics

_PAUSE_SECONDS: Final = 5.0
_ROTATION_BATCH: Final = 500
_LABEL: Final = slice(1, 33)
_PREVIOUS: Final = slice(41, 49)

log = logs.logger("destroy")


class Destroyer:
    """One shard's. Any number may run: the procedure lets one at a time take a subject."""

    def __init__(self, shard: int, db: Queries, keks: Keks, random: Random, metrics: Metrics) -> None:
        self.shard = shard
        self._db = db
        self._keks = keks
        self._random = random
        self._rewrapped_under = -1
        self._destroyed = metrics.counter("subjects_destroyed", "Subjects whose key and statements are gone", ["shard"])

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.step()
            except Unavailable as error:
                log.warning("waiting", shard=self.shard, service=error.service)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def step(self) -> None:
        """Everything that is due now."""
        for subject, ended in (await store.to_destroy(self._db, self.shard)).items():
            try:
                await self.destroy(subject, ended)
            except asyncpg.IntegrityConstraintViolationError:
                # Another hold was recorded since we looked.
                log.warning("not-destroyed", shard=self.shard, exc_info=True)
        self._keks.read_again()
        if max(self._keks) != self._rewrapped_under:
            await self.rewrap()

    async def destroy(self, subject: str, ended: Iterable[int], attachments: Iterable[bytes] = ()) -> None:
        """Let go of one subject, whose labels all end at these ERASURE leaves. `attachments`: of its statements
        that are not stored."""
        indexes = await self._indexes(ended)
        hashes = sorted({*await self._attachments(subject, indexes), *attachments})
        taken = await store.destroy_subject(self._db, subject, indexes, hashes)
        self._destroyed.labels(self.shard).inc()
        log.info("destroyed", shard=self.shard, statements=taken, attachments=len(hashes))

    async def rewrap(self) -> int:
        """Wrap every living key that hangs on an older key-encryption key under the newest; how many there were."""
        newest, after, moved = max(self._keks), "", 0
        while rows := await store.wrapped_keys(self._db, self.shard, after, _ROTATION_BATCH):
            after = rows[-1]["subject"]
            older = [
                (row["subject"], row["wrapped"]) for row in rows if int.from_bytes(row["wrapped"][:4], "big") < newest
            ]
            if older:
                anew = [
                    wrap(
                        newest, self._keks[newest], subject, unwrap(self._keks, subject, old), self._random(NONCE_SIZE)
                    )
                    for subject, old in older
                ]
                await store.rewrap(self._db, older, anew)
                moved += len(older)
            await asyncio.sleep(0)
        # What an appender with older files wraps meanwhile is found by the next look, so look until there is nothing.
        self._rewrapped_under = newest if moved == 0 else -1
        if moved:
            log.info("rewrapped", shard=self.shard, keys=moved)
        return moved

    async def _indexes(self, ended: Iterable[int]) -> list[int]:
        """Of every EVENT of these labels, along their previous indexes from their ERASURE leaves."""
        found = []
        for erasure in ended:
            index, label = erasure, None
            while True:
                [leaf] = await leaves(self._db, self.shard, index, index + 1)
                if (
                    (leaf[0] == ERASURE) != (index == erasure)
                    or leaf[0] == MAP_ROOT
                    or label not in {None, leaf[_LABEL]}
                ):
                    raise Corrupt("leaf", f"shard {self.shard}, index {index} is not what a later leaf says")
                label = leaf[_LABEL]
                if index != erasure:
                    found.append(index)
                if (previous := int.from_bytes(leaf[_PREVIOUS], "big")) == 0:
                    break
                index = previous - 1
        return found

    async def _attachments(self, subject: str, indexes: list[int]) -> set[bytes]:
        """Hashes of the ciphertexts that the subject's statements name: each was sealed for one statement alone."""
        hashes: set[bytes] = set()
        for row in await store.payloads_of(self._db, self.shard, subject, indexes):
            key = payload_key(unwrap(self._keks, subject, row["wrapped"]))
            try:
                statement = parse(open_payload(key, self.shard, row["index"], row["payload"]))
            except Malformed:
                continue
            hashes.update(attached(statement))
        return hashes


def attached(statement: Statement) -> Iterator[bytes]:
    """Hashes of the ciphertexts that this statement names."""
    return (bytes.fromhex(one.hash) for one in getattr(statement.data, "attachments", []))
