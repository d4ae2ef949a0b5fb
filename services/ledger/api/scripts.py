"""The scripts with which a browser verifies what the ledger says: ours, the same for everybody, from this origin."""

from pathlib import Path
from typing import Final, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from shared.access import open_to_everyone
from shared.openapi import Answer, door

_HERE: Final = Path(__file__).parents[1] / "pages"
_JAVASCRIPT: Final = "text/javascript"


def router() -> APIRouter:
    """Routes under /ledger/scripts."""
    routes = APIRouter(prefix="/ledger/scripts")
    scripts = {name: (_HERE / name).read_bytes() for name in ("verifier.js", "receipt-page.js")}

    @routes.get("/{name}", dependencies=[Depends(open_to_everyone)])
    @door(answers={200: Answer("The script.", {_JAVASCRIPT: str})})
    async def script(name: Literal["verifier.js", "receipt-page.js"]) -> Response:
        """A script with which pages verify receipts in the browser."""
        return Response(scripts[name], media_type=_JAVASCRIPT, headers={"Cache-Control": "public, max-age=300"})

    return routes
