"""What an operator sees of the log's stages: read from the tables at each scrape, whoever of the ledger is alive."""

from __future__ import annotations

from services.ledger import store
from services.ledger.outside import cosignatures, stamps
from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import Erasure, Event, parse_leaf
from shared.clock import Clock
from shared.database import Database
from shared.metrics import Metrics


class Gauges:
    """Sizes and ages of appending, sealing and publishing; what waits for a person; what `log check` last said."""

    def __init__(self, db: Database, clock: Clock, metrics: Metrics) -> None:
        self._db = db
        self._clock = clock
        of_shard = ("shard",)
        self._leaves = metrics.gauge("log_leaves", "Leaves of the log that have passed a stage", ("shard", "stage"))
        self._unsealed = metrics.gauge("unsealed_seconds", "Age of the oldest leaf that is not signed", of_shard)
        self._fresh = metrics.gauge("fresh_seconds", "Time since the signer last said what the newest is", of_shard)
        self._marks = metrics.gauge(
            "mark_age_seconds", "Up to how long ago everything that a source accepted is sealed", ("shard", "source")
        )
        self._checked = metrics.gauge(
            "check_age_seconds", "Time since the log was last checked, or since it was created", of_shard
        )
        self._findings = metrics.gauge("check_findings", "Wrong rows that the last check of the log named", of_shard)
        self._incidents = metrics.gauge("open_incidents", "Incidents that wait for a person", ("kind",))
        self._rejects = metrics.gauge("unhandled_rejects", "Messages rejected that wait for a person", ("reason",))
        self._behind = metrics.gauge(
            "check_behind_seconds", "Time since everything that is signed was checked, by the running check", of_shard
        )
        metrics.at_scrape(
            self._read_log,
            self._leaves,
            self._unsealed,
            self._fresh,
            self._marks,
            self._checked,
            self._findings,
            self._behind,
        )
        self._witnesses = metrics.gauge(
            "witness_age_seconds", "Time since a witness last cosigned, or since we know it", ("shard", "witness")
        )
        self._stamps = metrics.gauge(
            "timestamp_age_seconds", "Age of the newest timestamp, if there are leaves that it does not cover", of_shard
        )
        metrics.at_scrape(self._read_witnesses, self._witnesses)
        metrics.at_scrape(self._read_stamps, self._stamps)
        metrics.at_scrape(self._read_troubles, self._incidents, self._rejects)

    async def _read_log(self) -> None:
        for row in await store.stages(self._db):
            shard = str(row["shard"])
            for stage in ("appended", "sealed", "published", "checked"):
                self._leaves.labels(shard, stage).set(row[stage])
            self._unsealed.labels(shard).set(self._age_of(row["oldest_unsealed"]))
            self._fresh.labels(shard).set(row["fresh_seconds"])
            self._checked.labels(shard).set(row["check_seconds"])
            self._findings.labels(shard).set(row["findings"])
            self._behind.labels(shard).set(row["behind_seconds"])
        for row in await store.mark_ages(self._db):
            self._marks.labels(str(row["shard"]), row["source"]).set(row["seconds"])

    def _age_of(self, leaf: bytes | None) -> float:
        try:
            first = None if leaf is None else parse_leaf(leaf)
        except Invalid:
            first = None  # the signer stops at it and opens an incident
        if not isinstance(first, Event | Erasure):
            return 0.0
        return max(0.0, self._clock().timestamp() - first.recorded_at / 1000)

    async def _read_witnesses(self) -> None:
        for row in await cosignatures.witness_ages(self._db):
            self._witnesses.labels(str(row["shard"]), row["name"]).set(row["seconds"])

    async def _read_stamps(self) -> None:
        for row in await stamps.stamp_ages(self._db):
            self._stamps.labels(str(row["shard"])).set(row["seconds"])

    async def _read_troubles(self) -> None:
        for row in await store.open_incidents_by_kind(self._db):
            self._incidents.labels(row["kind"]).set(row["number"])
        for row in await store.unhandled_rejects_by_reason(self._db):
            self._rejects.labels(row["reason"]).set(row["number"])
