"""The web process, with every page, relay, follower and mail queue in it: killed at any moment, stopped and woken."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from infra.local.browser import Browser
from infra.local.installation import COMMAND, READY, free_port
from infra.local.processes import Process
from infra.local.screen import until
from tests.faults.running.judge import judge, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from infra.local.installation import Installation
    from tests.faults.running.crowd import Crowd
    from tests.faults.running.mail_server import MailServer
    from tests.journeys.people import World

pytestmark = pytest.mark.timeout(200)


def killed(installation: Installation, what: str, moment: Callable[[], object]) -> None:
    """Kill web at this moment, start it again, and let whoever is using it go on."""
    until(what, moment, 30)
    installation.processes["web"].kill()
    assert installation.processes["web"].status == -signal.SIGKILL
    installation.serve(["web"])


def test_web_killed_while_people_sign_up_and_confirm(
    installation: Installation, world: World, crowd: Crowd, mails: MailServer
) -> None:
    people = crowd.comes(12)
    with crowd.doing(crowd.joins, people):
        some = crowd.some_of(4)
        killed(installation, f"{some} forms are thanked for", lambda: sum(one.thanked for one in people) >= some)
        mails.hold_after_the_bytes("confirmation")
        killed(installation, "confirmation mails are on the wire", lambda: mails.held)
        mails.let_go()
        some = crowd.some_of(6)
        killed(installation, f"{some} have confirmed", lambda: sum(one.confirmed for one in people) >= some)
    judge(world, crowd)
    came = Counter(one.mail.message_id for one in mails.arrived if one.kind == "confirmation")
    assert max(came.values()) > 1, "no mail was cut off on the wire"


def test_web_killed_in_the_middle_of_an_issue_that_people_withdraw_from(
    installation: Installation, world: World, crowd: Crowd, mails: MailServer
) -> None:
    people = crowd.comes(10)
    with crowd.doing(crowd.joins, people):
        pass
    settled(world)
    mails.hold_before_the_bytes({person.address for person in people})
    world.begin_issue()
    killed(installation, "an issue's mails are about to be on the wire", lambda: mails.held)
    mails.hold_after_the_bytes("issue")
    leaving = [person for person in people if person.leaves_by]
    people += crowd.comes(4)
    with crowd.doing(crowd.joins_or_leaves, people):
        killed(installation, "an issue's mails are on the wire", lambda: mails.held)
        mails.let_go()
        some = crowd.some_of(len(leaving))
        killed(installation, f"{some} have left", lambda: sum(bool(one.left) for one in leaving) >= some)
    judge(world, crowd)
    came = {one.statement for one in mails.arrived}
    uncertain = set(world.sql("select statement from marketing.delivery where state = 'unknown'").split())
    assert uncertain & came, "no mail was cut off on the wire"
    assert uncertain - came, "no mail was cut off before it"
    the_next_issue_reaches_whoever_stayed(world, crowd)


def the_next_issue_reaches_whoever_stayed(world: World, crowd: Crowd) -> None:
    """Once each, and nobody else."""
    before = {person.address: len(crowd.mails.to(person.address, "issue")) for person in crowd.people}
    world.issue_is_out(world.begin_issue())
    after = {person.address: len(crowd.mails.to(person.address, "issue")) for person in crowd.people}
    came = {address for address, number in after.items() if number > before[address]}
    assert came == {person.address for person in crowd.people if person.confirmed and not person.left}
    assert sum(after.values()) == sum(before.values()) + len(came)


@contextlib.contextmanager
def another_web(installation: Installation) -> Iterator[str]:
    """A second web process beside the first, as on a second machine; its address."""
    port = free_port()
    address = f"http://localhost:{port}"
    own = {f"CONSENT_LEDGER_{name}_URL": address for name in ("LEDGER", "SUBJECTS", "MARKETING", "NEWSLETTER")}
    environment = {**os.environ, **installation.environment(), **own, "CONSENT_LEDGER_PORT": str(port)}
    with Process(installation.folder, "another-web") as process:
        log = installation.logs / "another-web.log"
        process.start([str(COMMAND), "serve", "web"], directory=installation.folder, log=log, environment=environment)
        for service in READY:
            until(f"another {service}", functools.partial(answers, f"{address}/{service}/health/ready"), 60)
        yield address


def answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return Browser("en").get(url).status == 200
    return False


def test_a_stalled_web_that_wakes_up_again_does_nothing_that_another_has_done_or_forbidden(
    installation: Installation, world: World, crowd: Crowd, mails: MailServer
) -> None:
    stalled, people = installation.processes["web"], crowd.comes(6)
    with crowd.doing(crowd.joins, people):
        pass
    settled(world)
    mails.hold_before_the_bytes({person.address for person in people})
    world.begin_issue()
    until("an issue's mails are about to be on the wire", lambda: mails.held, 30)
    with crowd.doing(crowd.joins, crowd.comes(4)):
        stalled.send(signal.SIGSTOP)
        with another_web(installation) as crowd.door:
            # PostgreSQL ends the sessions that hold the locks, and whoever waits for them takes over.
            attempted = "select count(*) from marketing.delivery where state = 'attempted'"
            until("another sender", lambda: world.sql(attempted) == "0", 90)
            leaving = [person for person in people if person.address in mails.held]
            for person in leaving:
                person.leaves_by = "welcome"
            with crowd.doing(crowd.leaves, leaving), crowd.doing(crowd.joins, crowd.comes(4)):
                pass
            assert all(person.left[0].stopped for person in leaving)
            mails.let_go()
            stalled.send(signal.SIGCONT)
            settled(world)
            assert stalled.running
        crowd.door = crowd.base_url
    judge(world, crowd)
    the_next_issue_reaches_whoever_stayed(world, crowd)
