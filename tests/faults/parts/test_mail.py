"""The mail server is down, slow, says no, says not now, or takes a mail and hangs up."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from infra.local.screen import until
from tests.faults.running.judge import settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.breakable import Breakable
    from tests.faults.parts.day import Day
    from tests.faults.running.crowd import Crowd
    from tests.faults.running.mail_server import MailServer
    from tests.journeys.people import World

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("how", ["down", "accepting and then hanging up", "saying not now"])
def test_a_mail_server_that_takes_no_mail(
    installation: Breakable, world: World, crowd: Crowd, mails: MailServer, day: Callable[[str], Day], how: str
) -> None:
    with day(f"the mail server {how}") as it:
        leaving, staying = it.subscribers(2)
        way = installation.ways["web.mail"]
        begin = {"down": way.cut, "accepting and then hanging up": way.hang_up}
        it.breaks(begin.get(how, lambda: mails.refuse("451 4.3.0 later")))
        name = world.begin_issue()
        people = crowd.comes(2)
        with crowd.doing(crowd.joins, people):
            tried = "select count(*) from {} where attempt{} > 0 and {}"
            waiting = (
                tried.format("newsletter.mail", "s", "ended_at is null"),
                tried.format("marketing.delivery", "", "state = 'waiting'"),
            )
            until("mails that were tried", lambda: all(int(world.sql(one)) > 1 for one in waiting), 30)
            # Nothing else depends on mail.
            it.leaves(leaving, stopped=True)
            it.granted()

            def again() -> None:
                mails.refuse("")
                installation.ways.heal()

            it.mends(again)
            settled(world)
        it.is_out(name)
        assert len(mails.to(staying.address, "issue")) == 1
        assert not mails.to(leaving.address, "issue")


def test_a_slow_mail_server_gets_no_mail_whose_permit_is_too_old(
    installation: Breakable, world: World, crowd: Crowd, mails: MailServer, day: Callable[[str], Day]
) -> None:
    with day("the mail server slow") as it:
        leaving, staying = it.subscribers(2)
        it.breaks(lambda: installation.ways["web.mail"].slow(1.5))
        name = world.begin_issue()
        late = "select count(*) from marketing.delivery where reason = 'mail-server-deferred'"
        until("mails that were too late", lambda: int(world.sql(late)) > 1, 40)
        it.took("until a mail is taken back", it.broken_at)
        it.leaves(leaving, stopped=True)
        assert not mails.to(staying.address, "issue")
        it.mends(installation.ways.heal)
        it.is_out(name)
        assert len(mails.to(staying.address, "issue")) == 1


def test_a_mail_server_that_takes_mails_and_is_cut_off_before_it_says_so(
    installation: Breakable, world: World, crowd: Crowd, mails: MailServer, day: Callable[[str], Day]
) -> None:
    with day("the mail server cut off after it took the mails") as it:
        everybody = it.subscribers(2)
        mails.hold_after_the_bytes("issue")
        world.begin_issue()
        until("issues on the wire", lambda: {one.address for one in everybody} <= set(mails.held), 30)
        it.breaks(installation.ways["web.mail"].reset)
        mails.let_go()
        settled(world)
        unknown = set(world.sql("select statement from marketing.delivery where state = 'unknown'").split())
        taken = [mails.to(one.address, "issue")[-1].statement for one in everybody]
        assert unknown >= set(taken)
        people = crowd.comes(2)
        mails.hold_after_the_bytes("confirmation")
        # Nobody confirms yet: a mail whose link was used is not sent again.
        with crowd.doing(crowd.signs_up, people):
            until("a confirmation on the wire", lambda: {one.address for one in people} & set(mails.held), 30)
            installation.ways["web.mail"].reset()
            mails.let_go()
            it.mends(installation.ways.heal)
        settled(world)
        came = Counter(one.mail.message_id for one in mails.arrived if one.to in {one.address for one in people})
        # The same mail again, and the record says how often (judged: alike in every byte, stated once).
        assert max(came.values()) == 2
        assert len(came) == 2
        with crowd.doing(crowd.confirms, people):
            pass
        attempts = "select max(attempts) from newsletter.mail where kind = 'confirmation'"
        assert int(world.sql(attempts)) >= 2


def test_a_mail_server_that_says_no_is_believed(
    world: World, crowd: Crowd, mails: MailServer, day: Callable[[str], Day]
) -> None:
    with day("the mail server saying no") as it:
        [staying] = it.subscribers(1)
        it.breaks(lambda: mails.refuse("550 5.1.1 nobody here"))
        world.issue_is_out(world.begin_issue())
        assert staying.address in mails.refused
        it.mends(lambda: mails.refuse(""))
        refused = world.sql("select count(*) from marketing.delivery where state = 'refused'")
        assert int(refused) >= len(mails.refused) or not mails.refused
        assert not mails.to(staying.address, "issue")
        it.ready_again()
