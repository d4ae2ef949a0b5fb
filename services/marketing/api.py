"""The front door: permits, effects of withdrawals, campaigns, and the page that shows the audience."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from services.marketing import handlers, store
from services.marketing.domain import Horizon
from services.marketing.permits import Permits
from services.marketing.store import Ask, Permit
from shared.access import needs
from shared.clock import Clock, rfc3339
from shared.database import Database
from shared.errors import Refused
from shared.events.types import NAME_PATTERN, UUID7_PATTERN, Decimal, MessageId, Name, Strict, Subject, Time, Uuid7
from shared.identifiers import Random
from shared.openapi import HTML, JSON, Answer, Error, door, json
from shared.pages import Pages
from shared.register import NotInRegister, Register
from shared.web import json_body, language, wants_html

LONGEST_WAIT_SECONDS: Final = 5.0
HOURS_SHOWN: Final = timedelta(hours=24)


class PermitRequest(Strict):
    """One message, one attempt."""

    subject: Subject
    purpose: Name
    channel: Name
    message_id: MessageId
    attempt: Annotated[int, Field(ge=1, le=1000)]


class PermitRequests(Strict):
    """Many at once."""

    asks: Annotated[list[PermitRequest], Field(min_length=1, max_length=200)]


class Text(Strict):
    """What a campaign's mail says in one language; paragraphs are separated by an empty line."""

    subject: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
    text: Annotated[str, StringConstraints(min_length=1, max_length=20_000, pattern=r"^[^\x00]+$")]


class CampaignRequest(Strict):
    """One issue, for everybody whose consent holds at the moment each mail is sent."""

    campaign: Name
    purpose: Name
    channel: Name
    texts: Annotated[dict[str, Text], Field(min_length=1)]


class PermitAnswer(TypedDict):
    """A permit for one mail, usable once within five seconds; or the reason why there is none."""

    permit: Uuid7 | None
    decision: Literal["granted", "refused"]
    reason: str
    shard: int
    size: Decimal
    all_before: Time | None
    issued_at: Time


class PermitAnswers(TypedDict):
    """One for each; an error where the attempt was asked for another subject or purpose."""

    answers: list[PermitAnswer | Error]


class EffectAnswer(TypedDict):
    """Where the withdrawal stands in the log, since when it is in force here, and mails that were on their way."""

    index: Decimal
    applied_at: Time
    in_transmission: list[str]


class NoEffectYet(TypedDict):
    """Nothing yet."""


class BegunCampaign(TypedDict):
    """How many people are asked for, one permit each."""

    campaign: Name
    recipients: int


class CampaignAnswer(TypedDict):
    """Deliveries by state; reasons by state and reason."""

    campaign: Name
    state: Literal["sending", "done"]
    recipients: int
    deliveries: dict[str, int]
    reasons: dict[str, dict[str, int]]


class PurposeCount(TypedDict):
    """People who are in."""

    purpose: str
    channel: str
    people: int


class HourCount(TypedDict):
    """Statements of one type in one hour."""

    hour: Time
    type: str
    number: int


class ShardFreshness(TypedDict):
    """How far the count is behind the sealed log."""

    shard: int
    counted: Decimal
    sealed: Decimal | None
    behind: Decimal | None
    complete_seconds_ago: float


class AudienceAnswer(TypedDict):
    """What Faust has counted."""

    purposes: list[PurposeCount]
    hours: list[HourCount]
    shards: list[ShardFreshness]


def _expect_purpose(permits: Permits, purpose: str, channel: str) -> None:
    try:
        permits.rule(purpose, channel)
    except NotInRegister:
        raise Refused("unknown-purpose", "The register has no such purpose on this channel.", status=422) from None


def _permit_routes(routes: APIRouter, permits: Permits) -> None:
    def asked(one: PermitRequest) -> Ask:
        _expect_purpose(permits, one.purpose, one.channel)
        return Ask(one.subject, one.purpose, one.channel, one.message_id, one.attempt)

    @routes.post("/permits", dependencies=[Depends(needs("marketing.permits"))])
    @door(
        takes={JSON: PermitRequest},
        answers={200: json("The decision.", PermitAnswer)},
        refuses={
            409: "This message id and attempt were asked for another subject or purpose.",
            422: "The register has no such purpose on this channel.",
        },
    )
    async def permit(request: Request) -> Response:
        """May this one mail be sent now? Asked again, it answers the same."""
        return JSONResponse(_answer(await permits.ask(asked(await json_body(request, PermitRequest)))))

    @routes.post("/permits/several", dependencies=[Depends(needs("marketing.permits"))])
    @door(
        takes={JSON: PermitRequests},
        answers={200: json("A decision for each, in their order.", PermitAnswers)},
        refuses={422: "The register has no such purpose on this channel; nothing was decided."},
    )
    async def several(request: Request) -> Response:
        """May these mails be sent now? For who sends many: each has a permit of its own, as if asked for alone."""
        body = await json_body(request, PermitRequests)
        answers = await permits.ask_all([asked(one) for one in body.asks])
        return JSONResponse(
            {
                "answers": [
                    {"error": one.code, "message": one.message} if isinstance(one, Refused) else _answer(one)
                    for one in answers
                ]
            }
        )


