"""Words: both languages say the same things, and every page finds every word it needs."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

import services.newsletter
from shared.pages import LANGUAGES, Pages, Texts, load_texts
from shared.register import load

HERE = Path(services.newsletter.__file__).parent
PAGES = Pages("newsletter", HERE)
TEXTS = {language: load_texts((HERE,), language) for language in LANGUAGES}
NOTICE = {language: load().activity("newsletter").notice(language) for language in LANGUAGES}
LABELS = ["<b>first</b>", "second"]
RECEIPTS = [{"title": "first", "path": "/?a=1&b=2", "url": "https://example.org/?a=1&b=2"}]

SHOWN: dict[str, dict[str, object]] = {
    "form.html": {
        "served": "token",
        "form": {"typed": "mara@", "ticked": ["newsletter/email"]},
        "problems": [{"field": "email", "anchor": "email", "text": "wrong"}],
        "wrongs": {"email": {"text": "wrong"}, "purposes": {"text": "none"}, "newsletter/email": {"text": "alone"}},
        "alert": "",
    },
    "sent.html": {},
    "confirm.html": {
        "agreed": LABELS,
        "until": "tomorrow",
        "notice_hash": "ab" * 32,
        "unavailable": True,
        "opened": {"name": "opened", "value": "then"},
        "acceptance": "a.b.c",
        "receipts": RECEIPTS,
    },
    "confirmed.html": {"agreed": LABELS, "already": False, "acceptance": "a.b.c", "receipts": RECEIPTS},
    "ended.html": {"state": "expired", "until": "yesterday"},
    "leave.html": {"titles": LABELS},
    "left.html": {
        "outcome": "stopped",
        "scope": "purpose",
        "titles": LABELS,
        "at": "now",
        "in_transmission": True,
        "acceptance": "a.b.c",
        "receipts": RECEIPTS,
    },
    "trouble.html": {"title": "title", "message": "message", "again": {"url": "?lang=de", "text": "again"}},
}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_words_with_the_same_values() -> None:
    german, english = TEXTS["de"], TEXTS["en"]
    assert german.keys() == english.keys()
    for key in german.keys():  # noqa: SIM118 - keys() of ours, not a dict's
        assert placeholders(german(key)) == placeholders(english(key)), key


def test_no_two_texts_are_left_untranslated() -> None:
    same = {key for key in TEXTS["de"].keys() if TEXTS["de"](key) == TEXTS["en"](key)}  # noqa: SIM118
    assert same == {"site.name"}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("template", sorted(SHOWN))
def test_every_page_is_complete_in_every_language(template: str, language: str) -> None:
    values = {"brand": "Brand", "notice": NOTICE[language], **SHOWN[template]}
    page = bytes(PAGES.render(template, language, **values).body).decode()
    assert f'<html lang="{language}">' in page
    assert "<b>first</b>" not in page
    assert ("<script" in page) is (template in {"left.html", "confirmed.html"}), (
        "scripts verify receipts, and do nothing else"
    )
    assert re.search(r"<title>[^<]+ · Brand</title>", page)
    assert page.count("<h1>") == 1


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("alert", ["expired", "unavailable"])
def test_the_form_says_why_it_is_shown_again(language: str, alert: str) -> None:
    values = {**SHOWN["form.html"], "alert": alert, "problems": [], "wrongs": {}, "notice": NOTICE[language]}
    page = bytes(PAGES.render("form.html", language, brand="Brand", **values).body).decode()
    assert PAGES.texts(language)(f"problem.{alert}") in page
    assert 'role="alert" tabindex="-1" autofocus' in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_state_and_outcome_has_words(language: str) -> None:
    words = TEXTS[language]
    for state in ("expired", "voided", "unknown"):
        assert f"ended.{state}" in words
        assert f"ended.{state}_title" in words
    for outcome in ("stopped", "accepted"):
        for suffix in ("", "_title", "_purpose"):
            assert f"left.{outcome}{suffix}" in words


def test_every_template_is_shown_here() -> None:
    with_body = {path.name for path in (HERE / "pages").glob("*.html") if "extends" in path.read_text("utf-8")}
    assert with_body == set(SHOWN)


def test_germans_are_addressed_formally() -> None:
    familiar = re.compile(r"\b(du|dich|dir|dein\w*|euch|euer)\b", re.IGNORECASE)
    german: Texts = TEXTS["de"]
    assert not [key for key in german.keys() if familiar.search(german(key))]  # noqa: SIM118
