"""The front door: seal, open, disclose. It reads strictly, calls one handler, and answers in base64url and hex."""

import base64
import binascii
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, JsonValue, StringConstraints
from typing_extensions import TypedDict

from services.subjects import domain, handlers
from services.subjects.handlers import Ciphertext, Parts, Plaintext, Sealed, Suppressed
from shared.access import needs
from shared.contact_points import parse_email
from shared.errors import Refused
from shared.events.types import Hash, Name, Strict, Subject, Uuid7
from shared.metrics import Metrics
from shared.openapi import JSON, door, json
from shared.web import json_body

# A statement has 32 KiB and base64url makes three bytes four; a mail that waits is larger; an attachment's
# ciphertext has at most 10 MiB.
_LARGEST: Final = {"evidence": 16 * 1024, "brief": 512 * 1024, "attachment": 10 * 1024 * 1024 - 28}
_SEAL_BODY: Final = 15 * 1024 * 1024
_OPEN_BODY: Final = 2 * 1024 * 1024
_DISCLOSE_BODY: Final = 256 * 1024

Encoded = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]*$")]
Compartment = Annotated[str, StringConstraints(pattern=r"^(evidence|brief|attachment/[0-9])$")]
Disclosable = Annotated[str, StringConstraints(pattern=r"^(evidence|attachment/[0-9])$")]
# Why, in the caller's words, kept with the disclosure: no place for an address.
Reason = Annotated[str, StringConstraints(pattern=r"^[^@\x00-\x1f\x7f]{3,200}$")]


class Identifier(Strict):
    """A contact point as somebody typed it."""

    kind: Literal["email"]
    value: Annotated[str, StringConstraints(max_length=1000)] = Field(repr=False)


class ItemToSeal(Strict):
    """The fields of a compartment, or the bytes of an attachment."""

    statement: Uuid7
    compartment: Compartment
    fields: dict[Annotated[str, StringConstraints(max_length=100)], JsonValue] | None = Field(default=None, repr=False)
    content: Encoded | None = Field(default=None, repr=False)


class SealRequest(Strict):
    """For whom (an identifier, or a subject known already) and what."""

    controller: Name
    identifier: Identifier | None = None
    subject: Subject | None = None
    items: Annotated[list[ItemToSeal], Field(max_length=32)]


class AskToSeal(Strict):
    """For whom and what: a contact point each."""

    identifier: Identifier
    items: Annotated[list[ItemToSeal], Field(min_length=1, max_length=32)]


class SealRequests(Strict):
    """Many at once."""

    controller: Name
    asks: Annotated[list[AskToSeal], Field(min_length=1, max_length=100)]


class ItemToOpen(Strict):
    """A brief and the hash that commits to its key."""

    statement: Uuid7
    compartment: Literal["brief"]
    ciphertext: Encoded
    key_hash: Hash


class OpenRequest(Strict):
    """For which purpose a contact point is about to be used, and why."""

    subject: Subject
    scope: Literal["transactional", "advertising"]
    purpose: Name
    channel: Name
    reason: Reason
    items: Annotated[list[ItemToOpen], Field(max_length=32)] = Field(default_factory=list)


class ItemToDisclose(Strict):
    """One compartment of one statement."""

    statement: Uuid7
    compartment: Disclosable


class DiscloseRequest(Strict):
    """Which compartments evidence needs to open, and why; none, to have the reason kept where nothing can be opened."""

    subject: Subject
    scope: Name
    reason: Reason
    items: Annotated[list[ItemToDisclose], Field(max_length=1000)]


class FindRequest(Strict):
    """A contact point as its holder wrote it, say in a letter."""

    controller: Name
    identifier: Identifier


class Found(TypedDict):
    """The pseudonym."""

    subject: Subject


class SealedItem(TypedDict):
    """One compartment: base64url of nonce 12 || ciphertext || tag 16, and the hash that commits to its key."""

    statement: Uuid7
    compartment: Compartment
    ciphertext: Encoded
    key_hash: Hash


class SealAnswer(TypedDict):
    """The pseudonym, and what was sealed, in the order in which it was asked."""

    subject: Subject
    items: list[SealedItem]


class SealAnswers(TypedDict):
    """One for each; null where it is refused, and asked for alone it says why."""

    answers: list[SealAnswer | None]


class Contact(TypedDict):
    """Where to write to, as it was typed."""

    kind: Literal["email"]
    typed: str


class OpenedItem(TypedDict):
    """The fields of one brief."""

    fields: dict[str, JsonValue]


class OpenAnswer(TypedDict):
    """Where to write to, and the briefs in the order in which they were sent."""

    contact: Contact
    items: list[OpenedItem]


class DisclosedKey(TypedDict):
    """The key of one compartment of one statement, base64url."""

    statement: Uuid7
    compartment: Disclosable
    key: Encoded


