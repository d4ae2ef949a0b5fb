"""The command: order an erasure over HTTP as compliance does, and wait for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from shared.client import ServiceClient
from shared.secrets import Secrets
from shared.settings import Settings


async def erase(
    settings: Settings, subject: str, reason: str, by: str, wait: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The order as it stands after `wait` seconds at most."""
    client = ServiceClient(settings.erasure_url, Secrets(settings.secrets_dir).credential("compliance"), "erasure")
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


def _is_done(order: dict[str, Any]) -> bool:
    return order["state"] == "completed" and all(one["state"] == "recorded" for one in order["holders"])
