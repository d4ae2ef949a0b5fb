"""The web process, with every page, relay, follower and mail queue in it: killed at any moment, stopped and woken."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from infra.local.story import until
from tests.faults.running.judge import judge, settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.local.installation import Installation
    from tests.faults.running.crowd import Crowd
    from tests.faults.running.mail_server import MailServer
    from tests.journeys.people import World

pytestmark = pytest.mark.timeout(200)


def killed(installation: Installation, what: str, moment: Callable[[], object]) -> None:
    """Kill web at this moment, start it again, and let whoever is using it go on."""
    until(what, moment, 30)
    began = time.monotonic()
    installation.processes["web"].kill()
    assert installation.processes["web"].status == -signal.SIGKILL
    installation.serve(["web"])
    print(f"killed: {what}; back after {time.monotonic() - began:.1f} s")


def test_web_killed_while_people_sign_up_and_confirm(
    installation: Installation, world: World, crowd: Crowd, mails: MailServer
) -> None:
    people = crowd.comes(12)
    with crowd.doing(crowd.joins, people):
        some = crowd.some_of(4)
        killed(installation, f"{some} forms are thanked for", lambda: sum(one.thanked for one in people) >= some)
        mails.hold("after the bytes", "confirmation")
        killed(installation, "confirmation mails are on the wire", lambda: mails.held)
        mails.let_go()
        some = crowd.some_of(6)
        killed(installation, f"{some} have confirmed", lambda: sum(one.confirmed for one in people) >= some)
    judge(world, crowd)
    print(time.monotonic())
