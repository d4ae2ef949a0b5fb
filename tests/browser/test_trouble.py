"""What people see when a part of the system does not answer: the truth, and nothing of theirs is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.local.screen import until

if TYPE_CHECKING:
    from tests.browser.conftest import Subscribed
    from tests.browser.visitor import Visitor
    from tests.journeys.people import World
    from tests.parts import PostgresPart


@pytest.mark.parametrize("language", ["de"])
def test_while_the_database_is_down_pages_say_so_and_afterwards_all_goes_on(
    visitor: Visitor, world: World, postgres: PostgresPart, subscribed: dict[str, Subscribed], language: str
) -> None:
    person = world.person(language)
    way_out = subscribed[language].issue.way_out
    waiting = world.person(language).sign_up()
    postgres.server.kill()
    try:
        visitor.go("/", language)
        visitor.look("trouble-start", language)
        visitor.go("/newsletter", language)
        visitor.page.fill("#email", person.address)
        visitor.choose("purpose-1")
        visitor.press(status=503)
        visitor.look("trouble-form", language)
        visitor.tab_through()
        assert visitor.page.input_value("#email") == person.address
        assert visitor.page.is_checked("#purpose-1")
        visitor.go(waiting.confirm_link, status=503)
        visitor.look("trouble-confirm", language)
        assert visitor.page.locator("main a.button").get_attribute("href") == "", "there is no way to try again"
        visitor.go(way_out, language)
        visitor.press(status=503)
        visitor.look("trouble-leave", language)
        visitor.tab_through()
    finally:
        postgres.server.restart()
    until("the newsletter", lambda: visitor.context.request.get(f"{world.base}/newsletter/health/ready").ok, 30)
    visitor.go("/newsletter", language)
    visitor.page.fill("#email", person.address)
    visitor.choose("purpose-1")
    visitor.press()
    assert person.mail(1, 30).confirm_link
    visitor.go(way_out, language)
    visitor.press()
