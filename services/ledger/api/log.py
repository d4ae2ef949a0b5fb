"""The ledger's front door: the log as C2SP tlog-tiles, records for followers, what is sealed, attachments, rejects."""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.convertors import Convertor, register_url_convertor
from typing_extensions import TypedDict

from services.ledger import store
from services.ledger.log.tiles import entry_bundle, parse_tile_path
from services.ledger.log.tree import TILE_HEIGHT, TILE_WIDTH
from services.ledger.log_keys import known_keys, vkey_of
from services.ledger.payloads import Payloads
from services.ledger.stored_tree import StoredHashes, leaves
from shared.access import needs, open_to_everyone
from shared.clock import Clock, rfc3339
from shared.database import Database, Signal
from shared.errors import Refused
from shared.events.types import Decimal, Hash, Time
from shared.identifiers import SOURCE_PATTERN
from shared.openapi import OCTETS, TEXT, Answer, door, json

RECORDS_AT_ONCE: Final = 1000
SEQUENCES_AT_ONCE: Final = 10_000
LONGEST_WAIT: Final = 30.0
MAX_ATTACHMENT: Final = 10 * 1024 * 1024
REJECTS_SHOWN: Final = 1000
FRESH_WITHIN_SECONDS: Final = 10.0
SEES_EVERY_SOURCE: Final = frozenset({"operator", "demo"})

_FOR_EVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
A_MOMENT: Final = {"Cache-Control": "public, max-age=1"}
NO_LOG: Final = {404: "There is no log of this shard."}
_NEVER: Final = {"Cache-Control": "no-store"}
_HASH: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_SOURCE: Final = re.compile(SOURCE_PATTERN + r"\Z", re.ASCII)

Records = TypedDict("Records", {"shard": int, "from": Decimal, "size": Decimal, "records": list[str]})
Records.__doc__ = "Values of consent.recorded in index order, each in base64; `size` is how far the log is sealed."


class SealedShard(TypedDict):
    """Every sequence of the source up to this one is sealed."""

    shard: int
    sealed: Decimal


class RejectedSequence(TypedDict):
    """A sequence that arrived and was not recorded."""

    shard: int
    sequence: Decimal
    id: str | None
    reason: str


class OvertakenSequence(TypedDict):
    """A sequence that was recorded without effect: a later word stood already."""

    shard: int
    sequence: Decimal
    id: str
    index: Decimal


class SealedAnswer(TypedDict):
    """How far a source is sealed, and every exception up to there."""

    shards: list[SealedShard]
    rejected: list[RejectedSequence]
    overtaken: list[OvertakenSequence]


class StoredAttachment(TypedDict):
    """What was stored."""

    hash: Hash
    size: int


class RejectedMessage(TypedDict):
    """A message that could not be recorded, without its bytes."""

    number: int
    shard: int
    stated_offset: Decimal | None
    source: str | None
    sequence: Decimal | None
    statement_id: str | None
    reason: str
    statement_hash: Hash
    statement_size: int
    times: int
    first_at: Time
    last_at: Time


class RejectedAnswer(TypedDict):
    """The newest thousand that nobody has dealt with."""

    rejected: list[RejectedMessage]


class Incident(TypedDict):
    """Something a person should look at."""

    number: int
    shard: int
    kind: str
    about: str
    detail: str
    opened_at: Time


class IncidentsAnswer(TypedDict):
    """Every open incident, oldest first."""

    incidents: list[Incident]


U63 = Annotated[int, Query(ge=0, le=2**63 - 1)]


@dataclass(frozen=True)
class Log:
    """One log as it is served; its name and keys never change."""

    shard: int
    origin: str
    vkey: str
    fresh_vkey: str
    hashes: StoredHashes
    payloads: Payloads


@dataclass(frozen=True)
class Parts:
    """What the routes work with."""

    db: Database
    keks: Mapping[int, bytes]
    sealed: Signal
    clock: Clock
    logs: dict[int, Log] = field(default_factory=dict)

    async def log(self, shard: int) -> Log:
        """A log by its shard; Refused 404 if there is none."""
        if shard not in self.logs:
            # Looked up again, because a log may have been created since.
            for row in await store.logs(self.db):
                self.logs.setdefault(
                    row["shard"],
                    Log(
                        row["shard"],
                        row["origin"],
                        row["vkey"],
                        row["fresh_vkey"],
                        StoredHashes(self.db, row["shard"]),
                        Payloads(row["shard"], self.keks),
                    ),
                )
        if shard not in self.logs:
            raise Refused("no-such-log", "There is no log of this shard.", status=404)
        return self.logs[shard]


class _ShardInPath(Convertor[int]):
    """A shard as C2SP clients and the log's origin write it: one spelling only, so that a cache keeps one copy."""

    regex = "0|[1-9][0-9]{0,8}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("shard", _ShardInPath())


def _no_such_tile() -> Refused:
    return Refused("no-such-tile", "The log's newest checkpoint does not cover this.", status=404)


