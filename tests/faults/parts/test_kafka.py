"""Kafka is down, slow, restarted, out of reach of one process, or has lost everything."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from infra.local.screen import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.breakable import Breakable
    from tests.faults.parts.day import Day
    from tests.faults.running.crowd import Crowd

pytestmark = pytest.mark.timeout(400)


def test_kafka_killed_while_people_come_and_go(
    installation: Breakable, crowd: Crowd, day: Callable[[str], Day]
) -> None:
    with day("Kafka down") as it:
        [leaving] = it.subscribers(1)
        it.breaks(installation.kafka.kill)
        it.refuses("stale")
        it.shows("newsletter", "kafka")
        it.logs("web", "relay-waits")
        it.leaves(leaving, stopped=False)
        people = crowd.comes(2)
        with crowd.doing(crowd.joins, people):
            # Thanked, mailed and confirmed without Kafka; only the welcome waits for it.
            it.confirm_without_welcome(people)
            it.mends(installation.kafka.restart)
        it.recovers()


def test_kafka_restarted_is_hardly_noticed(installation: Breakable, crowd: Crowd, day: Callable[[str], Day]) -> None:
    with day("Kafka restarted") as it:
        [leaving] = it.subscribers(1)
        people = crowd.comes(3)
        with crowd.doing(crowd.joins, people):
            it.breaks(installation.kafka.stop)
            it.mends(installation.kafka.start)
        it.recovers()
        it.leaves(leaving, stopped=True)


def test_kafka_slow_within_what_is_fresh_and_beyond_it(
    installation: Breakable, crowd: Crowd, day: Callable[[str], Day]
) -> None:
    with day("Kafka slow") as it:
        first, second = it.subscribers(2)

        def all_slow(seconds: float) -> None:
            for way in installation.to("kafka"):
                way.slow(seconds)

        all_slow(0.1)
        with crowd.doing(crowd.joins, crowd.comes(2)):
            pass
        it.granted()
        it.leaves(first, stopped=True)
        it.breaks(lambda: all_slow(2.5))
        it.refuses("stale")
        it.leaves(second, stopped=False)
        it.mends(installation.ways.heal)
        it.recovers()


@pytest.mark.parametrize(
    ("process", "reason", "service"),
    [("web", "stale", "newsletter"), ("ledger-append", "stale", "newsletter"), ("ledger-seal", "stale", "marketing")],
)
def test_kafka_out_of_reach_of_one_process(
    installation: Breakable, crowd: Crowd, day: Callable[[str], Day], process: str, reason: str, service: str
) -> None:
    with day(f"Kafka out of reach of {process}") as it:
        [leaving] = it.subscribers(1)
        it.breaks(installation.ways[f"{process}.kafka"].hang)
        it.refuses(reason)
        it.leaves(leaving, stopped=False)
        with crowd.doing(crowd.joins, crowd.comes(1)):
            it.mends(installation.ways.heal)
        it.recovers()


def test_kafka_whose_data_is_gone(installation: Breakable, crowd: Crowd, day: Callable[[str], Day]) -> None:
    with day("Kafka's data gone") as it:
        [leaving] = it.subscribers(1)

        def gone() -> None:
            installation.kafka.kill()
            shutil.rmtree(installation.kafka.folder / "log")

        it.breaks(gone)
        it.leaves(leaving, stopped=False)
        people = crowd.comes(2)
        with crowd.doing(crowd.joins, people):
            it.confirm_without_welcome(people)
            it.refuses("stale")

            def made_anew() -> None:
                installation.kafka.start()
                installation.command("topics")

            it.mends(made_anew)
            it.shows("ledger", "1 open")
        [incident] = [json.loads(line) for line in installation.command("incidents", "list").splitlines()]
        assert incident["kind"] == "position-gone"
        it.granted()
        it.all_sealed()
        it.closes(incident["number"])
        # Faust may not come round by itself; then it sees that, and ends; whoever runs the processes starts it anew.
        # What it says of itself may be from before the break, if that was short: only what it counted since is not.
        audience = installation.processes["audience"]
        mended = it.world.sql("select clock_timestamp()")
        counts = f"select bool_and(complete_at > '{mended}') from marketing.audience_position"
        until("an audience that counts on, or ends", lambda: not audience.running or it.world.sql(counts) == "t", 120)
        if not audience.running:
            it.logs("audience", "stuck")
            installation.serve(["audience"])
        it.ready_again()
