"""The main job by keyboard alone: signing up, confirming, leaving, and finding one's mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.journeys.people import granted

if TYPE_CHECKING:
    from tests.browser.visitor import Visitor
    from tests.journeys.people import World

MOST_STOPS = 40


def tab_to(visitor: Visitor, selector: str) -> None:
    """Press Tab until something of this kind has the focus."""
    for _ in range(MOST_STOPS):
        visitor.page.keyboard.press("Tab")
        if visitor.page.evaluate("(kind) => document.activeElement.matches(kind)", selector):
            return
    raise AssertionError(f"the Tab key never came to {selector}")


def press_enter(visitor: Visitor, status: int = 200) -> None:
    with visitor.page.expect_navigation() as navigation:
        visitor.page.keyboard.press("Enter")
    assert navigation.value is not None
    assert navigation.value.status == status


def test_a_person_signs_up_confirms_and_leaves_without_a_mouse(visitor: Visitor, world: World) -> None:
    person = world.person("de")
    visitor.go("/newsletter", "de")
    tab_to(visitor, "#email")
    visitor.page.keyboard.type(person.address)
    for box in ("#purpose-1", "#purpose-2"):
        tab_to(visitor, box)
        visitor.page.keyboard.press("Space")
        assert visitor.page.is_checked(box)
    tab_to(visitor, "button")
    press_enter(visitor)
    confirmation = person.mail(1)
    visitor.go(confirmation.confirm_link)
    tab_to(visitor, "button")
    press_enter(visitor)
    welcome = person.mail(2)
    subject = person.subject(confirmation)
    granted(world, subject)
    visitor.go(welcome.way_out)
    tab_to(visitor, "#scope-purpose")
    visitor.page.keyboard.press("ArrowDown")
    assert visitor.page.is_checked("#scope-everything")
    tab_to(visitor, "button")
    press_enter(visitor)
    assert visitor.page.locator("[data-outcome=stopped]").count() == 1
    assert world.permit(subject)["decision"] == "refused"


def test_the_form_can_be_sent_from_the_address_with_enter(visitor: Visitor, world: World) -> None:
    person = world.person()
    visitor.go("/newsletter", "en")
    tab_to(visitor, "#purpose-1")
    visitor.page.keyboard.press("Space")
    visitor.page.keyboard.press("Shift+Tab")
    visitor.page.keyboard.type(person.address)
    press_enter(visitor)
    assert person.mail(1).confirm_link


def test_mistakes_are_announced_and_each_leads_to_its_field(visitor: Visitor) -> None:
    visitor.go("/newsletter", "en")
    tab_to(visitor, "form button")
    press_enter(visitor, 422)
    focused = visitor.page.evaluate("() => document.activeElement.getAttribute('role')")
    assert focused == "alert", "the focus is not at what went wrong"
    assert visitor.page.title().startswith("Please check")
    for field in ("#email", "#purpose-1"):
        visitor.page.locator("[role=alert]").focus()
        tab_to(visitor, f"a[href='{field}']")
        visitor.page.keyboard.press("Enter")
        assert visitor.page.evaluate("(field) => document.activeElement.matches(field)", field)
    described = visitor.page.get_attribute("#email", "aria-describedby")
    assert described is not None
    said = [visitor.page.inner_text(f"#{name}") for name in described.split()]
    assert any("enter your e-mail" in text.lower() for text in said)


def test_the_first_stop_leads_past_the_header(visitor: Visitor) -> None:
    visitor.go("/newsletter", "de")
    visitor.page.keyboard.press("Tab")
    skip = visitor.page.locator(".skip")
    assert skip.evaluate("(link) => link === document.activeElement")
    box = skip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["y"] >= 0
    visitor.page.keyboard.press("Enter")
    visitor.page.keyboard.press("Tab")
    assert visitor.page.evaluate("() => document.activeElement.closest('main') !== null")
