"""The front door: permits, effects of withdrawals, campaigns, and the page that shows the audience."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, StringConstraints

from services.marketing import handlers, store
from services.marketing.worker import Horizons
from shared.access import needs
from shared.clock import Clock, rfc3339
from shared.database import Database
from shared.errors import Refused
from shared.events.types import MessageId, Name, Strict, Subject, Uuid7
from shared.identifiers import Random, shard_of
from shared.metrics import Metrics
from shared.pages import Pages
from shared.register import NotInRegister, Register
from shared.web import json_body, language, wants_html

LONGEST_WAIT_SECONDS: Final = 5.0


class PermitRequest(Strict):
    """One message, one attempt."""

    subject: Subject
    purpose: Name
    channel: Name
    message_id: MessageId
    attempt: Annotated[int, Field(ge=1, le=1000)]


class Text(Strict):
    """What a campaign's mail says in one language; paragraphs are separated by an empty line."""

    subject: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
    text: Annotated[str, StringConstraints(min_length=1, max_length=20_000)]


class CampaignRequest(Strict):
    """One issue, for everybody whose consent holds at the moment each mail is sent."""

    campaign: Name
    purpose: Name
    channel: Name
    texts: Annotated[dict[Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")], Text], Field(min_length=1)]


def router(  # noqa: C901 - one function a route
    db: Database,
    horizons: Horizons,
    register: Register,
    pages: Pages,
    metrics: Metrics,
    clock: Clock,
    random: Random,
) -> APIRouter:
    """Routes under /marketing."""
    routes = APIRouter(prefix="/marketing")
    decided = metrics.counter("permits", "Permits by decision and reason", ("decision", "reason"))
    applied = db.listen("marketing_applied")

    def known(purpose: str, channel: str) -> None:
        try:
            register.purpose(purpose, channel)
        except NotInRegister:
            raise Refused("unknown-purpose", "The register has no such purpose on this channel.", status=422) from None

    @routes.post("/permits", dependencies=[Depends(needs("marketing.permits"))])
    async def permit(request: Request) -> Response:
        body = await json_body(request, PermitRequest)
        known(body.purpose, body.channel)
        answer = await handlers.ask_permit(
            db,
            handlers.Ask(body.subject, body.purpose, body.channel, body.message_id, body.attempt),
            horizons.of(shard_of(body.subject)),
            register.restricting_sources(body.purpose, body.channel),
            clock(),
            random,
        )
        decided.labels(answer.decision, answer.reason).inc()
        return JSONResponse({**asdict(answer), "size": str(answer.size)})

    @routes.get("/effects/{statement}", dependencies=[Depends(needs("marketing.effects"))])
    async def effect(statement: Uuid7, wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS)] = 0) -> Response:
        """Has this withdrawal taken effect here? 200 once no unused permit of its matter is live, else 202."""
        until = asyncio.get_running_loop().time() + wait
        while True:
            seen = applied.changed
            row = await store.effect(db, statement)
            if row is not None:
                return JSONResponse(
                    {
                        "index": str(row["index"]),
                        "applied_at": rfc3339(row["applied_at"]),
                        "in_transmission": row["in_transmission"],
                    }
                )
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return JSONResponse({}, 202)
            await applied.wait(left, since=seen)

    @routes.post("/campaigns", dependencies=[Depends(needs("marketing.campaigns"))])
    async def begin(request: Request) -> Response:
        body = await json_body(request, CampaignRequest)
        known(body.purpose, body.channel)
        texts = {key: value.model_dump() for key, value in body.texts.items()}
        recipients = await handlers.begin_campaign(
            db, body.campaign, body.purpose, body.channel, texts, clock(), random
        )
        return JSONResponse({"campaign": body.campaign, "recipients": recipients}, 202)

    @routes.get("/campaigns/{name}", dependencies=[Depends(needs("marketing.campaigns"))])
    async def campaign(name: Name) -> Response:
        row = await store.campaign(db, name)
        if row is None:
            raise Refused("unknown-campaign", "There is no campaign of this name.", status=404)
        counts = await store.campaign_counts(db, name)
        going = any(counts.get(state) for state in ("waiting", "attempted"))
        return JSONResponse({"campaign": name, "state": "sending" if going else "done", "deliveries": counts})

    @routes.get("/audience", dependencies=[Depends(needs("marketing.audience"))])
    async def audience(request: Request) -> Response:
        """Who is in, per purpose, as Faust counts it, with how far behind the sealed log that count is."""
        opted_in, hours, positions = await store.audience_snapshot(db)
        now = clock()
        shards = []
        for row in positions:
            horizon = horizons.of(row["shard"])
            shards.append(
                {
                    "shard": row["shard"],
                    "counted": row["next"],
                    "sealed": horizon.size if horizon else None,
                    "behind": max(horizon.size - row["next"], 0) if horizon else None,
                    "age_seconds": round((now - row["counted_at"]).total_seconds(), 1),
                }
            )
        content: dict[str, Any] = {
            "purposes": [dict(row) for row in opted_in],
            "hours": [{**dict(row), "hour": rfc3339(row["hour"])} for row in hours],
            "shards": shards,
        }
        if not wants_html(request):
            return JSONResponse(content)
        return pages.render("audience.html", language(request), request=request, **content)

    return routes
