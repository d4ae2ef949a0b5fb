"""What other tools were seen to do wrong, tried on ours: each of these was executed somewhere, by somebody."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from os import urandom
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.local.browser import Browser
from infra.local.screen import until
from services.ledger.reader.commitment import verify_commitment
from services.ledger.reader.leaf import Event, parse_leaf
from shared import register
from shared.clock import from_millis, parse_rfc3339, rfc3339
from shared.identifiers import uuid7
from shared.outbox import put
from shared.way_out import open_token
from tests.journeys.people import CLICKS, LINK, NEWSLETTER, granted, stopped, types, unpadded
from tests.journeys.test_sign_up import told
from tests.journeys.test_withdrawal import stated_again, withdrawals

if TYPE_CHECKING:
    from shared.database import Database
    from tests.journeys.people import Entry, Mail, Person, World

NOTHING_YET: Final = ("/cosigned", "/timestamp?", "/handovers/", "/erasure/orders/")
"""No witness, no authority, no other key, nobody erased by that number."""
FORGED: Final = "203.0.113.66"
CALLERS: Final = ("demo", "operator", "compliance", "newsletter", "marketing", "monitoring")
KINDS_OF_LINKS: Final = ("/newsletter/confirm/", "/newsletter/unsubscribe/", "/ledger/receipts/")


def _opens(link: str) -> bool:
    return Browser("de").get(link).status == 200


# -- links: every one, in every kind of mail ------------------------------------------------------------------------


def inbox(world: World) -> list[Mail]:
    """Every mail that was sent in this session, to anybody."""
    listed = json.loads(Browser("en").get(f"{world.base}/inbox/messages").body)
    nobody = world.person()
    return [nobody._read(one["id"]) for one in listed]


def all_links(mail: Mail) -> set[str]:
    """Every address in a mail: in its headers, its text and its HTML."""
    found = {
        link for name, text in mail.message.items() if name != "DKIM-Signature" for link in LINK.findall(str(text))
    }
    for part in mail.message.walk():
        if part.get_content_maintype() == "text":
            found |= {link.rstrip(">") for link in LINK.findall(part.get_content().replace("&amp;", "&"))}
    return found


def newest_of_each_kind(mails: list[Mail]) -> list[Mail]:
    """The newest mail of each kind in each language; its subject says both, once an issue's name is off it.

    Older ones may be of people whom another test erased, and their links say so.
    """
    kinds = {" ".join(re.sub(r"issue-\w+", "", str(mail.message["Subject"])).split()[:3]): mail for mail in mails}
    return list(kinds.values())


def test_every_link_in_every_kind_of_mail_does_what_it_says_and_does_it_once(world: World) -> None:
    for language in ("de", "en"):
        person = world.person(language)
        person.subscribe(clicks=True)
        world.issue_is_out(world.begin_issue())
        person.mail(3)
        world.person(language).sign_up()
    mails = newest_of_each_kind(inbox(world))
    assert len(mails) >= 6
    keys = world.installation.secrets.way_out_keys()
    provider = Browser("en", "MailboxProvider/1.0")
    for mail in mails:
        links = all_links(mail)
        assert all(link.startswith(world.base) for link in links), mail.message["Subject"]
        paths = {link: urllib.parse.urlsplit(link).path for link in links}
        assert all(path.startswith(KINDS_OF_LINKS) for path in paths.values()), mail.message["Subject"]
        for receipt in (link for link, path in paths.items() if path.startswith("/ledger/receipts/")):
            until("the receipt", partial(_opens, receipt))
        confirm = [link for link, path in paths.items() if path.startswith("/newsletter/confirm/")]
        ways_out = [link for link, path in paths.items() if path.startswith("/newsletter/unsubscribe/")]
        # In the header for mail programs, and in the text, where it opens in the mail's language.
        assert mail.way_out in ways_out
        assert {link.partition("?")[0] for link in ways_out} == {mail.way_out}
        for link in confirm:
            token = link.rsplit("/", 1)[1].partition("?")[0]
            before = Browser("de").get(link).status
            assert Browser("de").post(link, []).status == before
            again = [Browser("de").post(link, []) for _ in range(2)]
            assert [answer.status for answer in again] == [before] * 2
            assert not any(token in link for other in mails if other is not mail for link in all_links(other))
        opened = open_token(keys, mail.way_out.rsplit("/", 1)[1])
        known = {entry.id for entry in withdrawals(world, opened.subject)}
        # Once by the header, as providers do, then by each link that stands in the mail.
        for link in (mail.way_out, *ways_out):
            answer = provider.post(link, [("List-Unsubscribe", "One-Click")], origin=False)
            assert stopped(answer), (mail.message["Subject"], link)
        stated = [entry for entry in withdrawals(world, opened.subject) if opened.message_id in entry.data["follows"]]
        assert {entry.key for entry in stated} == {"/".join(purpose) for purpose in opened.purposes}
        new = [entry.key for entry in stated if entry.id not in known]
        assert len(new) == len(set(new))  # once, however often; whoever came back after an earlier use stops anew
        assert known <= {entry.id for entry in withdrawals(world, opened.subject)}
        for name, channel in opened.purposes:
            assert world.permit(opened.subject, f"{name}/{channel}")["decision"] == "refused"


def test_no_token_opens_a_second_thing_and_none_is_a_name_for_a_person(world: World) -> None:
    person = world.person()
    confirmation, welcome = person.subscribe()
    world.issue_is_out(world.begin_issue())
    issue = person.mail(3)
    again = person.sign_up()
    subject = person.subject(confirmation)
    tokens = [mail.way_out.rsplit("/", 1)[1] for mail in (confirmation, welcome, issue, again)]
    tokens += [mail.confirm_link.rsplit("/", 1)[1] for mail in (confirmation, again)]
    tokens += [urllib.parse.parse_qs(urllib.parse.urlsplit(link).query)["key"][0] for link in welcome.receipts]
    assert len(set(tokens)) == len(tokens) == 7
    for mail in (confirmation, welcome, issue, again):
        for part in (subject, subject.split(".")[1], subject.replace("-", "")):
            assert not any(part in link for link in all_links(mail))
    person.quiet(subject)
    stated = world.stated(subject)
    receipt = urllib.parse.urlsplit(welcome.receipts[0])
    for token in tokens:
        for path in ("newsletter/confirm", "newsletter/unsubscribe"):
            if not any(f"/{path}/{token}" in link for mail in person.mails() for link in all_links(mail)):
                assert person.browser.post(f"{world.base}/{path}/{token}", []).status == 404
        if token not in receipt.query:
            assert person.browser.get(f"{world.base}{receipt.path}?key={token}").status == 404
    # Used up: the first link confirms nothing a second time, whatever was asked since.
    assert person.browser.post(confirmation.confirm_link, []).status == 200
    assert world.stated(subject) == stated
    [row] = world.sql(f"select count(*) from newsletter.request where subject = '{subject}' and state = 'open'").split()
    assert row == "1"


# -- a GET never acts ----------------------------------------------------------------------------------------------


def counted(world: World) -> dict[str, str]:
    """How many rows each table of ours has, and how long the log is."""
    tables = world.sql(
        "select schemaname || '.' || relname from pg_stat_user_tables"
        " where schemaname in ('newsletter', 'subjects', 'ledger', 'marketing')"
        " and relname <> 'progress' order by 1"  # the appender clears that one by itself
    ).split()
    counts = " union all ".join(f"select '{table}=' || count(*) from {table}" for table in tables)
    return dict(line.split("=") for line in world.sql(counts).split())


def addresses(world: World, person: Person, confirmation: Mail, welcome: Mail, issue: str) -> list[str]:
    """Every path that answers GET, with values that are real."""
    subject = person.subject(confirmation)
    history = world.history(subject)
    attachment = next(entry.data["attachments"][0]["hash"] for entry in history if entry.type == "MessageSent")
    receipt = urllib.parse.urlsplit(welcome.receipts[0])
    known = register.load()
    values = {
        "/newsletter/confirm/{token}": [
            confirmation.confirm_link.rsplit("/", 1)[1],
            person.mails()[-1].confirm_link[-43:],
        ],
        "/newsletter/unsubscribe/{token}": [mail.way_out.rsplit("/", 1)[1] for mail in person.mails()],
        "/newsletter/notices/{notice_hash}": [known.activity("newsletter").notice("de").hash],
        "/ledger/attachments/{digest}": [attachment],
        "/ledger/receipts/{statement}": [f"{receipt.path.rsplit('/', 1)[1]}?{receipt.query}"],
        "/ledger/register/{version}": [known.version],
        "/ledger/records": ["?shard=0&from=0&limit=3"],
        "/ledger/sources/{source}/sealed": ["newsletter"],
        "/ledger/subjects/{subject}/history": [subject],
        "/ledger/subjects/{subject}/proofs/{kind}": [f"{subject}/proofs/latest?purpose=newsletter&channel=email"],
        "/ledger/receipts/{statement}/latest": [f"{receipt.path.rsplit('/', 1)[1]}?{receipt.query}"],
        "/ledger/log/{shard}/proofs/consistency": ["?old=1"],
        "/ledger/log/{shard}/timestamp": ["?index=0"],
        "/ledger/log/{shard}/handovers/{number}": ["2"],
        "/ledger/scripts/{name}": ["verifier.js"],
        "/erasure/orders/{request}": [withdrawals(world, subject)[0].id],
        "/ledger/log/{shard}/tile/{path}": ["0/000.p/1", "entries/000.p/1"],
        "/marketing/campaigns/{name}": [issue],
        "/marketing/effects/{statement}": [withdrawals(world, subject)[0].id],
    }
    found = ["/", "/inbox", "/inbox/messages"]
    for service in ("newsletter", "subjects", "ledger", "marketing", "erasure"):
        document = world.call("GET", f"/{service}/openapi.json", caller="operator")
        for path, operations in document["paths"].items():
            if "get" not in operations:
                continue
            filled = path.replace("{shard}", "0")
            for value in values.get(path, [""]):
                head, tail = filled.partition("{")[0], filled.rpartition("}")[2] if "{" in filled else ""
                real, mark, query = value.partition("?")
                found.append(head + real + tail + mark + query)
    assert not any("{" in one for one in found)
    return found


def asked(world: World, method: str, path: str) -> int:
    """The answer to the caller who gets furthest."""
    seen = []
    for caller in CALLERS:
        request = urllib.request.Request(
            world.base + path,
            headers={
                "Authorization": f"Bearer {world.installation.secrets.credential(caller)}",
                "Accept": "text/html",
                "X-Forwarded-For": FORGED,
            },
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as error:
            seen.append(error.code)
    return min(seen)


def test_no_get_and_no_head_of_any_address_changes_anything(world: World) -> None:
    person = world.person()
    confirmation, welcome = person.subscribe(clicks=True)
    issue = world.begin_issue()
    world.issue_is_out(issue)
    person.mail(3)
    subject = person.subject(confirmation)
    assert stopped(person.one_click(welcome.way_out))
    person.sign_up()
    for language in ("de", "en"):  # a notice is stated once, before it is shown for the first time, to whomever
        world.person(language).open_form()
    person.quiet(subject)
    paths = addresses(world, person, confirmation, welcome, issue)
    assert len(paths) > 30

    def steady() -> dict[str, str] | None:
        first = counted(world)
        waiting = world.sql("select count(*) from marketing.outbox where sealed_at is null")
        return first if waiting == "0" and first == counted(world) else None

    before = until("quiet", steady)
    fine = {200, 410}  # the link of a sign-up that was answered is gone
    for path in paths:
        for method in ("GET", "HEAD"):
            # A machine under load may say that it is not ready; that changes nothing either.
            expected = fine | {503} if path.endswith("/health/ready") else fine
            if any(place in path for place in NOTHING_YET):
                expected = {403, 404}
            assert asked(world, method, path) in expected, (method, path)
            if path.startswith("/newsletter/"):
                assert asked(world, method, f"{path}?confirm=true&List-Unsubscribe=One-Click") in fine, path
    person.quiet(subject)
    assert counted(world) == before


# -- networks ------------------------------------------------------------------------------------------------------


def test_a_forged_address_of_a_client_is_kept_nowhere(world: World) -> None:
    person = world.person()
    page = person.open_form()
    form = page.form("email")
    headers = {"X-Forwarded-For": FORGED, "Forwarded": f"for={FORGED}", "X-Real-IP": FORGED}

    def send(url: str, fields: list[tuple[str, str]]) -> int:
        request = urllib.request.Request(url, urllib.parse.urlencode(fields).encode(), headers, method="POST")
        request.add_header("Content-Type", "application/x-www-form-urlencoded")
        return Browser._send(request).status

    assert send(f"{world.base}/newsletter", form.filled(person.address, {NEWSLETTER})) == 200
    confirmation = person.mail(1)
    assert send(confirmation.confirm_link, []) == 200
    welcome = person.mail(2)
    assert send(welcome.way_out, [("List-Unsubscribe", "One-Click")]) == 200
    subject = person.subject(confirmation)
    person.quiet(subject)
    until("the withdrawal", lambda: withdrawals(world, subject))
    opened = [evidence(world, entry) for entry in world.history(subject) if "evidence" in entry.data.get("sealed", {})]
    assert len(opened) >= 3
    kept = json.dumps([*opened, *(entry.statement for entry in world.history(subject))])
    logged = "".join(log.read_text("utf-8") for log in world.log_files())
    for said in (kept, logged):
        assert FORGED not in said
        assert "127.0.0.1" not in said.replace("127.0.0.1:", "")
    assert any(json.loads(one).get("user_agent") for one in opened)


def evidence(world: World, entry: Entry) -> str:
    """What a statement has sealed, as evidence opens it."""
    items = [{"statement": entry.id, "compartment": "evidence"}]
    body = {"subject": entry.statement["subject"], "scope": "evidence", "reason": "a test", "items": items}
    key = unpadded(world.call("POST", "/subjects/disclose", body, caller="compliance")["keys"][0]["key"])
    ciphertext = unpadded(entry.data["sealed"]["evidence"]["ciphertext"])
    said = [b"consent-ledger/v1/seal", entry.statement["subject"].encode(), b"evidence", entry.id.encode()]
    return AESGCM(key).decrypt(ciphertext[:12], ciphertext[12:], b"\x00".join(said)).decode()


def test_who_guesses_links_at_speed_is_slowed_alone_and_every_real_link_still_opens(world: World) -> None:
    person = world.person()
    confirmation, welcome = person.subscribe()
    waiting = person.sign_up()
    guesser = {"X-Forwarded-For": f"192.0.2.1, {FORGED}"}
    guessed = confirmation.confirm_link[:-8]

    def guess(number: int) -> int:
        # What stands further left in the header is the guesser's own invention.
        forged = {"X-Forwarded-For": f"198.51.{number % 256}.1, {FORGED}"}
        return person.browser.get(f"{guessed}{number:08d}", **forged).status

    with ThreadPoolExecutor(4) as hands:
        seen = list(hands.map(guess, range(330)))
    assert set(seen) == {404, 429}
    assert seen.count(404) <= 300
    told_to_wait = person.browser.get(f"{guessed}{0:08d}", **guesser)
    assert told_to_wait.status == 429
    assert 0 < int(told_to_wait.headers["retry-after"]) <= 600
    assert person.browser.get(f"{welcome.receipts[0]}x", **guesser).status == 404  # receipts count for themselves
    # Others are not slowed, and for the guesser, too, whatever is real still works.
    assert person.browser.get(f"{guessed}{0:08d}", **{"X-Forwarded-For": "198.51.100.1"}).status == 404
    for link in (waiting.confirm_link, welcome.way_out, welcome.receipts[0]):
        assert person.browser.get(link, **guesser).status == 200
    metrics = urllib.request.Request(
        f"{world.base}/newsletter/metrics",
        headers={"Authorization": f"Bearer {world.installation.secrets.credential('operator')}"},
    )
    shown = Browser._send(metrics).text
    for name in ('limited_total{limit="unknown-links"}', 'unknown_links_total{link="confirmation"}'):
        [line] = [line for line in shown.splitlines() if line.startswith(f"newsletter_{name}")]
        assert float(line.split()[1]) > 1
    assert stopped(person.one_click(welcome.way_out))


# -- addresses of others -------------------------------------------------------------------------------------------


def test_twenty_sign_ups_of_one_address_are_twenty_acts_and_one_mail(world: World) -> None:
    person = world.person()
    pages = [person.open_form() for _ in range(20)]
    with ThreadPoolExecutor(5) as strangers:
        answers = list(strangers.map(person.send_form, pages))
    assert answers[0].status == 200
    assert all(told(answer) == told(answers[0]) for answer in answers)
    confirmation = person.mail(1)
    subject = person.subject(confirmation)
    person.quiet(subject)
    assert person.count_mails() == 1
    history = world.history(subject)
    assert len({entry.data["act"] for entry in history if entry.type == "ConsentRequested"}) == 20
    assert types(history).count("MessageSent") == 1
    assert person.press_confirm(confirmation.confirm_link).status == 200
    granted(world, subject)


def test_nobody_else_can_bring_back_who_has_opted_out(world: World) -> None:
    person = world.person()
    confirmation, welcome = person.subscribe()
    subject = person.subject(confirmation)
    assert stopped(person.press_unsubscribe(welcome.way_out, "everything"))
    stranger = Browser("de", "Stranger/1.0")
    for _ in range(4):
        page = stranger.get(f"{world.base}/newsletter")
        assert (
            stranger.submit(page, page.form("email"), page.form("email").filled(person.address, {NEWSLETTER})).status
            == 200
        )
    stranger.post(confirmation.confirm_link, [])
    stranger.get(f"{person.mail(3).confirm_link}?confirm=true")
    person.quiet(subject)
    assert world.permit(subject)["decision"] == "refused"
    mails = person.count_mails()
    world.issue_is_out(world.begin_issue())
    assert person.count_mails() == mails
    decisive = [entry.type for entry in world.history(subject) if not entry.matter.startswith(("ask:", "data:"))]
    assert decisive == ["ConsentGiven", "ConsentWithdrawn"]


# -- the history ---------------------------------------------------------------------------------------------------


def test_the_history_has_every_act_and_each_word_the_next_version(world: World) -> None:
    person = world.person()
    first, welcome = person.subscribe()
    subject = person.subject(first)
    assert stopped(person.one_click(welcome.way_out))
    second = person.sign_up(clicks=True)
    assert person.press_confirm(second.confirm_link).status == 200
    granted(world, subject, CLICKS)
    assert stopped(person.press_unsubscribe(second.way_out))
    history = world.history(subject)
    # Asked, gave; took back; asked again for more, gave; took all of it back: six acts, and none in another's place.
    acts = dict.fromkeys(entry.data["act"] for entry in history if entry.data["by"] == "person")
    assert len(acts) == 6
    found = world.call("GET", f"/ledger/subjects/{subject}/history", caller="compliance")
    words: dict[str, list[int]] = {}
    for entry in found["entries"]:
        words.setdefault(entry["matter"], []).append(int.from_bytes(unpadded(entry["leaf"])[33:41], "big"))
    assert words[f"purpose:{NEWSLETTER}"] == [1, 2, 3, 4]
    assert words[f"purpose:{CLICKS}"] == [1, 2]
    for entry in withdrawals(world, subject):
        assert entry.data["method"] in {"link", "one-click"}
        assert entry.data["follows"]


def test_refused_is_not_the_same_as_never_asked(world: World) -> None:
    person, other = world.person(), world.person()
    confirmation, welcome = person.subscribe(clicks=False)
    subject = person.subject(confirmation)
    never = other.subject(other.sign_up(clicks=True))
    other.quiet(never)
    assert [entry.type for entry in world.history(subject) if entry.key == CLICKS] == ["ConsentRefused"]
    assert "ConsentRefused" not in types(world.history(never))
    assert stopped(person.one_click(welcome.way_out))
    assert world.permit(subject)["reason"] == "no-consent-in-force"
    assert world.permit(never)["reason"] == "unknown"


def test_a_time_that_is_claimed_is_hashed_beside_the_time_of_recording(world: World) -> None:
    person = world.person()
    confirmation, _ = person.subscribe()
    subject = person.subject(confirmation)
    given = next(entry for entry in world.history(subject) if entry.type == "ConsentGiven")
    claimed = datetime.now(UTC) - timedelta(days=700)
    back_dated = stated_again(given) | {"id": uuid7(datetime.now(UTC), urandom), "time": rfc3339(claimed)}

    async def state(db: Database) -> None:
        async with db.transaction() as tx:
            await put(tx, [json.dumps(back_dated).encode()])

    world.as_newsletter(state)
    until("the statement", lambda: back_dated["id"] in {entry.id for entry in world.history(subject)})
    found = world.call("GET", f"/ledger/subjects/{subject}/history", caller="compliance")
    [entry] = [one for one in found["entries"] if json.loads(unpadded(one["statement"]))["id"] == back_dated["id"]]
    leaf, statement = unpadded(entry["leaf"]), unpadded(entry["statement"])
    recorded_at = from_millis(int.from_bytes(leaf[-8:], "big"))
    assert abs(recorded_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert parse_rfc3339(json.loads(statement)["time"]) < recorded_at - timedelta(days=699)
    # Both are under the log's root: the one by the leaf itself, the other by what the leaf commits to.
    event = parse_leaf(leaf)
    assert isinstance(event, Event)
    verify_commitment(event, bytes.fromhex(entry["pin"]), bytes.fromhex(entry["opening"]), statement)
