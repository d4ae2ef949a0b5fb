"""A real Chromium at a running installation, its requests watched; each page it shows is left as a picture to look at.

Playwright's own loop runs in this thread from the first page on, so these tests are a pytest run of their own
(`make test-browser`) and hold no asyncio test.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from playwright.sync_api import sync_playwright

from infra.local.state import CHECKOUT
from tests.browser.visitor import Visitor
from tests.journeys.people import World
from tests.journeys.running import running_installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from infra.local.installation import Installation
    from tests.journeys.people import Mail, Person
    from tests.parts import KafkaPart, PostgresPart

CHROMIUM: Final = "/usr/bin/chromium"
ARGUMENTS: Final = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-prefers-reduced-motion",
)  # fmt: skip
SCREENSHOTS: Final = CHECKOUT / "screenshots"


@pytest.fixture(scope="session")
def installation(kafka: KafkaPart, postgres: PostgresPart) -> Iterator[Installation]:
    """Yield the installation."""
    with running_installation(kafka, postgres, "browser") as running:
        yield running


@pytest.fixture(scope="session")
def world(installation: Installation) -> World:
    """Return the installation as people see it."""
    return World(installation)


@dataclass(frozen=True)
class Subscribed:
    """Somebody who has one mail of every kind."""

    person: Person
    confirmation: Mail
    welcome: Mail
    issue: Mail


@pytest.fixture(scope="session")
def subscribed(world: World) -> dict[str, Subscribed]:
    """Return one person of each language who has had everything we send."""
    people = {language: world.person(language) for language in ("de", "en")}
    mails = {language: person.subscribe(clicks=True) for language, person in people.items()}
    world.issue_is_out(world.begin_issue())
    return {language: Subscribed(person, *mails[language], person.mail(3)) for language, person in people.items()}


@pytest.fixture(scope="session")
def chromium(installation: Installation) -> Iterator[Browser]:
    """Yield the browser; it starts after the installation, which needs this thread's loop for itself."""
    if not os.access(CHROMIUM, os.X_OK):
        pytest.fail(f"{CHROMIUM} is missing; on Debian: apt-get install chromium chromium-driver", pytrace=False)
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    with sync_playwright() as playwright:
        arguments = [*ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visitor(chromium: Browser, world: World) -> Iterator[Visitor]:
    """Yield somebody at the browser; afterwards nothing may have left our origin, and no cookie may be there."""
    with Visitor.at(chromium, world, SCREENSHOTS) as someone:
        yield someone
        someone.was_left_alone()


@pytest.fixture
def visitor_without_scripts(chromium: Browser, world: World) -> Iterator[Visitor]:
    """Yield somebody whose browser runs no scripts."""
    with Visitor.at(chromium, world, SCREENSHOTS, scripts=False) as someone:
        yield someone
        someone.was_left_alone()
