"""The fold: recorded statements become words in force; a restrictive one voids unused permits with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.marketing import store
from shared.events import EVERYTHING, RESTRICTIVE, matter_of
from shared.identifiers import shard_of

if TYPE_CHECKING:
    from datetime import datetime

    from shared.database import Transaction
    from shared.follower import Recorded


async def apply(tx: Transaction, recorded: Recorded, now: datetime) -> None:
    """Fold one recorded leaf. Statements that decide nothing (`ask:`, `use:`, `data:` …) pass.

    Locking every word of the subject makes a permit that is being issued right now wait for us, or us for it:
    so a permit is either voided here or was never granted.
    """
    statement = recorded.statement
    if statement is None:
        return
    matter = matter_of(statement)
    if matter != EVERYTHING and not matter.startswith("purpose:"):
        return
    standing = await store.standing_for_update(tx, statement.subject)
    after, _overtaken = standing.apply(statement, recorded.index)
    if after is not standing:
        notice = getattr(statement.data, "notice", None)
        await store.put_word(tx, statement.subject, matter, after.words[matter], notice.language if notice else None)
    if statement.type in RESTRICTIVE:
        await store.void_permits(tx, statement.subject, None if matter == EVERYTHING else matter, now)
        going = await store.in_transmission(tx, statement.subject, None if matter == EVERYTHING else matter)
        message_ids = [row["message_id"] for row in going]
        await store.put_effect(tx, statement.id, shard_of(statement.subject), recorded.index, now, message_ids)
