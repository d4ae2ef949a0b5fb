"""Stating over HTTP: 201 only for what is sealed, the same checks as on the topic, and nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.ledger.api import log as log_api
from services.ledger.api import statements as statements_api
from services.ledger.append import Appender
from services.ledger.procedures.rejects import replay
from shared.access import Access
from shared.clock import rfc3339, utc_now
from shared.errors import Refused, Unavailable
from shared.events import parse
from shared.kafka import Producer
from shared.metrics import Metrics
from shared.topics import STATED
from shared.web import create_app
from tests.integration.ledger.test_append import changed, incidents, reasons
from tests.integration.ledger.world import World, given, new_subject, withdrawn

AT_ONCE = {"wait": "0"}


@contextlib.asynccontextmanager
async def open_door(world: World, *, kafka: str = "", over_http: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a caller named newsletter at the ledger's door."""
    db = await world.database("ledger")
    producer = Producer(kafka or world.settings.kafka)
    parts = log_api.Parts(db, world.secrets.keks(), db.listen("ledger_sealed"), utc_now)
    access = Access({"newsletter": ["secret"], "guest": ["secret"]}, {"newsletter": ["ledger.statements"]})
    app = create_app("ledger", access=access, metrics=Metrics("ledger"), ready=lambda: log_api.ready(parts))
    voice = statements_api.Voice(world.secrets.own_source_key("newsletter"), producer)
    door = statements_api.Door(db, world.settings.topic(STATED), {"newsletter": voice} if over_http else {})
    app.include_router(statements_api.router(parts, door))
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://ledger",
            headers={"Authorization": "Bearer newsletter:secret"},
        ) as opened:
            yield opened
    finally:
        await producer.stop()


