"""People who go on using an installation whatever becomes of it, and remember what they were told."""

from __future__ import annotations

import contextlib
import http.client
import random
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from infra.local.browser import Browser, Page
from infra.local.screen import until
from tests.journeys.people import CLICKS, NEWSLETTER, ONE_CLICK, stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.running.mail_server import Arrived, Kind, MailServer

PATIENCE_SECONDS: Final = 60
HANDS: Final = 6


@dataclass(frozen=True)
class Left:
    """A withdrawal that was answered."""

    by: Arrived
    purposes: frozenset[str]
    stopped: bool
    at: float


@dataclass
class Person:
    """What one person decided, and what the pages answered."""

    address: str
    clicks: bool
    leaves_by: str
    thanked: bool = False
    confirmed: bool = False
    left: list[Left] = field(default_factory=list)

    @property
    def purposes(self) -> frozenset[str]:
        return frozenset({NEWSLETTER, CLICKS} if self.clicks else {NEWSLETTER})


class Crowd:
    """People whose every choice comes from one seed. `door` is the way to whichever web process answers now."""

    def __init__(self, base_url: str, mails: MailServer, seed: int, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self.base_url = self.door = base_url
        self.mails = mails
        self.people: list[Person] = []
        self._chance = random.Random(seed)

    def comes(self, number: int) -> list[Person]:
        """As many people as nobody knows yet."""
        new = [
            Person(
                f"p{len(self.people) + count}.{secrets.token_hex(3)}@example.org",
                self._chance.random() < 0.5,
                self._chance.choice(("confirmation", "welcome", "issue", "")),
            )
            for count in range(number)
        ]
        self.people += new
        return new

    def some_of(self, number: int) -> int:
        """Neither none nor all of them."""
        return self._chance.randint(1, number - 1)

    @contextlib.contextmanager
    def doing(self, what: Callable[[Person], None], people: list[Person]) -> Iterator[None]:
        """All of them at once, while something else happens; on leaving, all have come to an end."""
        with ThreadPoolExecutor(HANDS) as hands:
            going_on = [hands.submit(what, person) for person in people]
            yield
            for one in going_on:
                one.result()

    # -- what each of them does ------------------------------------------------------------------------------------

    def joins(self, person: Person) -> None:
        """The whole double opt-in, to the welcome mail."""
        self.signs_up(person)
        self.confirms(person)

    def joins_or_leaves(self, person: Person) -> None:
        """Whoever is not subscribed joins; whoever is, leaves if that was decided."""
        (self.leaves if person.confirmed else self.joins)(person)

    def signs_up(self, person: Person) -> None:
        browser = Browser("en")
        page = self._insist(lambda: browser.get(f"{self.door}/newsletter"))
        form = page.form("email")
        filled = form.filled(person.address, person.purposes)
        answer = self._insist(lambda: browser.post(f"{self.door}/newsletter", filled))
        assert answer.status == 200
        person.thanked = True

    def confirms(self, person: Person) -> None:
        browser, link = Browser("en"), self._mail(person, "confirmation").mail.confirm_link
        answer = self._insist(lambda: browser.post(self._here(link), []))
        assert answer.status == 200
        person.confirmed = True

    def leaves(self, person: Person) -> None:
        """By one of the mails: of the confirmation, the welcome or an issue. Who leaves by none, stays."""
        if not person.leaves_by:
            return
        # An issue that was cut off is never sent again, so nobody waits for one.
        issue = self.mails.to(person.address, "issue")[-1:] if person.leaves_by == "issue" else []
        [mail] = issue or [self._mail(person, "confirmation" if person.leaves_by == "confirmation" else "welcome")]
        link = mail.mail.way_out
        answer = self._insist(lambda: Browser("en", "MailboxProvider/1.0").post(self._here(link), ONE_CLICK))
        assert answer.status == 200
        purposes = frozenset({NEWSLETTER}) if mail.kind == "issue" else person.purposes
        person.left.append(Left(mail, purposes, stopped(answer), time.monotonic()))

    def _mail(self, person: Person, kind: Kind) -> Arrived:
        what = f"the {kind} mail"
        found: list[Arrived] = until(what, lambda: self.mails.to(person.address, kind), self._patience)
        return found[0]

    def _here(self, link: str) -> str:
        return link.replace(self.base_url, self.door)

    def _insist(self, ask: Callable[[], Page]) -> Page:
        """Ask again until somebody answers: exactly what people, browsers and mailbox providers do."""

        def answer() -> Page | None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                page = ask()
                return page if page.status < 500 else None
            return None

        page: Page = until("an answer", answer, self._patience)
        return page
