"""Checkpoints are timestamped by a real authority, at the rate that was set, and served with the answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from infra.local.installation import free_port
from services.ledger.api import log as log_api
from services.ledger.api import trust as trust_api
from services.ledger.outside.timestamps import Timestamps
from services.ledger.reader.authority import parse_authority
from services.ledger.reader.errors import Invalid
from services.ledger.reader.verify import main
from shared.access import Access
from shared.clock import utc_now
from shared.errors import Unavailable
from shared.metrics import Metrics
from shared.outside import Outside
from shared.web import create_app
from tests.authority import authority
from tests.integration.ledger.test_witnesses import grow
from tests.integration.ledger.world import World

EVERY = 600.0


@pytest.fixture
async def http() -> AsyncIterator[Outside]:
    made = Outside()
    yield made
    await made.close()


@pytest.fixture
def where() -> Iterator[str]:
    with authority().listening() as url:
        yield url


async def stamping(world: World, url: str, outside: Outside, later: timedelta = timedelta()) -> Timestamps:
    db = await world.database("ledger_publish")
    return Timestamps(0, db, url, EVERY, parse_authority(authority().pem), outside, lambda: utc_now() + later)


async def test_the_newest_checkpoint_is_timestamped_once_and_the_next_when_it_is_due(
    world: World,
    where: str,
    http: Outside,
) -> None:
    first = await grow(world)
    soon, later = await stamping(world, where, http), await stamping(world, where, http, timedelta(seconds=EVERY + 1))
    assert await soon.step() == EVERY
    assert await soon.step() is None
    second = await grow(world)
    left = await soon.step()
    assert left is not None
    assert 0 < left <= EVERY
    assert [row["size"] for row in await world.rows("select size from stamp order by size")] == [first]
    assert await later.step() == EVERY
    assert [row["size"] for row in await world.rows("select size from stamp order by size")] == [first, second]


async def test_what_is_no_timestamp_of_the_authority_is_not_stored(
    world: World,
    where: str,
    http: Outside,
) -> None:
    await grow(world)
    another = await stamping(world, where, http)
    another._authority = parse_authority(authority("another").pem)
    with pytest.raises(Invalid):
        await another.step()
    nobody = await stamping(world, f"http://127.0.0.1:{free_port()}/", http)
    with pytest.raises(Unavailable):
        await nobody.step()
    assert await world.value("select count(*) from stamp") == 0


async def test_what_is_served_for_a_leaf_is_a_file_that_verifies(
    world: World, where: str, http: Outside, tmp_path: Path
) -> None:
    soon, later = await stamping(world, where, http), await stamping(world, where, http, timedelta(seconds=EVERY + 1))
    sizes = []
    for due in (soon, later):
        sizes.append(await grow(world))
        assert await due.step() == EVERY
    vkey, pem, file = tmp_path / "vkey", tmp_path / "authority.pem", tmp_path / "timestamp.json"
    pem.write_bytes(authority().pem)
    db = await world.database("ledger")
    parts = log_api.Parts(db, world.secrets.keks(), db.listen("ledger_sealed"), utc_now)
    app = create_app("ledger", access=Access({}, {}), metrics=Metrics("ledger"), ready=lambda: log_api.ready(parts))
    app.include_router(log_api.router(parts))
    app.include_router(trust_api.router(parts))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ledger") as client:
        vkey.write_bytes((await client.get("/ledger/log/0/vkey")).content)
        for asked, size in (("", sizes[1]), ("?index=0", sizes[0]), (f"?index={sizes[0]}", sizes[1])):
            file.write_bytes((await client.get(f"/ledger/log/0/timestamp{asked}")).content)
            assert f"\n{size}\n" in json.loads(file.read_bytes())["checkpoint"]
            assert main(file, vkey, authority=pem) == 0
        assert (await client.get(f"/ledger/log/0/timestamp?index={sizes[1]}")).status_code == 404
        assert (await client.get("/ledger/log/1/timestamp")).status_code == 404
        assert (await client.get("/ledger/log/0/cosigned")).status_code == 404
