"""Brings a database to the wanted state: one schema and one login role per service, then its numbered SQL files, once.

Forward only. Files run as the role `owner`, which nobody can log in as, so that no service owns what it uses.
Every file grants what it makes; by default nobody is granted anything.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from shared.errors import Corrupt, Unavailable

ROOT: Final = Path(__file__).resolve().parent.parent

_FILE: Final = re.compile(r"(?P<number>\d{4})-[a-z0-9-]+\.sql\Z", re.ASCII)
_ROLE: Final = re.compile(r"[a-z][a-z0-9_]{0,62}\Z", re.ASCII)
_INCLUDE: Final = re.compile(r"^-- include: (?P<path>[a-z0-9_/-]+\.sql)[ \t]*$", re.MULTILINE | re.ASCII)

_SET_UP: Final = """
revoke all on schema public from public;
create schema if not exists migration;
revoke all on schema migration from public;
create table if not exists migration.applied (
    service text not null,
    name    text not null,
    sha256  text not null,
    at      timestamptz not null default clock_timestamp(),
    primary key (service, name)
);
-- PostgreSQL's own default lets everybody execute functions and use types.
alter default privileges for role owner revoke execute on functions from public;
alter default privileges for role owner revoke usage on types from public;
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A service with a schema: the role of its name, further roles, its files in order."""

    name: str
    roles: tuple[str, ...]
    files: tuple[Path, ...]


def services(root: Path = ROOT) -> Iterator[Service]:
    """Every folder services/<name>/migrations. Further roles stand in its roles.toml: `roles = ["ledger_append"]`."""
    for folder in sorted((root / "services").glob("*/migrations")):
        name = folder.parent.name
        more: list[str] = []
        if (folder / "roles.toml").is_file():
            more = list(tomllib.loads((folder / "roles.toml").read_text("utf-8"))["roles"])
        roles = tuple(dict.fromkeys([name, *more]))
        for role in roles:
            if not _ROLE.match(role):
                raise Corrupt("not a role name", f"services/{name}/migrations")
        files = tuple(sorted(folder.glob("*.sql")))
        numbers = [match["number"] if (match := _FILE.match(path.name)) else "" for path in files]
        if "" in numbers or len(set(numbers)) != len(numbers):
            raise Corrupt("migrations are named NNNN-name.sql, each number once", f"services/{name}/migrations")
        yield Service(name, roles, files)


def roles(root: Path = ROOT) -> list[str]:
    """Every login role of the installation."""
    return [role for service in services(root) for role in service.roles]


def text_of(path: Path, root: Path = ROOT) -> str:
    """A file's SQL, each line `-- include: shared/outbox/outbox.sql` replaced by that file's text."""

    def included(match: re.Match[str]) -> str:
        return (root / match["path"]).read_text("utf-8")

    return _INCLUDE.sub(included, path.read_text("utf-8"))


async def migrate(superuser_dsn: str, passwords: Mapping[str, str] | None = None, root: Path = ROOT) -> list[str]:
    """Apply what is missing and say what that was. Safe to repeat and to run twice at once; a file that was
    changed after it was applied is Corrupt."""
    try:
        connection = await asyncpg.connect(superuser_dsn, timeout=10)
    except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
        raise Unavailable("postgresql") from None
    try:
        await connection.execute("select pg_advisory_lock(hashtextextended('consent-ledger/migrate', 0))")
        await _role(connection, "owner", login=False)
        await connection.execute(_SET_UP)
        applied: list[str] = []
        for service in services(root):
            await _schema(connection, service, passwords or {})
            applied += await _files(connection, service, root)
        return applied
    finally:
        await connection.close()


async def _role(connection: asyncpg.Connection[Any], role: str, *, login: bool) -> None:
    if await connection.fetchval("select 1 from pg_roles where rolname = $1", role) is None:
        try:
            await connection.execute(f"create role {role} {'login' if login else 'nologin'} noinherit")
        except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
            return  # roles belong to the server: a migration of another database was faster
    if login:
        # A stopped process must not keep locks that others wait for.
        await connection.execute(f"alter role {role} set idle_in_transaction_session_timeout = '5s'")


async def _schema(connection: asyncpg.Connection[Any], service: Service, passwords: Mapping[str, str]) -> None:
    database = await connection.fetchval("select quote_ident(current_database())")
    await connection.execute(f"revoke connect, temporary on database {database} from public")
    await connection.execute(f"create schema if not exists {service.name} authorization owner")
    for role in service.roles:
        await _role(connection, role, login=True)
        await connection.execute(f"grant connect on database {database} to {role}")
        await connection.execute(f"grant usage on schema {service.name} to {role}")
        if role in passwords:
            quoted = "select format('alter role %I password %L', $1::text, $2::text)"
            await connection.execute(await connection.fetchval(quoted, role, passwords[role]))


async def _files(connection: asyncpg.Connection[Any], service: Service, root: Path) -> list[str]:
    rows = await connection.fetch("select name, sha256 from migration.applied where service = $1", service.name)
    done = {row["name"]: row["sha256"] for row in rows}
    texts = {path.name: text_of(path, root) for path in service.files}
    for name, digest in done.items():
        if name not in texts or hashlib.sha256(texts[name].encode("utf-8")).hexdigest() != digest:
            raise Corrupt("an applied migration was changed or is gone", f"{service.name}/{name}")
    missing = [name for name in texts if name not in done]
    if missing and done and min(missing) < max(done):
        raise Corrupt("a migration is numbered before one that is already applied", f"{service.name}/{min(missing)}")
    for name in missing:
        async with connection.transaction():
            await connection.execute(f"set local role owner; set local search_path = {service.name}")
            await connection.execute(texts[name])
            await connection.execute("reset role")
            await connection.execute(
                "insert into migration.applied (service, name, sha256) values ($1, $2, $3)",
                service.name,
                name,
                hashlib.sha256(texts[name].encode("utf-8")).hexdigest(),
            )
    return [f"{service.name}/{name}" for name in missing]
