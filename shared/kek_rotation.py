"""A new key-encryption key, and the end of the old one: from then on what was erased is erased in every backup, too.

Running processes look for a new key every few seconds, wrap with the newest from then on, and wrap anew what hangs on
an older one. So an old key is destroyed only when nothing hangs on it, and not before everybody has looked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from shared.database import Database
from shared.identifiers import Random
from shared.secrets import Secrets, add_kek
from shared.settings import Settings

Owner = Literal["ledger", "subjects"]

LOOKS_EVERY: Final = 10.0
"""At the latest every so many seconds a process that wraps looks for a new key."""
SETTLED_AFTER: Final = 3 * LOOKS_EVERY

_HANGING: Final = """
select ('x' || encode(substring(wrapped for 4), 'hex'))::bit(32)::bigint as kek, count(*) as number
from subject_key group by 1 order by 1
"""
# The signer's file of keys, outside of PostgreSQL: a restore from a backup needs what it hangs on.
_HANGING_BESIDE: Final = "select oldest_kek as kek, count(*) as number from key_file where oldest_kek > 0 group by 1"


async def hanging(settings: Settings, owner: Owner) -> dict[int, int]:
    """How many keys of subjects hang on each key-encryption key, by its number; a file of keys counts as one."""
    db = await Database.connect(settings.dsn(owner), owner, max_size=1)
    try:
        found = {row["kek"]: row["number"] for row in await db.fetch(_HANGING)}
        if owner == "ledger":
            for row in await db.fetch(_HANGING_BESIDE):
                found.setdefault(row["kek"], row["number"])
        return found
    finally:
        await db.close()


async def rotate(
    settings: Settings,
    owner: Owner,
    random: Random,
    progress: Callable[[str], None],
    settled_after: float = SETTLED_AFTER,
) -> list[str]:
    """Make a new key, wait until nothing hangs on an older one, destroy those; their names.

    If it stops before the end, older keys are still there and nothing is lost: asked again, a further new key is made.
    """
    newest = add_kek(settings.secrets_dir, owner, random)
    loop = asyncio.get_running_loop()
    settled = loop.time() + settled_after
    while True:
        older = sum(number for kek, number in (await hanging(settings, owner)).items() if kek < newest)
        if not older and loop.time() >= settled:
            break
        progress(f"{older} keys hang on an older key-encryption key")
        await asyncio.sleep(min(1.0, settled_after / 3))
    destroyed = []
    for number, path in Secrets(settings.secrets_dir).kek_files(owner).items():
        if number < newest:
            _destroy(path)
            destroyed.append(path.name)
    return destroyed


def _destroy(path: Path) -> None:
    """Written over and removed. A file system that keeps old blocks, and its backups, must be told to forget them."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
