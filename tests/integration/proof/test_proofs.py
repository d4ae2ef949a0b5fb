"""Proofs over HTTP and from the command line: each kind is issued by the real parts, verifies, and has a page."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.ledger.main import open as open_ledger
from services.ledger.procedures import proof_export
from services.ledger.proofs.sealed_map import SealedMap
from services.ledger.reader.errors import Invalid
from services.ledger.reader.facts import contradictions
from services.ledger.reader.verify import Report, verify
from shared.clock import rfc3339, utc_now
from shared.errors import Corrupt, Refused, Unavailable
from shared.process import Running, serve_http
from shared.settings import Settings
from tests.integration.newsletter.conftest import free_port
from tests.integration.proof.conftest import ADDRESS, Installation

ABOUT = {"purpose": "newsletter", "channel": "email"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
async def ledger(installation: Installation) -> AsyncIterator[Settings]:
    """The ledger's web process as it runs, its map following the log; the settings under which it is found."""
    running: Running = await open_ledger(installation.settings)
    port = free_port()
    listening = asyncio.Event()
    assert running.app is not None
    tasks = [asyncio.create_task(serve_http(running.app, "127.0.0.1", port, lambda _: listening.set()))]
    tasks += [asyncio.create_task(factory()) for factory in running.tasks.values()]
    await listening.wait()
    try:
        yield installation.settings.model_copy(update={"ledger_url": f"http://127.0.0.1:{port}"})
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await running.close()


async def vkey(installation: Installation) -> str:
    return (await installation.front.http.get("/ledger/log/0/vkey")).text.strip()


async def proven(installation: Installation, ledger: Settings, kind: str, matter: str, at: str | None = None) -> Report:
    while True:
        try:
            made = await proof_export.of_subject(ledger, kind, await installation.subject(), matter, at)
        except Unavailable:
            await asyncio.sleep(0.05)  # the map is being built
            continue
        report = verify(made, await vkey(installation))
        assert report is not None
        refuted(made, await vkey(installation))
        return report


def refuted(made: bytes, key: str, flips: int = 12) -> None:
    """What was issued is refused with one bit flipped, whichever. (Another moment makes another true proof.)"""
    chance, begin = random.Random(7), made.find(b'"at":')
    places = [place for place in range(len(made)) if begin < 0 or not begin <= place < begin + 40]
    for place in chance.sample(places, flips):
        flipped = bytearray(made)
        flipped[place] ^= 1 << chance.randrange(8)
        assert not is_valid(bytes(flipped), key), f"byte {place} of {len(made)}"


def is_valid(data: bytes, key: str) -> bool:
    try:
        return verify(data, key) is not None
    except Invalid:
        return False


async def withdraw(installation: Installation) -> str:
    """By the link of the welcome mail; the link to the receipt."""
    welcome = await installation.front.mail(ADDRESS, 2)
    page = await installation.front.http.post(
        str(welcome["List-Unsubscribe"]).strip("<>"), data={"List-Unsubscribe": "One-Click"}
    )
    await installation.pass_on()
    return next(part for part in page.text.split('"') if "/ledger/receipts/" in part).replace("&amp;", "&")


async def test_each_kind_is_issued_and_verifies_and_follows_what_happens(
    installation: Installation, ledger: Settings, tmp_path: Path
) -> None:
    await installation.opt_in()
    assert "consent holds" in (await proven(installation, ledger, "latest", "newsletter/email")).conclusion
    absent = await proven(installation, ledger, "absence", "fair-news/email")
    assert "nothing was ever recorded" in absent.conclusion
    before = await proof_export.of_subject(ledger, "latest", await installation.subject(), "newsletter/email")
    kept = tmp_path / "before.json"
    kept.write_bytes(before)
    held_at = rfc3339(utc_now())
    receipt = (await installation.front.http.get(await withdraw(installation), headers={"Accept": "*/*"})).content
    # Nobody waits for the follower: whoever asks is answered under the checkpoint of this moment.
    after = await proven(installation, ledger, "latest", "newsletter/email")
    assert "the newest word is ConsentWithdrawn" in after.conclusion
    history = await proven(installation, ledger, "history", "newsletter/email")
    assert "is complete" in history.conclusion
    state = await proven(installation, ledger, "state", "newsletter/email", held_at)
    assert "consent holds" in state.conclusion
    consistency = await proof_export.consistency(ledger, kept, None, None)
    grown = verify(consistency, await vkey(installation))
    refuted(consistency, await vkey(installation))
    assert grown is not None
    assert "only grew" in grown.conclusion
    reports = [absent, after, history, state, grown, verify(before, None), verify(receipt, None)]
    for one in reports:
        for other in reports:
            assert one is not None
            assert other is not None
            assert contradictions(one.facts.with_those_of(other.facts)) == []


