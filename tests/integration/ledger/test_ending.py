"""The ledger's part of an erasure: labels end, keys and payloads go, and what was proven stays proven."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from hashlib import sha256
from typing import Any

import asyncpg
import pytest

from services.ledger.append import Appender, Stale
from services.ledger.destroy import Destroyer
from services.ledger.integrity.finding import Finding, Trusted
from services.ledger.keks import Keks
from services.ledger.procedures.log_check import check_log
from services.ledger.reader.leaf import Erasure, parse_leaf
from services.ledger.reader.replica import Replica
from services.ledger.store import add_attachment
from shared.clock import utc_now
from shared.errors import Unavailable
from shared.events import types as words
from shared.follower.records import Recorded
from shared.identifiers import SYSTEM_SUBJECT
from shared.kek_rotation import hanging, rotate
from shared.metrics import Metrics
from shared.secrets import _write
from tests.faults.ledger.edges import Plan, SpoiltDatabase
from tests.integration.ledger.test_running_check import findings as named
from tests.integration.ledger.world import (
    World,
    _common,
    completed,
    given,
    held,
    new_id,
    new_subject,
    ordered,
    requested,
    stated,
    withdrawn,
)

CIPHERTEXT = b"a mail that only a key can read"


def mailed(subject: str) -> bytes:
    attachment = words.Attachment(
        kind="confirmation",
        media_type="message/rfc822",
        size=len(CIPHERTEXT),
        hash=sha256(CIPHERTEXT).hexdigest(),
        compartment="attachment/0",
        key_hash="a" * 64,
    )
    data = words.MessageSent(
        **_common(),
        kind="confirmation",
        channel="email",
        message_id="<one@example.org>",
        delivery="at-least-once",
        attempts=1,
        outcome="accepted",
        attachments=[attachment],
    )
    return stated(data, subject)


async def say(world: World, *said: bytes, source: str = "newsletter") -> None:
    await world.send([world.message(raw, source=source) for raw in said])


async def end_labels(world: World, **options: Any) -> None:
    """A new owner of the shard looks once what is due."""
    appender = await world.appender(erasure_spread=0.0, **options)
    await world.append(appender)
    await appender.step(timeout_ms=100)
    await appender.settled()
    await appender.drop()
    await world.seal(await world.sealer())


async def destroyer(world: World, db: Any = None) -> Destroyer:
    database = db or await world.database("ledger_append")
    return Destroyer(0, database, Keks(world.secrets.keks), os.urandom, Metrics("ledger_append"))


async def erase(world: World, subject: str) -> None:
    request = new_id()
    await say(world, ordered(subject, request), completed(subject, request), source="erasure")
    await world.run_through()
    await end_labels(world)
    await (await destroyer(world)).step()


async def replayed(world: World) -> tuple[Replica, dict[int, Erasure]]:
    """The log by the reader's rules, and its ERASURE leaves."""
    replica, erasures = Replica(), {}
    for row in await world.rows("select leaves from leaf_batch order by first"):
        at = 0
        while at < len(row["leaves"]):
            leaf = row["leaves"][at : at + (57 if row["leaves"][at] == 2 else 89)]
            parsed = parse_leaf(leaf)
            if isinstance(parsed, Erasure):
                erasures[replica.size] = parsed
            replica.apply(leaf)
            at += len(leaf)
    return replica, erasures


async def findings(world: World) -> list[str]:
    """By `log check`; where it finds nothing, the check behind the signer finds nothing either."""
    trusted = Trusted(world.secrets.keks(), signer_dir=world.settings.signer_dir)
    found = [one async for one in check_log(await world.database("ledger"), trusted) if isinstance(one, Finding)]
    return [str(one) for one in found or await named(world)]


