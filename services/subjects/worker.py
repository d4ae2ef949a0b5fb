"""The back door: fold what is recorded into suppression, and bring stored keys to the newest versions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from services.subjects import handlers
from services.subjects.handlers import Parts
from services.subjects.keys import Peppers
from shared import logs
from shared.database import Transaction
from shared.errors import Unavailable
from shared.follower import Recorded

log = logs.logger("subjects")

_ROTATION_SECONDS: Final = 3600
_RETRY_SECONDS: Final = 5


class Fold:
    """`apply` for the follower."""

    def __init__(self, peppers: Peppers) -> None:
        self._peppers = peppers

    async def apply(self, tx: Transaction, records: Sequence[Recorded]) -> None:
        """An erased statement, or a leaf that is no event, says nothing any more."""
        said = [(one.statement, one.index) for one in records if one.statement is not None]
        await handlers.record(self._peppers, tx, said)


async def rotate(parts: Parts) -> None:
    """For ever: after each start, and hourly for what processes with older files wrote meanwhile."""
    while True:
        try:
            moved = await handlers.rotate(parts)
        except Unavailable:
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        if moved:
            log.info("rotated", rows=moved)
        else:
            await asyncio.sleep(_ROTATION_SECONDS)
