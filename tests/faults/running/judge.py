"""Says of a running installation, after whatever was done to it, that nothing acknowledged is missing or doubled.

It believes what people were told, what the mail server got, what the reader finds in the log, and what HTTP answers.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from infra.local.screen import Broken, until
from services.marketing.domain import NOT_KNOWN
from shared.events import Standing, Statement, parse
from tests.integration.ledger.world import Judgement
from tests.integration.ledger.world import World as Ledger
from tests.journeys.people import CLICKS, NEWSLETTER

if TYPE_CHECKING:
    from tests.faults.running.crowd import Crowd, Left, Person
    from tests.faults.running.mail_server import Arrived
    from tests.journeys.people import World

SETTLED_SECONDS: Final = 40
ON_ITS_WAY: Final = """
    select what || ' ' || number from (values
        ('newsletter.outbox', (select count(*) from newsletter.outbox where sealed_at is null)),
        ('marketing.outbox', (select count(*) from marketing.outbox where sealed_at is null)),
        ('newsletter.mail', (select count(*) from newsletter.mail where ended_at is null)),
        ('marketing.delivery', (select count(*) from marketing.delivery where state in ('waiting', 'attempted'))),
        ('ledger.checkpoint', (select size from ledger.head) - (select max(size) from ledger.checkpoint)),
        ('marketing.position', (select size from ledger.head) - (select next from marketing.position)),
        ('subjects.position', (select size from ledger.head) - (select next from subjects.position)),
        ('audience', (select size from ledger.head) - (select next from marketing.audience_position))
    ) as parts (what, number) where number <> 0
"""
NOW: Final = """
    update newsletter.mail set next_attempt_at = clock_timestamp()
        where ended_at is null and next_attempt_at > clock_timestamp();
    update marketing.delivery set not_before = clock_timestamp()
        where state = 'waiting' and not_before > clock_timestamp();
    notify newsletter_mail; notify marketing_campaign;
