"""The end of a process: what was opened is closed, whatever one of its parts says."""

from __future__ import annotations

import json

import pytest

from services.serve import close_all
from shared import logs
from shared.process import Running


async def test_what_cannot_be_closed_says_so_without_quoting_and_keeps_nothing_else_open(
    capsys: pytest.CaptureFixture[str], logging_as_in_production: None
) -> None:
    closed: list[str] = []

    def part(name: str, fails: bool = False) -> Running:
        async def close() -> None:
            closed.append(name)
            if fails:
                raise ValueError("anna@example.org")

        return Running(close=close)

    logs.configure("INFO", "probe")
    await close_all({"subjects": part("subjects"), "ledger": part("ledger", fails=True), "web": part("web")})
    assert closed == ["web", "ledger", "subjects"]
    [line] = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (line["event"], line["role"], line["exception"]) == ("not-closed", "ledger", "ValueError")
    assert "anna" not in json.dumps(line)
