"""Who can write to Kafka: statements in another's name, statements taken away, facts that no ledger published."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import pytest

from shared.client import ServiceClient
from shared.clock import rfc3339, utc_now
from shared.database import Database, Transaction
from shared.follower import Follower, Recorded
from shared.kafka import Consumer, Message, Outgoing
from shared.metrics import Metrics
from shared.topics import RECORDED, ensure_topics
from shared.wire import RecordedValue, heartbeat_value, recorded_headers, recorded_mac
from tests.attacks.declared import Attack, Check, Needs, Notices, tries
from tests.attacks.liar import Liar
from tests.attacks.site import ANNA, CARLA, CROWD, Site
from tests.integration.ledger.world import completed, given, new_id, new_subject, ordered, withdrawn
from tests.parts import KafkaPart

ON_KAFKA = (Needs.KAFKA,)


@pytest.fixture
async def connected(site: Site, kafka: KafkaPart, topic_prefix: str) -> Site:
    """Return the log with a Kafka in front and behind, whose topics begin here."""
    await ensure_topics(kafka.bootstrap, topic_prefix, 1, replication=1)
    await site.world.as_superuser("update head set next_offset = 0")
    made = site.with_kafka(kafka.bootstrap, topic_prefix)
    made.world.offsets = {}
    return made


async def said_of(site: Site) -> list[str]:
    """What the ledger says a person should look at: what it has rejected, and what is open."""
    rejected = await site.world.rows("select reason, coalesce(source, 'nobody proven') as source from rejected")
    incidents = await site.world.rows("select kind, about, detail from incident where closed_at is null")
    return [f"rejected: {row['reason']}, stated by {row['source']}" for row in rejected] + [
        f"incident {row['kind']}, {row['about']}: {row['detail']}" for row in incidents
    ]


async def consume(site: Site, notices: Notices, *messages: Outgoing) -> None:
    """Let the appender consume these; somebody must be told of it."""
    await site.world.send(messages)
    began = perf_counter()
    await site.world.append(await site.world.appender())
    found = await said_of(site)
    seconds = perf_counter() - began
    assert found, "nobody is told"
    words = notices.attack.noticed[Check.APPENDER]
    notices.by(Check.APPENDER, next((one for one in found if words in one), found[0]), seconds)


def without_a_key(site: Site) -> Outgoing:
    return site.world.message(given(ANNA), headers={"mac-key": b"stranger.1", "mac": b"0" * 64})


def with_a_mac_made_up(site: Site) -> Outgoing:
    return site.world.message(given(ANNA), headers={"mac": os.urandom(32).hex().encode()})


def with_the_key_of_marketing(site: Site) -> Outgoing:
    return site.world.message(given(ANNA), source="marketing")


def in_its_own_name(site: Site) -> Outgoing:
    raw = given(ANNA).replace(b'"source":"newsletter"', b'"source":"marketing"')
    return site.world.message(raw, source="marketing")


def for_another_log(site: Site) -> Outgoing:
    return site.world.message(given(ANNA), origin="other.example.org/ledger/log/0")


def with_a_number_that_was_used(site: Site) -> Outgoing:
    return site.world.message(given(ANNA), sequence=2)


def under_a_name_that_was_used(site: Site) -> Outgoing:
    raw = site.said["Anna withdraws"]
    return site.world.message(raw.replace(b"one-click", b"link-page"), sequence=0)


def without_a_number(site: Site) -> Outgoing:
    return site.world.message(given(ANNA), sequence=0)


STRANGERS: dict[str, tuple[Callable[[Site], Outgoing], Sequence[Needs], str]] = {
    "with no key": (without_a_key, ON_KAFKA, "rejected: unknown-key, stated by nobody proven"),
    "with a MAC made up": (with_a_mac_made_up, ON_KAFKA, "rejected: mac-does-not-hold, stated by nobody proven"),
    "with the key of another source": (
        with_the_key_of_marketing,
        (Needs.KAFKA, Needs.SOURCE_KEY),
        "rejected: source-is-not-the-key's, stated by marketing",
    ),
    "a consent, in its own": (
        in_its_own_name,
        (Needs.KAFKA, Needs.SOURCE_KEY),
        "rejected: source-may-not-state-this, stated by marketing",
    ),
    "with a message recorded for another log": (
        for_another_log,
        ON_KAFKA,
        "rejected: mac-does-not-hold, stated by nobody proven",
    ),
    "with its own key, under a number that was used": (
        with_a_number_that_was_used,
        (Needs.KAFKA, Needs.SOURCE_KEY),
        "incident sequence-reused, newsletter/2: a sequence number that has arrived came with another statement",
    ),
    "with its own key, and the number 0 that leaves no gap": (
        without_a_number,
        (Needs.KAFKA, Needs.SOURCE_KEY),
        "came without a number, as nothing else of this source does",
    ),
    "with its own key, under an id that was used": (
        under_a_name_that_was_used,
        (Needs.KAFKA, Needs.SOURCE_KEY),
        "the same id with other bytes",
    ),
}


@tries(
    *(
        Attack("speak in another source's name", tried, needs, {Check.APPENDER: words})
        for tried, (_, needs, words) in STRANGERS.items()
    )
)
async def test_a_word_in_another_name_is_not_recorded_unseen(connected: Site, attack: Attack, notices: Notices) -> None:
    make, _, _ = STRANGERS[attack.tried]
    await consume(connected, notices, make(connected))


@tries(
    Attack(
        "erase, or keep from being erased",
        "order and complete Anna's erasure in the name of who orders them, without a hold",
        (Needs.KAFKA, Needs.SOURCE_KEY),
        {Check.APPENDER: "incident uncounted-statement, erasure: "},
        blind="the ledger, to which it is the source's word: her labels end within a day, and then her statements go; "
        "until then a person who looks can stop the appender. No other holder erases anything, since none is asked to, "
        "and what is in her hands verifies as before",
    )
)
async def test_an_erasure_that_a_thief_orders_is_an_incident(connected: Site, notices: Notices) -> None:
    world, somebody = connected.world, new_id()
    await world.send([world.message(ordered(CROWD[0], somebody), source="erasure")])
    request = new_id()
    said = (ordered(ANNA, request), completed(ANNA, request))
    await consume(connected, notices, *(world.message(one, source="erasure", sequence=0) for one in said))


@tries(
    Attack(
        "drop a withdrawal",
        "out of Kafka, before the ledger has read it",
        ON_KAFKA,
        {Check.APPENDER: "incident sequence-gap, newsletter: waiting for"},
        blind="anybody, until the source says its next word, or its relay sends it again, as it does with what is not "
        "sealed",
    )
)
async def test_a_statement_taken_out_of_the_topic_leaves_a_gap(connected: Site, notices: Notices) -> None:
    dropped = connected.world.message(withdrawn(CARLA))
    assert dropped.value
    await consume(connected, notices, connected.world.message(given(new_subject())))


async def nothing(_tx: Transaction, _records: Sequence[Recorded]) -> None:
    """Fold nothing."""


@dataclass(frozen=True)
class Heard:
    """What a follower takes for the ledger's word of what is on the topic."""

    records: list[Recorded]
    doubted: float
    """how many messages it doubts"""
    heartbeat: bool
    says: str
    """of itself, when it is asked whether it is ready"""


