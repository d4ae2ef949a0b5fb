"""A log client that we did not write reads and verifies the running log: fsck of transparency-dev's Tessera.

It fetches checkpoint, tiles and entry bundles over HTTP as C2SP tlog-tiles says, recomputes the tree from the
entries, and compares it with the checkpoint's signature and root. `make test-clients` builds it with pinned modules.
"""

from __future__ import annotations

import io
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from infra.local.browser import Browser
from infra.local.screen import Screen
from infra.local.story import Story

if TYPE_CHECKING:
    from pathlib import Path

    from infra.local.installation import Installation

PEOPLE = 24
FULL_TILE = 256


def fetched(installation: Installation, name: str) -> bytes:
    return Browser("en").get(f"{installation.base_url}/ledger/log/0/{name}").body


def size(installation: Installation) -> int:
    return int(fetched(installation, "checkpoint").split(b"\n")[1])


def run(clients: Path, installation: Installation, key: Path) -> subprocess.CompletedProcess[str]:
    command = [
        clients / "fsck",
        "-storage_url",
        f"{installation.base_url}/ledger/log/0/",
        "-public_key",
        key,
        "-ui=false",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_client_we_did_not_write_verifies_the_log_across_a_full_tile(
    clients: Path, installation: Installation, tmp_path: Path
) -> None:
    story = Story(installation, Screen(io.StringIO()))
    rounds = 0
    while size(installation) <= FULL_TILE:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(story.subscribe, [f"c{rounds}-{n}@example.org" for n in range(PEOPLE)]))
        rounds += 1
        assert rounds < 10, "the log does not grow"
    key = tmp_path / "vkey"
    key.write_bytes(fetched(installation, "vkey"))
    done = run(clients, installation, key)
    assert done.returncode == 0, done.stderr
    assert "Successfully fsck'd log with size" in done.stderr


def test_the_same_client_refuses_another_key(clients: Path, installation: Installation, tmp_path: Path) -> None:
    key = tmp_path / "vkey"
    name, _, _ = fetched(installation, "vkey").decode().partition("+")
    # The key of the signed-note specification's example, under our log's name.
    key.write_text(f"{name}+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\n", encoding="utf-8")
    assert run(clients, installation, key).returncode != 0
