"""What others say of our checkpoints, for whoever must not believe us: cosignatures, timestamps, its keys."""

from base64 import urlsafe_b64encode
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from typing_extensions import TypedDict

from services.ledger.api.log import A_MOMENT, NO_LOG, Parts
from services.ledger.log_keys import known_keys, published, vkey_of
from services.ledger.outside import cosignatures, stamps
from services.ledger.reader.policy import format_log_keys
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

    @routes.get(f"{PREFIX}/vkeys", dependencies=[Depends(open_to_everyone)])
    @door(answers={200: Answer("C2SP verifier keys, one a line, the newest first.", {TEXT: str})}, refuses=NO_LOG)
    async def vkeys(shard: int) -> Response:
        """Every key that signs the log, or has signed it."""
        keys = await known_keys(parts.db, (await parts.log(shard)).shard)
        return PlainTextResponse(format_log_keys(published(keys)), headers=A_MOMENT)

    @routes.get(f"{PREFIX}/handovers/{{number}}", dependencies=[Depends(open_to_everyone)])
    @door(
        answers={200: Answer("A C2SP signed note, signed by both keys.", {TEXT: str})},
        refuses={404: "There is no log of this shard, or no such key took it over from another."},
    )
    async def handover(shard: int, number: Annotated[int, Path(ge=2, le=10_000)]) -> Response:
        """By what the key before named key `number` of the log as the one that takes over."""
        for key in await known_keys(parts.db, (await parts.log(shard)).shard):
            if key.number == number and key.handover is not None:
                return PlainTextResponse(key.handover, headers=A_MOMENT)
        raise Refused("no-such-key", "No key of this number took this log over.", status=404)

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
            "vkey": vkey_of(await known_keys(parts.db, shard), found["size"]),
            "checkpoint": found["note"],
            "answer": urlsafe_b64encode(found["answer"]).decode().rstrip("="),
        }
        return JSONResponse(answer, headers=A_MOMENT)

    return routes
