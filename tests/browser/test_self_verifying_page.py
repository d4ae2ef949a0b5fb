"""Evidence as one file: opened from disk with the network off it says valid, and after any other byte it does not."""

from __future__ import annotations

import base64
import contextlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from services.ledger.evidence.bundle import Material, bundle, files_of
from services.ledger.evidence.page import VERIFIER, page_of
from services.ledger.proofs.receipt import Snapshot, receipt, to_bytes
from services.ledger.reader.archive import pack
from services.ledger.reader.errors import Invalid
from services.ledger.reader.evidence import LATEST, MANIFEST
from services.ledger.reader.page import BEGINS
from services.ledger.reader.verify import verify
from shared.register import load
from shared.software import software
from tests.browser.conftest import SCREENSHOTS
from tests.browser.visitor import Visitor
from tests.opt_in import OptIn
from tests.unit.proof.forging import Files, mended, named, with_json
from tests.unit.proof.mutants import mutants
from tests.unit.proof.programs import programs
from tests.unit.proof.proving import made, stamped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.journeys.people import World

Made = TypeVar("Made")
VERDICT: Final = "main[data-verdict]"

# Whoever is not shown "valid" within this was not told that the file is: nothing moves any more by then.
SETTLED: Final = """
() => new Promise((resolve) => {
  const found = () => document.querySelector('main[data-verdict]')?.dataset.verdict;
  const end = performance.now() + 1500;
  if (typeof ConsentLedger === 'undefined') resolve('unchecked');
  const look = () => (found() || performance.now() > end ? resolve(found() ?? 'unchecked') : setTimeout(look, 5));
  look();
})
"""
JUDGE: Final = """
async ([kind, encoded]) => {
  const {valid, refusal} = await ConsentLedger.verify(kind, ConsentLedger.fromBase64(encoded));
  return valid ? '' : refusal.step;
}
"""


