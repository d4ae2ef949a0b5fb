"""Growing pauses between attempts while a part we need does not answer."""

from __future__ import annotations

import asyncio


class Backoff:
    """Doubles from `first` to `longest` seconds; `reset` after a success."""

    def __init__(self, first: float = 0.1, longest: float = 5.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    @property
    def failing(self) -> bool:
        """True from a failure until the next success: who logs only the first of a row looks here."""
        return self._next != self._first

    async def pause(self) -> None:
        seconds, self._next = self._next, min(self._next * 2, self._longest)
        await asyncio.sleep(seconds)

    def reset(self) -> None:
        self._next = self._first
