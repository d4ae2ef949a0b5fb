"""Every call to PostgreSQL fails once, or takes effect and then fails; the person tries again, the worker goes on.

Afterwards: each act is stated once, nothing acknowledged is missing, each mail went out at least once as one mail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal, TypeVar

import httpx

from services.newsletter import api, store
from services.newsletter.worker import Mails
from shared.access import Access
from shared.database import Database, Row, Signal, Transaction
from shared.errors import Unavailable
from shared.mail import MailServer
from shared.metrics import Metrics
from shared.web import create_app
from tests.integration.newsletter.conftest import Form, World, links

Answer = TypeVar("Answer")
Kind = Literal["failed", "took effect, then failed"]


@dataclass
class Plan:
    """Counts the calls, and spoils one of them."""

    spoil: int = 0
    kind: Kind = "failed"
    calls: list[str] = field(default_factory=list)

    def spoils(self, call: str) -> bool:
        self.calls.append(" ".join(call.split())[:70])
        return len(self.calls) == self.spoil

    @property
    def spoilt(self) -> str:
        """The call that was spoilt, to be named when something is wrong afterwards."""
        return f"{self.spoil}, {self.kind}: {self.calls[self.spoil - 1] if self.spoil <= len(self.calls) else 'none'}"

    async def run(self, call: str, operation: Callable[[], Awaitable[Answer]]) -> Answer:
        if not self.spoils(call):
            return await operation()
        if self.kind == "took effect, then failed":
            await operation()
        raise Unavailable("postgresql")


class Spoilt:
    """Queries with a fault in them."""

    def __init__(self, inner: Database | Transaction, plan: Plan) -> None:
        self._queries = inner
        self._plan = plan

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        return await self._plan.run(sql, lambda: self._queries.fetch(sql, *arguments))

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        return await self._plan.run(sql, lambda: self._queries.fetchrow(sql, *arguments))

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self._plan.run(sql, lambda: self._queries.fetchval(sql, *arguments))

    async def execute(self, sql: str, *arguments: Any) -> str:
        return await self._plan.run(sql, lambda: self._queries.execute(sql, *arguments))


class SpoiltDatabase(Spoilt):
    """shared.database.Database with a fault in it; a commit is a call too."""

    def __init__(self, inner: Database, plan: Plan) -> None:
        super().__init__(inner, plan)
        self._inner = inner

    def listen(self, channel: str) -> Signal:
        return self._inner.listen(channel)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Spoilt]:
        spoilt = False
        async with self._inner.transaction() as tx:
            yield Spoilt(tx, self._plan)
            spoilt = self._plan.spoils("commit")
            if spoilt and self._plan.kind == "failed":
                raise Unavailable("postgresql")
        if spoilt:
            raise Unavailable("postgresql")


@dataclass
class Person:
    """Somebody who tries again until it works, on a newsletter whose database has a fault in it."""

    world: World
    address: str
    plan: Plan

    def __post_init__(self) -> None:
        world = self.world
        db: Any = SpoiltDatabase(world.db, self.plan)
        metrics = Metrics("newsletter")
        parts = replace(world.newsletter, db=db, metrics=metrics)

        async def ready() -> dict[str, bool]:
            return {}

        app = create_app(
            "newsletter",
            access=Access.load(world.secrets),
            metrics=metrics,
            ready=ready,
            error_page=parts.pages.error,
        )
        app.include_router(api.router(parts))
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=world.settings.base_url)
        self.mails = Mails(
            db=db,
            speaker=parts.speaker,
            letters=world.mails._letters,
            subjects=parts.subjects,
            ledger=world.mails._ledger,
            server=MailServer("127.0.0.1", world.mailbox.port, timeout=5),
            clock=world.clock,
            random=parts.random,
            metrics=metrics,
        )

    async def until_answered(self, method: str, url: str, **sent: Any) -> httpx.Response:
        for _ in range(3):
            answer = await self.http.request(method, url, **sent)
            if answer.status_code != 503:
                assert answer.status_code == 200, answer.text
                return answer
        raise AssertionError(self.plan.spoilt)

    async def work(self) -> None:
        """What the worker's loop does, until nothing is left to do."""
        db = self.mails._db
        for _ in range(20):
            try:
                await store.release_welcomes(db, self.world.clock())
                for mail in await store.due_mails(db, self.world.clock(), 8):
                    await self.mails.attend(mail)
            except Unavailable:
                continue
            if not await self.world.superuser.fetchval(
                "select count(*) from newsletter.mail where ended_at is null and state = 'waiting'"
            ):
                return
            self.world.clock.ahead += timedelta(minutes=6)
        raise AssertionError(self.plan.spoilt)

    async def live(self) -> None:
        """From the form to the withdrawal."""
        form = Form((await self.until_answered("GET", "/newsletter?lang=de")).text)
        fields = {**form.hidden, "email": self.address, "purpose": ["newsletter/email", "newsletter-clicks/email"]}
        await self.until_answered("POST", "/newsletter?lang=de", data=fields)
        await self.work()
        [link] = links(self.world.mailbox.to(self.address)[-1], "/newsletter/confirm/")
        await self.until_answered("POST", link)
        await self.world.record()
        await self.work()
        welcome = self.world.mailbox.to(self.address)[-1]
        way_out = str(welcome["list-unsubscribe"]).strip("<>")
        await self.until_answered("POST", way_out, data={"List-Unsubscribe": "One-Click"})


async def judge(world: World, address: str, before: set[str], why: str) -> None:
    stated = [one for one in await world.stated() if one.id not in before and one.type != "NoticePublished"]
    expected = {"ConsentRequested": 2, "ConsentGiven": 2, "ConsentWithdrawn": 2, "MessageSent": 2}
    assert Counter(one.type for one in stated) == expected, why
    assert len({one.subject for one in stated}) == 1, why
    received = [raw for to, raw in world.mailbox.received if to == address]
    mails = {str(message["message-id"]): message for message in world.mailbox.to(address)}
    assert len(set(received)) == len(mails) == 2, why
    for sent in (one for one in stated if one.type == "MessageSent"):
        copies = sum(str(message["message-id"]) == sent.data.message_id for message in world.mailbox.to(address))
        assert sent.data.outcome == "accepted", why
        assert copies <= sent.data.attempts, why
        assert len(sent.data.attachments) == 1, why


async def test_whatever_call_fails_each_act_is_stated_once(world: World) -> None:
    await world.stop_mails()
    world.down.add("marketing")  # no answer to wait for
    spoil, struck = 0, True
    while struck:
        spoil += 1
        for kind in ("failed", "took effect, then failed"):
            before = {one.id for one in await world.stated()}
            person = Person(world, f"p{spoil}-{len(kind)}@example.net", Plan(spoil, kind))
            await person.live()
            await judge(world, person.address, before, person.plan.spoilt)
            struck = spoil <= len(person.plan.calls)
    assert spoil > 40
