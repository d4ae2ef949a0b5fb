"""The key-encryption keys that are there now: read again when one is asked for that is not known yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping


class Keks(Mapping[int, bytes]):
    """By id. Right after a rotation another process may have wrapped under a key that was not there when we started."""

    def __init__(self, load: Callable[[], Mapping[int, bytes]]) -> None:
        self._load = load
        self._keys = dict(load())

    def __getitem__(self, kek_id: int) -> bytes:
        if kek_id not in self._keys:
            self.read_again()
        return self._keys[kek_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def read_again(self) -> None:
        """Take in what came, and let go of what went."""
        self._keys = dict(self._load())
