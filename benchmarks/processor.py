"""Which process used how much of the processor during a measurement, and so what bounded it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.machine import cores

FULL: Final = 0.90
"""Of one core, for a process that runs on one; of all cores together."""

SINGLE: Final = frozenset({"ledger-append", "ledger-seal", "web", "audience", "benchmark", "plain", "chained"})
"""Processes that are one event loop, by the first word of their names here: they cannot use more than one core. A
database session cannot either."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Times:
    """Processor seconds that one process used since its start, and what its ended children did."""

    parent: int
    own: float
    children: float


def times(pid: int) -> Times | None:
    """From /proc/<pid>/stat; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    # The command (field 2) may hold blanks and parentheses: count from its last closing one, state is field 3.
    fields = stat.rpartition(")")[2].split()
    used, system, child, child_system = (int(field) / _TICKS for field in fields[11:15])
    return Times(int(fields[1]), used + system, child + child_system)


def busy_seconds() -> float:
    """Processor seconds that all processes of the machine used, on all cores, since it started."""
    first = Path("/proc/stat").read_text("ascii").splitlines()[0].split()
    user, nice, system, _idle, _waiting, interrupt, soft = (int(field) / _TICKS for field in first[1:8])
    return user + nice + system + interrupt + soft


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares of one core: 1.0 is one core all the time. `others` is what this machine did besides."""

    seconds: float
    shares: Mapping[str, float]
    busiest_session: float
    others: float
    cores: int

    @property
    def all_busy(self) -> float:
        """How much of all cores together was in use, by us and by others."""
        return (sum(self.shares.values()) + self.others) / self.cores

    def bound(self) -> str:
        """What bounds a figure that was measured meanwhile."""
        full = [name for name, share in self.shares.items() if name.split()[0] in SINGLE and share >= FULL]
        if self.busiest_session >= FULL:
            full.append("one session of PostgreSQL")
        said = []
        if full:
            said.append(f"{' and '.join(full)} at a whole core")
        if self.all_busy >= FULL:
            said.append(f"all {self.cores} cores full")
        if not said:
            said.append(f"waiting (no process at a whole core, the cores {self.all_busy:.0%} busy)")
        return f"{', '.join(said)}: {self.listed()}"

    def listed(self) -> str:
        """Every process with its share of one core, the biggest first."""
        shares = sorted({**self.shares, "others on this machine": self.others}.items(), key=lambda one: -one[1])
        return ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)


class Watch:
    """`watch = Watch({...}, postmaster)`, then the work, then `watch.usage()`."""

    def __init__(self, processes: Mapping[str, int], postmaster: int) -> None:
        self._processes = {**processes, "benchmark": os.getpid()}
        self._postmaster = postmaster
        self._began = time.monotonic()
        self._busy = busy_seconds()
        self._before = self._own()
        self._sessions = self._server()

    def usage(self) -> Usage:
        """What was used since this was made."""
        seconds = max(time.monotonic() - self._began, 1 / _TICKS)
        busy = (busy_seconds() - self._busy) / seconds
        own, sessions = self._own(), self._server()
        shares = {name: max(0.0, own[name] - self._before[name]) / seconds for name in own}
        # A session that ended meanwhile is in the postmaster's account of its children; no session is in both.
        shares["PostgreSQL"] = (sum(sessions.values()) - sum(self._sessions.values())) / seconds
        grown = [used - self._sessions.get(pid, 0.0) for pid, used in sessions.items() if pid != self._postmaster]
        return Usage(
            seconds=seconds,
            shares=shares,
            busiest_session=max(grown, default=0.0) / seconds,
            others=max(0.0, busy - sum(shares.values())),
            cores=cores(),
        )

    def _own(self) -> dict[str, float]:
        found = {name: times(pid) for name, pid in self._processes.items()}
        return {name: one.own if one is not None else 0.0 for name, one in found.items()}

    def _server(self) -> dict[int, float]:
        """Seconds of the postmaster (with its ended children) and of each living child."""
        found: dict[int, float] = {}
        for pid in pids():
            one = times(pid)
            if one is None:
                continue
            if pid == self._postmaster:
                found[pid] = one.own + one.children
            elif one.parent == self._postmaster:
                found[pid] = one.own
        return found


def pids() -> Iterable[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
