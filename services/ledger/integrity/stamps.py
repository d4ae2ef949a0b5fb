"""Stored timestamps against the checkpoints that they are of."""

from __future__ import annotations

from typing import Final

from services.ledger.integrity.finding import Finding, Pace
from services.ledger.reader.authority import Authority, stated_time
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import parse_note
from shared.database import Queries, Row

_STAMPS: Final = """
select s.size, s.answer, s.stamped_at, c.note from stamp s left join checkpoint c using (shard, size)
where s.shard = $1 and s.size > $2 order by s.size limit 10
"""


async def wrong_stamps(db: Queries, shard: int, authority: Authority | None, pace: Pace) -> list[Finding]:
    """Without the authority's certificates it is seen whether an answer is about its checkpoint and says the time that
    is noted; with them also whether the authority gave it."""
    found, after = [], 0
    while rows := await db.fetch(_STAMPS, shard, after):
        after = rows[-1]["size"]
        for row in rows:
            what = _wrong(row, authority)
            if what:
                found.append(Finding("stamp", shard, f"size {row['size']}", what))
        await pace.rest()
    return found


def _wrong(row: Row, authority: Authority | None) -> str:
    if row["note"] is None:
        return "is of a checkpoint that is not there"
    try:
        text = parse_note(row["note"].encode()).text
        time = stated_time(row["answer"], text)
        if authority is not None:
            authority.verify(row["answer"], text)
    except Invalid as invalid:
        return invalid.why
    return "" if time == row["stamped_at"] else "does not say the time that is noted beside it"