def router(  # noqa: C901 - one function a route
    db: Database,
    permits: Permits,
    horizon: Callable[[int], Horizon | None],
    register: Register,
    pages: Pages,
    clock: Clock,
    random: Random,
) -> APIRouter:
    """Routes under /marketing."""
    routes = APIRouter(prefix="/marketing")
    applied = db.listen("marketing_applied")

    _permit_routes(routes, permits)

    @routes.get("/effects/{statement}", dependencies=[Depends(needs("marketing.effects"))])
    @door(
        answers={
            200: json("It has.", EffectAnswer),
            202: json("Not yet.", NoEffectYet),
        }
    )
    async def effect(
        statement: Annotated[str, Path(pattern=UUID7_PATTERN)],
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS)] = 0,
    ) -> Response:
        """Has this withdrawal taken effect here?
        200 once no unused permit of its matter is live, else 202, after `wait` seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
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
            left = until - loop.time()
            if left <= 0:
                return JSONResponse({}, 202)
            await applied.wait(left, since=seen)

    @routes.post("/campaigns", dependencies=[Depends(needs("marketing.campaigns"))])
    @door(
        takes={JSON: CampaignRequest},
        answers={202: json("It is being sent; asked again, it answers the same.", BegunCampaign)},
        refuses={
            409: "A campaign of this name exists with another purpose or text.",
            422: "The register has no such purpose on this channel, or no such language.",
        },
    )
    async def begin(request: Request) -> Response:
        """Send this issue to everybody whose consent holds when each mail is sent."""
        body = await json_body(request, CampaignRequest)
        _expect_purpose(permits, body.purpose, body.channel)
        if not body.texts.keys() <= set(register.languages):
            raise Refused("unknown-language", f"Texts can be in: {', '.join(register.languages)}.", status=422)
        texts = {key: value.model_dump() for key, value in body.texts.items()}
        recipients = await handlers.begin_campaign(
            db, body.campaign, body.purpose, body.channel, texts, clock(), random
        )
        return JSONResponse({"campaign": body.campaign, "recipients": recipients}, 202)

    @routes.get("/campaigns/{name}", dependencies=[Depends(needs("marketing.campaigns"))])
    @door(answers={200: json("How far it is.", CampaignAnswer)}, refuses={404: "There is no campaign of this name."})
    async def campaign(name: Annotated[str, Path(pattern=NAME_PATTERN)]) -> Response:
        """How far a campaign is."""
        found = await store.deliveries(db, name)
        if found is None:
            raise Refused("unknown-campaign", "There is no campaign of this name.", status=404)
        counts: dict[str, int] = {}
        reasons: dict[str, dict[str, int]] = {}
        for state, reason, number in found:
            counts[state] = counts.get(state, 0) + number
            if reason is not None:
                reasons.setdefault(state, {})[reason] = number
        return JSONResponse(
            {
                "campaign": name,
                "state": "sending" if counts.keys() & {"waiting", "attempted"} else "done",
                "recipients": sum(counts.values()),
                "deliveries": counts,
                "reasons": reasons,
            }
        )

    @routes.get("/audience", dependencies=[Depends(needs("marketing.audience"))])
    @door(
        answers={200: Answer("The figures: a page for a browser, JSON otherwise.", {JSON: AudienceAnswer, HTML: str})}
    )
    async def audience(request: Request) -> Response:
        """Who is in, per purpose, as Faust counts it, with how far behind the sealed log that count is."""
        now = clock()
        people, hours, positions = await store.audience_figures(db, now - HOURS_SHOWN)
        content: dict[str, Any] = {
            "purposes": [dict(row) for row in people],
            "hours": [{**row, "hour": rfc3339(row["hour"])} for row in hours],
            "shards": [
                _freshness(row["shard"], row["next"], horizon(row["shard"]), (now - row["complete_at"]).total_seconds())
                for row in positions
            ],
        }
        if not wants_html(request):
            return JSONResponse(content)
        return pages.render(
            "audience.html", spoken := language(request), request=request, title=_titles(register, spoken), **content
        )

    return routes


def _answer(permit: Permit) -> dict[str, Any]:
    return {
        "permit": permit.id if permit.decision == "granted" else None,
        "decision": permit.decision,
        "reason": permit.reason,
        "shard": permit.shard,
        "size": str(permit.size),
        "all_before": permit.all_before,
        "issued_at": rfc3339(permit.issued_at),
    }


def _freshness(shard: int, counted: int, horizon: Horizon | None, complete_ago: float) -> dict[str, Any]:
    """How far the count is, how far the log, and for how long the count has not been complete."""
    return {
        "shard": shard,
        "counted": str(counted),
        "sealed": None if horizon is None else str(horizon.size),
        "behind": None if horizon is None else str(max(horizon.size - counted, 0)),
        "complete_seconds_ago": round(max(complete_ago, 0.0), 1),
    }


def _titles(register: Register, spoken: str) -> Callable[[str, str], str]:
    def title(purpose: str, channel: str) -> str:
        try:
            return register.purpose(purpose, channel).title[spoken]
        except NotInRegister:
            return f"{purpose}/{channel}"

    return title
