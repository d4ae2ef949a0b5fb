"""`python -m tests.chaos --minutes 60`: random faults under load, and at the end a judgement.

It stops by itself. Everything that is decided by chance follows from the seed, which is printed first (which request a
fault meets does not: that is up to the machine). Exit status 0: nothing lost, nothing doubled, the log verifies, each
permit was right; 1: something was not; what was running then stays below .local/tests/chaos.
"""

from __future__ import annotations

import argparse
import random
import secrets
import statistics
import sys
import time
import traceback
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from infra.local.browser import Browser
from infra.local.installation import PROCESSES, READY
from tests.chaos.load import Load
from tests.chaos.permits import wrong_permits
from tests.chaos.troubles import Trouble, all_of
from tests.faults.breakable import Breakable, breakable_installation
from tests.faults.running.crowd import Crowd
from tests.faults.running.judge import Log, judge, settled
from tests.faults.running.mail_server import MailServer
from tests.journeys.people import World

if TYPE_CHECKING:
    from collections.abc import Sequence

RECOVERED_SECONDS: Final = 120.0
PATIENCE_SECONDS: Final = 240.0


class NotRecovered(AssertionError):
    """A fault was mended, and something did not come back."""


class Hour:
    """One run: begins and ends troubles, restarts what ended as a supervisor would, remembers how long it took."""

    def __init__(self, installation: Breakable, load: Load, seed: int) -> None:
        self.installation, self.load = installation, load
        self.chance = random.Random(f"{seed}faults")
        self.troubles = all_of(installation, self.chance)
        self.took: dict[str, list[float]] = defaultdict(list)
        self.ended: list[str] = []
        self._browser = Browser("en")

    def play(self, seconds: float) -> None:
        """Trouble after trouble, one or two at a time, until the time is over."""
        began = time.monotonic()
        order: list[Trouble] = []
        while time.monotonic() - began < seconds and not self.load.failures:
            if len(order) < 2:  # every trouble comes before any comes again
                order += self.chance.sample(self.troubles, len(self.troubles))
            first = order.pop(0)
            both = [first]
            if self.chance.random() < 0.2 and order[0].part != first.part:
                both.append(order.pop(0))
            recovery = self._one(both)
            what = " and ".join(one.name for one in both)
            self.took[what if len(both) == 1 else "two at once"].append(recovery)
            self._say(time.monotonic() - began, f"{what}: whole again after {recovery:.1f} s")
            self._pause(self.chance.uniform(0.5, 4.0))

    def _one(self, troubles: Sequence[Trouble]) -> float:
        for one in troubles:
            one.begin()
        self._pause(self.chance.uniform(0.2, min(one.longest for one in troubles)))
        for one in reversed(troubles):
            one.end()
        began = time.monotonic()
        while waiting := self._not_ready():
            if time.monotonic() - began > RECOVERED_SECONDS:
                raise NotRecovered(f"{', '.join(waiting)} after {' and '.join(one.name for one in troubles)}")
            time.sleep(0.05)
        return time.monotonic() - began

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(0.2, max(0.0, until - time.monotonic())))

    def _not_ready(self) -> list[str]:
        for name in PROCESSES:
            process = self.installation.processes[name]
            if not process.running:
                self.ended.append(f"{name} ended by itself with {process.status}")
                self.installation.start_process(name)
        urls = {name: f"{self.installation.base_url}/{name}/health/ready" for name in READY}
        urls |= {name: self.installation.ready_url(name) for name in PROCESSES if name != "web"}
        return [name for name, url in urls.items() if not self._answers(url)]

    def _answers(self, url: str) -> bool:
        with suppress(OSError):
            return self._browser.get(url).status == 200
        return False

    def _say(self, seconds: float, what: str) -> None:
        people, mails = self.load.crowd.people, len(self.load.crowd.mails.arrived)
        left = sum(bool(one.left) for one in people)
        print(
            f"[{seconds // 60:3.0f}:{seconds % 60:02.0f}] {what}"
            f"   ({len(people)} people, {left} left, {mails} mails, {self.load.issues} issues,"
            f" permits {self.load.decided['granted']} granted {self.load.decided['refused']} refused)",
            flush=True,
        )


def run(minutes: float, seed: int, people_per_second: float, issue_seconds: float) -> int:
    print(f"seed {seed}, {minutes:g} minutes", flush=True)
    settings = {"campaign_rate": "0"}
    with MailServer() as mails, breakable_installation("chaos", lambda: mails.port, settings) as installation:
        world = World(installation)
        crowd = Crowd(installation.base_url, mails, seed, patience=PATIENCE_SECONDS)
        load = Load(world, crowd, seed, people_per_second, issue_seconds)
        hour = Hour(installation, load, seed)
        load.start()
        try:
            hour.play(minutes * 60)
        finally:
            installation.ways.heal()
            load.stop()
        for failure in load.failures:
            traceback.print_exception(failure)
        if load.failures:
            return 1
        print("nobody new comes; judging", flush=True)
        settled(world, seconds=300)
        began = time.monotonic()
        judge(world, crowd)
        log = Log.read(world)
        granted, wrong = wrong_permits(world, log)
        _report(hour, log, granted, time.monotonic() - began)
        for one in wrong:
            print(f"wrong permit {one}")
        return 1 if wrong else 0


def _report(hour: Hour, log: Log, granted: int, seconds: float) -> None:
    people, mails = hour.load.crowd.people, hour.load.crowd.mails.arrived
    print("\n| after | times | whole again, median | longest |\n|---|---|---|---|")
    for name, took in sorted(hour.took.items()):
        print(f"| {name} | {len(took)} | {statistics.median(took):.1f} s | {max(took):.1f} s |")
    for name in sorted(set(hour.ended)):
        print(f"{name}, {hour.ended.count(name)} times, and was started again")
    print(
        f"\n{sum(map(len, hour.took.values()))} troubles, {len(people)} people of whom"
        f" {sum(one.confirmed for one in people)} confirmed and {sum(bool(one.left) for one in people)} left,"
        f" {len(mails)} mails, {len(log.statements)} statements recorded once each, {granted} permits granted."
        f" Judged in {seconds:.0f} s: nothing lost, nothing doubled, the log verifies."
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--people", type=float, default=0.6, help="who come a second")
    parser.add_argument("--issues", type=float, default=60, help="seconds between two issues, about")
    given = parser.parse_args()
    try:
        return run(given.minutes, given.seed, given.people, given.issues)
    except AssertionError:
        traceback.print_exc()
        print(f"seed {given.seed}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
