"""The receipt's words: the same in both languages, and none missing for anything a receipt can be about."""

from __future__ import annotations

import re

import pytest
from starlette.requests import Request

from services.ledger.api.receipts import HERE, Receipts
from services.ledger.proofs.receipt import RECEIPTED_TYPES, Snapshot
from shared.pages import LANGUAGES, Pages
from shared.register import load
from tests.opt_in import OptIn

PAGES = Pages("ledger", HERE)
RECEIPTED = ("request", "refused", "given", "withdrawn", "ordered", "ended", "erased", "completed")


def page(of: str, language: str) -> str:
    story = OptIn().play()
    story.erase()
    query = f"key=AAAAAAAAAAAAAAAAAAAAAA&lang={language}".encode()
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": query})
    shown = Receipts(None, None, PAGES)  # type: ignore[arg-type] - a page is made from what was read already
    history = story.world.history([story.indexes[of]])
    others = [story.world.statements[index] for name, index in story.indexes.items() if name in RECEIPTED]
    return bytes(shown.page(request, history, Snapshot(load().snapshot()), {"key": "key"}, others).body).decode()


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
    html = page("ended", "en")
    for name in ("The order to erase is on record", "An erasure is on record", "The end of the erasure is on record"):
        assert name in html
    assert "&amp;by=" in html or "?by=" in html


@pytest.mark.parametrize(
    ("of", "words"), [("erased", "the address"), ("ordered", "marketing"), ("completed", "nothing")]
)
def test_the_receipt_of_an_erasure_says_what_was_done(of: str, words: str) -> None:
    html = page(of, "en").partition("<main")[2]
    assert words in html
    assert PAGES.texts("en")("receipt.lead.everything") not in html
