"""The client package's relay over HTTP: the team's copy stays until the ledger has sealed it, or never will."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from consent_ledger_client import ConsentLedger, HttpRelay, receipt_key

from shared.client import ServiceClient
from shared.database import Database
from shared.events import Statement, encode, parse
from shared.kafka import Producer
from shared.outbox import put
from tests.integration.shared.conftest import Site, withdrawal
from tests.integration.shared.counterpart import Counterpart
from tests.integration.shared.test_outbox import all_sealed, relaying, until

Answer = tuple[int, dict[str, Any]]


class Ledger:
    """A door that says what the test wants it to say, and remembers who came."""

    def __init__(self) -> None:
        self.answer: Callable[[Statement], Answer] = self.seal
        self.posted: list[bytes] = []
        self.sealed: dict[bytes, int] = {}
        self.slow = 0.0
        self.now = 0
        self.most_at_once = 0
        self.url = ""

    def seal(self, statement: Statement) -> Answer:
        raw = encode(statement)
        index = self.sealed.setdefault(raw, len(self.sealed) + 1)
        return 201, {"id": statement.id, "shard": 0, "index": str(index), "result": "recorded"}

    async def take(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer probe:secret"
        raw = await request.read()
        self.posted.append(raw)
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        await asyncio.sleep(self.slow)
        self.now -= 1
        status, said = self.answer(parse(raw))
        return web.json_response(said, status=status, headers={"Retry-After": "1"} if status in {202, 503} else {})


@pytest.fixture
async def ledger() -> AsyncIterator[Ledger]:
    """Yield a door that seals everything at once."""
    door, app = Ledger(), web.Application()
    app.router.add_post("/ledger/statements", door.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    door.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield door
    await runner.cleanup()


@asynccontextmanager
async def posting(db: Database, ledger: Ledger) -> AsyncIterator[HttpRelay]:
    client = ServiceClient(ledger.url, "probe:secret")
    relay = HttpRelay("probe", db, client)
    running = asyncio.create_task(relay.run())
    try:
        yield relay
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await client.close()


async def accept(db: Database, *statements: Statement) -> None:
    async with db.transaction() as tx:
        await put(tx, statements)


async def results(db: Database) -> list[tuple[str | None, int | None, str | None]]:
    rows = await db.fetch("select result, index, reason from outbox order by accepted_at, id")
    return [(row["result"], row["index"], row["reason"]) for row in rows]


async def test_what_is_put_is_posted_byte_for_byte_and_ticked_off(db: Database, ledger: Ledger) -> None:
    said = [withdrawal() for _ in range(30)]
    async with posting(db, ledger):
        await accept(db, *said)
        await until(lambda: all_sealed(db))
    assert set(ledger.posted) == {encode(statement) for statement in said}
    assert {result for result, _, _ in await results(db)} == {"recorded"}


async def test_every_put_wakes_the_relay_though_done_rows_have_no_number(db: Database, ledger: Ledger) -> None:
    loop, took = asyncio.get_running_loop(), []
    async with posting(db, ledger):
        for _ in range(8):
            began = loop.time()
            await accept(db, withdrawal())
            await until(lambda: all_sealed(db))
            took.append(loop.time() - began)
    # The median: the safety net is a second.
    assert sorted(took)[4] < 0.5, took


async def test_a_statement_that_is_not_sealed_yet_stays_and_is_posted_again(db: Database, ledger: Ledger) -> None:
    ledger.answer = lambda statement: (202, {"id": statement.id})
    async with posting(db, ledger) as relay:
        await accept(db, withdrawal())
        await until(lambda: asyncio.sleep(0, len(ledger.posted) > 1))
        assert relay.trouble == "not sealed yet"
        assert not await all_sealed(db)
        ledger.answer = ledger.seal
        await until(lambda: all_sealed(db))
        await until(lambda: asyncio.sleep(0, not relay.trouble))
    assert len(set(ledger.posted)) == 1


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (401, {"error": "credential-missing", "message": "-"}, "credential-missing"),
        (403, {"error": "not-over-http", "message": "-"}, "not-over-http"),
        (404, {"error": "not-found", "message": "-"}, "not-found"),
        (422, {"detail": "some proxy's own"}, "refused"),
        (503, {"error": "unavailable", "message": "-"}, "ledger"),
    ],
)
async def test_what_is_wrong_with_the_installation_keeps_every_statement(
    db: Database, ledger: Ledger, status: int, said: dict[str, Any], why: str
) -> None:
    ledger.answer = lambda _: (status, said)
    async with posting(db, ledger) as relay:
        await accept(db, withdrawal())
        await until(lambda: asyncio.sleep(0, relay.trouble == why))
        assert await results(db) == [(None, None, None)]
        ledger.answer = ledger.seal
        await until(lambda: all_sealed(db))


async def test_what_can_never_be_recorded_is_kept_with_its_reason_and_blocks_nobody(
    db: Database, ledger: Ledger
) -> None:
    wrong, right = withdrawal(), withdrawal()
    refusal = {"error": "rejected", "message": "-", "reason": "unknown-purpose"}
    ledger.answer = lambda statement: (422, refusal) if statement.id == wrong.id else ledger.seal(statement)
    async with posting(db, ledger):
        await accept(db, wrong, right)
        await until(lambda: all_sealed(db))
    found = {
        str(row["id"]): (row["result"], row["reason"])
        for row in await db.fetch("select id, result, reason from outbox")
    }
    assert found == {wrong.id: ("rejected", "unknown-purpose"), right.id: ("recorded", None)}


async def test_what_one_person_said_is_posted_in_that_order_and_others_do_not_wait(
    db: Database, ledger: Ledger
) -> None:
    first = withdrawal()
    person = [first, *(withdrawal().model_copy(update={"subject": first.subject}) for _ in range(4))]
    ledger.slow = 0.02
    async with posting(db, ledger):
        for statement in person:
            await accept(db, statement)
        await accept(db, *[withdrawal() for _ in range(20)])
        await until(lambda: all_sealed(db))
    of_person = [raw for raw in ledger.posted if parse(raw).subject == first.subject]
    assert of_person == [encode(statement) for statement in person]
    assert 1 < ledger.most_at_once <= 16


async def test_two_processes_record_nothing_twice(db: Database, ledger: Ledger) -> None:
    said = [withdrawal() for _ in range(20)]
    async with posting(db, ledger), posting(db, ledger):
        await accept(db, *said)
        await until(lambda: all_sealed(db))
    assert len(ledger.sealed) == len(said)
    assert sorted(index or 0 for _, index, _ in await results(db)) == list(range(1, 21))


async def test_a_team_that_gets_kafka_later_does_not_send_what_was_sealed_over_http(
    db: Database, ledger: Ledger, producer: Producer, counterpart: Counterpart, site: Site
) -> None:
    async with posting(db, ledger):
        await accept(db, withdrawal(), withdrawal())
        await until(lambda: all_sealed(db))
    later = withdrawal()
    async with relaying(db, producer, counterpart, site):
        await accept(db, later)
        await until(lambda: all_sealed(db))
    assert counterpart.logs[0].arrived == {1: encode(later)}


async def test_a_team_speaks_in_its_own_name_and_gives_a_key_to_the_receipt(db: Database, ledger: Ledger) -> None:
    key, key_hash = receipt_key(lambda size: b"k" * size)
    assert (len(key), len(key_hash)) == (22, 64)
    client = ServiceClient(ledger.url, "probe:secret")
    own = ConsentLedger("probe", db, client)
    data = withdrawal().data
    statement = own.statement(data, id=own.new_id(), subject="0.system")
    assert statement.source == "probe"
    assert await own.fate(statement.id) is None
    async with own.transaction() as tx:
        await put(tx, [statement])
    async with posting(db, ledger):
        await until(lambda: own.fate(statement.id))
    fate = await own.fate(statement.id)
    assert fate is not None
    assert (fate["result"], fate["index"]) == ("recorded", 1)
    await client.close()
