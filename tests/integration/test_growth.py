"""No statement that our services run reads a whole table that grows: what is quick today is quick in ten years."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from benchmarks.grown import TABLES, fill
from tests.conftest import Database

ROOT: Final = Path(__file__).resolve().parents[2]
ASKING: Final = frozenset({"fetch", "fetchrow", "fetchval", "execute"})
VERBS: Final = ("select", "insert", "update", "delete", "with")
SCHEMAS: Final = {
    "shared/outbox": ("newsletter", "marketing", "subjects", "erasure"),
    "shared/follower": ("marketing", "subjects"),
    "shared/holder": ("newsletter", "marketing", "subjects"),
}
READS_EVERYTHING: Final = {
    "services/ledger/procedures/log_check.py": "its work is to read everything",
    "services/ledger/integrity/beside.py": "as that",
    "services/ledger/integrity/numbers.py": "who closed an incident: of these there are few",
    "services/ledger/procedures/create.py": "runs once, on an empty log",
    "services/ledger/procedures/tail.py": "runs after an accident, while nothing is appended",
    "services/ledger/procedures/restore.py": "runs after a backup was restored, while nothing is appended",
    "services/ledger/procedures/heard.py": "as that",
    "shared/outbox/restored.py": "as that",
}
SMALL: Final = {
    "newsletter": {"notice", "outbox_sequence", "outbox_progress", "unclaimed"},
    "subjects": {"pepper", "position", "outbox_sequence", "outbox_progress"},
    "erasure": {"outbox_sequence", "outbox_progress"},
    "marketing": {"outbox_sequence", "outbox_progress", "position", "audience", "audience_hour", "audience_position"},
    "ledger": {"log", "head", "source_mark", "progress", "arrived", "fresh", "cursor", "log_check", "witness"}
    | {"dropped_tail", "dropped_row", "ending", "lost_record", "key_file", "log_key", "empty_number"}
    | {"map_snapshot", "witness_policy"},
}
"""As many rows as there are shards, sources, notices, purposes, hours, witnesses, policies of theirs, accidents, or
messages and erasures on their way."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One statement in the code."""

    place: str
    schema: str
    sql: str


def asked() -> Iterator[Asked]:
    """Every statement in services and shared, found where it is handed to PostgreSQL."""
    names = ("services/*/**/*", *SCHEMAS, *(f"{name}/*" for name in SCHEMAS))
    files = {path for name in names for path in ROOT.glob(f"{name}.py")}
    for path in sorted(files):
        name = path.relative_to(ROOT).as_posix()
        if name in READS_EVERYTHING:
            continue
        folder = "/".join(name.removesuffix(".py").split("/")[:2])
        module = importlib.import_module(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ASKING
                and node.args
                and "consumer" not in ast.unparse(node.func).lower()  # Kafka's have the same name
            ):
                expression = compile(ast.Expression(node.args[0]), name, "eval")
                sql = eval(expression, vars(module))  # noqa: S307 - a constant of ours
                if isinstance(sql, str) and sql.split(None, 1)[0].lower() in VERBS:
                    for schema in SCHEMAS.get(folder, (folder.split("/")[1],)):
                        yield Asked(f"{name}:{node.lineno}", schema, sql)


@pytest.fixture
async def grown(database: Database) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database that holds a few rows of everything, and believes that they are a million."""
    superuser = await asyncpg.connect(database.dsn())
    await superuser.execute("insert into ledger.log values (0, 'localhost/ledger/log/0', 'v', 'f')")
    await fill(superuser, list(TABLES), 1, 2_000)
    # The planner multiplies rows per page, as noted here, by the pages that there are.
    await superuser.execute(
        "update pg_class set reltuples = 1000000"
        " where relkind = 'r' and relnamespace::regnamespace::text || '.' || relname = any($1)",
        list(TABLES),
    )
    await superuser.execute("set plan_cache_mode = force_generic_plan")
    yield superuser
    await superuser.close()


async def plan(grown: asyncpg.Connection[Any], sql: str) -> dict[str, Any]:
    """How PostgreSQL answers it when it does not know the values."""
    await grown.execute(f"prepare asked as {sql}")
    count = await grown.fetchval(
        "select coalesce(array_length(parameter_types, 1), 0) from pg_prepared_statements where name = 'asked'"
    )
    values = f"({', '.join(['null'] * count)})" if count else ""
    raw = await grown.fetchval(f"explain (format json) execute asked{values}")
    await grown.execute("deallocate asked")
    found: dict[str, Any] = json.loads(raw)[0]["Plan"]
    return found


def nodes(plan: dict[str, Any], *, few: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """Every step of a plan, and whether what asks for it stops after a few rows."""
    few = few or plan["Node Type"] == "Limit"
    yield plan, few
    for child in plan.get("Plans", []):
        yield from nodes(child, few=few and plan["Node Type"] not in {"Sort", "Hash", "Aggregate"})


async def test_each_table_grows_or_is_known_to_stay_small(grown: asyncpg.Connection[Any]) -> None:
    known = {f"{schema}.{table}" for schema, tables in SMALL.items() for table in tables} | TABLES.keys()
    rows = await grown.fetch("select schemaname || '.' || relname as name from pg_stat_user_tables")
    assert {row["name"] for row in rows if not row["name"].startswith("migration.")} == known
    for table in TABLES:
        assert await grown.fetchval(f"select count(*) from {table}") >= 1_000, table


async def reads_whole_tables(grown: asyncpg.Connection[Any]) -> tuple[list[str], set[str]]:
    """Steps that read all of a table that grows, and which of these tables were met at all."""
    partial = {
        row["name"]
        for row in await grown.fetch(
            "select indexrelid::regclass::text as name from pg_index where indpred is not null"
        )
    }
    found, walked = [], set()
    for one in asked():
        await grown.execute(f"set search_path = {one.schema}")
        for node, few in nodes(await plan(grown, one.sql)):
            table, index = f"{one.schema}.{node.get('Relation Name')}", node.get("Index Name")
            if table not in TABLES:
                continue
            walked.add(table)
            # An index without a condition is as long as its table, unless it holds only some of the rows.
            whole = index is not None and "Index Cond" not in node and f"{one.schema}.{index}" not in partial
            if not few and (whole or node["Node Type"] == "Seq Scan"):
                found.append(f"{one.place}: {node['Node Type']} {index or ''} on {table}")
    await grown.execute("reset search_path")
    return found, walked


async def test_no_statement_reads_a_whole_table_that_grows(grown: asyncpg.Connection[Any]) -> None:
    assert len(list(asked())) > 120
    found, walked = await reads_whole_tables(grown)
    assert not found, "\n".join(found)
    assert walked == TABLES.keys()
    # An index that is missing is noticed.
    await grown.execute("drop index newsletter.withdrawal_of; drop index newsletter.request_of")
    found, _ = await reads_whole_tables(grown)
    assert {line.split(" on ")[1] for line in found} >= {"newsletter.withdrawal", "newsletter.request"}
