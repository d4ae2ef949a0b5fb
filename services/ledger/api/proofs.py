"""Proofs over HTTP: of the log for everybody, of a subject for who may read its history; JSON, or a page for people."""

import json as json_text
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from services.ledger.api.log import NO_LOG
from services.ledger.api.receipt_words import moment
from services.ledger.api.receipts import NO_RECEIPT, Receipts, Registers
from services.ledger.proofs.issue import About, Kind, Made, Prover
from services.ledger.proofs.receipt import to_bytes
from services.ledger.reader.proof_file import ProofFile, Said
from shared.access import needs, open_by_capability, open_to_everyone
from shared.clock import from_millis, millis, parse_rfc3339
from shared.errors import Refused
from shared.events.types import NAME_PATTERN
from shared.limits import Limits
from shared.openapi import HTML, JSON, Answer, Error, door
from shared.pages import Pages
from shared.web import language, wants_html

_NAME: Final = re.compile(NAME_PATTERN[:-1] + r"\Z", re.ASCII)
_HEADERS: Final = {"Cache-Control": "no-store", "Vary": "Accept, Accept-Language", "Referrer-Policy": "no-referrer"}
_ANSWER: Final = Answer(
    "The proof file (docs/formats.md), or a page that shows what it proves.", {JSON: dict[str, Any], HTML: str}
)

Format = Literal["json"]


@dataclass(frozen=True)
class Pagemaker:
    """Answers a proof as file or page."""

    pages: Pages

    def answer(self, request: Request, made: Made, name: str, wanted: Format | None) -> Response:
        """The file for programs; for a browser a page, made of what the reader has verified of it."""
        # Indented for people; for programs in the form that is made ten times as fast.
        as_page = wanted is None and wants_html(request)
        content = to_bytes(made.content) if wanted or as_page else _compact(made.content)
        if as_page:
            return self._page(request, content, name)
        headers = dict(_HEADERS)
        if wanted == "json":
            headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return Response(content, media_type="application/json", headers=headers)

    def _page(self, request: Request, content: bytes, name: str) -> Response:
        lang = language(request)
        texts = self.pages.texts(lang)
        proof = ProofFile(content, None)
        proof.verify()

        def at(milliseconds: int) -> str:
            return moment(texts, from_millis(milliseconds))

        value = json_text.loads(content)
        asked_at = parse_rfc3339(value["at"]) if "at" in value else None

        def told(said: Said) -> dict[str, Any]:
            kind = "Erased" if said.statement is None else said.statement.type
            key = f"proof.said.{kind}"
            return {
                "what": texts(key) if key in texts else kind,
                "said_at": "" if said.statement is None else moment(texts, parse_rfc3339(said.statement.time)),
                "recorded_at": at(said.parsed.recorded_at),
                "index": said.index,
                "version": said.parsed.version,
                "software": "" if said.statement is None else said.statement.data.software,
                "later": asked_at is not None and from_millis(said.parsed.recorded_at) > asked_at,
            }

        query = {name: given for name, given in request.query_params.items() if name != "lang"}
        return self.pages.render(
            "proof.html",
            lang,
            request=request,
            headers=_HEADERS,
            kind=proof.kind,
            purpose=f"{proof.purpose}/{proof.channel}",
            subject=proof.subject,
            reason=None if proof.judgement is None else proof.judgement.reason,
            as_of=at(proof.fresh.seconds * 1000),
            moment="" if asked_at is None else moment(texts, asked_at),
            words=[
                (word.matter, word.record is not None, [told(said) for said in word.said])
                for word in proof.words.values()
            ],
            old_size=min(one.size for one in proof.facts.checkpoints),
            size=proof.checkpoint.size,
            shard=proof.checkpoint.origin.rpartition("/")[2],
            name=name,
            download="?" + urlencode(query | {"format": "json"}),
            values=[
                ("origin", proof.checkpoint.origin),
                ("key", proof.signed_by),
                ("root", proof.checkpoint.root.hex()),
                *(("label", f"{word.label.hex()}  {word.matter}") for word in proof.words.values()),
            ],
        )


def _compact(value: Mapping[str, Any]) -> bytes:
    return json_text.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def about(kind: Kind, subject: str, purpose: str, channel: str, at: str | None) -> About:
    """What is asked for; Refused 400 if it has not that form."""
    if not _NAME.match(purpose) or not _NAME.match(channel):
        raise Refused("not-a-purpose", "Name a purpose and a channel: purpose=newsletter&channel=email.")
    if (kind == "state") != (at is not None):
        raise Refused("moment-missing", "A state is at a moment, at=2026-11-22T12:00:00Z; no other kind has one.")
    return About(kind, subject, purpose, channel, None if at is None else _moment(at))


