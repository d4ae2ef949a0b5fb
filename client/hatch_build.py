"""Builds the wheel from one source: the modules of `shared` that a team needs, under the package's own name.

The services run the same lines that are shipped here, so there is one outbox, one relay and one envelope. What stands
in consent_ledger_client/ is the package's own, and replaces a module of `shared` that has its name.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE: Final = Path(__file__).resolve().parent
NAME: Final = "consent_ledger_client"
SHIPPED: Final = (
    "backoff.py",
    "client.py",
    "clock.py",
    "database.py",
    "errors.py",
    "events/*.py",
    "identifiers.py",
    "kafka.py",
    "kafka_login.py",
    "metrics.py",
    "outbox/*.py",
    "outbox/*.sql",
    "sealing.py",
    "together.py",
    "topics.py",
    "wire.py",
)
IMPORT: Final = re.compile(r"^(\s*)(from|import) shared\b", re.MULTILINE)


class Shipped(BuildHookInterface[Any]):
    """Copies the modules, renamed, to where the wheel takes them from."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            message = "the package is made at build time: install it from its folder, not editable"
            raise RuntimeError(message)
        shared, own = HERE.parent / "shared", HERE / NAME
        files = {path.relative_to(shared): path for pattern in SHIPPED for path in sorted(shared.glob(pattern))}
        files |= {path.relative_to(own): path for path in sorted(own.rglob("*.*")) if path.suffix != ".pyc"}
        self._made = tempfile.TemporaryDirectory()
        for name, path in files.items():
            made = Path(self._made.name) / name
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(IMPORT.sub(rf"\1\2 {NAME}", path.read_text("utf-8")), "utf-8")
            build_data["force_include"][str(made)] = f"{NAME}/{name.as_posix()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - the hook's signature
        self._made.cleanup()
