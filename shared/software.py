"""What program this is: a name, a version, and one hash over every file of it, as each statement names them.

The hash is the SHA-256 of what `sha256sum` prints of all files of `services` and `shared`, sorted by path. So whoever
has a checkout, a wheel or an image makes it again without us, and it is the same in all three:

    find services shared -type f ! -path '*/__pycache__/*' | LC_ALL=C sort | xargs sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

VERSION: Final = "0.1.0"
_ROOT: Final = Path(__file__).resolve().parents[1]
_PACKAGES: Final = ("services", "shared")
"""All that decides what is said and recorded. `infra`, tests and documents run in no process that states anything."""


def listing(root: Path = _ROOT) -> bytes:
    """A line for each file, as `sha256sum` prints it."""
    files = {
        path.relative_to(root).as_posix().encode(): path
        for package in _PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return b"".join(
        hashlib.sha256(files[name].read_bytes()).hexdigest().encode("ascii") + b"  " + name + b"\n"
        for name in sorted(files)
    )


@cache
def software(root: Path = _ROOT) -> str:
    """The value of `software` in what this process states: read once, when it starts."""
    return f"consent-ledger {VERSION} sha256:{hashlib.sha256(listing(root)).hexdigest()}"
