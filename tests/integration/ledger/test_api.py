"""The ledger's front door, asked as its callers ask it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from services.ledger.api import log as log_api
from services.ledger.log.tiles import inclusion_proof
from services.ledger.reader.checkpoint import Checkpoint, verify_checkpoint
from services.ledger.reader.merkle import leaf_hash, root_of, verify_inclusion
from shared.access import Access
from shared.clock import parse_rfc3339, utc_now
from shared.events import parse
from shared.metrics import Metrics
from shared.web import create_app
from shared.wire import RecordedValue
from tests.integration.ledger.world import World, given, new_subject, withdrawn

SCOPES = ["ledger.records", "ledger.sealed", "ledger.attachments", "ledger.rejected"]


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """Return a caller named newsletter with every scope of the ledger."""
    async with open_client(world) as opened:
        yield opened


@asynccontextmanager
async def open_client(world: World, caller: str = "newsletter") -> AsyncIterator[httpx.AsyncClient]:
    db = await world.database("ledger")
    parts = log_api.Parts(db, world.secrets.keks(), db.listen("ledger_sealed"), utc_now)
    access = Access({caller: ["secret"]}, {caller: SCOPES})
    app = create_app("ledger", access=access, metrics=Metrics("ledger"), ready=lambda: log_api.ready(parts))
    app.include_router(log_api.router(parts))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://ledger",
        headers={"Authorization": f"Bearer {caller}:secret"},
    ) as opened:
        yield opened


async def checkpoint(client: httpx.AsyncClient) -> Checkpoint:
    vkey = (await client.get("/ledger/log/0/vkey")).text
    return verify_checkpoint((await client.get("/ledger/log/0/checkpoint")).content, vkey.removesuffix("\n"))


async def fill(world: World, count: int) -> None:
    subject = new_subject()
    await world.state(*[given(subject) for _ in range(count)])
    await world.run_through()


async def test_a_stranger_reads_and_verifies_the_whole_log(world: World, client: httpx.AsyncClient) -> None:
    await fill(world, 700)
    del client.headers["Authorization"]
    head = await checkpoint(client)
    assert head.size == 702
    leaves: list[bytes] = []
    hashes: list[bytes] = []
    for n in range(3):
        width = min(256, head.size - 256 * n)
        suffix = f"{n:03}" + ("" if width == 256 else f".p/{width}")
        bundle = (await client.get(f"/ledger/log/0/tile/entries/{suffix}")).content
        while bundle:
            length = int.from_bytes(bundle[:2], "big")
            leaves.append(bundle[2 : 2 + length])
            bundle = bundle[2 + length :]
        tile = (await client.get(f"/ledger/log/0/tile/0/{suffix}")).content
        hashes += [tile[at : at + 32] for at in range(0, len(tile), 32)]
    assert [leaf_hash(leaf) for leaf in leaves] == hashes
    assert root_of(hashes) == head.root
    top = (await client.get("/ledger/log/0/tile/1/000.p/2")).content
    assert top == root_of(hashes[:256]) + root_of(hashes[256:512])

    async def fetch(level: int, n: int, width: int) -> bytes:
        suffix = f"{n:03}" + ("" if width == 256 else f".p/{width}")
        return (await client.get(f"/ledger/log/0/tile/{level}/{suffix}")).content

    proof = await inclusion_proof(300, head.size, fetch)
    verify_inclusion(hashes[300], 300, head.size, proof, head.root)


async def test_the_log_is_served_as_tlog_tiles_says(world: World, client: httpx.AsyncClient) -> None:
    await fill(world, 300)
    note = await client.get("/ledger/log/0/checkpoint")
    assert note.headers["content-type"] == "text/plain; charset=utf-8"
    assert note.text.count("\n— ") == 2
    for path in ("tile/0/000", "tile/0/001.p/46", "tile/entries/000", "tile/1/000.p/1"):
        answer = await client.get(f"/ledger/log/0/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "application/octet-stream"
        assert "immutable" in answer.headers["cache-control"]


BEYOND = [
    "tile/0/001.p/47",
    "tile/0/001",
    "tile/0/002.p/1",
    "tile/1/000",
    "tile/1/000.p/2",
    "tile/2/000.p/1",
    "tile/63/000.p/1",
    "tile/entries/001.p/47",
    "tile/entries/x001/000",
    "tile/0/1",
    "tile/0/000.p/0",
    "tile/0/000.p/256",
    "tile/00/000",
    "tile/64/000",
    "tile/0/x000/001",
    "tile/0/000/",
    "tile/",
    "tile/data/000",
]


async def test_what_is_not_sealed_or_not_a_tile_is_not_found_and_not_cached(
    world: World, client: httpx.AsyncClient
) -> None:
    await fill(world, 300)
    await world.state(*[given(new_subject()) for _ in range(300)])
    await world.append(await world.appender())
    for path in BEYOND:
        answer = await client.get(f"/ledger/log/0/{path}")
        assert (path, answer.status_code, answer.headers["cache-control"]) == (path, 404, "no-store")


async def test_a_partial_tile_of_an_older_checkpoint_is_still_served(world: World, client: httpx.AsyncClient) -> None:
    await fill(world, 10)
    older = (await client.get("/ledger/log/0/tile/0/000.p/12")).content
    await fill(world, 300)
    again = await client.get("/ledger/log/0/tile/0/000.p/12")
    assert (again.status_code, again.content) == (200, older)


async def test_a_log_that_does_not_exist_is_not_found(client: httpx.AsyncClient) -> None:
    for path in ("checkpoint", "vkey", "fresh-vkey", "tile/0/000.p/1"):
        assert (await client.get(f"/ledger/log/7/{path}")).status_code == 404


async def test_followers_fetch_records_in_pages_up_to_the_sealed_size(world: World, client: httpx.AsyncClient) -> None:
    said = [given(new_subject()) for _ in range(5)]
    await world.state(*said)
    await world.run_through()
    await world.state(given(new_subject()))
    await world.append(await world.appender())

    async def page(start: int, limit: int) -> dict[str, Any]:
        answer = await client.get("/ledger/records", params={"shard": 0, "from": start, "limit": limit})
        return dict(answer.json())

    first, second, third = await page(0, 4), await page(4, 1000), await page(7, 10)
    assert [first["from"], first["size"], len(first["records"])] == ["0", "7", 4]
    assert [second["from"], second["size"], len(second["records"])] == ["4", "7", 3]
    assert third["records"] == []
    values = [RecordedValue.decode(base64.b64decode(one)) for one in first["records"] + second["records"]]
    assert [value.index for value in values] == list(range(7))
    assert [value.statement for value in values] == [b"", *said, b""]


@pytest.mark.parametrize(
    "query", ["shard=0", "shard=0&from=-1", "shard=-1&from=0", "shard=x&from=0", f"shard=0&from={2**64}", "from=0"]
)
async def test_records_refuse_what_makes_no_sense(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/ledger/records?{query}")).status_code == 400


async def test_a_source_learns_what_is_sealed_rejected_and_overtaken(world: World, client: httpx.AsyncClient) -> None:
    subject = new_subject()
    word, late = withdrawn(subject, utc_now()), given(subject, parse_rfc3339("2026-01-01T00:00:00.000Z"))
    await world.state(word, b"{}", late)
    path = "/ledger/sources/newsletter/sealed?shard=0"
    assert (await client.get(path)).json()["shards"] == [{"shard": 0, "sealed": "0"}]
    await world.append(await world.appender())
    assert (await client.get(path)).json()["shards"] == [{"shard": 0, "sealed": "0"}]
    await world.seal(await world.sealer())
    assert (await client.get(path)).json() == {
        "shards": [{"shard": 0, "sealed": "3"}],
        "rejected": [{"shard": 0, "sequence": "2", "id": None, "reason": "unknown-type"}],
        "overtaken": [{"shard": 0, "sequence": "3", "id": parse(late).id, "index": "2"}],
    }
    assert (await client.get(f"{path}&above=3")).json() == {
        "shards": [{"shard": 0, "sealed": "3"}],
        "rejected": [],
        "overtaken": [],
    }


async def test_a_reject_that_came_alone_is_done_as_soon_as_its_batch_is_committed(
    world: World, client: httpx.AsyncClient
) -> None:
    await fill(world, 1)
    waiting = asyncio.create_task(client.get("/ledger/sources/newsletter/sealed?shard=0&above=1&wait=20"))
    await world.state(b"{}")
    await world.append(await world.appender())
    answer = (await waiting).json()
    assert answer["shards"] == [{"shard": 0, "sealed": "2"}]
    assert [one["sequence"] for one in answer["rejected"]] == ["2"]


async def test_the_answer_waits_until_something_is_sealed_and_no_longer_than_asked(
    world: World, client: httpx.AsyncClient
) -> None:
    path = "/ledger/sources/newsletter/sealed?shard=0&above=0"
    waiting = asyncio.create_task(client.get(f"{path}&wait=20"))
    await world.state(given(new_subject()))
    await world.append(await world.appender())
    assert not waiting.done()
    await world.seal(await world.sealer())
    assert (await waiting).json()["shards"] == [{"shard": 0, "sealed": "1"}]
    assert (await client.get(f"{path}&wait=0.1&above=1")).json()["shards"] == [{"shard": 0, "sealed": "1"}]


async def test_a_source_sees_only_itself_and_an_operator_all(world: World, client: httpx.AsyncClient) -> None:
    assert (await client.get("/ledger/sources/marketing/sealed")).status_code == 403
    assert (await client.get("/ledger/sources/UPPER/sealed")).status_code == 404
    async with open_client(world, "operator") as operator:
        assert (await operator.get("/ledger/sources/marketing/sealed")).json()["shards"] == [
            {"shard": 0, "sealed": "0"}
        ]


async def test_an_attachment_is_kept_under_the_hash_of_its_bytes(client: httpx.AsyncClient) -> None:
    content = bytes(range(256)) * 1000
    digest = hashlib.sha256(content).hexdigest()
    path = f"/ledger/attachments/{digest}"
    assert (await client.get(path)).status_code == 404
    for _ in range(2):
        assert (await client.put(path, content=content)).json() == {"hash": digest, "size": len(content)}
    assert (await client.get(path)).content == content
    assert (await client.put(path, content=content + b"x")).status_code == 422
    assert (await client.put(f"/ledger/attachments/{digest.upper()}", content=content)).status_code == 400
    assert (await client.put(path, content=bytes(10 * 1024 * 1024 + 1))).status_code == 413


async def test_what_is_rejected_turns_no_status_green_until_it_is_handled(
    world: World, client: httpx.AsyncClient
) -> None:
    assert (await client.get("/ledger/health/ready")).json() == {
        "ready": True,
        "checks": {"postgresql": True, "log": True, "signer": True, "incidents": True, "rejected": True},
    }
    messages = [world.message(b"{}"), world.message(given(new_subject()), sequence=3)]
    await world.send(messages)
    await world.run_through()
    answer = await client.get("/ledger/health/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"]["incidents"] == "1 open"
    assert answer.json()["checks"]["rejected"] == "1 not handled"
    (reject,) = (await client.get("/ledger/rejected")).json()["rejected"]
    assert (reject["source"], reject["sequence"], reject["reason"], reject["times"]) == (
        "newsletter",
        "1",
        "unknown-type",
        1,
    )
    (incident,) = (await client.get("/ledger/incidents")).json()["incidents"]
    assert (incident["kind"], incident["about"]) == ("sequence-gap", "newsletter")


async def test_a_signer_that_is_silent_is_seen(world: World, client: httpx.AsyncClient) -> None:
    await world.rows("update fresh set signed_at = signed_at - interval '1 minute'")
    answer = (await client.get("/ledger/health/ready")).json()
    assert not answer["ready"]
    assert answer["checks"]["signer"].startswith("no fresh checkpoint for 6")


CLOSED = ["records?shard=0&from=0", "sources/newsletter/sealed", f"attachments/{'0' * 64}", "rejected", "incidents"]


@pytest.mark.parametrize("path", CLOSED)
async def test_without_a_credential_all_but_the_log_is_closed(client: httpx.AsyncClient, path: str) -> None:
    del client.headers["Authorization"]
    assert (await client.get(f"/ledger/{path}")).status_code == 401
