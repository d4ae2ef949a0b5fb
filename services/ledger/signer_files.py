"""The signer's own memory outside PostgreSQL and its backups: every leaf it took in, every size it signed.

    leaves   the leaves joined, as in docs/formats.md §5
    sizes    one record per signature: size u64 || root 32 || first 8 bytes of SHA-256 over both

Both only grow, and both are on the disk before a signature leaves the process. So whatever is behind the last whole
record of `sizes` was never signed, and may be cut off; whatever is before it was, and must be there.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, Self

from shared.errors import Corrupt

_RECORD: Final = 48
_LENGTHS: Final = {0x01: 89, 0x02: 57, 0x03: 89}
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Signed:
    """A size that was signed, or is about to be, and its root."""

    size: int
    root: bytes

    def record(self) -> bytes:
        """The bytes of this in `sizes`."""
        body = self.size.to_bytes(8, "big") + self.root
        return body + sha256(body).digest()[:8]


class SignerFiles:
    """The two files of one shard, held by one process at a time."""

    def __init__(self, folder: Path, leaves: BinaryIO, sizes: BinaryIO, signed: list[Signed]) -> None:
        self.folder = folder
        self._leaves = leaves
        self._sizes = sizes
        self.signed = signed
        """What `sizes` holds, oldest first; never empty."""
        self._end: int | None = None
        """Where what was signed ends in `leaves`, once somebody has read as far."""

    @staticmethod
    def exist(directory: Path, shard: int) -> bool:
        """Whether this shard was ever begun here."""
        return (directory / str(shard) / "sizes").exists()

    @classmethod
    def create(cls, directory: Path, shard: int, leaves: bytes, signed: Signed) -> None:
        """Begin the files of a log with its leaf 0, or with all that a mirror has of it. Not before this has returned
        may this size be signed."""
        folder = directory / str(shard)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # `sizes` last: it is what says that the files exist.
        for name, content in (("leaves", leaves), ("sizes", signed.record())):
            draft = folder / f"{name}.new"
            with draft.open("wb") as file:
                file.write(content)
                _sync(file)
            draft.rename(folder / name)
        _sync_folder(folder)
        _sync_folder(directory)

    @classmethod
    def open(cls, directory: Path, shard: int) -> Self:
        """Open for reading and adding; Corrupt if there are none, they contradict each other, or another holds them."""
        folder = directory / str(shard)
        if not cls.exist(directory, shard):
            raise Corrupt("the signer's files", f"shard {shard} has none; a log begins by `log create` alone")
        sizes = (folder / "sizes").open("r+b")
        leaves = (folder / "leaves").open("r+b")
        try:
            fcntl.flock(sizes, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sizes.close()
            leaves.close()
            raise Corrupt("the signer's files", f"shard {shard}: another signer holds them") from None
        return cls(folder, leaves, sizes, _read_sizes(sizes, shard))

    def leaves(self, start: int = 0, at: int = 0) -> Iterator[bytes]:
        """Every leaf that was signed, from this index, which begins at this byte of `leaves`."""
        self._leaves.seek(at)
        for leaf in _read_leaves(self._leaves, self.signed[-1].size - start, self.folder.name):
            yield leaf
            at += len(leaf)
        self._end = at

    def bytes_at(self, at: int, count: int) -> bytes:
        """So many bytes of the leaves joined."""
        self._leaves.seek(at)
        return self._leaves.read(count)

    @property
    def end(self) -> int:
        """How many bytes the leaves that were signed have together."""
        if self._end is None:
            for _ in self.leaves():
                pass
        assert self._end is not None  # noqa: S101 - the last leaf has been read
        return self._end

    def add(self, leaves: Sequence[bytes], signed: Signed) -> None:
        """Put these leaves and the size they make on the disk; when this returns, the size may be signed."""
        joined, end = b"".join(leaves), self.end
        # What lies behind the end, a process left that stopped before it signed.
        self._leaves.truncate(end)
        self._leaves.seek(end)
        self._leaves.write(joined)
        _sync(self._leaves)
        self._end = end + len(joined)
        # If we stop here, the leaves are beyond the last signed size and are cut off before the next are added.
        self._sizes.truncate(len(self.signed) * _RECORD)
        self._sizes.seek(0, os.SEEK_END)
        self._sizes.write(signed.record())
        _sync(self._sizes)
        # If we stop here, the size counts as signed: the next start signs exactly it, and never another root for it.
        self.signed.append(signed)

    def close(self) -> None:
        """Let another process have them."""
        self._leaves.close()
        self._sizes.close()


def signed_leaves(directory: Path, shard: int) -> Iterator[bytes]:
    """Every leaf that was signed, beside a signer that may be at work; none if its files are not here."""
    folder = directory / str(shard)
    if not SignerFiles.exist(directory, shard):
        return
    # Sizes first: the leaves of each were on the disk before it.
    with (folder / "sizes").open("rb") as sizes:
        size = _read_sizes(sizes, shard)[-1].size
    with (folder / "leaves").open("rb") as leaves:
        yield from _read_leaves(leaves, size, folder.name)


def _read_leaves(file: BinaryIO, count: int, shard: str) -> Iterator[bytes]:
    buffer, at = b"", 0
    for _ in range(count):
        if len(buffer) - at < max(_LENGTHS.values()):
            buffer, at = buffer[at:] + file.read(_CHUNK), 0
        length = _LENGTHS.get(buffer[at] if at < len(buffer) else -1, 0)
        if not length or len(buffer) - at < length:
            raise Corrupt("the signer's leaves", f"shard {shard}: fewer than were signed")
        yield buffer[at : at + length]
        at += length


def _read_sizes(file: BinaryIO, shard: int) -> list[Signed]:
    content = file.read()
    found: list[Signed] = []
    for at in range(0, len(content), _RECORD):
        record = content[at : at + _RECORD]
        one = Signed(int.from_bytes(record[:8], "big"), record[8:40])
        if one.record() != record:
            if at + _RECORD < len(content):
                raise Corrupt("the signer's sizes", f"shard {shard}, record {at // _RECORD}")
            # Torn while it was written, hence before the fsync that every signature waits for: never signed.
            break
        if found and one.size <= found[-1].size:
            raise Corrupt("the signer's sizes", f"shard {shard}, record {at // _RECORD}")
        found.append(one)
    if not found:
        raise Corrupt("the signer's sizes", f"shard {shard}: none")
    return found


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
