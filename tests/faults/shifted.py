"""A process of the product whose clock is wrong: `python -m tests.faults.shifted FILE serve web`.

FILE holds eight bytes, how many milliseconds the clock is ahead (signed, little-endian); writing them makes it jump.
The product takes time from one place, so that is the one place where it is bent. PostgreSQL keeps its own clock.
"""

from __future__ import annotations

import mmap
import struct
import sys
from datetime import datetime, timedelta
from pathlib import Path

from shared import clock


def main() -> None:
    """Bend the clock, then be the product."""
    with Path(sys.argv[1]).open("rb") as file:
        ahead = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    right = clock.utc_now

    def utc_now() -> datetime:
        return right() + timedelta(milliseconds=struct.unpack("<q", ahead[:8])[0])

    clock.utc_now = utc_now
    sys.argv = ["consent-ledger", *sys.argv[2:]]
    from services.cli import main as product  # noqa: PLC0415 - everybody takes the clock when they are imported

    product()


class Clock:
    """The clock of one such process, from outside."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.ahead = timedelta(0)

    @property
    def ahead(self) -> timedelta:
        """How far it is ahead of ours."""
        return timedelta(milliseconds=struct.unpack("<q", self.file.read_bytes())[0])

    @ahead.setter
    def ahead(self, value: timedelta) -> None:
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("<q", value // timedelta(milliseconds=1)))


if __name__ == "__main__":
    main()