@pytest.fixture
async def door(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """Return a caller named newsletter; nobody appends or seals but the test."""
    async with open_door(world) as opened:
        yield opened


@contextlib.asynccontextmanager
async def running(world: World, appender: Appender | None = None) -> AsyncIterator[None]:
    """Run an appender and a sealer."""
    appender, sealer = appender or await world.appender(), await world.sealer()
    tasks = [asyncio.create_task(appender.run()), asyncio.create_task(sealer.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sealer.close()


async def learned(world: World) -> Appender:
    """Return an appender whose register has learnt everything."""
    appender = await world.appender()
    appender._admission = lambda _: None
    return appender


async def post(door: httpx.AsyncClient, raw: bytes, **parameters: str) -> tuple[int, dict[str, Any]]:
    answer = await door.post("/ledger/statements", content=raw, params=parameters)
    return answer.status_code, answer.json()


async def test_a_statement_is_answered_201_when_it_is_sealed_and_the_same_again(
    world: World, door: httpx.AsyncClient
) -> None:
    raw, later = given(new_subject()), given(new_subject())
    async with running(world):
        first = await post(door, raw, wait="20")
        again = await post(door, raw, wait="20")
        other = await post(door, later, wait="20")
    assert first == again == (201, {"id": parse(raw).id, "shard": 0, "index": "1", "result": "recorded"})
    assert other[1]["index"] == "3"
    judged = await world.judge()
    assert judged.statements == [raw, later]
    assert judged.sealed > judged.indexes[later]


async def test_what_is_not_sealed_is_answered_202_until_it_is(world: World, door: httpx.AsyncClient) -> None:
    raw = given(new_subject())
    answer = await door.post("/ledger/statements", content=raw, params=AT_ONCE)
    assert (answer.status_code, answer.headers["Retry-After"]) == (202, "2")
    assert "Keep your copy" in answer.json()["message"]
    # Sent again before anybody appended it: both are on the topic, one is recorded.
    assert (await post(door, raw, **AT_ONCE))[0] == 202
    world.offsets[0] = 2
    appender = await world.appender()
    await world.append(appender)
    await appender.drop()
    assert (await post(door, raw, **AT_ONCE))[0] == 202
    await world.seal(await world.sealer())
    assert (await post(door, raw, **AT_ONCE))[0] == 201
    assert (await world.judge()).statements == [raw]
    assert await reasons(world) == []
    assert await incidents(world) == []


async def test_statements_without_a_number_leave_no_gap_and_count_for_nobody(
    world: World, door: httpx.AsyncClient
) -> None:
    subject = new_subject()
    said = [given(subject), given(subject)]
    async with running(world):
        for raw in said:
            assert (await post(door, raw, wait="20"))[0] == 201
    assert await world.value("select count(*) from progress") == 0
    assert await incidents(world) == []


async def test_many_at_once_are_each_recorded_once(world: World, door: httpx.AsyncClient) -> None:
    said = [given(new_subject()) for _ in range(40)]
    async with running(world):
        answers = await asyncio.gather(*[post(door, raw, wait="20") for raw in [*said, *said]])
    assert {status for status, _ in answers} == {201}
    assert sorted((await world.judge()).statements) == sorted(said)


async def test_the_same_id_with_other_bytes_is_a_conflict_and_an_incident(
    world: World, door: httpx.AsyncClient
) -> None:
    raw = given(new_subject())
    other = changed(raw, time=rfc3339(utc_now() - timedelta(hours=1)))
    async with running(world):
        assert (await post(door, raw, wait="20"))[0] == 201
        refused = await post(door, other, wait="20")
        assert (await post(door, raw, wait="20"))[0] == 201
    assert (refused[0], refused[1]["error"]) == (409, "id-reused")
    assert await incidents(world) == [("id-reused", f"newsletter/{parse(raw).id}", True)]
    assert (await world.judge()).statements == [raw]


async def test_a_late_grant_is_said_to_be_overtaken(world: World, door: httpx.AsyncClient) -> None:
    subject = new_subject()
    async with running(world):
        assert (await post(door, withdrawn(subject), wait="20"))[1]["result"] == "recorded"
        late = given(subject, at=utc_now() - timedelta(hours=1))
        assert (await post(door, late, wait="20"))[1]["result"] == "overtaken"


async def test_what_cannot_be_recorded_is_refused_with_its_reason_and_stands_in_the_list(
    world: World, door: httpx.AsyncClient
) -> None:
    subject = new_subject()
    wrong = {
        "unknown-notice": given(subject, notice="a" * 64),
        "unknown-purpose": given(subject, purpose="fax"),
        "time-in-the-future": given(subject, at=utc_now() + timedelta(minutes=10)),
    }
    async with running(world):
        for reason, raw in wrong.items():
            status, answer = await post(door, raw, wait="20")
            assert (status, answer["error"], answer["reason"]) == (422, "rejected", reason)
    assert await reasons(world) == [("newsletter", 0, reason, 1) for reason in wrong]


async def test_what_does_not_read_as_the_callers_statement_goes_nowhere(world: World, door: httpx.AsyncClient) -> None:
    raw = given(new_subject())
    answers = {
        b"": (400, "not-an-object"),
        b"{nonsense}": (400, "not-json"),
        raw[:-1] + b',"id":"x"}': (400, "duplicate-key"),
        changed(raw, mood="good"): (400, "invalid-extra-forbidden"),
        raw.replace(b'"web-form"', b'"web-\xff"'): (400, "not-json"),
        b"\xef\xbb\xbf" + raw: (400, "not-an-object"),
        changed(raw, source="marketing"): (403, None),
        changed(raw, subject=new_subject(7)): (404, None),
        b"{" + b" " * 32_767 + b"}": (413, "too-large"),
    }
    for sent, (status, reason) in answers.items():
        answered = await post(door, sent, **AT_ONCE)
        assert (answered[0], answered[1].get("reason")) == (status, reason), answered
    guest = {"Authorization": "Bearer guest:secret"}
    assert (await door.post("/ledger/statements", content=raw, headers=guest)).status_code == 403
    await world.run_through()
    assert (await world.judge()).size == 1
    assert await world.rows("select from rejected") == []


async def test_a_source_that_states_over_kafka_is_not_let_in(world: World) -> None:
    async with open_door(world, over_http=False) as door:
        status, answer = await post(door, given(new_subject()), **AT_ONCE)
    assert (status, answer["error"]) == (403, "not-over-http")


async def test_without_kafka_nobody_is_told_that_it_was_taken(world: World) -> None:
    async with open_door(world, kafka="127.0.0.1:1") as door:
        answer = await door.post("/ledger/statements", content=given(new_subject()))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"].isdecimal()


async def test_what_was_rejected_is_judged_anew_when_it_is_stated_again(world: World, door: httpx.AsyncClient) -> None:
    raw = given(new_subject(), notice="a" * 64)
    async with running(world):
        assert (await post(door, raw, wait="20"))[0] == 422
    learnt = await learned(world)
    assert (await post(door, raw, **AT_ONCE))[0] == 202  # the old reject is not the answer to this one
    world.offsets[0] = 2
    await world.append(learnt)
    await learnt.drop()
    await world.seal(await world.sealer())
    assert (await post(door, raw, **AT_ONCE))[0] == 201


async def test_a_replayed_statement_passes_the_same_checks_and_is_recorded_once(world: World) -> None:
    raw = given(new_subject(), notice="a" * 64)
    await world.state(raw, given(new_subject()))
    await world.run_through()
    (number,) = [row["number"] for row in await world.rows("select number from rejected")]
    async with running(world):
        with pytest.raises(Refused) as again:
            await replay(world.settings, number, "Ada", "nothing was mended")
    assert "unknown-notice" in again.value.message
    assert await world.value("select count(*) from rejected where handled_at is null") == 2
    async with running(world, await learned(world)):
        said = await replay(world.settings, number, "Ada", "the register has the notice now")
    judged = await world.judge()
    assert judged.statements.count(raw) == 1
    assert said == f"recorded at index {judged.indexes[raw]} of shard 0"
    handled = await world.rows("select handled_by, handled_reason from rejected order by number")
    assert {row["handled_by"] for row in handled} == {"Ada"}
    assert handled[0]["handled_reason"].startswith(f"played again, recorded at 0/{judged.indexes[raw]}: ")
    assert [kind for kind, _, still_open in await incidents(world) if still_open] == []
    with pytest.raises(Refused):
        await replay(world.settings, number, "Ada", "again")


async def test_a_replay_that_was_cut_off_is_finished_by_the_next(world: World) -> None:
    raw = given(new_subject(), notice="a" * 64)
    await world.state(raw)
    await world.run_through()
    number = await world.value("select number from rejected")
    # It was sent and recorded, and then the command was killed.
    learnt = await learned(world)
    await world.send([world.message(raw, sequence=0)])
    await world.append(learnt)
    await learnt.drop()
    await world.seal(await world.sealer())
    assert (await replay(world.settings, number, "Ada", "mended")).startswith("recorded at index 1 ")
    assert (await world.judge()).statements == [raw]


async def test_only_what_somebody_proved_to_have_said_can_be_replayed(world: World) -> None:
    forged = world.message(given(new_subject()), headers={"mac": b"0" * 64})
    await world.send([forged, world.message(json.dumps({"not": "a statement"}).encode())])
    await world.run_through()
    numbers = [row["number"] for row in await world.rows("select number from rejected order by number")]
    for number, code in zip([*numbers, 99], ["nothing-kept", "rejected-again", "no-such-reject"], strict=True):
        with pytest.raises(Refused) as refused:
            await replay(world.settings, number, "Ada", "mended")
        assert refused.value.code == code


async def test_a_replay_without_kafka_says_so_and_handles_nothing(world: World) -> None:
    await world.state(given(new_subject(), notice="a" * 64))
    await world.run_through()
    number = await world.value("select number from rejected")
    with pytest.raises(Unavailable):
        await replay(world.settings.model_copy(update={"kafka": "127.0.0.1:1"}), number, "Ada", "mended")
    assert await world.value("select count(*) from rejected where handled_at is null") == 1