class DiscloseAnswer(TypedDict):
    """The keys, in the order in which they were asked."""

    keys: list[DisclosedKey]


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def decode(text: str) -> bytes:
    """Only the canonical spelling; Refused otherwise."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        raw = b""
    if encode(raw) != text:
        raise Refused("not-base64url", "Bytes are written in base64url without padding.")
    return raw


def _plaintext(item: ItemToSeal) -> Plaintext:
    kind = item.compartment.split("/", 1)[0]
    if kind == "attachment" and item.content is not None and item.fields is None:
        content = decode(item.content)
    elif kind != "attachment" and item.fields is not None and item.content is None:
        content = domain.encode_fields(item.fields)
    else:
        raise Refused("invalid-item", "An attachment has `content`, every other compartment has `fields`.")
    if len(content) > _LARGEST[kind]:
        raise Refused("too-large", "This compartment is too large.", status=413, limit=_LARGEST[kind])
    return Plaintext(item.statement, item.compartment, content)


def router(parts: Parts, metrics: Metrics) -> APIRouter:
    """Routes under /subjects."""
    routes = APIRouter(prefix="/subjects")
    sealed_items = metrics.counter("sealed", "Compartments sealed or answered again", ("compartment",))
    opened_subjects = metrics.counter("opened", "Contact points opened", ("scope", "outcome"))
    disclosed_keys = metrics.counter("disclosed", "Compartment keys disclosed", ("scope",))

    def answer(sealed: tuple[str, list[Sealed]]) -> SealAnswer:
        subject, items = sealed
        for item in items:
            sealed_items.labels(item.compartment.split("/", 1)[0]).inc()
        return {
            "subject": subject,
            "items": [
                {
                    "statement": item.statement,
                    "compartment": item.compartment,
                    "ciphertext": encode(item.ciphertext),
                    "key_hash": item.key_hash.hex(),
                }
                for item in items
            ],
        }

    @routes.post("/seal", dependencies=[Depends(needs("subjects.seal"))], max_body_size=_SEAL_BODY)
    @door(
        takes={JSON: SealRequest},
        answers={200: json("Sealed, or sealed before and answered again.", SealAnswer)},
        refuses={
            404: "There is no such subject.",
            409: "This compartment of this statement was sealed before, with other content.",
            410: "This subject is erased.",
        },
    )
    async def seal(request: Request) -> Response:
        """The pseudonym of a contact point, and a ciphertext with its key's hash per item. Idempotent."""
        body = await json_body(request, SealRequest)
        if (body.identifier is None) == (body.subject is None):
            raise Refused("invalid-body", "Name either an identifier or a subject.")
        whom = parse_email(body.identifier.value) if body.identifier is not None else str(body.subject)
        plaintexts = [_plaintext(item) for item in body.items]
        return JSONResponse(answer(await handlers.seal(parts, body.controller, whom, plaintexts)))

    @routes.post("/seal/several", dependencies=[Depends(needs("subjects.seal"))], max_body_size=_SEAL_BODY)
    @door(
        takes={JSON: SealRequests},
        answers={200: json("An answer for each, in their order.", SealAnswers)},
    )
    async def seal_several(request: Request) -> Response:
        """As `seal`, for several people at once. Idempotent."""
        body = await json_body(request, SealRequests)
        asks = [(parse_email(ask.identifier.value), [_plaintext(item) for item in ask.items]) for ask in body.asks]
        sealed = await handlers.seal_several(parts, body.controller, asks)
        return JSONResponse({"answers": [None if one is None else answer(one) for one in sealed]})

    @routes.post("/open", dependencies=[Depends(needs("subjects.open"))], max_body_size=_OPEN_BODY)
    @door(
        takes={JSON: OpenRequest},
        answers={200: json("Opened.", OpenAnswer)},
        refuses={
            403: "The credential has no grant for this, or the contact point must not be used for this purpose.",
            404: "There is no such subject.",
            410: "This subject is erased.",
            422: "A ciphertext was not sealed for this subject and statement.",
        },
    )
    async def open_(request: Request) -> Response:
        """Where to write to for a purpose, and the fields of briefs that wait to be sent there."""
        body = await json_body(request, OpenRequest)
        briefs = [
            Ciphertext(item.statement, decode(item.ciphertext), bytes.fromhex(item.key_hash)) for item in body.items
        ]
        advertising = (body.purpose, body.channel) if body.scope == "advertising" else None
        try:
            opened = await handlers.open_subject(parts, body.subject, briefs, advertising)
        except Suppressed:
            opened_subjects.labels(body.scope, "suppressed").inc()
            raise
        opened_subjects.labels(body.scope, "opened").inc()
        return JSONResponse(
            {
                "contact": {"kind": opened.contact["kind"], "typed": opened.contact["typed"]},
                "items": [{"fields": domain.decode_fields(brief)} for brief in opened.briefs],
            }
        )

    @routes.post("/find", dependencies=[Depends(needs("subjects.find"))])
    @door(
        takes={JSON: FindRequest},
        answers={200: json("It is known.", Found)},
        refuses={404: "It is not known, or not any more."},
    )
    async def find(request: Request) -> Response:
        """The pseudonym of somebody who asks for their rights. Nothing is made, and nothing opened."""
        body = await json_body(request, FindRequest)
        subject = await handlers.find(parts, body.controller, parse_email(body.identifier.value))
        return JSONResponse({"subject": subject}, headers={"Cache-Control": "no-store"})

    @routes.post("/disclose", max_body_size=_DISCLOSE_BODY)
    @door(
        takes={JSON: DiscloseRequest},
        answers={200: json("The keys.", DiscloseAnswer)},
        refuses={404: "There is no such subject or compartment.", 410: "This subject is erased."},
    )
    async def disclose(request: Request, caller: Annotated[str, Depends(needs("subjects.disclose"))]) -> Response:
        """The keys of single compartments, for evidence. Each disclosure is kept."""
        body = await json_body(request, DiscloseRequest)
        items = [(item.statement, item.compartment) for item in body.items]
        keys = await handlers.disclose(parts, caller, body.subject, body.scope, body.reason, items)
        disclosed_keys.labels(body.scope).inc(len(keys))
        return JSONResponse(
            {
                "keys": [
                    {"statement": statement, "compartment": name, "key": encode(key)}
                    for (statement, name), key in zip(items, keys, strict=True)
                ]
            }
        )

    return routes
