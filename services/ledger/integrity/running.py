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
from typing import Final, NamedTuple

from services.ledger import store
from services.ledger.integrity import erasures, people
from services.ledger.integrity.beside import attachments_behind, check_rejects
from services.ledger.integrity.cosignatures import Cosignatures
from services.ledger.integrity.finding import Finding, Pace, Trusted
from services.ledger.integrity.leaves import Leaves, TreeAlone, resume
from services.ledger.integrity.numbers import Numbers, check_numbers, take_for_granted
from services.ledger.integrity.replay import Replay
from services.ledger.integrity.restrictions import About, Restrictions
from services.ledger.integrity.signatures import Signatures
from services.ledger.integrity.stamps import wrong_stamps
from services.ledger.integrity.statements import KeyRing, Statements, not_erased
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

_LEAVES_AT_ONCE: Final = 500
_CHECKPOINTS_AT_ONCE: Final = 1000
_SUBJECTS_AT_ONCE: Final = 50
_ATTACHMENTS_AT_ONCE: Final = 8
_COSIGNED_AT_ONCE: Final = 100
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
        tail, wrong = self._tail, 0
        assert tail is not None  # noqa: S101 - `follow` comes first
        sweep = Sweep(tail, self._db, self._trusted, Pace(self._rests), self._again_seconds)
        async for found in sweep.findings():
            if self._tail is not tail:
                raise _Stopped
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
        self,
        db: Database,
        trusted: Trusted,
        log_row: Row,
        leaves: Leaves,
        replica: Replica,
        numbers: Numbers,
        pace: Pace,
    ) -> None:
        self.shard: int = log_row["shard"]
        self.log = log_row
        self.replica = replica
        self.size = replica.size
        """Up to the last checkpoint that it has come to; the replica may be further already."""
        self._numbers = numbers
        self._pace = pace
        self._db = db
        self._moved = Signal()
        self._signatures = Signatures(trusted, log_row)
        self._witnesses = trusted.witnesses
        self.ring = KeyRing(trusted.keks, log_row["origin"])
        restrictions = Restrictions(complete=False)
        self._statements = Statements(self.shard, trusted, self.ring, restrictions, numbers)
        self._replay = Replay(leaves, self._statements, pace, lambda: replica.map)

    @classmethod
    async def begin(cls, shard: int, db: Database, trusted: Trusted, pace: Pace) -> Tail:
        """At the newest checkpoint. Invalid if what is stored does not lead to what it signs."""
        numbers = Numbers()
        async with _snapshot(db) as snapshot:
            [row] = [one for one in await store.logs(snapshot) if one["shard"] == shard]
            newest = await store.newest_checkpoint(snapshot, shard)
            if newest is None:
                raise Corrupt("checkpoint", f"shard {shard} has none")
            # Now, not later: what a source's progress was at this size goes once more is sealed.
            await take_for_granted(snapshot, shard, newest["size"], numbers)
        leaves, replica = await resume(db, shard, newest["size"], newest["root"], pace)
        return cls(db, trusted, row, leaves, replica, numbers, pace)

    @property
    def stopped(self) -> bool:
        """Whether it has come to a wrong leaf."""
        return self._replay.stopped

    def ask_about(self, gone: Sequence[tuple[int, bytes]]) -> None:
        """Of these statements, by index and label, nothing is stored: the next step says whether it may be so."""
        self._statements.without_payload += gone

    async def reached(self, size: int, seconds: float) -> bool:
        """Wait until so many leaves are checked; False if for this long nothing moves."""
        while self.size < size:
            seen = self._moved.changed
            if not await self._moved.wait(seconds, since=seen):
                return False
        return True

    async def step(self) -> tuple[list[Finding], bool]:
        """The next leaves that are signed, up to a checkpoint, and all that stands beside them; whether these were the
        last.

        No snapshot holds these queries together. What is signed stays as it is; of what moves, each query is asked
        late enough that what it answers can only be more than what follows from the leaves.
        """
        self._pace.begin()
        before = self.size
        # Before it is asked how far is sealed: a statement goes only once the end of its label is.
        gone, self._statements.without_payload = self._statements.without_payload, []
        behind = await store.checkpoints_behind(self._db, self.shard, before, _CHECKPOINTS_AT_ONCE)
        if not behind and (sealed := await store.sealed_size(self._db, self.shard)) < before:
            raise Corrupt("checkpoint", f"size {sealed} is the newest, after {before}")
        rows = _next(behind, before)
        at_the_end = len(rows) == len(behind) < _CHECKPOINTS_AT_ONCE
        found: list[Finding] = []
        touched: dict[About, str | None] = {}
        async for one in self._replay.to(self._db, rows[-1]["size"] if rows else before):
            if isinstance(one, Finding):
                found.append(one)
            touched |= self._statements.touched
        found += await self._beside(rows, before)
        found += await people.check_touched(self._db, self.shard, touched)
        if not at_the_end or self.stopped:
            self._statements.without_payload += gone
        elif gone:
            lost = await store.lost_records(self._db, self.shard)
            found += not_erased(self.shard, gone, self.replica.erased, lost)
        if rows and not self.stopped:
            self.size = self._replay.size
            self._moved.notify()
        await self._pace.rest()
        return found, at_the_end and not self._statements.without_payload

    async def _beside(self, rows: Sequence[Row], before: int) -> list[Finding]:
        found = await self._signatures.check_keys(self._db)
        found += await self._signatures.check_checkpoints(
            self._db, rows, self._replay.roots, self._replay.size, previous=before, stopped=self.stopped
        )
        self._replay.roots.clear()
        found += await self._signatures.check_served(self._db)
        if self._witnesses and self._witnesses.witnesses:
            found += await self._cosigned(before)
        if not self.stopped:
            found += await check_numbers(
                self._db, self.shard, self._replay.size, self._numbers, self._pace, unread=False, everything=True
            )
        return found

    async def _cosigned(self, before: int) -> list[Finding]:
        """What has come since the last step, of a witness that answers within one; the rest is the sweep's."""
        cosignatures = Cosignatures(self.shard, self._witnesses)
        wrong = await cosignatures.check_policies(self._db)
        wrong += (await cosignatures.check_behind(self._db, before - 1, _COSIGNED_AT_ONCE))[0]
        return wrong + await cosignatures.check_newest(self._db)


