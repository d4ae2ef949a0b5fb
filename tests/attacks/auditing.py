"""An outsider's audit over HTTP: of the log as our front door serves it, and of one that a liar serves by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from services.ledger.api import log as log_api
from services.ledger.log.tiles import entry_bundle, parse_tile_path
from services.ledger.procedures.audit import Request, audit
from services.ledger.reader.audit import Audit
from services.ledger.reader.policy import LogKey, Policy
from shared.access import Access
from shared.clock import utc_now
from shared.metrics import Metrics
from shared.process import serve_http
from shared.web import create_app
from tests.attacks.declared import Check, Notices
from tests.attacks.liar import Liar
from tests.attacks.site import Site


async def look(site: Site, notices: Notices, *, by_hand: Liar | None = None) -> None:
    """Let an outsider who was here after Anna's withdrawal come again, if an outsider is to notice this."""
    if Check.AUDIT not in notices.attack.noticed:
        return
    position = site.folder / "position"
    position.write_bytes(site.kept["position"])
    async with serving(site) if by_hand is None else serving_by_hand(by_hand) as url:
        outcome = await audit(Request(url, Policy((LogKey(site.vkey),)), position), lambda _: None)
    assert outcome.wrong, "the outsider has noticed nothing"
    notices.by(Check.AUDIT, f"WRONG: {outcome.wrong}", outcome.seconds)


def position(liar: Liar, checkpoint: bytes) -> bytes:
    """What an audit up to a checkpoint keeps, to go on from."""
    audited = Audit((LogKey(liar.signer.vkey),), compared=True)
    size = audited.see(checkpoint).size
    audited.take(0, size, entry_bundle(liar.leaves[:size]))
    return audited.to_bytes()


@asynccontextmanager
async def serving(site: Site) -> AsyncIterator[str]:
    """Yield the address of the log at our own front door."""
    db = await site.world.database("ledger")
    parts = log_api.Parts(db, site.world.secrets.keks(), db.listen("ledger_sealed"), utc_now)
    app = create_app("ledger", access=Access({}, {}), metrics=Metrics("ledger"), ready=lambda: log_api.ready(parts))
    app.include_router(log_api.router(parts))
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve_http(app, "127.0.0.1", 0, listening.set_result))
    try:
        yield f"http://127.0.0.1:{await listening}/ledger/log/0"
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


@asynccontextmanager
async def serving_by_hand(liar: Liar) -> AsyncIterator[str]:
    """Yield the address of a liar's log."""

    async def answer(request: web.Request) -> web.Response:
        path = request.match_info["path"]
        if path == "checkpoint":
            return web.Response(text=liar.note())
        if path == "cosigned":
            return web.Response(status=404)
        if not path.startswith("tile/"):
            return web.Response(text=f"{liar.fresh.vkey}\n")
        level, n, width = parse_tile_path(path)
        if level is None:
            return web.Response(body=entry_bundle(liar.leaves[256 * n : 256 * n + width]))
        return web.Response(body=await liar.hashes(level, n, width))

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
