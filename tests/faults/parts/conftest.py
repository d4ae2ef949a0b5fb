"""One installation that is broken again and again, with its own Kafka and PostgreSQL, and a crowd that lives on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.local.installation import PROCESSES
from tests.faults.breakable import Breakable, breakable_installation
from tests.faults.parts.day import TIMES, Day, Watch, healed
from tests.faults.running.conftest import mails, seed
from tests.faults.running.crowd import Crowd
from tests.faults.running.judge import settled
from tests.journeys.people import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.running.mail_server import MailServer

__all__ = ["mails", "seed"]

SEED = 20201122


@pytest.fixture(scope="session")
def installation(mails: MailServer) -> Iterator[Breakable]:
    """Yield the installation; whatever a test did to it, the next one finds it running."""
    with breakable_installation("bad-days", lambda: mails.port, {"campaign_rate": "0"}) as running:
        TIMES.unlink(missing_ok=True)
        yield running


@pytest.fixture(scope="session")
def world(installation: Breakable) -> World:
    """Return the installation as people see it."""
    return World(installation)


@pytest.fixture(scope="session")
def crowd(installation: Breakable, mails: MailServer) -> Crowd:
    """Return the crowd; all choices of all tests follow from the seed."""
    return Crowd(installation.base_url, mails, SEED)


@pytest.fixture(scope="session")
def watch(installation: Breakable, world: World, crowd: Crowd) -> Iterator[Watch]:
    """Yield the watch: somebody who is subscribed all the time."""
    [person] = crowd.comes(1)
    crowd.joins(person)
    settled(world)
    [mail] = [one.statement for one in crowd.mails.to(person.address, "confirmation")]
    of_mail = "select subject from newsletter.request where id = (select request from newsletter.mail where id = '{}')"
    subject = world.sql(of_mail.format(mail))
    with Watch(installation, world, subject) as looking:
        yield looking


@pytest.fixture
def day(installation: Breakable, world: World, crowd: Crowd, watch: Watch) -> Iterator[Callable[[str], Day]]:
    """Yield what begins a bad day; whatever happened, afterwards everything runs again."""
    with healed(installation):
        yield lambda name: Day(name, installation, world, crowd, watch)
    installation.postgres.start()
    installation.kafka.start()
    for name in PROCESSES:
        if not installation.processes[name].running:
            installation.serve([name])