class _Kept(NamedTuple):
    """What is stored of some subjects at one moment."""

    end: int
    """leaves there were"""
    epoch: int
    """another, if the shard has another owner, as when its tail was taken out"""
    subjects: Sequence[Row]
    noted: Sequence[Row]


class Sweep:
    """One walk through everything that is older than where the tail stands."""

    def __init__(self, tail: Tail, db: Database, trusted: Trusted, pace: Pace, patience: float) -> None:
        """`patience`: for how many seconds the tail may stand still where something waits for it."""
        self._tail = tail
        self._trusted = trusted
        self._db = db
        self._pace = pace
        self._patience = patience
        self.shard = tail.shard
        self._signatures = Signatures(trusted, tail.log)
        self._numbers = Numbers()
        signed = None if trusted.signer_dir is None else signed_leaves(trusted.signer_dir, self.shard)
        restrictions = Restrictions(complete=False)
        self._statements = Statements(self.shard, trusted, tail.ring, restrictions, self._numbers)
        leaves = Leaves(self.shard, TreeAlone(), signed=signed)
        self._replay = Replay(leaves, self._statements, pace, lambda: tail.replica.map)

    async def findings(self) -> AsyncIterator[list[Finding]]:
        """What is wrong, a piece at a time: what is signed does not change between them, and of what moves meanwhile
        nothing is said."""
        previous: int | None = None
        while not self._replay.stopped and self._replay.size < self._tail.size:
            self._pace.begin()
            found, previous = await self._leaves(previous)
            yield found
            await self._pace.rest()
        if not self._replay.stopped:
            yield await self._whole()
        after = ""
        while some := await people.names(self._db, self.shard, after, _SUBJECTS_AT_ONCE):
            after = some[-1]
            self._pace.begin()
            yield await self._people(some)
            await self._pace.rest()
        self._pace.begin()
        yield await self._outside_the_log()
        async for found in self._cosigned():
            yield found
        last: bytes | None = b""
        while self.shard == 0 and last is not None:
            self._pace.begin()
            last, found = await attachments_behind(self._db, last, _ATTACHMENTS_AT_ONCE)
            yield found
            await self._pace.rest()

    async def _leaves(self, previous: int | None) -> tuple[list[Finding], int | None]:
        behind = await store.checkpoints_behind(self._db, self.shard, previous or 0, _CHECKPOINTS_AT_ONCE)
        rows = _next([row for row in behind if row["size"] <= self._tail.size], self._replay.size)
        if not rows:
            self._replay.stopped = True
            what = f"there is none behind size {previous}, and {self._tail.size} leaves were signed"
            return [Finding("checkpoint", self.shard, "all", what)], previous
        end = rows[-1]["size"]
        found = [one async for one in self._replay.to(self._db, end) if isinstance(one, Finding)]
        found += await self._signatures.check_checkpoints(
            self._db, rows, self._replay.roots, self._replay.size, previous=previous, stopped=self._replay.stopped
        )
        self._replay.roots.clear()
        return found, end

    async def _whole(self) -> list[Finding]:
        """What takes all leaves: which numbers of each source have come."""
        self._pace.begin()
        self._tail.ask_about(self._statements.without_payload)
        unread = bool(self._statements.without_payload or self._statements.blind)
        size, numbers = self._replay.size, self._numbers
        return await check_numbers(self._db, self.shard, size, numbers, self._pace, unread=unread, everything=False)

    async def _people(self, some: Sequence[str]) -> list[Finding]:
        """What is kept of these subjects, as it was at one moment, against what had been recorded of them then."""
        kept = await self._kept(some)
        if not await self._wrong(kept):
            return []
        # It may follow from what is recorded and not checked yet, or have changed while it was judged. What moves so
        # much is left to the next sweep.
        if not await self._tail.reached(kept.end, self._patience):
            return []
        found = await self._wrong(kept)
        again = await self._kept(some)
        return found if again._replace(end=kept.end) == kept else []

    async def _kept(self, some: Sequence[str]) -> _Kept:
        async with _snapshot(self._db) as snapshot:
            head = await store.head(snapshot, self.shard)
            rows, noted = await store.subjects(snapshot, some), await erasures.noted(snapshot, self.shard, some)
        return _Kept(head["size"], head["epoch"], sorted(rows, key=lambda row: str(row["subject"])), noted)

    async def _wrong(self, kept: _Kept) -> list[Finding]:
        db, shard, ring = self._db, self.shard, self._tail.ring
        known, erased = self._tail.replica.map, self._tail.replica.erased
        found = await people.check_some(db, shard, ring, kept.subjects, known, kept.end, self._statements.blind)
        return found + await erasures.wrong_erasures(db, shard, ring, kept.noted, known, erased, kept.end)

    async def _outside_the_log(self) -> list[Finding]:
        wrong = await wrong_stamps(self._db, self.shard, self._trusted.authority, self._pace)
        return wrong + await check_rejects(self._db, self.shard, self._pace)

    async def _cosigned(self) -> AsyncIterator[list[Finding]]:
        cosignatures, last = Cosignatures(self.shard, self._trusted.witnesses), False
        wrong = await cosignatures.check_policies(self._db)
        while not last:
            self._pace.begin()
            more, last = await cosignatures.check_behind(self._db, cosignatures.size, _COSIGNED_AT_ONCE)
            wrong += more if not last else more + await cosignatures.check_newest(self._db)
            yield wrong
            wrong = []
            await self._pace.rest()


class _Stopped(Exception):
    """Nothing behind a wrong leaf can be judged: read anew, later."""


def _next(behind: Sequence[Row], size: int) -> Sequence[Row]:
    """Of the checkpoints behind this size those that lead some hundred leaves on, and one that leads further."""
    far = [place for place, row in enumerate(behind, 1) if row["size"] >= size + _LEAVES_AT_ONCE]
    return behind[: far[0]] if far else behind


@asynccontextmanager
async def _snapshot(db: Database) -> AsyncIterator[Queries]:
    """For a few queries that must see one moment. While it is open PostgreSQL tidies nothing up that went since, for
    anybody: so nothing is computed in it, no leaves are read, and nobody rests."""
    async with db.transaction(isolation="repeatable read") as snapshot:
        yield snapshot
