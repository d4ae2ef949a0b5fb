"""One program out of a Debian package that is newer than this machine's: fetched once per user, nothing is installed.

Signed as all of Debian is: apt checks it against Debian's own keys, with lists of its own in a folder of ours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.local import downloads
from infra.local.state import CHECKOUT

SUITE: Final = "trixie"
KEYS: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Program:
    """A file in a package."""

    package: str
    path: str


COMPOSE: Final = Program("docker-compose", "usr/libexec/docker/cli-plugins/docker-compose")
KUSTOMIZE: Final = Program("kustomize", "usr/bin/kustomize")


class Missing(RuntimeError):
    """It could not be had."""


def program(wanted: Program) -> Path:
    """Its file in the user's cache."""
    cache = downloads.cache_folder(os.environ, CHECKOUT) / "debian"
    home = cache / f"{wanted.package}-{SUITE}"
    file = home / wanted.path
    if not file.exists():
        if shutil.which("apt-get") is None or not KEYS.exists():
            raise Missing(f"{wanted.package} comes from Debian {SUITE}, and this machine has no apt with Debian's keys")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=cache) as incoming:
            package = _fetched(wanted, Path(incoming))
            unpacked = Path(incoming) / "unpacked"
            subprocess.run(["dpkg-deb", "-x", str(package), str(unpacked)], check=True)
            if not (unpacked / wanted.path).exists():
                raise Missing(f"{package.name} has no {wanted.path}")
            if not home.exists():
                unpacked.rename(home)
    return file


def _fetched(wanted: Program, folder: Path) -> Path:
    for part in ("state/lists/partial", "cache/archives/partial", "sources", "package"):
        (folder / part).mkdir(parents=True)
    (folder / "state/status").touch()
    (folder / "sources/debian.sources").write_text(
        f"Types: deb\nURIs: http://deb.debian.org/debian\nSuites: {SUITE}\nComponents: main\nSigned-By: {KEYS}\n"
    )
    own = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": folder / "sources",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "state/status",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "APT::Sandbox::User": "root",  # our folder is nobody else's
    }
    apt = ["apt-get", "-qq", *(word for name, value in own.items() for word in ("-o", f"{name}={value}"))]
    for arguments in (["update"], ["download", wanted.package]):
        done = subprocess.run([*apt, *arguments], cwd=folder / "package", capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"{wanted.package} could not be fetched from Debian {SUITE}: {done.stderr.strip()}")
    return next((folder / "package").glob("*.deb"))
