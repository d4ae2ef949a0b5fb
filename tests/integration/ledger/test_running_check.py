"""The check close behind the signer: what is new is checked in full as it is signed, what is old again and again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from services.ledger.integrity.finding import Finding, Pace, Trusted
from services.ledger.integrity.running import RunningCheck, Sweep, Tail
from services.ledger.reader.note import CosignatureSigner, Signer
from shared.clock import utc_now
from shared.database import Database, Row, Signal, Transaction
from tests.integration.ledger.world import World, given, new_subject, requested, withdrawn


def trusted_of(world: World) -> Trusted:
    """Keys, and the signer's files, as they are."""
    keys, origin = world.secrets, world.settings.origin(0)
    return Trusted(
        keys.keks(),
        {0: Signer(origin, keys.log_key(0)).vkey},
        {0: CosignatureSigner(f"{origin}/fresh", keys.fresh_key(0)).vkey},
        signer_dir=world.settings.signer_dir,
    )


async def checking(
    world: World, sealed: Signal | None = None, *, db: Database | None = None, again_seconds: float = 60.0
) -> RunningCheck:
    db = db or await world.database("ledger_check")
    return RunningCheck(0, db, trusted_of(world), sealed or Signal(), utc_now, rests=0.0, again_seconds=again_seconds)


async def findings(world: World) -> list[Finding]:
    """All that a check names which begins now and is at the end once."""
    db, trusted = await world.database("ledger_check"), trusted_of(world)
    tail = await Tail.begin(0, db, trusted, Pace())
    found, _ = await tail.step()
    async for some in Sweep(tail, db, trusted, Pace(), 0.1).findings():
        found += some
    some, _ = await tail.step()  # of what the sweep has missed
    return found + some


async def wrong(world: World) -> list[tuple[str, str]]:
    """Table and detail of the incidents that are open."""
    rows = await world.rows(
        "select about, detail from incident where kind = 'wrong-row' and closed_at is null order by number"
    )
    return [(row["about"], row["detail"]) for row in rows]


async def until(world: World, sql: str) -> None:
    for _ in range(1500):
        if await world.value(sql):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(sql)


async def follow(check: RunningCheck) -> None:
    while not await check.follow():
        pass


async def say(world: World, *statements: bytes) -> None:
    await world.state(*statements)
    await world.append(await world.appender())
    await world.seal(await world.sealer())


async def lively(world: World) -> list[str]:
    """People of all kinds, in batches of all sizes, with a full tile among them; answers who they are."""
    people = [new_subject() for _ in range(12)]
    now = utc_now()
    for subject in people[:3]:
        await say(world, requested(subject), given(subject), withdrawn(subject), given(subject, now - timedelta(1)))
    await say(world, withdrawn(people[3], purpose=None), given(people[3], now - timedelta(1)))
    await say(world, *[given(people[number % 12]) for number in range(300)], b"{}")
    return people


async def test_what_nobody_touched_is_followed_to_its_end_and_swept_without_a_word(world: World) -> None:
    check = await checking(world)
    await follow(check)
    people = await lively(world)
    again = given(people[0])
    await follow(check)
    # Someone who has withdrawn comes back, late and in time; something is repeated; something is rejected.
    await say(world, given(people[3], utc_now() - timedelta(2)), again, again, withdrawn(people[4], purpose=None))
    await say(world, given(people[4], utc_now() - timedelta(2)), given(people[4]))
    await follow(check)
    assert await check.sweep() == 0
    assert await wrong(world) == []
    # As after a restart: what was said before is learnt from the log itself.
    check = await checking(world)
    await follow(check)
    await say(world, given(people[3], utc_now() - timedelta(3)), given(people[0], utc_now() - timedelta(3)))
    await say(world, *[given(new_subject()) for _ in range(260)])
    await follow(check)
    assert await check.sweep() == 0
    assert await wrong(world) == []
    [row] = await world.rows("select * from log_check")
    assert row["followed"] == await world.value("select max(size) from checkpoint")
    assert row["findings"] == 0


class Held:
    """What is asked while one moment of the database is held."""

    def __init__(self, inner: Transaction) -> None:
        self._inner = inner
        self.queries = 0
        self.rows: list[Row] = []

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        self.queries += 1
        rows = await self._inner.fetch(sql, *arguments)
        self.rows += rows
        return rows

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        row = await self._inner.fetchrow(sql, *arguments)
        self.queries += 1
        self.rows += [row] if row else []
        return row


