"""The command: order an erasure over HTTP as compliance does, and wait for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from services.erasure.domain import ACTIVITY
from shared import register
from shared.client import ServiceClient
from shared.secrets import Secrets
from shared.settings import Settings


async def erase(
    settings: Settings, whom: str, reason: str, by: str, wait: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The order as it stands after `wait` seconds at most. `whom` is a subject's id or an address."""
    credential = Secrets(settings.secrets_dir).credential("compliance")
    subject = await _find(settings, credential, whom) if "@" in whom else whom
    client = ServiceClient(settings.erasure_url, credential, "erasure")
    loop = asyncio.get_running_loop()
    until = loop.time() + wait
    try:
        body = {"subject": subject, "reason": reason, "by": by}
        order = dict((await client.post("/erasure/orders", json=body, timeout=30)).json())
        while not _is_done(order) and loop.time() < until:
            progress(", ".join(f"{one['holder']} {one['state']}" for one in order["holders"]))
            await asyncio.sleep(0.5)
            order = dict((await client.get(f"/erasure/orders/{order['request']}")).json())
        return order
    finally:
        await client.close()


async def hold(settings: Settings, request: str, until: str, ground: str) -> dict[str, Any]:
    """The order with its new date."""
    client = ServiceClient(settings.erasure_url, Secrets(settings.secrets_dir).credential("compliance"), "erasure")
    try:
        return dict(
            (await client.post(f"/erasure/orders/{request}/hold", json={"until": until, "ground": ground})).json()
        )
    finally:
        await client.close()


async def _find(settings: Settings, credential: str, address: str) -> str:
    rules = register.load(settings.register_dir)
    controller = rules.controller_of(rules.activity(ACTIVITY))
    client = ServiceClient(settings.subjects_url, credential, "subjects")
    try:
        body = {"controller": controller, "identifier": {"kind": "email", "value": address}}
        return str((await client.post("/subjects/find", json=body)).json()["subject"])
    finally:
        await client.close()


def _is_done(order: dict[str, Any]) -> bool:
    return order["state"] == "completed" and all(one["state"] == "recorded" for one in order["holders"])
