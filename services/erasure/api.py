"""The front door: order an erasure, and ask how far it is."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response
from typing_extensions import TypedDict

from services.erasure import domain, handlers, store
from services.erasure.domain import Ground, Reason, at
from services.erasure.handlers import Speaker
from services.erasure.store import Order
from shared.access import needs
from shared.client import ServiceClient
from shared.clock import Clock, parse_rfc3339
from shared.database import Database
from shared.errors import Refused
from shared.events import Statement, parse
from shared.events.types import UUID7_PATTERN, Name, Strict, Subject, Time, Uuid7
from shared.identifiers import Random
from shared.openapi import JSON, door, json
from shared.sealing import base64url, from_base64url
from shared.web import json_body


class OrderRequest(Strict):
    """Whom, why (GDPR Art. 17(1)) and on whose word. `unless_claimed`: not if the holder of the address ever agreed."""

    subject: Subject
    reason: Reason
    by: Literal["person", "staff", "representative", "controller"]
    unless_claimed: bool = False


class HoldRequest(Strict):
    """Until when what proves is held, and why (GDPR Art. 17(3))."""

    until: Time
    ground: Ground


class HolderAnswer(TypedDict):
    """How far one holder is, and its receipt."""

    holder: Name
    state: Literal["waiting", "working", "erased", "recorded", "rejected"]
    statement: Uuid7 | None


class OrderAnswer(TypedDict):
    """How far the order is. What only proves is held until `evidence_until`, or goes with the rest.

    `receipt` is for the person: it opens the receipts of the order and of all that followed from it, for as long as
    what proves is held, and then says what can still be shown. It is there once the order is sealed.
    """

    request: Uuid7
    subject: Subject
    state: Literal["open", "completed"]
    ordered_at: Time
    evidence_until: Time | None
    statement: Uuid7
    completed: Uuid7 | None
    holders: list[HolderAnswer]
    receipt: str | None


def router(
    db: Database, speaker: Speaker, ledger: ServiceClient, clock: Clock, random: Random, base_url: str
) -> APIRouter:
    """Routes under /erasure."""
    routes = APIRouter(prefix="/erasure")

    async def answer(order: Order) -> Response:
        tasks = {task.holder: task for task in await store.tasks(db, order.request)}
        body: OrderAnswer = {
            "request": order.request,
            "subject": order.subject,
            "state": "open" if order.completed is None else "completed",
            "ordered_at": str(at(order.ordered_at)),
            "evidence_until": at(order.evidence_until),
            "statement": order.statement,
            "completed": order.completed,
            "holders": [
                {
                    "holder": name,
                    "state": tasks[name].state,  # type: ignore[typeddict-item]  # by the table's check
                    "statement": tasks[name].statement,
                }
                for name in domain.HOLDERS
                if name in tasks
            ],
            "receipt": None
            if order.receipt_key is None
            else f"{base_url}/ledger/receipts/{order.statement}?key={base64url(order.receipt_key)}",
        }
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    async def history(subject: str) -> list[Statement]:
        found = await ledger.get(f"/ledger/subjects/{subject}/history", timeout=30)
        return [parse(from_base64url(entry["statement"])) for entry in found.json()["entries"]]

    @routes.post("/orders", dependencies=[Depends(needs("erasure.order"))])
    @door(
        takes={JSON: OrderRequest},
        answers={200: json("Ordered, now or before.", OrderAnswer)},
        refuses={
            404: "Nothing is recorded of this subject.",
            409: "The holder of the address agreed to something, and this order was for one that nobody claimed.",
        },
    )
    async def order(request: Request) -> Response:
        """Order that a subject is erased at every holder
        One subject has one order. Asked for again when it is completed, every holder looks once more."""
        body = await json_body(request, OrderRequest)
        before = await store.order_of(db, body.subject)
        if before is not None:
            if before.completed is not None:
                await store.ask_again(db, before.request)
            return await answer(before)
        said = await history(body.subject)
        if body.unless_claimed and domain.is_claimed(said):
            raise Refused("claimed", "The holder of this address has agreed to something.", status=409)
        now = clock()
        until = domain.evidence_until(speaker.activity, said, now)
        made = await handlers.order(db, speaker, body.subject, body.reason, body.by, until, now, random)
        return await answer(made)

    @routes.get("/orders/{request}", dependencies=[Depends(needs("erasure.read"))])
    @door(answers={200: json("The order.", OrderAnswer)}, refuses={404: "There is no such order."})
    async def show(request: Annotated[str, Path(pattern=UUID7_PATTERN)]) -> Response:
        """How far an order is."""
        found = await store.order(db, request)
        if found is None:
            raise Refused("not-found", "There is no such order.", status=404)
        return await answer(found)

    @routes.post("/orders/{request}/hold", dependencies=[Depends(needs("erasure.order"))])
    @door(
        takes={JSON: HoldRequest},
        answers={200: json("Held.", OrderAnswer)},
        refuses={404: "There is no such order, or nothing is held for it any more."},
    )
    async def hold(http: Request, request: Annotated[str, Path(pattern=UUID7_PATTERN)]) -> Response:
        """Hold what proves longer than the register asks for
        A hold that ends before the register's period changes nothing."""
        body = await json_body(http, HoldRequest)
        until = parse_rfc3339(body.until)
        return await answer(await handlers.hold(db, speaker, request, until, body.ground, clock(), random))

    return routes