class Watched(Database):
    """Knows of each snapshot that was taken how much was asked in it."""

    open = 0
    leaves = 0
    """read by queries of their own"""
    snapshots: list[Held]

    @contextlib.asynccontextmanager
    async def transaction(self, timeout: str = "2s", isolation: str = "") -> AsyncIterator[Any]:
        async with super().transaction(timeout, isolation) as inner:
            held = Held(inner)
            self.open += 1
            yield held
            self.open -= 1
        self.snapshots.append(held)

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        rows = await super().fetch(sql, *arguments)
        self.leaves += sum(row["n"] for row in rows if "leaves" in row)
        return rows


async def test_no_moment_is_held_for_longer_than_a_few_queries(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is held, nobody's dead rows are tidied away: no leaf is read in it, and nobody rests."""
    rest = Pace.rest
    rested: list[int] = []

    async def noted(pace: Pace) -> None:
        rested.append(watched.open)
        await rest(pace)

    monkeypatch.setattr(Pace, "rest", noted)
    watched = await Watched.connect(world.settings.dsn("ledger_check"), "ledger", max_size=2)
    watched.snapshots = []
    try:
        await lively(world)
        check = await checking(world, db=watched)
        await follow(check)
        began = await world.value("select max(size) from checkpoint")
        await lively(world)
        await follow(check)
        assert await check.sweep() == 0
    finally:
        await watched.close()
    size = await world.value("select max(size) from checkpoint")
    assert watched.leaves >= began + (size - began) + size
    assert watched.snapshots
    for held in watched.snapshots:
        assert held.queries <= 5
        assert len(held.rows) <= 60
        assert not any("leaves" in row or "payload" in row for row in held.rows)
    assert len(rested) > 100
    assert not any(rested)


FRESHLY = {
    "a statement": ("update payload set payload = set_byte(payload, 40, get_byte(payload, 40) # 1)", "payload"),
    "a leaf": ("update leaf_batch set leaves = set_byte(leaves, 60, get_byte(leaves, 60) # 1)", "leaf_batch"),
    "a wrapped key": (
        "update subject_key set wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1)",
        "subject_key",
    ),
    "a statement is gone": ("delete from payload", "payload"),
    "an id": ("update seen set statement_hash = sha256('x')", "seen"),
    "what was overtaken": ("delete from overtaken", "overtaken"),
    "a restriction": ("update matter set restricted_at = null", "matter"),
    "the checkpoint": ("update checkpoint set note = replace(note, chr(8212), '-')", "checkpoint"),
    "the fresh line": ("update fresh set line = 'no line'", "fresh"),
    "the cursor": ("update cursor set next = 100000", "cursor"),
    "a tile": ("update tile set hashes = set_byte(hashes, 5, get_byte(hashes, 5) # 1)", "tile"),
    "what has arrived": ("update progress set contiguous = contiguous + 1", "progress"),
    "the key": ("update log set vkey = fresh_vkey", "log"),
}
NEW = {
    "payload": "index >= {size}",
    "leaf_batch": "first >= {size}",
    "checkpoint": "size > {size}",
    "seen": "index >= {size}",
}


@pytest.mark.parametrize("what", FRESHLY)
async def test_a_wrong_row_among_what_is_new_becomes_an_incident_with_its_place(world: World, what: str) -> None:
    people = [new_subject() for _ in range(3)]
    await say(world, *[given(one) for one in people])
    check = await checking(world)
    await follow(check)
    size = await world.value("select max(size) from checkpoint")
    subject = new_subject()
    late = given(subject, utc_now() - timedelta(1))
    await say(world, withdrawn(subject, purpose=None), late, *[given(people[0]) for _ in range(260)])
    sql, table = FRESHLY[what]
    await world.as_superuser(sql + (f" where {NEW[table].format(size=size)}" if table in NEW else ""))
    with contextlib.suppress(Exception):
        await follow(check)
    found = await wrong(world)
    assert table in [about for about, _ in found]
    assert await world.value("select findings from log_check") > 0


OLD = {
    "a statement": (
        "update payload set payload = set_byte(payload, 40, get_byte(payload, 40) # 1) where index = 2",
        ("payload", "index 2: the ciphertext does not open: wrong key, wrong place, or altered"),
    ),
    "a leaf": (
        "update leaf_batch set leaves = set_byte(leaves, 40, get_byte(leaves, 40) # 1) where first = 1",
        ("leaf_batch", "index 1: is not the leaf that the signer has signed"),
    ),
    "that somebody withdrew": (
        "update matter set restricted_at = null where matter = 'everything:all'",
        ("matter", "subject {subject}, everything:all: restricted_at is not so"),
    ),
    "a checkpoint": (
        "update checkpoint set root = sha256('x') where size = 6",
        ("checkpoint", "size 6: the row does not say what its note says"),
    ),
    "who was overtaken": (
        "delete from overtaken where index = (select min(index) from overtaken)",
        ("overtaken", "index 4: is missing, or was not overtaken"),
    ),
}


@pytest.mark.parametrize("what", OLD)
async def test_a_row_that_is_altered_later_is_found_by_the_next_sweep(world: World, what: str) -> None:
    people = await lively(world)
    check = await checking(world)
    await follow(check)
    sql, (table, detail) = OLD[what]
    await world.as_superuser(sql)
    assert await check.sweep() > 0
    assert (table, detail.format(subject=people[3])) in await wrong(world)


async def test_an_old_statement_that_is_gone_is_found_unless_its_label_has_ended(world: World) -> None:
    await lively(world)
    check = await checking(world)
    await follow(check)
    await world.as_superuser("delete from payload where index = 2")
    assert await check.sweep() == 0
    await follow(check)
    assert await wrong(world) == [("payload", "index 2: is missing, and its label was not erased")]


async def test_what_counts_as_arrived_and_never_came_is_found_although_it_was_so_before_the_start(world: World) -> None:
    await say(world, given(new_subject()))
    await world.as_superuser("update progress set contiguous = contiguous + 5")
    check = await checking(world)
    await follow(check)
    assert await wrong(world) == []
    assert await check.sweep() == 1
    assert await wrong(world) == [
        ("progress", "source newsletter: number 2 counts as arrived, and nothing stands under it")
    ]


BEGINNING = {
    "update leaf_batch set leaves = set_byte(leaves, 12, get_byte(leaves, 12) # 1) where first = 1": "leaf_batch",
    "update tile set hashes = sha256('x') || substring(hashes from 33)": "tile",
    "update checkpoint set root = sha256('x') where size = (select max(size) from checkpoint)": "tile",
    "delete from leaf_batch where first = 1": "leaf_batch",
}


@pytest.mark.parametrize("sql", BEGINNING)
async def test_it_begins_with_nothing_that_does_not_lead_to_what_was_signed(world: World, sql: str) -> None:
    await lively(world)
    await world.as_superuser(sql)
    running = asyncio.create_task((await checking(world)).run())
    try:
        await until(world, f"select count(*) from incident where kind = 'wrong-row' and about = '{BEGINNING[sql]}'")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert await world.value("select followed_at is null from log_check")


async def test_a_gap_that_a_person_has_closed_is_no_wrong_row_and_one_that_nobody_has_closed_is(world: World) -> None:
    await say(world, given(new_subject()))
    check = await checking(world)
    await follow(check)
    world.sequences["newsletter", 0] += 2
    await say(world, given(new_subject()))
    await follow(check)
    await world.as_superuser(
        "update incident set closed_at = now(), closed_by = 'Ina Beispiel' where closed_at is null"
    )
    await say(world, given(new_subject()))
    await follow(check)
    assert await check.sweep() == 0
    assert await wrong(world) == []
    assert await world.value("select max(contiguous) from progress") == 5
    await world.as_superuser("update incident set closed_by = 'ledger'")
    assert await check.sweep() == 1
    assert await wrong(world) == [
        ("progress", "source newsletter: number 2 counts as arrived, and nothing stands under it")
    ]


async def test_it_runs_by_itself_woken_by_the_signer_and_outlives_what_it_does_not_expect(world: World) -> None:
    followed = "select count(*) from log_check where followed = (select max(size) from checkpoint)"
    await say(world, given(new_subject()))
    sealed = (await world.database("ledger_publish")).listen("ledger_sealed")
    check = await checking(world, sealed, again_seconds=0.05)
    running = asyncio.create_task(check.run())
    try:
        await until(world, followed)
        await say(world, given(new_subject()))
        await until(world, followed)
        await world.as_superuser("revoke select on lost_record from ledger_check")
        await say(world, given(new_subject()))
        await world.as_superuser("grant select on lost_record to ledger_check")
        await until(world, followed)
        await say(world, given(new_subject()))
        await until(world, followed)
        await world.as_superuser("update progress set contiguous = contiguous + 1")
        sealed.notify()
        await until(world, "select count(*) from incident where kind = 'wrong-row' and about = 'progress'")
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_its_role_can_neither_sign_nor_append_nor_alter(world: World) -> None:
    db = await world.database("ledger_check")
    for sql in (
        "insert into checkpoint select shard, size + 1, size, root, note from checkpoint",
        "insert into leaf_batch select shard, 100, n, leaves, root from leaf_batch",
        "update head set size = size",
        "delete from payload",
        "update progress set contiguous = 9",
        "insert into empty_number values (0, 'newsletter', 1, 1, 'repetition')",
        "update incident set closed_at = now()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.execute(sql)
