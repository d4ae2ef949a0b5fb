"""Pages: escaped, in two languages with the same keys, with one hashed style sheet and nothing that runs."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi import Request
from jinja2 import UndefinedError

from shared.pages import LANGUAGES, MissingText, Pages


def request(query: str = "", language: str = "de") -> Request:
    headers = [(b"accept-language", language.encode())]
    return Request({"type": "http", "method": "GET", "path": "/x", "query_string": query.encode(), "headers": headers})


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/hello.html").write_text(
        '{% extends "base.html" %}{% block content %}<h1>{{ t("hello.title", name=name) }}</h1>'
        '{{ t.html("hello.link", url=url) }}{% endblock %}'
    )
    (tmp_path / "pages/broken.html").write_text("{{ nobody }}")
    (tmp_path / "pages/untold.html").write_text('{{ t("hello.nothing") }}')
    for language, title in (("de", "Guten Tag {name}"), ("en", "Hello {name}")):
        link = "<a href='{url}'>x</a>"
        (tmp_path / f"texts.{language}.toml").write_text(f'[hello]\ntitle = "{title}"\nlink = "{link}"\n')
    return Pages("probe", tmp_path)


def test_a_page_is_rendered_in_its_language_and_escapes_what_it_is_given(pages: Pages) -> None:
    body = bytes(pages.render("hello.html", "en", name="<b>", url="'onclick=").body).decode()
    assert '<html lang="en">' in body
    assert "<h1>Hello &lt;b&gt;</h1>" in body
    assert "<a href='&#39;onclick='>x</a>" in body


def test_the_policy_allows_the_style_in_the_page_and_nothing_that_runs(pages: Pages) -> None:
    answer = pages.render("hello.html", "de", name="x", url="x")
    style = re.search(r"<style>(.*?)</style>", bytes(answer.body).decode(), re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_language_switch_keeps_the_rest_of_the_address(pages: Pages) -> None:
    answer = pages.render("hello.html", "de", request=request("a=1&lang=de&b=%26"), name="x", url="x")
    assert 'href="?a=1&amp;b=%26&amp;lang=en"' in bytes(answer.body).decode()


def test_a_missing_value_or_text_is_a_mistake_not_an_empty_place(pages: Pages) -> None:
    with pytest.raises(UndefinedError):
        pages.render("broken.html", "de")
    with pytest.raises(MissingText):
        pages.render("untold.html", "de")


def test_both_languages_say_the_same_things() -> None:
    pages = Pages("probe")
    german, english = (pages.texts(language) for language in LANGUAGES)
    assert german.keys() == english.keys()
    for key in german.keys():  # noqa: SIM118 - not a dictionary
        assert set(re.findall(r"{\w+}", german(key))) == set(re.findall(r"{\w+}", english(key)))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("status", "code"), [(404, "not-found"), (410, "unknown-code"), (503, "unavailable")])
def test_an_error_page_has_words_in_the_persons_language(language: str, status: int, code: str) -> None:
    answer = Pages("probe").error(request(language=language), status, code, "An English message.")
    body = bytes(answer.body).decode()
    assert answer.status_code == status
    assert f'<html lang="{language}">' in body
    assert ("An English message." in body) == (language == "en" and code == "unknown-code")
    assert 'role="alert"' in body


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_a_page_has_its_landmarks_and_nothing_that_runs_or_is_fetched() -> None:
    page = _Page()
    page.feed(bytes(Pages("probe").error(request(), 404, "not-found", "x").body).decode())
    assert [page.tags.count(tag) for tag in ("main", "header", "footer", "h1", "title")] == [1] * 5
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in {"src", "style"}]
    assert not [value for name, value in page.attributes if name == "href" and (value or "").startswith("http")]
