"""The check that runs close behind the signer: with each checkpoint what is new, and slowly, again and again, the old.

What is new is replayed by a replica of its own, which begins at the checkpoint that is the newest when the process
starts: tree and map from what is stored, both held against what was signed. What is old needs no map any more: bytes
that lead to a root that was signed are the bytes that were replayed then. The position is in memory alone: a wrong row
is named again after each start.

It can neither sign nor append: its role of PostgreSQL reads, and leaves an incident.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from services.ledger import store
from services.ledger.integrity import people
from services.ledger.integrity.beside import attachments_behind, check_rejects
from services.ledger.integrity.finding import Finding, Pace, Trusted
from services.ledger.integrity.leaves import Leaves, TreeAlone, resume
from services.ledger.integrity.numbers import Numbers, check_numbers, take_for_granted
from services.ledger.integrity.replay import Replay
from services.ledger.integrity.restrictions import About, Restrictions
from services.ledger.integrity.signatures import Signatures
from services.ledger.integrity.stamps import wrong_stamps
from services.ledger.integrity.statements import KeyRing, Statements
from services.ledger.reader.errors import Invalid
from services.ledger.reader.replica import Replica
from services.ledger.signer_files import signed_leaves
from shared import logs
from shared.clock import Clock
from shared.database import Database, Queries, Row, Signal
from shared.errors import Corrupt, Unavailable

RESTS: Final = 9.0
"""It rests so many times as long as it worked: a tenth of one processor at most, of PostgreSQL's as of ours."""
LOOK_SECONDS: Final = 5.0
"""Whoever signs wakes it; this is the safety net, and how often it says that it is at the end."""
SWEEP_SECONDS: Final = 3600.0
"""From the end of one walk through what is old to the next."""

_LEAVES_AT_ONCE: Final = 2000
_CHECKPOINTS_AT_ONCE: Final = 1000
_SUBJECTS_AT_ONCE: Final = 50
_ATTACHMENTS_AT_ONCE: Final = 8
_AGAIN_SECONDS: Final = 60.0

log = logs.logger("check")


