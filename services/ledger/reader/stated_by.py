"""Which software stated what, by the statements' own word."""

from collections.abc import Iterable

from services.ledger.reader.entry import Recorded


def stated_by(recorded: Iterable[Recorded]) -> list[tuple[str, str]]:
    """Each software with the indexes of its statements, in the order they begin; "" is of those that name none.

    `4-9, 12`: every statement in hand from index 4 to 9, and the one at 12.
    """
    spans: dict[str, list[tuple[int, int]]] = {}
    before = None
    for one in recorded:
        name = one.statement.data.software
        own = spans.setdefault(name, [])
        first = own.pop()[0] if name == before else one.index
        own.append((first, one.index))
        before = name
    return [
        (name, ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in own))
        for name, own in spans.items()
    ]
