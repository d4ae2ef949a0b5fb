"""`log audit`: an outsider's replay of a log over HTTP, with nothing but its address and its key.

Needs no settings, no secrets and no database of ours: what it knows of the log is what anybody is served. What is
judged is judged by the reader (services/ledger/reader/audit.py); here it is fetched.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.reader.audit import MAX_ENTRIES, MAX_TILE, Audit, Fork, Tile, check_tile
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import (
    NOTE_LIMIT,
    VKEY_LIMIT,
    CosignatureSigner,
    CosignatureVerifier,
    Verifier,
    parse_note,
)
from services.ledger.reader.policy import NO_QUORUM, Policy, Witnessed, format_log_keys, parse_log_keys, parse_policy
from services.ledger.reader.strict import moment
from shared.backoff import Backoff
from shared.errors import Refused, Unavailable

HOLDS: Final = 0
WRONG: Final = 1
NOT_DONE: Final = 2

_AT_ONCE: Final = 8
_TRIES: Final = 8
_SECONDS: Final = 30
_SAVE_SECONDS: Final = 300.0
_TELL_SECONDS: Final = 1.0
_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be audited, and what is given for it."""

    url: str
    trusted: Policy | None = None
    """The log's keys, and witnesses if their cosignatures are demanded; None or no keys: those that the log serves."""
    position: Path | None = None
    cosigner: CosignatureSigner | None = None


@dataclass(slots=True)
class Outcome:
    """What an audit has found."""

    origin: str = ""
    size: int = 0
    root: str = ""
    before: int = 0
    """The size that an earlier audit had reached."""
    labels: int = 0
    fresh_at: int | None = None
    vkeys: str = ""
    compared: bool = False
    cosigned_at: Mapping[str, int] = field(default_factory=dict)
    """By name of the witness, in seconds since 1970."""
    cosigned_size: int = 0
    """Of the checkpoint on which that was demanded and found."""
    not_judged: tuple[str, ...] = ()
    """Keys of which a cosignature is served, and nothing given here says whose they are."""
    cosignature: str = ""
    wrong: str = ""
    index: int | None = None
    notes: tuple[str, ...] = ()
    """The checkpoints that contradict each other, if that is what is wrong."""
    seconds: float = 0.0

    @property
    def status(self) -> int:
        """The exit status."""
        return HOLDS if self.compared and not self.wrong else WRONG


async def audit(request: Request, progress: Callable[[str], None]) -> Outcome:
    """Replay the log up to the checkpoint that it serves now. Unavailable if it does not answer for long; what was
    replayed until then is kept in the position."""
    began, outcome = monotonic(), Outcome()
    async with Served(request.url) as served:
        try:
            await _replay(request, served, outcome, progress)
        except Invalid as invalid:
            outcome.wrong, outcome.index = str(invalid), invalid.index
            if isinstance(invalid, Fork):
                outcome.notes = tuple(note.decode() for note in invalid.notes)
    outcome.seconds = monotonic() - began
    return outcome


async def _replay(request: Request, served: Served, outcome: Outcome, progress: Callable[[str], None]) -> None:
    audited = await _begin(request, served)
    outcome.vkeys, outcome.compared, outcome.before = format_log_keys(audited.keys), audited.compared, audited.size
    cosigned, compared = b"", False
    with suppress(_Missing):  # foreign logs do not serve it, nor do we before enough have cosigned
        # Before the newest, which can only be larger.
        cosigned = await served.get("cosigned", NOTE_LIMIT)
        compared = audited.see_cosigned(cosigned)
    note = await served.get("checkpoint", NOTE_LIMIT)
    checkpoint = audited.see(note)
    outcome.origin, outcome.size, outcome.root = checkpoint.origin, checkpoint.size, checkpoint.root.hex()
    policy = Policy(audited.keys) if request.trusted is None else request.trusted.for_logs(audited.keys)
    witnessed = _witnessed(policy, note, cosigned, compared=compared)
    outcome.cosigned_at, outcome.cosigned_size = witnessed.times, witnessed.checkpoint.size
    known: list[Verifier | CosignatureVerifier] = [Verifier(one.vkey) for one in audited.keys]
    known += [CosignatureVerifier(one.vkey) for one in policy.witnesses]
    with suppress(_Missing):  # foreign logs have no such key
        fresh = CosignatureVerifier((await served.get("fresh-vkey", VKEY_LIMIT)).decode("utf-8", "replace").strip())
        outcome.fresh_at = fresh.verify(parse_note(note))
        known.append(fresh)
    outcome.not_judged = _not_judged({(one.name, one.key_id) for one in known}, note, cosigned)
    # Is it still the log that we replayed? Its tiles say so before anything new is read.
    await _check_tiles(served, audited.partial_tiles())
    try:
        await _take_all(audited, served, request.position, progress)
        await _check_tiles(served, audited.partial_tiles())
    except (Unavailable, asyncio.CancelledError):
        _save(request.position, audited)
        raise
    # Not when something is wrong: the next audit shall find it as well.
    _save(request.position, audited)
    outcome.labels = len(audited.replica.map)
    if request.cosigner is not None:
        # The position is on the disk: we never cosign a second history (C2SP tlog-cosignature).
        outcome.cosignature = request.cosigner.sign(checkpoint.text(), int(time())).decode()


