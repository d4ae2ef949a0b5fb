"""The signed acceptance: given for what is committed, the same for everybody but for what is random."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

from services.ledger.reader.acceptance import Acceptance, verify_acceptance
from shared.served_notice import key_set
from tests.integration.newsletter.conftest import links

if TYPE_CHECKING:
    import httpx

    from tests.integration.newsletter.conftest import World

MARA = "mara@example.net"
HEADER = "Consent-Acceptance"


def signed(world: World, answer: httpx.Response) -> Acceptance:
    """What an answer signs for, by the keys that are published."""
    keys = json.dumps(key_set(world.secrets.notice_public_keys())).encode()
    return verify_acceptance(answer.headers[HEADER].encode(), keys)


async def stored(world: World, *types: str) -> dict[str, str]:
    """SHA-256 of each statement of these types, by its id."""
    rows = await world.superuser.fetch("select id::text, statement from newsletter.outbox")
    return {
        row["id"]: hashlib.sha256(row["statement"]).hexdigest()
        for row in rows
        if json.loads(row["statement"])["type"] in types
    }


async def test_a_sign_up_is_signed_for_with_the_bytes_that_are_stored(world: World) -> None:
    answer = await world.sign_up(MARA)
    said = signed(world, answer)
    assert said.source == "newsletter"
    assert said.statements == await stored(world, "ConsentRequested", "ConsentRefused")
    assert answer.headers[HEADER] not in answer.text


async def test_a_form_sent_again_is_signed_for_as_what_it_was_the_first_time(world: World) -> None:
    form = await world.form()
    first, again = [await world.send(form, MARA, "newsletter/email") for _ in range(2)]
    asked = signed(world, again).statements
    assert asked == await stored(world, "ConsentRequested")
    assert asked.items() <= signed(world, first).statements.items()


async def test_the_page_behind_the_link_holds_what_the_sign_up_was_signed_for(world: World) -> None:
    link = await world.asked(MARA)
    pages = [await world.http.get(link) for _ in range(2)]
    found = re.search(r'href="data:text/plain;charset=utf-8,([\w.-]+)%0A" download', pages[0].text)
    assert found is not None
    keys = json.dumps(key_set(world.secrets.notice_public_keys())).encode()
    assert verify_acceptance(found[1].encode(), keys).statements == await stored(world, "ConsentRequested")
    # The same but for the moment at which it was fetched, which goes along with the button.
    first, again = (re.sub(r'name="opened" value="[^"]+"', "", page.text) for page in pages)
    assert first == again != pages[0].text


async def test_a_confirmation_is_signed_for_on_its_page_and_the_same_twice(world: World) -> None:
    link = await world.asked(MARA)
    first, again = [await world.http.post(link) for _ in range(2)]
    assert signed(world, first).statements == await stored(world, "ConsentGiven")
    assert f'href="data:text/plain;charset=utf-8,{first.headers[HEADER]}%0A" download' in first.text
    assert first.content == again.content
    looked = await world.http.get(link)
    assert HEADER not in looked.headers


async def test_a_withdrawal_is_signed_for_on_its_page_and_the_same_twice(world: World) -> None:
    welcome = await world.subscribed(MARA)
    way_out = links(welcome, "unsubscribe")[0]
    first, again = [await world.http.post(way_out, data={"List-Unsubscribe": "One-Click"}) for _ in range(2)]
    assert signed(world, first).statements == await stored(world, "ConsentWithdrawn")
    assert first.headers[HEADER] == again.headers[HEADER]
    assert first.headers[HEADER] in first.text
