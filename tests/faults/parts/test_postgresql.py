"""PostgreSQL is down, restarted, cut off in the middle of statements, silent, or out of disk."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from infra.local.browser import Browser
from tests.faults.parts.day import page
from tests.journeys.people import NEWSLETTER, ONE_CLICK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from infra.local.browser import Page
    from tests.faults.breakable import Breakable
    from tests.faults.parts.day import Day
    from tests.faults.proxy import Way
    from tests.faults.running.crowd import Crowd

pytestmark = pytest.mark.timeout(400)


def test_postgresql_down_while_people_come_and_go(
    installation: Breakable, crowd: Crowd, day: Callable[[str], Day]
) -> None:
    with day("PostgreSQL down") as it:
        leaving, reading = it.subscribers(2)
        link = crowd.mails.to(reading.address, "confirmation")[0].mail.way_out
        it.breaks(installation.postgres.kill)
        it.refuses("503", "no answer")
        it.shows("newsletter", "postgresql")
        answers = [a_form_sent(crowd), page(lambda: Browser("en").post(link, ONE_CLICK, origin=False))]
        # Nobody is thanked, and everybody is told what to do.
        assert [one.status for one in answers if one is not None] == [503, 503]
        assert all("retry-after" in one.headers for one in answers if one is not None)
        people = crowd.comes(2)
        with crowd.doing(crowd.joins_or_leaves, [*people, leaving]):
            it.mends(installation.postgres.restart)
        it.recovers()


def test_postgresql_restarted_under_load(installation: Breakable, crowd: Crowd, day: Callable[[str], Day]) -> None:
    with day("PostgreSQL restarted") as it:
        people = it.subscribers(3)
        with crowd.doing(crowd.joins_or_leaves, [*crowd.comes(4), *people]):
            it.breaks(lambda: None)
            it.mends(installation.postgres.restart)
        it.recovers()


def a_form_sent(crowd: Crowd) -> Page | None:
    """By somebody who will not insist. The form itself is shown without PostgreSQL."""
    browser = Browser("en")
    shown = browser.get(f"{crowd.door}/newsletter")
    assert shown.status == 200
    filled = shown.form("email").filled("nobody@example.org", {NEWSLETTER})
    return page(lambda: browser.post(f"{crowd.door}/newsletter", filled))


@contextlib.contextmanager
def cutting(ways: list[Way]) -> Iterator[None]:
    """Again and again: now before a statement has arrived, now in the middle of it, now before its answer is back."""
    over = threading.Event()

    def cut() -> None:
        number = 0
        while not over.wait(1.5):
            number += 1
            for way in ways:
                if number % 3 == 0:
                    way.reset()
                elif number % 3 == 1:
                    way.end_after(997 * number % 6000)
                else:
                    way.lose_answers()
            over.wait(0.7)
            for way in ways:
                way.reset()
                way.heal()

    scissors = threading.Thread(target=cut)
    scissors.start()
    try:
        yield
    finally:
        over.set()
        scissors.join()


def test_connections_to_postgresql_cut_in_the_middle_of_statements(
    installation: Breakable, crowd: Crowd, day: Callable[[str], Day]
) -> None:
    with day("connections to PostgreSQL cut") as it:
        people = it.subscribers(3)
        it.breaks(lambda: None)
        with cutting(installation.to("postgresql")), crowd.doing(crowd.joins_or_leaves, [*crowd.comes(5), *people]):
            pass
        it.mends(installation.ways.heal)
        it.recovers()


def test_postgresql_that_says_nothing_to_one_process(
    installation: Breakable, crowd: Crowd, day: Callable[[str], Day]
) -> None:
    with day("PostgreSQL silent towards ledger-append") as it:
        [leaving] = it.subscribers(1)
        it.breaks(installation.ways["ledger-append.postgresql"].hang)
        with crowd.doing(crowd.joins, crowd.comes(1)):
            it.refuses("stale")
            it.leaves(leaving, stopped=False)
            it.mends(installation.ways.heal)
        it.recovers()


def test_postgresql_that_says_nothing_to_web(installation: Breakable, crowd: Crowd, day: Callable[[str], Day]) -> None:
    with day("PostgreSQL silent towards web") as it:
        [leaving] = it.subscribers(1)
        it.breaks(installation.ways["web.postgresql"].hang)
        it.refuses("503", "no answer")
        answer = a_form_sent(crowd)
        assert answer is not None
        assert answer.status == 503
        it.took("until a page says so", it.broken_at)
        with crowd.doing(crowd.joins_or_leaves, [*crowd.comes(1), leaving]):
            it.mends(installation.ways.heal)
        it.recovers()
