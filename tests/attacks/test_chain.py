"""For comparison: the hash chain that other tools call tamper-evident, on a real PostgreSQL, under the same attacks.

hash of a row = SHA-256(hash of the row before || row), the moment in the hash as well. Whoever has every right on the
table can compute the chain anew, and there is nothing to hold it against.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import asyncpg
import pytest

from tests.attacks.declared import CHAIN, Chained
from tests.parts import PostgresPart

Row = dict[str, Any]
TABLE = "create temporary table consents (id bigint primary key, ts text, person text, said text, hash bytea)"
PEOPLE = ("anna", "ben", "carla")


@dataclass
class Chain:
    """The table, and all that such a tool does: append, verify."""

    connection: asyncpg.Connection[Any]

    async def append(self, row: Row) -> None:
        previous = await self.connection.fetchval("select hash from consents order by id desc limit 1") or b""
        await self.connection.execute(
            "insert into consents values ($1, $2, $3, $4, $5)", *row.values(), hashed(previous, row)
        )

    async def verify(self) -> str:
        """The first row that does not fit the one before; empty if all do."""
        previous = b""
        for row in await self.rows():
            if row.pop("hash") != hashed(previous, row):
                return f"row {row['id']} does not fit the one before"
            previous = hashed(previous, row)
        return ""

    async def rows(self) -> list[Row]:
        return [dict(row) for row in await self.connection.fetch("select * from consents order by id")]

    async def anew(self, rows: list[Row]) -> None:
        """What whoever owns the table can do: other rows, and a chain that fits them."""
        await self.connection.execute("delete from consents")
        for number, row in enumerate(rows, 1):
            await self.append({"id": number} | {name: row[name] for name in ("ts", "person", "said")})


def hashed(previous: bytes, row: Row) -> bytes:
    return hashlib.sha256(previous + json.dumps(row).encode()).digest()


async def alter(chain: Chain) -> None:
    await chain.connection.execute("update consents set said = 'given' where id = 4")


async def altered_anew(chain: Chain) -> None:
    rows = await chain.rows()
    await chain.anew([row | {"said": "given"} if row["id"] == 4 else row for row in rows])


async def delete(chain: Chain) -> None:
    await chain.connection.execute("delete from consents where id = 4")


async def deleted_anew(chain: Chain) -> None:
    await chain.anew([row for row in await chain.rows() if row["id"] != 4])


async def inserted_anew(chain: Chain) -> None:
    rows = await chain.rows()
    await chain.anew([*rows[:2], rows[0] | {"person": "dora"}, *rows[2:]])


async def reordered_anew(chain: Chain) -> None:
    rows = await chain.rows()
    rows[0], rows[3] = rows[3], rows[0]
    await chain.anew(rows)


async def truncate(chain: Chain) -> None:
    await chain.connection.execute("delete from consents where id > 20")


async def back_dated_anew(chain: Chain) -> None:
    await chain.anew([row | {"ts": f"2019{row['ts'][4:]}"} for row in await chain.rows()])


async def rolled_back(chain: Chain) -> None:
    backup = (await chain.rows())[:3]
    await chain.anew(backup)


async def two_tables(chain: Chain) -> None:
    """One for Anna, one for the others: each is shown the rows that are meant for them."""
    rows = await chain.rows()
    await chain.anew([row for row in rows if row["id"] != 4])
    assert await chain.verify() == ""
    await chain.anew(rows)


async def swapped_anew(chain: Chain) -> None:
    other = {"anna": "ben", "ben": "anna"}
    await chain.anew([row | {"person": other.get(row["person"], row["person"])} for row in await chain.rows()])


async def in_another_name(chain: Chain) -> None:
    await chain.append({"id": 31, "ts": "2026-01-01", "person": "anna", "said": "given"})


async def two_writers(chain: Chain) -> None:
    """Both have read the same last hash."""
    last = await chain.connection.fetchval("select hash from consents order by id desc limit 1")
    for number in (31, 32):
        row = {"id": number, "ts": "2026-01-01", "person": "anna", "said": "given"}
        await chain.connection.execute(
            "insert into consents values ($1, $2, $3, $4, $5)", *row.values(), hashed(last, row)
        )


async def shown_without(chain: Chain) -> None:
    """Whoever asks is shown what there is about them; rows that are held back leave no gap that could be seen."""
    rows = await chain.rows()
    await chain.anew([row for row in rows if row["person"] != "ben"])
    assert await chain.verify() == ""
    await chain.anew(rows)


async def under_another_name(chain: Chain) -> None:
    rows = await chain.rows()
    await chain.anew([row | {"person": "anna2"} if row["person"] == "anna" and row["id"] > 10 else row for row in rows])


async def another_address(chain: Chain) -> None:
    """A row says what was sent, and to whom; whoever owns the table says it otherwise when they are asked again."""
    rows = await chain.rows()
    mail = {"id": 31, "ts": "2026-01-01", "person": "anna", "said": "mail to anna@example.org"}
    await chain.append(mail)
    await chain.anew([*rows, mail | {"said": "mail to ben@example.org"}])


async def by_anybody(chain: Chain) -> None:
    """No key is stolen, for none is needed: what is written today is what would have been written then."""
    rows = await chain.rows()
    await chain.anew([*rows, {"id": 31, "ts": "2025-01-02", "person": "anna", "said": "given"}])


async def erase(chain: Chain) -> None:
    """What the law asks for."""
    await chain.connection.execute("update consents set person = '' where person = 'carla'")


Attacking = Callable[[Chain], Awaitable[None]]
# kind, what is done, by what, whether verify says so
CASES: tuple[tuple[str, str, Attacking, bool], ...] = (
    ("alter", "one row", alter, True),
    ("alter", "one row, the chain computed anew", altered_anew, False),
    ("delete", "one row", delete, True),
    ("delete", "one row, the chain computed anew", deleted_anew, False),
    ("insert", "one row, the chain computed anew", inserted_anew, False),
    ("reorder", "two rows, the chain computed anew", reordered_anew, False),
    ("truncate", "the last rows", truncate, False),
    ("fork", "a chain from the same beginning", deleted_anew, False),
    ("back-date", "every row, the chain computed anew", back_dated_anew, False),
    ("roll back to an old backup", "the table", rolled_back, False),
    ("split view", "one chain for Anna, one for the others", two_tables, False),
    ("swap payloads or wrapped keys", "whose words are whose, the chain computed anew", swapped_anew, False),
    ("replay an old state map", "it has no state but its rows: an older one is a shorter chain", rolled_back, False),
    ("drop a withdrawal", "the row, the chain computed anew", deleted_anew, False),
    ("forge an absence proof", "it has none: whoever is shown the rows is shown fewer", shown_without, False),
    (
        "invent a second key for a person",
        "it has none: another name, the chain computed anew",
        under_another_name,
        False,
    ),
    ("one ciphertext, two addresses", "it seals nothing: first one address, then the other", another_address, False),
    ("re-sign with a stolen old key", "it has none: whoever may write needs none", by_anybody, False),
    ("speak in another source's name", "one row more", in_another_name, False),
    ("fill `consent.recorded` by hand", "what is passed on has no proof: a row by hand is one", in_another_name, False),
    ("two writers at once", "two rows after one", two_writers, True),
    ("a lawful erasure", "of one person's data", erase, True),
)


@pytest.fixture
async def chain(postgres: PostgresPart) -> Any:
    """Return a table of 30 rows whose chain holds."""
    connection = await asyncpg.connect(postgres.dsn())
    try:
        await connection.execute(TABLE)
        made = Chain(connection)
        for number in range(1, 31):
            said = "withdrawn" if number == 4 else "given"
            await made.append({"id": number, "ts": "2025-01-01", "person": PEOPLE[(number - 1) % 3], "said": said})
        assert await made.verify() == ""
        yield made
    finally:
        await connection.close()


@pytest.mark.parametrize(("kind", "tried", "attacking", "noticed"), CASES, ids=[f"{one[0]}: {one[1]}" for one in CASES])
async def test_a_hash_chain_notices_what_it_notices(
    chain: Chain, kind: str, tried: str, attacking: Attacking, *, noticed: bool
) -> None:
    await attacking(chain)
    began = perf_counter()
    said = await chain.verify()
    assert bool(said) == noticed, said
    CHAIN.append(Chained(kind, tried, said, perf_counter() - began))
