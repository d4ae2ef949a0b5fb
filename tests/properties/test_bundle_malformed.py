"""Whatever a stranger sends, the verifier answers with its one error or with "neither", and with nothing else."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.ledger.evidence.bundle import bundle, files_of
from services.ledger.proofs.receipt import Snapshot, receipt
from services.ledger.reader.archive import pack, unpack
from services.ledger.reader.errors import Invalid
from services.ledger.reader.evidence import FORMAT, MANIFEST
from services.ledger.reader.mail import parse_dkim_keys, parse_mail, verify_dkim
from services.ledger.reader.receipt import FORMAT as RECEIPT
from services.ledger.reader.receipt import MEMBERS
from services.ledger.reader.served import parse_notice_keys, verify_served
from services.ledger.reader.strict import canonical_json
from services.ledger.reader.verify import UNEXPECTED, verify
from shared.register import load
from tests.opt_in import OptIn
from tests.unit.proof.forging import mended

QUICK = settings(max_examples=150, deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@cache
def story() -> OptIn:
    return OptIn().play()


@cache
def files() -> dict[str, bytes]:
    return files_of(story().material)


@cache
def whole() -> bytes:
    return bundle(story().material)


@cache
def kept() -> dict[str, Any]:
    return receipt(story().world.history([story().indexes["given"]]), Snapshot(load().snapshot()))


def answers(data: bytes) -> None:
    """The verifier refuses, knowing why, or says that it is neither; it never believes."""
    try:
        report = verify(data, story().world.signer.vkey)
    except Invalid as error:
        failed = error.step
    else:
        failed = "" if report is None else UNEXPECTED
    assert failed != UNEXPECTED


@QUICK
@given(st.binary(max_size=4096))
@example(b"PK\x03\x04" + FORMAT.encode())
@example(RECEIPT.encode())
@example(b"[" * 100_000)
@example(b'{"leaf":' * 50_000)
@example(b'{"leaf": 1e999, "proof": "\\ud800", "statement": NaN}')
def test_random_bytes(data: bytes) -> None:
    answers(data)


@QUICK
@given(st.binary(max_size=400), st.binary(max_size=200))
def test_random_bytes_that_look_like_an_archive(before: bytes, behind: bytes) -> None:
    answers(b"PK\x03\x04" + before + FORMAT.encode() + behind)


@QUICK
@given(st.integers(0))
def test_truncations(length: int) -> None:
    answers(whole()[: length % len(whole())])


@QUICK
@given(st.integers(0), st.binary(min_size=1, max_size=40))
def test_bytes_put_in(place: int, put: bytes) -> None:
    at = place % len(whole())
    answers(whole()[:at] + put + whole()[at:])


@QUICK
@given(st.sampled_from(sorted(MEMBERS)), JSON)
def test_receipts_with_anything_in_a_member(member: str, value: Any) -> None:
    if kept()[member] != value:
        answers(json.dumps(kept() | {member: value}).encode())


@QUICK
@given(st.sampled_from(sorted(set(files()) - {"README.txt", "verify.py"})), st.binary(max_size=300))
def test_bundles_with_anything_in_a_file(name: str, content: bytes) -> None:
    if name == MANIFEST:
        answers(pack({**files(), name: content}))
    elif name.endswith("-keys.json"):
        _weaker_at_most({**files(), name: content})
    else:
        answers(mended({**files(), name: content}))


@QUICK
@given(st.sampled_from([name for name in sorted(files()) if "json" in name and name != MANIFEST]), JSON)
def test_bundles_with_any_json_in_a_file(name: str, value: Any) -> None:
    if name.endswith("-keys.json"):
        _weaker_at_most({**files(), name: canonical_json(value)})
    else:
        answers(mended({**files(), name: canonical_json(value)}))


@QUICK
@given(st.sampled_from(["statements/6.json", "statements/4.json", "keys.json"]), st.data())
def test_bundles_with_anything_in_a_member_of_a_file(name: str, data: st.DataObject) -> None:
    value = json.loads(files()[name])
    target = value if isinstance(value, dict) else value[0]
    member = data.draw(st.sampled_from(sorted(target)))
    changed = data.draw(JSON)
    if target[member] != changed:
        target[member] = changed
        answers(mended({**files(), name: canonical_json(value)}))


@QUICK
@given(st.text(alphabet="abcABC019./\\-_ \x00é", min_size=1, max_size=60), st.binary(max_size=20))
@example("../../etc/passwd", b"")
@example("statements/99999999999999999999.json", b"{}")
@example("opened/0-attachment-0.eml", b"")
def test_bundles_with_any_other_file(name: str, content: bytes) -> None:
    if name in files():
        return
    try:
        data = mended({**files(), name: content})
    except UnicodeEncodeError:
        return
    answers(data)


def _weaker_at_most(changed: dict[str, bytes]) -> None:
    try:
        report = verify(mended(changed), story().world.signer.vkey)
    except Invalid as error:
        failed = error.step
    else:
        failed = UNEXPECTED if report is None else ""
    assert failed != UNEXPECTED


def only_invalid(check: Any, *arguments: Any) -> None:
    try:
        check(*arguments)
    except Invalid:
        return


@QUICK
@given(st.binary(max_size=1500))
@example(b"To: =?x?q?=?=\r\n\r\n")
@example(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; h=from; d=x; s=y; bh=; b=\r\nFrom: a\r\n\r\n")
@example(b"Content-Type: multipart/mixed; boundary=\r\nMIME-Version: 1.0\r\n\r\n--\r\n--\r\n")
def test_mails(raw: bytes) -> None:
    keys = parse_dkim_keys("7", files()["dkim-keys.json"])
    only_invalid(lambda: verify_dkim("7", parse_mail("7", raw), keys))
    only_invalid(lambda: parse_mail("7", b"From: a@b.example\r\n\r\n" + raw))


@QUICK
@given(st.text(max_size=200))
@example("e30.e30.e30")
@example("..")
def test_tokens(token: str) -> None:
    keys = parse_notice_keys("8", files()["notice-keys.json"])
    only_invalid(verify_served, "8", keys, token)


@QUICK
@given(st.binary(max_size=300))
def test_archives(data: bytes) -> None:
    only_invalid(unpack, "1", b"PK\x03\x04" + data)
