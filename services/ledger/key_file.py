"""The wrapped keys of all subjects beside the signer's leaves, so that a database restored from a backup finds them.

    keys     one record per key: length of the subject u8 || subject || wrapped K 64 || first 8 bytes of SHA-256 of it

Without K a sealed leaf can never be opened again, and a subject would get a second pin; so K is on the disk before what
it opens is signed. A record may come more than once; of a subject the last one counts. Like a backup it holds keys that
are destroyed in PostgreSQL until the next rotation of the key-encryption key: then it is written anew from what lives.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, Self

from shared.errors import Corrupt

_WRAPPED: Final = 64
_CHECK: Final = 8

Key = tuple[str, bytes]
"""subject, wrapped K"""


class KeyFile:
    """Held by whoever holds the signer's files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._draft: BinaryIO | None = None
        self.oldest_kek = 0
        """The lowest number of a key-encryption key that a record needs."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open for adding; what a crash tore at the end is cut off. There may be none yet: then `write` comes first."""
        keys = cls(folder / "keys")
        if keys._path.exists():
            whole, keks = 0, set()
            for subject, wrapped in _records(keys._path.read_bytes(), folder.name):
                whole += 1 + len(subject) + _WRAPPED + _CHECK
                keks.add(_kek(wrapped))
            keys._file = keys._path.open("r+b")
            keys._file.truncate(whole)
            keys._file.seek(0, os.SEEK_END)
            keys.oldest_kek = min(keks, default=0)
        return keys

    @property
    def exists(self) -> bool:
        """Whether there is anything to add to."""
        return self._file is not None

    def add(self, keys: Sequence[Key]) -> None:
        """Put these on the disk; when this returns, what they open may be signed."""
        if not keys:
            return
        joined = b"".join(_record(subject, wrapped) for subject, wrapped in keys)
        for file in (self._file, self._draft):
            if file is not None:
                file.write(joined)
        if self._file is not None:
            _sync(self._file)
        oldest = min(_kek(wrapped) for _, wrapped in keys)
        self.oldest_kek = min(self.oldest_kek or oldest, oldest)

    async def write(self, living: AsyncIterable[Sequence[Key]]) -> None:
        """Write the file anew from the keys that live; what is added meanwhile is in the old and in the new one."""
        path = self._path.with_name("keys.new")
        oldest: set[int] = set()
        try:
            self._draft = path.open("wb")
            async for keys in living:
                self._draft.write(b"".join(_record(subject, wrapped) for subject, wrapped in keys))
                oldest |= {_kek(wrapped) for _, wrapped in keys}
            _sync(self._draft)
            path.rename(self._path)
            # If we stop before here, the old file stays, and this is done again.
            if self._file is not None:
                self._file.close()
            self._file, self._draft = self._draft, None
            self.oldest_kek = min(oldest, default=0)
        finally:
            if self._draft is not None:
                self._draft.close()
                self._draft = None

    def close(self) -> None:
        """Let another process have it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def kept_keys(directory: Path, shard: int) -> dict[str, bytes]:
    """The newest wrapped K of every subject; none where there is no file."""
    path = directory / str(shard) / "keys"
    return dict(_records(path.read_bytes(), str(shard))) if path.exists() else {}


def put_keys(directory: Path, shard: int, keys: Mapping[str, bytes]) -> None:
    """Begin the file of a shard whose signer's files were lost."""
    path = directory / str(shard) / "keys"
    with path.open("wb") as file:
        file.write(b"".join(_record(subject, wrapped) for subject, wrapped in keys.items()))
        _sync(file)


def _kek(wrapped: bytes) -> int:
    return int.from_bytes(wrapped[:4], "big")


def _record(subject: str, wrapped: bytes) -> bytes:
    if len(wrapped) != _WRAPPED:
        raise Corrupt("length of a wrapped key", f"{len(wrapped)} bytes")
    body = bytes([len(subject)]) + subject.encode("ascii") + wrapped
    return body + sha256(body).digest()[:_CHECK]


def _records(content: bytes, shard: str) -> Iterator[Key]:
    """Every record; what was torn at the end belongs to nothing that was signed. If anything whole comes behind it, it
    was not torn but altered. (Where PostgreSQL is whole the file can be removed: the signer writes it anew.)"""
    at = 0
    while at < len(content):
        end = _end(content, at)
        if end is None:
            if any(_end(content, later) for later in range(at + 1, len(content))):
                raise Corrupt("the signer's keys", f"shard {shard}, byte {at}")
            return
        body = content[at : end - _CHECK]
        yield body[1:-_WRAPPED].decode("ascii"), body[-_WRAPPED:]
        at = end


def _end(content: bytes, at: int) -> int | None:
    """Where the whole record that begins here ends; None if none does."""
    end = at + 1 + content[at] + _WRAPPED
    whole = content[end : end + _CHECK] == sha256(content[at:end]).digest()[:_CHECK]
    return end + _CHECK if whole else None


def indexes_of_new(first: int, leaves: Iterable[bytes]) -> list[int]:
    """Of leaves from `first` on, those that may be a subject's first: version 1 of a label."""
    return [index for index, leaf in enumerate(leaves, first) if leaf[0] == 1 and leaf[33:41] == _VERSION_1]


_VERSION_1: Final = (1).to_bytes(8, "big")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
