"""Answers requests for permits: whoever asks while others are being answered is answered together with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from services.marketing import handlers
from services.marketing.domain import NOT_KNOWN, Horizon, Rule
from services.marketing.store import Ask, Permit
from shared.clock import Clock
from shared.database import Database
from shared.errors import Refused
from shared.identifiers import Random
from shared.metrics import Metrics
from shared.register import Register

MOST_TOGETHER: Final = 250
GROUPS: Final = 3
"""At once. A group waits while somebody in it is withdrawing; those who ask meanwhile need not."""

Answer = asyncio.Future[Permit | Refused]


class Permits:
    """One per process. A commit costs much the same for one permit as for a hundred, so nobody has one of their own
    while others wait; and nobody waits for others who have not asked yet."""

    def __init__(
        self,
        db: Database,
        horizon: Callable[[int], Horizon | None],
        register: Register,
        clock: Clock,
        random: Random,
        metrics: Metrics,
    ) -> None:
        self._db = db
        self._horizon = horizon
        self._register = register
        self._clock = clock
        self._random = random
        self._decided = metrics.counter("permits", "Permits by decision and reason", ("decision", "reason"))
        for reason in sorted(NOT_KNOWN):
            self._decided.labels("refused", reason)  # from 0 on, so that the first one is seen to be one more
        self._rules: dict[tuple[str, str], Rule] = {}
        self._waiting: list[tuple[Ask, Answer]] = []
        self._groups: set[asyncio.Task[None]] = set()

    def rule(self, purpose: str, channel: str) -> Rule:
        """What the register says of this purpose on this channel; raises NotInRegister."""
        rule = self._rules.get((purpose, channel))
        if rule is None:
            rule = self._rules[purpose, channel] = Rule.of(self._register, purpose, channel)
        return rule

    async def ask(self, ask: Ask) -> Permit:
        """The answer to one attempt. Raises Refused if the attempt is another's, NotInRegister, Unavailable."""
        [answer] = await self.ask_all([ask])
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def ask_all(self, asks: Sequence[Ask]) -> list[Permit | Refused]:
        """An answer for each, in order; Refused for an attempt that is another's. Raises NotInRegister, Unavailable."""
        for ask in asks:
            self.rule(ask.purpose, ask.channel)
        answers: list[Answer] = [asyncio.get_running_loop().create_future() for _ in asks]
        self._waiting += zip(asks, answers, strict=True)
        if len(self._groups) < GROUPS:
            group = asyncio.create_task(self._answer())
            self._groups.add(group)
            group.add_done_callback(self._groups.discard)
        return await asyncio.gather(*answers)

    async def _answer(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            try:
                decided = await handlers.ask_permits(
                    self._db, [ask for ask, _ in group], self._horizon, self.rule, self._clock(), self._random
                )
            except BaseException as error:  # each of them is told, and may ask again
                for _, answer in group:
                    if not answer.done():
                        answer.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                for (_, answer), permit in zip(group, decided, strict=True):
                    if isinstance(permit, Permit):
                        self._decided.labels(permit.decision, permit.reason).inc()
                    if not answer.done():
                        answer.set_result(permit)
