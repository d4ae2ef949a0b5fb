"""docs/attacks.md: what is tried, as it is declared, with the words and figures of one run; the rest is by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.attacks.declared import ATTACKS, KINDS, LATE, After, Attack, Chained, Check, Noticed, lasting

PATH: Final = Path(__file__).resolve().parents[2] / "docs" / "attacks.md"


def write(figures: Mapping[str, Sequence[Noticed]], chain: Sequence[Chained]) -> None:
    """Put what this run has measured in the place of what an earlier one had."""
    page = PATH.read_text("utf-8")
    for part, rows in (("attacks", _attacks(figures)), ("chain", _chain(chain))):
        start, end = _place(page, part)
        page = page[:start] + rows + page[end:]
    PATH.write_text(page, "utf-8")


def named() -> tuple[set[str], set[str]]:
    """The attacks that the page as it is tells of: ours, and those on the chain."""
    page = PATH.read_text("utf-8")
    kind, found = "", set()
    for line in _between(page, "attacks").splitlines():
        if line.startswith("### "):
            kind = line.removeprefix("### ")
        elif row := _row(line):
            found.add(_folded(kind, row[0]))
    rows = filter(None, map(_row, _between(page, "chain").splitlines()))
    return found, {_folded(row[0], row[1]) for row in rows}


def folded(attack: Attack) -> str:
    """The name of an attack as `named` gives it."""
    return _folded(attack.kind, attack.tried)


def _folded(kind: str, tried: str) -> str:
    return f"{kind}: {tried}".lower()


def _row(line: str) -> list[str] | None:
    """The cells of a row; None for a table's head and for what is no row."""
    cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
    return cells if line.startswith("| ") and not line.startswith(("| tried ", "| attack ")) else None


def _between(page: str, part: str) -> str:
    start, end = _place(page, part)
    return page[start:end]


def _place(page: str, part: str) -> tuple[int, int]:
    found = re.search(rf"<!-- {part}:.*?-->\n(?P<rows>.*)<!-- end of {part} -->", page, re.DOTALL)
    assert found, f"docs/attacks.md has no place for {part}"
    return found.span("rows")


def _attacks(figures: Mapping[str, Sequence[Noticed]]) -> str:
    return "\n".join(_section(kind, figures) for kind in KINDS)


def _section(kind: str, figures: Mapping[str, Sequence[Noticed]]) -> str:
    rows = "".join(
        f"| {attack.tried} | {', '.join(attack.needs)} | {_noticed(figures[attack.name])}"
        f" | {_after(attack, figures[attack.name])} | {attack.blind} |\n"
        for attack in ATTACKS.values()
        if attack.kind == kind
    )
    title = kind[0].upper() + kind[1:]
    return (
        f"### {title}\n\n| tried | with | who notices | unasked, after | who does not |\n|---|---|---|---|---|\n{rows}"
    )


def _after(attack: Attack, seen: Sequence[Noticed]) -> str:
    """The first who looks by themselves; a signer that runs does not look at what is old."""
    looking = [one.after for one in seen if not (one.by is Check.SIGNER and attack.blind == LATE)]
    return min(looking, key=list(After).index)


def _noticed(seen: Sequence[Noticed]) -> str:
    first: dict[str, Noticed] = {}
    for one in seen:
        first.setdefault(one.by, one)
    return "<br>".join(f"**{one.by}** ({_time(one.seconds)}): {_cell(one.said)}" for one in first.values())


def _chain(chain: Sequence[Chained]) -> str:
    rows = "".join(f"| {one.kind} | {one.tried} | {_chained(one)} |\n" for one in chain)
    noticed = sum(bool(one.said) for one in chain)
    return (
        f"| attack | tried on the chain | its `verify` says |\n|---|---|---|\n{rows}\n"
        f"{noticed} of {len(chain)} are noticed, one of them the erasure that the law asks for.\n"
    )


def _chained(one: Chained) -> str:
    return f"{_cell(one.said)} ({_time(one.seconds)})" if one.said else "**nothing**"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "under 1 ms"


def _cell(said: str) -> str:
    return lasting(said).replace("|", "\\|").replace("\n", " ")
