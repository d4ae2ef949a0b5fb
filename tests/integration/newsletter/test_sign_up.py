"""Signing up: what the form asks, what is recorded, and that the answer says nothing about the address."""

from __future__ import annotations

from tests.integration.newsletter.conftest import World


async def test_signing_up_is_answered_with_the_same_bytes_for_a_known_and_an_unknown_address(world: World) -> None:
    await world.subscribed("known@example.net")
    known = await world.sign_up("known@example.net")
    unknown = await world.sign_up("unknown@example.net")
    assert known.status_code == unknown.status_code == 200
    assert known.content == unknown.content
    assert dict(known.headers) | {"date": ""} == dict(unknown.headers) | {"date": ""}
