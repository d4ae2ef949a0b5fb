"""The stack, built and brought up once, and gone without a trace at the end."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from infra.local.state import LOCAL, free_slot
from tests.compose import images
from tests.compose.engine import Engine
from tests.compose.stack import VERSION, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator


def links() -> set[str]:
    """Network devices of this machine that an engine makes."""
    shown = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in shown.splitlines() if line.startswith(("br-", "docker"))}


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Yield it; its engine has nothing but what is built here."""
    before = links()
    with free_slot(LOCAL / "tests" / "compose", "make test-compose") as state:
        state.empty()
        with Engine(state.folder) as engine:
            images.stand_ins(engine)
            images.ours(engine, VERSION)
            running = Stack(engine, state.folder)
            try:
                running.up()
                yield running
                running.down()
                left = {what: engine.docker(what, "ls", "-q", *all_) for what, all_ in KINDS.items()}
                assert left == {"container": "", "volume": ""}
            finally:
                running.forget()
        assert links() <= before


KINDS = {"container": ["-a"], "volume": []}
