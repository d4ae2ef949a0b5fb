"""The receipt's words: the same in both languages, and none missing for anything a receipt can be about."""

from __future__ import annotations

import re

import pytest
from starlette.requests import Request

from services.ledger.api.receipts import HERE, Receipts
from services.ledger.proofs.receipt import Snapshot
from services.ledger.record import RECORDED_TYPES
from shared.pages import LANGUAGES, Pages
from shared.register import load
from tests.opt_in import OptIn

PAGES = Pages("ledger", HERE)


def page(of: str, language: str) -> str:
    story = OptIn().play()
    query = f"key=AAAAAAAAAAAAAAAAAAAAAA&lang={language}".encode()
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": query})
    shown = Receipts(None, None, PAGES)  # type: ignore[arg-type] - a page is made from what was read already
    history = story.world.history([story.indexes[of]])
    return bytes(shown.page(request, history, Snapshot(load().snapshot()), "key").body).decode()


def test_both_languages_have_the_same_texts() -> None:
    german, english = (PAGES.texts(language) for language in LANGUAGES)
    assert german.keys() == english.keys()
    assert all(german(key).strip() for key in german.keys())  # noqa: SIM118 - texts are no mapping
    assert all(english(key).strip() for key in english.keys())  # noqa: SIM118


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_about_a_consent_has_a_title(language: str) -> None:
    texts = PAGES.texts(language)
    assert all(f"receipt.title.{name}" in texts and f"receipt.lead.{name}" in texts for name in RECORDED_TYPES)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("of", ["request", "refused", "given", "withdrawn"])
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
