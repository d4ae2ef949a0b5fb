"""End whatever runs of this checkout and remove what it kept: `python -m infra.local.clean` (standard library only)."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from infra.local.processes import Claim, InUse, Running, end_left_behind
from infra.local.state import CHECKOUT, LOCAL, spare_folder

GRACE = 30.0  # seconds a run has to stop its parts by itself


def clean(local: Path, spare: Path) -> list[str]:
    """End the runs below `local`, then what they left behind, then remove both folders; return what was ended."""
    ended: list[str] = []
    for folder in _state_folders(local):
        try:
            with Claim(folder / "run.lock", "make clean"):
                pass
        except InUse as running:
            _end_run(running)
            ended.append(str(running.holder.get("what")))
        ended += end_left_behind(folder)
    for made in (local, spare):
        for link in made.rglob("socket"):
            if link.is_symlink():  # to a folder with a path short enough for a socket
                shutil.rmtree(link.readlink(), ignore_errors=True)
        if made.exists():
            shutil.rmtree(made)
    return ended


def _state_folders(local: Path) -> Iterator[Path]:
    yield from sorted({found.parent for found in [*local.rglob("run.lock"), *local.rglob("processes")]})


def _end_run(run: InUse) -> None:
    facts = run.holder
    if facts.get("pid") == os.getpid():
        return
    if (running := Running.on_record(facts)) is not None:
        running.end(signal.SIGTERM, GRACE)


def main() -> None:
    """Clean this checkout."""
    for name in clean(LOCAL, spare_folder(CHECKOUT)):
        print(f"ended: {name}", file=sys.stderr)


if __name__ == "__main__":
    main()