async def read(site: Site) -> Heard:
    database = await Database.connect(site.world.settings.dsn("marketing"), "marketing", max_size=1)
    ledger = ServiceClient("http://127.0.0.1:9", "marketing:none", "ledger")
    metrics = Metrics("marketing")
    consumer = Consumer(site.world.settings.kafka, site.world.settings.topic(RECORDED), [0], {0: 0})
    follower = Follower(
        "marketing",
        database,
        lambda _shards, _positions: consumer,
        ledger,
        site.world.secrets.publisher_key(),
        {0: site.origin},
        [0],
        nothing,
        metrics=metrics,
    )
    try:
        await consumer.start()
        messages: list[Message] = []
        end = (await consumer.end_offsets())[0]
        while len(messages) < end:
            messages += await consumer.fetch()
        records, heartbeat = follower._read(0, messages)
        doubted = sum(follower._doubtful.labels(kind)._value.get() for kind in ("leaf", "heartbeat", "other"))
        return Heard(records, doubted, heartbeat is not None, str(follower.ready()["follower"]))
    finally:
        await consumer.stop()
        await ledger.close()
        await database.close()


async def forged_leaf(site: Site) -> bytes:
    """A consent that nobody gave, as the value of a record at the log's end."""
    liar = await Liar.of(site)
    raw = given(ANNA)
    liar.say(raw)
    return RecordedValue(0, 311, liar.leaves[311], raw).encode()


@tries(
    Attack(
        "fill `consent.recorded` by hand",
        "with a consent that nobody gave, and a heartbeat that covers it",
        ON_KAFKA,
        {Check.FOLLOWER: "2 doubtful messages, nothing folded"},
    )
)
async def test_what_the_publisher_did_not_say_is_not_folded(connected: Site, notices: Notices) -> None:
    world = connected.world
    checkpoint = (await connected.checkpoint()).decode()
    values = {
        "leaf": await forged_leaf(connected),
        "heartbeat": heartbeat_value(0, checkpoint, {"newsletter": rfc3339(utc_now())}),
    }
    topic = world.settings.topic(RECORDED)
    await world.producer.send_many(
        [
            Outgoing(
                topic,
                0,
                None,
                value,
                recorded_headers(kind, recorded_mac(os.urandom(32), connected.origin, kind, value)),
            )
            for kind, value in values.items()
        ]
    )
    began = perf_counter()
    heard = await read(connected)
    seconds = perf_counter() - began
    assert not heard.records
    assert not heard.heartbeat
    notices.by(Check.FOLLOWER, f"{heard.doubted:.0f} doubtful messages, nothing folded", seconds)


@tries(
    Attack(
        "fill `consent.recorded` by hand",
        "with the publisher's own key, a consent that nobody gave",
        (Needs.KAFKA, Needs.PUBLISHER_KEY),
        {Check.FOLLOWER: "two different records came for one index: rebuild from the log"},
        blind="anybody, until the ledger's own next record comes: till then it is believed, a permit may rest on it. "
        "A mail that leaves so names a consent that no log holds. The audience, which gives no permit, does not look",
    )
)
async def test_a_record_that_the_publisher_did_not_make_contradicts_the_one_it_makes(
    connected: Site, notices: Notices
) -> None:
    world = connected.world
    value = await forged_leaf(connected)
    mac = recorded_mac(world.secrets.publisher_key(), connected.origin, "leaf", value)
    topic = world.settings.topic(RECORDED)
    await world.producer.send_many([Outgoing(topic, 0, None, value, recorded_headers("leaf", mac))])
    believed = await read(connected)
    assert [one.index for one in believed.records] == [311]
    assert believed.says == "starting"
    await world.send([world.message(withdrawn(CARLA))])
    await world.run_through()
    began = perf_counter()
    heard = await read(connected)
    notices.by(Check.FOLLOWER, heard.says, perf_counter() - began)
