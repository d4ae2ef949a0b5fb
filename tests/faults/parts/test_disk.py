"""The disk that holds every table of the installation is full."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from infra.local.browser import Browser
from infra.local.screen import until
from tests.faults.parts.day import page
from tests.faults.parts.small_disk import small_disk

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.breakable import Breakable
    from tests.faults.parts.day import Day
    from tests.faults.running.crowd import Crowd
    from tests.journeys.people import World

pytestmark = pytest.mark.timeout(400)

SIZE = 96 * 1024 * 1024


def move(world: World, source: str, goal: str) -> None:
    for what in ("table", "index"):
        world.sql(f"alter {what} all in tablespace {source} set tablespace {goal}")


def test_a_full_disk(installation: Breakable, world: World, crowd: Crowd, day: Callable[[str], Day]) -> None:
    postgres = installation.postgres
    assert postgres._home is not None
    user = postgres._user or (os.geteuid(), os.getegid())
    with day("the disk full") as it:
        [leaving] = it.subscribers(1)
        with small_disk(postgres._home / "small", SIZE, user) as disk:
            postgres.enter = disk.enter
            postgres.restart()
            world.sql(f"create tablespace small location '{disk.folder}'")
            move(world, "pg_default", "small")
            try:
                it.granted()
                it.breaks(disk.fill)
                # What fits into the pages that are there still goes in; then nothing more is accepted.
                it.refuses("503", within=60)

                def no_thanks() -> bool:
                    browser = Browser("en")
                    shown = browser.get(f"{crowd.door}/newsletter")
                    form = shown.form("email")
                    [new] = crowd.comes(1)
                    filled = form.filled(new.address, new.purposes)
                    answer = page(lambda: browser.post(f"{crowd.door}/newsletter", filled))
                    assert answer is not None
                    assert answer.status in {200, 503}
                    new.thanked = answer.status == 200
                    if not new.thanked:
                        crowd.people.remove(new)
                    return not new.thanked

                until("a form that is not taken (503)", no_thanks, 60)
                it.took("until a form is answered 503", it.broken_at)
                it.mends(disk.make_room)
                crowd.leaves(leaving)
                with crowd.doing(crowd.joins, crowd.comes(1)):
                    pass
                it.recovers()
            finally:
                move(world, "small", "pg_default")
                world.sql("drop tablespace small")
                postgres.enter = []
                postgres.restart()
            it.granted()
