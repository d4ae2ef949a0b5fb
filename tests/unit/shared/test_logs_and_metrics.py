"""Logs that cannot quote a person, metrics that bear their service's name."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from shared import logs
from shared.errors import Unavailable
from shared.metrics import Metrics

PERSONAL = "anna.muster@example.org"


pytestmark = pytest.mark.usefixtures("logging_as_in_production")


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_json_object_with_its_process(capsys: pytest.CaptureFixture[str]) -> None:
    logs.logger("relay").info("sent", count=3)
    logs.logger("relay").debug("not at this level")
    (line,) = written(capsys)
    assert line.pop("timestamp")
    assert line == {"event": "sent", "level": "info", "process": "probe", "component": "relay", "count": 3}


def fail() -> None:
    raise ValueError(PERSONAL)


def test_an_exception_is_its_type_and_our_own_places(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        try:
            fail()
        except ValueError as error:
            raise ExceptionGroup(PERSONAL, [error]) from error
    except ExceptionGroup:
        logs.logger("relay").exception("failed")
    (line,) = written(capsys)
    assert line["exception"] == "ExceptionGroup"
    assert PERSONAL not in json.dumps(line)
    assert line["of"] == [{"exception": "ValueError", "at": []}]


def test_what_others_log_is_their_template_only(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("library").warning("could not send to %s", PERSONAL)
    try:
        fail()
    except ValueError:
        logging.getLogger("asyncio").exception("never retrieved: " + repr(PERSONAL))  # noqa: G003 - so it does
    one, other = written(capsys)
    assert (one["event"], one["logger"]) == ("could not send to %s", "library")
    assert (other["logger"], other["exception"]) == ("asyncio", "ValueError")
    assert PERSONAL not in json.dumps([one, other])


async def test_a_forgotten_tasks_exception_is_not_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_exception(ValueError(PERSONAL))
    del future
    assert PERSONAL not in json.dumps(written(capsys))


def test_metrics_bear_the_services_name_and_may_be_shared() -> None:
    metrics = Metrics("web-log")
    metrics.counter("things_total", "Things", ("kind",)).labels("a").inc()
    metrics.counter("things_total", "Things", ("kind",)).labels("a").inc()
    metrics.gauge("size", "Size").set(4)
    metrics.histogram("seconds", "Time").observe(0.3)
    text = metrics.render().decode()
    assert 'web_log_things_total{kind="a"} 2.0' in text
    assert "web_log_size 4.0" in text
    assert 'web_log_seconds_bucket{le="0.5"} 1.0' in text
    assert "web_log_size" not in Metrics("other").render().decode()


async def test_what_is_read_at_a_scrape_is_of_now_or_not_there() -> None:
    metrics = Metrics("probe")
    age = metrics.gauge("age_seconds", "Age", ("shard",))
    ages = iter([7.0])

    async def read() -> None:
        age.labels("0").set(next(ages, 9.0))
        if next(answers):
            raise Unavailable("postgresql")

    answers = iter([False, True])
    metrics.at_scrape(read, age)
    assert 'probe_age_seconds{shard="0"} 7.0' in (await metrics.scrape()).decode()
    said = (await metrics.scrape()).decode()
    assert "# TYPE probe_age_seconds gauge" in said
    assert "probe_age_seconds{" not in said


async def test_a_part_that_hangs_does_not_keep_a_scrape_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.metrics.READ_WITHIN_SECONDS", 0.01)
    metrics = Metrics("probe")
    metrics.gauge("size", "Size").set(4)
    age = metrics.gauge("age_seconds", "Age", ("shard",))
    metrics.at_scrape(asyncio.Event().wait, age)  # type: ignore[arg-type]
    assert (await metrics.scrape()).decode().endswith("probe_age_seconds gauge\n")
