"""The judgement of a witness: whether a checkpoint continues what it has seen of a log (docs/formats.md §24)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.ledger.reader.checkpoint import Checkpoint, parse_checkpoint, parse_decimal
from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import EMPTY_ROOT, HASH_SIZE, verify_consistency
from services.ledger.reader.note import NOTE_LIMIT, Note, Signature, Verifier, decode_base64, format_note, parse_note
from shared import logs

if TYPE_CHECKING:
    from services.witness.memory import Memory
    from shared.clock import Clock

HASHES_LIMIT: Final = 63
REQUEST_LIMIT: Final = NOTE_LIMIT + 64 * (HASHES_LIMIT + 2)
SIZE: Final = "text/x.tlog.size"
TEXT: Final = "text/plain; charset=utf-8"

log = logs.logger("witness")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body, as the specification wants them."""

    status: int
    body: str
    media_type: str = TEXT


@dataclass(frozen=True, slots=True)
class Request:
    """An add-checkpoint request taken apart; nothing is verified by that."""

    old: int
    hashes: tuple[bytes, ...]
    note: Note
    checkpoint: Checkpoint


def parse_request(body: bytes) -> Request:
    """Take a request apart, or raise Invalid.

    1. `old`, a space, a u64 in decimal without leading zeros.
    2. At most 63 lines of base64, each of 32 bytes; then an empty line.
    3. The rest is a signed note whose text is a checkpoint of three lines.
    """
    head, gap, signed = body.partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Invalid("request 1", "the request", "is not ASCII before the checkpoint") from None
    # 1.
    if not gap or not first.startswith("old "):
        raise Invalid("request 1", "the request", "does not begin with the old size")
    old = parse_decimal("request 1", "the old size", first.removeprefix("old "))
    # 2.
    if len(lines) > HASHES_LIMIT:
        raise Invalid("request 2", "the request", f"has more than {HASHES_LIMIT} hashes")
    hashes = tuple(decode_base64("request 2", "a hash", line) for line in lines)
    if any(len(one) != HASH_SIZE for one in hashes):
        raise Invalid("request 2", "a hash", f"has not {HASH_SIZE} bytes")
    # 3.
    note = parse_note(signed)
    return Request(old, hashes, note, parse_checkpoint(note.text))


class Witness:
    """Cosigns, one checkpoint of a log after the other."""

    def __init__(self, memory: Memory, clock: Clock) -> None:
        self._memory = memory
        self._clock = clock
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def checkpoint(self, name: str) -> bytes | None:
        """The newest checkpoint that was cosigned, by the hash of its log's origin."""
        return self._memory.note(name)

    async def add_checkpoint(self, body: bytes) -> Answer:
        """Judge a request, in the order of docs/formats.md §24."""
        try:
            request = parse_request(body)
        except Invalid as error:
            return Answer(400, f"{error}\n")
        origin = request.checkpoint.origin
        keys = self._memory.logs.get(origin)
        if keys is None:
            return Answer(404, "this witness does not watch a log of this origin\n")
        try:
            signed = _signed(request.note, keys)
        except Invalid as error:
            return Answer(403, f"{error}\n")
        if request.old > request.checkpoint.size:
            return Answer(400, "the old size is above the checkpoint's\n")
        # One at a time from here, or a smaller checkpoint could be written over a larger one.
        async with self._turns[origin]:
            return await self._continue(request, signed)

    async def _continue(self, request: Request, signed: list[bytes]) -> Answer:
        checkpoint = request.checkpoint
        newest = self._memory.newest(checkpoint.origin) or Checkpoint(checkpoint.origin, 0, EMPTY_ROOT)
        if request.old != newest.size:
            return Answer(409, f"{newest.size}\n", SIZE)
        try:
            _continues(newest, checkpoint, request.hashes)
        except Invalid as error:
            # It is signed by the log, and may be proof that it forked.
            log.warning("does-not-continue", log=checkpoint.origin, old=newest.size, size=checkpoint.size)
            return Answer(422, f"{error}\n")
        line = self._memory.signer.sign(request.note.text, int(self._clock().timestamp()))
        kept = asyncio.ensure_future(
            asyncio.to_thread(self._memory.keep, checkpoint.origin, format_note(request.note.text, [*signed, line]))
        )
        try:
            await asyncio.shield(kept)
        except asyncio.CancelledError:
            # Who asked has gone; the turn must not end before the disk has it.
            await kept
            raise
        return Answer(200, line.decode())


def _signed(note: Note, keys: list[Verifier]) -> list[bytes]:
    """The lines of the log's keys, all of which must verify, and there must be one."""
    ours = [key for key in keys if any(_is_of(one, key) for one in note.signatures)]
    if not ours:
        raise Invalid("signature 1", "the checkpoint", "is signed by no key that is known of this log")
    for key in ours:
        key.verify(note)
    return [one.line() for one in note.signatures if any(_is_of(one, key) for key in ours)]


def _is_of(signature: Signature, key: Verifier) -> bool:
    return (signature.name, signature.key_id) == (key.name, key.key_id)


def _continues(newest: Checkpoint, checkpoint: Checkpoint, hashes: tuple[bytes, ...]) -> None:
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise Invalid("consistency", "the root", "is not that of an empty tree")
    if newest.size == 0:
        if hashes:
            raise Invalid("consistency", "the proof", "is not empty, though nothing was seen before")
        return
    verify_consistency(newest.size, checkpoint.size, hashes, newest.root, checkpoint.root)
