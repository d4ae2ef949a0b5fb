"""A bad day: one fault, what is seen of it from outside while it lasts and afterwards, and how long each thing took."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from infra.local.installation import DATABASE, READY
from infra.local.screen import until
from infra.local.state import LOCAL
from tests.faults.running.judge import judge, settled
from tests.journeys.people import NEWSLETTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from infra.local.browser import Page
    from tests.faults.breakable import Breakable
    from tests.faults.running.crowd import Crowd, Person
    from tests.journeys.people import World

TIMES: Final = LOCAL / "tests" / "bad-days.json"
LAST_MAIL_SECONDS: Final = 10
"""After an accepted withdrawal: a mark of five seconds and a permit of five seconds."""
_PAUSE: Final = 0.25
_PATIENCE: Final = 3.0


@dataclass(frozen=True)
class Seen:
    """One question and its answer."""

    asked_at: float
    answered_at: float
    answer: str


@dataclass
class Watch:
    """Asks all the time what a sender and an operator ask, and keeps every answer to whether a mail may be sent."""

    installation: Breakable
    world: World
    subject: str
    permits: list[Seen] = field(default_factory=list)
    ready: dict[str, str] = field(default_factory=dict)
    looked_at: float = 0.0
    """When the newest look at every part's readiness began."""

    def __enter__(self) -> Self:
        self._end = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._ask, self._look)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        number = 0
        while not self._end.wait(_PAUSE):
            number += 1
            asked_at, body = time.monotonic(), {"subject": self.subject, "attempt": 1}
            purpose, channel = NEWSLETTER.split("/")
            body |= {"purpose": purpose, "channel": channel, "message_id": f"<w-{id(self)}-{number}@example.org>"}
            status, answer = self._call("/marketing/permits", body)
            said = (answer["reason"] if status == 200 else str(status)) if answer else str(status)
            granted = status == 200 and answer["decision"] == "granted"
            self.permits.append(Seen(asked_at, time.monotonic(), "granted" if granted else said))

    def _look(self) -> None:
        while not self._end.wait(_PAUSE):
            began = time.monotonic()
            for name in (*READY, "ledger-append", "ledger-seal", "audience"):
                own = self.installation._worker_ports.get(name) if name not in READY else None
                base = f"http://127.0.0.1:{own}" if own else self.world.base
                status, answer = self._call(f"/{name}/health/ready", None, base)
                checks = answer.get("checks", {}) if answer else {}
                wrong = "; ".join(f"{part}: {why}" for part, why in checks.items() if why is not True)
                self.ready[name] = "" if status == 200 else wrong or str(status)
            self.looked_at = began

    def _call(self, path: str, body: Any, base: str = "") -> tuple[int | str, Any]:
        headers = {"Authorization": f"Bearer {self.installation.secrets.credential('demo')}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request((base or self.world.base) + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with contextlib.suppress(ValueError, OSError):
                return error.code, json.loads(error.read())
            return error.code, None
        except (OSError, http.client.HTTPException, ValueError):
            return "no answer", None


class Day:
    """`with day("Kafka down") as it: it.breaks(…); …; it.mends(…); …`, and at the end everything is judged."""

    def __init__(self, name: str, installation: Breakable, world: World, crowd: Crowd, watch: Watch) -> None:
        self.name, self.installation, self.world, self.crowd, self.watch = name, installation, world, crowd, watch
        self.broken_at = self.mended_at = 0.0
        self.times: dict[str, float] = {}

    # -- before ----------------------------------------------------------------------------------------------------

    def subscribers(self, number: int) -> list[Person]:
        """So many people who are subscribed, nobody else but the watch's, and nothing is on its way."""
        leaving = [one for one in self.crowd.people[1:] if one.confirmed and not one.left]
        for one in leaving:
            one.leaves_by = "confirmation"
        with self.crowd.doing(self.crowd.leaves, leaving):
            pass
        people = self.crowd.comes(number)
        for person in people:
            person.leaves_by = "confirmation"
        with self.crowd.doing(self.crowd.joins, people):
            pass
        settled(self.world)
        self.granted()
        return people

    # -- the fault -------------------------------------------------------------------------------------------------

    def breaks(self, what: Callable[[], object]) -> None:
        self.broken_at = time.monotonic()
        what()

    def mends(self, what: Callable[[], object]) -> None:
        """Whatever began to be mended now; how long that took itself is part of how long it took."""
        self.mended_at = time.monotonic()
        what()
        self.took("the mending itself", self.mended_at)

    def holds_the_lock(self, schema: str, name: str) -> None:
        """Take an advisory lock away from the process that works under it, and hold it."""
        number = f"hashtextextended('{schema}/{name}', 0)"
        script = (
            f"set application_name = 'thief'; select pg_advisory_lock({number}); select 'held'; select pg_sleep(600)"
        )
        postgres = self.installation.postgres
        psql = [str(postgres.binary("psql")), "-XAtq", "-d", postgres.dsn(database=DATABASE)]
        self._thief = subprocess.Popen([*psql, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        key = f"(select ({number} >> 32) & 4294967295 as high, {number} & 4294967295 as low)"
        ours = f"from pg_locks l join {key} k on l.classid::bigint = k.high and l.objid::bigint = k.low"
        until("a thief in the queue", lambda: self.world.sql(f"select count(*) {ours} where not granted") != "0")
        self.world.sql(f"select pg_terminate_backend(pid) {ours} where granted")

    def lets_the_lock_go(self) -> None:
        self.world.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'thief'")
        self._thief.wait()

    def closes(self, incident: int) -> None:
        """An operator has read it."""
        why = ["--by", "operator", "--reason", "Kafka was made anew; what was not sealed came again"]
        self.installation.command("incidents", "close", str(incident), *why)

    # -- what is seen ----------------------------------------------------------------------------------------------

    def took(self, what: str, since: float) -> None:
        self.times[what] = round(time.monotonic() - since, 1)

    def refuses(self, *reasons: str, within: float = 30) -> None:
        """Permits are refused, for one of these reasons, and from now on until something is mended."""

        def refused() -> bool:
            return self.watch.permits[-1].asked_at > self.broken_at and self.watch.permits[-1].answer in reasons

        until(f"a permit refused: {' or '.join(reasons)}", refused, within)
        self.took("until permits are refused", self.broken_at)
        self._refused_at = time.monotonic()

    def shows(self, service: str, what: str, within: float = 60) -> None:
        """An operator sees it: readiness names it."""
        until(f"{what} at {service}", lambda: what in self.watch.ready.get(service, ""), within)
        self.took(f"until {service} says so", self.broken_at)

    def logs(self, process: str, event: str, within: float = 60) -> None:
        """The log of a process says so, since this day began."""
        until(f"{event} in the log of {process}", lambda: self._logged(process, event), within)

    def _logged(self, process: str, event: str) -> bool:
        with (self.installation.logs / f"{process}.log").open("rb") as log:
            log.seek(self._log_ends.get(process, 0))
            return f'"{event}"'.encode() in log.read()

    def leaves(self, person: Person, *, stopped: bool) -> None:
        """Somebody withdraws now, and is told the truth: stopped, or accepted and will stop."""
        self.crowd.leaves(person)
        assert person.left[0].stopped is stopped

    def confirm_without_welcome(self, people: list[Person]) -> None:
        """They sign up, get their mail and confirm while something is broken."""
        until("their confirmations", lambda: all(one.confirmed for one in people), 90)
        assert not any(self.crowd.mails.to(one.address, "welcome") for one in people)

    def granted(self, within: float = 120) -> None:
        """Permits are granted again, and everybody is ready."""
        asked = len(self.watch.permits)
        since = time.monotonic()
        until(
            "a permit",
            lambda: any(one.answer == "granted" and one.asked_at > since for one in self.watch.permits[asked:]),
            within,
        )
        if self.mended_at:
            self.took("until permits are granted again", self.mended_at)

    def recovers(self, within: float = 120) -> None:
        """All that was accepted is sealed, permits are granted again, and every part says that it is ready."""
        refused = [one for one in self.watch.permits if self._refused_at <= one.asked_at < self.mended_at]
        assert all(one.answer != "granted" for one in refused)
        self.granted(within)
        self.all_sealed(within)
        self.ready_again(within)

    def is_out(self, name: str) -> None:
        """An issue that was begun comes to its end; what would be tried again later is tried again now."""
        settled(self.world)
        self.world.issue_is_out(name)
        self.took("until an issue is out", self.mended_at)

    def all_sealed(self, within: float = 120) -> None:
        open_rows = "select (select count(*) from newsletter.outbox where sealed_at is null)"
        open_rows += " + (select count(*) from marketing.outbox where sealed_at is null)"
        until("the end of what waited", lambda: self.world.sql(open_rows) == "0", within)
        self.took("until all that was accepted is sealed", self.mended_at)

    def ready_again(self, within: float = 120) -> None:
        """Every part says that it is ready, asked after the mending."""
        mended = time.monotonic()
        until("a look", lambda: self.watch.looked_at > mended, within)
        try:
            until("readiness", lambda: not any(self.watch.ready.values()), within)
        except Exception as error:
            error.add_note(str(self.watch.ready))
            raise
        self.took("until everything is ready", self.mended_at)

    # -- how it ends -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._refused_at = float("inf")
        self._log_ends = {log.stem: log.stat().st_size for log in self.installation.logs.glob("*.log")}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        judge(self.world, self.crowd)
        self._no_mail_came_late()
        self._permits_were_fresh()
        known = json.loads(TIMES.read_text("utf-8")) if TIMES.exists() else {}
        TIMES.write_text(json.dumps(known | {self.name: self.times}, indent=1), "utf-8")

    def _no_mail_came_late(self) -> None:
        """Whatever was broken: ten seconds after an accepted withdrawal no advertising leaves."""
        for person in self.crowd.people:
            for left in person.left:
                for mail in self.crowd.mails.to(person.address, "issue"):
                    assert mail.at <= left.at + LAST_MAIL_SECONDS or NEWSLETTER not in left.purposes

    def _permits_were_fresh(self) -> None:
        """Every permit that was ever granted rests on marks that were at most five seconds old."""
        late = (
            "select count(*) from marketing.permit where decision = 'granted' and (all_before is null"
            " or issued_at - all_before::timestamptz not between interval '0' and interval '5 s')"
        )
        assert self.world.sql(late) == "0"


@contextlib.contextmanager
def healed(installation: Breakable) -> Iterator[None]:
    """Whatever a test did to ways and clocks ends with it."""
    try:
        yield
    finally:
        installation.ways.heal()


def page(ask: Callable[[], Page]) -> Page | None:
    """What a person sees; None if it is nothing."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask()
    return None