"""


def settled(world: World, seconds: float = SETTLED_SECONDS) -> None:
    """Wait until nothing is on its way any more; what would be tried again later is tried again now."""

    left = ""

    def nothing() -> bool:
        nonlocal left
        left = world.sql(ON_ITS_WAY)
        if left:
            world.sql(NOW)
        return not left

    try:
        until("the end of all that was on its way", nothing, seconds)
    except Broken as error:
        error.add_note(left)
        raise


@dataclass
class Log:
    """The recorded history, read and verified by the reader, and its fold."""

    statements: list[Statement] = field(default_factory=list)
    standings: dict[str, Standing] = field(default_factory=lambda: defaultdict(lambda: Standing({})))
    by_subject: dict[str, list[Statement]] = field(default_factory=lambda: defaultdict(list))
    indexes: dict[str, int] = field(default_factory=dict)
    """of a statement, by its id"""
    sent: dict[str, Statement] = field(default_factory=dict)
    """each MessageSent by its id"""

    @classmethod
    def read(cls, world: World) -> Log:
        judged = asyncio.run(_judged(world))
        assert judged.sealed == judged.size
        log = cls()
        for raw, matter in zip(judged.statements, judged.matters, strict=True):
            statement = parse(raw)
            log.statements.append(statement)
            log.indexes[statement.id] = judged.indexes[raw]
            log.by_subject[statement.subject].append(statement)
            if statement.type == "MessageSent":
                log.sent[statement.id] = statement
            before = log.standings[statement.subject]
            log.standings[statement.subject], overtaken = before.apply(statement, judged.indexes[raw])
            assert overtaken == matter.startswith("overtaken:")
        assert len({one.id for one in log.statements}) == len(log.statements)
        accepted = world.sql(
            "select encode(statement, 'hex') from newsletter.outbox union all"
            " select encode(statement, 'hex') from marketing.outbox"
        ).split()
        assert Counter(bytes.fromhex(one) for one in accepted) == Counter(judged.statements)
        return log

    def subject_of(self, mail: Arrived) -> str:
        return self.sent[mail.statement].subject

    def permits(self, subject: str, purpose: str) -> bool:
        return self.standings[subject].permits(*purpose.split("/"))


async def _judged(world: World) -> Judgement:
    ledger = Ledger(world.installation.settings(), world.installation.secrets)
    try:
        return await ledger.judge()
    finally:
        await ledger.close()


def judge(world: World, crowd: Crowd) -> None:
    """Everything that must hold, of everybody who ever came."""
    settled(world)
    assert "wrong" not in world.installation.command("log", "check")
    assert world.sql("select count(*) from ledger.rejected") == "0"
    assert world.sql("select count(*) from ledger.incident where closed_at is null") == "0"
    log = Log.read(world)
    for person in crowd.people:
        _was_told_the_truth(world, log, crowd, person)
    _each_mail_is_one_mail(log, crowd)
    _marketing_is_a_fold(world, log)
    _the_audience_is_a_fold(world, log)


def _was_told_the_truth(world: World, log: Log, crowd: Crowd, person: Person) -> None:
    assert person.thanked
    confirmation = crowd.mails.to(person.address, "confirmation")[0]
    subject = log.subject_of(confirmation)
    types = Counter((one.type, _key(one)) for one in log.by_subject[subject])
    every = {NEWSLETTER, CLICKS}
    assert {key for kind, key in types if kind == "ConsentRequested"} == person.purposes
    assert {key for kind, key in types if kind == "ConsentRefused"} == every - person.purposes
    given = person.purposes if person.confirmed else frozenset()
    assert {key for kind, key in types if kind == "ConsentGiven"} == given
    assert all(number == 1 for (kind, _), number in types.items() if kind in {"ConsentRequested", "ConsentGiven"})
    if not person.left:
        welcome = crowd.mails.to(person.address, "welcome")
        assert len(welcome) == person.confirmed
    withdrawn = [one for one in log.by_subject[subject] if one.type == "ConsentWithdrawn"]
    expected = Counter((left.by.statement, key) for left in person.left for key in left.purposes)
    assert Counter((*one.data.follows, _key(one)) for one in withdrawn) == expected
    named: set[str] = set()
    for one in withdrawn:
        effect = world.call("GET", f"/marketing/effects/{one.id}?wait=5")
        named |= set(effect["in_transmission"])
    for left in person.left:
        _nothing_came_after(crowd, person, left, named)
    for key in every:
        assert _permit(world, subject, key) == log.permits(subject, key)


def _permit(world: World, subject: str, key: str) -> bool:
    """Whether a permit is granted, by somebody who knows: who does not know now, on a busy machine, is asked again."""

    def known() -> dict[str, Any] | None:
        answer = world.permit(subject, key)
        return None if answer["reason"] in NOT_KNOWN else answer

    found: dict[str, Any] = until("a permit's decision", known, SETTLED_SECONDS)
    return bool(found["decision"] == "granted")


def _nothing_came_after(crowd: Crowd, person: Person, left: Left, named: set[str]) -> None:
    """No advertising comes after the answer *stopped* but what was named as on its way when it was given."""
    if left.stopped and NEWSLETTER in left.purposes:
        late = {one.mail.message_id for one in crowd.mails.to(person.address, "issue") if one.at > left.at}
        assert late <= named


def _each_mail_is_one_mail(log: Log, crowd: Crowd) -> None:
    """What came is what was recorded: advertising once, everything else at least once and alike."""
    used = {one.data.permit.id for one in log.statements if one.type == "ConsentUsed"}
    came: dict[str, list[Arrived]] = defaultdict(list)
    for mail in list(crowd.mails.arrived):
        came[mail.statement].append(mail)
    for statement, mails in came.items():
        recorded = log.sent[statement]
        assert recorded.data.kind == ("newsletter" if mails[0].kind == "issue" else mails[0].kind)
        assert recorded.data.outcome in {"accepted", "unknown"}
        assert len({(mail.to, mail.mail.raw) for mail in mails}) == 1
        if mails[0].kind == "issue":
            assert len(mails) == 1
            assert recorded.data.permit in used
    for statement, recorded in log.sent.items():
        assert recorded.data.outcome != "accepted" or statement in came


def _marketing_is_a_fold(world: World, log: Log) -> None:
    found = json.loads(
        world.sql("select coalesce(json_agg(array[subject, matter, status, statement::text, index::text]), '[]')"
                  " from marketing.word")
    )  # fmt: skip
    assert {tuple(row) for row in found} == {
        (subject, matter, word.status, word.statement, str(word.index))
        for subject, standing in log.standings.items()
        for matter, word in standing.words.items()
    }


def _the_audience_is_a_fold(world: World, log: Log) -> None:
    people = Counter(
        (matter.removeprefix("purpose:"))
        for subject, standing in log.standings.items()
        for matter in standing.words
        if matter.startswith("purpose:") and log.permits(subject, matter.removeprefix("purpose:"))
    )

    def shown() -> dict[str, Any]:
        return dict(world.call("GET", "/marketing/audience"))

    audience = shown()
    assert Counter({f"{one['purpose']}/{one['channel']}": one["people"] for one in audience["purposes"]}) == people
    hours: Counter[str] = Counter()
    for one in audience["hours"]:
        hours[one["type"]] += one["number"]
    assert hours == Counter(one.type for one in log.statements)


def _key(statement: Statement) -> str:
    return f"{getattr(statement.data, 'purpose', None)}/{getattr(statement.data, 'channel', None)}"