def _moment(text: str) -> datetime:
    """A moment in ISO 8601 with its offset, cut to the milliseconds that the log counts in."""
    wrong = Refused("not-a-moment", "Name the moment with its offset from UTC, like 2026-11-22T12:00:00Z.")
    try:
        given = datetime.fromisoformat(text)
        if given.tzinfo is None:
            raise wrong
        return from_millis(millis(given.astimezone(UTC)))
    except (ValueError, OverflowError):
        raise wrong from None


def router(prover: Prover, registers: Registers, pages: Pages, limits: Limits) -> APIRouter:
    """GET /ledger/subjects/{subject}/proofs/{kind}, /ledger/receipts/{id}/latest, /ledger/log/{shard}/proofs/…."""
    shown = Pagemaker(pages)
    receipts = Receipts(prover.histories, registers, pages)
    routes = APIRouter(prefix="/ledger")

    @routes.get("/subjects/{subject}/proofs/{kind}", dependencies=[Depends(needs("ledger.history"))])
    @door(
        answers={200: _ANSWER},
        refuses={
            404: "Nothing is recorded of this subject, or it is erased: no key is left that could prove anything.",
            409: "Absence was asked for, and something is recorded.",
            422: "The moment is later than what the log can speak of, or the history is too long for a file.",
        },
    )
    async def of_subject(
        request: Request,
        subject: str,
        kind: Kind,
        purpose: Annotated[str, Query(max_length=63)],
        channel: Annotated[str, Query(max_length=63)],
        at: Annotated[str | None, Query(max_length=40)] = None,
        wanted: Annotated[Format | None, Query(alias="format")] = None,
    ) -> Response:
        """A proof about a subject, a purpose and a channel
        `latest`: the newest words; `absence`: nothing was ever said; `history`: every word, none left out; `state`:
        what was in force at a past moment."""
        made = await prover.about(about(kind, subject, purpose, channel, at))
        name = f"{kind}-{purpose}-{channel}-{subject[-12:]}.json"
        return shown.answer(request, made, name, wanted)

    @routes.get("/receipts/{statement}/latest", dependencies=[Depends(open_by_capability)])
    @door(
        answers={
            200: _ANSWER,
            429: Answer(
                "This link opens no receipt, and too many like it came from this network.",
                {JSON: Error, HTML: str},
                {"Retry-After": "Seconds after which to ask again."},
            ),
        },
        refuses={
            404: "This link opens no receipt.",
            422: "The receipt is about everything, and not about one purpose.",
        },
    )
    async def latest(
        request: Request,
        statement: str,
        key: str = "",
        by: str = "",
        wanted: Annotated[Format | None, Query(alias="format")] = None,
    ) -> Response:
        """What holds now: the latest word on what a receipt is about, for whoever has its link."""
        try:
            history = await receipts.open(statement, key, by)
        except Refused as error:
            if error.code == NO_RECEIPT:
                limits.unknown_link(request, "receipt")
            raise
        data = history.entries[0].statement.data
        purpose, channel = getattr(data, "purpose", None), getattr(data, "channel", None)
        if purpose is None or channel is None:
            raise Refused("about-everything", "This receipt is about everything; ask about one purpose.", status=422)
        made = await prover.about(About("latest", history.subject, purpose, channel))
        return shown.answer(request, made, f"latest-{purpose}-{channel}-{history.subject[-12:]}.json", wanted)

    @routes.get("/log/{shard:shard}/proofs/consistency", dependencies=[Depends(open_to_everyone)])
    @door(answers={200: _ANSWER}, refuses={404: f"{NO_LOG[404]} Or: no checkpoint of this size was ever signed."})
    async def consistency(
        request: Request,
        shard: int,
        old: Annotated[int, Query(ge=1, le=2**63 - 1)],
        wanted: Annotated[Format | None, Query(alias="format")] = None,
    ) -> Response:
        """A proof that the log only grew since its checkpoint of `old` leaves."""
        made = await prover.consistency(shard, old)
        return shown.answer(request, made, f"consistency-{shard}-{old}-{made.size}.json", wanted)

    return routes
