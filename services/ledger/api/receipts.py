"""Receipts for the people they belong to; histories and register snapshots for whoever collects evidence."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NotRequired
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from typing_extensions import TypedDict

from services.ledger import record as records
from services.ledger import store
from services.ledger.api.receipt_words import Said, erased_names, kept_until, moment, service
from services.ledger.log.leaf import leaf_hash
from services.ledger.proofs import receipt as receipts
from services.ledger.proofs.history import Histories, History, Remaining
from services.ledger.proofs.issue import About, Prover
from services.ledger.proofs.receipt import Snapshot
from services.ledger.reader.proof import format_proof
from services.ledger.reader.strict import encode_base64url
from shared.access import needs, open_by_capability
from shared.clock import from_millis, parse_rfc3339
from shared.database import Database
from shared.errors import Corrupt, Refused
from shared.events import Statement
from shared.events.types import UUID7_PATTERN, Decimal, Hash, Subject
from shared.limits import Limits
from shared.openapi import HTML, JSON, TEXT, Answer, Error, door, json
from shared.pages import Pages, Texts
from shared.register import Register
from shared.web import language, wants_html

HERE: Final = Path(__file__).parents[1]
NO_RECEIPT: Final = "receipt-not-found"
_GONE: Final = 410

_STATEMENT: Final = re.compile(UUID7_PATTERN[:-1] + r"\Z", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Vary": "Accept, Accept-Language",
    # The address of this page is the key to it, so no other page is told.
    "Referrer-Policy": "no-referrer",
}

Format = Literal["json", "record", "tlog-proof"]


class ProvenStatement(TypedDict):
    """One recorded statement with all that ties it to the log; bytes in base64url, as docs/formats.md has them."""

    index: Decimal
    matter: str
    overtaken: bool
    leaf: str
    statement: str
    pin: Hash
    opening: Hash
    hashes: list[str]


class HistoryAnswer(TypedDict):
    """Statements in the order of the log, each proven under this checkpoint; `latest` is a proof file, if asked for."""

    origin: str
    shard: int
    subject: Subject
    checkpoint: str
    vkey: str
    fresh_vkey: str
    entries: list[ProvenStatement]
    latest: NotRequired[dict[str, Any]]


def no_receipt() -> Refused:
    """One answer for every link that opens nothing, so that it tells nothing about what there is."""
    return Refused(NO_RECEIPT, "This link opens no receipt.", status=404)


def no_register() -> Refused:
    return Refused("no-such-register", "There is no register snapshot with this hash.", status=404)


@dataclass
class Registers:
    """Every version of the register that statements may name, by its hash; the ledger keeps each it has run with."""

    db: Database
    current: Register
    _known: dict[str, Snapshot] = field(default_factory=dict)

    async def keep(self) -> None:
        """Store the current snapshot under its hash, so that it can be had when another is current."""
        await store.add_attachment(self.db, bytes.fromhex(self.current.version), self.current.snapshot())

    async def get(self, version: str) -> Snapshot:
        """The snapshot with this hash; Refused 404 if the ledger never ran with it."""
        if version not in self._known:
            raw = await self._raw(version)
            if raw is None:
                raise no_register()
            self._known[version] = Snapshot(raw)
        return self._known[version]

    async def _raw(self, version: str) -> bytes | None:
        if version == self.current.version:
            return self.current.snapshot()
        raw = await store.attachment(self.db, bytes.fromhex(version)) if _HASH.match(version) else None
        try:
            # Sealed attachments lie beside the snapshots, and are nobody's business here.
            return None if raw is None or not records.parse_snapshot(raw) else raw
        except records.NoRecord:
            return None


@dataclass(frozen=True)
class Receipts:
    """Opens receipts by their capability and shows them."""

    histories: Histories
    registers: Registers
    pages: Pages

    async def open(self, statement: str, key: str, by: str = "") -> History:
        """The one statement this key opens the receipt of; the same refusal for everything else.

        `by` is the statement whose key it is, where that is another of the same act."""
        history = await self._found(statement)
        [entry] = history.entries
        keeper = entry.statement if by in {"", statement} else (await self._found(by)).entries[0].statement
        if (
            keeper.subject != entry.statement.subject
            or entry.statement.type not in receipts.RECEIPTED_TYPES
            or not receipts.belong_together(keeper, entry.statement)
            or not receipts.opens(keeper, key)
        ):
            raise no_receipt()
        return history

    async def _found(self, statement: str) -> History:
        if not _STATEMENT.match(statement):
            raise no_receipt()
        try:
            return await self.histories.of_statement(statement)
        except Refused:
            raise no_receipt() from None

    async def remaining(self, order: str, key: str) -> Remaining:
        """What there still is of an erasure's order, for whoever has the key that opened it; else the same refusal."""
        if not _STATEMENT.match(order) or not receipts.opens_order(order, key):
            raise no_receipt()
        try:
            return await self.histories.remaining(order)
        except Refused:
            raise no_receipt() from None

    async def _others(self, history: History, by: str) -> list[Statement]:
        """The other statements whose receipts the same key opens."""
        statement = history.entries[0].statement
        acts = await self.histories.of_acts(history.subject)
        keeper = next((one for one in acts if one.id == (by or statement.id)), statement)
        return [
            one
            for one in acts
            if one.id != statement.id and one.type in receipts.RECEIPTED_TYPES and receipts.belong_together(keeper, one)
        ]

    async def answer(self, request: Request, statement: str, key: str, by: str, wanted: Format | None) -> Response:
        try:
            history = await self.open(statement, key, by)
        except Refused:
            return self.destroyed(request, await self.remaining(statement, key), statement, key, wanted)
        [entry] = history.entries
        snapshot = await self.registers.get(entry.statement.data.register_version)
        if wanted is None and wants_html(request):
            keys = {"key": key} | ({"by": by} if by else {})
            return self.page(request, history, snapshot, keys, await self._others(history, by))
        name = _short(statement)
        match wanted:
            case "tlog-proof":
                return _file(receipts.proof(history), "text/plain", f"receipt-{name}.tlog-proof")
            case "record":
                made = records.record(entry.statement, snapshot.content)
                return _file(receipts.to_bytes(made), "application/ld+json", f"record-{name}.jsonld")
            case "json":
                whole = receipts.to_bytes(receipts.receipt(history, snapshot))
                return _file(whole, "application/json", f"receipt-{name}.json")
            case None:
                return Response(
                    receipts.to_bytes(receipts.receipt(history, snapshot)),
                    media_type="application/json",
                    headers=_HEADERS,
                )

    def destroyed(self, request: Request, left: Remaining, order: str, key: str, wanted: Format | None) -> Response:
        """What can still be shown when the keys of an erased subject are destroyed: a place in the log, with proof."""
        proof = format_proof(left.index, left.hashes, left.note.encode())
        if wanted == "tlog-proof":
            return _file(proof, "text/plain", f"erased-{_short(order)}.tlog-proof")
        if wanted is not None or not wants_html(request):
            raise Refused(
                "receipt-destroyed",
                "The erasure is complete and its keys are destroyed: nobody can open this receipt any more.",
                status=_GONE,
                origin=left.log.origin,
                shard=left.log.shard,
                index=str(left.index),
                leaf=encode_base64url(left.leaf),
                proof=proof.decode(),
                vkey=left.log.vkey,
            )
        lang = language(request)
        texts = self.pages.texts(lang)
        return self.pages.render(
            "destroyed.html",
            lang,
            status=_GONE,
            request=request,
            headers=_HEADERS,
            index=left.index,
            size=left.size,
            recorded_at=moment(texts, from_millis(int.from_bytes(left.leaf[-8:], "big"))),
            proof=f"/ledger/receipts/{order}?" + urlencode({"key": key, "format": "tlog-proof"}),
            name=_short(order),
            values=[
                ("origin", left.log.origin),
                ("key", left.log.vkey),
                ("root", left.note.split("\n")[2]),
                ("leaf", leaf_hash(left.leaf).hex()),
            ],
        )

    def page(
        self,
        request: Request,
        history: History,
        snapshot: Snapshot,
        keys: Mapping[str, str],
        others: Sequence[Statement],
    ) -> Response:
        """The receipt in plain words."""
        lang = language(request)
        texts = self.pages.texts(lang)
        [entry] = history.entries
        statement, data = entry.statement, entry.statement.data
        said = Said(snapshot.content, statement.data, lang)
        notice = said.notice
        recorded_at = int.from_bytes(entry.leaf[-8:], "big")
        erased = erased_names(texts, statement)

        def download(form: Format) -> str:
            return f"/ledger/receipts/{statement.id}?" + urlencode({**keys, "format": form})

        return self.pages.render(
            "receipt.html",
            lang,
            request=request,
            headers=_HEADERS,
            verifies=True,
            type=statement.type,
            overtaken=entry.overtaken,
            source=service(texts, statement.source),
            erasure=statement.type in records.ERASURE_TYPES,
            kept_until=kept_until(texts, [statement, *others]),
            labels=erased if erased is not None else said.labels or [texts("receipt.lead.everything")],
            titles=[] if erased is not None else said.titles or [texts("receipt.lead.everything")],
            controller=said.controller["name"],
            address=", ".join(said.controller["address"]),
            basis=said.basis,
            said_at=moment(texts, parse_rfc3339(statement.time)),
            recorded_at=moment(texts, from_millis(recorded_at)),
            method=getattr(data, "method", ""),
            software=data.software,
            reason=getattr(data, "reason", ""),
            by=data.by if statement.type == "ErasureOrdered" else "",
            notice=notice,
            ways_out=said.ways_out,
            index=entry.index,
            size=history.size,
            shard=history.log.shard,
            subject=statement.subject,
            statement=statement.id,
            name=_short(statement.id),
            download=download,
            waits=statement.type == "ErasureOrdered" and all(one.type != "ErasureCompleted" for one in others),
            others=[self._other(texts, one, said, {"by": statement.id, **keys}) for one in others],
            latest=f"/ledger/receipts/{statement.id}/latest?" + urlencode(keys) if said.titles else "",
            values=[
                ("origin", history.log.origin),
                ("key", history.log.vkey),
                ("root", history.note.split("\n")[2]),
                ("leaf", leaf_hash(entry.leaf).hex()),
                ("label", entry.leaf[1:33].hex()),
                ("version", str(int.from_bytes(entry.leaf[33:41], "big"))),
                ("pin", entry.pin.hex()),
            ],
        )

    def _other(self, texts: Texts, one: Statement, said: Said, keys: Mapping[str, str]) -> Mapping[str, object]:
        """A link to the receipt of another statement that the same key opens."""
        titles = []
        if one.type == "DataErased":
            titles = [service(texts, one.source)]
        elif getattr(one.data, "scope", None) == "everything":
            titles = [texts("receipt.lead.everything")]
        elif one.data.register_version == said.data.register_version:
            titles = Said(said.snapshot, one.data, said.language).titles
        return {
            "type": one.type,
            "said_at": moment(texts, parse_rfc3339(one.time)),
            "titles": titles,
            "link": f"/ledger/receipts/{one.id}?" + urlencode(keys),
        }


