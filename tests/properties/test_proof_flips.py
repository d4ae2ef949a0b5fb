"""One flipped bit, anywhere in any kind of proof file, and it no longer verifies."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ledger.reader.errors import Invalid
from services.ledger.reader.verify import UNEXPECTED, kind_of, verify
from shared.clock import rfc3339
from tests.unit.proof.test_proof_file import ALL, true_one, withdrawn


@cache
def whole(kind: str) -> bytes:
    return json.dumps(true_one(kind)).encode()


def is_another_moment(flipped: bytes) -> bool:
    """Whether the file differs from the true one in the moment that it is asked about, and in nothing else."""
    try:
        value = json.loads(flipped)
    except ValueError:
        return False
    return isinstance(value, dict) and value | {"at": true_one("state")["at"]} == json.loads(whole("state"))


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=120, deadline=None)
@given(place=st.integers(0), bit=st.integers(0, 7))
def test_any_bit_of_a_proof_file_counts(kind: str, place: int, bit: int) -> None:
    data = whole(kind)
    place %= len(data)
    flipped = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
    if flipped.split() == data.split():
        return  # a blank between two members that became another blank
    assert kind_of(flipped) == "proof"
    if kind == "state" and is_another_moment(flipped):
        return  # it is another question, and its answer may be as true
    with pytest.raises(Invalid) as failure:
        verify(flipped, withdrawn().world.signer.vkey)
    assert failure.value.step != UNEXPECTED


def test_of_another_moment_a_proof_says_only_what_was_so_then() -> None:
    value = true_one("state")
    at = datetime.fromisoformat(value["at"])
    verdicts = set()
    for seconds in range(-600, 7200, 211):
        moment = rfc3339(at + timedelta(seconds=seconds))
        try:
            report = verify(json.dumps(value | {"at": moment}).encode(), withdrawn().world.signer.vkey)
        except Invalid:
            verdicts.add((seconds >= 0, "refused"))
        else:
            assert report is not None
            assert f" at {moment}: consent holds" in report.conclusion
            verdicts.add((seconds >= 0, "holds"))
    # Between the consent and the withdrawal it held; before and after, this file proves nothing.
    assert verdicts == {(False, "refused"), (True, "holds"), (True, "refused")}


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.sampled_from(["0", "A" * 43, "00" * 32])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["leaf", "index"]), inner)),
    max_leaves=4,
)


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_member_s_place_ends_in_a_refusal_of_ours(kind: str, data: st.DataObject) -> None:
    value = json.loads(whole(kind))
    at = value
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    put = data.draw(VALUES)
    if at[key] == put:
        return
    at[key] = put
    with pytest.raises(Invalid) as failure:
        verify(json.dumps(value).encode(), withdrawn().world.signer.vkey)
    assert failure.value.step != UNEXPECTED
