"""`make demo`: the whole product on this machine, its main job played visibly, and then yours to click.

Environment: PORT (8080), ONCE=1 (end after the story, exit status 0 or 1).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time

from infra.local.installation import COMMAND, Installation, port_is_free
from infra.local.play import play
from infra.local.processes import InUse, NotStarted
from infra.local.screen import Screen
from infra.local.state import LOCAL, State
from shared.errors import Corrupt

CAMPAIGN_RATE = "4"  # mails a second: slow enough to withdraw in the middle of one
EXIT_FAILED = 1
EXIT_IN_USE = 2


def _port() -> int:
    text = os.environ.get("PORT") or "8080"
    if not text.isdecimal() or not 0 < int(text) < 65536:
        print(f"demo: PORT={text} is not a port; choose a number from 1024 to 65535.", file=sys.stderr)
        raise SystemExit(EXIT_IN_USE)
    return int(text)


class _Stopped(BaseException):
    """A signal asked us to stop."""


def _stop(*_: object) -> None:
    raise _Stopped


def _for_a_shell(installation: Installation) -> str:
    """Write what `consent-ledger` must know to speak to this demo, and return the line that takes it over."""
    file = installation.folder / "environment"
    given = {name: value for name, value in os.environ.items() if name.startswith("CONSENT_LEDGER_")}
    settings = {**given, **installation.environment()}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    lines.append(f'export PATH={shlex.quote(str(COMMAND.parent))}:"$PATH"')
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return f". {shlex.quote(os.path.relpath(file))}"


def _play(installation: Installation, began: float, *, once: bool) -> int:
    screen = Screen(sys.stdout)
    screen.title("Consent Ledger: everything on this machine")
    installation.start(screen.started)
    screen.note(f"ready after {time.monotonic() - began:.1f} s at {installation.base_url}/")
    passed = play(installation, screen)
    screen.note(f"{'the story is told' if passed else 'the story broke off'} after {time.monotonic() - began:.1f} s")
    if once or not passed:
        return 0 if passed else EXIT_FAILED
    screen.note(
        f"Look around: {installation.base_url}/   mails: {installation.base_url}/inbox   Ctrl-C stops everything."
    )
    login = shlex.quote(os.path.relpath(installation.folder / "secrets" / "credential-demo.1"))
    screen.note(
        f"Who agrees right now: {installation.base_url}/marketing/audience   user demo, password: cat {login}\n"
        f"For `consent-ledger …` as in README.md, in another terminal: {_for_a_shell(installation)}"
    )
    while True:
        for name, process in installation.processes.items():
            if not process.running:
                print(f"demo: {name} ended with {process.status}; see {installation.logs / name}.log", file=sys.stderr)
                return EXIT_FAILED
        time.sleep(1)


def main() -> int:
    """Start, play, stay; whatever ends us, what we started ends with us."""
    began = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    port = _port()
    try:
        with State(LOCAL / "demo", "make demo") as state:
            for left in state.left_behind:
                print(f"demo: ended {left}, which an earlier run had left behind", file=sys.stderr)
            if not port_is_free(port):
                another = port + 1 if 1024 <= port < 65535 else 8081
                why = "in use" if port >= 1024 else "in use or not for ordinary users"
                print(f"demo: port {port} is {why}; choose another: make demo PORT={another}", file=sys.stderr)
                return EXIT_IN_USE
            state.say(f"at http://localhost:{port}/")
            installation = Installation(state.folder, port=port, settings={"campaign_rate": CAMPAIGN_RATE})
            try:
                return _play(installation, began, once=bool(os.environ.get("ONCE")))
            finally:
                with contextlib.suppress(ValueError):
                    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                        signal.signal(number, signal.SIG_IGN)
                installation.stop()
    except InUse as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_IN_USE
    except NotStarted as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Corrupt as error:
        print(f"demo: {error}. To begin anew: make clean, then make demo.", file=sys.stderr)
        return EXIT_FAILED
    except _Stopped:
        print("\ndemo: stopped")
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
