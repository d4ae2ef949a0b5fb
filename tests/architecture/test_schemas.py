"""PostgreSQL's own catalogue after the migrations: who owns what, who may touch it, and that nothing leads across."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from infra.compose import secrets
from services.ledger.procedures.create import create_log
from shared import migrations
from shared.settings import Settings
from tests.conftest import Database

SERVICES = {service.name: set(service.roles) for service in migrations.services()}
ROLES = set(migrations.roles())
PROOF = ("leaf_batch", "tile", "checkpoint")
OURS = """
select n.nspname as schema, c.relname as name, c.relkind::text as kind, c.oid
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = any($1) and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
"""
GRANTS = """
with acls as (
    select n.nspname as schema, c.relname as name, c.relacl as acl, c.relowner as owner
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    union all
    select n.nspname, c.relname || '.' || a.attname, a.attacl, c.relowner
    from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
    where a.attacl is not null
    union all
    select n.nspname, p.proname || '()', coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    union all
    select n.nspname, '', n.nspacl, n.nspowner from pg_namespace n
)
select schema, name, privilege_type as privilege,
       case grantee when 0 then 'public' else pg_get_userbyid(grantee) end as grantee
from acls, aclexplode(acl) where schema = any($1) and grantee <> owner
"""
# Words for what leads to a person. What outside subjects needs such a thing holds its ciphertext, under another name.
PERSONAL = {
    "address", "contact", "contact_point", "e_mail", "email", "email_address", "first_name", "full_name", "identifier",
    "ip", "ip_address", "last_name", "mail_address", "mailbox", "normalised", "person", "phone", "phone_number",
    "postal_address", "recipient", "recipients", "remote_address", "sent_to", "surname", "telephone", "to",
    "to_address", "typed", "user_agent", "username",
}  # fmt: skip


@pytest.fixture
async def catalogue(database: Database) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(database.dsn())
    yield connection
    await connection.close()


async def test_every_service_has_one_schema_that_none_of_its_roles_owns(catalogue: asyncpg.Connection[Any]) -> None:
    rows = await catalogue.fetch(
        "select nspname, pg_get_userbyid(nspowner) as owner from pg_namespace"
        " where nspname !~ '^pg_|^information_schema$'"
    )
    owners = {row["nspname"]: row["owner"] for row in rows}

    assert owners.keys() - {"public", "migration"} == SERVICES.keys()
    assert {owners[name] for name in SERVICES} == {"owner"}
    assert {row["owner"] for row in rows} & ROLES == set()


async def test_every_object_belongs_to_the_role_that_nobody_can_log_in_as(catalogue: asyncpg.Connection[Any]) -> None:
    owners = await catalogue.fetch(
        "select distinct pg_get_userbyid(relowner) as owner from pg_class where relnamespace = any($1::regnamespace[])",
        sorted(SERVICES),
    )
    assert [row["owner"] for row in owners] == ["owner"]
    assert await catalogue.fetchval("select rolcanlogin from pg_roles where rolname = 'owner'") is False


async def test_the_login_roles_are_ordinary_and_inherit_from_nobody(catalogue: asyncpg.Connection[Any]) -> None:
    rows = await catalogue.fetch(
        "select * from pg_roles where rolcanlogin and not rolsuper and rolname !~ '^pg_' and rolname = any($1)",
        sorted(ROLES),
    )
    assert {row["rolname"] for row in rows} == ROLES
    for row in rows:
        powers = ("rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls", "rolinherit")
        assert not any(row[power] for power in powers), row["rolname"]
    members = "select count(*) from pg_auth_members where member = any($1::regrole[]) or roleid = any($1::regrole[])"
    assert await catalogue.fetchval(members, sorted(ROLES)) == 0


async def test_nothing_of_a_service_is_granted_to_another_or_to_everybody(catalogue: asyncpg.Connection[Any]) -> None:
    grants = await catalogue.fetch(GRANTS, sorted(SERVICES))

    assert {row["grantee"] for row in grants} == ROLES
    across = [dict(row) for row in grants if row["grantee"] not in SERVICES[row["schema"]]]
    assert across == []


async def test_no_role_can_read_the_schema_of_another_service(catalogue: asyncpg.Connection[Any]) -> None:
    for service, roles in SERVICES.items():
        for role in ROLES - roles:
            assert not await catalogue.fetchval("select has_schema_privilege($1, $2, 'usage, create')", role, service)
        for role in roles:
            assert await catalogue.fetchval("select has_schema_privilege($1, $2, 'usage')", role, service)
            assert not await catalogue.fetchval("select has_schema_privilege($1, $2, 'create')", role, service)


async def test_no_foreign_key_leads_to_another_schema(catalogue: asyncpg.Connection[Any]) -> None:
    keys = await catalogue.fetch(
        """
        select f.conname, a.relnamespace::regnamespace::text as here, b.relnamespace::regnamespace::text as there
        from pg_constraint f join pg_class a on a.oid = f.conrelid join pg_class b on b.oid = f.confrelid
        where f.contype = 'f' and a.relnamespace = any($1::regnamespace[])
        """,
        sorted(SERVICES),
    )
    assert keys
    assert [key["conname"] for key in keys if key["here"] != key["there"]] == []


async def test_no_view_or_function_looks_into_another_schema(catalogue: asyncpg.Connection[Any]) -> None:
    relations = await catalogue.fetch(OURS, sorted(SERVICES))
    assert {row["schema"] for row in relations} == SERVICES.keys()
    assert [row["name"] for row in relations if row["kind"] in {"v", "m", "f"}] == []

    for function in await catalogue.fetch(
        "select pronamespace::regnamespace::text as schema, proname, prosrc, prosecdef from pg_proc"
        " where pronamespace = any($1::regnamespace[])",
        sorted(SERVICES),
    ):
        # One alone may do more than its caller: it asks itself whether it may (services/ledger/migrations).
        assert function["prosecdef"] == (function["proname"] == "destroy_subject"), function["proname"]
        for other in SERVICES.keys() - {function["schema"]}:
            assert f"{other}." not in function["prosrc"], function["proname"]


@pytest.mark.parametrize("table", PROOF)
async def test_no_role_may_change_or_delete_what_proves(table: str, catalogue: asyncpg.Connection[Any]) -> None:
    name = f"ledger.{table}"
    for role in ROLES:
        forbidden = "select has_table_privilege($1, $2, 'update, delete, truncate, trigger, references')"
        assert not await catalogue.fetchval(forbidden, role, name), role
        assert not await catalogue.fetchval("select has_any_column_privilege($1, $2, 'update')", role, name), role


async def test_the_appender_cannot_sign_and_the_signer_cannot_append(catalogue: asyncpg.Connection[Any]) -> None:
    may = "select has_table_privilege($1, 'ledger.' || $2, $3) or has_any_column_privilege($1, 'ledger.' || $2, $4)"

    async def writes(role: str, table: str) -> bool:
        return bool(await catalogue.fetchval(may, role, table, "insert, update, delete, truncate", "insert, update"))

    assert [table for table in ("checkpoint", "fresh", "cursor") if await writes("ledger_append", table)] == []
    signing = ("leaf_batch", "tile", "head", "seen", "payload", "subject_key", "matter", "cursor")
    assert [table for table in signing if await writes("ledger_seal", table)] == []
    reading = ("leaf_batch", "tile", "head", "payload", "checkpoint", "fresh")
    assert [table for table in reading if await writes("ledger", table)] == []
    assert [table for table in reading if await writes("ledger_publish", table)] == []
    tables = [row["name"] for row in await catalogue.fetch(OURS, ["ledger"]) if row["kind"] == "r"]
    assert {table for table in tables if await writes("ledger_check", table)} == {"incident", "log_check"}
    # The question is put in a way that has another answer, too.
    assert await writes("ledger_append", "leaf_batch")
    assert await writes("ledger_seal", "checkpoint")


async def test_a_log_once_begun_refuses_even_a_superuser(
    database: Database, catalogue: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    secrets_dir = secrets.create(tmp_path)
    await create_log(Settings(superuser_dsn=database.dsn(), secrets_dir=secrets_dir, signer_dir=tmp_path / "signer"), 0)
    await catalogue.execute("set search_path = ledger")
    await catalogue.execute("insert into tile values (0, 0, 0, $1)", hashlib.sha256(b"a tile").digest() * 256)
    for table in PROOF:
        for change in (f"update {table} set shard = shard", f"delete from {table}", f"truncate {table} cascade"):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="is never changed or deleted"):
                await catalogue.execute(change)


async def test_no_column_but_ciphertext_in_subjects_has_the_name_of_something_personal(
    catalogue: asyncpg.Connection[Any],
) -> None:
    columns = await catalogue.fetch(
        "select table_schema || '.' || table_name || '.' || column_name as path, column_name, data_type"
        " from information_schema.columns where table_schema = any($1)",
        sorted(SERVICES),
    )
    assert {row["path"].split(".")[0] for row in columns} == SERVICES.keys()
    personal = [row for row in columns if row["column_name"] in PERSONAL]
    sealed = [row for row in personal if row["path"].startswith("subjects.") and row["data_type"] == "bytea"]
    assert [row["path"] for row in personal if row not in sealed] == []
