"""Timestamps in a bundle: what an authority said of an earlier state of the log, bound to the bundle's by the tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ledger.evidence.bundle import bundle, files_of
from services.ledger.reader import standalone
from services.ledger.reader.authority import parse_authority
from services.ledger.reader.errors import Invalid
from services.ledger.reader.policy import LogKey, Policy
from services.ledger.reader.strict import decode_base64url, encode_base64url
from services.ledger.reader.verify import main, verify
from tests.authority import authority
from tests.opt_in import OptIn
from tests.unit.proof.forging import Files, mended, with_json
from tests.unit.proof.proving import stamped, stamped_text


@cache
def story() -> OptIn:
    return OptIn().play()


def sizes() -> tuple[int, int]:
    """That of a checkpoint which ends with the consent, and the bundle's own."""
    return story().indexes["given"] + 2, len(story().world.leaves)


@cache
def files() -> Files:
    return files_of(replace(story().material, stamps=[stamped(story().world, size) for size in sizes()]))


def name() -> str:
    return f"timestamps/{sizes()[0]}.json"


def believing(authority_name: str = "authority") -> Policy:
    return Policy((LogKey(story().world.signer.vkey),), authority=parse_authority(authority(authority_name).pem))


def verdicts(data: bytes) -> tuple[str, str]:
    """The step at which each of the two verifiers refuses, or nothing."""
    ours = its = ""
    try:
        verify(data, story().world.signer.vkey)
    except Invalid as error:
        ours = error.step
    try:
        standalone.check(data, story().world.signer.vkey)
    except standalone.Invalid as error:
        its = str(error.step)
    return ours, its


def said_of(data: bytes) -> str:
    """The conclusion of whoever believes the authority."""
    try:
        report = verify(data, believing())
    except Invalid as error:
        return f"refused at step {error.step}"
    assert report is not None
    return report.conclusion


def test_both_verifiers_say_by_when_the_log_was_there() -> None:
    packed = bundle(replace(story().material, stamps=[stamped(story().world, size) for size in sizes()]))
    report = verify(packed, story().world.signer.vkey)
    assert report is not None
    for size in sizes():
        said = rf"the log's first {size} leaves were there at \d{{4}}-"
        assert any(re.match(said, one.text) and "that was not given" in one.text for one in report.findings)
        found = standalone.check(packed, story().world.signer.vkey).found
        assert any(re.match(said, text) and "is not judged here" in text for _, text in found)
    assert "by the authority's word" not in report.conclusion


def test_with_the_authoritys_certificates_the_conclusion_says_it() -> None:
    report = verify(mended(files()), believing())
    assert report is not None
    assert all("by the word of the authority given" in one.text for one in report.findings if "were there" in one.text)
    assert re.search(r", recorded \S+, there at \S+ by the authority's word, is shown with grade A", report.conclusion)


def test_a_timestamp_from_before_the_consent_says_nothing_of_it() -> None:
    early = files_of(replace(story().material, stamps=[stamped(story().world, story().indexes["given"])]))
    report = verify(mended(early), believing())
    assert report is not None
    assert "by the authority's word" not in report.conclusion


def test_by_another_authority_than_the_one_that_is_believed_it_is_refused() -> None:
    with pytest.raises(Invalid, match="does not verify") as refused:
        verify(mended(files()), believing("another"))
    assert refused.value.step == "2"


def test_the_command_takes_the_authoritys_certificates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / one for one in ("bundle.zip", "vkey", "authority.pem")]
    for path, content in zip(
        paths, (mended(files()), story().world.signer.vkey.encode(), authority().pem), strict=True
    ):
        path.write_bytes(content)
    assert main(paths[0], paths[1], authority=paths[2]) == 0
    assert "by the authority's word" in capsys.readouterr().out


def _other_root(stamp: dict[str, Any]) -> None:
    stamp["root"] = "0" * 64


def _left_out(stamp: dict[str, Any]) -> None:
    stamp["hashes"].pop()


def _one_more(stamp: dict[str, Any]) -> None:
    stamp["hashes"].append("A" * 43)


def _member(stamp: dict[str, Any]) -> None:
    stamp["time"] = "2020-02-05T09:30:00.000Z"


def _about_something_else(stamp: dict[str, Any]) -> None:
    stamp["answer"] = encode_base64url(stamped_text(b"something else"))


def _not_granted(stamp: dict[str, Any]) -> None:
    granted = decode_base64url("", "", stamp["answer"])
    at = granted.index(b"\x02\x01\x00")
    stamp["answer"] = encode_base64url(granted[: at + 2] + b"\x02" + granted[at + 3 :])


def _behind(stamp: dict[str, Any]) -> None:
    stamp["answer"] = encode_base64url(decode_base64url("", "", stamp["answer"]) + b"\x00")


def _long(stamp: dict[str, Any]) -> None:
    stamp["answer"] = encode_base64url(b"\x30" + bytes(64 * 1024))


@pytest.mark.parametrize(
    "change",
    [_other_root, _left_out, _one_more, _member, _about_something_else, _not_granted, _behind, _long],
)
def test_one_that_says_something_else_is_refused_by_both(change: Callable[[dict[str, Any]], None]) -> None:
    assert verdicts(mended(with_json(files(), name(), change))) == ("2", "2")


@pytest.mark.parametrize("size", ["0", "999999", "18446744073709551616"])
def test_one_of_a_size_that_the_log_never_had_is_refused_by_both(size: str) -> None:
    assert verdicts(mended({**files(), f"timestamps/{size}.json": files()[name()]})) == ("2", "2")


def test_a_bundle_of_too_many_is_refused() -> None:
    many = {f"timestamps/{size}.json": files()[name()] for size in range(1, 66)}
    with pytest.raises(Invalid, match="more than 64"):
        verify(mended(files() | many), story().world.signer.vkey)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_both_judge_alike_whatever_bit_of_the_answer_is_another(data: st.DataObject) -> None:
    def flip(stamp: dict[str, Any]) -> None:
        answer = bytearray(decode_base64url("", "", stamp["answer"]))
        answer[data.draw(st.integers(0, min(len(answer), 400) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        stamp["answer"] = encode_base64url(bytes(answer))

    ours, its = verdicts(mended(with_json(files(), name(), flip)))
    assert ours == its


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_never_moves_the_time_that_the_authority_has_signed(data: st.DataObject) -> None:
    def flip(stamp: dict[str, Any]) -> None:
        answer = bytearray(decode_base64url("", "", stamp["answer"]))
        answer[data.draw(st.integers(0, len(answer) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        stamp["answer"] = encode_base64url(bytes(answer))

    genuine, altered = said_of(mended(files())), said_of(mended(with_json(files(), name(), flip)))
    assert altered in {genuine, "refused at step 2"}
