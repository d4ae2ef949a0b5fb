"""The signer's replica as it was at a size it signed, beside its leaves, so that it need not replay them all to begin.

    consent-ledger/signer-map/1\\n || size u64 || bytes of leaves u64 || recorded_at u64 || ended u64 || labels u64
        || roots of the perfect subtrees, 32 each || ended labels, 32 each || records, 80 each (docs/formats.md §9)
        || SHA-256 over all before

The tree is shown by the root that was signed at this size, the map by the MAP_ROOT there. A file that is damaged or of
something else is left aside: then all leaves are replayed.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Coroutine, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import MapRoot, parse_leaf
from services.ledger.reader.merkle import HASH_SIZE, Tree
from services.ledger.reader.replica import Replica
from services.ledger.reader.state_map import RECORD_SIZE, Map

AT_LEAST: Final = 100_000
"""Leaves between two of them; with many labels half as many as there are labels."""

_MAGIC: Final = b"consent-ledger/signer-map/1\n"
_NUMBERS: Final = struct.Struct(">QQQQQ")
_MAP_ROOT_SIZE: Final = 57
_CHUNK: Final = 1 << 18
_PAUSE_SECONDS: Final = 0.01


def is_due(size: int, last: int, labels: int) -> bool:
    """Whether it is worth its writing at this size, after the last one."""
    return size - last >= max(AT_LEAST, labels // 2)


def begin(folder: Path, replica: Replica, leaves_end: int) -> Coroutine[Any, Any, None]:
    """What writes the replica down as it is now, in small steps; it may go on meanwhile. The old file is replaced at
    the end. `leaves_end`: how many bytes of `leaves` it is made of."""
    erased = sorted(replica.erased)
    numbers = _NUMBERS.pack(replica.size, leaves_end, replica.recorded_at, len(erased), len(replica.map))
    return _write(folder, _MAGIC + numbers + b"".join(replica.perfect) + b"".join(erased), replica.map.snapshot())


async def _write(folder: Path, head: bytes, records: Iterator[bytes]) -> None:
    draft = folder / "map.new"
    digest = sha256()
    chunk = bytearray(head)
    with draft.open("wb") as file:
        for some in records:
            chunk += some
            if len(chunk) > _CHUNK:
                digest.update(chunk)
                file.write(chunk)
                chunk.clear()
                await asyncio.sleep(_PAUSE_SECONDS)
        digest.update(chunk)
        file.write(chunk + digest.digest())
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    draft.rename(folder / "map")


def read(folder: Path, signed: Mapping[int, bytes]) -> tuple[Replica, int] | None:
    """The replica that was kept, and where in `leaves` the next leaf is; None if there is none that proves itself.

    `signed`: every size that was signed, with its root.
    """
    try:
        return _read(folder, (folder / "map").read_bytes(), signed)
    except (OSError, Invalid, struct.error):
        return None


def _read(folder: Path, data: bytes, signed: Mapping[int, bytes]) -> tuple[Replica, int] | None:
    body = memoryview(data)[:-HASH_SIZE]
    if not data.startswith(_MAGIC) or sha256(body).digest() != data[-HASH_SIZE:]:
        return None
    size, leaves_end, recorded_at, ended, labels = _NUMBERS.unpack_from(data, len(_MAGIC))
    at = len(_MAGIC) + _NUMBERS.size
    if len(body) != at + HASH_SIZE * (size.bit_count() + ended) + RECORD_SIZE * labels:
        return None
    hashes = [bytes(body[one : one + HASH_SIZE]) for one in _steps(at, size.bit_count() + ended, HASH_SIZE)]
    tree = Tree.of(size, hashes[: size.bit_count()])
    with (folder / "leaves").open("rb") as leaves:
        leaves.seek(max(0, leaves_end - _MAP_ROOT_SIZE))
        last = parse_leaf(leaves.read(_MAP_ROOT_SIZE))
    at += HASH_SIZE * len(hashes)
    state_map = Map.of(bytes(body[one : one + RECORD_SIZE]) for one in _steps(at, labels, RECORD_SIZE))
    if signed.get(size) != tree.root() or not isinstance(last, MapRoot):
        return None
    if (last.covers, last.labels, last.map_root) != (size - 1, labels, state_map.root()):
        return None
    return Replica.resume(tree, state_map, hashes[size.bit_count() :], recorded_at, size - 1), leaves_end


def _steps(start: int, count: int, length: int) -> range:
    return range(start, start + count * length, length)
