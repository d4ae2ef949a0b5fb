"""Work that costs much the same for one as for many: whoever asks while others are answered is answered with the next.

Nobody waits for others who have not asked yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Told = TypeVar("Told")


class Together(Generic[Asked, Told]):
    """`answer` is given at most `most` at a time, by `groups` at once, and answers each, in order."""

    def __init__(
        self, answer: Callable[[Sequence[Asked]], Awaitable[Sequence[Told]]], *, most: int, groups: int = 1
    ) -> None:
        self._answer, self._most, self._most_groups = answer, most, groups
        self._waiting: list[tuple[Asked, asyncio.Future[Told]]] = []
        self._groups: set[asyncio.Task[None]] = set()

    async def ask(self, asked: Asked) -> Told:
        """The answer; raises what `answer` raised for the group."""
        [told] = await self.ask_all([asked])
        return told

    async def ask_all(self, asked: Sequence[Asked]) -> list[Told]:
        """An answer for each, in order."""
        loop = asyncio.get_running_loop()
        told: list[asyncio.Future[Told]] = [loop.create_future() for _ in asked]
        self._waiting += zip(asked, told, strict=True)
        if len(self._groups) < self._most_groups:
            group = asyncio.create_task(self._go_on())
            self._groups.add(group)
            group.add_done_callback(self._groups.discard)
        return await asyncio.gather(*told)

    async def _go_on(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            try:
                answers = await self._answer([asked for asked, _ in group])
                for (_, told), answer in zip(group, answers, strict=True):
                    if not told.done():
                        told.set_result(answer)
            except BaseException as error:  # each of them is told, and may ask again
                for _, told in group:
                    if not told.done():
                        told.set_exception(error)
                if not isinstance(error, Exception):
                    raise
