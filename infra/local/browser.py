"""A very small browser: fetches pages, reads their forms, fills them in and sends them, as a person would.

It runs no scripts and keeps no cookies: the pages need neither.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(slots=True)
class Form:
    """One form of a page: where it goes, what it would send as it stands, and the boxes one can tick."""

    action: str
    method: str
    values: list[tuple[str, str]] = field(default_factory=list)
    boxes: list[tuple[str, str, bool]] = field(default_factory=list)
    emails: list[str] = field(default_factory=list)

    def filled(self, email: str = "", ticked: Iterable[str] = ()) -> list[tuple[str, str]]:
        """What the form sends with this address and with the boxes of these values ticked."""
        wanted = set(ticked)
        sent = [*self.values, *((name, email) for name in self.emails)]
        return sent + [(name, value) for name, value, default in self.boxes if default or value in wanted]


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._open: Form | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = Form(given.get("action", ""), given.get("method", "get").upper())
            self.forms.append(self._open)
        elif self._open is not None and tag == "input" and given.get("name"):
            match given.get("type", "text"):
                case "checkbox":
                    self._open.boxes.append((given["name"], given.get("value", "on"), "checked" in given))
                case _ if given.get("autocomplete") == "email":
                    self._open.emails.append(given["name"])
                case "radio" if "checked" not in given:
                    pass
                case "submit" | "button":
                    pass
                case _:
                    self._open.values.append((given["name"], given.get("value", "")))
        elif self._open is not None and tag == "button" and given.get("name"):
            self._open.boxes.append((given["name"], given.get("value", ""), False))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: status, headers by lower-case name, bytes, and how long it took in seconds."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    def form(self, sends: str | None = None) -> Form:
        """The first form that is sent by POST, or the one that has a field of this name."""
        parser = _Forms()
        parser.feed(self.text)
        for form in parser.forms:
            names = {name for name, *_ in [*form.values, *form.boxes]} | set(form.emails)
            if form.method == "POST" and (sends is None or sends in names):
                return form
        raise LookupError("this page has no such form")


class Browser:
    """One person at one browser in one language."""

    def __init__(self, language: str, agent: str = "Mozilla/5.0 (demo)") -> None:
        self._headers = {"Accept-Language": language, "Accept": "text/html", "User-Agent": agent}

    def get(self, url: str, **headers: str) -> Page:
        return self._send(urllib.request.Request(url, headers={**self._headers, **headers}))

    def post(self, url: str, fields: Iterable[tuple[str, str]], *, origin: bool = True) -> Page:
        """Send a form. `origin=False` is a program (a mailbox provider), which sends no Origin."""
        parts = urllib.parse.urlsplit(url)
        headers = {**self._headers, "Content-Type": "application/x-www-form-urlencoded"}
        if origin:
            headers |= {"Origin": f"{parts.scheme}://{parts.netloc}", "Sec-Fetch-Site": "same-origin"}
        data = urllib.parse.urlencode(list(fields)).encode("ascii")
        return self._send(urllib.request.Request(url, data, headers, method="POST"))

    def submit(self, page: Page, form: Form, fields: Iterable[tuple[str, str]]) -> Page:
        """Send a page's form where it says."""
        return self.post(urllib.parse.urljoin(page.url, form.action), fields)

    @staticmethod
    def _send(request: urllib.request.Request) -> Page:
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, headers, body = (
                    answer.status,
                    {name.lower(): value for name, value in answer.headers.items()},
                    answer.read(),
                )
        except urllib.error.HTTPError as error:
            status, headers, body = (
                error.code,
                {name.lower(): value for name, value in error.headers.items()},
                error.read(),
            )
        return Page(request.full_url, status, headers, body, time.perf_counter() - began)
