"""The receipt's words: the same in both languages, and none missing for anything a receipt can be about."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from starlette.requests import Request

from services.erasure.domain import HOLDERS, SOURCE, Reason
from services.ledger.api.receipts import HERE, Receipts
from services.ledger.proofs.history import Remaining
from services.ledger.proofs.receipt import RECEIPTED_TYPES, Snapshot
from shared.events.types import Data
from shared.pages import LANGUAGES, Pages
from shared.register import load
from tests.opt_in import OptIn

PAGES = Pages("ledger", HERE)
RECEIPTED = ("request", "refused", "given", "withdrawn", "ordered", "held", "ended", "erased", "completed")


def asked(query: str) -> Request:
    headers = [(b"accept", b"text/html")]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": query.encode()})


def page(of: str, language: str, *, others: bool = True) -> str:
    story = OptIn().play()
    story.erase()
    request = asked(f"key=AAAAAAAAAAAAAAAAAAAAAA&lang={language}")
    shown = Receipts(None, None, PAGES)  # type: ignore[arg-type] - a page is made from what was read already
    history = story.world.history([story.indexes[of]])
    same = [story.world.statements[index] for name, index in story.indexes.items() if name in RECEIPTED and name != of]
    others_shown = same if others else []
    return bytes(shown.page(request, history, Snapshot(load().snapshot()), {"key": "key"}, others_shown).body).decode()


def test_both_languages_have_the_same_texts() -> None:
    german, english = (PAGES.texts(language) for language in LANGUAGES)
    assert german.keys() == english.keys()
    assert all(german(key).strip() for key in german.keys())  # noqa: SIM118 - texts are no mapping
    assert all(english(key).strip() for key in english.keys())  # noqa: SIM118


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_about_a_consent_has_a_title(language: str) -> None:
    texts = PAGES.texts(language)
    assert all(f"receipt.title.{name}" in texts and f"receipt.lead.{name}" in texts for name in RECEIPTED_TYPES)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("of", RECEIPTED)
def test_every_kind_of_receipt_has_its_page(of: str, language: str) -> None:
    html = page(of, language)
    assert f'<html lang="{language}">' in html
    assert "{" not in html.partition("</style>")[2]
    assert "Jane" not in html


def test_the_words_of_the_box_keep_their_own_language() -> None:
    assert '<li lang="en">Yes, Beispielwerk GmbH may send its newsletter' in page("given", "de")
    assert "<li>Yes, Beispielwerk GmbH may send its newsletter" in page("given", "en")


def test_the_page_says_how_to_withdraw_only_where_there_is_a_consent() -> None:
    title = PAGES.texts("en")("receipt.out.title")
    assert title in page("given", "en")
    assert title not in page("withdrawn", "en")


def test_a_page_runs_only_the_verifier_of_its_own_origin_and_loads_nothing_else() -> None:
    html = page("given", "en")
    assert re.findall(r"<script[^>]*>", html) == [
        f'<script src="/ledger/scripts/{name}" defer>' for name in ("verifier.js", "receipt-page.js")
    ]
    assert "style=" not in html
    assert html.count(" src=") == 2


def test_a_page_leads_to_the_other_receipts_that_the_same_key_opens() -> None:
    html = page("ordered", "en")
    for name in ("The order to erase is on record", "An erasure is on record", "The end of the erasure is on record"):
        assert name in html
    assert "&amp;by=" in html or "?by=" in html


@pytest.mark.parametrize(
    ("of", "words"), [("erased", "the address"), ("ordered", "the mailing service"), ("completed", "nothing")]
)
def test_the_receipt_of_an_erasure_says_what_was_done(of: str, words: str) -> None:
    html = page(of, "en", others=False).partition("<main")[2]
    assert words in html
    assert PAGES.texts("en")("receipt.lead.everything") not in html


def test_the_receipts_of_an_erasure_say_until_when_they_open() -> None:
    texts = PAGES.texts("en")
    for of in ("ordered", "erased", "completed"):
        words = page(of, "en")
        # The longest of what was recorded, and not what the order said first.
        assert "It is kept until 14 May 2032" in words, of
        assert texts("receipt.keep.text") not in words


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_ground_of_an_order_and_every_holder_has_words(language: str) -> None:
    texts = PAGES.texts(language)
    assert all(f"receipt.reasons.{one}" in texts for one in get_args(Reason))
    assert all(f"receipt.by.{one}" in texts for one in get_args(Data.model_fields["by"].annotation))
    assert all(f"receipt.services.{one}" in texts for one in (*HOLDERS, SOURCE))


def test_the_receipt_of_an_erasure_does_not_promise_that_nothing_is_left() -> None:
    limit = PAGES.texts("en")("receipt.meaning.limits_erasure")
    for of in ("ordered", "erased", "completed"):
        assert limit in page(of, "en")
    assert limit not in page("ended", "en")


def test_the_page_of_an_order_says_that_the_completion_comes_and_stops_saying_so() -> None:
    waits = PAGES.texts("de")("receipt.others.waits")
    assert waits in page("ordered", "de", others=False)
    assert waits not in page("ordered", "de")
    assert waits not in page("erased", "de", others=False)


@pytest.mark.parametrize("language", LANGUAGES)
def test_where_the_keys_are_destroyed_the_page_says_what_can_still_be_shown(language: str) -> None:
    told = OptIn().play()
    told.erase()
    history = told.world.history([told.indexes["ordered"]])
    [entry] = history.entries
    left = Remaining(history.log, history.size, history.note, entry.index, entry.leaf, entry.hashes)
    request = asked(f"lang={language}")
    shown = Receipts(None, None, PAGES).destroyed(request, left, entry.statement.id, "key", None)  # type: ignore[arg-type]
    assert shown.status_code == 410
    html = bytes(shown.body).decode()
    assert f'<html lang="{language}">' in html
    assert "{" not in html.partition("</style>")[2]
    assert f" {entry.index} " in html
    assert "format=tlog-proof" in html
    # Of what was recorded nothing is known any more.
    for secret in (entry.statement.subject, entry.pin.hex(), entry.opening.hex()):
        assert secret not in html
