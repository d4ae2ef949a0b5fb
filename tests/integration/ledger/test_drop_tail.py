"""The signer disagrees, the shard stops, its unsealed tail is dropped: all that was accepted is recorded once after."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from services.ledger import store
from services.ledger.append import Fenced
from services.ledger.integrity.finding import Finding, Trusted
from services.ledger.procedures.log_check import check_log
from services.ledger.procedures.tail import Tail, drop_tail
from shared.clock import utc_now
from shared.errors import Corrupt, Refused
from tests.integration.ledger.test_running_check import findings as named
from tests.integration.ledger.world import World, given, leaf_values, new_subject, withdrawn

FLIP = "update leaf_batch set leaves = set_byte(leaves, 40, get_byte(leaves, 40) # 1) where first = "


async def append(world: World) -> None:
    appender = await world.appender()
    await world.append(appender)
    await appender.drop()


async def stop(world: World, first: int) -> None:
    """Somebody alters a row that is not sealed; the signer says so and stops the shard."""
    await world.as_superuser(f"{FLIP} {first}")
    with pytest.raises(Corrupt):
        await world.seal(await world.sealer())


async def drop(world: World, keep: int | None = None) -> Tail:
    return await drop_tail(world.settings, 0, "Ina Beispiel", "a bit was flipped on the disk", keep)


async def findings(world: World) -> list[str]:
    """By `log check`; where it finds nothing, the check behind the signer finds nothing either."""
    trusted = Trusted(world.secrets.keks(), signer_dir=world.settings.signer_dir)
    found = [one async for one in check_log(await world.database("ledger"), trusted) if isinstance(one, Finding)]
    return [str(one) for one in found or await named(world)]


async def open_incidents(world: World) -> list[str]:
    rows = await world.rows("select kind from incident where closed_at is null order by number")
    return [row["kind"] for row in rows]


async def standing(world: World) -> list[object]:
    """All that may not be changed by looking."""
    tables = ("head", "leaf_batch", "seen", "payload", "subject_key", "matter", "progress", "incident", "dropped_tail")
    return [await world.rows(f"select * from {table} order by 1, 2") for table in tables]


async def test_what_was_accepted_is_recorded_once_and_in_force_as_if_nothing_had_been(world: World) -> None:
    ann, bob, now = new_subject(), new_subject(), utc_now()
    said = [
        given(ann, now - timedelta(minutes=9)),
        withdrawn(ann, now - timedelta(minutes=8), purpose=None),
        given(ann, now - timedelta(minutes=7)),
    ]
    await world.state(*said)
    await world.run_through()
    # In the tail: a withdrawal, a grant that comes late, one that does not, somebody new, and what cannot be recorded.
    first = [given(bob, now - timedelta(minutes=6)), given(ann, now - timedelta(minutes=5))]
    then = [withdrawn(ann, now - timedelta(minutes=2)), given(ann, now - timedelta(minutes=3))]
    await world.state(*first)
    await append(world)
    await world.state(*then, b"{}")
    await append(world)
    before = await world.judge()
    await stop(world, 5)
    with pytest.raises(Fenced):
        await (await world.appender()).claim()

    was = await standing(world)
    looked = await drop(world)
    assert (looked.kept, looked.size, looked.statements, looked.number) == (5, 11, {"newsletter": 4}, None)
    assert await standing(world) == was

    done = await drop(world, keep=5)
    assert done.number == 1
    head = (await world.rows("select size, next_offset, epoch from head"))[0]
    assert (head["size"], head["next_offset"]) == (5, 3)
    assert (await world.judge()).statements == said
    assert await findings(world) == []
    assert await open_incidents(world) == ["tail-dropped"]
    (closed,) = await world.rows("select closed_by, closed_reason from incident where kind = 'signer-disagrees'")
    assert tuple(closed) == ("Ina Beispiel", "a bit was flipped on the disk")

    await world.run_through()
    after = await world.judge()
    assert after.statements == before.statements == said + first + then
    assert after.matters == before.matters
    assert after.matters[-1] == "overtaken:purpose:newsletter/email"
    assert after.sealed == after.size
    assert await findings(world) == []
    assert [value.index for value in leaf_values(await world.recorded())] == list(range(after.size))
    rejected = await world.rows("select reason, times from rejected")
    assert [tuple(row) for row in rejected] == [("unknown-type", 1)]
    assert await store.sealed_sequences(await world.database("ledger"), "newsletter") == {0: 8}
    assert await open_incidents(world) == ["tail-dropped"]


async def test_what_was_taken_out_lies_aside_for_inspection(world: World) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    await world.state(*[given(new_subject()) for _ in range(3)])
    await append(world)
    gone = await world.rows("select first, encode(leaves, 'hex') as leaves from leaf_batch where first >= 3")
    await stop(world, 3)
    await drop(world, keep=3)
    counted = await world.rows("select source, count(*) as n from dropped_row group by source order by source")
    assert {row["source"]: row["n"] for row in counted} == {
        "leaf_batch": 1, "matter": 3, "payload": 3, "progress": 1, "seen": 3,
    }  # fmt: skip
    (kept,) = await world.rows("select content->>'leaves' as leaves from dropped_row where source = 'leaf_batch'")
    # All but the bit that was flipped.
    assert len(kept["leaves"]) == len(gone[0]["leaves"]) + 2
    (tail,) = await world.rows("select * from dropped_tail")
    assert (tail["kept"], tail["size"], tail["offset_before"], tail["offset_after"]) == (3, 7, 4, 1)
    assert (tail["dropped_by"], tail["reason"]) == ("Ina Beispiel", "a bit was flipped on the disk")


async def test_a_gap_that_closed_within_the_tail_is_open_again_and_closes_again(world: World) -> None:
    messages = [world.message(given(new_subject()), sequence=number) for number in (1, 2, 3, 4)]
    await world.send([messages[0], messages[2]])
    await world.run_through()
    assert await open_incidents(world) == ["sequence-gap"]
    await world.send([messages[1], messages[3]])
    await append(world)
    assert await open_incidents(world) == []
    await stop(world, 4)
    await drop(world, keep=4)
    assert await open_incidents(world) == ["sequence-gap", "tail-dropped"]
    assert [row["sequence"] for row in await world.rows("select sequence from arrived")] == [3]
    assert await store.sealed_sequences(await world.database("ledger"), "newsletter") == {0: 1}
    await world.run_through()
    assert await store.sealed_sequences(await world.database("ledger"), "newsletter") == {0: 4}
    assert await open_incidents(world) == ["tail-dropped"]
    assert len((await world.judge()).statements) == 4


async def test_full_tiles_of_the_tail_go_and_come_again(world: World) -> None:
    subject = new_subject()
    await world.state(*[given(subject) for _ in range(300)])
    await world.run_through()
    await world.state(*[given(subject) for _ in range(300)])
    await append(world)
    assert await world.value("select count(*) from tile") == 2
    await stop(world, 302)
    await drop(world, keep=302)
    assert await world.value("select count(*) from tile") == 1
    await world.run_through()
    assert len((await world.judge()).statements) == 600
    assert await findings(world) == []


async def test_a_key_that_was_swapped_in_the_tail_goes_with_it(world: World) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    said = [given(new_subject()), given(new_subject())]
    await world.state(*said)
    await append(world)
    tail = "(select subject from payload where index >= 3)"
    await world.as_superuser(
        f"""update subject_key k set wrapped = o.wrapped from subject_key o
            where k.subject in {tail} and o.subject in {tail} and o.subject <> k.subject"""
    )
    await stop(world, 3)
    await drop(world, keep=3)
    await world.run_through()
    assert (await world.judge()).statements[1:] == said
    assert await findings(world) == []


async def test_nothing_is_dropped_from_a_shard_that_the_signer_has_not_stopped(world: World) -> None:
    await world.state(given(new_subject()))
    await append(world)
    with pytest.raises(Refused) as refused:
        await drop(world, keep=1)
    assert refused.value.code == "not-stopped"


async def test_nothing_is_dropped_without_a_name_below_the_sealed_size_or_while_the_signer_runs(world: World) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    await world.state(given(new_subject()))
    await append(world)
    await stop(world, 3)
    was = await standing(world)
    for keep in (0, 1, 2, 4, 6):
        with pytest.raises(Refused, match="not-the-sealed-size"):
            await drop(world, keep=keep)
    with pytest.raises(Refused, match="no-name"):
        await drop_tail(world.settings, 0, " ", "because", 3)
    signer = await world.sealer()
    await signer.open()
    with pytest.raises(Corrupt, match="another signer holds them"):
        await drop(world, keep=3)
    signer.close()
    assert await standing(world) == was


async def test_what_is_wrong_below_the_sealed_size_is_not_mended_by_dropping(world: World) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    await world.state(given(new_subject()))
    await append(world)
    await stop(world, 1)
    was = await standing(world)
    for keep in (None, 3):
        with pytest.raises(Corrupt, match="not the leaf that was signed"):
            await drop(world, keep=keep)
    assert await standing(world) == was


CALL = "select drop_tail(0, $1, $2, '{}', '{}', '{}', '{}', '{}', 'Ina Beispiel', 'because')"


async def test_the_procedure_checks_by_itself_that_nothing_sealed_goes(world: World) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    edge = await world.value("select edge from head")
    await world.state(given(new_subject()))
    await append(world)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="has not stopped"):
        await world.rows(CALL, 3, edge)
    await stop(world, 3)
    root = await world.value("select root from leaf_batch where first = 0")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="3 leaves are sealed, not 1"):
        await world.rows(CALL, 1, root)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="not one of 3 leaves"):
        await world.rows(CALL, 3, root)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="does not have the root"):
        await world.rows(CALL, 3, root + root)
    await world.as_superuser("update leaf_batch set root = sha256('x') where first = 1")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="no batch ends at leaf 3 as it was signed"):
        await world.rows(CALL, 3, edge)


async def test_no_service_may_execute_it_and_what_forbids_change_forbids_it_afterwards(world: World) -> None:
    for role in ("ledger", "ledger_append", "ledger_seal", "ledger_publish"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await (await world.database(role)).fetch(CALL, 1, b"")
    await world.state(given(new_subject()))
    await world.run_through()
    await world.state(given(new_subject()))
    await append(world)
    await stop(world, 3)
    await drop(world, keep=3)
    for change in ("delete from leaf_batch", "delete from seen", "update payload set payload = 'x'"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="is never changed or deleted"):
            await world.rows(change)


async def command(world: World, *words: str) -> tuple[int, str]:
    """The command as an operator types it; exit status and what it said."""
    settings = world.settings
    names = ("superuser_dsn", "database", "kafka", "topic_prefix", "log_host", "secrets_dir", "signer_dir")
    environment = {f"CONSENT_LEDGER_{name.upper()}": str(getattr(settings, name)) for name in names}
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("consent-ledger")),
        *words,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_the_command_says_what_would_go_and_then_does_what_it_is_told(world: World) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    await world.state(given(new_subject()))
    await append(world)
    words = ("log", "drop-tail", "--by", "Ina Beispiel", "--reason", "a bit was flipped on the disk")
    assert await command(world, *words) == (
        1,
        "consent-ledger: The signer has not stopped this shard: what is appended will be sealed.\n",
    )
    await stop(world, 3)
    status, said = await command(world, *words)
    assert status == 0
    assert "would take out leaves 3 to 4 of shard 0 (1 of newsletter); nothing was changed" in said
    status, said = await command(world, *words, "--keep", "3")
    assert (status, "took out leaves 3 to 4" in said) == (0, True)
    assert (await command(world, "log", "drop-tail"))[0] == 2
    assert (await command(world, "log", "restore", *words[2:])) == (
        1,
        "consent-ledger: PostgreSQL has the checkpoint of 3, the last that was signed.\n",
    )
