"""Every alert is provoked on a running product until it fires, and made good again until it is silent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from infra.local.installation import CommandFailed
from infra.local.screen import until
from shared.kafka import Outgoing, Producer
from shared.topics import RECORDED, STATED
from tests.alerts.server import OBSERVABILITY, program
from tests.journeys.people import Mail, Person, World, granted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.local.installation import Installation
    from tests.alerts.conftest import Moody
    from tests.alerts.server import Prometheus
    from tests.parts import KafkaPart, PostgresPart

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Subscriber:
    """Somebody who gets the newsletter."""

    person: Person
    subject: str
    welcome: Mail


def asks(world: World, mails: Moody) -> tuple[Person, Mail]:
    """Somebody signs up; the confirmation mail."""
    person = world.person()
    assert person.send_form(person.open_form()).status == 200
    arrived = until("the confirmation mail", lambda: mails.to(person.address, "confirmation"), 30)
    return person, arrived[0].mail


def subscribes(world: World, mails: Moody) -> Subscriber:
    """The whole double opt-in, up to a permit."""
    person, confirmation = asks(world, mails)
    assert person.press_confirm(confirmation.confirm_link).status == 200
    welcome = until("the welcome mail", lambda: mails.to(person.address, "welcome"), 30)[0].mail
    subject = person.subject(confirmation)
    granted(world, subject)
    return Subscriber(person, subject, welcome)


def sends(installation: Installation, topic: str, value: bytes) -> None:
    """Somebody who has no key writes to a topic."""

    async def run() -> None:
        producer = Producer(installation.kafka.bootstrap)
        try:
            place = installation.settings().topic(topic)
            await producer.send_many([Outgoing(place, 0, None, value, [("kind", b"statement"), ("mac", b"none")])])
        finally:
            await producer.stop()

    asyncio.run(run())


@contextlib.contextmanager
def session(world: World, statement: str) -> Iterator[subprocess.Popen[bytes]]:
    """A session of PostgreSQL that holds what this statement locked."""
    postgres = world.installation.postgres
    psql = [str(postgres.binary("psql")), "-XAtq", "-d", postgres.dsn(database=world.installation.database)]
    with subprocess.Popen(psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"begin; {statement};\n\\echo locked\n".encode())
        process.stdin.flush()
        while process.stdout.readline() != b"locked\n":
            pass
        try:
            yield process
        finally:
            process.stdin.close()


def test_the_rules_hold_what_their_cases_say() -> None:
    for arguments in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ):
        done = subprocess.run(
            [program("promtool"), *arguments], cwd=OBSERVABILITY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_panel_of_the_dashboard_draws_something(world: World, mails: Moody, prometheus: Prometheus) -> None:
    """Each query is one that Prometheus understands, and only what never happens while all is well draws nothing."""
    subscriber = subscribes(world, mails)
    world.issue_is_out(world.begin_issue())
    assert subscriber.person.one_click(subscriber.welcome.way_out).status == 200
    panels = json.loads((OBSERVABILITY / "dashboard.json").read_text("utf-8"))["panels"]
    queries = {panel["title"]: [target["expr"] for target in panel.get("targets", [])] for panel in panels}
    waited_for = {title for title, asked in queries.items() if asked} - {
        "Pages that failed",
        "Refused by a limit, and links that open nothing",
        "Messages rejected",
        "Not ready",
        "Time since a witness cosigned",  # this installation has none
    }
    assert len(waited_for) > 20

    def empty() -> set[str]:
        return {title for title, asked in queries.items() if asked and not any(map(prometheus.ask, asked))}

    until("something on every panel", lambda: not empty() & waited_for, 30)


def test_a_signer_that_hangs(installation: Installation, world: World, mails: Moody, prometheus: Prometheus) -> None:
    """ProcessDown, SignerSilent, StatementsNotSealed, StatementsResent, SourceNotHeard, FollowerBehind,
    PermitsFailClosed, WithdrawalsWait, NotReady, AudienceStale."""
    stays, leaves = subscribes(world, mails), subscribes(world, mails)

    def go_on() -> None:
        assert world.permit(stays.subject)["reason"] != "no-consent-in-force"
        assert leaves.person.one_click(leaves.welcome.way_out).status == 200

    signer = installation.processes["ledger-seal"]
    signer.send(signal.SIGSTOP)
    try:
        answer = leaves.person.one_click(leaves.welcome.way_out)
        assert answer.headers.get("consent-effect") == "accepted"
        fired = prometheus.fires(
            "ProcessDown",
            "SignerSilent",
            "StatementsNotSealed",
            "StatementsResent",
            "SourceNotHeard",
            "FollowerBehind",
            "PermitsFailClosed",
            "WithdrawalsWait",
            "NotReady",
            "AudienceStale",
            meanwhile=go_on,
            seconds=120,
        )
    finally:
        signer.send(signal.SIGCONT)
    assert {one.labels["service"] for one in fired if one.name == "ProcessDown"} == {"ledger-seal"}
    assert {one.labels["service"] for one in fired if one.name == "FollowerBehind"} == {"marketing", "subjects"}
    assert {one.labels["source"] for one in fired if one.name == "SourceNotHeard"} >= {"newsletter"}
    prometheus.falls_silent()
    granted(world, stays.subject)
    assert world.permit(leaves.subject)["reason"] == "no-consent-in-force"


def test_a_statement_that_is_missing(
    installation: Installation, world: World, mails: Moody, prometheus: Prometheus
) -> None:
    """IncidentOpen; closed as the runbook says."""
    asks(world, mails)
    world.sql("update newsletter.outbox_sequence set last = last + 1")
    asks(world, mails)
    [incident] = [one for one in prometheus.fires("IncidentOpen") if one.name == "IncidentOpen"]
    assert incident.labels["kind"] == "sequence-gap"
    number = world.sql("select number from ledger.incident where closed_at is null")
    assert f'"number": {number}' in installation.command("incidents", "list")
    installation.command("incidents", "close", number, "--by", "Ina Beispiel", "--reason", "a number was burnt")
    held_up = "select count(*) from newsletter.outbox where sealed_at is null"
    until("all that was behind the gap", lambda: world.sql(held_up) == "0", 30)


def test_somebody_without_a_key_writes_to_kafka(
    installation: Installation, world: World, prometheus: Prometheus
) -> None:
    """RejectUnhandled and DoubtfulMessage; the reject is handled as the runbook says."""
    sends(installation, STATED, b"{}")
    sends(installation, RECORDED, b"{}")
    fired = prometheus.fires("RejectUnhandled", "DoubtfulMessage")
    assert {one.labels["reason"] for one in fired if one.name == "RejectUnhandled"} == {"unknown-key"}
    number = world.sql("select number from ledger.rejected where handled_at is null")
    assert f'"number": {number}' in installation.command("rejected", "list")
    installation.command("rejected", "handle", number, "--by", "Ina Beispiel", "--reason", "a probe of ours")
    prometheus.falls_silent()
    assert installation.command("rejected", "list") == ""


def test_a_mail_server_that_takes_nothing(world: World, mails: Moody, prometheus: Prometheus) -> None:
    """MailsWait."""
    mails.mood = "451 4.3.0 later"
    person = world.person()
    assert person.send_form(person.open_form()).status == 200
    waiting = "select attempts from newsletter.mail where state = 'waiting'"
    until("an attempt", lambda: world.sql(waiting) not in {"", "0"}, 30)
    world.sql("update newsletter.mail set created_at = created_at - interval '10 minutes' where state = 'waiting'")
    prometheus.fires("MailsWait")
    mails.mood = ""
    world.sql("update newsletter.mail set next_attempt_at = clock_timestamp() where state = 'waiting'")
    world.sql("notify newsletter_mail")
    until("the mail", lambda: mails.to(person.address, "confirmation"), 30)


def test_a_mail_server_that_lets_an_issue_wait_and_then_refuses_it(
    world: World, mails: Moody, prometheus: Prometheus
) -> None:
    """CampaignStands and CampaignMailsFail."""
    subscribes(world, mails)
    mails.mood = "451 4.3.0 later"
    issue = world.begin_issue()
    prometheus.fires("CampaignStands")
    mails.mood = "550 5.7.1 no"
    try:
        world.sql("update marketing.delivery set not_before = clock_timestamp() where state = 'waiting'")
        world.sql("notify marketing_campaign")
        prometheus.fires("CampaignMailsFail")
    finally:
        mails.mood = ""
    world.issue_is_out(issue)


def test_a_database_that_is_away(world: World, mails: Moody, postgres: PostgresPart, prometheus: Prometheus) -> None:
    """PagesFail and NotReady."""
    person, confirmation = asks(world, mails)
    person.quiet(person.subject(confirmation))
    postgres.server.stop()
    try:
        fired = prometheus.fires(
            "PagesFail", "NotReady", meanwhile=lambda: person.browser.get(confirmation.confirm_link), seconds=90
        )
    finally:
        postgres.server.restart()
    assert {one.labels["check"] for one in fired if one.name == "NotReady"} >= {"postgresql"}
    until("the page", lambda: person.browser.get(confirmation.confirm_link).status == 200, 60)


def test_a_broker_that_is_away(kafka: KafkaPart, world: World, mails: Moody, prometheus: Prometheus) -> None:
    """NotReady, by every process that needs it; and it is said what it waits for."""
    subscriber = subscribes(world, mails)
    needs_it = {"newsletter", "subjects", "ledger-append", "ledger-seal", "marketing", "erasure", "audience"}
    said: set[str] = set()

    def all_say_so() -> bool:
        said.update(one.labels["service"] for one in prometheus.firing() if one.name == "NotReady")
        return said >= needs_it

    kafka.server.stop()
    try:
        until("every process that needs Kafka says so", all_say_so, 60)
    finally:
        kafka.server.restart()
    assert said == needs_it
    granted(world, subscriber.subject)


def test_a_row_that_was_altered_and_a_check_that_nobody_runs(
    installation: Installation, world: World, mails: Moody, prometheus: Prometheus
) -> None:
    """LogCheckFailed and LogNotChecked; both end with the command of the runbook."""
    asks(world, mails)
    flip = """
        set session_replication_role = replica;
        update ledger.payload set payload = set_byte(payload, 40, get_byte(payload, 40) # 1)
        where (shard, index) = (select shard, index from ledger.payload order by shard, index limit 1)
    """
    world.sql(flip)
    with pytest.raises(CommandFailed) as failed:
        installation.command("log", "check")
    assert "wrong: payload, shard 0" in failed.value.printed
    prometheus.fires("LogCheckFailed")
    world.sql(flip)
    world.sql("update ledger.log_check set checked_at = checked_at - interval '9 days'")
    prometheus.fires("LogNotChecked")
    assert "verify" in installation.command("log", "check")


def test_a_row_that_the_check_behind_the_signer_finds(
    installation: Installation, world: World, mails: Moody, prometheus: Prometheus
) -> None:
    """IncidentOpen and LogCheckFailed, without anybody having looked; dealt with as the runbook says."""
    asks(world, mails)
    world.sql("insert into ledger.arrived values (0, 'newsletter', 999999)")
    fired = prometheus.fires("IncidentOpen", "LogCheckFailed")
    assert {one.labels["kind"] for one in fired if one.name == "IncidentOpen"} == {"wrong-row"}
    number = world.sql("select number from ledger.incident where closed_at is null")
    listed = installation.command("incidents", "list")
    assert "source newsletter: number 999999 counts as arrived, and nothing stands under it" in listed
    with pytest.raises(CommandFailed) as failed:
        installation.command("log", "check")
    assert "wrong: arrived, shard 0, source newsletter" in failed.value.printed
    world.sql("delete from ledger.arrived where sequence = 999999")
    assert "verify" in installation.command("log", "check")
    installation.command("incidents", "close", number, "--by", "Ina Beispiel", "--reason", "our own test")


def test_a_check_that_stands_still(world: World, prometheus: Prometheus) -> None:
    """CheckBehind; it goes on by itself."""
    long_ago = "update ledger.log_check set followed_at = least(followed_at, now() - interval '1 hour')"
    with session(world, "lock table ledger.lost_record in access exclusive mode"):
        prometheus.fires("CheckBehind", meanwhile=lambda: world.sql(long_ago))


def test_a_witness_that_says_nothing(world: World, prometheus: Prometheus) -> None:
    """WitnessSilent; one that is no longer wanted is gone with the next start of the signer."""
    world.sql(
        "insert into ledger.witness (shard, key, name, added_at)"
        " values (0, 'neighbour.example+00000000', 'neighbour', now() - interval '2 hours')"
    )
    fired = prometheus.fires("WitnessSilent")
    assert {one.labels["witness"] for one in fired if one.name == "WitnessSilent"} == {"neighbour"}
    world.sql("delete from ledger.witness")


def test_a_deletion_that_does_not_happen(world: World, mails: Moody, prometheus: Prometheus) -> None:
    """EndsOverdue: somebody holds the row, and the sweeper leaves alone what is held."""
    person, confirmation = asks(world, mails)
    subject = person.subject(confirmation)
    with session(world, f"select from newsletter.request where subject = '{subject}' for key share"):
        world.sql(
            f"update newsletter.request set expires_at = expires_at - interval '30 days' where subject = '{subject}'"
        )
        fired = prometheus.fires("EndsOverdue")
    assert {one.labels["duty"] for one in fired if one.name == "EndsOverdue"} == {"expiry"}
    world.sweep()


def test_a_holder_that_does_not_come_to_its_end(world: World, mails: Moody, prometheus: Prometheus) -> None:
    """ErasureWaits: somebody holds what the newsletter is to delete."""
    subscriber = subscribes(world, mails)
    body = {"subject": subscriber.subject, "reason": "consent-withdrawn", "by": "person"}
    with session(world, f"select from newsletter.request where subject = '{subscriber.subject}' for key share"):
        request = world.call("POST", "/erasure/orders", body)["request"]
        world.sql(f"update erasure.erasure_order set ordered_at = now() - interval '2 h' where request = '{request}'")
        prometheus.fires("ErasureWaits")
    until("it is done", lambda: world.call("GET", f"/erasure/orders/{request}")["state"] == "completed", 60)
