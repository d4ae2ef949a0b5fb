"""Child processes that are on record before they run, so that the next start finds and ends what was left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from infra.local.launch import started

LAUNCH = Path(__file__).with_name("launch.py")
PAUSE = 0.02  # seconds between two looks at something that cannot tell us by itself

# A child dies with the *thread* that forked it (PR_SET_PDEATHSIG): all are forked by one that lives as long as we do.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forker")


class InUse(RuntimeError):
    """Another process of this checkout holds this name."""

    def __init__(self, what: str, holder: Mapping[str, object]) -> None:
        self.holder = holder
        name, pid = holder.get("what") or what, holder.get("pid", "?")
        where = f", {holder['note']}" if holder.get("note") else ""
        super().__init__(
            f"{name} is already running in this checkout (process {pid}{where}). "
            "Stop it there with Ctrl-C, or end everything of this checkout with `make clean`."
        )


class NotStarted(RuntimeError):
    """A local part did not come up; the message holds the end of what it printed."""

    def __init__(self, part: str, why: str, log: Path | None = None) -> None:
        said = "" if log is None else f"\n--- the end of {log}\n{tail(log)}"
        super().__init__(f"{part} did not start: {why}{said}")


def tail(log: Path, size: int = 3000) -> str:
    """Return the last `size` bytes of a log as text."""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode("utf-8", "replace")
    return ""


class Claim:
    """A name held by one process at a time; the kernel lets go of it when that process dies, however it dies."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the name."""
        return self._descriptor is not None

    def take(self) -> None:
        """Take the name, or raise InUse with what its holder said of itself."""
        if self._descriptor is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise InUse(self.what, holder(self.path)) from None
        self._descriptor = descriptor
        self.say("")

    def say(self, note: str) -> None:
        """Tell whoever comes second where this run can be found (an address, for example)."""
        if self._descriptor is None:
            return
        pid = os.getpid()
        facts = {"pid": pid, "started": started(pid), "what": self.what, "note": note}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(facts).encode(), 0)

    def release(self) -> None:
        """Let go of the name. The file stays: removing it would let two processes hold two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holder(path: Path) -> dict[str, object]:
    """Return what the holder of a claim, or a process on record, wrote of itself; empty if nothing can be read."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


@dataclass(frozen=True)
class Running:
    """One process that is surely the one on record: opened first, then compared, then signalled through the handle."""

    pid: int
    handle: int | None

    @classmethod
    def on_record(cls, facts: Mapping[str, object]) -> Running | None:
        """Return the process these facts describe, or None if it ended, even if another has its pid by now."""
        pid, since = facts.get("pid"), facts.get("started")
        if not isinstance(pid, int) or not since:
            return None
        handle = None
        if hasattr(os, "pidfd_open"):
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                return None
        running = cls(pid, handle)
        if started(pid) == since:
            return running
        running.close()
        return None

    def send(self, number: int) -> None:
        """Send a signal; one that has ended meanwhile is no error."""
        with contextlib.suppress(ProcessLookupError):
            if self.handle is not None:
                signal.pidfd_send_signal(self.handle, number)
            else:
                os.kill(self.pid, number)

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; False if it has not."""
        if self.handle is not None:
            waiter = select.poll()
            waiter.register(self.handle, select.POLLIN)
            return bool(waiter.poll(timeout * 1000))
        end = time.monotonic() + timeout
        while (alive := started(self.pid) is not None) and time.monotonic() < end:
            time.sleep(PAUSE)
        return not alive

    def close(self) -> None:
        """Close the handle."""
        if self.handle is not None:
            os.close(self.handle)

    def end(self, number: int, grace: float) -> None:
        """Ask it to stop; end it and its process group if it has not within `grace` seconds."""
        self.send(number)
        if not self.wait(grace):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self.send(signal.SIGKILL)
            self.wait(grace)
        self.close()


def end_left_behind(folder: Path, grace: float = 20.0) -> list[str]:
    """End every process on record in this state folder that nobody runs any more; return their names."""
    left: list[tuple[str, Running, int]] = []
    with contextlib.ExitStack() as claims:
        for path in sorted((folder / "processes").glob("*.json")):
            try:
                claims.enter_context(Claim(path.with_suffix(".lock"), path.stem))
            except InUse:
                continue
            facts = holder(path)
            if (running := Running.on_record(facts)) is None:
                path.unlink()
                continue
            left.append((path.stem, running, _stop_signal(facts)))
            running.send(left[-1][2])  # all of them first, so that they stop side by side
        for name, running, number in left:
            running.end(number, grace)
            (folder / "processes" / f"{name}.json").unlink(missing_ok=True)
    return [name for name, _, _ in left]


def _stop_signal(facts: Mapping[str, object]) -> int:
    number = facts.get("stop_signal")
    return number if isinstance(number, int) else signal.SIGTERM


class Process:
    """One child process under a name of a state folder; while it runs, the name is held."""

    def __init__(self, folder: Path, name: str, *, stop_signal: int = signal.SIGTERM, grace: float = 30.0) -> None:
        self.folder, self.name, self.stop_signal, self.grace = folder, name, stop_signal, grace
        self._claim = Claim(folder / "processes" / f"{name}.lock", name)
        self._record = folder / "processes" / f"{name}.json"
        self._child: subprocess.Popen[bytes] | None = None

    def claim(self) -> None:
        """Take the name and end the process that an earlier run left under it."""
        if self._claim.held:
            return
        self._claim.take()
        facts = holder(self._record)
        if (orphan := Running.on_record(facts)) is not None:
            orphan.end(_stop_signal(facts), self.grace)
        self._record.unlink(missing_ok=True)

    def start(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: tuple[int, int] | None = None,
        dies_with_parent: bool = True,
    ) -> None:
        """Run the command in `directory`, printing to `log`, as `user` (uid, gid) if given; returns at once."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self.claim()
        order = {
            "record": str(self._record),
            "stop_signal": int(self.stop_signal),
            "parent": os.getpid() if dies_with_parent else None,
            "user": None if user is None else user[0],
            "group": None if user is None else user[1],
            "command": list(command),
        }

        def fork() -> subprocess.Popen[bytes]:
            with log.open("ab") as out:
                return subprocess.Popen(
                    [sys.executable, "-I", "-S", str(LAUNCH), json.dumps(order)],
                    cwd=directory,
                    env=None if environment is None else dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,  # a Ctrl-C in the terminal reaches us alone: we stop the parts in order
                )

        self._child = _forker.submit(fork).result()

    @property
    def pid(self) -> int:
        """Process id of the running child."""
        if self._child is None:
            message = f"{self.name} was not started"
            raise RuntimeError(message)
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the child lives."""
        return self._child is not None and self._child.poll() is None

    @property
    def status(self) -> int | None:
        """Exit status of the child, negative for a signal; None while it runs or before it was started."""
        return None if self._child is None else self._child.poll()

    def wait(self, timeout: float) -> int | None:
        """Wait for the end of the child; its exit status, or None if it still runs."""
        if self._child is None:
            return None
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number: int) -> None:
        """Send a signal to the child."""
        if self._child is not None:
            self._child.send_signal(number)

    def kill(self) -> None:
        """Kill the child as `kill -9` would, and keep the name."""
        self.send(signal.SIGKILL)
        self.wait(self.grace)

    def stop(self) -> None:
        """Ask the child to stop, end it if it does not, and give the name back."""
        if self.running:
            self.send(self.stop_signal)
            if self.wait(self.grace) is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
                self.kill()
        if self._claim.held:
            self._record.unlink(missing_ok=True)
        self._claim.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
