"""`log check` names whatever a superuser altered: the table, the shard and the place in it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest

from services.ledger.integrity.finding import Finding, Progress, Trusted
from services.ledger.procedures.log_check import check_log, main
from services.ledger.reader.note import CosignatureSigner, Signer
from services.ledger.store import add_attachment
from shared.clock import utc_now
from shared.database import Database
from shared.secrets import Secrets
from tests.conftest import Database as DatabaseOf
from tests.conftest import _administer as administer
from tests.integration.ledger.world import (
    World,
    given,
    new_subject,
    open_world,
    requested,
    settings_of,
    withdrawn,
)
from tests.parts import KafkaPart, PostgresPart


async def check(world: World, *, with_files: bool = True, with_keys: bool = True) -> list[Finding]:
    settings, keys, origin = world.settings, world.secrets, world.settings.origin(0)
    trusted = Trusted(
        keys.keks(),
        {0: Signer(origin, keys.log_key(0)).vkey} if with_keys else {},
        {0: CosignatureSigner(f"{origin}/fresh", keys.fresh_key(0)).vkey} if with_keys else {},
        signer_dir=settings.signer_dir if with_files else None,
    )
    db: Database = await world.database("ledger")
    found = [one async for one in check_log(db, trusted)]
    return [one for one in found if isinstance(one, Finding)]


async def fill(world: World) -> None:
    """Four batches of everything there is, one of them with full tiles: given, overtaken, rejected, repeated."""
    subjects = [new_subject() for _ in range(20)]
    now = utc_now()
    for subject in subjects[:4]:
        await world.state(requested(subject), given(subject), withdrawn(subject), given(subject, now - timedelta(1)))
        await world.run_through()
    await world.state(*[given(subjects[i % 20]) for i in range(600)], b"{}")
    await world.run_through()
    await add_attachment(await world.database("ledger"), sha256(b"ciphertext").digest(), b"ciphertext")


@pytest.fixture(scope="module")
async def filled(
    postgres: PostgresPart, database_template: str, kafka: KafkaPart, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """Return a ledger that is filled once; nobody is connected to its database, so that it can be cloned."""
    name = f"filled_{secrets.token_hex(4)}"
    await administer(postgres, f"create database {name} template {database_template}")
    folder = tmp_path_factory.mktemp("filled")
    async with open_world(DatabaseOf(name, postgres), kafka, f"{name}.", folder) as world:
        await fill(world)
    yield world
    await administer(postgres, f"drop database {name} with (force)")


@pytest.fixture
async def world(filled: World, postgres: PostgresPart, kafka: KafkaPart, tmp_path: Path) -> AsyncIterator[World]:
    """Return a copy of the filled ledger, to be altered."""
    name = f"altered_{secrets.token_hex(4)}"
    template = filled.settings.superuser_dsn.split("/")[3].partition("?")[0]
    await administer(postgres, f"create database {name} template {template}")
    shutil.copytree(filled.settings.secrets_dir.parent, tmp_path, dirs_exist_ok=True)
    settings = settings_of(DatabaseOf(name, postgres), kafka, filled.settings.topic_prefix, tmp_path)
    copied = World(settings, Secrets(settings.secrets_dir))
    # They share a topic: what one test sends, the next finds there too.
    copied.offsets, copied.sequences = filled.offsets, filled.sequences
    yield copied
    await copied.close()
    await administer(postgres, f"drop database {name} with (force)")


async def test_a_ledger_that_nobody_touched_verifies(world: World) -> None:
    assert await check(world) == []
    assert await check(world, with_files=False, with_keys=False) == []
    trusted = Trusted(world.secrets.keks())
    reached = [one async for one in check_log(await world.database("ledger"), trusted) if isinstance(one, Progress)]
    assert reached[-1] == Progress(0, 622, 622)


async def test_a_log_that_is_not_sealed_or_published_yet_verifies_as_far_as_it_goes(world: World) -> None:
    await world.state(given(new_subject()))
    await world.append(await world.appender())
    assert await check(world) == []


@pytest.mark.parametrize("with_files", [True, False], ids=["with the signer's files", "without them"])
@pytest.mark.parametrize("at", [2, 7, 30, 300, 617])
async def test_one_altered_leaf_is_named_by_its_index(world: World, at: int, *, with_files: bool) -> None:
    first = 1 + (min(at, 20) - 1) // 5 * 5 if at <= 20 else 21
    byte = (at - first) * 89 + 40
    await world.as_superuser(
        f"update leaf_batch set leaves = set_byte(leaves, {byte}, get_byte(leaves, {byte}) # 1) where first = {first}"
    )
    assert next((one.table, one.where) for one in await check(world, with_files=with_files)) == (
        "leaf_batch",
        f"index {at}",
    )


@pytest.mark.parametrize("at", [1, 3, 100])
async def test_one_altered_payload_is_named_by_its_index_and_nothing_else_is(world: World, at: int) -> None:
    await world.as_superuser(
        f"update payload set payload = set_byte(payload, 100, get_byte(payload, 100) # 1) where index = {at}"
    )
    assert [(one.table, one.where) for one in await check(world)] == [("payload", f"index {at}")]


# What is altered → the findings it leads to, first the one that matters.
ALTERATIONS: dict[str, tuple[str, str, str]] = {
    "recorded_at of a leaf": (
        "update leaf_batch set leaves = set_byte(leaves, 89 * 30 + 88, 0) where first = 21",
        "leaf_batch",
        "index 51",
    ),
    "a payload in another's place": (
        """update payload a set payload = b.payload from payload b
           where (a.index = 1 and b.index = 2)""",
        "payload",
        "index 1",
    ),
    "a payload is gone": ("delete from payload where index = 9", "payload", "index 9"),
    "a payload too many": (
        "insert into payload select 0, 5, subject, payload from payload where index = 4",
        "payload",
        "index 5",
    ),
    "a wrapped key": (
        (
            "update subject_key set wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1)"
            " where subject = (select subject from payload where index = 1)"
        ),
        "subject_key",
        "of the payload at index 1",
    ),
    "a wrapped key is gone": (
        "delete from subject_key where subject = (select subject from payload where index = 1)",
        "subject_key",
        "of the payload at index 1",
    ),
    "a tile on level 0": (
        "update tile set hashes = set_byte(hashes, 5, get_byte(hashes, 5) # 1) where level = 0 and n = 1",
        "tile",
        "level 0, number 1",
    ),
    "a tile is gone": ("delete from tile where n = 0", "tile", "level 0, number 0"),
    "a tile too many": ("insert into tile select 0, 1, 0, hashes from tile where n = 0", "tile", "all"),
    "a batch is gone": ("delete from leaf_batch where first = 6", "leaf_batch", "first 11"),
    "the root of a batch": ("update leaf_batch set root = sha256('x') where first = 6", "leaf_batch", "index 6 to 10"),
    "the end of the log is gone": (
        "delete from leaf_batch where first = 21; delete from payload where index >= 21",
        "head",
        "size",
    ),
    "size in the head": ("update head set size = size - 1", "head", "size"),
    "edge in the head": ("update head set edge = set_byte(edge, 0, get_byte(edge, 0) # 1)", "head", "edge"),
    "map root in the head": ("update head set map_root = sha256('x')", "head", "map_root"),
    "the root of a checkpoint": ("update checkpoint set root = sha256('x') where size = 6", "checkpoint", "size 6"),
    "the signature of a checkpoint": (
        "update checkpoint set note = (select note from checkpoint where size = 1) where size = 6",
        "checkpoint",
        "size 6",
    ),
    "a checkpoint is gone": ("delete from checkpoint where size = 6", "checkpoint", "size 11"),
    "the fresh line": ("update fresh set line = (select note from checkpoint where size = 1)", "fresh", "line"),
    "the cursor": ("update cursor set next = 100000", "cursor", "next"),
    "the hash in seen": ("update seen set statement_hash = sha256('x') where index = 2", "seen", "of index 2"),
    "an id is gone": ("delete from seen where index = 2", "seen", "of index 2"),
    "an id too many": (
        "insert into seen select 0, gen_random_uuid(), source, 2, 0, statement_hash from seen where index = 2",
        "seen",
        "all",
    ),
    "who was overtaken": ("delete from overtaken where index = 4", "overtaken", "index 4"),
    "a restriction forgotten": (
        "update matter set restricted_at = null where subject = (select subject from payload where index = 1)",
        "matter",
        "subject",
    ),
    "a matter too many": (
        "insert into matter select subject, 'purpose:fax/email', 0 from payload where index = 1",
        "matter",
        "subject",
    ),
    "a matter is gone": (
        "delete from matter where subject = (select subject from payload where index = 1)",
        "matter",
        "all",
    ),
    "a rejected statement": ("update rejected set statement = 'x'", "rejected", "number"),
    "an attachment": ("update attachment set content = 'x'", "attachment", "hash"),
    "the verifier key": ("update log set vkey = fresh_vkey", "log", "vkey"),
}


@pytest.mark.parametrize("what", sorted(ALTERATIONS))
async def test_whatever_else_is_altered_is_named(world: World, what: str) -> None:
    sql, table, where = ALTERATIONS[what]
    await world.as_superuser(sql)
    found = await check(world)
    assert found, what
    assert found[0].table == table
    assert found[0].where.startswith(where)


async def test_a_history_rewritten_with_every_right_on_the_database_contradicts_the_signed_checkpoint(
    world: World,
) -> None:
    # The leaf, the root of its batch and the tile are all made to fit one another: the signature does not.
    await world.as_superuser("update leaf_batch set root = sha256('x') where first = 21")
    found = await check(world, with_files=False)
    assert found[0].table == "leaf_batch"


async def test_the_command_says_what_is_wrong_and_answers_one(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert await main(world.settings, None, lambda _: None) == 0
    assert "all 622 leaves of 1 log(s) verify" in capsys.readouterr().out
    await world.as_superuser("update payload set payload = set_byte(payload, 40, 0) where index = 3")
    await world.as_superuser("update payload set payload = set_byte(payload, 41, 0) where index = 3")
    assert await main(world.settings, 0, lambda _: None) == 1
    assert "payload, shard 0, index 3" in capsys.readouterr().out


async def test_findings_hold_nothing_but_pseudonyms(world: World) -> None:
    subject = await world.value("select subject from payload where index = 1")
    await world.as_superuser(
        f"update matter set restricted_at = '2020-01-01T00:00:00.000Z' where subject = '{subject}' and matter like 'p%'"
    )
    (finding,) = await check(world)
    assert str(finding) == f"matter, shard 0, subject {subject}, purpose:newsletter/email: restricted_at is not so"


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_said_in_whatever_order_verifies(world: World, seed: int) -> None:
    """Writer and reader agree on histories that nobody thought of."""
    random = Random(seed)
    subjects = [new_subject() for _ in range(6)]
    now = utc_now()
    said: list[bytes] = []
    for _ in range(150):
        at = now - timedelta(seconds=random.randrange(20))
        say = random.choice([given, given, withdrawn, requested])
        said.append(say(random.choice(subjects), at))
        if random.random() < 0.1:
            said.append(withdrawn(random.choice(subjects), at, purpose=None))
        if random.random() < 0.1:
            said.append(random.choice(said))
    await world.state(*said)
    await world.append(await world.appender(max_batch=random.randrange(1, 40)))
    await world.seal(await world.sealer())
    assert await check(world) == []
    assert set(said) <= set((await world.judge()).statements)
