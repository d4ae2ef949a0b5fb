"""Logs that cannot quote a person, metrics that bear their service's name."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from shared import logs
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
