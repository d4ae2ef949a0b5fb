"""Exit status 0 if every role that the container's first process serves says it is ready: its health check.

Of the standard library alone, and run without site packages: it is asked every few seconds.
"""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

PORT = 8080
SECONDS = 8.0


def paths(command: bytes) -> list[str]:
    """Where to ask, by a command line as /proc has it: `… consent-ledger serve ROLE …`, or the demo's mail server."""
    words = command.decode("utf-8", "replace").split("\0")
    if "infra.compose.mail" in words:
        return ["/inbox/health/ready"]
    roles = words[words.index("serve") + 1 :] if "serve" in words else []
    return [f"/{role}/health/ready" for role in roles if role]


def is_ready(path: str, port: int) -> bool:
    """Ask once."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def main(command: Path, port: int) -> int:
    """0 also for a container that serves nothing: a command that is still at work."""
    return 0 if all(is_ready(path, port) for path in paths(command.read_bytes())) else 1


if __name__ == "__main__":
    sys.exit(main(Path("/proc/1/cmdline"), PORT))
