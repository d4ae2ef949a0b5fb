"""Receipts: for everyone who acts, and opened by nothing but the link that was given."""

from __future__ import annotations

import html
import json
import re
import uuid
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from infra.local.browser import Browser
from infra.local.installation import CommandFailed
from infra.local.screen import until
from tests.contracts.consent_record import against_schema, against_shapes
from tests.journeys.people import LINK, stopped, unpadded

if TYPE_CHECKING:
    from pathlib import Path

    from tests.journeys.people import World


def parts(link: str) -> tuple[str, str]:
    """Statement id and key of a receipt's link."""
    split = urlsplit(link)
    return split.path.rsplit("/", 1)[1], parse_qs(split.query)["key"][0]


def verified(world: World, file: Path) -> str:
    vkey = file.with_suffix(".vkey")
    vkey.write_bytes(Browser("en").get(f"{world.base}/ledger/log/0/vkey").body)
    return world.installation.command("verify", str(file), "--vkey", str(vkey))


def test_receipts_of_a_consent_and_of_a_withdrawal_verify_offline(world: World, tmp_path: Path) -> None:
    person = world.person()
    _, welcome = person.subscribe()
    answer = person.one_click(welcome.way_out)
    assert stopped(answer)
    [of_withdrawal] = {link for link in LINK.findall(answer.text) if "/ledger/receipts/" in link}
    for number, (link, type_name) in enumerate(
        ((welcome.receipts[0], "ConsentGiven"), (of_withdrawal, "ConsentWithdrawn"))
    ):
        until("the receipt", lambda link=link: Browser("en").get(link).status == 200)
        page = Browser("de").get(link)
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["cache-control"] == "no-store"
        answer = Browser("en").get(link, Accept="application/json")
        receipt = json.loads(answer.body)
        assert json.loads(unpadded(receipt["statement"]))["type"] == type_name
        record = json.loads(Browser("en").get(f"{link}&format=record").body)
        assert record == receipt["record"]
        assert against_schema(record) == []
        assert against_shapes(record) == ""
        file = tmp_path / f"{number}.json"
        file.write_bytes(answer.body)
        assert "valid" in verified(world, file).lower()
        altered = receipt | {"opening": ("0" if receipt["opening"][0] != "0" else "1") + receipt["opening"][1:]}
        file.write_text(json.dumps(altered))
        try:
            said = verified(world, file)
        except CommandFailed as failure:
            assert failure.status == 1  # noqa: PT017 - what matters is its status
        else:
            raise AssertionError(said)


def test_a_receipt_opens_by_its_link_alone_and_never_by_an_id(world: World) -> None:
    one, other = world.person(), world.person()
    _, welcome = one.subscribe()
    _, others = other.subscribe()
    statement, key = parts(welcome.receipts[0])
    address = f"{world.base}/ledger/receipts"
    assert Browser("en").get(f"{address}/{statement}?key={key}").status == 200
    _, others_key = parts(others.receipts[0])
    flipped = key[:-2] + ("A" if key[-2] != "A" else "B") + key[-1]
    closed = {
        Browser("en").get(url).body
        for url in (
            f"{address}/{statement}?key={others_key}",
            f"{address}/{statement}?key={flipped}",
            f"{address}/{statement}?key={'A' * 22}",
            f"{address}/{uuid.uuid4()}?key={key}",
        )
    }
    assert len(closed) == 1, "an answer tells which ids exist"
    for query in ("", "?key=", f"?key={key}x", f"?key={key[:-1]}", f"?key={others_key}", f"?key={flipped}"):
        for accept in ("text/html", "application/json"):
            assert Browser("en").get(f"{address}/{statement}{query}", Accept=accept).status == 404, query
        credential = {"Authorization": f"Bearer {world.installation.secrets.credential('operator')}"}
        assert Browser("en").get(f"{address}/{statement}{query}", **credential).status == 404


def test_the_sign_up_and_all_of_its_act_have_receipts_by_the_token_of_the_mail(world: World, tmp_path: Path) -> None:
    person = world.person()
    confirmation = person.sign_up()
    token = confirmation.confirm_link.rsplit("/", 1)[1]
    page = Browser("en").get(confirmation.confirm_link).text
    [of_request] = map(html.unescape, re.findall(r'href="(/ledger/receipts/[^"]+)"', page))
    assert of_request.endswith(f"?key={token}")
    answered = person.press_confirm(confirmation.confirm_link).text
    [of_consent] = {html.unescape(link) for link in re.findall(r'data-receipt="([^"]+)"', answered)}
    until("the receipt", lambda: Browser("en").get(world.base + of_consent).status == 200)
    page = Browser("en").get(world.base + of_request).text
    [of_refusal] = {
        html.unescape(link)
        for link, title in re.findall(r'<li><a href="(/ledger/receipts/[^"]+)">([^<]+)</a>', page)
        if "refusal" in title
    }
    for number, (link, type_name) in enumerate(
        (
            (of_request, "ConsentRequested"),
            (of_consent, "ConsentGiven"),
            (of_refusal, "ConsentRefused"),
        )
    ):
        answer = Browser("en").get(world.base + link, Accept="application/json")
        receipt = json.loads(answer.body)
        assert json.loads(unpadded(receipt["statement"]))["type"] == type_name
        file = tmp_path / f"{number}.json"
        file.write_bytes(answer.body)
        assert "valid" in verified(world, file).lower()
    # What is not of the act stays closed: the mail's own statement, and the welcome's, and another person's.
    entries = world.history(person.subject(confirmation))
    sent = [one.statement["id"] for one in entries if one.statement["type"] == "MessageSent"]
    statement, _ = parts(of_request)
    other = parts(world.person().subscribe()[1].receipts[0])[0]
    for closed in (*sent, other, str(uuid.uuid4())):
        query = f"{world.base}/ledger/receipts/{closed}?key={token}&by={statement}"
        assert Browser("en").get(query, Accept="application/json").status == 404, closed
