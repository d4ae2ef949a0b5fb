"""Both topics, as somebody sees them who can write to Kafka and holds no key; and a source that says nonsense.

What cannot be recorded is a row with its reason, what is not the publisher's word is left out by every follower, and
whoever comes next is served as ever.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from infra.local.browser import Browser
from infra.local.screen import until
from services.ledger.procedures import rejects
from shared import wire
from shared.clock import rfc3339, utc_now
from shared.topics import RECORDED, STATED
from tests.journeys.people import granted, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.journeys.people import World

Sent = tuple[bytes | None, list[tuple[str, bytes]]]
MAC: Final = b"0" * 64
LEFT_OUT: Final = 19
"""Of what is sent below, all but the two that were true once."""


def send(world: World, topic: str, messages: Sequence[Sent]) -> None:
    """Put messages on the first partition, as they are."""
    settings = world.installation.settings()

    async def produce() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=settings.kafka)
        await producer.start()
        try:
            for value, headers in messages:
                await producer.send_and_wait(settings.topic(topic), value, b"x", partition=0, headers=headers)
        finally:
            await producer.stop()

    asyncio.run(produce())


def heard(world: World, topic: str, kind: bytes) -> Sent:
    """An authentic message that went over a topic."""
    settings = world.installation.settings()

    async def consume() -> Sent:
        consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka, auto_offset_reset="earliest")
        await consumer.start()
        try:
            partition = TopicPartition(settings.topic(topic), 0)
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            async for message in consumer:
                if dict(message.headers).get("kind") == kind:
                    return message.value, list(message.headers)
        finally:
            await consumer.stop()
        raise AssertionError

    return asyncio.run(asyncio.wait_for(consume(), 30))


def unhandled(world: World) -> list[dict[str, Any]]:
    return list(world.call("GET", "/ledger/rejected")["rejected"])


@pytest.fixture
def handled(world: World) -> Iterator[None]:
    """Deal with every reject afterwards, as an operator would: the ledger is not ready while one waits."""
    yield
    for row in unhandled(world):
        asyncio.run(rejects.handle(world.installation.settings(), row["number"], "a test", "it was one"))


def still_works(world: World) -> None:
    """Somebody new comes, is recorded, may be written to, and leaves."""
    person = world.person()
    _, welcome = person.subscribe()
    assert stopped(person.one_click(welcome.way_out))
    until("the audience's count", lambda: audience(world)["behind"] == "0")


def audience(world: World) -> dict[str, Any]:
    [shard] = world.call("GET", "/marketing/audience")["shards"]
    return dict(shard)


def doubted(world: World, service: str) -> int:
    """How many messages a follower has left out, as its metrics say."""
    credential = f"Bearer {world.installation.secrets.credential('operator')}"
    metrics = Browser("en").get(f"{world.base}/{service}/metrics", Authorization=credential).text
    found = re.findall(rf"^{service}_follower_doubtful_total\{{[^}}]*\}} ([0-9.]+)$", metrics, re.MULTILINE)
    return int(sum(float(one) for one in found))


@pytest.mark.usefixtures("handled")
def test_what_an_outsider_states_is_a_row_with_its_reason_and_stops_nobody(world: World) -> None:
    world.person().sign_up()
    raw, headers = heard(world, STATED, b"statement")
    assert raw is not None
    given = dict(headers)

    def changed(**values: bytes | None) -> list[tuple[str, bytes]]:
        return [(name, value) for name, value in {**given, **values}.items() if value is not None]

    said: list[tuple[str, Sent]] = [
        ("unknown-kind", (None, [])),
        ("unknown-kind", (b"", [])),
        ("unknown-kind", (raw, [])),
        ("unknown-kind", (raw, changed(kind=b"rumour"))),
        ("unknown-kind", (raw + b" ", changed(kind=b"\xff\x00"))),
        ("mac-does-not-hold", (None, headers)),
        ("mac-does-not-hold", (b"", headers)),
        ("mac-does-not-hold", (raw[:-1] + b" }", headers)),
        ("mac-does-not-hold", (b"\xff" * 900_000, headers)),
        ("mac-does-not-hold", (raw + b"  ", changed(mac=None))),
        ("mac-does-not-hold", (raw + b"   ", changed(mac=MAC.upper()))),
        ("mac-does-not-hold", (raw + b"    ", changed(mac=given["mac"] + b"\n"))),
        ("unknown-key", (raw + b"\n", changed(**{"mac-key": None}))),
        ("unknown-key", (raw + b"\n\n", changed(**{"mac-key": b"newsletter.9"}))),
        ("unknown-key", (raw + b"\n\n\n", changed(**{"mac-key": b"\xff"}))),
        ("no-sequence", (raw + b"\t", changed(sequence=None))),
        ("no-sequence", (raw + b"\t\t", changed(sequence=b"-1"))),
        ("no-sequence", (raw + b"\t\t\t", changed(sequence=b"9" * 5000))),
        ("unknown-key", (b"{}", [("kind", b"alive")])),
        ("mac-does-not-hold", (b"{}", changed(kind=b"alive"))),
    ]
    played = "select coalesce(sum(times), 0) from ledger.rejected"
    before = int(world.sql(played))
    send(world, STATED, [message for _, message in said])
    until("all of them", lambda: int(world.sql(played)) - before >= len(said), 30)
    counted: Counter[str] = Counter()
    for row in unhandled(world):
        if row["reason"] == "nobody-to-erase":  # what other tests said through a door of their own
            continue
        assert (row["source"], row["sequence"]) == (None, None)
        counted[row["reason"]] += row["times"]
    assert counted == Counter(reason for reason, _ in said)
    assert world.sql("select count(*) from ledger.incident where closed_at is null") == "0"
    still_works(world)


@pytest.mark.usefixtures("handled")
def test_what_a_source_may_not_say_is_a_row_with_its_reason_and_a_repetition_is_none(world: World) -> None:
    person = world.person()
    confirmation = person.sign_up()
    subject = person.subject(confirmation)
    person.quiet(subject)
    raw, headers = heard(world, STATED, b"statement")
    assert raw is not None
    secrets, origin = world.installation.secrets, world.installation.settings().origin(0)
    statement = json.loads(raw)

    def stated(value: bytes, source: str = "newsletter") -> Sent:
        key_id, key = secrets.own_source_key(source)
        return value, wire.stated_headers("statement", 0, key_id, wire.stated_mac(key, origin, 0, value))

    def saying(**changes: Any) -> bytes:
        return json.dumps({**statement, **changes}, separators=(",", ":")).encode()

    later = rfc3339(utc_now() + timedelta(minutes=5))
    unknown = {**statement["data"], "register_version": "a" * 64}
    said: list[tuple[str, Sent]] = [
        ("empty", stated(b"")),
        ("not-an-object", stated(b"\xff\xfe")),
        ("not-json", stated(b"{nonsense}")),
        ("duplicate-key", stated(raw[:-1] + b',"id":"x"}')),
        ("too-large", stated(b"{" + b" " * 32_768 + b"}")),
        ("unknown-type", stated(saying(dataschema="consent-ledger/ConsentGiven/99"))),
        ("unknown-type", stated(saying(type="ConsentGuessed", dataschema="consent-ledger/ConsentGuessed/1"))),
        ("time-in-the-future", stated(saying(time=later))),
        ("unknown-register", stated(saying(data=unknown))),
        ("source-is-not-the-key's", stated(saying(), "marketing")),
        ("wrong-shard", stated(saying(subject="7" + subject[1:]))),
    ]
    size = world.call("GET", "/ledger/records?shard=0&from=0&limit=1")["size"]
    send(world, STATED, [message for _, message in said] + [(raw, headers), stated(raw)])
    until("all of them", lambda: len(unhandled(world)) >= len(said), 30)
    assert Counter(row["reason"] for row in unhandled(world)) == Counter(reason for reason, _ in said)
    assert world.call("GET", "/ledger/records?shard=0&from=0&limit=1")["size"] == size
    still_works(world)


def test_what_is_not_the_publisher_s_word_is_followed_by_nobody(world: World) -> None:
    person = world.person()
    confirmation, welcome = person.subscribe()
    leaf, leaf_headers = heard(world, RECORDED, b"leaf")
    beat, beat_headers = heard(world, RECORDED, b"heartbeat")
    assert leaf is not None
    assert beat is not None
    before = {service: doubted(world, service) for service in ("marketing", "subjects")}
    key = world.installation.secrets.publisher_key()
    origin = world.installation.settings().origin(0)

    def signed(kind: str, value: bytes, of: str = origin) -> Sent:
        return value, wire.recorded_headers(kind, wire.recorded_mac(key, of, kind, value))

    send(
        world,
        RECORDED,
        [
            (None, []),
            (b"", []),
            (None, leaf_headers),
            (b"", beat_headers),
            (leaf, []),
            (leaf, [("kind", b"leaf"), ("mac", MAC)]),
            (leaf, [*leaf_headers[:1], ("mac", b"\xff" * 64)]),
            (leaf, [("kind", b"rumour"), *leaf_headers[1:]]),
            (beat, [("kind", b"leaf"), *beat_headers[1:]]),
            (beat[:-1] + b" }", beat_headers),
            (b"\x00" * 900_000, leaf_headers),
            # The publisher's own key, of another log; and no record at all.
            signed("leaf", leaf, "elsewhere/ledger/log/0"),
            signed("heartbeat", beat, origin.replace("/0", "/1")),
            signed("leaf", b""),
            signed("leaf", leaf[:10]),
            signed("leaf", leaf + b"{}"),
            signed("heartbeat", b"null"),
            signed("heartbeat", b'{"shard":0}'),
            signed("rumour", leaf),
            # True once, and long past.
            (leaf, leaf_headers),
            (beat, beat_headers),
        ],
    )
    granted(world, person.subject(confirmation))
    assert stopped(person.one_click(welcome.way_out))
    still_works(world)
    for service in ("marketing", "subjects"):
        assert doubted(world, service) - before[service] >= LEFT_OUT
