"""Where a run keeps what it makes: one folder per checkout and kind of run, held by one run at a time."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Self

from infra.local.processes import Claim, InUse, NotStarted, end_left_behind

CHECKOUT = Path(__file__).resolve().parents[2]
LOCAL = CHECKOUT / ".local"
SLOTS = 64  # test runs of one checkout that may go on at the same time


class State:
    """The state folder of one run: `with State(LOCAL / "demo", "make demo"): …`.

    Entering takes the folder (InUse if another run holds it) and ends what an earlier run left behind.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder = folder
        self.left_behind: list[str] = []
        self._claim = Claim(folder / "run.lock", what)

    def take(self) -> None:
        """Take the folder and end what is left in it."""
        self._claim.take()
        self.left_behind = end_left_behind(self.folder)

    def empty(self) -> None:
        """Remove the data that earlier runs kept here."""
        kept = [entry for entry in self.folder.iterdir() if entry.is_dir() and entry.name != "processes"]
        for folder in (*kept, spare_place(self.folder)):
            if folder.exists():
                shutil.rmtree(folder)

    def say(self, note: str) -> None:
        """Leave a note (an address) for whoever finds the folder taken."""
        self._claim.say(note)

    def release(self) -> None:
        """Give the folder back; what is in it stays."""
        self._claim.release()

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def free_slot(folder: Path, what: str) -> State:
    """Take the first state folder below `folder` that no other run holds: test runs may go on side by side."""
    for number in range(1, SLOTS):
        state = State(folder / str(number), what)
        try:
            state.take()
        except InUse:
            continue
        return state
    raise InUse(what, {"what": f"each of {SLOTS} runs of {what}"})


def short_hash(path: Path) -> str:
    """Return a short name for a path that differs from path to path."""
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]


def spare_folder(checkout: Path = CHECKOUT) -> Path:
    """Return where this checkout's PostgreSQL lives when `nobody` cannot reach the checkout; it need not exist."""
    return Path("/var/tmp") / f"consent-ledger-{short_hash(checkout)}"  # noqa: S108  ours alone: see own_folder


def spare_place(state_dir: Path) -> Path:
    """Return the place of one state folder within the spare folder."""
    return spare_folder() / short_hash(state_dir)


def own_folder(path: Path, mode: int, user: tuple[int, int] | None = None) -> Path:
    """Make a folder in a place where everybody may write, and refuse one that somebody else put there first."""
    owner = os.geteuid() if user is None else user[0]
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        there = path.lstat()
        if not stat.S_ISDIR(there.st_mode) or there.st_uid not in {owner, os.geteuid()}:
            raise NotStarted(str(path), "it belongs to somebody else; please have it removed") from None
    if user is not None:
        os.chown(path, *user)
    path.chmod(mode)
    return path


def short_folder(long: Path, limit: int, user: tuple[int, int] | None = None) -> Path:
    """Return a 0700 folder below the temporary directory that stands for `long`, its path at most `limit` bytes."""
    name = f"consent-ledger-{os.geteuid()}-{short_hash(long)}"
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  see own_folder
        if len(os.fsencode(f"{parent}/{name}")) <= limit:
            return own_folder(Path(parent) / name, 0o700, user)
    raise NotStarted(str(long), "its path is too long for a socket, and so is that of any temporary directory")
