"""What every holder of personal data answers to an erasure: one address, the same for all, and as often as it is asked.

The order is recorded before anybody is asked. A holder marks the subject, takes away what it has, and states DataErased
in the same transaction, with what was there. Asked again it looks again: what a backup has brought back goes too.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from typing_extensions import TypedDict

from shared.access import needs
from shared.clock import Clock, parse_rfc3339, rfc3339
from shared.database import Database, Transaction
from shared.errors import Refused
from shared.events.types import DataErased, Statement, Strict, Subject, Time, Uuid7
from shared.identifiers import Random, shard_of, uuid7
from shared.openapi import JSON, door, json
from shared.outbox import put
from shared.register import Activity, Register
from shared.web import json_body

State = Literal["working", "erased", "recorded", "rejected"]


class Task(Strict):
    """Whom to erase, by which recorded order; `ended`: since when the words that were in force are withdrawn."""

    request: Uuid7
    order: Uuid7
    subject: Subject
    evidence_until: Time | None = None
    ended: Time | None = None


class TaskAnswer(TypedDict):
    """How far it is; `found` counts what was there this time. `recorded`: the receipt stands in the log."""

    state: State
    statement: Uuid7 | None
    ended: Time | None
    found: int


@dataclass(frozen=True, slots=True)
class Cleared:
    """What a holder's own step found and took away: by name, how much."""

    found: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Marked:
    """The holder's row about the subject, as the step finds it."""

    ended_at: datetime | None
    has_stated: bool


Step = Callable[[Transaction, Task, Marked], Awaitable[Cleared | None]]
"""Takes away what the holder has; None while something must come to its end first, and is then asked again."""


def common(register: Register, activity: Activity, software: str, act: str) -> dict[str, Any]:
    """What every statement about an erasure says about who speaks."""
    return {
        "controller": register.controller_of(activity),
        "sender": activity.sender.party,
        "act": act,
        "by": "controller",
        "activity": activity.id,
        "register_version": register.version,
        "software": software,
    }


class Holder:
    """One service that holds personal data: its step, and the receipt around it."""

    def __init__(
        self,
        source: str,
        db: Database,
        register: Register,
        activity: str,
        software: str,
        shards: int,
        step: Step,
        clock: Clock,
        random: Random,
    ) -> None:
        self._source = source
        self._db = db
        self._register = register
        self._activity = register.activity(activity)
        self._software = software
        self._shards = shards
        self._step = step
        self._clock = clock
        self._random = random

    async def erase(self, task: Task) -> TaskAnswer:
        """One transaction: the mark, the step, the receipt. If we stop before its commit, nothing happened."""
        if shard_of(task.subject) >= self._shards:
            # Its receipt would have no log to stand in.
            raise Refused("unknown-subject", "No log of this installation is of this subject's shard.", status=404)
        until = None if task.evidence_until is None else parse_rfc3339(task.evidence_until)
        async with self._db.transaction() as tx:
            row = await tx.fetchrow(_MARK, task.subject, task.request, until)
            assert row is not None  # noqa: S101 - an upsert answers
            marked = Marked(row["ended_at"], row["statement"] is not None)
            cleared = await self._step(tx, task, marked)
            statement = None if row["statement"] is None else str(row["statement"])
            if cleared is not None and statement is None:
                statement = await self._receipt(tx, task, [name for name, number in cleared.found.items() if number])
            row = await tx.fetchrow(_STANDING, task.subject)
        assert row is not None  # noqa: S101 - the mark stays
        return {
            "state": _state(cleared, row["sealed"], row["result"]),
            "statement": statement,
            "ended": None if row["ended_at"] is None else rfc3339(row["ended_at"]),
            "found": 0 if cleared is None else sum(cleared.found.values()),
        }

    async def _receipt(self, tx: Transaction, task: Task, erased: Sequence[str]) -> str:
        now = self._clock()
        data = DataErased(
            **common(self._register, self._activity, self._software, uuid7(now, self._random)),
            request=task.request,
            erased=list(erased) or ["nothing"],
            follows=[task.order],
        )
        statement = uuid7(now, self._random)
        said = Statement.of(data, id=statement, source=self._source, subject=task.subject, time=rfc3339(now))
        await put(tx, [said])
        await tx.execute("update erased set statement = $2 where subject = $1", task.subject, statement)
        return statement

    def router(self) -> APIRouter:
        """POST /<service>/erase."""
        routes = APIRouter(prefix=f"/{self._source}")

        @routes.post("/erase", dependencies=[Depends(needs(f"{self._source}.erase"))])
        @door(
            takes={JSON: Task},
            answers={200: json("How far it is.", TaskAnswer)},
            refuses={404: "No such subject can be known here."},
        )
        async def erase(request: Request) -> Response:
            """Erase what is held of a subject, by a recorded order. Asked again, it looks again."""
            return JSONResponse(await self.erase(await json_body(request, Task)))

        return routes


def _state(cleared: Cleared | None, sealed: bool, result: str | None) -> State:
    if cleared is None:
        return "working"
    if result == "rejected":
        return "rejected"
    return "recorded" if sealed else "erased"


# A longer hold that was recorded later counts; a shorter one does not. (`greatest` passes over null.)
_MARK = """
insert into erased (subject, request, evidence_until) values ($1, $2, $3)
on conflict (subject) do update set evidence_until = greatest(erased.evidence_until, excluded.evidence_until)
returning ended_at, statement
"""
# Sealed rows are deleted after a few days, unsealed ones never.
_STANDING = """
select e.ended_at, o.result, e.statement is not null and (o.id is null or o.sealed_at is not null) as sealed
from erased e left join outbox o on o.id = e.statement where e.subject = $1
"""
