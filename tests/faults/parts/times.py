"""Puts what the last `make test-faults` measured into docs/bad-days.md: `python -m tests.faults.parts.times`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from infra.local.state import CHECKOUT
from tests.faults.parts.day import TIMES

PAGE: Final = CHECKOUT / "docs" / "bad-days.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"


def main() -> None:
    """Rewrite the table between the two marks."""
    measured = json.loads(TIMES.read_text("utf-8"))
    at = datetime.fromtimestamp(TIMES.stat().st_mtime, UTC)
    rows = [
        f"`make test-faults`, {at:%Y-%m-%d %H:%M} UTC; seconds.",
        "",
        "| fault | measured |",
        "|---|---|",
    ]
    for fault, times in sorted(measured.items()):
        rows.append(f"| {fault} | {'; '.join(f'{what} **{seconds}**' for what, seconds in times.items())} |")
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join([before + BEGIN, *rows, END]) + after, "utf-8")


if __name__ == "__main__":
    main()
