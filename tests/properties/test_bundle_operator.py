"""An operator who signs nonsense: the log holds it, the register says anything, and the verifier still only refuses."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.ledger.evidence.bundle import files_of
from services.ledger.reader.errors import Invalid
from services.ledger.reader.strict import canonical_json
from services.ledger.reader.verify import verify
from services.ledger.record import NoRecord, parse_snapshot, record
from shared.events import Statement, encode, parse
from tests.opt_in import OptIn, World, register
from tests.unit.proof.forging import mended

TRUE = json.loads(register().snapshot())
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside."""
    if path:
        yield path
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


PLACES = sorted(places(TRUE), key=str)


@dataclass
class Lying(World):
    """A world whose statements name another register than they were made with."""

    version: str = ""

    def record(self, statements: Sequence[Statement]) -> list[int]:
        raws = [encode(one).replace(register().version.encode(), self.version.encode()) for one in statements]
        return self.record_raw(raws, [parse(raw) for raw in raws])


@cache
def true_files() -> dict[str, bytes]:
    return files_of(OptIn().play().material)


def bundle_with(snapshot: bytes) -> tuple[bytes, str]:
    """A bundle in which everything holds but what follows from the register itself, and the log's key."""
    version = hashlib.sha256(snapshot).hexdigest()
    story = OptIn(world=Lying(version=version)).play()
    files = {name: content for name, content in true_files().items() if not name.startswith(("records/", "register/"))}
    files |= {f"register/{version}.json": snapshot, "checkpoint.txt": story.world.note.encode()}
    entries = story.material.history["entries"]
    files |= {f"statements/{entry['index']}.json": canonical_json(entry) for entry in entries}
    for name in [name for name in true_files() if name.startswith("records/")]:
        index = int(name.split("/")[1].split(".")[0])
        try:
            made: Any = record(story.world.statements[index], parse_snapshot(snapshot))
        except NoRecord:
            made = {}
        files[name] = canonical_json(made)
    return mended(files), story.world.signer.vkey


def failed_at(snapshot: bytes) -> str:
    data, key = bundle_with(snapshot)
    try:
        verify(data, key)
    except Invalid as error:
        return error.step
    return ""


def test_the_true_register_verifies_here_too() -> None:
    assert failed_at(register().snapshot()) == ""


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PLACES), ANYTHING)
def test_a_register_with_anything_anywhere_in_it(path: tuple[Any, ...], value: Any) -> None:
    changed = copy.deepcopy(TRUE)
    inside = changed
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    assert failed_at(json.dumps(changed).encode()) in {"", "6", "7", "8"}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PLACES))
def test_a_register_with_anything_missing_from_it(path: tuple[Any, ...]) -> None:
    changed = copy.deepcopy(TRUE)
    inside = changed
    for key in path[:-1]:
        inside = inside[key]
    del inside[path[-1]]
    assert failed_at(json.dumps(changed).encode()) in {"", "6", "7", "8"}


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=100) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_register_at_all(snapshot: bytes) -> None:
    assert failed_at(snapshot) == "6"
