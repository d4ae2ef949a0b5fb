"""What followers read: every sealed leaf once and in order, opened again, and how fresh the log is."""

from __future__ import annotations

import json
from datetime import timedelta

from services.ledger.reader.checkpoint import verify_checkpoint
from services.ledger.reader.note import CosignatureSigner, CosignatureVerifier, Signer, parse_note
from shared.clock import rfc3339, utc_now
from shared.kafka import Consumer
from shared.topics import RECORDED
from shared.wire import mac_holds, recorded_mac
from tests.integration.ledger.world import World, given, leaf_values, new_subject, withdrawn


async def test_every_leaf_of_any_type_is_published_once_and_in_order(world: World) -> None:
    subject = new_subject()
    said = [given(subject), withdrawn(subject)]
    await world.state(*said)
    await world.run_through()
    await world.state(given(new_subject()))
    await world.run_through()
    values = leaf_values(await world.recorded())
    assert [value.index for value in values] == list(range(6))
    assert [value.leaf[0] for value in values] == [2, 1, 1, 2, 1, 2]
    assert [value.statement for value in values[:4]] == [b"", *said, b""]
    assert {value.shard for value in values} == {0}


async def test_what_is_not_sealed_is_not_published(world: World) -> None:
    await world.state(given(new_subject()))
    await world.append(await world.appender())
    await world.publish(await world.publisher())
    assert [value.index for value in leaf_values(await world.recorded())] == [0]


async def test_every_message_bears_a_mac_over_its_kind_and_value(world: World) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    topic = world.settings.topic(RECORDED)
    consumer = Consumer(world.settings.kafka, topic, [0], {0: 0})
    await consumer.start()
    try:
        messages = await consumer.fetch()
    finally:
        await consumer.stop()
    key, origin = world.secrets.publisher_key(), world.settings.origin(0)
    assert {message.headers["kind"] for message in messages} == {b"leaf", b"heartbeat"}
    for message in messages:
        kind = message.headers["kind"].decode()
        assert mac_holds(recorded_mac(key, origin, kind, message.value), message.headers["mac"])
        assert message.key is None


async def test_a_heartbeat_follows_the_leaves_it_covers_and_carries_the_marks(world: World) -> None:
    now = utc_now()
    await world.state(given(new_subject()))
    await world.send([world.alive(now), world.alive(now - timedelta(seconds=1), source="marketing")])
    await world.run_through()
    kinds = await world.recorded()
    assert [kind for kind, _ in kinds] == ["leaf", "leaf", "leaf", "heartbeat"]
    beat = json.loads(kinds[-1][1])
    origin = world.settings.origin(0)
    note = beat["checkpoint"].encode()
    checkpoint = verify_checkpoint(note, Signer(origin, world.secrets.log_key(0)).vkey)
    assert (beat["shard"], checkpoint.size) == (0, 3)
    fresh = CosignatureSigner(f"{origin}/fresh", world.secrets.fresh_key(0)).vkey
    assert abs(CosignatureVerifier(fresh).verify(parse_note(note)) - now.timestamp()) < 10
    assert beat["marks"] == {"newsletter": rfc3339(now), "marketing": rfc3339(now - timedelta(seconds=1))}


async def test_a_heartbeat_is_sent_every_second_when_idle_and_not_more_often(world: World) -> None:
    publisher = await world.publisher()
    publisher._steady = lambda: 1.0
    await world.publish(publisher)
    assert [kind for kind, _ in await world.recorded()] == ["leaf", "heartbeat"]
    publisher._steady = lambda: 2.0
    await publisher.step()
    await publisher.step()
    assert [kind for kind, _ in await world.recorded()] == ["leaf", "heartbeat", "heartbeat"]


async def test_an_erased_statement_is_published_as_its_leaf_alone(world: World) -> None:
    first, second = given(new_subject()), given(new_subject())
    await world.state(first, second)
    await world.append(await world.appender())
    await world.seal(await world.sealer())
    await world.rows("delete from subject_key where subject = (select subject from payload where index = 1)")
    await world.publish(await world.publisher())
    assert [value.statement for value in leaf_values(await world.recorded())] == [b"", b"", second, b""]


async def test_a_publisher_that_died_before_its_cursor_moved_sends_the_same_again(world: World) -> None:
    await world.state(given(new_subject()))
    await world.run_through()
    once = leaf_values(await world.recorded())
    await world.rows("update cursor set next = 1")
    await world.publish(await world.publisher())
    assert leaf_values(await world.recorded()) == [*once, *once[1:]]