async def test_what_cannot_be_proven_is_refused_in_words(
    installation: Installation, ledger: Settings, tmp_path: Path
) -> None:
    await installation.opt_in()
    await proven(installation, ledger, "latest", "newsletter/email")
    subject = await installation.subject()

    async def refused(kind: str, who: str, matter: str, at: str | None = None) -> tuple[str, int]:
        with pytest.raises(Refused) as failure:
            await proof_export.of_subject(ledger, kind, who, matter, at)
        return failure.value.code, failure.value.status

    assert await refused("absence", subject, "newsletter/email") == ("not-absent", 409)
    stranger = subject[:-1] + ("0" if subject[-1] != "0" else "1")
    assert await refused("absence", stranger, "newsletter/email") == ("not-found", 404)
    assert await refused("latest", "somebody", "newsletter/email") == ("not-found", 404)
    assert await refused("latest", f"7.{subject.partition('.')[2]}", "newsletter/email") == ("not-found", 404)
    assert (await refused("latest", subject, "newsletter"))[0] == "not-a-purpose"
    assert (await refused("latest", subject, "News/email"))[0] == "not-a-purpose"
    assert (await refused("state", subject, "newsletter/email"))[0] == "moment-missing"
    assert (await refused("state", subject, "newsletter/email", "yesterday"))[0] == "not-a-moment"
    soon = rfc3339(utc_now() + timedelta(days=1))
    assert await refused("state", subject, "newsletter/email", soon) == ("moment-in-the-future", 422)
    http = installation.front.http
    assert (await http.get("/ledger/log/0/proofs/consistency?old=2")).status_code in {200, 404}
    assert (await http.get("/ledger/log/0/proofs/consistency?old=999999")).status_code == 404
    assert (await http.get("/ledger/log/0/proofs/consistency?old=0")).status_code == 400
    assert (await http.get(f"/ledger/subjects/{subject}/proofs/latest", params=ABOUT)).status_code == 401
    kept = tmp_path / "kept"
    kept.write_text("hello")
    with pytest.raises(Refused, match="not-ours"):
        await proof_export.consistency(ledger, kept, None, None)
    with pytest.raises(Refused, match="cannot-read"):
        await proof_export.consistency(ledger, tmp_path / "missing", None, None)


async def test_the_history_for_evidence_comes_with_the_latest_word_under_the_same_checkpoint(
    installation: Installation, ledger: Settings
) -> None:
    await installation.opt_in()
    await proven(installation, ledger, "latest", "newsletter/email")
    answer = await installation.front.http.get(
        f"{ledger.ledger_url}/ledger/subjects/{await installation.subject()}/history",
        params=ABOUT | {"latest": "true"},
        headers=installation.caller("compliance"),
    )
    assert answer.status_code == 200, answer.text
    value = answer.json()
    assert value["latest"]["checkpoint"] == value["checkpoint"]
    report = verify(json.dumps(value["latest"]).encode(), await vkey(installation))
    assert report is not None
    assert "consent holds" in report.conclusion
    assert {"index", "matter", "leaf"} <= set(value["entries"][0])


@pytest.mark.parametrize("language", ["de", "en"])
async def test_each_kind_has_a_page_in_both_languages(
    installation: Installation, ledger: Settings, language: str
) -> None:
    await installation.opt_in()
    await proven(installation, ledger, "latest", "newsletter/email")
    await withdraw(installation)
    subject, http = await installation.subject(), installation.front.http
    headers = (
        BROWSER | {"Accept-Language": language} | {"Authorization": installation.caller("compliance")["Authorization"]}
    )
    words = {
        "latest": {"de": "Das letzte Wort", "en": "The latest word"},
        "history": {"de": "Die vollständige Geschichte", "en": "The complete history"},
        "state": {"de": "Was damals galt", "en": "What held at that time"},
        "absence": {"de": "Nichts gesagt", "en": "Nothing said"},
        "consistency": {"de": "nur gewachsen", "en": "only grew"},
    }
    for kind, said in words.items():
        asked = ABOUT | ({"at": rfc3339(utc_now() - timedelta(seconds=3))} if kind == "state" else {})
        path = f"/ledger/subjects/{subject}/proofs/{kind}"
        if kind == "absence":
            asked = {"purpose": "fair-news", "channel": "email"}
        if kind == "consistency":
            path, asked = "/ledger/log/0/proofs/consistency", {"old": "1"}
        page = await http.get(ledger.ledger_url + path, params=asked, headers=headers)
        assert page.status_code == 200, page.text
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["content-language"] == language
        assert page.headers["cache-control"] == "no-store"
        assert said[language] in page.text
        assert ADDRESS not in page.text
        # Its download is a file that verifies, under the name the page tells people to check.
        link = next(part for part in page.text.split('"') if "format=json" in part).replace("&amp;", "&")
        whole = await http.get(f"{ledger.ledger_url}{path}{link}", headers=headers)
        name = whole.headers["content-disposition"].split('"')[1]
        assert f"consent-ledger verify {name}" in page.text or kind == "consistency"
        assert verify(whole.content, await vkey(installation)) is not None
        assert urlsplit(link).query.endswith("format=json")