async def test_an_erased_subject_leaves_ended_labels_and_nothing_that_opens(world: World) -> None:
    gone, kept = new_subject(), new_subject()
    await add_attachment(await world.database("ledger"), sha256(CIPHERTEXT).digest(), CIPHERTEXT)
    overtaken = given(gone, utc_now() - timedelta(1))
    said = [requested(gone), mailed(gone), given(gone), withdrawn(gone), overtaken, requested(kept), given(kept)]
    await say(world, *said)
    await world.run_through()
    matters = await world.value("select count(*) from matter where subject = $1", gone)
    await erase(world, gone)
    replica, erasures = await replayed(world)
    assert len(erasures) == matters + 1  # the request's own label is one more
    assert all(replica.map.get(one.label).version == one.version for one in erasures.values())  # type: ignore[union-attr]
    for table in ("payload", "subject_key", "matter", "ending"):
        assert await world.value(f"select count(*) from {table} where subject = $1", gone) == 0, table
    assert await world.value("select count(*) from attachment where content = $1", CIPHERTEXT) == 0
    assert await world.value("select count(*) from payload where subject = $1", kept) == 2
    assert await world.value("select count(*) from seen") == len(said) + 2
    assert await findings(world) == []


async def test_followers_take_an_erased_index_as_a_leaf_without_a_statement(world: World) -> None:
    gone = new_subject()
    await say(world, given(gone))
    await erase(world, gone)
    # Whoever follows from the beginning, say from an older backup, reads it from the ledger.
    payloads = (await world.publisher())._payloads
    size = await world.value("select max(size) from checkpoint")
    values = await payloads.recorded(await world.database("ledger_publish"), 0, size)
    read = [Recorded.read(value.encode()) for value in values]
    assert [one.index for one in read] == list(range(size))
    assert {one.kind for one in read} == {"event", "map_root", "erasure"}
    assert all(one.statement is None for one in read)


async def test_nothing_goes_while_a_recorded_hold_stands(world: World) -> None:
    subject, request = new_subject(), new_id()
    later = utc_now() + timedelta(days=1000)
    await say(world, given(subject))
    # The completion names no period, the order does: the longest of all that is recorded counts.
    await say(world, ordered(subject, request, later), completed(subject, request), source="erasure")
    await world.run_through()
    await end_labels(world)
    await (await destroyer(world)).step()
    _, erasures = await replayed(world)
    assert erasures == {}
    assert await world.value("select count(*) from payload where subject = $1", subject) == 3
    db = await world.database("ledger_append")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await db.fetchval("select destroy_subject($1, $2, $3)", subject, [1, 2, 3], [])
    # Not even when somebody has begun: the procedure asks itself.
    await world.as_superuser(f"update erasure set ending_at = now() where subject = '{subject}'")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="a recorded hold stands"):
        await db.fetchval("select destroy_subject($1, $2, $3)", subject, [1, 2, 3], [])


async def test_a_hold_that_is_recorded_later_holds_what_was_to_go(world: World) -> None:
    subject, request = new_subject(), new_id()
    await say(world, given(subject))
    await say(world, ordered(subject, request), completed(subject, request), source="erasure")
    await say(world, held(subject, request, utc_now() + timedelta(days=1000)), source="erasure")
    await world.run_through()
    await end_labels(world)
    await (await destroyer(world)).step()
    assert (await replayed(world))[1] == {}
    assert await world.value("select count(*) from subject_key where subject = $1", subject) == 1


async def test_what_concerns_nobody_cannot_be_erased_and_stops_nobody(world: World) -> None:
    request = new_id()
    await say(world, ordered(SYSTEM_SUBJECT, request), completed(SYSTEM_SUBJECT, request), source="erasure")
    await say(world, given(new_subject()))
    await world.run_through()
    assert {row["reason"] for row in await world.rows("select reason from rejected")} == {"nobody-to-erase"}
    assert len((await world.judge()).statements) == 1


