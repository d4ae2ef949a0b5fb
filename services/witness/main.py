"""The witness's doors, and the process behind `consent-ledger witness serve`."""

import functools
import os
import re
from pathlib import Path
from typing import Final

import uvloop
from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from services.witness.memory import Memory
from services.witness.witness import REQUEST_LIMIT, TEXT, Witness
from shared import logs
from shared.access import Access, open_to_everyone
from shared.clock import utc_now
from shared.metrics import Metrics
from shared.openapi import TEXT as TEXT_TYPE
from shared.openapi import Answer, door
from shared.process import run, serve_http
from shared.web import create_app

_NAME: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


def create(folder: Path, name: str) -> str:
    """Begin a witness; its verifier key."""
    return Memory.create(folder, name, os.urandom)


def serve(folder: Path, host: str, port: int, log_level: str) -> int:
    """Serve until a signal comes; the exit status."""
    logs.configure(log_level, "witness")
    memory = Memory.open(folder)
    try:
        app = doors(Witness(memory, utc_now))
        return uvloop.run(run({"http": functools.partial(serve_http, app, host, port)}))
    finally:
        memory.close()


def doors(witness: Witness) -> FastAPI:
    """C2SP tlog-witness; submission prefix and monitoring prefix are both the address itself."""

    async def ready() -> dict[str, bool | str]:
        return {}

    app = create_app(
        "witness", access=Access({}, {}), metrics=Metrics("witness"), ready=ready, body_limit=REQUEST_LIMIT
    )

    @app.post("/add-checkpoint", dependencies=[Depends(open_to_everyone)])
    @door(
        takes={TEXT_TYPE: str},
        answers={200: Answer("Cosignature lines.", {TEXT_TYPE: str})},
        refuses={
            403: "No key that is known of this log has signed it.",
            404: "No log of this origin is watched.",
            409: "The old size is not the newest; the body is the one that is.",
            422: "It does not continue what was cosigned before.",
        },
    )
    async def add_checkpoint(request: Request) -> Response:
        """Cosign a checkpoint that continues the newest."""
        answer = await witness.add_checkpoint(await request.body())
        return PlainTextResponse(
            answer.body, answer.status, headers={"Content-Type": answer.media_type, "Cache-Control": "no-store"}
        )

    @app.get("/{name}/checkpoint", dependencies=[Depends(open_to_everyone)])
    @door(
        answers={200: Answer("A C2SP signed note with the witness's cosignature.", {TEXT_TYPE: str})},
        refuses={404: "Nothing was cosigned for a log of this origin."},
    )
    async def checkpoint(name: str) -> Response:
        """The newest checkpoint cosigned; `name` is the SHA-256 of the log's origin in lower-case hex."""
        note = witness.checkpoint(name) if _NAME.match(name) else None
        if note is None:
            return PlainTextResponse("nothing was cosigned for a log of this origin\n", 404)
        return Response(note, headers={"Content-Type": TEXT, "Cache-Control": "no-store"})

    return app
