"""What waits for a person, for the command line: rejects and incidents, and who dealt with each; none is removed."""

from __future__ import annotations

from time import monotonic
from typing import Any, Final

from services.ledger import store
from services.ledger.api.log import REJECTS_SHOWN, incident_facts, reject_facts
from services.ledger.api.statements import uncounted
from shared.database import Database, Row
from shared.errors import Refused, Unavailable
from shared.events import Malformed, parse
from shared.identifiers import shard_of
from shared.kafka import Producer
from shared.secrets import Secrets
from shared.settings import Settings
from shared.topics import STATED

_SEALED_WITHIN: Final = 30.0


def no_such_reject(number: int) -> Refused:
    return Refused("no-such-reject", "No reject with this number waits for anybody.", status=404, number=number)


async def rejected_rows(settings: Settings) -> list[dict[str, Any]]:
    """Every unhandled reject, newest first."""
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    try:
        return [reject_facts(dict(row)) for row in await store.unhandled_rejects(db, REJECTS_SHOWN)]
    finally:
        await db.close()


async def handle(settings: Settings, number: int, by: str, reason: str) -> None:
    """Note that a named person has dealt with a reject; Refused if there is none that waits."""
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    try:
        if not await store.handle_reject(db, number, by, reason):
            raise no_such_reject(number)
    finally:
        await db.close()


async def replay(settings: Settings, number: int, by: str, reason: str) -> str:
    """Play a rejected statement again now that its cause is mended; what came of it, in words.

    It goes the way of every statement, in its source's name, and passes every check; the row is handled once it is
    sealed. If we stop before, play it again: it is recorded once. Needs the source's key and its password to Kafka.
    """
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=2)
    try:
        row = await store.reject(db, number)
        if row is None:
            raise no_such_reject(number)
        if row["source"] is None or row["statement"] is None:
            raise Refused(
                "nothing-kept", "Its bytes were not kept: nobody proved to have said them, or they were too large."
            )
        producer = Producer(settings.kafka, settings.kafka_login(row["source"]))
        try:
            return await _replayed(settings, db, producer, row, by, reason)
        finally:
            await producer.stop()
    finally:
        await db.close()


async def _replayed(settings: Settings, db: Database, producer: Producer, row: Row, by: str, reason: str) -> str:
    source, raw, hashed = row["source"], row["statement"], row["statement_hash"]
    try:
        statement = parse(raw)
    except Malformed as malformed:
        raise Refused("rejected-again", f"It is still no statement: {malformed}.") from None
    shard = shard_of(statement.subject)
    origin = {log["shard"]: log["origin"] for log in await store.logs(db)}.get(shard)
    if statement.source != source or origin is None:
        raise Refused("rejected-again", "It names a source that did not state it, or a shard that has no log.")
    key = Secrets(settings.secrets_dir).own_source_key(source)
    sealed = db.listen("ledger_sealed")
    seen = sealed.changed
    name = store.Name(shard, source, statement.id, hashed)
    (found,) = (before,) = await store.verdicts(db, [name])
    if not found.same:
        await producer.send_many([uncounted(settings.topic(STATED), origin, key, statement, raw)])
    until = monotonic() + _SEALED_WITHIN
    while not (found.same and found.sealed):
        if found.rejections > before.rejections:
            raise Refused(
                "rejected-again",
                f"It was rejected again: {found.reason}. Does ledger-append run with the mended register?",
            )
        if monotonic() > until:
            raise Unavailable("ledger-append")
        await sealed.wait(1, since=seen)
        seen = sealed.changed
        (found,) = await store.verdicts(db, [name])
    result = "overtaken" if found.overtaken else "recorded"
    await store.handle_rejects_of(db, source, hashed, by, f"played again, {result} at {shard}/{found.index}: {reason}")
    return f"{result} at index {found.index} of shard {shard}"


async def open_incidents(settings: Settings) -> list[dict[str, Any]]:
    """Every open incident, oldest first."""
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    try:
        return [incident_facts(dict(row)) for row in await store.incidents(db)]
    finally:
        await db.close()


async def close_incident(settings: Settings, number: int, by: str, reason: str) -> None:
    """Close an incident in the name of a person; Refused if it is not open.

    A sequence gap that is closed so gives up the missing statements: the ledger counts them as arrived.
    """
    db = await Database.connect(settings.dsn("ledger"), "ledger", max_size=1)
    try:
        if not await store.close_incident_by(db, number, by, reason):
            raise Refused("no-such-incident", "No incident with this number is open.", status=404, number=number)
    finally:
        await db.close()
