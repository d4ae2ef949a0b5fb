"""A booth at a fair: whoever shows a badge and presses the button agrees to hear from us afterwards."""

import logging
import os
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler
from consent_ledger_client import (
    ConsentGiven,
    ConsentLedger,
    ConsentRequested,
    Notice,
    Refused,
    Unavailable,
    put,
    receipt_key,
)

WORDS = {"controller": "controller", "sender": "controller", "by": "person", "activity": "booth", "method": "badge"}
WORDS |= {"purpose": "fair-news", "channel": "email", "legal_basis": "eu-gdpr:A6-1-a-explicit-consent"}
WORDS |= {"expression": "explicit", "register_version": os.environ["REGISTER_VERSION"]}
WORDS |= {"software": "booth 1.0"}  # yours: what your team would call the program that says this
WORDS |= {"notice": Notice(hash=os.environ["NOTICE_HASH"], language="en")}
LOG = logging.getLogger("booth")
LEDGER = web.AppKey("ledger", ConsentLedger)


async def agree(request: web.Request) -> web.Response:
    ledger, form = request.app[LEDGER], await request.post()
    asked, given, (key, key_hash) = ledger.new_id(), ledger.new_id(), receipt_key()
    words = WORDS | {"act": ledger.new_id()}
    subject, sealed = await ledger.seal("controller", asked, {"address": form["email"]}, email=form["email"])
    words_asked = {
        "status": "ConsentRequested",
        "stage": "asked",
        "token_hash": form["badge"],
        "expires_at": form["until"],
    }
    words_given = {"status": "ConsentGiven", "stage": "proven", "follows": [asked], "receipt_key_hash": key_hash}
    requested = ledger.statement(ConsentRequested(**words, **words_asked, sealed=sealed), id=asked, subject=subject)
    consent = ledger.statement(ConsentGiven(**words, **words_given), id=given, subject=subject)
    async with ledger.transaction() as tx:
        await tx.execute("insert into visitor (statement, subject) values ($1::uuid, $2)", given, subject)
        await put(tx, [requested, consent])
    return web.json_response({"statement": given, "receipt": f"/ledger/receipts/{given}?key={key}"}, status=201)


@web.middleware
async def told(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Nothing was stored: what was wrong with the form is the visitor's, all else is ours to mend."""
    try:
        return await handler(request)
    except Refused as error:
        if error.status not in {401, 403}:
            return web.json_response({"error": error.code, "message": error.message}, status=400)
        LOG.warning("the ledger refuses our credential: %s", error.message)
    except Unavailable as error:
        LOG.warning("%s does not answer", error)
    return web.json_response({"error": "unavailable", "message": "Please try again later."}, status=503)


async def connected(app: web.Application) -> AsyncIterator[None]:
    places = {name: os.environ[name.upper()] for name in ("dsn", "url", "credential")}
    async with ConsentLedger.open("booth", **places) as app[LEDGER]:
        yield


app = web.Application(middlewares=[told])
app.cleanup_ctx.append(connected)
app.router.add_post("/agree", agree)
web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
