"""What others say of our checkpoints, for whoever must not believe us: the witnesses' cosignatures."""

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse, Response

from services.ledger import cosignatures
from services.ledger.api import A_MOMENT, Parts
from shared.access import open_to_everyone
from shared.errors import Refused
from shared.openapi import TEXT, Answer, door

PREFIX = "/ledger/log/{shard:shard}"


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

    return routes