async def test_whoever_has_a_receipt_s_link_sees_what_holds_now(installation: Installation, ledger: Settings) -> None:
    [link] = await installation.opt_in()
    await proven(installation, ledger, "latest", "newsletter/email")
    receipt = urlsplit(link)
    here = f"{ledger.ledger_url}{receipt.path}"
    http = installation.front.http
    page = await http.get(f"{here}?{receipt.query}", headers=BROWSER | {"Accept-Language": "en"})
    assert f'href="{receipt.path}/latest?{receipt.query}"' in page.text
    held = await http.get(f"{here}/latest?{receipt.query}", headers=BROWSER | {"Accept-Language": "en"})
    assert "Consent holds." in held.text
    await withdraw(installation)
    answer = await http.get(f"{here}/latest?{receipt.query}")
    report = verify(answer.content, await vkey(installation))
    assert report is not None
    assert "ConsentWithdrawn" in report.conclusion
    for wrong in ("", "?key=", f"?key={'A' * 22}"):
        assert (await http.get(f"{here}/latest{wrong}")).status_code == 404


async def test_the_command_writes_a_file_or_pipes_it_and_exits_as_it_says(
    installation: Installation, ledger: Settings, tmp_path: Path
) -> None:
    await installation.opt_in()
    await proven(installation, ledger, "latest", "newsletter/email")
    subject = await installation.subject()
    environment = os.environ | {
        "CONSENT_LEDGER_LEDGER_URL": ledger.ledger_url,
        "CONSENT_LEDGER_SECRETS_DIR": str(ledger.secrets_dir),
    }

    async def command(*arguments: str) -> tuple[int, bytes, str]:
        started = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("consent-ledger")),
            *arguments,
            env=environment,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, complained = await started.communicate()
        return started.returncode or 0, printed, complained.decode()

    (tmp_path / "vkey").write_text(await vkey(installation))
    status, printed, said = await command("proof", "latest", subject, "newsletter/email")
    assert (status, "consent holds" in said) == (0, True), said
    assert verify(printed, await vkey(installation)) is not None
    status, printed, said = await command("proof", "absence", subject, "fair-news/email", "-o", "absence.json")
    assert (status, printed) == (0, b""), said
    assert (tmp_path / "absence.json").stat().st_mode & 0o777 == 0o600
    status, printed, _ = await command("verify", "absence.json", "--vkey", "vkey")
    assert (status, b"VALID proof: at " in printed) == (0, True)
    status, _, said = await command("proof", "consistency", "absence.json", "-o", "grown.json")
    assert (status, "only grew" in said) == (0, True), said
    status, printed, _ = await command("verify", "absence.json", "grown.json", "--vkey", "vkey")
    assert (status, b"NO CONTRADICTION" in printed) == (0, True)
    status, printed, said = await command("proof", "absence", subject, "newsletter/email")
    assert (status, printed, "Something is recorded" in said) == (1, b"", True)


async def test_of_leaves_that_a_superuser_changed_no_map_is_made(installation: Installation) -> None:
    await installation.opt_in()
    await SealedMap(await installation.ledger.database("ledger"), 0).catch_up()
    # A leaf is changed in the table after it was signed.
    await installation.superuser.execute("alter table ledger.leaf_batch disable trigger all")
    row = await installation.superuser.fetchrow(
        "select first, leaves from ledger.leaf_batch where first > 0 order by first desc limit 1"
    )
    assert row is not None
    altered = bytearray(row["leaves"])
    altered[50] ^= 1
    await installation.superuser.execute(
        "update ledger.leaf_batch set leaves = $2 where first = $1", row["first"], bytes(altered)
    )
    with pytest.raises(Corrupt):
        await SealedMap(await installation.ledger.database("ledger"), 0).catch_up()
