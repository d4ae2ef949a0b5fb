"""A log begins once, by `log create` alone, and stays what it was."""

from __future__ import annotations

import asyncpg
import pytest

from services.ledger.procedures.create import create_log
from services.ledger.signer_files import Signed, SignerFiles
from shared.errors import Refused
from tests.integration.ledger.world import World


async def test_a_new_log_is_one_signed_leaf(world: World) -> None:
    judged = await world.judge()
    assert (judged.size, judged.sealed, judged.statements) == (1, 1, [])


async def test_creating_a_log_again_is_refused_and_changes_nothing(world: World) -> None:
    before = await world.rows("select * from log, head, checkpoint, fresh")
    with pytest.raises(Refused) as refused:
        await create_log(world.settings, 0)
    assert refused.value.code == "log-exists"
    assert await world.rows("select * from log, head, checkpoint, fresh") == before


async def test_a_log_whose_creation_died_half_way_is_created(world: World) -> None:
    # The signer's files were made, PostgreSQL was never told.
    await world.as_superuser("truncate log, head, leaf_batch, checkpoint, fresh, cursor cascade")
    created = await create_log(world.settings, 0)
    assert created.origin == "test.example.org/ledger/log/0"
    assert (await world.judge()).sealed == 1


async def test_a_log_that_the_signer_knows_to_be_longer_is_not_begun_anew(world: World) -> None:
    files = SignerFiles.open(world.settings.signer_dir, 0)
    files.add([b"\x02" + bytes(56)], Signed(2, bytes(32)))
    files.close()
    await world.as_superuser("truncate log, head, leaf_batch, checkpoint, fresh, cursor cascade")
    with pytest.raises(Refused) as refused:
        await create_log(world.settings, 0)
    assert refused.value.code == "log-is-elsewhere"


CHANGES = [
    "update leaf_batch set n = 2",
    "delete from leaf_batch",
    "truncate leaf_batch",
    "update tile set n = n + 1",
    "delete from tile",
    "truncate tile",
    "update checkpoint set note = 'x'",
    "delete from checkpoint",
    "truncate checkpoint cascade",
    "update log set origin = 'x'",
    "delete from log",
    "update seen set index = 3",
    "delete from seen",
    "update payload set payload = 'x'",
]


async def test_not_even_a_superuser_changes_what_is_proven_by_mistake(world: World) -> None:
    await world.rows("insert into tile select 0, 0, 0, decode(repeat('00', 8192), 'hex')")
    await world.rows("insert into seen select 0, gen_random_uuid(), 'x', 1, 1, sha256('x')")
    await world.rows("insert into payload select 0, 1, 'x', 'x'")
    for sql in CHANGES:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="never changed"):
            await world.rows(sql)


WRITES = {
    "leaf_batch": "insert into leaf_batch values (0, 1, 1, 'x', sha256('x'))",
    "tile": "insert into tile select 0, 0, 0, decode(repeat('00', 8192), 'hex')",
    "seen": "insert into seen values (0, gen_random_uuid(), 'x', 1, 1, sha256('x'))",
    "payload": "insert into payload values (0, 1, 'x', 'x')",
    "head": "update head set size = size",
    "epoch": "update head set epoch = epoch",
    "checkpoint": "insert into checkpoint (shard, size, previous, root, note) values (0, 2, 1, sha256('x'), 'x')",
    "fresh": "update fresh set line = line",
    "cursor": "update cursor set next = next",
    "matter": "insert into matter values ('x', 'x', 0)",
    "subject_key": "insert into subject_key values ('x', 0, decode(repeat('00', 64), 'hex'))",
    "source_mark": "insert into source_mark values (0, 'x', 1, now())",
    "progress": "insert into progress values (0, 'x', 1, 1)",
    "incident": "insert into incident (shard, kind, about) values (0, 'x', 'x')",
    "rejected": "insert into rejected (shard, stated_offset, reason, statement_hash, statement_size)"
    " values (0, 0, 'x', 'x', 0)",
    "attachment": "insert into attachment values (sha256('x'), 'x')",
    "witness": "insert into witness values (0, 'x', 'x')",
    "cosignature": "insert into cosignature values (0, 1, 'x', 'x', now(), false)",
    "stamp": "insert into stamp values (0, 1, 'x', now())",
}
PUBLISHER = frozenset({"cursor", "witness", "cosignature", "stamp", "incident"})
APPENDER = frozenset(WRITES) - PUBLISHER - {"checkpoint", "fresh", "attachment"} | {"incident"}
MAY = {
    "ledger_append": APPENDER,
    "ledger_seal": frozenset({"checkpoint", "fresh", "incident"}),
    "ledger_publish": PUBLISHER,
    "ledger": frozenset({"attachment"}),
}


@pytest.mark.parametrize("role", sorted(MAY))
async def test_each_role_writes_its_own_tables_and_no_other(world: World, role: str) -> None:
    for what, sql in WRITES.items():
        connection = await asyncpg.connect(world.settings.dsn(role), server_settings={"search_path": "ledger"})
        transaction = connection.transaction()
        await transaction.start()
        try:
            if what in MAY[role]:
                await connection.execute(sql)
            else:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(sql)
        finally:
            await transaction.rollback()
            await connection.close()


@pytest.mark.parametrize("role", sorted(MAY))
async def test_no_role_deletes_or_changes_what_is_proven_or_personal(world: World, role: str) -> None:
    connection = await asyncpg.connect(world.settings.dsn(role), server_settings={"search_path": "ledger"})
    tables = ("log", "leaf_batch", "tile", "checkpoint", "seen", "payload", "subject_key", "attachment", "rejected",
              "cosignature", "stamp")  # fmt: skip
    try:
        for table in tables:
            for sql in (f"delete from {table}", f"truncate {table}", f"update {table} set shard = shard"):
                with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedColumnError)):
                    await connection.execute(sql)
    finally:
        await connection.close()


async def test_the_signer_cannot_read_payloads_or_keys(world: World) -> None:
    connection = await asyncpg.connect(world.settings.dsn("ledger_seal"), server_settings={"search_path": "ledger"})
    try:
        for table in ("payload", "subject_key", "matter", "seen", "rejected"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"select * from {table}")
    finally:
        await connection.close()
