"""Become another program, after writing down who we are: the last thing run before a local part is `exec`ed.

Run as a file (`python -I -S launch.py <json>`), so that it starts in milliseconds and imports nothing of ours.
A process keeps its pid and start time through `exec`. So the record is complete before the program can do anything,
and there is no moment at which a killed launcher leaves a program that the next start cannot find.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, prctl(2)


def started(pid: int) -> str | None:
    """When this process started, as a string that no other process with this pid ever has; None if none runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _started_without_proc(pid)
    # The command (field 2) may hold blanks and parentheses, so count from its last closing one: state is field 3.
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else f"{boot} {rest[18]}"


def _started_without_proc(pid: int) -> str | None:
    asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


def record(path: Path, facts: dict[str, object]) -> None:
    """Write the record whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(facts), encoding="utf-8")
    new.replace(path)


def main() -> None:
    """Record, give up root if told to, tie our life to the parent's, and become the program."""
    order = json.loads(sys.argv[1])
    pid = os.getpid()
    record(
        Path(order["record"]),
        {"pid": pid, "started": started(pid), "stop_signal": order["stop_signal"], "command": order["command"]},
    )
    if order["user"] is not None:
        os.setgroups([])
        os.setgid(order["group"])
        os.setuid(order["user"])
    if order["parent"] is not None and sys.platform == "linux":
        # After setuid, which would clear it. If the parent died before this line, nobody will tell us: look.
        ctypes.CDLL(None, use_errno=True).prctl(SET_PARENT_DEATH_SIGNAL, order["stop_signal"], 0, 0, 0)
        if os.getppid() != order["parent"]:
            sys.exit(1)
    os.umask(0o077)
    os.execvpe(order["command"][0], order["command"], os.environ)  # noqa: S606  no shell is wanted here


if __name__ == "__main__":
    main()
