"""The web process is killed in each state that a mail of a campaign can be in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.local.screen import until
from tests.faults.running.judge import settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.breakable import Breakable
    from tests.faults.parts.day import Day
    from tests.faults.running.mail_server import MailServer
    from tests.journeys.people import World

pytestmark = pytest.mark.timeout(400)

STATES = {
    # where it is held up: what is then true of each mail; whether it is sent in the end, and how often it may come
    "its permit granted": ("waiting", {1}),
    "about to be on the wire": ("attempted", {0}),
    "on the wire": ("attempted", {1}),
    "taken, and the answer not recorded": ("attempted", {1}),
}


@pytest.mark.parametrize("state", STATES)
def test_killed_with_every_mail_in_one_state(
    installation: Breakable, world: World, mails: MailServer, day: Callable[[str], Day], state: str
) -> None:
    with day(f"web killed with mails {state}") as it:
        people = it.subscribers(2)
        addresses = {one.address for one in people}
        subjects = installation.ways["web.subjects"]
        if state == "its permit granted":
            subjects.hang()
        elif state == "on the wire":
            mails.hold_after_the_bytes("issue")
        else:
            mails.hold_before_the_bytes(addresses)
        name = world.begin_issue()
        if state == "its permit granted":
            granted = (
                "select count(*) from marketing.permit p join marketing.delivery d"
                " on p.message_id = '<' || d.statement || '@example.org>'"
                f" where d.campaign = '{name}' and p.decision = 'granted' and redeemed_at is null"
            )
            until("permits", lambda: int(world.sql(granted)) >= 2, 30)
        else:
            until("mails at the mail server", lambda: addresses <= set(mails.held), 30)
        if state == "taken, and the answer not recorded":
            subjects.hang()
            mails.let_go()
            until("mails that were taken", lambda: all(mails.to(one, "issue") for one in addresses), 30)
        of_ours = f"select distinct state from marketing.delivery where campaign = '{name}' and state <> 'sent'"
        assert world.sql(of_ours) == STATES[state][0]
        it.breaks(installation.processes["web"].kill)
        mails.let_go()
        installation.ways.heal()
        it.mends(lambda: installation.serve(["web"]))
        it.granted()
        settled(world)
        it.is_out(name)
        for one in people:
            assert len(mails.to(one.address, "issue")) in STATES[state][1]
        ended = world.sql(f"select distinct state from marketing.delivery where campaign = '{name}'").split()
        assert ("unknown" in ended) is (STATES[state][0] == "attempted")
