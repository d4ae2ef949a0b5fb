"""Every call at every edge fails once, and once takes effect and then fails; nothing is lost, nothing is doubled.

A scenario is run once to count its calls. Then, on the same growing log, it is run again for each of them with that
call spoilt, and goes on either as a new process that reads everything anew, or as the same one that carries on. After
each the reader judges what is stored.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from services.ledger.append import Stale
from shared.clock import utc_now
from shared.errors import Unavailable
from shared.kafka import Consumer
from shared.topics import STATED
from tests.faults.ledger.edges import Kind, Plan, SpoiltConsumer, SpoiltDatabase, SpoiltProducer
from tests.integration.ledger.world import World, given, leaf_values, new_subject, requested, withdrawn

pytestmark = pytest.mark.timeout(300)


class Scenario:
    """One wave of everything a source can say, appended in several batches, sealed and published."""

    def __init__(self, world: World, *, new_process: bool) -> None:
        self.world = world
        self.new_process = new_process
        self.said: list[bytes] = []
        self.poison = 0

    async def play(self, plan: Plan) -> None:
        await self._state()
        await self._append(plan)
        await self._seal(plan)
        await self._publish(plan)

    async def judge(self) -> None:
        judged = await self.world.judge()
        assert judged.statements == self.said
        assert judged.sealed == judged.size
        assert await self.world.value("select next from cursor") == judged.size
        assert await self.world.value("select max(contiguous) from progress") == len(self.said) + self.poison
        # The poison came before its turn, so each wave opens a gap and closes it.
        assert await self.world.rows("select * from incident where closed_at is null") == []
        rejected = await self.world.rows("select times from rejected")
        assert [row["times"] for row in rejected] == [1] * self.poison

    async def _state(self) -> None:
        world, subject, now = self.world, new_subject(), utc_now()
        said = [requested(subject), given(subject), withdrawn(subject), given(subject, now - timedelta(1))]
        said += [given(new_subject()), given(new_subject())]
        messages = [world.message(raw) for raw in said]
        poison = world.message(b"{}")
        # Repetitions within a batch, across two, and of the batch in flight.
        await world.send([*messages[:4], messages[0], poison, messages[4], messages[2], messages[5], world.alive(now)])
        self.said += said
        self.poison += 1

    async def _append(self, plan: Plan) -> None:
        world, topic = self.world, self.world.settings.topic(STATED)
        db: Any = SpoiltDatabase(await world.database("ledger_append"), plan)

        async def process() -> Any:
            def consumer() -> SpoiltConsumer:
                return SpoiltConsumer(Consumer(world.settings.kafka, topic, [0]), plan)

            return await world.appender(db=db, consumer=consumer, max_batch=4)

        appender = await process()
        while await world.next_offset() < world.offsets[0]:
            try:
                # Without waiting for the answer in between, so that a batch is prepared while another is in flight.
                await appender.step(timeout_ms=300)
            except (Unavailable, Stale):
                await appender.drop()
                appender = await process() if self.new_process else appender
        await appender.drop()

    async def _seal(self, plan: Plan) -> None:
        world = self.world
        db: Any = SpoiltDatabase(await world.database("ledger_seal"), plan)
        sealer, is_open = await world.sealer(db=db), False
        while True:
            try:
                if not is_open:
                    await sealer.open()
                    is_open = True
                if not await sealer.step():
                    await sealer.renew()
                    break
            except Unavailable:
                if self.new_process:
                    sealer.close()
                    sealer, is_open = await world.sealer(db=db), False
                else:
                    # What Sealer.run does: whether it got as far as holding its files decides where it goes on.
                    is_open = sealer.is_open
        sealer.close()

    async def _publish(self, plan: Plan) -> None:
        world = self.world
        db: Any = SpoiltDatabase(await world.database("ledger_publish"), plan)
        producer = SpoiltProducer(world.producer, plan)
        publisher = await world.publisher(db=db, producer=producer)
        while True:
            try:
                if not await publisher.step():
                    break
            except Unavailable:
                if self.new_process:
                    publisher = await world.publisher(db=db, producer=producer)


@pytest.mark.parametrize("new_process", [True, False], ids=["then a new process", "then the same process"])
@pytest.mark.parametrize("kind", ["failed", "took effect, then failed"])
async def test_whichever_call_is_spoilt_nothing_is_lost_and_nothing_is_doubled(
    world: World, kind: Kind, *, new_process: bool
) -> None:
    scenario = Scenario(world, new_process=new_process)
    counting = Plan()
    await scenario.play(counting)
    await scenario.judge()
    edges = {"Consumer.fetch", "Producer.send_many"}
    assert edges < set(counting.calls)
    for number in range(1, len(counting.calls) + 1):
        plan = Plan(number, kind)
        try:
            await scenario.play(plan)
            await scenario.judge()
        except BaseException as error:
            error.add_note(plan.spoiled)
            raise
        assert plan.spoiled != "no call"
    # What was sent twice was sent alike, and no index is missing.
    values = leaf_values(await world.recorded())
    by_index = {value.index: value for value in values}
    assert list(by_index) == list(range(await world.value("select size from head")))
    assert all(by_index[value.index] == value for value in values)
