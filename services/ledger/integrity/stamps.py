"""Stored timestamps against the checkpoints that they are of."""

from __future__ import annotations

from typing import Final

from services.ledger.reader.authority import Authority, stated_time
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import parse_note
from shared.database import Queries

Wrong = tuple[str, str, str]
"""Table, where in it, and what is wrong."""

_STAMPS: Final = """
select s.size, s.answer, s.stamped_at, c.note from stamp s left join checkpoint c using (shard, size)
where s.shard = $1 order by s.size
"""


async def wrong_stamps(db: Queries, shard: int, authority: Authority | None) -> list[Wrong]:
    """Without the authority's certificates it is seen whether an answer is about its checkpoint and says the time that
    is noted; with them also whether the authority gave it."""
    found = []
    for row in await db.fetch(_STAMPS, shard):
        what = "is of a checkpoint that is not there" if row["note"] is None else ""
        try:
            if not what:
                text = parse_note(row["note"].encode()).text
                time = stated_time(row["answer"], text)
                if authority is not None:
                    authority.verify(row["answer"], text)
                what = "" if time == row["stamped_at"] else "does not say the time that is noted beside it"
        except Invalid as invalid:
            what = invalid.why
        if what:
            found.append(("stamp", f"size {row['size']}", what))
    return found
