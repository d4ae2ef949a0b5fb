"""What the terminal shows while the story is told, and how the story checks and waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable


class Broken(Exception):
    """A check of the story did not hold."""


class Screen:
    """What the terminal shows: a line per step, a tick and a figure per check, a link to look for oneself."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colour = out.isatty()

    def _line(self, text: str = "") -> None:
        print(text, file=self._out, flush=True)

    def _painted(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def title(self, text: str) -> None:
        self._line(self._painted(text, "1"))

    def started(self, what: str, seconds: float) -> None:
        self._line(f"  {self._painted('✓', '32')} {what:<34}{seconds:>7.1f} s")

    def step(self, number: int, text: str) -> None:
        self._line()
        self._line(self._painted(f"{number}. {text}", "1"))

    def tick(self, what: str, figure: str = "", link: str = "") -> None:
        self._line(f"  {self._painted('✓', '32')} {what}" + (f"  [{figure}]" if figure else ""))
        if link:
            self._line(f"      {self._painted(link, '36')}")

    def cross(self, why: str) -> None:
        self._line(f"  {self._painted('✗', '31')} {why}")

    def note(self, text: str) -> None:
        self._line()
        self._line(text)


def check(holds: bool, otherwise: str) -> None:
    """Go on only if it holds."""
    if not holds:
        raise Broken(otherwise)


def until(what: str, look: Callable[[], Any], seconds: float = 15) -> Any:
    """Ask again until there is an answer; the story waits for conditions, never for a time to pass."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise Broken(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.02)
    return found
