"""Tampering with a copy: dump and restore the database, alter one row as a superuser, run the check on the copy."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from infra.local.installation import CommandFailed, Installation

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `log check` said about a copy."""

    status: int
    printed: str

    @property
    def finding(self) -> str:
        """The first row it names."""
        return next((line for line in self.printed.splitlines() if line.startswith("wrong: ")), "")


@dataclass(frozen=True, slots=True)
class Copy:
    """A restored copy of an installation's database."""

    installation: Installation
    name: str

    def check(self) -> Verdict:
        """Run `consent-ledger log check` against the copy."""
        postgres = self.installation.postgres
        environment = {
            "CONSENT_LEDGER_DATABASE": postgres.dsn("{role}", self.name),
            "CONSENT_LEDGER_SUPERUSER_DSN": postgres.dsn(database=self.name),
        }
        try:
            return Verdict(0, self.installation.command("log", "check", environment=environment))
        except CommandFailed as failure:
            return Verdict(failure.status, failure.printed + failure.complained)

    def alter(self, *statements: str) -> str:
        """Run SQL as a superuser with triggers off; the first value of the last statement as text."""

        async def run() -> str:
            connection = await asyncpg.connect(self.installation.postgres.dsn(database=self.name))
            try:
                await connection.execute("set session_replication_role = replica; set search_path = ledger")
                result = ""
                for statement in statements:
                    result = str(await connection.fetchval(statement))
                return result
            finally:
                await connection.close()

        return asyncio.run(run())


@contextlib.contextmanager
def scratch_copy(installation: Installation) -> Iterator[Copy]:
    """A copy made by pg_dump and pg_restore, dropped at the end."""
    name = f"scratch_{secrets.token_hex(4)}"
    postgres = installation.postgres
    psql: list[str] = [str(postgres.binary("psql")), "-q", "-d", postgres.dsn(), "-c"]
    subprocess.run([*psql, f"create database {name}"], check=True)
    try:
        dump = subprocess.run(
            [postgres.binary("pg_dump"), "-Fc", "-d", postgres.dsn(database=installation.database)],
            check=True,
            capture_output=True,
        )
        subprocess.run(
            [postgres.binary("pg_restore"), "-d", postgres.dsn(database=name)], input=dump.stdout, check=True
        )
        yield Copy(installation, name)
    finally:
        subprocess.run([*psql, f"drop database {name} with (force)"], check=True)


def alter_payload(copy: Copy) -> str:
    """Flip one bit in the middle of one old payload."""
    index = copy.alter(
        """
        with victim as (select shard, index from payload order by shard, index offset 1 limit 1)
        update payload p set payload = set_byte(payload, 40, get_byte(payload, 40) # 1)
        from victim v where (p.shard, p.index) = (v.shard, v.index) returning p.index
        """
    )
    return f"payload of index {index}"


def alter_leaf(copy: Copy) -> str:
    """Flip one bit of the commitment in the first leaf of one batch."""
    first = copy.alter(
        """
        with victim as (select shard, first from leaf_batch order by shard, first offset 2 limit 1)
        update leaf_batch b set leaves = set_byte(leaves, 60, get_byte(leaves, 60) # 1)
        from victim v where (b.shard, b.first) = (v.shard, v.first) returning b.first
        """
    )
    return f"leaf {first}"