def _short(statement: str) -> str:
    """The end of an id, which is random: enough to tell a person's receipts apart, and short enough to type."""
    return statement[-12:]


def _file(content: bytes, media_type: str, name: str) -> Response:
    return Response(
        content,
        media_type=media_type,
        headers={**_HEADERS, "Content-Disposition": f'attachment; filename="{name}"'},
    )


def router(prover: Prover, registers: Registers, pages: Pages, limits: Limits) -> APIRouter:
    """GET /ledger/receipts/{id}, /ledger/subjects/{subject}/history, /ledger/register/{hash}."""
    histories = prover.histories
    opened = Receipts(histories, registers, pages)
    routes = APIRouter(prefix="/ledger")

    @routes.get("/receipts/{statement}", dependencies=[Depends(open_by_capability)])
    @door(
        answers={
            200: Answer(
                "The receipt in the form that was asked for (docs/formats.md).",
                {JSON: dict[str, Any], "application/ld+json": dict[str, Any], TEXT: str, HTML: str},
            ),
            429: Answer(
                "This link opens no receipt, and too many like it came from this network.",
                {JSON: Error, HTML: str},
                {"Retry-After": "Seconds after which to ask again."},
            ),
        },
        refuses={
            404: "This link opens no receipt.",
            410: "It opened the receipts of an erasure, whose keys are destroyed; what there still is stands beside.",
        },
    )
    async def receipt(
        request: Request,
        statement: str,
        key: str = "",
        by: str = "",
        wanted: Annotated[Format | None, Query(alias="format")] = None,
    ) -> Response:
        """A receipt
        `by` names the statement whose key it is, if that is another of the same act.
        A page for a browser, JSON for everybody else, files by `format`."""
        try:
            return await opened.answer(request, statement, key, by, wanted)
        except records.NoRecord:
            raise Corrupt("register", "a receipt names another activity than its register") from None
        except Refused as error:
            if error.code == NO_RECEIPT:
                limits.unknown_link(request, "receipt")
            raise

    @routes.get("/subjects/{subject}/history", dependencies=[Depends(needs("ledger.history"))])
    @door(
        answers={200: json("The history.", HistoryAnswer)},
        refuses={404: "Nothing is recorded of this subject, or it is erased."},
    )
    async def history(
        subject: str,
        purpose: Annotated[str, Query(max_length=63)] = "",
        channel: Annotated[str, Query(max_length=63)] = "",
        latest: bool = False,
    ) -> Response:
        """What is recorded of a subject, all proven under one checkpoint
        With `latest`, the proof of the newest word on purpose and channel stands under it too."""
        if bool(purpose) != bool(channel):
            raise Refused("purpose-without-channel", "Name purpose and channel, or neither.")
        if not latest:
            found = await histories.of_subject(subject, purpose, channel)
            return JSONResponse(receipts.history_json(found), headers={"Cache-Control": "no-store"})
        if not purpose:
            raise Refused("purpose-missing", "Name purpose and channel: the newest word is on one of each.")
        # The map is of the newest checkpoint only, the tree of every one: so the proof comes first.
        made = await prover.about(About("latest", subject, purpose, channel))
        found = await histories.of_subject(subject, purpose, channel, (made.size, made.note))
        answer = receipts.history_json(found) | {"latest": made.content}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    @routes.get("/register/{version}", dependencies=[Depends(needs("ledger.history"))])
    @door(
        answers={200: json("The snapshot, byte for byte as it was hashed.", dict[str, Any])},
        refuses={404: "The ledger never ran with this version."},
    )
    async def register(version: str) -> Response:
        """The register snapshot with this SHA-256, which statements name as their register_version."""
        return Response((await registers.get(version)).raw, media_type="application/json")

    return routes
