"""The signer's replica as it was at a size it signed, beside its leaves, so that it need not replay them all to begin.

    consent-ledger/signer-map/1\\n || size u64 || bytes of leaves u64 || recorded_at u64 || ended u64 || labels u64
        || roots of the perfect subtrees, 32 each || ended labels, 32 each || records, 80 each (docs/formats.md §9)
        || SHA-256 over all before

It is believed if tree and map, with the leaves behind it, have the roots that were signed and that the last MAP_ROOT
says. A file that is damaged or of something else is left aside: then all leaves are replayed.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from services.ledger.reader.errors import Invalid
from services.ledger.reader.leaf import MapRoot, parse_leaf
from services.ledger.reader.merkle import HASH_SIZE, Tree, leaf_hash
from services.ledger.reader.replica import Replica
from services.ledger.reader.state_map import RECORD_SIZE, Map
from services.ledger.signer_files import Signed, SignerFiles
from shared.errors import Corrupt

AT_LEAST: Final = 100_000
"""Leaves between two of them; with many labels half as many as there are labels."""

_MAGIC: Final = b"consent-ledger/signer-map/1\n"
_NUMBERS: Final = struct.Struct(">QQQQQ")
_MAP_ROOT_SIZE: Final = 57
_ERASURE: Final = 3
_LABEL: Final = slice(1, 33)
_LABEL_AND_VERSION: Final = slice(1, 41)
_RECORDED_AT: Final = slice(81, 89)
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


def replica_of(files: SignerFiles) -> tuple[Replica, int]:
    """The replica of all that was signed, and of which size the map was that it began with (0: none); takes seconds.

    What was signed kept every rule, or it would not have been; so nothing is asked of it but that the tree has every
    root that was signed, and the map that of the MAP_ROOT at the end. Corrupt if it has not.
    """
    roots = {one.size: one.root for one in files.signed}
    kept = _read(files.folder)
    if kept is not None:
        with suppress(Corrupt, Invalid):
            return _replayed(files, roots, kept), kept.size
    try:
        return _replayed(files, roots, _NOTHING), 0
    except Invalid as invalid:
        raise Corrupt("the signer's leaves", f"shard {files.folder.name}: {invalid}") from None


@dataclass(frozen=True, slots=True)
class _Kept:
    size: int
    leaves_end: int
    recorded_at: int
    perfect: Sequence[bytes]
    ended: Sequence[bytes]
    records: Sequence[bytes]


_NOTHING: Final = _Kept(0, 0, 0, (), (), ())


def _replayed(files: SignerFiles, roots: Mapping[int, bytes], kept: _Kept) -> Replica:
    tree, ended, recorded_at = Tree.of(kept.size, kept.perfect), set(kept.ended), kept.recorded_at
    newest = {record[:HASH_SIZE]: record for record in kept.records}
    for leaf in files.leaves(kept.size, kept.leaves_end):
        hashed = leaf_hash(leaf)
        if len(leaf) != _MAP_ROOT_SIZE:
            newest[leaf[_LABEL]] = leaf[_LABEL_AND_VERSION] + tree.size.to_bytes(8, "big") + hashed
            recorded_at = int.from_bytes(leaf[_RECORDED_AT], "big")
            if leaf[0] == _ERASURE:
                ended.add(leaf[_LABEL])
        tree.append(hashed)
        if tree.size in roots and roots[tree.size] != tree.root():
            raise Corrupt("the signer's files", f"shard {files.folder.name}: root of size {tree.size}")
    if Signed(tree.size, tree.root()) != files.signed[-1]:  # where nothing was signed behind the map that was kept
        raise Corrupt("the signer's files", f"shard {files.folder.name}: size {tree.size}")
    state_map = Map.of(newest[label] for label in sorted(newest))
    last = parse_leaf(files.bytes_at(files.end - _MAP_ROOT_SIZE, _MAP_ROOT_SIZE))
    expected = (tree.size - 1, len(state_map), state_map.root())
    if not isinstance(last, MapRoot) or (last.covers, last.labels, last.map_root) != expected:
        raise Corrupt("the signer's leaves", f"shard {files.folder.name}: the MAP_ROOT at {tree.size - 1}")
    return Replica.resume(tree, state_map, ended, recorded_at, tree.size - 1)


def _read(folder: Path) -> _Kept | None:
    """What was kept, or None if there is nothing or it is damaged."""
    try:
        data = (folder / "map").read_bytes()
    except OSError:
        return None
    body = memoryview(data)[:-HASH_SIZE]
    at = len(_MAGIC) + _NUMBERS.size
    if len(body) < at or not data.startswith(_MAGIC) or sha256(body).digest() != data[-HASH_SIZE:]:
        return None
    size, leaves_end, recorded_at, ended, labels = _NUMBERS.unpack_from(data, len(_MAGIC))
    hashes = HASH_SIZE * (size.bit_count() + ended)
    if len(body) != at + hashes + RECORD_SIZE * labels:
        return None
    both = _cut(body[at : at + hashes], HASH_SIZE)
    perfect, labels_ended = both[: size.bit_count()], both[size.bit_count() :]
    return _Kept(size, leaves_end, recorded_at, perfect, labels_ended, _cut(body[at + hashes :], RECORD_SIZE))


def _cut(joined: memoryview, length: int) -> list[bytes]:
    return [bytes(joined[at : at + length]) for at in range(0, len(joined), length)]
