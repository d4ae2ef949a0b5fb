"""Hands the newest checkpoint of one shard to every witness, and keeps what they cosign (C2SP tlog-witness).

Nothing of the flow waits for them. A witness that knows a larger tree than our database has ends the process: the
database was rolled back, or somebody else signs with our key, and either way nothing more may be signed.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from services.ledger import store
from services.ledger.log.tiles import consistency_proof
from services.ledger.outside import cosignatures
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import CosignatureVerifier, Note, parse_note
from services.ledger.reader.policy import Policy, Witness, format_witnesses
from services.ledger.stored_tree import StoredHashes
from shared import logs
from shared.database import Database
from shared.errors import Corrupt, Refused, Unavailable
from shared.metrics import Metrics
from shared.outside import Outside

PACE_SECONDS: Final = 1.0
"""Between two checkpoints that one witness is given."""
REFRESH_SECONDS: Final = 60.0
"""After this a checkpoint that is still the newest is given again: its cosignature then bears a newer time."""
ANSWER_SECONDS: Final = 10.0
START_SECONDS: Final = 5.0
LONGEST_PAUSE: Final = 300.0
KNOWS_MORE: Final = "witness-knows-more"
DISAGREES: Final = "witness-disagrees"

_TEXT: Final = "text/plain; charset=utf-8"
_TRIES: Final = 3
_LAST_TIME: Final = 253_402_300_799  # the end of year 9999; no clock of a witness is there
_SIZE_LIMIT: Final = 24

log = logs.logger("witnesses")


class _Silent(Exception):
    """No cosignature this time; `why` is for the log and the metric."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass
class Peer:
    """One witness, and where we stand with it."""

    name: str
    url: str
    verifier: CosignatureVerifier
    size: int = 0
    """Of the checkpoint that it cosigned last, as far as we know."""
    due_at: float = float("-inf")
    pause: float = 0.0
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, witness: Witness) -> Peer:
        """A witness of our policy, which must say where it is."""
        if witness.url is None:
            raise Refused("witness-without-address", f"The policy does not say where the witness {witness.name} is.")
        return cls(witness.name, witness.url.rstrip("/"), CosignatureVerifier(witness.vkey))

    @property
    def key(self) -> str:
        """What names it for ever."""
        return f"{self.verifier.name}+{self.verifier.key_id.hex()}"


