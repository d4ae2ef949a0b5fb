"""The main job in a browser that runs no scripts, and the ways that pages are printed, enlarged and translated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.journeys.people import granted

if TYPE_CHECKING:
    from tests.browser.visitor import Visitor
    from tests.journeys.people import World


def test_everything_works_without_scripts(visitor_without_scripts: Visitor, world: World) -> None:
    visitor, person = visitor_without_scripts, world.person("de")
    visitor.go("/newsletter", "de")
    visitor.press(status=422)
    visitor.page.fill("#email", person.address)
    visitor.choose("purpose-1")
    visitor.press()
    confirmation = person.mail(1)
    visitor.go(confirmation.confirm_link)
    visitor.press()
    welcome = person.mail(2)
    granted(world, person.subject(confirmation))
    visitor.go(welcome.receipts[0])
    assert visitor.page.locator("a[download]").count() >= 1
    visitor.go(welcome.way_out)
    visitor.press()
    assert visitor.page.locator("[data-outcome=stopped]").count() == 1


def test_the_language_is_switched_by_a_link_and_stays_through_the_form(visitor: Visitor, world: World) -> None:
    person = world.person()
    visitor.go("/newsletter")
    assert visitor.page.get_attribute("html", "lang") == "de"
    visitor.press("nav a[lang=en]")
    assert visitor.page.get_attribute("html", "lang") == "en"
    visitor.press(status=422)
    assert visitor.page.get_attribute("html", "lang") == "en"
    visitor.page.fill("#email", person.address)
    visitor.choose("purpose-1")
    visitor.press()
    assert visitor.page.get_attribute("html", "lang") == "en"
    assert person.mail(1).message["Content-Language"] == "en"


def test_text_twice_as_large_still_fits(visitor: Visitor) -> None:
    for path in ("/", "/newsletter", "/inbox"):
        visitor.go(path, "de")
        visitor.page.set_viewport_size({"width": 1280, "height": 800})
        visitor.page.evaluate("() => { document.documentElement.style.fontSize = '200%'; }")
        assert visitor.too_wide() == []
        # 400 % on a usual screen is a page 320 px wide (WCAG 1.4.10).
        visitor.page.evaluate("() => { document.documentElement.style.fontSize = ''; }")
        visitor.page.set_viewport_size({"width": 320, "height": 256})
        assert visitor.too_wide() == []
