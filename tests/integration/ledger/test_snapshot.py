"""A map snapshot begins a replay where it stands if it proves itself, and is as if it were not there if it does not."""

from __future__ import annotations

import pytest

from services.ledger import snapshot, store
from services.ledger.log.state_map import RECORD_SIZE
from shared.database import Database
from tests.integration.ledger.world import World, given, new_subject, withdrawn


async def said(world: World, count: int = 12) -> int:
    """Some batches; answers the log's size."""
    for _ in range(3):
        subjects = [new_subject() for _ in range(count)]
        await world.state(*[given(one) for one in subjects], *[withdrawn(one) for one in subjects[:4]])
        await world.append(await world.appender())
    return int(await world.value("select size from head"))


async def kept(world: World, at: int) -> Database:
    """Write a snapshot of an earlier size, as the appender's role."""
    db = await world.database("ledger_append")
    state_map, _ = await snapshot.state_map_at(db, 0, at)
    await snapshot.write(db, 0, at, state_map.records())
    return db


async def test_a_map_begun_with_a_snapshot_is_the_map_of_the_log(world: World) -> None:
    size = await said(world)
    whole, begun = await snapshot.state_map_at(await world.database("ledger"), 0, size)
    assert begun == 0
    ends = [row["first"] + row["n"] for row in await world.rows("select first, n from leaf_batch order by first")]
    for at in (ends[1], size):
        db = await kept(world, at)
        found, begun = await snapshot.state_map_at(db, 0, size)
        assert (begun, found.root(), len(found)) == (at, whole.root(), len(whole))
        assert list(found.records()) == list(whole.records())
        assert await store.snapshots(db, 0, size) == [at]
    # One of a size that is ahead of what is asked for is not looked at.
    assert (await snapshot.state_map_at(db, 0, ends[1]))[1] == 0


UNTRUE = {
    "a record altered": "update map_snapshot set records = set_byte(records, 70, get_byte(records, 70) # 1)",
    "a label too few": f"update map_snapshot set records = substring(records from {RECORD_SIZE + 1})",
    "parts missing": "delete from map_snapshot where part = 1",
    "of another size": "update map_snapshot set size = size - 1",
    "records in another order": (
        f"update map_snapshot set records = substring(records from {RECORD_SIZE + 1})"
        f" || substring(records for {RECORD_SIZE})"
    ),
}


@pytest.mark.parametrize("what", UNTRUE)
async def test_a_snapshot_that_does_not_prove_itself_is_left_aside(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_RECORDS_IN_A_PART", 10)
    size = await said(world)
    db = await kept(world, size)
    await world.as_superuser(UNTRUE[what])
    found, begun = await snapshot.state_map_at(db, 0, size)
    assert begun == 0
    assert found.root() == await world.value("select map_root from head")


async def test_the_appender_keeps_the_map_when_it_is_due_and_begins_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "AT_LEAST", 20)
    appender = await world.appender()
    appender._house_seconds = 0.0
    for _ in range(3):
        await world.state(*[given(new_subject()) for _ in range(15)])
        await world.append(appender)
    await appender.step(timeout_ms=0)
    assert appender._owned is not None
    assert appender._owned.snapshot is not None
    await appender._owned.snapshot
    [at] = await store.snapshots(await world.database("ledger"), 0, 10**6)
    assert at > 20
    again = await world.appender()
    await again.step(timeout_ms=0)
    assert again._owned is not None
    assert again._owned.head.snapshot_at == at
    assert (await world.judge()).size == again._owned.head.size


def test_snapshots_become_rarer_as_labels_become_more() -> None:
    assert not snapshot.is_due(99_999, 0, 10)
    assert snapshot.is_due(100_000, 0, 10)
    assert not snapshot.is_due(1_400_000, 1_000_000, 1_000_000)
    assert snapshot.is_due(1_500_000, 1_000_000, 1_000_000)