def aside(made: Callable[[], Made]) -> Made:
    """What was made in a thread of its own: a story plays in a loop, and this thread has the browser's."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(made).result()


@cache
def story() -> OptIn:
    return aside(lambda: OptIn().play())


def whole(told: OptIn) -> Material:
    """All that a bundle can have: the proof of the latest word, a timestamp of the log as it ended with the consent."""
    stamps = [stamped(told.world, told.indexes.get("given", told.indexes["request"]) + 2)]
    return replace(told.material, latest=made(told.world, "latest"), stamps=stamps)


@cache
def packed() -> bytes:
    return aside(lambda: bundle(whole(story())))


@pytest.fixture
def reader(chromium: Browser, world: World, tmp_path: Path) -> Iterator[Visitor]:
    """Yield somebody without any network."""
    with Visitor.at(chromium, world, SCREENSHOTS) as someone:
        someone.context.set_offline(True)
        yield someone
        strange = [url for url in someone.asked if not url.startswith((tmp_path.as_uri(), "blob:"))]
        assert not strange, strange


def opened(someone: Visitor, folder: Path, page: bytes) -> Page:
    """Open this page from a file."""
    file = folder / "evidence.html"
    file.write_bytes(page)
    someone.page.goto(file.as_uri())
    return someone.page


@pytest.mark.parametrize("language", ["de", "en"])
def test_it_says_valid_and_shows_what_it_holds(reader: Visitor, tmp_path: Path, language: str) -> None:
    page = opened(reader, tmp_path, page_of(packed(), language))  # type: ignore[arg-type]
    page.wait_for_selector(VERDICT)
    assert page.get_attribute("main", "data-verdict") == "valid"
    shown = page.inner_text("main")
    for word in (
        "Jane.Doe@example.org",
        "Beispielwerk GmbH",
        story().world.subject,
        "please open this link to confirm",
        "https://example.org/newsletter/confirm/[…]",
        software(),
        {"de": "kein späteres Wort dazu", "en": "no later word on it"}[language],
        {"de": "Spätestens da", "en": "There at the latest"}[language],
        {"de": "4210 ms vor dem Knopf", "en": "4210 ms before the button"}[language],
        {"de": "Vor der Antwort angekreuzt", "en": "Ticked before the answer"}[language],
        "250 ok",
        {"de": "nur das Wort des Betreibers", "en": "only the operator's word"}[language],
    ):
        assert word in shown
    assert story().token not in shown
    reader.look("evidence-page", language, scripts=2)
    reader.tab_through()
    assert not reader.complaints, reader.complaints
    page.click("header a")
    assert page.get_attribute("html", "lang") == {"de": "en", "en": "de"}[language]


def test_a_request_that_nobody_confirmed_is_shown_with_its_mail(reader: Visitor, tmp_path: Path) -> None:
    unconfirmed = OptIn()
    unconfirmed.request()
    unconfirmed.confirmation_mail()
    page = opened(reader, tmp_path, page_of(aside(lambda: bundle(unconfirmed.material)), "en"))
    page.wait_for_selector("main[data-verdict=valid]")
    shown = page.inner_text("main")
    assert "please open this link to confirm" in shown
    assert "There is no confirmation here." in shown
    assert unconfirmed.token not in shown


def test_its_key_is_compared_with_one_from_elsewhere(reader: Visitor, tmp_path: Path) -> None:
    page = opened(reader, tmp_path, page_of(packed(), "en"))
    page.fill("#key", story().world.fresh.vkey)
    page.click("main button")
    page.wait_for_selector("main[data-key=wrong]")
    assert page.get_attribute("main", "data-verdict") == "invalid"
    page = opened(reader, tmp_path, page_of(packed(), "en"))
    page.fill("#key", f" {story().world.signer.vkey}\n")
    page.click("main button")
    page.wait_for_selector("main[data-key=right]")
    assert page.get_attribute("main", "data-verdict") == "valid"


def test_the_zip_is_saved_from_it_byte_for_byte(reader: Visitor, tmp_path: Path) -> None:
    page = opened(reader, tmp_path, page_of(packed()))
    with page.expect_download() as download:
        page.click("a[download]")
    saved = tmp_path / "saved.zip"
    download.value.save_as(saved)
    assert saved.read_bytes() == packed()


def test_without_scripts_it_says_that_nothing_was_checked(chromium: Browser, world: World, tmp_path: Path) -> None:
    with Visitor.at(chromium, world, tmp_path, scripts=False) as someone:
        page = opened(someone, tmp_path, page_of(packed()))
        assert "Not checked" in page.inner_text("main")
        assert "Jane" not in page.inner_text("main")


def places(page: bytes) -> list[int]:
    """Bytes of every part: each tag, the style, the bundle from end to end, the scripts."""
    source = random.Random(5)
    at, end = page.index(BEGINS), page.rindex(b"<script>")
    before = [*range(0, page.index(b"<style"), 9), *source.sample(range(page.index(b"<style"), at), 25)]
    inside = [at + 3, at + 20, at + len(BEGINS), *source.sample(range(at, end), 45), end - 10, end - 1]
    return [*before, *inside, end + 1, end + 4, *source.sample(range(end, len(page)), 25), len(page) - 1]


def test_with_any_byte_flipped_it_does_not_say_valid(reader: Visitor, tmp_path: Path) -> None:
    whole = page_of(packed())
    verdicts = {}
    for place in places(whole):
        altered = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        verdicts[place] = opened(reader, tmp_path, altered).evaluate(SETTLED)
        reader.complaints.clear()
    believed = {place: whole[place - 20 : place + 20] for place, verdict in verdicts.items() if verdict == "valid"}
    assert believed == {}
    assert set(verdicts.values()) == {"invalid", "unchecked"}


def by_the_reader(data: bytes) -> str:
    """At which step the reader refuses; nothing if it does not."""
    with contextlib.suppress(Invalid):
        verify(data, None)
        return ""
    try:
        verify(data, None)
    except Invalid as error:
        return error.step
    raise AssertionError


def forgeries() -> Iterator[tuple[str, bytes]]:
    """Each file altered or missing, manifest and archive mended after it; and stories that were otherwise."""
    source = random.Random(11)
    files = files_of(whole(story()))
    for name, content in sorted(files.items()):
        for _ in range(4):
            at = source.randrange(len(content))
            changed = content[:at] + bytes([content[at] ^ 1 << source.randrange(8)]) + content[at + 1 :]
            again = {**files, name: changed}
            yield f"{name} at {at}", pack(again) if name == MANIFEST else mended(again)
        if name != MANIFEST:
            yield f"without {name}", mended({other: held for other, held in files.items() if other != name})
    for told in ({"to": "other@example.org"}, {"to": "jane.doe@EXAMPLE.org"}, {"token_in_mail": "A" * 43}):
        yield str(told), mended(files_of(OptIn(**told).play().material))  # type: ignore[arg-type]
    for told in ({"withdrawn": False}, {"verified": False}):
        yield str(told), mended(files_of(whole(OptIn(**told).play())))  # type: ignore[arg-type]
    unconfirmed = OptIn()
    unconfirmed.request()
    unconfirmed.confirmation_mail()
    yield "nobody has confirmed", mended(files_of(whole(unconfirmed)))
    yield from ((f"software: {name}", data) for name, data, _ in programs())
    withdrawal = story().indexes["withdrawn"]
    left_out = {f"statements/{withdrawal}.json", f"records/{withdrawal}.jsonld"}
    yield "without the withdrawal", mended({name: held for name, held in files.items() if name not in left_out})
    for name, member in (*((LATEST, one) for one in json.loads(files[LATEST])), *_of_words(files)):
        for change in (_nothing, _reversed, _altered):
            yield f"{change.__name__} {member} of {name}", mended(with_json(files, name, change(member)))
    yield from mutants(story())


def _of_words(files: Files) -> Iterator[tuple[str, str]]:
    """What lies deeper in the proof of the latest word, and what a timestamp has."""
    yield from ((LATEST, path) for path in (
        "map_root/leaf", "map_root/hashes", "words/0/place/siblings", "words/0/place/record/version",
        "words/0/place/record/index", "words/0/place/record/label", "words/0/entries", "words/0/entries/0/leaf",
        "words/0/entries/0/pin", "words/0/entries/0/hashes", "words/0/entries/0/matter", "words/1/place/siblings",
    ))  # fmt: skip
    yield from ((named(files, "timestamps/"), member) for member in ("root", "hashes", "answer"))


def _at(value: Any, path: str, change: Callable[[Any], Any]) -> None:
    *way, last = path.split("/")
    for step in way:
        value = value[int(step) if step.isdecimal() else step]
    value[last] = change(value[last])


def _nothing(path: str) -> Callable[[Any], None]:
    return lambda value: _at(value, path, lambda _: None)


def _reversed(path: str) -> Callable[[Any], None]:
    return lambda value: _at(value, path, lambda held: held[::-1] if isinstance(held, list | str) else held)


def _altered(path: str) -> Callable[[Any], None]:
    def other(held: Any) -> Any:
        if isinstance(held, str):
            return ("A" if held[:1] != "A" else "B") + held[1:]
        return held[:-1] if isinstance(held, list) else {}

    return lambda value: _at(value, path, other)


@pytest.fixture
def judge(reader: Visitor, tmp_path: Path) -> Page:
    """Return a page that has the verifier and nothing else."""
    file = tmp_path / "judge.html"
    file.write_text(
        f"<!doctype html><meta charset=utf-8><title>j</title><script>{VERIFIER.read_text('utf-8')}</script>"
    )
    reader.page.goto(file.as_uri())
    return reader.page


def test_browser_and_reader_refuse_each_forgery_at_the_same_step(judge: Page) -> None:
    apart = {}
    for name, data in aside(lambda: list(forgeries())):
        said = judge.evaluate(JUDGE, ["evidence", base64.b64encode(data).decode()])
        if said != (known := by_the_reader(data)):
            apart[name] = (said, known)
    assert apart == {}


@pytest.mark.parametrize("of", ["request", "refused", "given", "withdrawn", "ordered", "ended", "erased", "completed"])
def test_receipts_verify_in_the_browser_and_flipped_ones_do_not(judge: Page, of: str) -> None:
    told = OptIn().play()
    told.erase()
    history = aside(lambda: told.world.history([told.indexes[of]]))
    whole = to_bytes(receipt(history, Snapshot(load().snapshot())))
    assert judge.evaluate(JUDGE, ["receipt", base64.b64encode(whole).decode()]) == ""
    source = random.Random(of)
    for place in source.sample(range(len(whole)), 40):
        altered = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        # Space between members may be any space; everything else counts.
        if whole[place : place + 1].isspace() and by_the_reader(altered) == "":
            continue
        assert judge.evaluate(JUDGE, ["receipt", base64.b64encode(altered).decode()]) != "", place


def test_a_receipt_with_extra_data_is_refused_as_by_the_reader(judge: Page) -> None:
    history = aside(lambda: story().world.history([story().indexes["given"]]))
    value = receipt(history, Snapshot(load().snapshot()))
    value["proof"] = str(value["proof"]).replace("@v1\n", "@v1\nextra QQ==\n")
    assert by_the_reader(to_bytes(value)) == "2"
    assert judge.evaluate(JUDGE, ["receipt", base64.b64encode(to_bytes(value)).decode()]) == "2"


def test_ed25519_by_hand_agrees_with_web_crypto(judge: Page) -> None:
    agree = """
    async () => {
      const pair = await crypto.subtle.generateKey({name: 'Ed25519'}, true, ['sign', 'verify']);
      const key = new Uint8Array(await crypto.subtle.exportKey('raw', pair.publicKey));
      const {byHand, verify} = ConsentLedger.ed25519;
      const outcomes = [];
      for (let length = 0; length < 8; length += 1) {
        const message = crypto.getRandomValues(new Uint8Array(length * 31));
        const signature = new Uint8Array(await crypto.subtle.sign({name: 'Ed25519'}, pair.privateKey, message));
        outcomes.push(await byHand(key, signature, message) && await verify(key, signature, message));
        for (const place of [0, 31, 32, 63]) {
          const other = signature.slice();
          other[place] ^= 1 << length;
          outcomes.push(!await byHand(key, other, message) && !await verify(key, other, message));
        }
        const another = key.slice();
        another[length] ^= 1;
        outcomes.push(!await byHand(another, signature, message));
      }
      return outcomes.every(Boolean) && ConsentLedger.ed25519.isNative();
    }
    """
    assert judge.evaluate(agree) is True