def _checkpoint_routes(router: APIRouter, parts: Parts) -> None:
    prefix = "/ledger/log/{shard:shard}"

    @router.get(f"{prefix}/checkpoint", dependencies=[Depends(open_to_everyone)])
    @door(answers={200: Answer("A C2SP signed note with its fresh line.", {TEXT: str})}, refuses=NO_LOG)
    async def checkpoint(shard: int) -> Response:
        """The log's newest checkpoint."""
        served = await store.served_checkpoint(parts.db, (await parts.log(shard)).shard)
        if served is None:
            raise Refused("no-such-log", "There is no log of this shard.", status=404)
        return PlainTextResponse(served[1], headers=A_MOMENT)

    @router.get(f"{prefix}/vkey", dependencies=[Depends(open_to_everyone)])
    @door(answers={200: Answer("A C2SP verifier key, one line.", {TEXT: str})}, refuses=NO_LOG)
    async def vkey(shard: int) -> Response:
        """The newest key that has signed the log's newest checkpoint."""
        keys = await known_keys(parts.db, (await parts.log(shard)).shard)
        return PlainTextResponse(vkey_of(keys, await store.sealed_size(parts.db, shard)) + "\n", headers=_NEVER)

    @router.get(f"{prefix}/fresh-vkey", dependencies=[Depends(open_to_everyone)])
    @door(answers={200: Answer("A C2SP verifier key, one line.", {TEXT: str})}, refuses=NO_LOG)
    async def fresh_vkey(shard: int) -> Response:
        """The key that says how fresh a checkpoint is."""
        return PlainTextResponse((await parts.log(shard)).fresh_vkey + "\n", headers=_NEVER)

    @router.get(f"{prefix}/tile/{{path:path}}", dependencies=[Depends(open_to_everyone)])
    @door(
        answers={200: Answer("A tile of hashes, or a bundle of entries.", {OCTETS: bytes})},
        refuses={404: "There is no log of this shard, or its newest checkpoint does not cover this."},
    )
    async def tile(shard: int, path: str) -> Response:
        """A resource of C2SP tlog-tiles
        `path` is `<L>/<N>[.p/<W>]` or `entries/<N>[.p/<W>]`; its slashes are not escaped."""
        log = await parts.log(shard)
        try:
            level, n, width = parse_tile_path(f"tile/{path}")
        except ValueError:
            raise _no_such_tile() from None
        # Any width that some checkpoint ended with is a beginning of what is there now.
        sealed = await store.sealed_size(parts.db, shard)
        have = (sealed >> TILE_HEIGHT * (level or 0)) - n * TILE_WIDTH
        if width > have:
            raise _no_such_tile()
        if level is None:
            start = n * TILE_WIDTH
            content = entry_bundle(await leaves(parts.db, shard, start, start + width))
        else:
            content = await log.hashes(level, n, width)
        return Response(content, media_type="application/octet-stream", headers=_FOR_EVER)


def _record_routes(router: APIRouter, parts: Parts) -> None:
    @router.get("/ledger/records", dependencies=[Depends(needs("ledger.records"))])
    @door(answers={200: json("What is sealed of the range, at most 1000.", Records)}, refuses=NO_LOG)
    async def records(
        shard: Annotated[int, Query(ge=0)],
        start: Annotated[int, Query(alias="from", ge=0, le=2**63 - 1)],
        limit: Annotated[int, Query(ge=1)] = RECORDS_AT_ONCE,
    ) -> Response:
        """What is recorded, for followers."""
        log = await parts.log(shard)
        size = await store.sealed_size(parts.db, shard)
        end = min(size, start + min(limit, RECORDS_AT_ONCE))
        values = await log.payloads.recorded(parts.db, start, end) if start < end else []
        return JSONResponse(
            {
                "shard": shard,
                "from": str(start),
                "size": str(size),
                "records": [base64.b64encode(value.encode()).decode("ascii") for value in values],
            }
        )

    @router.get("/ledger/sources/{source}/sealed")
    @door(
        answers={200: json("How far it is.", SealedAnswer)},
        refuses={403: "The credential is not this source's.", 404: "There is no such source, or no log of this shard."},
    )
    async def sealed(
        source: str,
        caller: Annotated[str, Depends(needs("ledger.sealed"))],
        shard: Annotated[int | None, Query(ge=0)] = None,
        above: U63 = 0,
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 0,
    ) -> Response:
        """How far a source's statements are sealed, and what was rejected or overtaken
        With `wait`, answers as soon as more than `above` is sealed."""
        if not _SOURCE.match(source):
            raise Refused("no-such-source", "This is no source's name.", status=404)
        if caller != source and caller not in SEES_EVERY_SOURCE:
            raise Refused("not-your-source", "A source sees only its own statements here.", status=403)
        if shard is not None:
            await parts.log(shard)
        until = monotonic() + wait
        while True:
            seen = parts.sealed.changed
            answer = await _sealed(parts, source, shard, above)
            left = until - monotonic()
            if left <= 0 or any(int(one["sealed"]) > above for one in answer["shards"]):
                return JSONResponse(answer)
            await parts.sealed.wait(left, since=seen)


