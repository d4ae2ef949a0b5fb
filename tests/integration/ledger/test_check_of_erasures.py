"""Erasures behind the signer: whoever was not ordered to go is missed, and nobody cries wolf while people go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from services.ledger.integrity.finding import Finding
from services.ledger.procedures.log_check import check_log
from services.ledger.procedures.tail import drop_tail
from shared.clock import utc_now
from shared.errors import Corrupt
from tests.integration.ledger.test_ending import destroyer, end_labels, erase, say
from tests.integration.ledger.test_running_check import checking, findings, follow, trusted_of, wrong
from tests.integration.ledger.world import World, completed, given, held, new_id, new_subject, ordered, withdrawn

LATER = timedelta(days=30)


async def sealed(world: World) -> None:
    appender = await world.appender(erasure_spread=0.0)
    await world.append(appender)
    await appender.drop()
    await world.seal(await world.sealer())


async def gone_to_be(world: World, subject: str, days: int = 30) -> None:
    """An order, a hold, and the completion; not due yet."""
    request, until = new_id(), utc_now() + timedelta(days=days)
    said = [ordered(subject, request, until), held(subject, request, until + LATER), completed(subject, request)]
    await say(world, *said, source="erasure")


WRONG = {
    "nobody asked": (
        "insert into erasure (subject, shard, hold_until, completed) values ('{subject}', 0, now(), 1)",
        "erasure",
        "is noted as completed at index 1, and nothing that is recorded says so",
    ),
    "forgotten": (
        "delete from erasure where subject = '{subject}'",
        "erasure",
        "is missing, and index {first} is about its erasure",
    ),
    "never completed": (
        "update erasure set completed = null where subject = '{subject}'",
        "erasure",
        "is not noted as completed, and index {last} says that it is",
    ),
    "too soon": (
        "update erasure set hold_until = now() where subject = '{subject}'",
        "erasure",
        "is held for a shorter time than index {held} says",
    ),
    "too late": (
        "update erasure set hold_until = '2099-01-01' where subject = '{subject}'",
        "erasure",
        "is held for longer than anything recorded says",
    ),
    "brought back": (
        "insert into subject_key select * from kept_key where subject = '{subject}'",
        "erasure",
        "is destroyed, and there is a key or a matter of it",
    ),
    "ended unasked": (
        "update erasure set ending_at = null where subject = '{subject}'",
        "matter",
        "has ended, and nobody has ordered that",
    ),
}


async def test_a_sweep_names_each_wrong_row_about_an_erasure_and_no_other(world: World) -> None:
    people = {what: new_subject() for what in WRONG}
    await say(world, *[given(one) for one in (*people.values(), new_subject())])
    await sealed(world)
    for what in ("forgotten", "never completed", "too soon", "too late"):
        await gone_to_be(world, people[what])
    await gone_to_be(world, new_subject())
    await world.rows("create table kept_key as select * from subject_key")
    await erase(world, people["brought back"])
    request = new_id()
    said = [ordered(people["ended unasked"], request), completed(people["ended unasked"], request)]
    await say(world, *said, source="erasure")
    await sealed(world)
    await end_labels(world)
    assert await findings(world) == []

    indexes: dict[str, list[int]] = {}
    for row in await world.rows("select subject, index from payload where index > 0 order by index"):
        indexes.setdefault(row["subject"], []).append(row["index"])
    expected: list[tuple[str, str, str]] = []
    for what, (sql, table, detail) in WRONG.items():
        subject = people[what]
        await world.as_superuser(sql.format(subject=subject))
        _, first, until, last = (indexes.get(subject, []) + [0] * 4)[:4]
        expected.append((table, subject, detail.format(first=first, held=until, last=last)))
    found = {one for one in await findings(world) if one.table in {"erasure", "matter"}}
    assert {(one.table, one.where.split(",")[0].removeprefix("subject "), one.what) for one in found} == set(expected)
    db = await world.database("ledger")
    by_log_check = {one async for one in check_log(db, trusted_of(world)) if isinstance(one, Finding)}
    assert {one for one in by_log_check if one.table in {"erasure", "matter"}} == found


class Life:
    """People come, withdraw, go and are destroyed; the shard changes its owner, and loses a tail."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = random.Random(seed)
        self._living = [new_subject() for _ in range(4)]

    async def step(self, number: int) -> None:
        """Each of them comes, and what follows on another is by chance."""
        acts: tuple[Callable[[], Awaitable[None]], ...] = (
            self.talk, self.order, self.hold, self.end, self.destroy, self.lose_the_tail, self.wrap_anew,
        )  # fmt: skip
        await self.talk()
        await (acts[number] if number < len(acts) else self._random.choice(acts))()

    async def talk(self) -> None:
        some, late = self._random.sample(self._living, 2)
        said = [given(some), withdrawn(some, purpose=None), given(late, utc_now() - timedelta(days=1)), given(late)]
        await say(self._world, *self._random.sample(said, self._random.randrange(1, 5)))
        if self._random.random() < 0.7:
            await sealed(self._world)

    async def order(self) -> None:
        """To go as soon as it is sealed."""
        subject, request = self._gone(), new_id()
        await say(self._world, ordered(subject, request), source="erasure")
        if self._random.random() < 0.5:
            await sealed(self._world)
        await say(self._world, completed(subject, request), source="erasure")

    async def hold(self) -> None:
        await gone_to_be(self._world, self._gone())

    async def end(self) -> None:
        await end_labels(self._world)

    async def destroy(self) -> None:
        await end_labels(self._world)
        await (await destroyer(self._world)).step()

    async def lose_the_tail(self) -> None:
        await sealed(self._world)
        subject, request = self._gone(), new_id()
        tail = [ordered(subject, request), completed(subject, request)]
        # What is rejected before it comes again with it.
        for source, raw in (("newsletter", b"{}"), ("erasure", tail[0]), ("erasure", tail[1])):
            await say(self._world, raw, source=source)
            appender = await self._world.appender(erasure_spread=0.0)
            await self._world.append(appender)
            await appender.drop()
        kept = await self._world.value("select max(size) from checkpoint")
        await self._world.as_superuser(
            f"update leaf_batch set leaves = set_byte(leaves, 40, get_byte(leaves, 40) # 1) where first = {kept}"
        )
        with pytest.raises(Corrupt):
            await self._world.seal(await self._world.sealer())
        await drop_tail(self._world.settings, 0, "Ina Beispiel", "a bit was flipped", kept)
        assert await findings(self._world) == []

    async def wrap_anew(self) -> None:
        await (await destroyer(self._world)).rewrap()

    def _gone(self) -> str:
        gone = self._living.pop(self._random.randrange(len(self._living)))
        self._living.append(new_subject())
        return gone


async def test_nobody_cries_wolf_while_people_go_and_a_tail_is_taken_out(world: World) -> None:
    check, life = await checking(world, again_seconds=0.5), Life(world, 7)
    await follow(check)
    swept, over = asyncio.Event(), False

    async def going_on(work: Callable[[], Awaitable[object]]) -> None:
        while not over:
            await work()
            if work == check.sweep:
                swept.set()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for work in (check.follow, check.sweep):
            group.create_task(going_on(work))
        for number in range(16):
            await life.step(number)
            swept.clear()
            await swept.wait()
        over = True
    await sealed(world)
    await follow(check)
    assert await check.sweep() == 0
    assert await wrong(world) == []
    assert await world.value("select count(*) from erasure where destroyed_at is not null") > 0
    assert await world.value("select count(*) from dropped_tail") > 0
    assert await findings(world) == []
