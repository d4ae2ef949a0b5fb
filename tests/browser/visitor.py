"""Somebody at a browser, and all that is held against every page they see."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from axe_playwright_python.sync_playwright import Axe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.journeys.people import World

NARROW, WIDE, HEIGHT = 360, 1280, 800
# German is looked at in every view, English in two. Axe looks in the last of each: what it holds against a page
# depends on its colours and on its structure, and so each page is seen in both.
VIEWS: Final = {
    "de": ((NARROW, "light"), (WIDE, "light"), (WIDE, "dark"), (NARROW, "dark")),
    "en": ((NARROW, "dark"), (WIDE, "light")),
}

# Everything the Tab key should stop at, in the order of the document. Of a group of radio buttons it is one.
CONTROLS: Final = """
() => {
  const shown = (one) => one.checkVisibility() && !one.disabled;
  const all = [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary, '
    + '[tabindex]')].filter((one) => one.tabIndex >= 0 && shown(one));
  const stops = all.filter((one) => {
    if (one.type !== 'radio') return true;
    const group = all.filter((other) => other.type === 'radio' && other.name === one.name);
    return one === (group.find((other) => other.checked) ?? group[0]);
  });
  stops.forEach((one, number) => one.setAttribute('data-stop', number));
  return stops.map((one) => `${one.localName} ${one.name ?? ''} ${one.textContent.trim().slice(0, 40)}`);
}
"""

# Where the focus is, whether one can see that it is there, and whether the place itself can be seen.
FOCUS: Final = """
() => {
  const one = document.activeElement;
  if (!one || one === document.body) return null;
  const ring = [one, one.closest('.choice')].filter(Boolean).some((place) => {
    const style = getComputedStyle(place);
    return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
  });
  const box = one.getBoundingClientRect();
  const inside = box.width > 0 && box.height > 0 && box.bottom > 0 && box.right > 0
    && box.top < innerHeight && box.left < innerWidth;
  return {stop: one.getAttribute('data-stop'), ring, inside};
}
"""

TOO_WIDE: Final = """
() => document.documentElement.scrollWidth <= document.documentElement.clientWidth ? [] :
  [...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5)
    .map((one) => `${one.localName}.${one.className}: ${one.textContent.trim().slice(0, 60)}`)
"""

# A finger hits 24 by 24 pixels (WCAG 2.5.8), unless it is a link within a line of text.
TOO_SMALL: Final = """
() => [...document.querySelectorAll('button, input:not([type=hidden]), .button, nav a, summary')].filter((one) => {
  const box = (one.closest('.choice') ?? one).getBoundingClientRect();
  return one.checkVisibility() && box.width > 0 && (box.width < 24 || box.height < 24);
}).map((one) => one.outerHTML.slice(0, 100))
"""


@dataclass
class Visitor:
    """One person, one browser window."""

    world: World
    context: BrowserContext
    page: Page
    pictures: Path
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def at(cls, chromium: Browser, world: World, pictures: Path, *, scripts: bool = True) -> Iterator[Self]:
        """Open a fresh profile; close it afterwards."""
        context = chromium.new_context(
            viewport={"width": NARROW, "height": HEIGHT}, java_script_enabled=scripts, locale="de-DE"
        )
        context.set_default_timeout(10_000)
        someone = cls(world, context, context.new_page(), pictures)
        context.on("request", lambda request: someone.asked.append(request.url))
        context.on("console", lambda message: someone.complain(message.type, message.text))
        context.on("weberror", lambda error: someone.complaints.append(str(error.error)))
        try:
            yield someone
        finally:
            context.close()

    def complain(self, kind: str, text: str) -> None:
        """A page that is refused is an error on the console too, and no complaint."""
        if kind in {"error", "warning"} and "the server responded with a status of" not in text:
            self.complaints.append(text)

    def was_left_alone(self) -> None:
        """Nothing left our origin, nothing is kept here, and the browser had nothing to complain of."""
        strange = [url for url in self.asked if not url.startswith((self.world.base + "/", "data:"))]
        assert not strange, strange
        assert self.context.cookies() == []
        assert not self.complaints, self.complaints

    def go(self, address: str, language: str = "", status: int = 200) -> None:
        """Open an address, in this language if one is named."""
        url = address if address.startswith("http") else self.world.base + address
        if language:
            url += ("&" if "?" in url else "?") + f"lang={language}"
        answer = self.page.goto(url)
        assert answer is not None
        assert answer.status == status, f"{answer.status} for {url}"

    def choose(self, identifier: str) -> None:
        """Tick a box or choose one of several, where people click: anywhere on its label."""
        self.page.click(f"label[for='{identifier}']")
        assert self.page.is_checked(f"#{identifier}")

    def press(self, selector: str = "main form button", status: int = 200) -> None:
        """Press a button that leads to another page."""
        with self.page.expect_navigation() as navigation:
            self.page.click(selector)
        assert navigation.value is not None
        assert navigation.value.status == status

    def look(self, name: str, language: str, without: Sequence[str] = (), scripts: int = 0) -> None:
        """Leave pictures of the page in every view, and hold it to all that every page must be.

        `without` names rules of axe's that do not apply; `scripts` is how many the page has, which is none as a rule.
        """
        self.pictures.mkdir(exist_ok=True)
        for width, scheme in VIEWS[language]:
            self.page.set_viewport_size({"width": width, "height": HEIGHT})
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            file = self.pictures / f"{name}-{language}-{width}-{scheme}.png"
            self.page.screenshot(path=file, full_page=True, animations="disabled")
            assert self.too_wide() == [], f"scrolls sideways at {width}"
        self._is_accessible(without)
        self.page.set_viewport_size({"width": NARROW, "height": HEIGHT})
        self.page.emulate_media(color_scheme="light")
        assert self.page.locator("html").get_attribute("lang") == language
        assert self.page.locator("h1").count() == 1
        assert self.page.title().strip()
        assert self.page.locator("link[rel=stylesheet], iframe").count() == 0
        assert self.page.locator("script").count() == scripts
        assert self.page.evaluate(TOO_SMALL) == []

    def too_wide(self) -> list[str]:
        """What makes the page scroll sideways; nothing if it does not."""
        return list(self.page.evaluate(TOO_WIDE))

    def _is_accessible(self, without: Sequence[str]) -> None:
        options = {"resultTypes": ["violations"], "rules": {rule: {"enabled": False} for rule in without}}
        found: list[dict[str, Any]] = Axe().run(self.page, options=options).response["violations"]
        said = [f"{one['id']}: {node['html']} {node['failureSummary']}" for one in found for node in one["nodes"]]
        assert not said, "\n".join(said)

    def tab_through(self) -> None:
        """Reach every control with the Tab key alone, in the order of the page, and see each time where one is."""
        controls: list[str] = self.page.evaluate(CONTROLS)
        assert controls, "there is nothing to reach"
        self.page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
        start = self.page.evaluate("() => document.querySelector('.skip') !== null")
        if start:
            self.page.locator(".skip").focus()
            self.page.keyboard.press("Shift+Tab")
        reached: list[int] = []
        for _ in range(len(controls)):
            self.page.keyboard.press("Tab")
            focus = self.page.evaluate(FOCUS)
            assert focus is not None, f"the focus is lost after {[controls[number] for number in reached]}"
            assert focus["stop"] is not None, "the focus is at something one cannot see"
            where = controls[int(focus["stop"])]
            assert focus["ring"], f"one cannot see that the focus is at: {where}"
            assert focus["inside"], f"the focus is out of sight at: {where}"
            reached.append(int(focus["stop"]))
        assert reached == list(range(len(controls))), [controls[number] for number in reached]
