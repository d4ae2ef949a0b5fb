"""What is kept of each subject: the wrapped key, and the matters that decide about later words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Final

from services.ledger import store
from services.ledger.integrity.finding import Finding
from services.ledger.integrity.restrictions import About, Chain, restricted_at
from services.ledger.integrity.statements import KeyRing
from services.ledger.reader import commitment as reader
from services.ledger.reader.errors import Invalid
from services.ledger.reader.state_map import Map
from shared.database import Queries, Row

_AT_ONCE: Final = 1000

RESTRICTED: Final = "restricted_at is not so"
Wrong = Callable[[reader.SubjectKeys, str, str, str | None], str | None]
"""Of a subject's keys, its name, a matter and its restricted_at: what is wrong with that row."""


async def names(db: Queries, shard: int, after: str, limit: int = _AT_ONCE) -> list[str]:
    """The next subjects behind this one, of whom there is a key, or a note that they go or are gone."""
    rows = await db.fetch(
        """(select subject from subject_key where shard = $1 and subject > $2 order by subject limit $3)
           union
           (select subject from erasure where shard = $1 and subject > $2 order by subject limit $3)
           order by subject limit $3""",
        shard,
        after,
        limit,
    )
    return [row["subject"] for row in rows]


async def check_everybody(db: Queries, shard: int, ring: KeyRing, wrong: Wrong) -> AsyncIterator[Finding | int]:
    """Every wrapped key opens, and no row of a matter is wrong; in between, how many matters there were."""
    last = ""
    while some := await names(db, shard, last):
        last, labels = some[-1], 0
        for row in await store.subjects(db, some):
            keys = _keys(shard, ring, row)
            if isinstance(keys, Finding):
                yield keys
                continue
            for matter, at in _matters(row):
                labels += 1
                what = wrong(keys, row["subject"], matter, at)
                if what is not None:
                    yield Finding("matter", shard, f"subject {row['subject']}, {matter}", what)
        yield labels


async def check_touched(db: Queries, shard: int, touched: Mapping[About, str | None]) -> list[Finding]:
    """The rows of matters about which something was just said. What is said later may be in them already."""
    found: list[Finding] = []
    rows = {row["subject"]: row for row in await store.subjects(db, sorted({subject for subject, _ in touched}))}
    for (subject, matter), restricted in touched.items():
        if subject not in rows:
            continue  # its payload has said so
        stored = dict(_matters(rows[subject]))
        where = f"subject {subject}, {matter}"
        if matter not in stored:
            found.append(Finding("matter", shard, where, "has no row"))
        elif restricted is not None and (stored[matter] or "") < restricted:
            found.append(Finding("matter", shard, where, RESTRICTED))
    return found


async def check_some(
    db: Queries, shard: int, ring: KeyRing, rows: Sequence[Row], state_map: Map, end: int, blind: Collection[str]
) -> list[Finding]:
    """As `check_everybody`, by what the log itself says, of subjects as they stood when the log had `end` leaves.

    `state_map` may be of any size. If it is of that one or a later, what is found is wrong; if of an earlier, it is so
    only if it is found by a later one as well.
    """
    found: list[Finding] = []
    chains: dict[About, Chain] = {}
    stored: dict[About, str | None] = {}
    for row in rows:
        keys = _keys(shard, ring, row)
        if isinstance(keys, Finding):
            found.append(keys)
            continue
        for matter, at in _matters(row):
            about, last = (row["subject"], matter), state_map.last(reader.label(keys.label_key, matter))
            if last is None:
                found.append(Finding("matter", shard, f"subject {row['subject']}, {matter}", "has no label in the map"))
            else:
                stored[about], chains[about] = at, (keys, last[1])
    for about, said in (await restricted_at(db, shard, chains, end)).items():
        if not isinstance(said, Invalid) and about[0] not in blind and said != stored[about]:
            found.append(Finding("matter", shard, f"subject {about[0]}, {about[1]}", RESTRICTED))
    return found


def _keys(shard: int, ring: KeyRing, row: Row) -> reader.SubjectKeys | Finding:
    try:
        return ring.of(row["subject"], row["wrapped"])[0]
    except Invalid as invalid:
        return Finding("subject_key", shard, f"subject {row['subject']}", f"{invalid.what} {invalid.why}")


def _matters(row: Row) -> list[tuple[str, str | None]]:
    pairs = zip(row["matters"], row["restricted_at"], strict=True)
    return [(matter, at) for matter, at in pairs if matter is not None]
