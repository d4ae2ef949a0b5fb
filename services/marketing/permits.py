"""Answers requests for permits, those who ask at once together."""

from __future__ import annotations

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
from shared.together import Together

MOST_TOGETHER: Final = 250
GROUPS: Final = 3
"""At once. A group waits while somebody in it is withdrawing; those who ask meanwhile need not."""


class Permits:
    """One per process. A commit costs much the same for one permit as for a hundred, so nobody has one of their own
    while others wait."""

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
        self._together = Together[Ask, Permit | Refused](self._decide, most=MOST_TOGETHER, groups=GROUPS)

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
        return await self._together.ask_all(asks)

    async def _decide(self, asks: Sequence[Ask]) -> list[Permit | Refused]:
        decided = await handlers.ask_permits(self._db, asks, self._horizon, self.rule, self._clock(), self._random)
        for permit in decided:
            if isinstance(permit, Permit):
                self._decided.labels(permit.decision, permit.reason).inc()
        return decided
