"""Followers of a log that came back from an older backup: one that is ahead of it, and one that came back with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from services.ledger.main import open as open_ledger
from services.marketing.domain import NOT_KNOWN
from services.marketing.main import open as open_marketing
from shared.clock import utc_now
from shared.errors import Corrupt
from shared.process import Running
from shared.secrets import Secrets, create_secrets
from tests.conftest import Database
from tests.integration.ledger.test_restore import Backup, mend
from tests.integration.ledger.world import REGISTER, World, given, new_id, new_subject, withdrawn
from tests.integration.marketing.office import serving
from tests.integration.marketing.test_marketing_api import asking

RESTRICTING = sorted(REGISTER.restricting_sources("newsletter", "email"))
AT = "insert into marketing.position (shard, next) values (0, $1) on conflict (shard) do update set next = $1"
PATIENCE_SECONDS = 60


@asynccontextmanager
async def marketing_of(world: World, ledger_url: str) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    """Marketing as an installation opens it, and somebody who asks it for permits."""
    running = await open_marketing(world.settings.model_copy(update={"ledger_url": ledger_url}))
    assert running.app is not None
    credential = {"Authorization": f"Bearer {Secrets(world.settings.secrets_dir).credential('demo')}"}
    transport = httpx.ASGITransport(running.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://marketing", headers=credential) as client:
        yield running, client
    await running.close()


async def reason(client: httpx.AsyncClient, subject: str) -> str:
    message = f"<{new_id()}@example.org>"
    answer = (await client.post("/marketing/permits", json=asking(subject, message_id=message))).json()
    assert answer["decision"] == "refused"
    return str(answer["reason"])


async def go_on(world: World) -> None:
    """The ledger hears from every source, and says how far it is."""
    await world.send([world.alive(utc_now(), source=source) for source in RESTRICTING])
    appender = await world.appender()
    await world.append(appender)
    await appender.drop()
    await world.publish(await world.publisher())


async def test_marketing_refuses_until_it_has_caught_up_with_the_restored_log(
    world: World, database: Database, tmp_path: Path
) -> None:
    ann, backup = new_subject(), Backup(database, tmp_path)
    await world.state(given(ann))
    await world.run_through()
    await backup.make()
    await world.state(withdrawn(ann))
    await world.run_through()
    size = (await world.judge()).size
    await backup.load(world)
    create_secrets(world.settings.secrets_dir, os.urandom, RESTRICTING, ["marketing", "demo"], 1)

    ledger = await open_ledger(world.settings)
    assert ledger.app is not None
    async with serving(ledger.app) as url:
        # One whose own database was not lost has folded more than the ledger has: it stops, it does not fold anew.
        await world.rows(AT, size)
        async with marketing_of(world, url) as (ahead, _):
            with pytest.raises(Corrupt, match="was it restored"):
                await ahead.tasks["marketing.follower"]()
        await mend(world)
        for position in (size, 0):
            # The one that was ahead goes on; the one that came back with the backup folds what it missed.
            await world.rows(AT, position)
            async with marketing_of(world, url) as (running, client):
                assert await reason(client, ann) == "no-heartbeat"
                following = asyncio.create_task(running.tasks["marketing.follower"]())
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while (found := await reason(client, ann)) in NOT_KNOWN:
                        assert not following.done(), following.exception()
                        await go_on(world)
                assert found == ("unknown" if position else "no-consent-in-force")
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
    await ledger.close()
