"""The fold: recorded statements become words in force; a restrictive one voids unused permits in the same breath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from services.marketing import domain, store
from services.marketing.store import Put, Restriction
from shared.clock import parse_rfc3339
from shared.database import Transaction
from shared.events import EVERYTHING, RESTRICTIVE, Standing, Statement, decides, matter_of
from shared.follower import Recorded
from shared.register import Register


async def apply(tx: Transaction, records: Sequence[Recorded], register: Register, now: datetime) -> None:
    """Fold recorded leaves, in the order of their indexes, with as many queries for a thousand as for one.

    Statements that neither decide nor prove anything (`use:`, `notice:` …) pass. The follower holds the shard's
    position, so one fold at a time writes words. Taking the people's rows first makes a permit that is being stored
    wait for us, or us for it: it is either voided here or was never granted. Voiding comes last for all of them
    together: until we commit nobody is granted anything from a word in between.
    """
    said = [(one, one.statement) for one in records if one.statement is not None]
    deciding = [(one, statement) for one, statement in said if decides(matter_of(statement))]
    standings: dict[str, Standing] = {}
    if deciding:
        standings = await store.take_standings(tx, {statement.subject: one.index for one, statement in deciding})
    follows = [name for _, statement in deciding if statement.type == "ConsentGiven" for name in statement.data.follows]
    followed = await store.followed(tx, follows) if follows else {}
    words: dict[tuple[str, str], Put] = {}
    may_be_followed: dict[str, str] = {}
    for one, statement in said:
        subject, matter = statement.subject, matter_of(statement)
        if not decides(matter):
            if _may_be_followed(statement):
                # Only from here on: what a consent follows counts if it was recorded before it.
                may_be_followed[statement.id] = followed[statement.id] = statement.type
            continue
        before = standings[subject]
        after, _overtaken = before.apply(statement, one.index)
        if after is not before:
            standings[subject] = after
            notice, earlier = getattr(statement.data, "notice", None), words.get((subject, matter))
            language = notice.language if notice else earlier.language if earlier else None
            words[subject, matter] = Put(after.words[matter], _grade(statement, followed, register), language)
    if words:
        await store.put_words(tx, words)
    if may_be_followed:
        await store.put_followed(tx, may_be_followed)
    restrictions = [_restriction(one, statement) for one, statement in deciding if statement.type in RESTRICTIVE]
    if restrictions:
        await store.void_permits(tx, restrictions, now)
        await store.put_effects(tx, restrictions, now)


def _may_be_followed(statement: Statement) -> bool:
    """A consent may follow requests and archived confirmation mails; a mail under a permit comes after a consent."""
    if statement.type == "MessageSent":
        return statement.data.permit is None and bool(statement.data.attachments)
    return statement.type == "ConsentRequested"


def _grade(statement: Statement, followed: Mapping[str, str], register: Register) -> str | None:
    if statement.type != "ConsentGiven":
        return None
    return str(register.grade(domain.evidence(statement, followed)))


def _restriction(recorded: Recorded, statement: Statement) -> Restriction:
    matter = matter_of(statement)
    return Restriction(
        statement=statement.id,
        shard=recorded.shard,
        index=recorded.index,
        subject=statement.subject,
        matter=None if matter == EVERYTHING else matter,
        spoken=parse_rfc3339(statement.time),
    )
