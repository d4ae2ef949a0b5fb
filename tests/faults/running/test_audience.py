"""The audience process: killed in the middle of counting, it counts on, and nobody twice."""

from __future__ import annotations

import asyncio
import re
import signal
import urllib.request
from typing import TYPE_CHECKING, Final

import pytest

from infra.local.screen import until
from shared.database import Database
from shared.outbox import put
from tests.faults.running.judge import judge
from tests.integration.ledger.world import given, new_subject, withdrawn

if TYPE_CHECKING:
    from infra.local.installation import Installation
    from tests.faults.running.crowd import Crowd
    from tests.journeys.people import World

# Of a purpose that no issue is sent for.
PURPOSE: Final = "newsletter-clicks"
PEOPLE: Final = 1200
AT_ONCE: Final = 200

pytestmark = pytest.mark.timeout(200)


def counted(installation: Installation) -> int:
    """Index of the next record that the audience will count."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{installation._worker_ports['audience']}/audience/metrics",
        headers={"Authorization": f"Bearer {installation.secrets.credential('operator')}"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        found = re.search(r'^audience_next\{shard="0"\} (\S+)$', answer.read().decode(), re.MULTILINE)
    return int(float(found[1])) if found else 0


async def people_come_and_go(installation: Installation) -> None:
    """Every third leaves again."""
    said = []
    for number in range(PEOPLE):
        subject = new_subject()
        said.append(given(subject, purpose=PURPOSE))
        if number % 3 == 0:
            said.append(withdrawn(subject, purpose=PURPOSE))
    db = await Database.connect(installation.settings().dsn("newsletter"), "newsletter")
    try:
        for first in range(0, len(said), AT_ONCE):
            async with db.transaction() as tx:
                await put(tx, said[first : first + AT_ONCE])
    finally:
        await db.close()


def test_an_audience_killed_in_the_middle_of_counting_counts_everything_once(
    installation: Installation, world: World, crowd: Crowd
) -> None:
    audience = installation.processes["audience"]
    began = counted(installation)
    # Stopped while it has not begun, so that it is killed neither before nor after the middle.
    audience.send(signal.SIGSTOP)
    asyncio.run(people_come_and_go(installation))
    last = began + PEOPLE
    until("the last of them", lambda: int(world.sql("select next from ledger.cursor")) > last, 60)
    audience.send(signal.SIGCONT)
    until("the middle", lambda: counted(installation) > began + AT_ONCE, 30)
    audience.kill()
    assert audience.status == -signal.SIGKILL
    shown = int(world.sql("select next from marketing.audience_position"))
    assert shown < last
    installation.serve(["audience"])
    judge(world, crowd)
