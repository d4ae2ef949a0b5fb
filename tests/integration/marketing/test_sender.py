"""Campaigns over real SMTP: each mail under a permit of its own, at most once, and nothing after a withdrawal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from services.marketing import store
from shared.client import ServiceClient
from shared.clock import utc_now
from shared.errors import Unavailable
from shared.mail import MailServer
from shared.sealing import from_base64url
from shared.way_out import WayOut, open_token
from tests.integration.marketing.conftest import Marketing
from tests.integration.marketing.office import NOWHERE, TEXTS, Office, opened
from tests.integration.shared.edges import Fault, FaultyDatabase
from tests.parts import Database as OwnDatabase
from tests.unit.marketing.history import withdrawn, withdrawn_all


@pytest.fixture
async def office(marketing: Marketing, database: OwnDatabase, tmp_path: Path) -> AsyncIterator[Office]:
    """Yield marketing with subjects, the ledger's attachments and a mail server; nothing runs by itself."""
    async with opened(marketing, database, tmp_path) as everything:
        yield everything


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - tables do not say when they change
            await asyncio.sleep(0.01)


async def test_a_mail_goes_out_with_a_way_out_and_is_recorded_with_the_consent_it_rests_on(office: Office) -> None:
    subject = await office.subscriber("Ada@example.org")
    await office.campaign()
    [delivery] = await office.due()
    await office.send()

    assert office.inbox.recipients == ["Ada@example.org"]
    [mail] = office.inbox.mails
    token = str(mail["List-Unsubscribe"]).removeprefix("<https://example.org/newsletter/unsubscribe/").removesuffix(">")
    way_out = open_token(office.secrets.way_out_keys(), token)
    assert way_out == WayOut(subject, (("newsletter", "email"),), delivery.statement)
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail["Message-ID"] == f"<{delivery.statement}@mail.example.org>"
    text, page = (mail.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert page is not None
    assert "es gibt <Neues>." in text.get_content()
    assert f"/newsletter/unsubscribe/{token}?lang=" in text.get_content()
    assert "es gibt &lt;Neues&gt;." in page.get_content()

    used, sent = await office.stated()
    [permit] = await office.marketing.db.fetch("select * from permit")
    assert (used.type, sent.type, sent.id) == ("ConsentUsed", "MessageSent", delivery.statement)
    assert used.data.follows == [str(permit["relied_on"])]
    assert used.data.permit.id == sent.data.permit == str(permit["id"])
    assert used.data.permit.all_before == permit["all_before"]
    assert (sent.data.follows, sent.data.outcome, sent.data.attempts) == ([used.id], "accepted", 1)
    assert used.data.act == sent.data.act
    assert permit["finished_at"] is not None
    assert await office.states() == [("sent", None, 1)]


async def test_the_archived_mail_is_what_was_sent_and_the_answer_is_sealed(office: Office) -> None:
    office.inbox.answers = ["250 thank you, ada@example.org"]
    await office.subscriber()
    await office.campaign()
    await office.send()
    [sent] = await office.stated("MessageSent")
    [attachment] = sent.data.attachments
    kept = await office.ledger.get(f"/ledger/attachments/{attachment.hash}")
    assert len(kept.body) == attachment.size
    assert b"ada" not in kept.body
    sealed = sent.data.sealed["evidence"]
    assert b"ada" not in from_base64url(sealed.ciphertext)
    # The same bytes sealed again give the same ciphertext: so what is archived is what arrived.
    again = await office.sender()._archive(_as_delivery(sent.id, sent.subject), office.inbox.raw[0])
    assert again == attachment


def _as_delivery(statement: str, subject: str) -> store.Delivery:
    return store.Delivery(statement, subject, "de", 1, "newsletter", "email", TEXTS["de"], utc_now())


async def test_everybody_gets_the_language_of_the_notice_they_agreed_to_if_there_is_one(office: Office) -> None:
    await office.subscriber("de@example.org", "de")
    await office.subscriber("en@example.org", "en")
    await office.campaign()
    assert [delivery.language for delivery in await office.due()] == ["de", "de"]


async def test_who_withdrew_before_is_not_asked_for(office: Office) -> None:
    subject = await office.subscriber()
    await office.marketing.record(withdrawn(subject, 1))
    await office.campaign()
    assert await office.due() == []


@pytest.mark.parametrize("word", [withdrawn, withdrawn_all], ids=["one purpose", "everything"])
async def test_who_withdraws_during_the_campaign_is_skipped(office: Office, word: Callable[..., object]) -> None:
    first, second = await office.subscriber("a@example.org"), await office.subscriber("b@example.org")
    await office.campaign()
    await office.marketing.record(word(second, 1))  # type: ignore[arg-type]
    await office.send()
    assert office.inbox.recipients == ["a@example.org"]
    rows = await office.marketing.db.fetch("select subject, state, reason from delivery")
    assert {tuple(row) for row in rows} == {(first, "sent", None), (second, "skipped", "no-consent-in-force")}


@pytest.mark.parametrize("door", ["/subjects/open", "/subjects/seal", "/ledger/attachments"])
async def test_who_withdraws_while_the_mail_is_prepared_gets_none(office: Office, door: str) -> None:
    subject = await office.subscriber()
    await office.campaign()
    gate = office.doors.gates[door] = asyncio.Event()
    sending = asyncio.create_task(office.send())
    await office.doors.at_gate.wait()
    await office.marketing.record(withdrawn(subject, 1))
    gate.set()
    await sending
    assert await office.states() == [("waiting", "permit-void", 1)]
    await office.send()
    assert await office.states() == [("skipped", "no-consent-in-force", 2)]
    assert office.inbox.raw == []
    assert await office.stated() == []


async def test_who_withdraws_while_the_mail_is_on_its_way_is_told_so(office: Office) -> None:
    subject = await office.subscriber()
    await office.campaign()
    [delivery] = await office.due()
    office.inbox.gate.clear()
    sending = asyncio.create_task(office.send())
    await office.inbox.holding.wait()
    statement = withdrawn(subject, 1)
    await office.marketing.record(statement)
    effect = await office.marketing.get(f"effects/{statement.id}")
    assert effect.json()["in_transmission"] == [f"<{delivery.statement}@mail.example.org>"]
    office.inbox.gate.set()
    await sending
    assert await office.states() == [("sent", None, 1)]


async def test_a_permit_that_got_too_old_while_the_mail_was_prepared_is_not_used(office: Office) -> None:
    await office.subscriber()
    await office.campaign()
    gate = office.doors.gates["/ledger/attachments"] = asyncio.Event()
    sending = asyncio.create_task(office.send())
    await office.doors.at_gate.wait()
    office.marketing.later(seconds=5, milliseconds=1)
    gate.set()
    await sending
    assert await office.states() == [("waiting", "permit-void", 1)]
    await office.send()
    assert await office.states() == [("sent", None, 2)]
    assert len(office.inbox.raw) == 1


async def test_killed_between_use_and_answer_the_mail_is_unknown_and_never_sent_again(office: Office) -> None:
    await office.subscriber()
    await office.campaign()
    office.inbox.gate.clear()
    dying = asyncio.create_task(office.send())
    await office.inbox.holding.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert [state for state, *_ in await office.states()] == ["attempted"]
    office.inbox.gate.set()

    running = asyncio.create_task(office.sender().run())
    await until(lambda: _is(office, "unknown"))
    office.marketing.later(days=1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await office.send()
    [used] = await office.stated("ConsentUsed")
    [sent] = await office.stated("MessageSent")
    assert (sent.data.outcome, sent.data.follows) == ("unknown", [used.id])
    assert len(sent.data.attachments) == 1
    assert len(office.inbox.raw) <= 1
    assert await office.states() == [("unknown", None, 1)]


async def _is(office: Office, state: str) -> bool:
    return {found for found, *_ in await office.states()} == {state}


async def test_a_purpose_that_left_the_register_while_its_mails_waited_ends_them_and_stops_nobody(
    office: Office, database: OwnDatabase
) -> None:
    await office.subscriber()
    await office.campaign()
    office.inbox.gate.clear()
    dying = asyncio.create_task(office.send())
    await office.inbox.holding.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    office.inbox.gate.set()
    await office.campaign("issue-2")
    superuser = await asyncpg.connect(database.dsn())
    await superuser.execute("update marketing.campaign set purpose = 'given-up'")
    await superuser.close()
    running = asyncio.create_task(office.sender().run())
    try:
        await until(lambda: _are_over(office))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert sorted(await office.states()) == [("skipped", "unknown-purpose", 1), ("unknown", None, 1)]
    assert [one.type for one in await office.stated()] == ["ConsentUsed"]


async def _are_over(office: Office) -> bool:
    return not {"waiting", "attempted"} & {state for state, *_ in await office.states()}


async def test_a_connection_lost_after_the_mail_was_handed_over_is_unknown(office: Office) -> None:
    await office.subscriber()
    await office.campaign()
    office.inbox.answers = [None]
    await office.send()
    [sent] = await office.stated("MessageSent")
    assert sent.data.outcome == "unknown"
    assert await office.states() == [("unknown", None, 1)]
    office.marketing.later(days=1)
    await office.send()
    assert len(office.inbox.raw) == 1


async def test_a_mail_the_server_defers_is_sent_later_and_recorded_once(office: Office) -> None:
    subject = await office.subscriber()
    await office.campaign()
    office.inbox.answers = ["451 not now"]
    await office.send()
    assert await office.states() == [("waiting", "mail-server-deferred", 1)]
    assert await office.due() == []
    statement = withdrawn(subject, 1)
    office.marketing.later(seconds=2)
    await office.send()
    assert await office.states() == [("sent", None, 2)]
    assert len(office.inbox.raw) == 1
    uses = await office.stated("ConsentUsed")
    [sent] = await office.stated("MessageSent")
    assert len(uses) == 2
    assert (sent.data.follows, sent.data.attempts) == ([uses[1].id], 2)
    # The attempt that came to nothing is no mail that left.
    office.marketing.later(hours=-1)
    await office.marketing.record(statement)
    [permits] = await office.marketing.db.fetch("select count(*) from permit where voided_at is not null")
    assert permits["count"] == 1


async def test_who_withdraws_while_the_mail_is_deferred_gets_none(office: Office) -> None:
    subject = await office.subscriber()
    await office.campaign()
    office.inbox.answers = ["451 not now"]
    await office.send()
    statement = withdrawn(subject, 1)
    await office.marketing.record(statement)
    assert (await office.marketing.get(f"effects/{statement.id}")).json()["in_transmission"] == []
    office.marketing.later(seconds=2)
    await office.send()
    assert await office.states() == [("skipped", "no-consent-in-force", 2)]
    assert office.inbox.raw == []


async def test_a_mail_the_server_refuses_is_over(office: Office) -> None:
    await office.subscriber()
    await office.campaign()
    office.inbox.answers = ["550 no such person"]
    await office.send()
    [sent] = await office.stated("MessageSent")
    assert sent.data.outcome == "refused"
    assert await office.states() == [("refused", None, 1)]


async def test_a_mail_server_that_is_down_loses_no_mail(office: Office) -> None:
    await office.subscriber()
    await office.campaign()
    host, _, port = NOWHERE.partition(":")
    await office.send(office.sender(mail_server=MailServer(host, int(port))))
    assert await office.states() == [("waiting", "mail-server-deferred", 1)]
    office.marketing.later(seconds=2)
    await office.send()
    assert await office.states() == [("sent", None, 2)]


@pytest.mark.parametrize(
    ("shut", "reason"),
    [
        ("/subjects/open", "subjects-unavailable"),
        ("/subjects/seal", "subjects-unavailable"),
        ("/ledger/attachments", "ledger-unavailable"),
    ],
)
async def test_a_part_that_is_down_postpones_the_mail_and_uses_nothing(office: Office, shut: str, reason: str) -> None:
    await office.subscriber()
    await office.campaign()
    office.doors.shut.add(shut)
    await office.send()
    assert await office.states() == [("waiting", reason, 1)]
    assert await office.stated() == []
    office.doors.shut.clear()
    office.marketing.later(seconds=2)
    await office.send()
    assert await office.states() == [("sent", None, 2)]


async def test_while_the_newest_word_is_not_known_the_campaign_waits(office: Office) -> None:
    await office.subscriber()
    await office.campaign()
    office.marketing.silent = True
    await office.send()
    assert await office.states() == [("waiting", "no-heartbeat", 1)]
    office.marketing.silent = False
    office.marketing.later(seconds=2)
    await office.send()
    assert await office.states() == [("sent", None, 2)]


async def test_somebody_subjects_does_not_know_is_skipped(office: Office) -> None:
    await office.subscriber()
    await office.marketing.subscriber()
    await office.campaign()
    await office.send()
    assert sorted(await office.states()) == [("sent", None, 1), ("skipped", "unknown-subject", 1)]


async def test_a_credential_that_is_not_let_in_skips_nobody(office: Office) -> None:
    await office.subscriber()
    await office.campaign()
    stranger = ServiceClient(office.base_url, "marketing:wrong", "subjects")
    await office.send(office.sender(subjects=stranger))
    await stranger.close()
    assert await office.states() == [("waiting", "credential-missing", 1)]


async def test_the_server_is_asked_again_only_so_often(office: Office) -> None:
    await office.subscriber()
    await office.campaign()
    await office.marketing.db.execute("update delivery set attempt = 99")
    office.inbox.answers = ["451 not now"]
    await office.send()
    assert await office.states() == [("refused", None, 100)]


async def test_two_senders_with_the_same_delivery_send_one_mail(office: Office, second: Marketing) -> None:
    await office.subscriber()
    await office.campaign()
    [delivery] = await office.due()
    one, other = office.sender(), office.sender(second.db)
    await asyncio.gather(one.send(delivery), other.send(delivery))
    assert len(office.inbox.raw) == 1
    assert await office.states() == [("sent", None, 1)]
    assert [statement.type for statement in await office.stated()] == ["ConsentUsed", "MessageSent"]


async def test_a_campaign_is_sent_as_soon_as_it_is_queued_by_one_of_two_processes(
    office: Office, second: Marketing
) -> None:
    running = [asyncio.create_task(one.run()) for one in (office.sender(), office.sender(second.db))]
    for number in range(20):
        await office.subscriber(f"person-{number}@example.org")
    await office.campaign()
    await until(lambda: _is(office, "sent"))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert sorted(office.inbox.recipients) == sorted(f"person-{number}@example.org" for number in range(20))


async def test_who_stops_the_sender_gets_the_end_of_the_mail_on_the_wire(office: Office) -> None:
    await office.subscriber()
    await office.campaign()
    office.inbox.gate.clear()
    running = asyncio.create_task(office.sender().run())
    await office.inbox.holding.wait()
    running.cancel()
    office.inbox.gate.set()
    await asyncio.gather(running, return_exceptions=True)
    assert await office.states() == [("sent", None, 1)]


async def test_a_rate_is_kept(office: Office) -> None:
    for number in range(3):
        await office.subscriber(f"person-{number}@example.org")
    await office.campaign()
    loop = asyncio.get_running_loop()
    began = loop.time()
    running = asyncio.create_task(office.sender(rate=10).run())
    await until(lambda: _is(office, "sent"))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert loop.time() - began >= 0.2


@pytest.mark.parametrize("kind", ["failed", "took effect, then failed"])
async def test_whatever_call_to_the_database_fails_a_mail_is_sent_at_most_once_and_recorded_once(
    office: Office, kind: str
) -> None:
    counted = Fault()
    await _attempt(office, counted, 0)
    for number, fault in enumerate(counted.each(kind), 1):  # type: ignore[arg-type]
        await _attempt(office, fault, number)
        assert fault.struck


async def _attempt(office: Office, fault: Fault, number: int) -> None:
    """A campaign to one person through this fault, then by a sender started anew."""
    address = f"person-{number}@example.org"
    subject = await office.subscriber(address)
    await office.campaign(f"issue-{number}")
    [delivery] = await office.due()
    try:
        await office.sender(FaultyDatabase(office.marketing.db, fault)).send(delivery)
    except Unavailable as error:
        assert error.service == "postgresql"  # noqa: PT017 - it need not be raised
    for found, use in await store.attempted_deliveries(office.marketing.db):
        await office.sender()._end(found, found.attempt, use, "unknown", {})
    for _ in range(3):
        office.marketing.later(seconds=10)
        await office.send()
    [state] = await office.marketing.db.fetch("select state from delivery where subject = $1", subject)
    stated = [statement for statement in await office.stated() if statement.subject == subject]
    sent = [statement for statement in stated if statement.type == "MessageSent"]
    assert [statement.data.outcome for statement in sent] == [
        {"sent": "accepted", "unknown": "unknown"}[state["state"]]
    ]
    assert office.inbox.recipients.count(address) <= 1
    assert office.inbox.recipients.count(address) == 1 or state["state"] == "unknown"
    assert sent[0].data.follows[0] in {statement.id for statement in stated if statement.type == "ConsentUsed"}
    await office.marketing.record(withdrawn(subject, 1))
