"""The fold: recorded statements become words in force; a restrictive one voids unused permits in the same breath."""

from __future__ import annotations

from datetime import datetime

from services.marketing import domain, store
from shared.clock import parse_rfc3339
from shared.database import Transaction
from shared.events import EVERYTHING, RESTRICTIVE, Statement, matter_of
from shared.follower import Recorded
from shared.register import Register


async def apply(tx: Transaction, recorded: Recorded, register: Register, now: datetime) -> None:
    """Fold one recorded leaf. Statements that neither decide nor prove anything (`use:`, `notice:` …) pass.

    The follower holds the shard's position, so one fold at a time writes words. Taking the person's row first makes
    a permit that is being stored wait for us, or us for it: it is either voided here or was never granted.
    """
    statement = recorded.statement
    if statement is None:
        return
    matter = matter_of(statement)
    if matter != EVERYTHING and not matter.startswith("purpose:"):
        if _may_be_followed(statement):
            await store.put_followed(tx, statement.id, statement.type)
        return
    before = await store.take_standing(tx, statement.subject, recorded.index)
    after, _overtaken = before.apply(statement, recorded.index)
    if after is not before:
        notice = getattr(statement.data, "notice", None)
        await store.put_word(
            tx,
            statement.subject,
            matter,
            after.words[matter],
            grade=await _grade(tx, statement, register),
            language=notice.language if notice else None,
        )
    if statement.type in RESTRICTIVE:
        about = None if matter == EVERYTHING else matter
        await store.void_permits(tx, statement.subject, about, now)
        spoken = parse_rfc3339(statement.time)
        await store.put_effect(tx, statement, (recorded.shard, recorded.index), about, spoken, now)


def _may_be_followed(statement: Statement) -> bool:
    """A consent may follow requests and archived confirmation mails; a mail under a permit comes after a consent."""
    if statement.type == "MessageSent":
        return statement.data.permit is None and bool(statement.data.attachments)
    return statement.type == "ConsentRequested"


async def _grade(tx: Transaction, statement: Statement, register: Register) -> str | None:
    if statement.type != "ConsentGiven":
        return None
    followed = await store.followed(tx, statement.data.follows)
    return str(register.grade(domain.evidence(statement, followed)))
