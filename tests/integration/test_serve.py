"""`consent-ledger serve`: four processes that stand and fall together, however the first of them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("consent-ledger")
SOON = 60.0


def until(what: str, found: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not found():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except FileNotFoundError:
        return []


def command_of(pid: int) -> str:
    """What a process runs; nothing if it has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8").replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.fixture
def all_of_it(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Every process of an installation whose parts do not answer: each waits for PostgreSQL, and would for ever."""
    settings = {
        "SECRETS_DIR": str(tmp_path / "secrets"),
        "SIGNER_DIR": str(tmp_path / "signer"),
        "DATABASE": "postgresql://{role}@127.0.0.1:1/consent",
        "KAFKA": "127.0.0.1:1",
    }
    environment = {**os.environ, **{f"CONSENT_LEDGER_{name}": value for name, value in settings.items()}}
    subprocess.run([COMMAND, "secrets", "create"], env=environment, check=True, capture_output=True)
    with subprocess.Popen(
        [COMMAND, "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as all_:
        until("four processes", lambda: len([one for one in children(all_.pid) if "lifeline" in command_of(one)]) == 4)
        yield all_
        left = children(all_.pid)
        all_.kill()
        for one in left:
            os.kill(one, signal.SIGKILL)


def test_a_parent_that_is_killed_takes_its_children_along(all_of_it: subprocess.Popen[bytes]) -> None:
    ours = children(all_of_it.pid)
    all_of_it.kill()
    until("no child", lambda: not any(command_of(one) for one in ours))


def test_who_is_asked_to_end_while_starting_ends_well_and_leaves_nobody(all_of_it: subprocess.Popen[bytes]) -> None:
    ours = children(all_of_it.pid)
    all_of_it.terminate()
    assert all_of_it.wait(SOON) == 0
    assert not any(command_of(one) for one in ours)


def test_a_child_that_is_killed_ends_the_others_and_is_named(all_of_it: subprocess.Popen[bytes]) -> None:
    ours = children(all_of_it.pid)
    seal = next(one for one in ours if "ledger-seal" in command_of(one))
    os.kill(seal, signal.SIGKILL)
    assert all_of_it.wait(SOON) == 128 + signal.SIGKILL
    assert not any(command_of(one) for one in ours)
    assert all_of_it.stderr is not None
    assert b"ledger-seal ended" in all_of_it.stderr.read()
