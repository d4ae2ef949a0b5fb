"""A file system of a few megabytes that only PostgreSQL sees: a tmpfs in a mount namespace of its own.

Root needs no more than that; anybody else gets it in a user namespace, where the kernel lets people make one.

    small_disk.py hold FOLDER BYTES UID GID      makes it, says so, and keeps it until its standard input ends
    small_disk.py enter PID UID GID COMMAND …    becomes the command, in there, as that user
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
RECURSIVE, PRIVATE = 0x4000, 0x40000  # MS_REC, MS_PRIVATE
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _hold(folder: str, size: str, uid: str, gid: str) -> None:
    plain = os.geteuid() != 0
    own = os.geteuid(), os.getegid()
    _checked(_libc.unshare(NEW_MOUNTS | (NEW_USERS if plain else 0)), "unshare")
    if plain:
        Path("/proc/self/setgroups").write_text("deny", "ascii")
        Path("/proc/self/uid_map").write_text(f"{own[0]} {own[0]} 1", "ascii")
        Path("/proc/self/gid_map").write_text(f"{own[1]} {own[1]} 1", "ascii")
    _checked(_libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None), "mount /")
    options = f"size={size},mode=0700,uid={uid},gid={gid}".encode()
    _checked(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options), "mount")
    print("here", flush=True)  # noqa: T201 - whoever started us waits for this
    sys.stdin.read()


def _enter(holder: str, uid: str, gid: str, *command: str) -> None:
    kinds = ["mnt"] if os.geteuid() == 0 else ["user", "mnt"]
    spaces = [os.open(f"/proc/{holder}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    for space in spaces:
        _checked(_libc.setns(space, 0), "setns")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    _libc.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGINT, 0, 0, 0)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted here


@dataclass(frozen=True)
class SmallDisk:
    """The file system, from outside."""

    folder: Path
    enter: list[str]
    """What a command is preceded by to run in there."""
    seen_from_here: Path

    def fill(self) -> None:
        """Not a byte is left."""
        with contextlib.suppress(OSError), (self.seen_from_here / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    def make_room(self) -> None:
        (self.seen_from_here / "ballast").unlink()


@contextlib.contextmanager
def small_disk(folder: Path, size: int, user: tuple[int, int]) -> Iterator[SmallDisk]:
    """A file system of `size` bytes on `folder`; AssertionError where this machine lets us make none."""
    folder.mkdir(exist_ok=True)
    who = [str(number) for number in user]
    this = [sys.executable, str(Path(__file__).resolve())]
    holder = subprocess.Popen(
        [*this, "hold", str(folder), str(size), *who],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != "here\n":
            raise AssertionError(f"no small file system can be made here: {holder.stderr.read().splitlines()[-1]}")
        there = Path(f"/proc/{holder.pid}/root") / folder.relative_to("/")
        yield SmallDisk(folder, [*this, "enter", str(holder.pid), *who], there)
    finally:
        holder.communicate()


if __name__ == "__main__":
    (_hold if sys.argv[1] == "hold" else _enter)(*sys.argv[2:])