async def test_the_procedure_refuses_while_an_erasure_leaf_is_missing_or_not_sealed(world: World) -> None:
    subject, request = new_subject(), new_id()
    db = await world.database("ledger_append")
    await say(world, given(subject))
    await say(world, ordered(subject, request), completed(subject, request), source="erasure")
    await world.run_through()
    appender = await world.appender(erasure_spread=3600.0)
    await appender.step(timeout_ms=100)
    await appender.drop()
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="no sealed ERASURE"):
        await db.fetchval("select destroy_subject($1, $2, $3)", subject, [], [])
    await world.as_superuser("update ending set end_at = now()")
    appender = await world.appender()
    await appender.step(timeout_ms=100)
    await appender.settled()
    await appender.drop()
    # Appended, not sealed: the signer may still refuse them.
    assert await world.value("select count(*) from ending where ended is not null") == 2
    await (await destroyer(world)).step()
    assert await world.value("select count(*) from payload where subject = $1", subject) == 3
    # Nor does a row help that names another leaf.
    await world.seal(await world.sealer())
    await world.as_superuser("update ending set ended = 1 where matter like 'purpose:%'")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="no sealed ERASURE"):
        await db.fetchval("select destroy_subject($1, $2, $3)", subject, [], [])


async def test_it_takes_no_row_of_anybody_else(world: World) -> None:
    gone, kept = new_subject(), new_subject()
    await say(world, given(gone), given(kept))
    request = new_id()
    await say(world, ordered(gone, request), completed(gone, request), source="erasure")
    await world.run_through()
    await end_labels(world)
    db = await world.database("ledger_append")
    everything = [row["index"] for row in await world.rows("select index from payload")]
    assert await db.fetchval("select destroy_subject($1, $2, $3)", gone, everything, []) == 3
    assert await world.value("select count(*) from payload where subject = $1", kept) == 1


async def test_the_labels_of_one_person_end_each_in_its_own_time(world: World) -> None:
    subject, request = new_subject(), new_id()
    await say(world, requested(subject), given(subject), withdrawn(subject, purpose=None))
    await say(world, ordered(subject, request), completed(subject, request), source="erasure")
    await world.run_through()
    appender = await world.appender(erasure_spread=86_400.0)
    await appender.step(timeout_ms=100)
    await appender.drop()
    times = [row["end_at"] for row in await world.rows("select end_at from ending")]
    now = utc_now()
    assert len(set(times)) == 4
    assert all(now - timedelta(minutes=5) <= time <= now + timedelta(days=1) for time in times)


async def test_leaves_of_several_people_that_meet_stand_in_the_order_of_their_labels(world: World) -> None:
    people = [new_subject() for _ in range(4)]
    for subject in people:
        request = new_id()
        await say(world, requested(subject), given(subject))
        await say(world, ordered(subject, request), completed(subject, request), source="erasure")
    await world.run_through()
    await end_labels(world)
    _, erasures = await replayed(world)
    labels = [one.label for one in erasures.values()]
    assert len(labels) == 12
    assert labels == sorted(labels)


async def test_nothing_is_recorded_of_an_erased_subject_but_repetitions_are_no_trouble(world: World) -> None:
    subject, request = new_subject(), new_id()
    first, done = given(subject), completed(subject, request)
    last = world.message(done, source="erasure", sequence=1)
    await say(world, first)
    await world.send([last])
    await world.run_through()
    await end_labels(world)
    for _ in range(2):  # once with its key still there, once without
        await world.send([last, world.message(first, sequence=1), world.message(given(subject))])
        await world.run_through()
        await (await destroyer(world)).step()
    rows = await world.rows("select reason, sequence from rejected order by number")
    assert [(row["reason"], row["sequence"]) for row in rows] == [("erased-subject", 2), ("erased-subject", 3)]
    assert await world.value("select count(*) from subject_key where subject = $1", subject) == 0
    assert await findings(world) == []


