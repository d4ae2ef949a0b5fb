"""People, an issue now and then, and somebody who keeps asking for permits: as long as it lasts, at a bounded rate."""

from __future__ import annotations

import contextlib
import http.client
import random
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.journeys.people import CLICKS, NEWSLETTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.running.crowd import Crowd, Person
    from tests.journeys.people import World

HANDS: Final = 6
ISSUE_WAIT_SECONDS: Final = 90.0
"""How long somebody who wants to leave by an issue waits for one; then they leave by the welcome mail."""


@dataclass
class Load:
    """`start`, `stop`; after `stop` everybody has come to an end, or `failures` says who has not."""

    world: World
    crowd: Crowd
    seed: int
    people_per_second: float
    issue_seconds: float
    failures: list[BaseException] = field(default_factory=list)
    decided: dict[str, int] = field(default_factory=lambda: {"granted": 0, "refused": 0, "no answer": 0})
    issues: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for work in (self._people, self._issues, self._permits):
            # Chances of its own, or what one thread does would depend on how fast another is.
            chance = random.Random(f"{self.seed}{work.__name__}")
            thread = threading.Thread(target=self._kept, args=(work, chance), name=work.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Nobody new comes; who is here comes to an end."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _kept(self, work: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            work(chance)
        except BaseException as error:  # noqa: BLE001 - whatever it was, the run fails by it
            self.failures.append(error)

    def _people(self, chance: random.Random) -> None:
        with ThreadPoolExecutor(HANDS) as hands:
            going_on = []
            while not self._ended.wait(chance.expovariate(self.people_per_second)):
                waiting = [one for one in going_on if not one.done()]
                if len(waiting) < 2 * HANDS:  # a bad minute is no reason to queue for an hour
                    going_on.append(hands.submit(self._comes_and_goes, self.crowd.comes(1)[0], chance.random()))
            for one in going_on:
                one.result()

    def _comes_and_goes(self, person: Person, stays: float) -> None:
        self.crowd.joins(person)
        if person.leaves_by == "issue":
            until = time.monotonic() + ISSUE_WAIT_SECONDS
            while not self.crowd.mails.to(person.address, "issue") and time.monotonic() < until:
                if self._ended.wait(0.5):
                    break
        elif person.leaves_by:
            self._ended.wait(5 * stays)
        self.crowd.leaves(person)

    def _issues(self, chance: random.Random) -> None:
        while not self._ended.wait(self.issue_seconds * chance.uniform(0.5, 1.5)):
            # Not begun is not sent: the next one comes soon.
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.world.begin_issue()
                self.issues += 1

    def _permits(self, chance: random.Random) -> None:
        """Ask for people who stay and for people who leave, all the time; what was answered stands in the database."""
        subjects: dict[str, str] = {}
        while not self._ended.wait(0.1):
            confirmed = [one.address for one in self.crowd.people[-200:] if one.confirmed]
            if not confirmed:
                continue
            address = chance.choice(confirmed)
            try:
                subject = subjects.get(address) or subjects.setdefault(address, self._subject(address))
                decision = self.world.permit(subject, chance.choice((NEWSLETTER, CLICKS)))["decision"]
            except (OSError, http.client.HTTPException, subprocess.CalledProcessError):
                decision = "no answer"
            self.decided[decision] += 1

    def _subject(self, address: str) -> str:
        [mail, *_] = self.crowd.mails.to(address, "confirmation")
        return self.world.sql(
            "select convert_from(statement, 'UTF8')::jsonb ->> 'subject' from newsletter.outbox"
            f" where id = '{mail.statement}'"
        )
