"""What others say of our checkpoints, for whoever must not believe us: cosignatures and timestamps."""

from base64 import urlsafe_b64encode
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from typing_extensions import TypedDict

from services.ledger import cosignatures, stamps
from services.ledger.api import A_MOMENT, Parts
from shared.access import open_to_everyone
from shared.errors import Refused
from shared.openapi import TEXT, Answer, door, json

FORMAT = "consent-ledger/timestamp/1"
PREFIX = "/ledger/log/{shard:shard}"


class TimestampAnswer(TypedDict):
    """A checkpoint, and the answer of a time-stamp authority about its text."""

    format: Literal["consent-ledger/timestamp/1"]
    origin: str
    vkey: str
    checkpoint: str
    answer: str


def router(parts: Parts) -> APIRouter:
    """Every route of this file."""
    routes = APIRouter()

    @routes.get(f"{PREFIX}/cosigned", dependencies=[Depends(open_to_everyone)])
    @door(
        answers={200: Answer("A C2SP signed note with the witnesses' cosignatures.", {TEXT: str})},
        refuses={404: "There is no log of this shard, or its witnesses have cosigned nothing yet."},
    )
    async def cosigned(shard: int) -> Response:
        """The newest checkpoint that enough witnesses have cosigned."""
        found = await cosignatures.cosigned_checkpoint(parts.db, (await parts.log(shard)).shard)
        if found is None:
            raise Refused("not-cosigned", "The witnesses of this log have cosigned nothing yet.", status=404)
        return PlainTextResponse(found[1], headers=A_MOMENT)

    @routes.get(f"{PREFIX}/timestamp", dependencies=[Depends(open_to_everyone)])
    @door(
        answers={200: json("A timestamp file, as docs/formats.md says.", TimestampAnswer)},
        refuses={404: "There is no log of this shard, or no timestamp of it covers this leaf yet."},
    )
    async def timestamp(shard: int, index: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None) -> Response:
        """The first timestamp that covers the leaf `index`; without one the newest."""
        log = await parts.log(shard)
        found = await stamps.covering_stamp(parts.db, shard, index)
        if found is None:
            raise Refused("not-stamped", "No timestamp covers this yet.", status=404)
        answer = {
            "format": FORMAT,
            "origin": log.origin,
            "vkey": log.vkey,
            "checkpoint": found["note"],
            "answer": urlsafe_b64encode(found["answer"]).decode().rstrip("="),
        }
        return JSONResponse(answer, headers=A_MOMENT)

    return routes