def _witnessed(policy: Policy, note: bytes, cosigned: bytes, *, compared: bool) -> Witnessed:
    """What the newest checkpoint shows that satisfies the policy: that of the log, or, as witnesses are not asked at
    once, the newest that they have cosigned; Invalid if neither does."""
    try:
        return policy.verify(note)
    except Invalid as invalid:
        if not cosigned or invalid.step != NO_QUORUM:
            raise
    witnessed = policy.verify(cosigned)
    if not compared:
        what = f"the newest checkpoint that is cosigned, of {witnessed.checkpoint.size} leaves,"
        raise Invalid("audit", what, "is older than the position, which does not know it: audit without the position")
    return witnessed


def _not_judged(known: set[tuple[str, bytes]], *notes: bytes) -> tuple[str, ...]:
    lines = [one for note in notes if note for one in parse_note(note).signatures]
    return tuple(sorted({f"{one.name}+{one.key_id.hex()}" for one in lines if (one.name, one.key_id) not in known}))


async def _begin(request: Request, served: Served) -> Audit:
    given = () if request.trusted is None else request.trusted.logs
    if request.position is not None and request.position.exists():
        audited = Audit.from_bytes(request.position.read_bytes())
        if given:
            if not {one.vkey for one in given} & {one.vkey for one in audited.keys}:
                message = (
                    "The position is of an audit under another key. Name another file, or the key it was made with."
                )
                raise Refused("other-key", message)
            audited.keys, audited.compared = given, True
        return audited
    if given:
        return Audit(given, compared=True)
    return Audit(parse_log_keys(await served.get("vkey", VKEY_LIMIT)).logs, compared=False)


async def _take_all(audited: Audit, served: Served, position: Path | None, progress: Callable[[str], None]) -> None:
    """Fetch what is ahead, a few bundles at once, and replay it in order."""
    wanted = audited.bundles()
    began, first = monotonic(), audited.size
    told = saved = began
    coming: deque[tuple[int, int, asyncio.Task[tuple[bytes, bytes]]]] = deque()
    try:
        while True:
            while len(coming) < _AT_ONCE and (bundle := next(wanted, None)) is not None:
                start, width, path = bundle
                coming.append((start, width, asyncio.create_task(served.bundle(path, full=width == 256))))
            if not coming:
                break
            start, width, task = coming[0]
            entries, hashes = await task
            coming.popleft()
            for tile in audited.take(start, width, entries):
                check_tile(tile, hashes if tile.level == 0 else await served.get(tile.path, MAX_TILE))
            now = monotonic()
            if now - told > _TELL_SECONDS or not coming:
                told = now
                progress(f"{audited.size} of {audited.target} leaves, {(audited.size - first) / (now - began):.0f}/s")
            if now - saved > _SAVE_SECONDS:
                _save(position, audited)
                saved = monotonic()
    finally:
        for _, _, task in coming:
            task.cancel()
        await asyncio.gather(*(task for _, _, task in coming), return_exceptions=True)


async def _check_tiles(served: Served, tiles: list[Tile]) -> None:
    for tile in tiles:
        check_tile(tile, await served.get(tile.path, MAX_TILE))


def _save(position: Path | None, audited: Audit) -> None:
    if position is None or not audited.size:
        return
    draft = position.with_name(position.name + ".new")
    with draft.open("wb") as file:
        file.write(audited.to_bytes())
        file.flush()
        os.fsync(file.fileno())
    draft.rename(position)


class _Missing(Invalid):
    """The log does not serve it."""


