"""The door for teams without Kafka: a statement travels on consent.stated like any other, and is answered when sealed.

Nothing is kept here. Until the answer is 201 the caller's copy is the only one that counts, so it is sent again, and
a repetition is dropped by the appender as everybody's are. If we stop on any line below, nobody was promised anything.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from time import monotonic
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from typing_extensions import TypedDict

from services.ledger import store
from services.ledger.api.log import LONGEST_WAIT, Parts
from shared.access import needs
from shared.database import Database
from shared.errors import Refused
from shared.events import Malformed, Statement, parse
from shared.events.types import Decimal, Uuid7
from shared.identifiers import shard_of
from shared.kafka import Outgoing, Producer
from shared.openapi import JSON, Answer, json
from shared.openapi import door as door_of
from shared.together import Together
from shared.wire import stated_headers, stated_mac

UNCOUNTED: Final = 0
"""The sequence of what is stated over HTTP or played again: no relay numbers it, so it leaves no gap."""
USUAL_WAIT: Final = 2.0
AGAIN_SECONDS: Final = 2

_ID_REUSED: Final = "id-reused"
_AT_ONCE: Final = 500


class Acknowledgement(TypedDict):
    """Where the statement stands. Overtaken: it is recorded without effect, a later word stood already."""

    id: Uuid7
    shard: int
    index: Decimal
    result: Literal["recorded", "overtaken"]


class NotYet(TypedDict):
    """Nothing is promised about this statement yet."""

    id: Uuid7
    message: str


CLOUDEVENT: Final = "application/cloudevents+json"
NOT_YET: Final = Answer(
    "It is not sealed yet. Keep your copy and send it again.",
    {JSON: NotYet},
    {"Retry-After": "Seconds after which to send it again."},
)


class Voice:
    """A source that states over HTTP, as we speak for it: its newest key with the id, its own login to the brokers.
    The MAC is ours, the credential was the caller's."""

    def __init__(self, key: tuple[str, bytes], producer: Producer) -> None:
        self.key = key
        self.producer = producer
        self.send = Together[Outgoing, None](self._send, most=_AT_ONCE)

    async def _send(self, messages: Sequence[Outgoing]) -> Sequence[None]:
        await self.producer.send_many(messages)
        return [None] * len(messages)


class Door:
    """Everybody who states over HTTP, by name, and where to."""

    def __init__(self, db: Database, topic: str, voices: Mapping[str, Voice]) -> None:
        self.topic = topic
        self.voices = voices
        self.look = Together[store.Name, store.Verdict](partial(store.verdicts, db), most=_AT_ONCE)


def uncounted(topic: str, origin: str, key: tuple[str, bytes], statement: Statement, raw: bytes) -> Outgoing:
    """A statement as it goes on consent.stated in the name of the source whose key this is."""
    headers = stated_headers("statement", UNCOUNTED, key[0], stated_mac(key[1], origin, UNCOUNTED, raw))
    return Outgoing(topic, shard_of(statement.subject), statement.subject.encode("ascii"), raw, headers)


def _read(raw: bytes, caller: str) -> Statement:
    """As much of the statement as says whose it is and where it goes. All else is for the appender to judge."""
    try:
        statement = parse(raw)
    except Malformed as malformed:
        raise Refused(
            "malformed-statement",
            "This is not a statement of a known type. See `reason` and `field`; nothing was recorded.",
            status=413 if malformed.reason == "too-large" else 400,
            reason=malformed.reason,
            field=malformed.field,
        ) from None
    if statement.source != caller:
        raise Refused("not-your-source", "A caller states in its own name: `source` is the credential's.", status=403)
    return statement


def _is_sealed(found: store.Verdict, before: store.Verdict, statement: Statement) -> bool:
    """Whether it is by now; Refused if it never will be. Rejected before we sent it means nothing: the cause may be
    mended."""
    if found.same and found.sealed:
        return True
    if found.rejections <= before.rejections or found.same:
        return False
    if found.reason == _ID_REUSED:
        raise Refused(
            "id-reused",
            "Another statement has this id. A statement is never changed: give the new one an id of its own.",
            status=409,
            id=statement.id,
        )
    raise Refused(
        "rejected",
        "The ledger cannot record this; `reason` says why. Its operator sees it, too, and can play it again.",
        status=422,
        id=statement.id,
        reason=found.reason,
    )


async def state(
    parts: Parts, door: Door, voice: Voice, statement: Statement, raw: bytes, wait: float
) -> store.Verdict | None:
    """Put a statement on the topic, unless it is recorded already, and wait until it is sealed: where it stands, or
    None if it is not sealed within `wait` seconds. Refused if it cannot be recorded."""
    name = store.Name(shard_of(statement.subject), statement.source, statement.id, sha256(raw).digest())
    log = await parts.log(name.shard)
    until, seen = monotonic() + wait, parts.sealed.changed
    found = before = await door.look.ask(name)
    if not found.same:
        await voice.send.ask(uncounted(door.topic, log.origin, voice.key, statement, raw))
    while not _is_sealed(found, before, statement):
        left = until - monotonic()
        if left <= 0:
            return None
        await parts.sealed.wait(left, since=seen)
        seen = parts.sealed.changed
        found = await door.look.ask(name)
    return found


def router(parts: Parts, door: Door) -> APIRouter:
    """The one route of this file."""
    routes = APIRouter()

    @routes.post("/ledger/statements", status_code=201)
    @door_of(
        takes={CLOUDEVENT: Statement},
        answers={201: json("It is sealed.", Acknowledgement), 202: NOT_YET},
        refuses={
            403: "The credential has no grant, is not a source that states over HTTP, or not the one in the statement.",
            404: "There is no log of this subject's shard.",
            409: "Another statement has this id.",
            422: "It cannot be recorded; `reason` says why.",
        },
    )
    async def state_fact(
        request: Request,
        caller: Annotated[str, Depends(needs("ledger.statements"))],
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = USUAL_WAIT,
    ) -> Response:
        """State a fact: the body is one statement, and its bytes are what is hashed
        202: it is not sealed yet; keep your copy and send it again. Sending it again is always safe.
        `wait` is how many seconds the answer may take."""
        voice = door.voices.get(caller)
        if voice is None:
            raise Refused(
                "not-over-http", "The register does not name this caller as one that states over HTTP.", status=403
            )
        raw = await request.body()
        statement = _read(raw, caller)
        found = await state(parts, door, voice, statement, raw, wait)
        if found is None:
            return _not_yet(statement)
        facts: Acknowledgement = {
            "id": statement.id,
            "shard": shard_of(statement.subject),
            "index": str(found.index),
            "result": "overtaken" if found.overtaken else "recorded",
        }
        return JSONResponse(facts, 201)

    return routes


def _not_yet(statement: Statement) -> Response:
    facts: NotYet = {
        "id": statement.id,
        "message": "Not sealed yet. Keep your copy and send it again until the answer is 201.",
    }
    return JSONResponse(facts, 202, headers={"Retry-After": str(AGAIN_SECONDS)})