class RunningCheck:
    """One log's."""

    def __init__(
        self,
        shard: int,
        db: Database,
        trusted: Trusted,
        sealed: Signal,
        clock: Clock,
        *,
        rests: float = RESTS,
        again_seconds: float = _AGAIN_SECONDS,
    ) -> None:
        self.shard = shard
        self._db = db
        self._trusted = trusted
        self._sealed = sealed
        self._clock = clock
        self._rests = rests
        self._again_seconds = again_seconds
        self._tail: Tail | None = None
        self._ready = asyncio.Event()
        """Set while the tail stands."""

    async def run(self) -> None:
        """Until cancelled. Whatever happens here, the signer beside goes on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._for_ever(self._follow, self._again_seconds))
            group.create_task(self._for_ever(self._sweep_and_rest, self._again_seconds))

    async def follow(self) -> bool:
        """Check what was signed since the last time; whether that was all."""
        if self._tail is None:
            self._tail = await Tail.begin(self.shard, self._db, self._trusted, Pace(self._rests))
            log.info("checking", shard=self.shard, size=self._tail.size)
        found, at_the_end = await self._tail.step()
        await self._say(found)
        if self._tail.stopped:
            raise _Stopped
        if at_the_end:
            await store.put_followed(self._db, self.shard, self._tail.size, self._clock())
            self._ready.set()
        return at_the_end

    async def sweep(self) -> int:
        """Check everything up to where the tail stands once more; how many wrong rows there were."""
        assert self._tail is not None  # noqa: S101 - `follow` comes first
        wrong = 0
        sweep = Sweep(self._tail, self._db, self._trusted, Pace(self._rests))
        async for found in sweep.findings():
            wrong += len(found)
            await self._say(found)
        await store.put_check(self._db, self.shard, wrong, self._clock())
        return wrong

    async def _follow(self) -> None:
        while True:
            seen = self._sealed.changed
            if await self.follow():
                await self._sealed.wait(LOOK_SECONDS, since=seen)

    async def _sweep_and_rest(self) -> None:
        await self._ready.wait()
        await self.sweep()
        await asyncio.sleep(SWEEP_SECONDS)

    async def _for_ever(self, work: Callable[[], Awaitable[None]], again_seconds: float) -> None:
        while True:
            try:
                await work()
                continue
            except Unavailable as error:
                log.warning("waiting", shard=self.shard, service=error.service)
                pause = 0.5
            except _Stopped:
                pause = again_seconds
            except Corrupt as error:
                await self._try_to_say(Finding(error.what, self.shard, error.where, "contradicts what was signed"))
                pause = again_seconds
            except Invalid as error:
                # Of what it begins with; `log check` names the row.
                await self._try_to_say(Finding(error.what, self.shard, "all", error.why))
                pause = again_seconds
            except Exception as error:
                log.critical("check-failed", shard=self.shard, exc_info=error)
                pause = again_seconds
            if work == self._follow:
                self._tail = None
                self._ready.clear()
            await asyncio.sleep(pause)

    async def _try_to_say(self, finding: Finding) -> None:
        try:
            await self._say([finding])
        except Unavailable as error:
            log.warning("waiting", shard=self.shard, service=error.service)

    async def _say(self, found: Sequence[Finding]) -> None:
        """An incident for each table, which names the first wrong row of it; all of them are in the log."""
        for finding in found:
            log.critical("wrong-row", shard=finding.shard, table=finding.table, where=finding.where, what=finding.what)
            about = finding.table
            await store.open_incident(self._db, self.shard, store.WRONG_ROW, about, f"{finding.where}: {finding.what}")
        if found:
            await store.put_findings(self._db, self.shard, len(found), self._clock())


class Tail:
    """The end of a log: everything that is signed from now on, in full."""

    def __init__(
        self, db: Database, trusted: Trusted, log_row: Row, leaves: Leaves, replica: Replica, pace: Pace
    ) -> None:
        self.shard: int = log_row["shard"]
        self.log = log_row
        self.replica = replica
        self.numbers = Numbers()
        self.pace = pace
        self._db = db
        self._signatures = Signatures(trusted, log_row)
        self.ring = KeyRing(trusted.keks, log_row["origin"])
        restrictions = Restrictions(complete=False)
        self._statements = Statements(self.shard, trusted, self.ring, restrictions, self.numbers)
        self._replay = Replay(leaves, self._statements, pace, lambda: replica.map)

    @classmethod
    async def begin(cls, shard: int, db: Database, trusted: Trusted, pace: Pace) -> Tail:
        """At the newest checkpoint. Invalid if what is stored does not lead to what it signs."""
        async with _snapshot(db, pace) as snapshot:
            [row] = [one for one in await store.logs(snapshot) if one["shard"] == shard]
            newest = await store.newest_checkpoint(snapshot, shard)
            if newest is None:
                raise Corrupt("checkpoint", f"shard {shard} has none")
            size, root = newest["size"], newest["root"]
            leaves, replica = await resume(snapshot, shard, size, root, pace)
            tail = cls(db, trusted, row, leaves, replica, pace)
            await take_for_granted(snapshot, shard, size, tail.numbers)
        return tail

    @property
    def size(self) -> int:
        return self._replay.size

    @property
    def stopped(self) -> bool:
        """Whether it has come to a wrong leaf."""
        return self._replay.stopped

    def ask_about(self, gone: Sequence[tuple[int, bytes]]) -> None:
        """Of these statements, by index and label, nothing is stored: the next step says whether it may be so."""
        self._statements.without_payload += gone

    async def step(self) -> tuple[list[Finding], bool]:
        """The next leaves that are signed, up to a checkpoint, and all that stands beside them; whether these were the
        last."""
        async with _snapshot(self._db, self.pace) as snapshot:
            before = self.size
            rows = await store.checkpoints_behind(snapshot, self.shard, before)
            sealed = rows[-1]["size"] if rows else await store.sealed_size(snapshot, self.shard)
            if sealed < before:
                raise Corrupt("checkpoint", f"size {sealed} is the newest, after {before}")
            far = [row["size"] for row in rows if row["size"] >= before + _LEAVES_AT_ONCE]
            end = far[0] if far else sealed
            found: list[Finding] = []
            touched: dict[About, str | None] = {}
            async for one in self._replay.to(snapshot, end):
                if isinstance(one, Finding):
                    found.append(one)
                touched |= self._statements.touched
            found += await self._beside(snapshot, [row for row in rows if row["size"] <= end], before)
            found += await people.check_touched(snapshot, self.shard, touched)
            if end == sealed and not self.stopped:
                # A statement goes only once the end of its label is sealed: so that is among these leaves.
                lost = await store.lost_records(snapshot, self.shard)
                found += self._statements.not_erased(self.replica.erased, lost)
                self._statements.without_payload.clear()
        await self.pace.rest()
        return found, end == sealed

    async def _beside(self, snapshot: Queries, rows: Sequence[Row], before: int) -> list[Finding]:
        found = await self._signatures.check_keys(snapshot)
        found += await self._signatures.check_checkpoints(
            snapshot, rows, self._replay.roots, self.size, previous=before, stopped=self.stopped
        )
        self._replay.roots.clear()
        found += await self._signatures.check_served(snapshot)
        if not self.stopped:
            is_all = (await store.head(snapshot, self.shard))["size"] == self.size
            found += await check_numbers(snapshot, self.shard, self.size, self.numbers, unread=False, everything=is_all)
        return found


class Sweep:
    """One walk through everything that is older than where the tail stands."""

    def __init__(self, tail: Tail, db: Database, trusted: Trusted, pace: Pace) -> None:
        self._tail = tail
        self._trusted = trusted
        self._db = db
        self._pace = pace
        self.shard = tail.shard
        self._signatures = Signatures(trusted, tail.log)
        self._numbers = Numbers()
        signed = None if trusted.signer_dir is None else signed_leaves(trusted.signer_dir, self.shard)
        restrictions = Restrictions(complete=False)
        self._statements = Statements(self.shard, trusted, tail.ring, restrictions, self._numbers)
        leaves = Leaves(self.shard, TreeAlone(), signed=signed)
        self._replay = Replay(leaves, self._statements, pace, lambda: tail.replica.map)

    async def findings(self) -> AsyncIterator[list[Finding]]:
        """What is wrong, a piece at a time, each under a snapshot of its own: what is signed does not change between
        them, and of what moves meanwhile nothing is said."""
        previous: int | None = None
        while not self._replay.stopped and self._replay.size < self._tail.size:
            async with _snapshot(self._db, self._pace) as snapshot:
                found, previous = await self._leaves(snapshot, previous)
            yield found
            await self._pace.rest()
        if not self._replay.stopped:
            yield await self._whole()
        after = ""
        while some := await people.names(self._db, self.shard, after, _SUBJECTS_AT_ONCE):
            after = some[-1]
            async with _snapshot(self._db, self._pace) as snapshot:
                size, known = self._tail.size, self._tail.replica.map
                blind = self._statements.blind
                found = await people.check_some(snapshot, self.shard, self._tail.ring, some, known, size, blind)
            yield found
            await self._pace.rest()
        yield await self._outside_the_log()
        last: bytes | None = b""
        while self.shard == 0 and last is not None:
            self._pace.begin()
            last, found = await attachments_behind(self._db, last, _ATTACHMENTS_AT_ONCE)
            yield found
            await self._pace.rest()

    async def _leaves(self, snapshot: Queries, previous: int | None) -> tuple[list[Finding], int | None]:
        rows = [
            row
            for row in await store.checkpoints_behind(snapshot, self.shard, previous or 0, _CHECKPOINTS_AT_ONCE)
            if row["size"] <= self._tail.size
        ]
        far = [row["size"] for row in rows if row["size"] >= self._replay.size + _LEAVES_AT_ONCE]
        if not rows:
            self._replay.stopped = True
            what = f"there is none behind size {previous}, and {self._tail.size} leaves were signed"
            return [Finding("checkpoint", self.shard, "all", what)], previous
        end = far[0] if far else rows[-1]["size"]
        found = [one async for one in self._replay.to(snapshot, end) if isinstance(one, Finding)]
        rows = [row for row in rows if row["size"] <= end]
        found += await self._signatures.check_checkpoints(
            snapshot, rows, self._replay.roots, self._replay.size, previous=previous, stopped=self._replay.stopped
        )
        self._replay.roots.clear()
        return found, end

    async def _whole(self) -> list[Finding]:
        """What takes all leaves: which numbers of each source have come."""
        self._tail.ask_about(self._statements.without_payload)
        async with _snapshot(self._db, self._pace) as snapshot:
            unread = bool(self._statements.without_payload or self._statements.blind)
            return await check_numbers(
                snapshot, self.shard, self._replay.size, self._numbers, unread=unread, everything=False
            )

    async def _outside_the_log(self) -> list[Finding]:
        async with _snapshot(self._db, self._pace) as snapshot:
            wrong = await wrong_stamps(snapshot, self.shard, self._trusted.authority)
            found = [Finding(table, self.shard, where, what) for table, where, what in wrong]
            return found + await check_rejects(snapshot, self.shard)


class _Stopped(Exception):
    """Nothing behind a wrong leaf can be judged: read anew, later."""


@asynccontextmanager
async def _snapshot(db: Database, pace: Pace) -> AsyncIterator[Queries]:
    pace.begin()
    async with db.transaction(timeout="600s", isolation="repeatable read") as snapshot:
        yield snapshot
