"""Migrations: once, in order, never changed afterwards; roles that may do what their files grant and no more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from shared import migrations
from shared.errors import Corrupt, Unavailable
from shared.migrations import migrate
from tests.integration.shared.conftest import probe_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = probe_root(tmp_path)
    folder = root / "services/second/migrations"
    folder.mkdir(parents=True)
    (folder / "roles.toml").write_text('roles = ["second_read"]')
    (folder / "0001-note.sql").write_text(
        "create table note (id int primary key);\n"
        "create function secret() returns int language sql as 'select 7';\n"
        "grant select, insert on note to second;\ngrant select on note to second_read;\n"
    )
    return root


async def test_every_service_gets_its_schema_and_its_roles_once(empty_dsn: str, root: Path) -> None:
    assert await migrate(empty_dsn, root=root) == ["probe/0001-probe.sql", "second/0001-note.sql"]
    assert await migrate(empty_dsn, root=root) == []
    (root / "services/second/migrations/0002-more.sql").write_text("create table more (id int);")
    assert await migrate(empty_dsn, root=root) == ["second/0002-more.sql"]
    assert migrations.roles(root) == ["probe", "second", "second_read"]


async def test_two_at_once_apply_each_file_once(empty_dsn: str, root: Path) -> None:
    applied = await asyncio.gather(*(migrate(empty_dsn, root=root) for _ in range(3)))
    assert sorted(applied) == [[], [], ["probe/0001-probe.sql", "second/0001-note.sql"]]


async def test_a_role_may_do_what_was_granted_and_nothing_else(empty_dsn: str, root: Path) -> None:
    await migrate(empty_dsn, root=root)
    refused = asyncpg.InsufficientPrivilegeError
    for role, sql, error in (
        ("second", "insert into second.note values (1)", None),
        ("second_read", "select * from second.note", None),
        ("second_read", "insert into second.note values (2)", refused),
        ("second", "delete from second.note", refused),
        ("second", "drop table second.note", refused),
        ("second", "create table second.mine (id int)", refused),
        ("second", "create table public.mine (id int)", refused),
        ("second", "create temporary table mine (id int)", refused),
        ("second", "select second.secret()", refused),
        ("second", "select * from migration.applied", refused),
        ("second", "select * from probe.thing", refused),
        ("probe", "select * from second.note", refused),
        ("probe", "set role owner", refused),
    ):
        connection = await asyncpg.connect(empty_dsn, user=role)
        try:
            if error is None:
                await connection.execute(sql)
            else:
                with pytest.raises(error):
                    await connection.execute(sql)
        finally:
            await connection.close()


async def test_nothing_belongs_to_who_uses_it(empty_dsn: str, root: Path) -> None:
    await migrate(empty_dsn, root=root)
    connection = await asyncpg.connect(empty_dsn)
    owners = await connection.fetch("select distinct tableowner from pg_tables where schemaname in ('probe', 'second')")
    can_log_in = await connection.fetchval("select rolcanlogin from pg_roles where rolname = 'owner'")
    await connection.close()
    assert [row["tableowner"] for row in owners] == ["owner"]
    assert can_log_in is False


@pytest.mark.parametrize("change", ["edit", "edit what is included", "remove", "insert before"])
async def test_an_applied_file_is_never_changed(empty_dsn: str, root: Path, change: str) -> None:
    await migrate(empty_dsn, root=root)
    folder = root / "services/second/migrations"
    match change:
        case "edit":
            (folder / "0001-note.sql").write_text("create table other (id int);")
        case "edit what is included":
            with (root / "shared/outbox/outbox.sql").open("a") as file:
                file.write("-- another remark\n")
        case "remove":
            (folder / "0001-note.sql").unlink()
        case "insert before":
            (folder / "0000-first.sql").write_text("select 1;")
    with pytest.raises(Corrupt):
        await migrate(empty_dsn, root=root)


async def test_a_file_that_fails_leaves_nothing_and_is_applied_when_it_is_right(empty_dsn: str, root: Path) -> None:
    late = root / "services/second/migrations/0002-late.sql"
    late.write_text("create table half (id int); select 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_dsn, root=root)
    late.write_text("create table half (id int);")
    assert await migrate(empty_dsn, root=root) == ["second/0002-late.sql"]


@pytest.mark.parametrize("name", ["note.sql", "1-note.sql", "0001-Note.sql", "0001-other.sql"])
async def test_a_file_that_is_not_numbered_once_is_refused(empty_dsn: str, root: Path, name: str) -> None:
    (root / "services/second/migrations" / name).write_text("select 1;")
    with pytest.raises(Corrupt):
        await migrate(empty_dsn, root=root)


async def test_passwords_are_set_where_there_are_any(empty_dsn: str, root: Path) -> None:
    await migrate(empty_dsn, {"second": "it's a \\ word"}, root=root)
    connection = await asyncpg.connect(empty_dsn)
    rows = await connection.fetch(
        "select rolname, rolpassword like 'SCRAM-SHA-256$%' as hashed from pg_authid where rolname like 'second%'"
    )
    await connection.execute("alter role second password null")
    await connection.close()
    assert {row["rolname"]: row["hashed"] for row in rows} == {"second": True, "second_read": None}


async def test_a_server_that_is_not_there_is_unavailability(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await migrate(f"postgresql://postgres@/postgres?host={tmp_path}")
