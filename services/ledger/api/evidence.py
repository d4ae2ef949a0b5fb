"""Evidence over HTTP: recorded first, then collected, then handed out as ZIP, PDF or page.

The ledger has no right of its own to open anything: keys are asked for with the credential of whoever asks. That
somebody in a role asked, and why, is a statement like any other, and until it is sealed there is no file.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import StringConstraints

from services.ledger import store
from services.ledger.api.log import Parts
from services.ledger.api.receipts import Registers
from services.ledger.api.statements import Door, state
from services.ledger.evidence.bundle import Material, Stamped, bundle, sealed_parts, statements_of
from services.ledger.evidence.page import page_of
from services.ledger.evidence.printed import pdf
from services.ledger.evidence.signature import PdfSignature
from services.ledger.outside import stamps
from services.ledger.proofs.history import Histories, History
from services.ledger.proofs.issue import About, Prover
from services.ledger.proofs.receipt import history_json
from services.ledger.reader.checkpoint import parse_checkpoint
from services.ledger.reader.evidence import Bundle
from services.ledger.reader.note import parse_note
from services.ledger.reader.stamp import STAMPS_LIMIT
from shared import events
from shared.access import needs
from shared.client import ServiceClient
from shared.clock import rfc3339
from shared.errors import Refused, Unavailable
from shared.events import RESTRICTIVE, Statement
from shared.events.types import Name, RecordAccessed, Strict, Subject
from shared.identifiers import Random, uuid7
from shared.openapi import HTML, JSON, Answer, door
from shared.register import Register
from shared.web import json_body

SOURCE: Final = "ledger"
ZIP: Final = "application/zip"
PDF: Final = "application/pdf"

_DISCLOSED_AT_ONCE: Final = 1000
_SEALED_WITHIN_SECONDS: Final = 10.0
_CALL_SECONDS: Final = 30
_ACCEPTED: Final = 202
_HEADERS: Final = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_MEDIA_TYPES: Final = {"zip": ZIP, "pdf": PDF, "html": "text/html; charset=utf-8"}

Shape = Literal["zip", "pdf", "html"]
# As subjects takes it: the caller's own words, and no place for an address.
Reason = Annotated[str, StringConstraints(pattern=r"^[^@\x00-\x1f\x7f]{3,200}$")]


class Opening(Strict):
    """Whose evidence about what, in which role it is asked for and why, and in which shape."""

    subject: Subject
    purpose: Name
    channel: Name
    role: Name
    reason: Reason
    shape: Shape = "zip"
    language: Literal["de", "en"] = "de"


def reason_hash(statement: str, reason: str) -> str:
    """What RecordAccessed says of the reason; its words stay in subjects, beside the keys that were given out."""
    return sha256(b"\x00".join([b"consent-ledger/v1/reason", statement.encode("ascii"), reason.encode()])).hexdigest()


def has_ended(latest: Mapping[str, Any]) -> bool:
    """Whether a word that a proof of the latest word shows is an ERASURE, which is no statement."""
    return any("statement" not in entry for word in latest["words"] for entry in word["entries"])


@dataclass(frozen=True)
class Others:
    """The services that are asked, each with the credential of whoever asked us."""

    subjects: ServiceClient
    newsletter: ServiceClient
    marketing: ServiceClient


@dataclass(frozen=True)
class Evidence:
    """Opens evidence: one opening, one statement, one file."""

    parts: Parts
    histories: Histories
    prover: Prover
    registers: Registers
    door: Door
    others: Others
    random: Random
    signature: PdfSignature | None
    newsletter_url: str
    software: str

    @property
    def register(self) -> Register:
        return self.registers.current

    async def open(self, asked: Opening, caller: str, authorization: str) -> bytes:
        """The file; Refused if there is nothing, Unavailable if it could not be recorded."""
        # Before anything is recorded: to state a fact about nobody would make a pseudonym for nobody.
        history = await self.histories.of_subject(asked.subject, asked.purpose, asked.channel)
        if not history.entries:
            raise Refused("nothing-recorded", "Nothing is recorded about this purpose and channel.", status=404)
        await self._record(asked, caller, history.entries[-1].statement.data.activity)
        material = await self.material(asked, authorization)
        # Packing, verifying and printing are work for a processor; meanwhile others are answered.
        return await asyncio.to_thread(self._shaped, asked, material)

    async def _record(self, asked: Opening, caller: str, activity: str) -> None:
        voice = self.door.voices.get(SOURCE)
        if voice is None or not self.register.may_state(SOURCE, RecordAccessed.__name__, activity):
            raise Refused(
                "opening-cannot-be-recorded",
                "The register does not let the ledger record who was shown evidence; without that there is none.",
                status=403,
            )
        now = self.parts.clock()
        statement = uuid7(now, self.random)
        named = self.register.activity(activity)
        controller = next(name for name, party in self.register.parties.items() if party == named.controller)
        said = RecordAccessed(
            controller=controller,
            sender=named.sender.party,
            act=uuid7(now, self.random),
            by="staff",
            activity=activity,
            register_version=self.register.version,
            software=self.software,
            purpose=asked.purpose,
            channel=asked.channel,
            role=asked.role,
            caller=caller,
            shape=asked.shape,
            reason_hash=reason_hash(statement, asked.reason),
        )
        stated = Statement.of(said, id=statement, source=SOURCE, subject=asked.subject, time=rfc3339(now))
        raw = events.encode(stated)
        if await state(self.parts, self.door, voice, stated, raw, _SEALED_WITHIN_SECONDS) is None:
            # It may still be recorded: an opening that was asked for and came to nothing.
            raise Unavailable("ledger")

    def _shaped(self, asked: Opening, material: Material) -> bytes:
        packed = bundle(material)
        match asked.shape:
            case "zip":
                return packed
            case "html":
                return page_of(packed, asked.language)
            case "pdf":
                checked = Bundle(packed, material.history["vkey"])
                checked.verify()
                document = pdf(checked, packed, asked.language, self.newsletter_url)
                return document if self.signature is None else self.signature.sign(document)

    async def material(self, asked: Opening, authorization: str) -> Material:
        """Everything about one purpose and channel of one subject; the keys come last, with the reason."""
        latest, under = None, None
        try:
            # The map is of the newest checkpoint only, the tree of every one: so the proof comes first.
            made = await self.prover.about(About("latest", asked.subject, asked.purpose, asked.channel))
            latest, under = made.content, (made.size, made.note)
        except Unavailable:
            # The map is being read in: the evidence stands without it, and says so.
            pass
        if latest is not None and has_ended(latest):
            raise Refused(
                "erased-subject",
                "This person is erased, and the record has begun to end: there is no evidence to make any more. "
                "What was exported before verifies as it did.",
                status=410,
            )
        found = await self.histories.of_subject(asked.subject, asked.purpose, asked.channel, under)
        history = history_json(found)
        statements = [statement for _, statement in statements_of(history)]
        attachments = await self._attachments(statements)
        versions = {statement.data.register_version for statement in statements}
        registers = {version: (await self.registers.get(version)).raw for version in sorted(versions)}
        notice_keys, dkim_keys, effects, keys, stamped = await asyncio.gather(
            self._json("/newsletter/notice-keys"),
            self._json("/newsletter/dkim-keys"),
            self._effects(statements, authorization),
            self._keys(asked, statements, attachments, authorization),
            self._stamps(found),
        )
        return Material(
            purpose=asked.purpose,
            channel=asked.channel,
            history=history,
            keys=keys,
            attachments=attachments,
            registers=registers,
            notice_keys=notice_keys,
            dkim_keys=dkim_keys,
            latest=latest,
            effects=effects,
            stamps=stamped,
        )

    async def _json(self, path: str) -> Any:
        return (await self.others.newsletter.get(path, timeout=_CALL_SECONDS)).json()

    async def _attachments(self, statements: Sequence[Statement]) -> dict[str, bytes]:
        """Those there are. One that retention has deleted is left out: the bundle then shows that it was there."""
        names = {part.attachment for statement in statements for part in sealed_parts(statement) if part.attachment}
        found = {name: await store.attachment(self.parts.db, bytes.fromhex(name)) for name in sorted(names)}
        return {name: content for name, content in found.items() if content is not None}

    async def _stamps(self, found: History) -> list[Stamped]:
        """By when each word and each request was there at the latest, as far as an authority has been asked."""
        shard = found.log.shard
        words = [one.index for one in found.entries if not one.matter.startswith(("use:", "data:", "request:"))]
        rows = await stamps.first_stamps(self.parts.db, shard, words, found.size, STAMPS_LIMIT)
        return [
            Stamped(
                row["size"],
                parse_checkpoint(parse_note(row["note"].encode()).text).root,
                await self.prover.consistency_hashes(shard, row["size"], found.size),
                row["answer"],
            )
            for row in rows
        ]

    async def _effects(
        self, statements: Sequence[Statement], authorization: str
    ) -> dict[str, Sequence[Mapping[str, Any]]]:
        """When each restriction took effect, as far as marketing has noted it and this caller may know. Of one about
        which nobody says anything there is an empty list: left out, it would look as if nobody had been asked."""
        effects: dict[str, Sequence[Mapping[str, Any]]] = {}
        for statement in statements:
            if statement.type in RESTRICTIVE:
                effects[statement.id] = []
                try:
                    answer = await self.others.marketing.get(
                        f"/marketing/effects/{statement.id}", headers={"Authorization": authorization}
                    )
                except (Refused, Unavailable):
                    continue
                if answer.status != _ACCEPTED:
                    noted = answer.json()
                    effect = {name: noted[name] for name in ("applied_at", "in_transmission")}
                    effects[statement.id] = [{"system": "marketing", **effect}]
        return effects

    async def _keys(
        self, asked: Opening, statements: Sequence[Statement], attachments: Mapping[str, bytes], authorization: str
    ) -> list[dict[str, str]]:
        """The keys of what is in the bundle; none if subjects has destroyed them, and the bundle then says so."""
        items = [
            {"statement": statement.id, "compartment": part.compartment}
            for statement in statements
            for part in sealed_parts(statement)
            if part.ciphertext is not None or part.attachment in attachments
        ]
        keys: list[dict[str, str]] = []
        # Asked even if there is nothing to open: the words of the reason are kept there and nowhere else.
        for start in range(0, max(1, len(items)), _DISCLOSED_AT_ONCE):
            body = {"subject": asked.subject, "scope": "evidence", "reason": asked.reason}
            try:
                answer = await self.others.subjects.post(
                    "/subjects/disclose",
                    json={**body, "items": items[start : start + _DISCLOSED_AT_ONCE]},
                    timeout=_CALL_SECONDS,
                    headers={"Authorization": authorization},
                )
            except Refused as refused:
                if refused.code == "erased-subject":
                    return []
                raise
            keys += [
                {name: str(one[name]) for name in ("statement", "compartment", "key")} for one in answer.json()["keys"]
            ]
        return keys


def router(evidence: Evidence) -> APIRouter:
    """POST /ledger/evidence."""
    routes = APIRouter(prefix="/ledger")

    @routes.post("/evidence")
    @door(
        takes={JSON: Opening},
        answers={200: Answer("The evidence, in the shape that was asked for.", {ZIP: bytes, PDF: bytes, HTML: str})},
        refuses={
            403: "The credential has no grant, or none for this role, or the register does not name the role.",
            404: "Nothing is recorded of this subject about this purpose and channel.",
            410: "This subject is erased, and its record has begun to end.",
            422: "A part of what is recorded contradicts itself.",
        },
    )
    async def opened(request: Request, caller: Annotated[str, Depends(needs("ledger.evidence"))]) -> Response:
        """The evidence of one consent as one file
        Who asked in which role, and why, is recorded before it is handed out (RecordAccessed)."""
        asked = await json_body(request, Opening)
        if asked.role not in evidence.register.evidence_roles:
            raise Refused(
                "role-may-not-open-evidence",
                "The register does not name this role as one that opens evidence.",
                status=403,
            )
        # The role is the credential's, not a word that the asker chooses.
        request.app.state.access.allow(request.headers["authorization"], f"ledger.evidence.{asked.role}")
        content = await evidence.open(asked, caller, request.headers["authorization"])
        # The name says nothing about whom: it ends up in logs of browsers and folders of downloads.
        headers = {**_HEADERS, "Content-Disposition": f'attachment; filename="evidence.{asked.shape}"'}
        return Response(content, media_type=_MEDIA_TYPES[asked.shape], headers=headers)

    return routes
