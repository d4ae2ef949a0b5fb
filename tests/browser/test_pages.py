"""Every page, its pictures, and what each is held to: axe, 360 px, keyboard, language, nothing from elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest

from infra.local.screen import until
from shared import served_notice
from shared.served_notice import ServedNotice

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import Subscribed
    from tests.browser.visitor import Visitor


def verified(visitor: Visitor) -> None:
    """Wait until the browser itself has verified each receipt that the page offers."""
    places = visitor.page.locator("[data-receipt]")
    for place in places.all():
        place.locator("xpath=self::*[@data-proof='valid']").wait_for()
    assert places.count() > 0


# -- how to get to each page ----------------------------------------------------------------------------------------


def start(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go("/", language)


def form(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go("/newsletter", language)


def form_empty(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go("/newsletter", language)
    visitor.press(status=422)


def form_with_mistakes(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go("/newsletter", language)
    visitor.page.fill("#email", "anna.beispiel(at)example.org-und-noch-etwas-mehr-ohne-leerzeichen")
    visitor.choose("purpose-2")
    visitor.press(status=422)


def form_too_old(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go("/newsletter", language)
    secrets = visitor.world.installation.secrets
    shown = served_notice.verify(secrets.notice_public_keys(), visitor.page.input_value("input[name=served]"))
    assert shown is not None
    yesterday = datetime.now(UTC) - timedelta(days=1)
    old = ServedNotice(
        notice=shown.notice, language=shown.language, purposes=shown.purposes, button=shown.button, nonce=shown.nonce,
        issued_at=yesterday, expires_at=yesterday + timedelta(hours=4),
    )  # fmt: skip
    visitor.page.fill("#email", "anna@example.org")
    visitor.choose("purpose-1")
    token = served_notice.issue(*secrets.notice_key(), old)
    visitor.page.evaluate("(token) => { document.querySelector('input[name=served]').value = token; }", token)
    visitor.press(status=422)


def asked(visitor: Visitor, language: str, _: Subscribed) -> None:
    person = visitor.world.person(language)
    visitor.go("/newsletter", language)
    visitor.page.fill("#email", person.address)
    visitor.choose("purpose-1")
    visitor.press()


def confirm(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go(visitor.world.person(language).sign_up(clicks=True).confirm_link)


def confirmed(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go(visitor.world.person(language).sign_up(clicks=True).confirm_link)
    visitor.press()


def confirmed_already(visitor: Visitor, _language: str, somebody: Subscribed) -> None:
    visitor.go(somebody.confirmation.confirm_link)


def confirm_expired(visitor: Visitor, language: str, _: Subscribed) -> None:
    person = visitor.world.person(language)
    confirmation = person.sign_up()
    subject = person.subject(confirmation)
    visitor.world.sql(
        f"update newsletter.request set expires_at = clock_timestamp() - interval '1 hour' where subject = '{subject}'"
    )
    visitor.go(confirmation.confirm_link, status=410)


def confirm_taken_back(visitor: Visitor, language: str, _: Subscribed) -> None:
    person = visitor.world.person(language)
    confirmation = person.sign_up()
    person.one_click(confirmation.way_out)
    visitor.go(confirmation.confirm_link, status=410)


def confirm_unknown(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go("/newsletter/confirm/" + "A" * 43, language, status=404)


def leave(visitor: Visitor, language: str, somebody: Subscribed) -> None:
    visitor.go(somebody.issue.way_out, language)


def leave_both(visitor: Visitor, language: str, somebody: Subscribed) -> None:
    visitor.go(somebody.welcome.way_out, language)


def leave_unknown(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go("/newsletter/unsubscribe/" + "A" * 120, language, status=404)


def left(visitor: Visitor, language: str, _: Subscribed) -> None:
    _, welcome = visitor.world.person(language).subscribe(clicks=True)
    visitor.go(welcome.way_out, language)
    visitor.press()
    verified(visitor)


def left_everything(visitor: Visitor, language: str, _: Subscribed) -> None:
    _, welcome = visitor.world.person(language).subscribe()
    visitor.go(welcome.way_out, language)
    visitor.choose("scope-everything")
    visitor.press()
    verified(visitor)


def receipt(visitor: Visitor, language: str, somebody: Subscribed) -> None:
    visitor.go(somebody.welcome.receipts[0], language)
    verified(visitor)
    visitor.page.click("summary")


def receipt_of_withdrawal(visitor: Visitor, language: str, somebody: Subscribed) -> None:
    left_everything(visitor, language, somebody)
    link = visitor.page.locator("a[href*='/ledger/receipts/']").first.get_attribute("href")
    assert link is not None
    until("the receipt", lambda: visitor.context.request.get(link).status == 200)
    visitor.go(link, language)
    verified(visitor)


def receipt_closed(visitor: Visitor, language: str, somebody: Subscribed) -> None:
    visitor.go(somebody.welcome.receipts[0].split("?")[0], language, status=404)


def audience(visitor: Visitor, language: str, _: Subscribed) -> None:
    credential = visitor.world.installation.secrets.credential("demo")
    visitor.page.set_extra_http_headers({"Authorization": f"Bearer {credential}"})
    visitor.go("/marketing/audience", language)


def inbox(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go("/inbox", language)


def mail(visitor: Visitor, language: str, somebody: Subscribed) -> None:
    visitor.go(f"/inbox/messages/{somebody.confirmation.id}", language)


def error_not_found(visitor: Visitor, language: str, _: Subscribed) -> None:
    visitor.go("/there/is/nothing", language, status=404)


def error_not_allowed(visitor: Visitor, language: str, _: Subscribed) -> None:
    credential = visitor.world.installation.secrets.credential("newsletter")
    visitor.page.set_extra_http_headers({"Authorization": f"Bearer {credential}"})
    visitor.go("/marketing/audience", language, status=403)


PAGES: Final = (
    start, form, form_empty, form_with_mistakes, form_too_old, asked, confirm, confirmed, confirmed_already,
    confirm_expired, confirm_taken_back, confirm_unknown, leave, leave_both, leave_unknown, left, left_everything,
    receipt, receipt_of_withdrawal, receipt_closed, audience, inbox, mail, error_not_found, error_not_allowed,
)  # fmt: skip


@pytest.mark.parametrize("language", ["de", "en"])
@pytest.mark.parametrize("reach", PAGES, ids=lambda reach: reach.__name__)
def test_a_page_is_for_everyone(
    visitor: Visitor,
    subscribed: dict[str, Subscribed],
    reach: Callable[[Visitor, str, Subscribed], None],
    language: str,
) -> None:
    reach(visitor, language, subscribed[language])
    # Where there is a receipt, the browser verifies it.
    scripts = 2 if visitor.page.locator("[data-receipt]").count() else 0
    visitor.look(reach.__name__.replace("_", "-"), language, scripts=scripts)
    visitor.tab_through()
