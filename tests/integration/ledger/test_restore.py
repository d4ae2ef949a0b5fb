"""PostgreSQL comes back from an older backup: nothing that was sealed is lost, and the log goes on where it was."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from services.ledger import store
from services.ledger.integrity.finding import Finding, Trusted
from services.ledger.key_file import kept_keys
from services.ledger.procedures.log_check import check_log
from services.ledger.procedures.restore import Restored, restore
from shared.clock import utc_now
from shared.errors import Corrupt, Refused
from shared.events import parse
from shared.secrets import _write
from shared.topics import ensure_topics
from tests.conftest import Database
from tests.conftest import _administer as administer
from tests.integration.ledger.test_api import checkpoint, open_client
from tests.integration.ledger.test_ending import destroyer, end_labels, erase, say
from tests.integration.ledger.test_running_check import findings as named
from tests.integration.ledger.world import (
    World,
    completed,
    given,
    held,
    leaf_values,
    new_id,
    new_subject,
    ordered,
    requested,
    withdrawn,
)

FLIP = "update leaf_batch set leaves = set_byte(leaves, 40, get_byte(leaves, 40) # 1) where first = "
OUTBOX = "newsletter.outbox_sequence"


class Backup:
    """A dump of the database, as an operator makes and loads it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.file = folder / "backup"

    async def _run(self, program: str, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            str(self.database.part.binary(program)), *arguments, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()

    async def make(self) -> None:
        await self._run("pg_dump", "-Fc", "-f", str(self.file), self.database.dsn())

    async def load(self, world: World) -> None:
        await world.close()
        world._open, world._databases = [], {}
        name = self.database.name
        await administer(self.database.part, f"drop database {name} with (force)", f"create database {name}")
        await self._run("pg_restore", "-d", self.database.dsn(), str(self.file))


@pytest.fixture
def backup(database: Database, tmp_path: Path) -> Backup:
    return Backup(database, tmp_path)


async def mend(world: World, mirror: str | None = None, outboxes: Sequence[str] = ()) -> Restored:
    return await restore(world.settings, 0, "Ina Beispiel", "the disk broke", mirror, lambda _text: None, outboxes)


async def findings(world: World) -> list[str]:
    """By `log check`; where it finds nothing, the check behind the signer finds nothing either."""
    trusted = Trusted(world.secrets.keks(), signer_dir=world.settings.signer_dir)
    found = [one async for one in check_log(await world.database("ledger"), trusted) if isinstance(one, Finding)]
    return [str(one) for one in found or await named(world)]


async def numbered(world: World, last: int) -> None:
    """The newsletter's outbox, which lies in the same database, has given out so many numbers."""
    await world.rows(
        f"insert into {OUTBOX} (shard, last) values (0, $1) on conflict (shard) do update set last = excluded.last",
        last,
    )


async def lose_kafka(world: World) -> None:
    world.settings = world.settings.model_copy(update={"topic_prefix": world.settings.topic_prefix + "anew."})
    world.offsets.clear()
    await ensure_topics(world.settings.kafka, world.settings.topic_prefix, 1, replication=1)


async def accepted(world: World, *said: bytes) -> None:
    """The newsletter's outbox has these, numbered from 1, and nothing more is known of them there."""
    for number, raw in enumerate(said, 1):
        await world.as_superuser(
            f"""insert into newsletter.outbox (id, shard, sequence, statement)
                values ('{parse(raw).id}', 0, {number}, '\\x{raw.hex()}')"""
        )
    await numbered(world, len(said))


async def rows(world: World) -> list[list[Any]]:
    """What a restore brings back to the byte. (Payloads have other nonces, and open.)"""
    return [
        await world.rows("select shard, first, n, leaves, root from leaf_batch order by first"),
        await world.rows("select * from tile order by 1, 2, 3"),
        await world.rows("select shard, size, previous, root, note from checkpoint order by size"),
        await world.rows("select * from seen order by index"),
        await world.rows("select subject, wrapped from subject_key order by subject"),
        await world.rows("select * from matter order by 1, 2"),
        await world.rows("select * from overtaken order by index"),
        await world.rows("select size, edge, map_root, recorded_at from head"),
    ]


async def test_what_was_sealed_after_the_backup_is_there_again_and_the_log_goes_on(
    world: World, backup: Backup
) -> None:
    ann, bob, now = new_subject(), new_subject(), utc_now()
    await world.state(given(ann, now - timedelta(minutes=9)))
    await world.run_through()
    await numbered(world, 1)
    await backup.make()
    await world.state(withdrawn(ann, now - timedelta(minutes=5)), given(ann, now - timedelta(minutes=6)), b"{}")
    await world.run_through()
    await world.state(requested(bob), given(bob), *[given(bob, purpose="newsletter") for _ in range(300)])
    await world.run_through()
    last = world.sequences["newsletter", 0]
    await numbered(world, last)
    before, judged = await rows(world), await world.judge()

    await backup.load(world)
    with pytest.raises(Corrupt, match="PostgreSQL is behind"):
        await world.seal(await world.sealer())
    done = await mend(world)
    assert (done.had, done.size, done.lost, done.erased) == (3, judged.size, 0, 0)
    assert done.statements == len(judged.statements) - 1
    assert await rows(world) == before
    again = await world.judge()
    assert (again.statements, again.matters) == (judged.statements, judged.matters)
    assert await findings(world) == []
    assert await world.value(f"select last from {OUTBOX}") == last

    # Kafka tells it all again from where the backup was; what is new comes behind it.
    new = given(ann)
    await world.state(new)
    await world.run_through()
    after = await world.judge()
    assert after.statements == [*judged.statements, new]
    assert after.sealed == after.size == judged.size + 2
    assert await store.sealed_sequences(await world.database("ledger"), "newsletter") == {0: last + 1}
    assert [row["reason"] for row in await world.rows("select reason from rejected")] == ["unknown-type"]
    assert await world.rows("select * from incident where closed_at is null") == []
    assert await world.value("select epoch from head") > 1_000_000
    assert await findings(world) == []
    recorded = leaf_values(await world.recorded())
    assert {value.index for value in recorded} == set(range(after.size))
    with pytest.raises(Refused) as refused:
        await mend(world)
    assert refused.value.code == "nothing-to-restore"


async def test_what_kafka_has_lost_too_is_listed_and_the_subject_keeps_its_key(world: World, backup: Backup) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    await backup.make()
    bob = new_subject()
    await world.state(given(bob))
    await world.run_through()
    key = await world.value("select wrapped from subject_key where subject = $1", bob)
    size = (await world.judge()).size
    await backup.load(world)
    await lose_kafka(world)

    done = await mend(world)
    assert (done.size, done.statements, done.lost) == (size, 0, 1)
    (lost,) = await world.rows("select index, reason from lost_record")
    assert (lost["index"], lost["reason"]) == (3, "no-statement")
    assert [row["kind"] for row in await world.rows("select kind from incident where closed_at is null")] == [
        "records-lost"
    ]
    assert await findings(world) == []
    assert await world.value("select wrapped from subject_key where subject = $1", bob) == key

    # What bob says next is the second version of the same label.
    await world.rows("update head set next_offset = 0")
    await world.state(given(bob))
    await world.run_through()
    leaf = await world.value("select substring(leaves for 89) from leaf_batch where first = $1", size)
    assert int.from_bytes(leaf[33:41], "big") == 2
    assert await findings(world) == []


async def test_what_kafka_has_lost_and_an_outbox_still_has_is_back_and_recorded_once(
    world: World, backup: Backup
) -> None:
    ann = new_subject()
    first, second = given(ann), withdrawn(ann)
    await accepted(world, first, second)
    await backup.make()
    await world.state(first, second)
    await world.run_through()
    before, judged = await rows(world), await world.judge()
    await backup.load(world)
    await lose_kafka(world)

    done = await mend(world)
    assert (done.statements, done.lost) == (2, 0)
    assert await rows(world) == before
    # To the restored outbox nothing of it is sealed: it is sent again.
    await world.rows("update head set next_offset = 0")
    await world.send([world.message(raw, sequence=number) for number, raw in enumerate((first, second), 1)])
    await world.run_through()
    assert (await world.judge()).statements == judged.statements
    assert await findings(world) == []


async def test_the_outbox_of_a_source_with_a_database_of_its_own_gives_back_what_it_has_done(
    world: World, backup: Backup
) -> None:
    await backup.make()
    said = given(new_subject())
    await accepted(world, said)
    await world.state(said)
    await world.run_through()
    done_there = "update newsletter.outbox set sealed_at = clock_timestamp(), result = 'recorded'"
    await world.as_superuser(done_there)
    before, its_own = await rows(world), f"{backup.database.name}_its_own"
    await world.close()
    await administer(backup.database.part, f"create database {its_own} template {backup.database.name}")
    try:
        await backup.load(world)
        await lose_kafka(world)
        done = await mend(world, outboxes=[world.settings.superuser_dsn.replace(backup.database.name, its_own)])
    finally:
        await administer(backup.database.part, f"drop database {its_own} with (force)")
    assert (done.statements, done.lost) == (1, 0)
    assert await rows(world) == before


async def test_without_the_keys_beside_the_leaves_the_statements_of_new_subjects_are_listed(
    world: World, backup: Backup
) -> None:
    ann = new_subject()
    await world.state(given(ann))
    await world.run_through()
    await backup.make()
    await world.state(withdrawn(ann), given(new_subject()))
    await world.run_through()
    await backup.load(world)
    (world.settings.signer_dir / "0" / "keys").unlink()
    done = await mend(world)
    assert (done.statements, done.lost) == (1, 1)
    assert await world.value("select reason from lost_record") == "no-key"
    assert await findings(world) == []


async def test_a_tail_in_the_backup_that_was_never_signed_so_makes_room(world: World, backup: Backup) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    await world.state(given(new_subject()))
    appender = await world.appender()
    await world.append(appender)
    await appender.drop()
    await backup.make()
    await world.seal(await world.sealer())
    await world.publish(await world.publisher())
    before, judged = await rows(world), await world.judge()
    await backup.load(world)
    await world.as_superuser(f"{FLIP} 3")
    done = await mend(world)
    assert (done.had, done.statements, done.lost) == (3, 1, 0)
    assert await rows(world) == before
    assert (await world.judge()).statements == judged.statements
    assert await findings(world) == []


async def test_a_backup_that_contradicts_what_was_signed_is_not_written_over(world: World, backup: Backup) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    await backup.make()
    await world.state(given(new_subject()))
    await world.run_through()
    await backup.load(world)
    await world.as_superuser(f"{FLIP} 1")
    before = await rows(world)
    with pytest.raises(Corrupt, match="index 1 is not the leaf that was signed"):
        await mend(world)
    assert await rows(world) == before


async def test_what_somebody_wrote_into_kafka_is_not_taken_for_what_was_said(world: World, backup: Backup) -> None:
    """With the publisher's key: another statement of the same person, under the index of the true one."""
    ann = new_subject()
    await world.state(given(ann))
    await world.run_through()
    await backup.make()
    true = withdrawn(ann)
    await world.state(true)
    appender = await world.appender()
    await world.append(appender)
    await appender.drop()
    await world.seal(await world.sealer())
    publisher = await world.publisher()
    (value,) = [one for one in await publisher._payloads.recorded(publisher._db, 3, 5) if one.statement]
    forged = publisher._message("leaf", type(value)(0, value.index, value.leaf, given(ann)).encode())
    await world.producer.send_many([forged])
    await backup.load(world)
    done = await mend(world)
    # The true one is found in what the newsletter stated.
    assert (done.statements, done.lost) == (1, 0)
    assert (await world.judge()).statements[-1] == true


async def test_what_was_erased_since_the_backup_is_erased_again(world: World, backup: Backup) -> None:
    earlier, before, since, kept = (new_subject() for _ in range(4))
    await world.state(given(earlier), given(before), given(kept))
    await world.run_through()
    await erase(world, earlier)
    await backup.make()
    await world.state(withdrawn(before), requested(since), given(since), withdrawn(kept))
    await world.run_through()
    for subject in (before, since):
        await erase(world, subject)
    await world.publish(await world.publisher())
    leaves = (await rows(world))[0]
    # The file of keys has them still, and Kafka what they said.
    assert {earlier, before, since} <= kept_keys(world.settings.signer_dir, 0).keys()
    await backup.load(world)
    # Whoever is to go goes with everything that comes, or nothing comes.
    backed_up, procedure = await rows(world), "destroy_subject(text, bigint[], bytea[])"
    await world.rows(f"alter function {procedure} rename to missing")
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await mend(world)
    assert await rows(world) == backed_up
    await world.rows(f"alter function {procedure.replace('destroy_subject', 'missing')} rename to destroy_subject")
    done = await mend(world)
    assert (done.statements, done.lost, done.erased) == (1, 0, 2)
    assert (await rows(world))[0] == leaves
    for subject in (earlier, before, since):
        for table in ("payload", "subject_key", "matter", "ending"):
            assert await world.value(f"select count(*) from {table} where subject = $1", subject) == 0, table
        assert await world.value("select destroyed_at is not null from erasure where subject = $1", subject)
    assert await world.value("select count(*) from payload where subject = $1", kept) == 2
    assert await findings(world) == []
    # Nobody of them gets a second key, whoever speaks for them again.
    await world.state(given(since))
    await world.run_through()
    assert await world.value("select count(*) from subject_key where subject = $1", since) == 0
    assert await findings(world) == []


async def test_whose_labels_were_ending_goes_on_ending_one_label_at_a_time(world: World, backup: Backup) -> None:
    subject, request = new_subject(), new_id()
    await world.state(given(subject), requested(subject))
    await world.run_through()
    await backup.make()
    await world.state(withdrawn(subject, purpose=None))
    await say(world, ordered(subject, request), completed(subject, request), source="erasure")
    await world.run_through()
    appender = await world.appender(erasure_spread=0.0, max_batch=1)
    await appender.step(timeout_ms=100)
    await appender.settled()
    await appender.drop()
    await world.seal(await world.sealer())
    ended = "select matter, ended from ending where ended is not null"
    before, judged = await world.rows(ended), await world.judge()
    labels = await world.value("select count(*) from ending")
    assert len(before) == 1
    assert labels > 3

    await backup.load(world)
    done = await mend(world)
    assert (done.statements, done.lost, done.erased) == (3, 0, 1)
    assert await world.rows(ended) == before
    assert (await world.judge()).statements == judged.statements
    # Leaves that came together would tell which labels are one person's.
    moments = [row["end_at"] for row in await world.rows("select end_at from ending where ended is null")]
    assert len(moments) == labels - 1
    assert max(moments) - min(moments) > timedelta(minutes=1)
    assert await findings(world) == []

    await world.rows("update ending set end_at = clock_timestamp()")
    await end_labels(world)
    await (await destroyer(world)).step()
    assert await world.value("select destroyed_at is not null from erasure where subject = $1", subject)
    assert await findings(world) == []


async def test_a_hold_that_was_recorded_since_the_backup_holds_again(world: World, backup: Backup) -> None:
    subject, request = new_subject(), new_id()
    far = datetime(2099, 1, 1, tzinfo=UTC)
    await world.state(given(subject))
    await world.run_through()
    await backup.make()
    await say(world, ordered(subject, request), held(subject, request, far), source="erasure")
    await say(world, completed(subject, request), source="erasure")
    await world.run_through()
    await backup.load(world)
    done = await mend(world)
    assert (done.statements, done.lost) == (3, 0)
    assert await world.value("select hold_until from erasure where subject = $1", subject) == far
    assert await findings(world) == []


async def test_after_a_rotation_the_backup_opens_by_the_keys_beside_the_leaves(world: World, backup: Backup) -> None:
    gone, kept = new_subject(), new_subject()
    await world.state(given(gone), given(kept))
    await world.run_through()
    await backup.make()
    await erase(world, gone)
    await world.state(withdrawn(kept))
    await world.run_through()
    _write(world.settings.secrets_dir / "kek-2", os.urandom(32).hex())
    await (await destroyer(world)).step()
    sealer = await world.sealer()
    await sealer.open()
    assert await sealer.forget_old_keys() is True
    sealer.close()
    (world.settings.secrets_dir / "kek-1").unlink()
    await backup.load(world)
    done = await mend(world)
    # What Kafka still has of who is gone opens no more: it was erased, in the backup as well.
    assert (done.lost, done.erased) == (0, 1)
    assert await world.value("select count(*) from payload where subject = $1", kept) == 2
    assert await world.value("select count(*) from payload where subject = $1", gone) == 0
    assert await world.value("select destroyed_at is not null from erasure where subject = $1", gone)
    assert await findings(world) == []


@asynccontextmanager
async def mirrored(world: World) -> AsyncIterator[str]:
    """The log as somebody copied it: what it served is served on after it is gone here."""
    kept: dict[str, bytes] = {}
    async with open_client(world) as client:
        size = (await checkpoint(client)).size
        assert size < 256
        for path in ("checkpoint", f"tile/entries/000.p/{size}", f"tile/0/000.p/{size}"):
            kept[path] = (await client.get(f"/ledger/log/0/{path}")).content

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=kept[request.match_info["path"]])

    application = web.Application()
    application.router.add_get("/ledger/log/0/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_mirror_gives_the_leaves_back_where_the_signer_s_files_are_gone(world: World, backup: Backup) -> None:
    ann = new_subject()
    await world.state(given(ann))
    await world.run_through()
    await backup.make()
    await world.state(withdrawn(ann))
    await world.run_through()
    judged = await world.judge()
    async with mirrored(world) as url:
        await world.state(given(new_subject()))
        await world.run_through()
        await backup.load(world)
        # What was signed is not to be forgotten, whatever a mirror says.
        with pytest.raises(Refused) as refused:
            await mend(world, url)
        assert refused.value.code == "mirror-is-behind"
        shutil.rmtree(world.settings.signer_dir)
        done = await mend(world, url)
    assert (done.size, done.statements, done.lost) == (judged.size, 1, 0)
    assert (await world.judge()).statements == judged.statements
    assert await findings(world) == []
    await world.run_through()
    # What had been signed and seen by nobody comes again from Kafka.
    assert len((await world.judge()).statements) == 3
    assert await findings(world) == []


async def test_the_signer_keeps_the_key_of_everybody_before_it_signs_and_forgets_old_ones_after_a_rotation(
    world: World,
) -> None:
    people = [new_subject() for _ in range(3)]
    await world.state(*[given(one) for one in people], requested(people[0]))
    await world.run_through()

    async def living() -> dict[str, bytes]:
        return {row["subject"]: row["wrapped"] for row in await world.rows("select subject, wrapped from subject_key")}

    assert kept_keys(world.settings.signer_dir, 0) == await living()
    sealer = await world.sealer()
    await sealer.open()
    assert await sealer.forget_old_keys() is False
    await world.rows("update subject_key set wrapped = '\\x00000002'::bytea || substring(wrapped from 5)")
    await world.rows("delete from subject_key where subject = $1", people[0])
    assert await sealer.forget_old_keys() is True
    assert await sealer.forget_old_keys() is False
    sealer.close()
    assert kept_keys(world.settings.signer_dir, 0) == await living()
    # Where there is no file yet, it is made from what lives.
    (world.settings.signer_dir / "0" / "keys").unlink()
    await world.seal(await world.sealer())
    assert kept_keys(world.settings.signer_dir, 0) == await living()


async def test_a_restore_needs_a_name_and_the_signer_to_stand_still(world: World) -> None:
    with pytest.raises(Refused, match="no-name"):
        await restore(world.settings, 0, "", "because", None, lambda _text: None)
    signer = await world.sealer()
    await signer.open()
    with pytest.raises(Corrupt, match="another signer holds them"):
        await mend(world)
    signer.close()
    with pytest.raises(Refused, match="nothing-to-restore"):
        await mend(world)
    shutil.rmtree(world.settings.signer_dir)
    with pytest.raises(Corrupt, match="the signer's files"):
        await mend(world)