@pytest.mark.timeout(300)
async def test_an_owner_that_dies_at_any_call_leaves_what_the_next_one_finishes(world: World) -> None:
    """Each call to PostgreSQL from the first that ends anything is spoilt in turn, before it took effect and after."""
    db = await world.database("ledger_append")

    async def attempt(plan: Plan) -> None:
        subject, request = new_subject(), new_id()
        await say(world, given(subject))
        await say(world, ordered(subject, request), completed(subject, request), source="erasure")
        healthy = await world.appender(erasure_spread=86_400.0)
        await world.append(healthy)
        await healthy.drop()
        await world.seal(await world.sealer())
        spoilt: Any = SpoiltDatabase(db, plan)
        appender: Appender = await world.appender(db=spoilt, erasure_spread=0.0)
        try:
            await appender.step(timeout_ms=50)
            await appender.settled()
            await world.seal(await world.sealer())
            await (await destroyer(world, spoilt)).step()
        except (Unavailable, Stale):
            pass
        await appender.drop()
        if plan.spoiled != "no call":
            await end_labels(world)
            await (await destroyer(world)).step()
        for table in ("subject_key", "payload", "matter", "ending"):
            assert await world.value(f"select count(*) from {table} where subject = $1", subject) == 0, plan.spoiled

    unspoilt = Plan()
    await attempt(unspoilt)
    first = next(n for n, call in enumerate(unspoilt.calls, 1) if "due as" in call)
    assert len(unspoilt.calls) - first > 6
    for number in range(first, len(unspoilt.calls) + 1):
        for kind in ("failed", "took effect, then failed"):
            await attempt(Plan(number, kind))
    await replayed(world)
    assert await findings(world) == []


async def test_a_new_key_encryption_key_wraps_every_living_key_and_the_old_one_opens_none(world: World) -> None:
    living, gone = new_subject(), new_subject()
    await say(world, given(living), given(gone))
    await erase(world, gone)
    backup = await world.rows("select subject, wrapped from subject_key")
    _write(world.settings.secrets_dir / "kek-2", os.urandom(32).hex() + "\n")
    worker = await destroyer(world)
    assert await worker.rewrap() == 1
    assert await worker.rewrap() == 0
    (world.settings.secrets_dir / "kek-1").unlink()
    [row] = await world.rows("select subject, wrapped from subject_key")
    assert row["subject"] == living
    assert row["wrapped"] not in {old["wrapped"] for old in backup}
    assert await findings(world) == []
    await say(world, withdrawn(living), given(new_subject()))
    await world.run_through()
    assert await findings(world) == []


async def test_what_was_known_from_a_tail_that_is_taken_out_is_known_no_more(world: World) -> None:
    first, second = new_subject(), new_subject()
    for subject in (first, second):
        request = new_id()
        await say(world, given(subject))
        await say(world, ordered(subject, request), completed(subject, request), source="erasure")
        if subject == first:
            await world.run_through()
    appender = await world.appender(erasure_spread=0.0)
    await appender.step(timeout_ms=100)  # the labels of the first end, then what is said of the second is appended
    await appender.settled()
    await world.append(appender)
    await appender.drop()
    sealed = await world.value("select max(size) from checkpoint")
    assert await world.value("select count(*) from ending where ended >= $1", sealed) == 2
    assert await world.value("select completed >= $1 from erasure where subject = $2", sealed, second)
    await world.rows(
        """insert into dropped_tail (shard, kept, size, offset_before, offset_after, epoch, dropped_by, reason)
           values (0, $1, 99, 0, 0, 1, 'a test', 'the tail is gone') returning number""",
        sealed,
    )
    assert await world.value("select count(*) from ending where ended is null and subject = $1", first) == 2
    assert await world.value("select completed is null and ending_at is null from erasure where subject = $1", second)


async def test_rotating_waits_for_every_living_key_and_then_destroys_the_old_one(world: World) -> None:
    await say(world, given(new_subject()), given(new_subject()))
    await world.run_through()
    worker = await destroyer(world)
    waits = asyncio.Event()
    rotating = asyncio.create_task(
        rotate(world.settings, "ledger", os.urandom, lambda _: waits.set(), settled_after=0.3)
    )
    await waits.wait()
    assert (world.settings.secrets_dir / "kek-1").exists()
    await worker.step()
    # Beside the signer's leaves they hang on the old one still.
    assert await hanging(world.settings, "ledger") == {1: 1, 2: 2}
    signer = await world.sealer()
    await signer.open()
    assert await signer.forget_old_keys() is True
    signer.close()
    assert await rotating == ["kek-1"]
    assert not (world.settings.secrets_dir / "kek-1").exists()
    assert await hanging(world.settings, "ledger") == {2: 2}
    # Whoever started before it came reads it when it is needed, or at the next look.
    assert await findings(world) == []
