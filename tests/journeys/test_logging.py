"""What the processes write into their logs: routes as templates, and nothing that belongs to a person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

from infra.local.installation import PROCESSES
from tests.journeys.people import stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.journeys.people import World
    from tests.parts import PostgresPart


def secrets_in(link: str) -> Iterator[str]:
    """What in a link is a capability: the token at the end of its path, or the key in its query."""
    split = urlsplit(link)
    yield from parse_qs(split.query).get("key", [])
    if "/newsletter/confirm/" in split.path or "/newsletter/unsubscribe/" in split.path:
        yield split.path.rsplit("/", 1)[1]


def test_no_log_holds_an_address_or_a_token(world: World, postgres: PostgresPart) -> None:
    person = world.person(name="nobody-logs-me")
    confirmation, welcome = person.subscribe()
    world.issue_is_out(world.begin_issue())
    issue = person.mail(3)
    for link in (*welcome.receipts, confirmation.confirm_link, welcome.way_out):
        person.browser.get(link)
        person.browser.get(link + "x")
        person.browser.post(link + "x", [])
    typo = f"nobody-logs-me@@{person.address}"
    form = person.open_form()
    person.browser.submit(form, form.form("email"), [("email", typo), ("purpose", "newsletter/email")])
    person.browser.get(f"{world.base}/{person.address}?email={person.address}")
    person.browser.get(f"{world.base}/newsletter/{person.address}?email={person.address}")
    assert stopped(person.one_click(issue.way_out))
    person.quiet(person.subject(confirmation))
    files = [*world.log_files(), *([Path(postgres.server.log)] if postgres.kind == "local" else [])]  # type: ignore[attr-defined]
    assert {file.stem for file in files} >= set(PROCESSES)
    said = "\n".join(file.read_text("utf-8", "replace") for file in files)
    assert "/newsletter/confirm/{token}" in said
    assert "/newsletter/unsubscribe/{token}" in said
    tokens = {secret for link in world.links for secret in secrets_in(link)}
    assert len(tokens) >= 4
    local_parts = {address.partition("@")[0] for address in world.addresses}
    for secret in {*tokens, *world.addresses, *local_parts, *map(quote, world.addresses), "203.0.113.66"}:
        assert secret not in said, "a log holds what belongs to a person"
