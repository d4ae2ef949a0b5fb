"""The benchmark's own arithmetic, its mix of statements, and what it says bounds a figure."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import machine
from benchmarks.audit_table import PLAIN, hashed
from benchmarks.clients import Answer, Driven, drive, post
from benchmarks.footprint import family, memory, proportional
from benchmarks.latency import Moments
from benchmarks.permits import Way, granted, result
from benchmarks.processor import Usage, Watch
from benchmarks.report import Result, Seen, percentile, rate, rates_by_block, reached
from benchmarks.shards import together
from benchmarks.statements import Forms, Population
from benchmarks.subscriptions import Backlog, Blocks, compared, sustained
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
    assert 900 < sum(len(one.raw) for one in made) / len(made) < 1400


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


def usage(shares: Mapping[str, float], others: float = 0.0, session: float = 0.0) -> Usage:
    return Usage(seconds=10.0, shares=shares, busiest_session=session, others=others, cores=2)


def used(shares: Mapping[str, float], others: float = 0.0, session: float = 0.0) -> str:
    return usage(shares, others, session).bound()


def test_what_bounds_is_named() -> None:
    assert used({"ledger-append": 0.97, "web": 0.2}).startswith("ledger-append at a whole core: ")
    assert used({"web": 0.5}, session=0.95).startswith("one session of PostgreSQL at a whole core: ")
    assert used({"web": 0.6}, others=1.3).startswith("all 2 cores full: others on this machine 130%, web 60%")
    assert used({"Kafka": 1.1}).startswith("waiting (no process at a whole core, the cores 55% busy)")


def test_our_own_work_is_seen() -> None:
    watch = Watch({}, postmaster=0)
    sum(number * number for number in range(3_000_000))
    seen = watch.usage()
    assert seen.shares["benchmark"] > 0.0
    assert seen.all_busy > 0.0


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


def test_what_is_compared_is_asked_for_by_name() -> None:
    parts = [run.part for run in command.runs(command.options(["--compare"]))]
    assert list(dict.fromkeys(parts)) == list(command.COMPARISONS)
    assert [run.part for run in command.runs(command.options(["permits", "latency"]))] == ["latency", "permits"]
    [shards] = command.runs(command.options(["shards"]))
    assert shards.settings == {"shards": "2"}


def test_the_chain_holds_the_row_and_the_hash_before_it() -> None:
    first, second = ("a@example.org", 1), ("b@example.org", 1)
    assert hashed(hashed(b"", first), second) != hashed(hashed(b"", second), second)
    assert hashed(b"", first) != hashed(b"", second)
    assert len(hashed(b"", first)) == 32


def test_blocks_of_one_contestant_make_one_rate() -> None:
    blocks = Blocks()
    for seconds, answers in ((2.0, 100), (1.0, 200)):
        blocks.add(Driven(seconds, [0.010] * answers), usage({"web": 0.5}))
    assert blocks.all.rate == 100.0
    assert blocks.said() == "100/s, p50 10 ms, p99 10 ms (blocks: 50, 200)"
    assert blocks.costs() == {"web": 2500}


@pytest.mark.parametrize(("rate", "met"), [(99, False), (100, True), (140, True)])
def test_not_slower_is_met_by_the_same_speed(rate: int, *, met: bool) -> None:
    ours, theirs = Blocks(), Blocks()
    ours.add(Driven(1.0, [0.01] * rate), usage({"web": 1.0}))
    theirs.add(Driven(1.0, [0.01] * 100), usage({"plain table": 0.95}))
    row = compared(ours, theirs, PLAIN, 16)
    assert row.met is met
    assert row.figure.startswith(f"**{rate / 100:.2f} of it**: {rate}/s")
    assert "theirs: plain table at a whole core" in row.bound


def test_what_was_left_to_do_is_part_of_the_sustained_rate() -> None:
    ours = Blocks()
    ours.add(Driven(2.0, [0.01] * 600), usage({"web": 1.0}))
    row = sustained(ours, [Backlog(mails=500, statements=80, seconds=4.0)], 16)
    assert row.figure.startswith("**100/s** (when the clients stopped after 2 s, 500 mails")


def test_two_shards_are_counted_together_from_where_they_stood() -> None:
    one = [Seen(0.0, 100), Seen(1.0, 150), Seen(2.1, 200)]
    other = [Seen(0.5, 0), Seen(1.5, 30), Seen(2.0, 60)]
    assert together([one, other]) == [Seen(0.5, 0), Seen(1.5, 80), Seen(2.1, 160)]


def test_memory_is_that_of_a_process_and_all_it_started() -> None:
    assert family(2, {1: 0, 2: 1, 3: 2, 4: 3, 5: 1}) == {2, 3, 4}
    assert (
        proportional("00400000-7ffd ---p 00000000 00:00 0 [rollup]\nRss: 90 kB\nPss: 70 kB\nPss_Dirty: 9 kB\n")
        == 71_680
    )
    assert memory(os.getpid()) > 1_000_000


async def test_an_answer_is_read_whole_whatever_comes_with_it() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        requests = [post("/consents", b"x" * number, "text/plain") for number in range(20)]
        driven = await drive(port, 4, requests, 60.0, lambda one: one.status == 201)
        assert len(driven.waits) == 20
        with pytest.raises(ExceptionGroup):
            await drive(port, 1, requests, 60.0, lambda one: one.status == 200)


def test_a_permit_counts_only_if_every_one_asked_for_is_granted() -> None:
    two = b'{"answers":[{"decision":"granted"},{"decision":"granted"}]}'
    assert granted(2)(Answer(200, two))
    assert not granted(3)(Answer(200, two))
    assert not granted(1)(Answer(200, b'{"decision":"refused"}'))
    row = result(Way(16, 20, 0), Driven(2.0, [0.004] * 1000), usage({"web": 1.0}), 0.1)
    assert (row.met, row.values["a_second"]) == (True, 10_000)