async def _sealed(parts: Parts, source: str, shard: int | None, above: int) -> dict[str, Sequence[dict[str, Any]]]:
    shards: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    overtaken: list[dict[str, Any]] = []
    for number, contiguous in (await store.sealed_sequences(parts.db, source)).items():
        if shard not in {None, number}:
            continue
        # Whoever reads "sealed up to here" takes all that is not listed as recorded: so list all, or say less.
        upto = min(contiguous, above + SEQUENCES_AT_ONCE)
        shards.append({"shard": number, "sealed": str(upto)})
        if upto <= above:
            continue
        rejected += [
            {"shard": number, "sequence": str(row["sequence"]), "id": row["id"], "reason": row["reason"]}
            for row in await store.rejected_between(parts.db, number, source, above, upto)
        ]
        overtaken += [
            {"shard": number, "sequence": str(row["sequence"]), "id": row["id"], "index": str(row["index"])}
            for row in await store.overtaken_between(parts.db, number, source, above, upto)
        ]
    return {"shards": shards, "rejected": rejected, "overtaken": overtaken}


def _attachment_routes(router: APIRouter, parts: Parts) -> None:
    allowed = [Depends(needs("ledger.attachments"))]

    @router.put("/ledger/attachments/{digest}", dependencies=allowed, max_body_size=MAX_ATTACHMENT)
    @door(
        takes={OCTETS: bytes},
        answers={200: json("It is stored, now or before.", StoredAttachment)},
        refuses={422: "The content does not have this SHA-256."},
    )
    async def put_attachment(digest: str, request: Request) -> Response:
        """Store a ciphertext under its SHA-256, 64 lower-case hex digits. Idempotent."""
        if not _HASH.match(digest):
            raise Refused("not-a-hash", "The address ends in the SHA-256 of the content, 64 lower-case hex digits.")
        content = await request.body()
        computed = hashlib.sha256(content).digest()
        if not hmac.compare_digest(computed.hex(), digest):
            raise Refused("hash-differs", "The content does not have this SHA-256. Send it again.", status=422)
        await store.add_attachment(parts.db, computed, content)
        return JSONResponse({"hash": digest, "size": len(content)}, 200)

    @router.get("/ledger/attachments/{digest}", dependencies=allowed)
    @door(
        answers={200: Answer("The ciphertext.", {OCTETS: bytes})},
        refuses={404: "There is no attachment with this hash."},
    )
    async def get_attachment(digest: str) -> Response:
        """The ciphertext with this SHA-256."""
        content = await store.attachment(parts.db, bytes.fromhex(digest)) if _HASH.match(digest) else None
        if content is None:
            raise Refused("no-such-attachment", "There is no attachment with this hash.", status=404)
        return Response(content, media_type="application/octet-stream", headers=_NEVER)


def _operator_routes(router: APIRouter, parts: Parts) -> None:
    allowed = [Depends(needs("ledger.rejected"))]

    @router.get("/ledger/rejected", dependencies=allowed)
    @door(answers={200: json("Messages, newest first.", RejectedAnswer)})
    async def rejected() -> Response:
        """What could not be recorded and nobody has dealt with."""
        rows = await store.unhandled_rejects(parts.db, REJECTS_SHOWN)
        return JSONResponse({"rejected": [reject_facts(dict(row)) for row in rows]}, headers=_NEVER)

    @router.get("/ledger/incidents", dependencies=allowed)
    @door(answers={200: json("Incidents.", IncidentsAnswer)})
    async def incidents() -> Response:
        """What a person should look at."""
        found = [incident_facts(dict(row)) for row in await store.incidents(parts.db)]
        return JSONResponse({"incidents": found}, headers=_NEVER)


def reject_facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """A rejected message as people and programs see it, in JSON's own types."""
    facts = dict(row) | {name: rfc3339(row[name]) for name in ("first_at", "last_at")}
    return facts | {name: None if row[name] is None else str(row[name]) for name in ("sequence", "stated_offset")}


def incident_facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """An open incident as people and programs see it, in JSON's own types."""
    return dict(row) | {"opened_at": rfc3339(row["opened_at"])}


async def ready(parts: Parts) -> dict[str, bool | str]:
    """The ledger's state as /ledger/health/ready gives it: green only if nothing waits for a person."""
    troubles = await store.troubles(parts.db)
    age = None if troubles["fresh_at"] is None else (parts.clock() - troubles["fresh_at"]).total_seconds()
    return {
        "postgresql": True,
        "log": "no log was created" if age is None else True,
        "signer": True if age is None or age < FRESH_WITHIN_SECONDS else f"no fresh checkpoint for {age:.0f} s",
        "incidents": True if not troubles["incidents"] else f"{troubles['incidents']} open",
        "rejected": True if not troubles["rejected"] else f"{troubles['rejected']} not handled",
    }


def router(parts: Parts) -> APIRouter:
    """Every route of this file."""
    routes = APIRouter()
    _checkpoint_routes(routes, parts)
    _record_routes(routes, parts)
    _attachment_routes(routes, parts)
    _operator_routes(routes, parts)
    return routes
