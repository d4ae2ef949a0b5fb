"""A process or a service is dead, stalled, or there twice."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from infra.local.browser import Browser
from infra.local.installation import free_port
from infra.local.processes import Process
from infra.local.screen import until
from tests.faults.parts.day import page
from tests.journeys.people import NEWSLETTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.breakable import Breakable
    from tests.faults.parts.day import Day
    from tests.faults.running.crowd import Crowd
    from tests.journeys.people import World

pytestmark = pytest.mark.timeout(400)


def test_subjects_down(installation: Breakable, world: World, crowd: Crowd, day: Callable[[str], Day]) -> None:
    with day("subjects down") as it:
        leaving, staying = it.subscribers(2)
        it.breaks(installation.ways["web.subjects"].cut)
        browser = Browser("en")
        shown = browser.get(f"{crowd.door}/newsletter")
        form = shown.form("email")
        answer = page(lambda: browser.post(f"{crowd.door}/newsletter", form.filled("new@example.org", {NEWSLETTER})))
        assert answer is not None
        assert (answer.status, "retry-after" in answer.headers) == (503, True)
        it.took("until a form is answered (503)", it.broken_at)
        # Leaving needs nobody; and no mail leaves whose address cannot be had.
        it.leaves(leaving, stopped=True)
        name = world.begin_issue()
        waiting = "select count(*) from marketing.delivery where reason = 'subjects-unavailable'"
        until("mails that wait", lambda: int(world.sql(waiting)) > 0, 30)
        assert not crowd.mails.to(staying.address, "issue")
        with crowd.doing(crowd.joins, crowd.comes(1)):
            it.mends(installation.ways.heal)
        it.is_out(name)
        assert len(crowd.mails.to(staying.address, "issue")) == 1


def test_the_signer_dead(installation: Breakable, world: World, crowd: Crowd, day: Callable[[str], Day]) -> None:
    with day("the signer dead") as it:
        leaving, staying = it.subscribers(2)
        it.breaks(installation.processes["ledger-seal"].kill)
        it.refuses("stale")
        it.shows("ledger", "signer")
        it.leaves(leaving, stopped=False)
        people = crowd.comes(2)
        with crowd.doing(crowd.joins, people):
            it.confirm_without_welcome(people)
            name = world.begin_issue()
            # What is not sealed in time is sent again and said aloud: from here on ten minutes only repeat it.
            it.shows("newsletter", "unsealed for more than 10 s")
            it.logs("web", "not-sealed-in-time")
            it.took("how long it was dead", it.broken_at)
            assert not crowd.mails.to(staying.address, "issue")
            it.mends(lambda: installation.serve(["ledger-seal"]))
        it.recovers()
        it.is_out(name)
        assert len(crowd.mails.to(staying.address, "issue")) == 1
        assert not crowd.mails.to(leaving.address, "issue")


def test_a_relay_that_nobody_runs(
    installation: Breakable, world: World, crowd: Crowd, day: Callable[[str], Day]
) -> None:
    with day("the newsletter's relay cut off") as it:
        [leaving] = it.subscribers(1)

        def taken() -> None:
            """Somebody else holds the relay's lock and relays nothing."""
            it.holds_the_lock("newsletter", "relay/newsletter")

        it.breaks(taken)
        it.refuses("stale")
        it.leaves(leaving, stopped=False)
        with crowd.doing(crowd.joins, crowd.comes(1)):
            it.mends(it.lets_the_lock_go)
        it.recovers()


def test_faust_stalled(installation: Breakable, world: World, crowd: Crowd, day: Callable[[str], Day]) -> None:
    with day("Faust stalled") as it:
        [leaving] = it.subscribers(1)
        audience = installation.processes["audience"]
        it.breaks(lambda: audience.send(signal.SIGSTOP))
        with crowd.doing(crowd.joins, crowd.comes(2)):
            pass
        it.leaves(leaving, stopped=True)
        it.granted()

        def behind() -> bool:
            [shard] = world.call("GET", "/marketing/audience")["shards"]
            return bool(shard["complete_seconds_ago"] > 10)

        until("a page that says how old its figures are", behind, 30)
        it.mends(lambda: audience.send(signal.SIGCONT))
        it.ready_again()


def test_two_appenders_at_once(installation: Breakable, crowd: Crowd, day: Callable[[str], Day]) -> None:
    with day("two appenders at once") as it, Process(installation.folder, "another-append") as another:
        [leaving] = it.subscribers(1)
        environment = installation.environment_of("ledger-append") | installation.environment()
        environment["CONSENT_LEDGER_WORKER_PORT"] = str(free_port())
        log = installation.logs / "another-append.log"
        another.start(
            installation.command_of("ledger-append"), directory=installation.folder, log=log, environment=environment
        )
        until("the other one", lambda: b"listening" in log.read_bytes(), 30)
        with crowd.doing(crowd.joins, crowd.comes(2)):
            pass
        assert b"owning" not in log.read_bytes()
        # The owner is cut off from PostgreSQL, believes that it owns, and comes back.
        it.breaks(installation.ways["ledger-append.postgresql"].hang)
        until("a new owner", lambda: b"owning" in log.read_bytes(), 40)
        it.took("until the other one owns the shard", it.broken_at)
        with crowd.doing(crowd.joins, crowd.comes(2)):
            pass
        it.mends(installation.ways.heal)
        it.leaves(leaving, stopped=True)
        it.granted()
        another.kill()
        if not installation.processes["ledger-append"].running:
            installation.serve(["ledger-append"])
        it.ready_again()