class Served:
    """The resources of one log. Asks again while it is busy or away; what it answers is judged by who asked."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=2 * _AT_ONCE),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None  # noqa: S101 - entered
        await self._session.close()

    async def bundle(self, path: str, *, full: bool) -> tuple[bytes, bytes]:
        """A bundle of entries, and the tile of their hashes if there is one for ever."""
        hashes = self.get(path.replace("entries", "0", 1), MAX_TILE) if full else _nothing()
        entries, served = await asyncio.gather(self.get(path, MAX_ENTRIES), hashes)
        return entries, served

    async def get(self, path: str, limit: int) -> bytes:
        """A resource of the log; Invalid if the log says that there is none, or more than `limit` bytes come."""
        backoff = Backoff(0.25, 30.0)
        for left in range(_TRIES - 1, -1, -1):
            try:
                return await self._get(path, limit)
            except Unavailable as away:
                if not left:
                    raise
                await asyncio.sleep(away.retry_after)
                await backoff.pause()
        raise AssertionError

    async def _get(self, path: str, limit: int) -> bytes:
        assert self._session is not None  # noqa: S101 - entered
        try:
            async with self._session.get(f"{self._url}/{path}", allow_redirects=False) as answer:
                if answer.status >= 500 or answer.status == _TOO_MANY:
                    after = answer.headers.get("retry-after", "")
                    raise Unavailable(self._url, int(after) if after.isdecimal() and len(after) < 3 else 0)
                if answer.status != 200:
                    raise _Missing("audit", path, f"is answered with {answer.status}, and the log must serve it")
                parts, size = [], 0
                async for part in answer.content.iter_any():
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        raise Invalid("audit", path, f"is longer than {limit} bytes")
                return b"".join(parts)
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise Unavailable(self._url, 0) from None


async def _nothing() -> bytes:
    return b""


def log_address(url: str) -> str:
    """The address under which a log is served, without a slash; of a host alone it is our shard 0. Refused if none."""
    parts = urlsplit(url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise Refused("no-address", "This is no address of a log: it looks like https://example.org/ledger/log/0")
    path = parts.path.rstrip("/").removesuffix("/checkpoint") or "/ledger/log/0"
    return f"{parts.scheme}://{parts.netloc}{path}"


def read_trusted(vkey: Path | None, policy: Path | None) -> Policy | None:
    """What was given on the command line: the policy, for the log of the key file if there is one. Refused if it is
    none."""
    try:
        keys = None if vkey is None else parse_log_keys(vkey.read_bytes())
        wanted = None if policy is None else parse_policy(policy.read_bytes())
    except Invalid as invalid:
        raise Refused("no-key", f"{invalid.what} {invalid.why}") from None
    return wanted.for_logs(keys.logs) if keys is not None and wanted is not None else wanted or keys


def cosigner(name: str, file: Path) -> CosignatureSigner:
    """An auditor by its name (an address without scheme) and the file of its key, 32 bytes in hex."""
    try:
        return CosignatureSigner(name, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(file.read_text("ascii"))))
    except (ValueError, UnicodeDecodeError):
        raise Refused("no-key", "The key of a cosigner is a file of 64 hexadecimal digits.") from None
    except Invalid as invalid:
        raise Refused("no-name", f"{invalid.what} {invalid.why}") from None


def main(request: Request, progress: Callable[[str], None], *, as_json: bool) -> int:
    """The command: the outcome on standard output; the exit status."""
    try:
        outcome = asyncio.run(audit(request, progress))
    except (Unavailable, KeyboardInterrupt):
        kept = "; what was replayed is in the position" if request.position is not None else ""
        print(f"consent-ledger: not done: the log does not answer, or you ended it{kept}", file=sys.stderr)
        return NOT_DONE
    except Refused as refused:
        print(f"consent-ledger: {refused.message}", file=sys.stderr)
        return NOT_DONE
    except OSError as error:
        print(f"consent-ledger: {error.filename}: {error.strerror}", file=sys.stderr)
        return NOT_DONE
    print(json.dumps(_facts(outcome)) if as_json else _told(outcome))
    return outcome.status


def _facts(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON (docs/formats.md §1)."""
    facts: dict[str, Any] = {
        "holds": not outcome.wrong,
        "origin": outcome.origin,
        "size": str(outcome.size),
        "root": outcome.root,
        "replayed_from": str(outcome.before),
        "labels": str(outcome.labels),
        "vkeys": outcome.vkeys.splitlines(),
        "key_was_given": outcome.compared,
        "cosigned_at": dict(outcome.cosigned_at),
        "cosigned_size": str(outcome.cosigned_size) if outcome.cosigned_at else None,
        "not_judged": list(outcome.not_judged),
        "seconds": round(outcome.seconds, 3),
    }
    if outcome.fresh_at is not None:
        facts["fresh_at"] = outcome.fresh_at
    if outcome.cosignature:
        facts["cosignature"] = outcome.cosignature
    if outcome.wrong:
        facts |= {"wrong": outcome.wrong, "index": None if outcome.index is None else str(outcome.index)}
        facts["notes"] = list(outcome.notes)
    return facts


def _told(outcome: Outcome) -> str:
    if outcome.wrong:
        told = [f"WRONG {outcome.origin or 'log'}: {outcome.wrong}"]
        if outcome.notes:
            told += ["These two checkpoints, both signed by the log, show it to anybody:", *outcome.notes]
        return "\n".join(told)
    told = [
        f"all {outcome.size} leaves of {outcome.origin} hold"
        + (f", {outcome.size - outcome.before} of them new" if outcome.before else "")
        + f": tree, every MAP_ROOT over {outcome.labels} labels, every tile, the checkpoint"
    ]
    if outcome.fresh_at is not None:
        told.append(f"it was the newest at {moment(outcome.fresh_at)}, by the log's own word")
    older = outcome.size - outcome.cosigned_size
    which = f" the checkpoint of {outcome.cosigned_size} leaves, {older} before it," if older else ""
    told += [f"cosigned{which} by {name} at {moment(at)}" for name, at in sorted(outcome.cosigned_at.items())]
    if outcome.not_judged:
        told.append(
            f"nobody has judged the cosignatures of {', '.join(outcome.not_judged)}:"
            " give the keys of witnesses you trust, by --policy"
        )
    if not outcome.compared:
        told.append(
            f"the key is the one that the log itself serves: {outcome.vkeys}"
            "compare it with the log's key from a source you trust, and give it with --vkey"
        )
    if outcome.cosignature:
        told.append(outcome.cosignature.rstrip("\n"))
    return "\n".join(told)
