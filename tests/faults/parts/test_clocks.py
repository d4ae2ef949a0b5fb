"""The clock of one process, or of all, jumps an hour ahead or back, and later is right again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from infra.local.browser import Browser
from infra.local.installation import PROCESSES
from infra.local.screen import until
from tests.faults.parts.day import page
from tests.journeys.people import ONE_CLICK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.breakable import Breakable
    from tests.faults.parts.day import Day
    from tests.faults.running.crowd import Crowd
    from tests.journeys.people import World

pytestmark = pytest.mark.timeout(400)

HOUR = timedelta(hours=1)


def jump(installation: Breakable, processes: Sequence[str], ahead: timedelta) -> None:
    for name in processes:
        installation.clocks[name].ahead = ahead


def times_never_go_back(world: World) -> bool:
    """What the log says of when it was recorded, as everybody can read it in its leaves."""
    leaves = "select string_agg(encode(leaves, 'hex'), '' order by first) from ledger.leaf_batch where shard = 0"
    raw, at, times = bytes.fromhex(world.sql(leaves)), 0, []
    while at < len(raw):
        length = 57 if raw[at] == 2 else 89
        if length == 89:
            times.append(int.from_bytes(raw[at + 81 : at + 89], "big"))
        at += length
    return times == sorted(times)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "back"])
def test_the_clock_of_the_collector_and_of_marketing(
    installation: Breakable, world: World, crowd: Crowd, day: Callable[[str], Day], ahead: timedelta
) -> None:
    with day(f"web's clock an hour {'ahead' if ahead > timedelta(0) else 'back'}") as it:
        leaving, staying = it.subscribers(2)
        it.breaks(lambda: jump(installation, ["web"], ahead))
        it.refuses("stale")
        it.shows("newsletter", "clock")
        name = world.begin_issue()
        link = crowd.mails.to(leaving.address, "confirmation")[0].mail.way_out
        answer = page(lambda: Browser("en").post(link, ONE_CLICK, origin=False))
        assert answer is not None
        # Ahead, the ledger would reject what was said: so nobody is thanked for it. Back, a withdrawal is a word.
        assert answer.status == (503 if ahead > timedelta(0) else 200)
        assert not crowd.mails.to(staying.address, "issue")
        it.mends(lambda: jump(installation, ["web"], timedelta(0)))
        crowd.leaves(leaving)
        with crowd.doing(crowd.joins, crowd.comes(1)):
            pass
        it.recovers()
        it.is_out(name)
        assert not crowd.mails.to(leaving.address, "issue")
        assert times_never_go_back(world)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "back"])
@pytest.mark.parametrize("process", ["ledger-append", "ledger-seal"])
def test_the_clock_of_a_process_of_the_ledger(
    installation: Breakable, world: World, crowd: Crowd, day: Callable[[str], Day], process: str, ahead: timedelta
) -> None:
    with day(f"{process}'s clock an hour {'ahead' if ahead > timedelta(0) else 'back'}") as it:
        [leaving] = it.subscribers(1)
        it.breaks(lambda: jump(installation, [process], ahead))
        with crowd.doing(crowd.joins, people := crowd.comes(2)):
            if (process, ahead) == ("ledger-seal", HOUR):
                # It signs what is not ahead of it; nobody else asks for its time.
                it.granted()
            else:
                it.refuses("stale")
                it.leaves(leaving, stopped=False)
                it.confirm_without_welcome(people)
                if process == "ledger-append":
                    it.logs(process, "clocks-differ")
                else:
                    it.logs(process, "ahead-of-clock")
            it.mends(lambda: jump(installation, [process], timedelta(0)))
        it.recovers()
        assert world.sql("select count(*) from ledger.rejected") == "0"
        assert times_never_go_back(world)


def test_every_clock_but_postgresqls_and_nothing_said_meanwhile(
    installation: Breakable, world: World, day: Callable[[str], Day]
) -> None:
    """Heartbeats and fresh lines come by seconds that only go forward."""
    with day("every clock an hour ahead and back again") as it:
        it.subscribers(1)
        it.breaks(lambda: jump(installation, PROCESSES, HOUR))
        it.refuses("stale")
        it.mends(lambda: jump(installation, PROCESSES, timedelta(0)))
        it.granted()
        before = world.sql("select signed_at from ledger.fresh")
        until("a fresh line", lambda: world.sql("select signed_at from ledger.fresh") != before, 10)
        it.recovers()
