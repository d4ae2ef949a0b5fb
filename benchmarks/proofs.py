"""How long a proof of the latest word takes when the log speaks of a million labels, asked over HTTP.

The log is written here by the writer's own code, every batch with its MAP_ROOT, and signed with the installation's
keys; then only the ledger's web process runs. Some subjects are real, with keys and statements, spread over the whole
log; the other labels are as random as real ones look. Every answer is a whole proof file, and the last of each way of
asking is verified.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

import asyncpg

from benchmarks import machine, running
from benchmarks.clients import HOST, Answer, Client, Driven, drive, drive_steadily
from benchmarks.report import Result, milliseconds, percentile
from benchmarks.statements import CHANNEL, PURPOSE, SHARD, Forms
from infra.local.installation import COMMAND, Installation
from infra.local.processes import Process
from services.ledger.log.leaf import event_leaf, leaf_hash, map_root_leaf
from services.ledger.log.secrets import SubjectSecrets, wrap
from services.ledger.log.state_map import StateMap
from services.ledger.log.tree import TileWriter
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.note import CosignatureSigner, Signer, format_note
from services.ledger.reader.verify import verify
from shared import register
from shared.clock import millis, rfc3339
from shared.events import EVERYTHING, purpose_matter
from shared.identifiers import subject_id, uuid7

AIM_P99: Final = 0.005
"""Seconds."""
RATE: Final = 50
"""A second, for how long one takes while others ask too."""

_SUBJECTS: Final = 2_000
_BATCH: Final = 5_000
_CALLER: Final = "compliance"
_LONGEST: Final = 600.0
_KIND_OF_AUTHORIZATION: Final = "Bearer"


class Log:
    """A log of so many labels, in the tables, and the subjects in it who are real."""

    def __init__(self, made: Installation, labels: int, batch: int = _BATCH) -> None:
        self._made = made
        self._labels = labels
        self._at_once = batch
        self._now = datetime.now(UTC)
        self._forms = Forms(register.load(), made.secrets, self._now, short=True)
        self._map = StateMap(labels)
        self._tree = TileWriter()
        self._first_leaf = map_root_leaf(0, bytes(32), 0, 0)
        self._tree.extend([leaf_hash(self._first_leaf)])
        self._last_root = 0
        self._chance = random.Random(7)
        self.subjects: list[str] = []

    async def write(self, superuser: asyncpg.Connection[Any]) -> None:
        """All batches, and one checkpoint that the log's key signs."""
        origin = await superuser.fetchval("select origin from ledger.log where shard = $1", SHARD)
        await superuser.execute("set session_replication_role = replica")
        while len(self._map) < self._labels:
            await self._batch(superuser, origin, min(self._at_once, self._labels - len(self._map)))
        size, root = self._tree.size, self._tree.root()
        text = Checkpoint(origin, size, root).text()
        note = format_note(text, [Signer(origin, self._made.secrets.log_key(SHARD)).sign(text)])
        fresh = CosignatureSigner(f"{origin}/fresh", self._made.secrets.fresh_key(SHARD))
        await superuser.execute(
            "insert into ledger.checkpoint (shard, size, previous, root, note) values ($1, $2, 1, $3, $4)",
            SHARD,
            size,
            root,
            note.decode(),
        )
        await superuser.execute(
            "update ledger.head set size = $2, edge = $3, map_root = $4, recorded_at = $5 where shard = $1",
            SHARD,
            size,
            self._tree.edge.to_bytes(),
            self._map.root(),
            millis(self._now),
        )
        line = fresh.sign(text, int(self._now.timestamp())).decode()
        await superuser.execute(
            "update ledger.fresh set size = $2, line = $3, signed_at = $4 where shard = $1",
            SHARD,
            size,
            line,
            self._now + timedelta(days=1),
        )
        for table in ("leaf_batch", "tile", "checkpoint", "payload", "subject_key", "matter"):
            await superuser.execute(f"analyze ledger.{table}")

    async def _batch(self, superuser: asyncpg.Connection[Any], origin: str, count: int) -> None:
        first = self._tree.size
        every = max(1, self._labels // _SUBJECTS)
        leaves: list[bytes] = []
        spoken: list[tuple[str, bytes, bytes, int]] = []
        for index in range(first, first + count):
            if index % every == 0:
                leaf, row = self._real(origin, index)
                spoken.append(row)
            else:
                noise = self._chance.randbytes(64)
                leaf = event_leaf(noise[:32], 1, 0, noise[32:], millis(self._now))
            leaves.append(leaf)
            self._map.update(leaf[1:33], 1, index, leaf_hash(leaf))
        leaves.append(map_root_leaf(first + count, self._map.root(), len(self._map), self._last_root + 1))
        self._last_root = first + count
        self._map.commit()
        tiles = self._tree.extend([leaf_hash(leaf) for leaf in leaves])
        await superuser.execute(
            "insert into ledger.leaf_batch (shard, first, n, leaves, root) values ($1, $2, $3, $4, $5)",
            SHARD,
            first,
            len(leaves),
            b"".join(leaves),
            self._tree.root(),
        )
        for table, rows in (
            ("tile", [(SHARD, tile.level, tile.n, tile.hashes) for tile in tiles]),
            ("subject_key", [(subject, SHARD, wrapped) for subject, wrapped, _, _ in spoken]),
            ("payload", [(SHARD, index, subject, payload) for subject, _, payload, index in spoken]),
            ("matter", [(subject, purpose_matter(PURPOSE, CHANNEL), SHARD, None) for subject, _, _, _ in spoken]),
        ):
            columns = {"subject_key": ("subject", "shard", "wrapped")}.get(table)
            await superuser.copy_records_to_table(table, schema_name="ledger", records=rows, columns=columns)

    def _real(self, origin: str, index: int) -> tuple[bytes, tuple[str, bytes, bytes, int]]:
        """A consent of somebody new: its leaf, and subject, wrapped key, payload and index."""
        subject, key = subject_id(SHARD, self._now, os.urandom), os.urandom(32)
        ids = [uuid7(self._now, os.urandom).encode() for _ in range(3)]
        raw = self._forms["ConsentGiven"].fill(subject.encode(), ids[0], (ids[1], ids[2]), rfc3339(self._now).encode())
        secrets = SubjectSecrets(key, origin, subject)
        label = secrets.label(purpose_matter(PURPOSE, CHANNEL))
        leaf = event_leaf(label, 1, 0, secrets.commitment(label, 1, raw), millis(self._now))
        kek_id, kek = max(self._made.secrets.keks().items())
        self.subjects.append(subject)
        payload = secrets.seal_payload(SHARD, index, raw, os.urandom(12))
        return leaf, (subject, wrap(kek_id, kek, subject, key, os.urandom(12)), payload, index)


class Asks:
    """Requests for the latest word of somebody."""

    def __init__(self, made: Installation, subjects: list[str]) -> None:
        self._subjects = subjects
        self._chance = random.Random(8)
        credential = made.secrets.credential(_CALLER)
        self._rest = (
            f"?{urlencode({'purpose': PURPOSE, 'channel': CHANNEL})} HTTP/1.1\r\nHost: localhost\r\n"
            f"Accept: application/json\r\nAuthorization: {_KIND_OF_AUTHORIZATION} {credential}\r\n\r\n"
        )

    def one(self) -> bytes:
        subject = self._chance.choice(self._subjects)
        return f"GET /ledger/subjects/{subject}/proofs/latest{self._rest}".encode("ascii")

    def all(self) -> Iterator[bytes]:
        for _ in itertools.count():
            yield self.one()


async def serve_alone(made: Installation, asks: Asks) -> float:
    """Start the ledger's web process and nothing else; after how many seconds it has its map."""
    made.processes["ledger"] = Process(made.folder, "ledger", grace=15.0)
    began = time.monotonic()
    made.processes["ledger"].start(
        [str(COMMAND), "serve", "ledger"],
        directory=made.folder,
        log=made.logs / "ledger.log",
        environment={**os.environ, **made.environment()},
    )
    running.say("  the map is built …")
    await _built(made, asks)
    return time.monotonic() - began


async def _built(made: Installation, asks: Asks) -> None:
    """Return when the map is built, which is when a proof is answered."""
    until = time.monotonic() + _LONGEST
    while True:
        try:
            client = await Client.connect(made.port)
            answer = await client.ask(asks.one())
            await client.close()
            if answer.status == 200:
                return
        except OSError:
            pass
        running.still_running(made, ["ledger"])
        if time.monotonic() > until:
            raise RuntimeError("no proof was answered in all that time")
        await asyncio.sleep(0.5)


async def measure(made: Installation, labels: int, seconds: float) -> list[Result]:
    """Write the log, start the ledger's web process, then ask: one after the other, and so many a second."""
    superuser = await running.connect(made)
    try:
        running.say(f"  a log of {labels:,} labels …")
        log = Log(made, labels)
        await log.write(superuser)
        vkey = str(await superuser.fetchval("select vkey from ledger.log where shard = $1", SHARD))
    finally:
        await superuser.close()
    asks = Asks(made, log.subjects)
    built = await serve_alone(made, asks)
    last: list[bytes] = []

    def fine(answer: Answer) -> bool:
        last[:] = [answer.body]
        return answer.status == 200

    def look(answer: Answer) -> None:
        if not fine(answer):
            raise RuntimeError(f"a proof was answered with {answer.status}")

    results = []
    for said in ("one after the other", f"{RATE} a second"):
        load, watch = machine.load(), running.watch(made)
        if said.startswith("one"):
            driven = await drive(made.port, 1, asks.all(), seconds, fine)
        else:
            driven = await drive_steadily(made.port, RATE, asks.all(), seconds, look)
        usage = watch.usage()
        report = verify(last[0], vkey)
        if report is None or EVERYTHING not in last[0].decode() or "consent holds" not in report.conclusion:
            raise RuntimeError("what was answered is not the proof that was asked for")
        results.append(_result(said, labels, driven, len(last[0]), built, load, usage.bound()))
    return results


def _result(said: str, labels: int, driven: Driven, size: int, built: float, load: float, bound: str) -> Result:
    p50, p99 = percentile(driven.waits, 0.50), percentile(driven.waits, 0.99)
    return Result(
        part="proofs",
        measured=f"proof of the latest word at {labels:,} labels, over HTTP, {said} ({size:,} bytes each; the map was "
        f"built {built:.0f} s after the start)",
        figure=f"{driven.rate:,.0f}/s, p50 {milliseconds(p50)}, **p99 {milliseconds(p99)}**",
        aim=f"p99 {milliseconds(AIM_P99)}",
        met=p99 < AIM_P99,
        bound=bound,
        values={
            "labels": labels,
            "host": HOST,
            "proofs": len(driven.waits),
            "bytes": size,
            "p50_seconds": round(p50, 5),
            "p99_seconds": round(p99, 5),
            "built_seconds": round(built, 1),
            "load_before": load,
        },
    )
