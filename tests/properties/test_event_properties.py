"""What holds for every statement and for every history, not only for those somebody thought of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from shared.events import (
    EVERYTHING,
    PERMISSIVE,
    RESTRICTIVE,
    Malformed,
    Standing,
    Statement,
    encode,
    matter_of,
    parse,
    purpose_matter,
)
from shared.events.matter import MATTER_PATTERN
from shared.events.standing import VALID_STATUS

GOLDEN: Final = sorted((Path(__file__).parents[1] / "contracts" / "golden").glob("*.json"))
BYTES: Final = [path.read_bytes() for path in GOLDEN]
DOCUMENTS: Final = {path.name.split(".")[0]: json.loads(path.read_bytes()) for path in GOLDEN}

words = st.sampled_from(["ConsentGiven", "ConsentRefused", "ConsentWithdrawn", "ConsentExpired", "ConsentRequested"])


@st.composite
def histories(draw: st.DrawFn) -> list[Statement]:
    """Words of one subject in recorded order, with claimed times in any order and equal ones too."""
    history = []
    for number in range(draw(st.integers(0, 12))):
        name = draw(words)
        document = DOCUMENTS[name]
        data = {**document["data"], "purpose": draw(st.sampled_from(["newsletter", "measurement"]))}
        if name in {"ConsentRefused", "ConsentExpired"}:
            data["stage"] = draw(st.sampled_from(["asked", "proven"]))
        if name == "ConsentWithdrawn" and draw(st.booleans()):
            data = {key: value for key, value in data.items() if key not in {"purpose", "channel"}}
            data["scope"] = "everything"
        changes = {
            "id": f"01a20320-a200-7d4e-8f50-{number:012x}",
            "time": f"2026-11-22T12:00:0{draw(st.integers(0, 6))}.000Z",
            "data": data,
        }
        history.append(parse(json.dumps({**document, **changes}).encode()))
    return history


def fold(history: list[Statement], standing: Standing) -> Standing:
    for index, statement in enumerate(history):
        standing, _ = standing.apply(statement, index)
    return standing


def allowed(history: list[Statement], purpose: str) -> bool:
    """The same question by another road: read the whole history for each word, and keep no state at all."""
    in_force: dict[str, tuple[int, Statement]] = {}
    for index, statement in enumerate(history):
        matter = matter_of(statement)
        earlier = [
            one.time
            for one in history[:index]
            if one.type in RESTRICTIVE and matter_of(one) in {matter, EVERYTHING} and not matter.startswith("ask:")
        ]
        if statement.type not in PERMISSIVE or all(statement.time > time for time in earlier):
            in_force[matter] = (index, statement)
    word, everything = in_force.get(purpose_matter(purpose, "email")), in_force.get(EVERYTHING)
    if word is None or word[1].data.status not in VALID_STATUS:
        return False
    return everything is None or everything[0] < word[0]


@given(histories())
def test_the_fold_permits_what_a_reading_of_the_whole_history_permits(history: list[Statement]) -> None:
    standing = fold(history, Standing({}))
    for purpose in ("newsletter", "measurement"):
        assert standing.permits(purpose, "email") == allowed(history, purpose)


@given(histories(), st.data())
def test_applying_any_part_again_changes_nothing(history: list[Statement], data: st.DataObject) -> None:
    standing = fold(history, Standing({}))
    for index in data.draw(st.lists(st.integers(0, len(history) - 1))) if history else []:
        again, _ = standing.apply(history[index], index)
        assert again == standing


@given(histories())
def test_after_a_restriction_as_the_last_word_nothing_is_permitted(history: list[Statement]) -> None:
    standing = fold(history, Standing({}))
    for statement in history:
        if statement.type in RESTRICTIVE and not matter_of(statement).startswith("ask:"):
            after, overtaken = standing.apply(statement, len(history))
            assert not overtaken
            ended = {"newsletter", "measurement"} if matter_of(statement) == EVERYTHING else {statement.data.purpose}
            assert not any(after.permits(purpose, "email") for purpose in ended)


@given(histories())
def test_every_statement_is_written_and_read_back_and_has_a_well_formed_matter(history: list[Statement]) -> None:
    for statement in history:
        assert parse(encode(statement)) == statement
        assert MATTER_PATTERN.match(matter_of(statement))


@given(st.binary(max_size=300))
def test_any_bytes_are_malformed_and_nothing_else_happens(raw: bytes) -> None:
    assert refused(raw)


@given(st.sampled_from(BYTES), st.data())
def test_a_statement_with_one_changed_byte_is_read_or_refused_and_nothing_else_happens(
    raw: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(raw) - 1))
    broken = raw[:place] + bytes([data.draw(st.integers(0, 255))]) + raw[place + 1 :]
    refused(broken)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(DOCUMENTS)), st.data(), json_values)
def test_a_statement_with_one_field_replaced_is_read_or_refused_and_nothing_else_happens(
    name: str, data: st.DataObject, value: Any
) -> None:
    document = DOCUMENTS[name]
    field = data.draw(st.sampled_from(sorted(document["data"])))
    refused(json.dumps({**document, "data": {**document["data"], field: value}}).encode())
    refused(json.dumps({**document, data.draw(st.sampled_from(sorted(document))): value}).encode())


def refused(raw: bytes) -> bool:
    """Whether `parse` refuses; any other exception than its own is a failure of the caller's test."""
    try:
        parse(raw)
    except Malformed:
        return True
    return False