class Witnesses:
    """Those of one shard."""

    def __init__(
        self,
        shard: int,
        db: Database,
        policy: Policy,
        http: Outside,
        metrics: Metrics | None = None,
        *,
        steady: Callable[[], float] = monotonic,
        pace: float = PACE_SECONDS,
    ) -> None:
        self.shard = shard
        self._db = db
        self._policy = policy
        self._http = http
        self._steady = steady
        self._pace = pace
        self._hashes = StoredHashes(db, shard)
        self._storing = asyncio.Lock()
        self.peers = [Peer.of(one) for one in policy.witnesses]
        metrics = metrics or Metrics("ledger_seal")
        self._answers = metrics.counter("witness_answers_total", "what witnesses answered", ["witness", "answer"])

    async def ask(self) -> None:
        """Before anything is signed: Corrupt if a witness knows more than we do. Who is silent is not waited for."""
        async with self._db.transaction() as both:
            known = await cosignatures.keep_witnesses(both, self.shard, {one.key: one.name for one in self.peers})
            policy = format_witnesses(self._policy)
            await cosignatures.keep_policy(both, self.shard, policy, asks=bool(self.peers))
        for peer in self.peers:
            peer.size = known.get(peer.key, 0)
        asked = [asyncio.ensure_future(self._hand(peer)) for peer in self.peers]
        if not asked:
            return
        done, waiting = await asyncio.wait(asked, timeout=START_SECONDS)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for one in done:
            one.result()

    async def run(self) -> None:
        """Give every witness the newest checkpoint, again and again, until cancelled or contradicted."""
        sealed = self._db.listen("ledger_sealed")
        async with asyncio.TaskGroup() as group:
            while True:
                seen = sealed.changed
                try:
                    newest = await store.sealed_size(self._db, self.shard)
                except Unavailable:
                    newest = 0
                for peer in self.peers:
                    if self._is_due(peer, newest):
                        peer.task = group.create_task(self._hand(peer))
                await asyncio.sleep(self._pace)
                await sealed.wait(self._pace, since=seen)

    def _is_due(self, peer: Peer, newest: int) -> bool:
        if peer.task is not None and not peer.task.done():
            return False
        now = self._steady()
        if peer.pause:
            return now >= peer.due_at
        return newest > peer.size or now >= peer.due_at

    async def _hand(self, peer: Peer) -> None:
        """One checkpoint to one witness; whatever comes of it but a contradiction is only noted."""
        try:
            answer = await self._cosign(peer)
        except Unavailable as error:
            answer = error.service
            self._wait(peer, "silent", answer)
        except _Silent as silent:
            self._wait(peer, "refused", silent.why)
        except Invalid as invalid:
            self._wait(peer, "invalid", str(invalid))
        else:
            if peer.pause:
                log.info("witness-answers", shard=self.shard, witness=peer.name)
            peer.pause, peer.due_at = 0.0, self._steady() + REFRESH_SECONDS
            self._answers.labels(peer.name, answer).inc()

    def _wait(self, peer: Peer, answer: str, why: str) -> None:
        peer.pause = min(max(2 * peer.pause, 1.0), LONGEST_PAUSE)
        peer.due_at = self._steady() + peer.pause
        self._answers.labels(peer.name, answer).inc()
        log.warning("witness-silent", shard=self.shard, witness=peer.name, why=why, seconds=peer.pause)

    async def _cosign(self, peer: Peer) -> str:
        for _ in range(_TRIES):
            newest = await store.newest_checkpoint(self._db, self.shard)
            if newest is None:
                raise Corrupt("checkpoint", f"shard {self.shard} has none")
            size, note = int(newest["size"]), newest["note"].encode()
            if peer.size > size:
                await self._rolled_back(peer, peer.size)
            hashes = await consistency_proof(peer.size, size, self._hashes)
            lines = [f"old {peer.size}", *(b64encode(one).decode() for one in hashes), "", ""]
            body = "\n".join(lines).encode() + note
            answer = await self._http.post(
                f"{peer.url}/add-checkpoint", body, "text/plain; charset=utf-8", ANSWER_SECONDS
            )
            match answer.status:
                case 200:
                    await self._store(peer, size, parse_note(note), answer.body)
                    return "cosigned"
                case 409:
                    theirs = _size(answer.body)
                    if theirs == peer.size:
                        raise _Silent("409 for the size it named itself")
                    if theirs > size:
                        await self._look_again(peer, theirs)
                    peer.size = theirs
                case 422:
                    await self._contradicted(peer, size)
                    raise _Silent("422: what we signed does not continue what it has seen")
                case status if status >= 500 or status == 429:
                    raise Unavailable(peer.name)
                case status:
                    raise _Silent(f"{status}: {_REASONS.get(status, 'no reason that the specification knows')}")
        raise _Silent("its size changes while we ask")

    async def _store(self, peer: Peer, size: int, note: Note, lines: bytes) -> None:
        """Keep its cosignature, if it is one; Invalid otherwise."""
        answered = parse_note(note.text + b"\n" + lines)
        time = peer.verifier.verify(answered)
        if time > _LAST_TIME:
            raise Invalid("cosignature", "the witness's time", "is none")
        ours = [
            one
            for one in answered.signatures
            if (one.name, one.key_id) == (peer.verifier.name, peer.verifier.key_id)
            and one.signature.startswith(time.to_bytes(8, "big"))
        ]
        async with self._storing:
            keys = await cosignatures.cosigners(self._db, self.shard, size) | {peer.key}
            names = {one.name for one in self.peers if one.key in keys}
            await cosignatures.add_cosignature(
                self._db,
                self.shard,
                size,
                peer.key,
                ours[0].line().decode(),
                datetime.fromtimestamp(time, UTC),
                quorum=self._policy.is_satisfied_by(names),
            )
        peer.size = max(peer.size, size)

    async def _look_again(self, peer: Peer, theirs: int) -> None:
        """It knows more than what we gave it. More than our database has by now?"""
        newest = await store.newest_checkpoint(self._db, self.shard)
        if newest is None or theirs > newest["size"]:
            await self._rolled_back(peer, theirs)

    async def _rolled_back(self, peer: Peer, theirs: int) -> None:
        ours = await store.sealed_size(self._db, self.shard)
        detail = (
            f"The witness {peer.name} has cosigned {theirs} leaves of this log; of our database's, {ours} are signed."
            " Either the database was rolled back, or somebody else signs with our key. Nothing more is signed."
        )
        await store.open_incident(self._db, self.shard, KNOWS_MORE, peer.name, detail)
        log.critical("witness-knows-more", shard=self.shard, witness=peer.name, theirs=theirs, ours=ours)
        raise Corrupt("the database is behind a witness", f"shard {self.shard}: {detail}")

    async def _contradicted(self, peer: Peer, size: int) -> None:
        detail = (
            f"The witness {peer.name} says that our checkpoint of {size} leaves does not continue the one"
            f" of {peer.size} that it has seen. It has seen another history under our key, or it is mistaken."
        )
        await store.open_incident(self._db, self.shard, DISAGREES, peer.name, detail)
        log.error("witness-disagrees", shard=self.shard, witness=peer.name, theirs=peer.size, ours=size)


_REASONS: Final = {
    400: "it does not understand the request",
    403: "it does not trust the key that signs our log",
    404: "it does not watch a log of our origin",
}


def _size(body: bytes) -> int:
    """The size in the body of a 409; _Silent if it is none."""
    text = body[:_SIZE_LIMIT].decode("ascii", "replace").strip()
    if len(body) > _SIZE_LIMIT or not text.isdecimal() or int(text) >= 1 << 63:
        raise _Silent("409 without a size")
    return int(text)
