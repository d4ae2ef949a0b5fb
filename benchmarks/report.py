"""Figures: percentiles, rates by block, and how a result is printed as a Markdown row or as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

HEADER = "| measured | figure | aim | bounded by |\n|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Result:
    """One measured figure. `aim` is empty where none was set; `met` is None then."""

    part: str
    measured: str
    figure: str
    aim: str
    met: bool | None
    bound: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> str:
        """A row of the table under HEADER."""
        verdict = {True: f"{self.aim}: met", False: f"{self.aim}: **missed**", None: self.aim or "none"}[self.met]
        return f"| {self.measured} | {self.figure} | {verdict} | {self.bound} |"

    def line(self, **facts: Any) -> str:
        """One line of JSON, with further facts."""
        document = {
            "part": self.part,
            "measured": self.measured,
            "figure": self.figure,
            "aim": self.aim,
            "met": self.met,
            "bound": self.bound,
            **self.values,
            **facts,
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed (nearest rank)."""
    if not values:
        raise ValueError("nothing was measured")
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def milliseconds(seconds: float) -> str:
    """As people read it."""
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


@dataclass(frozen=True, slots=True)
class Seen:
    """At this moment (seconds) so many records were seen to be done."""

    at: float
    done: int


def reached(seen: Sequence[Seen], count: int) -> float:
    """The moment the count was reached, between two looks as if it had grown evenly."""
    before = seen[0]
    for one in seen:
        if one.done >= count:
            if one.done == before.done:
                return one.at
            return before.at + (one.at - before.at) * (count - before.done) / (one.done - before.done)
        before = one
    raise ValueError("never reached")


def rate(seen: Sequence[Seen]) -> float:
    """Records a second from the first look at which there were some to the first at which there were all."""
    began = next(one for one in seen if one.done > 0)
    ended = next(one for one in seen if one.done == seen[-1].done)
    if ended.at <= began.at:
        raise ValueError("too few records to measure")
    return (ended.done - began.done) / (ended.at - began.at)


def rates_by_block(seen: Sequence[Seen], size: int) -> list[float]:
    """Records a second of each whole block; of the first, what is left of it after the first look."""
    began = next(one for one in seen if one.done > 0)
    blocks = []
    at, done = began.at, began.done
    for end in range(size, seen[-1].done + 1, size):
        if end <= done:
            continue
        moment = reached(seen, end)
        if moment > at:
            blocks.append((end - done) / (moment - at))
        at, done = moment, end
    return blocks
