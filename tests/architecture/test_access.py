"""Who may call: every route of every service says it, and the few that are open are exactly these."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from infra.local import inbox
from services import serve
from services.start import api as start
from shared import register
from shared.access import Access, declarations, grants
from shared.process import Running

OPEN_TO_EVERYONE = {
    "GET /",
    "GET /newsletter",
    "POST /newsletter",
    "GET /newsletter/notice-keys",
    "GET /newsletter/dkim-keys",
    "GET /newsletter/notices/{notice_hash}",
    "GET /ledger/log/{shard:shard}/checkpoint",
    "GET /ledger/log/{shard:shard}/cosigned",
    "GET /ledger/log/{shard:shard}/proofs/consistency",
    "GET /ledger/log/{shard:shard}/timestamp",
    "GET /ledger/log/{shard:shard}/vkeys",
    "GET /ledger/log/{shard:shard}/handovers/{number}",
    "GET /ledger/log/{shard:shard}/tile/{path:path}",
    "GET /ledger/log/{shard:shard}/vkey",
    "GET /ledger/log/{shard:shard}/fresh-vkey",
    "GET /ledger/scripts/{name}",
}
OPEN_IN_THE_DEMO = {
    "GET /inbox",
    "GET /inbox/messages",
    "GET /inbox/messages/{mail_id}",
    "GET /inbox/messages/{mail_id}/raw",
}
OPEN_BY_CAPABILITY = {
    "GET /newsletter/confirm/{token}",
    "POST /newsletter/confirm/{token}",
    "GET /newsletter/unsubscribe/{token}",
    "POST /newsletter/unsubscribe/{token}",
    "GET /ledger/receipts/{statement}",
    "GET /ledger/receipts/{statement}/latest",
}
HEALTH = re.compile(r"GET (/[a-z-]+)?/health/(live|ready)")
SOME_UUID = "019c0000-0000-7000-8000-000000000000"


@pytest.fixture
def apps(roles: dict[str, Running], tmp_path: Path) -> dict[str, FastAPI]:
    """Every app that `consent-ledger serve` can put on a port."""
    access = Access({"somebody": ["else"]}, grants())
    apps = {role: one.app or serve._health_only(role, access, one) for role, one in roles.items()}
    apps["start"] = start.app(roles, access, demo=True)
    apps["inbox"] = inbox.create_app(inbox.Inbox(tmp_path / "inbox"), access)
    return apps


def routes(app: FastAPI) -> list[tuple[str, str | None]]:
    """Each `METHOD /path` of an app, with who may call it."""
    return [
        (f"{method} {route.path}", said)
        for route, said in declarations(app)
        for method in sorted(route.methods or {"GET"})
    ]


def example(path: str) -> str:
    """An address of a route, with something harmless in its gaps."""
    filled = re.sub(r"\{\w+:(int|shard)\}", "0", path)
    return re.sub(r"\{\w+(:path)?\}", SOME_UUID, filled)


def test_every_route_of_every_service_says_who_may_call_it(apps: dict[str, FastAPI]) -> None:
    silent = [route for app in apps.values() for route, said in routes(app) if said is None]
    assert silent == []


def test_only_what_must_be_open_is_open(apps: dict[str, FastAPI]) -> None:
    said_open = {route for app in apps.values() for route, said in routes(app) if said == "everyone"}
    health = {route for route in said_open if HEALTH.fullmatch(route)}

    assert said_open - health == OPEN_TO_EVERYONE | OPEN_IN_THE_DEMO
    assert len(health) == 2 * len(apps)


def test_only_links_and_receipts_open_by_a_capability(apps: dict[str, FastAPI]) -> None:
    by_capability = {route for app in apps.values() for route, said in routes(app) if said == "capability"}
    assert by_capability == OPEN_BY_CAPABILITY


async def test_everything_else_refuses_a_stranger(apps: dict[str, FastAPI]) -> None:
    walked = 0
    for app in apps.values():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ledger.test") as stranger:
            for route, said in routes(app):
                if said in {"everyone", "capability"}:
                    continue
                method, path = route.split(" ", 1)
                for credential in ({}, {"Authorization": "Bearer operator:wrong"}, {"Authorization": "Basic e30="}):
                    answer = await stranger.request(method, example(path), headers=credential)
                    assert answer.status_code in {401, 403}, (route, answer.status_code)
                walked += 1
    assert walked > len(apps)


async def test_a_credential_without_the_scope_is_refused(apps: dict[str, FastAPI]) -> None:
    credential = {"Authorization": "Bearer guest:secret"}
    for app in apps.values():
        app.state.access = Access({"guest": ["secret"]}, {"guest": ["nothing.at-all"]})
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ledger.test") as guest:
            for route, said in routes(app):
                if said not in {"everyone", "capability"}:
                    method, path = route.split(" ", 1)
                    answer = await guest.request(method, example(path), headers=credential)
                    assert answer.status_code == 403, route


async def test_a_capability_that_nobody_was_given_opens_nothing(apps: dict[str, FastAPI]) -> None:
    for app in apps.values():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ledger.test") as stranger:
            for route, said in routes(app):
                if said == "capability":
                    method, path = route.split(" ", 1)
                    answer = await stranger.request(method, example(path))
                    assert answer.status_code == 404, (route, answer.status_code)


def test_every_scope_that_a_route_needs_is_granted_and_every_grant_opens_a_route(apps: dict[str, FastAPI]) -> None:
    needed = {said for app in apps.values() for _, said in routes(app)} - {"everyone", "capability"}
    # The address of evidence asks for the role in its body, too.
    needed |= {f"ledger.evidence.{role}" for role in register.load().evidence_roles}
    granted = {scope for scopes in grants().values() for scope in scopes}

    # Whoever states over HTTP is another team, granted where its credential lies.
    assert needed - granted == {"ledger.statements"}
    assert granted - needed == set()
