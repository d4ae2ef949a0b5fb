"""The benchmark's own arithmetic, its mix of statements, and what it says bounds a figure."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import machine
from benchmarks.latency import Moments
from benchmarks.processor import Usage, Watch
from benchmarks.report import Result, Seen, percentile, rate, rates_by_block, reached
from benchmarks.statements import Forms, Population
from benchmarks.throughput import BARE, EVERYTHING, Counted
from infra.local.installation import PROCESSES
from services.ledger.check import admission
from shared import register
from shared.access import grants
from shared.events import MAX_STATEMENT_BYTES, parse
from shared.register import Register
from shared.secrets import Secrets, create_secrets


@pytest.fixture(scope="module")
def rules() -> Register:
    return register.load()


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory, rules: Register) -> Secrets:
    directory: Path = tmp_path_factory.mktemp("secrets")
    create_secrets(directory, os.urandom, rules.sources, grants(), 1)
    return Secrets(directory)


def population(rules: Register, secrets: Secrets, *, short: bool) -> Population:
    return Population(Forms(rules, secrets, datetime.now(UTC), short=short))


@pytest.mark.parametrize("short", [True, False])
def test_every_statement_is_one_that_the_ledger_takes(rules: Register, secrets: Secrets, *, short: bool) -> None:
    judge = admission(rules)
    for made in population(rules, secrets, short=short).statements(300):
        statement = parse(made.raw)
        assert (statement.id, statement.subject, statement.type) == (made.id, made.subject, made.type)
        assert judge(statement) is None
        assert len(made.raw) < MAX_STATEMENT_BYTES


def test_three_in_ten_statements_speak_of_somebody_new(rules: Register, secrets: Secrets) -> None:
    made = list(population(rules, secrets, short=True).statements(5000))
    kinds, people = Counter(one.type for one in made), {one.subject for one in made}
    assert 0.27 < len(people) / len(made) < 0.33
    assert kinds["ConsentRequested"] == len(people)
    assert kinds.keys() == {"ConsentRequested", "MessageSent", "ConsentGiven", "ConsentWithdrawn"}
    assert len({one.id for one in made}) == len(made)


def test_short_statements_have_about_a_kilobyte(rules: Register, secrets: Secrets) -> None:
    made = list(population(rules, secrets, short=True).statements(1000))
    assert 900 < sum(len(one.raw) for one in made) / len(made) < 1300


def test_an_opt_in_follows_its_own_request_and_mail(rules: Register, secrets: Secrets) -> None:
    requested, sent, given = population(rules, secrets, short=False).opt_in()
    assert parse(given.raw).data.follows == [requested.id, sent.id]
    assert parse(given.raw).data.served.verified
    assert len({one.subject for one in (requested, sent, given)}) == 1


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([3.0], 0.99)) == (50.0, 99.0, 3.0)
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_a_rate_begins_at_the_first_record_and_ends_at_the_last() -> None:
    seen = [Seen(0.0, 0), Seen(7.0, 1000), Seen(8.0, 3000), Seen(9.0, 5000), Seen(20.0, 5000)]
    assert rate(seen) == 2000.0
    with pytest.raises(ValueError, match="too few"):
        rate([Seen(0.0, 0), Seen(1.0, 10)])


def test_a_block_ends_where_its_last_record_was_seen() -> None:
    seen = [Seen(0.0, 0), Seen(1.0, 500), Seen(2.0, 1500), Seen(4.0, 2500)]
    assert reached(seen, 1000) == 1.5
    assert rates_by_block(seen, 1000) == [1000.0, 1000 / 1.5]


def test_leaves_that_are_no_statements_do_not_count() -> None:
    counted = Counted([(0, 1), (1, 1001), (1002, 501)])
    looks = [Seen(0.0, 1), Seen(1.0, 1002), Seen(2.0, 1102), Seen(3.0, 1503)]
    assert [one.done for one in counted(looks)] == [0, 1000, 1100, 1500]


def test_the_moment_of_a_leaf_is_the_first_look_that_saw_it() -> None:
    moments = Moments()
    for at, size in ((1.0, 10), (2.0, 10), (3.0, 15)):
        moments.note(Seen(at, size))
    assert (moments.of(0), moments.of(9), moments.of(10), moments.of(14)) == (1.0, 1.0, 3.0, 3.0)
    assert moments.covers(14)
    assert not moments.covers(15)


def used(shares: Mapping[str, float], others: float = 0.0, session: float = 0.0) -> str:
    return Usage(seconds=10.0, shares=shares, busiest_session=session, others=others, cores=2).bound()


def test_what_bounds_is_named() -> None:
    assert used({"ledger-append": 0.97, "web": 0.2}).startswith("ledger-append at a whole core: ")
    assert used({"web": 0.5}, session=0.95).startswith("one session of PostgreSQL at a whole core: ")
    assert used({"web": 0.6}, others=1.3).startswith("all 2 cores full: others on this machine 130%, web 60%")
    assert used({"Kafka": 1.1}).startswith("waiting (no process at a whole core, the cores 55% busy)")


def test_our_own_work_is_seen() -> None:
    watch = Watch({}, postmaster=0)
    sum(number * number for number in range(3_000_000))
    usage = watch.usage()
    assert usage.shares["benchmark"] > 0.0
    assert usage.all_busy > 0.0


def test_a_result_is_a_row_and_a_line() -> None:
    result = Result("latency", "a → b", "**p99 9 ms**", "p99 5 ms", met=False, bound="web 99%", values={"p99": 0.009})
    assert result.row() == "| a → b | **p99 9 ms** | p99 5 ms: **missed** | web 99% |"
    assert json.loads(result.line(machine="one"))["machine"] == "one"


def test_the_machine_is_named() -> None:
    assert "PostgreSQL 18.4, Kafka 4.4.0" in machine.described("18.4")


def test_parts_and_sizes_can_be_chosen() -> None:
    assert [title for _, title, *_ in command.runs(command.options(["latency"]))] == ["latency"]
    assert len(command.runs(command.options([]))) == 4
    assert command.options(["--rates", "50,60"]).rates == [50, 60]
    for wrong in (["speed"], ["--records", "0"], ["--rates", "1,x"]):
        with pytest.raises(SystemExit):
            command.options(wrong)


def test_everything_on_is_every_process_there_is() -> None:
    assert set(EVERYTHING) == set(PROCESSES)
    assert set(BARE) < set(EVERYTHING)
