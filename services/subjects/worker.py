"""The back door: fold what is recorded into suppression, and bring stored keys to the newest versions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from services.subjects import handlers, store
from services.subjects.handlers import Parts
from services.subjects.keys import Peppers
from shared import logs
from shared.database import Transaction
from shared.errors import Unavailable
from shared.follower import Recorded

log = logs.logger("subjects")

_ROTATION_SECONDS: Final = 3600
_LOOK_SECONDS: Final = 5.0


class Fold:
    """`apply` for the follower."""

    def __init__(self, peppers: Peppers) -> None:
        self._peppers = peppers

    async def apply(self, tx: Transaction, records: Sequence[Recorded]) -> None:
        """An erased statement, or a leaf that is no event, says nothing any more."""
        said = [(one.statement, one.index) for one in records if one.statement is not None]
        await handlers.record(self._peppers, tx, said)


async def rotate(parts: Parts) -> None:
    """For ever: after each start, when there is a new key-encryption key, and hourly for what processes with older
    files wrote meanwhile. Evidence keys whose period is over go with the same look."""
    loop = asyncio.get_running_loop()
    look_again_at = loop.time()
    while True:
        try:
            if destroyed := await store.destroy_evidence_keys(parts.db):
                log.info("evidence-keys-destroyed", keys=destroyed)
            if parts.encryption.read_again():
                look_again_at = loop.time()
            if loop.time() >= look_again_at:
                moved = await handlers.rotate(parts)
                if moved:
                    log.info("rotated", rows=moved)
                    look_again_at = loop.time()
                    continue
                look_again_at = loop.time() + _ROTATION_SECONDS
        except Unavailable:
            pass
        await asyncio.sleep(_LOOK_SECONDS)
