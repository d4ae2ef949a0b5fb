"""Has an authority say now and then when a checkpoint was there (RFC 3161); nothing of the flow waits for it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from prometheus_client import Counter
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, decode_timestamp_response

from services.ledger import store
from services.ledger.outside import stamps
from services.ledger.reader.authority import Authority
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import parse_note
from shared import logs
from shared.clock import Clock
from shared.database import Database
from shared.errors import Unavailable
from shared.metrics import Metrics
from shared.outside import Outside

ANSWER_SECONDS: Final = 20.0
LONGEST_PAUSE: Final = 3600.0

_KIND: Final = "application/timestamp-query"
_OK: Final = 200

log = logs.logger("timestamps")


def answers(metrics: Metrics) -> Counter:
    """Counted also where no authority is asked: none."""
    return metrics.counter("timestamp_answers", "What the authority answered", ["answer"])


class Timestamps:
    """Those of one shard."""

    def __init__(
        self,
        shard: int,
        db: Database,
        url: str,
        every: float,
        authority: Authority,
        http: Outside,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        """`every` are the seconds between two timestamps, at least."""
        self.shard = shard
        self._db = db
        self._url = url
        self._every = every
        self._authority = authority
        self._http = http
        self._clock = clock
        self._answers = answers(metrics or Metrics("ledger_seal"))

    async def run(self) -> None:
        """Have the newest checkpoint timestamped whenever one is due, until cancelled."""
        sealed = self._db.listen("ledger_sealed")
        pause = 0.0
        while True:
            seen = sealed.changed
            try:
                due = await self.step()
            except Unavailable as error:
                pause = self._pause(pause, "silent", error.service)
                await asyncio.sleep(pause)
            except Invalid as invalid:
                pause = self._pause(pause, "invalid", str(invalid))
                await asyncio.sleep(pause)
            else:
                pause = 0.0
                if due is None:
                    await sealed.wait(self._every, since=seen)
                else:
                    await asyncio.sleep(due)

    def _pause(self, before: float, answer: str, why: str) -> float:
        pause = min(max(2 * before, 5.0), LONGEST_PAUSE)
        self._answers.labels(answer).inc()
        log.warning("no-timestamp", shard=self.shard, why=why, seconds=pause)
        return pause

    async def step(self) -> float | None:
        """Ask for a timestamp if one is due; seconds until the next is, None if the newest checkpoint has one."""
        newest = await store.newest_checkpoint(self._db, self.shard)
        last = await stamps.newest_stamp(self._db, self.shard)
        if newest is None or (last is not None and last["size"] == newest["size"]):
            return None
        if last is not None:
            since: timedelta = self._clock() - last["stamped_at"]
            left = self._every - since.total_seconds()
            # A clock that was put back, or an authority whose clock is ahead, must not silence this for long.
            if 0 < left <= self._every:
                return left
        text = parse_note(newest["note"].encode()).text
        request = TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256).build()
        answer = await self._http.post(self._url, request.as_bytes(), _KIND, ANSWER_SECONDS)
        if answer.status != _OK:
            raise Unavailable("time-stamp authority")
        time = self._authority.verify(answer.body, text)
        if decode_timestamp_response(answer.body).tst_info.nonce != request.nonce:
            raise Invalid("timestamp", "the answer", "is to another request")
        await stamps.add_stamp(self._db, self.shard, newest["size"], answer.body, time)
        self._answers.labels("granted").inc()
        return self._every
