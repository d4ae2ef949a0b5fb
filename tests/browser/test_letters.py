"""Our mails as a mail program shows their HTML: narrow, without anything from elsewhere, for everyone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.browser.conftest import Subscribed
    from tests.browser.visitor import Visitor


@pytest.mark.parametrize("language", ["de", "en"])
@pytest.mark.parametrize("kind", ["confirmation", "welcome", "issue"])
def test_a_letter_is_for_everyone(
    visitor: Visitor, subscribed: dict[str, Subscribed], kind: str, language: str
) -> None:
    mail = getattr(subscribed[language], kind)
    html = mail.message.get_body(("html",)).get_content()
    assert not re.search(r"<(img|script|link|iframe)\b|url\(|@import", html), "a mail loads something"
    visitor.page.set_content(html)
    # A mail stands within the page of whoever reads it, so it has no landmarks of its own.
    visitor.look(f"letter-{kind}", language, without=("landmark-one-main", "region"))
    links = {link.get_attribute("href") for link in visitor.page.locator("a").all()}
    assert f"{mail.way_out}?lang={language}" in links
    assert all(link.startswith((visitor.world.base, "mailto:")) for link in links if link)
