"""What `parse` reads and what it refuses, byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from shared.events import MAX_STATEMENT_BYTES, Malformed, Statement, encode, parse
from shared.events.types import ConsentWithdrawn

GOLDEN: Final = Path(__file__).parents[2] / "contracts" / "golden"
WITHDRAWN: Final = (GOLDEN / "ConsentWithdrawn.1.json").read_bytes()
GIVEN: Final = (GOLDEN / "ConsentGiven.1.json").read_bytes()
SENT: Final = (GOLDEN / "MessageSent.1.json").read_bytes()


def reason(raw: bytes) -> str:
    with pytest.raises(Malformed) as caught:
        parse(raw)
    return str(caught.value)


def changed(raw: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(raw), **changes}).encode()


def with_data(raw: bytes, **changes: Any) -> bytes:
    document = json.loads(raw)
    return changed(raw, data={**document["data"], **changes})


def without(raw: bytes, name: str) -> bytes:
    document = json.loads(raw)
    document.pop(name, None)
    document["data"].pop(name, None)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xef\xbb\xbf" + WITHDRAWN,
        b" " + WITHDRAWN,
        WITHDRAWN + b"\n",
        WITHDRAWN + b"\x00",
        WITHDRAWN + WITHDRAWN,
        WITHDRAWN[:-1],
        WITHDRAWN.decode().encode("utf-16"),
    ],
)
def test_bytes_before_and_after_the_object_are_refused(raw: bytes) -> None:
    assert reason(raw) in {"not-an-object", "not-json"}


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"])
def test_invalid_utf_8_is_refused(bad: bytes) -> None:
    assert reason(WITHDRAWN.replace(b'"controller"', b'"' + bad + b'"', 1)) == "not-json"


def test_an_escaped_lone_surrogate_is_refused() -> None:
    assert reason(WITHDRAWN.replace(b'"one-click.post"', b'"\\ud800"')).startswith("invalid-")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_what_is_no_json_number_is_refused(number: bytes) -> None:
    assert reason(SENT.replace(b'"attempts":1', b'"attempts":' + number)) == "not-json"


@pytest.mark.parametrize("number", [b"1.0", b"1e0", b"1e999", b'"1"', b"true", b"0", b"1001", b"9" * 4300])
def test_a_number_of_another_kind_or_size_is_refused(number: bytes) -> None:
    assert reason(SENT.replace(b'"attempts":1', b'"attempts":' + number)).startswith("invalid-")


def test_a_number_longer_than_python_converts_is_refused_like_any_other() -> None:
    assert reason(SENT.replace(b'"attempts":1', b'"attempts":' + b"9" * 5000)) == "not-json"


def test_a_decimal_string_above_64_bits_is_refused() -> None:
    largest = b'"size":"18446744073709551615"'
    used = (GOLDEN / "ConsentUsed.1.json").read_bytes()
    assert largest in used
    assert reason(used.replace(largest, b'"size":"18446744073709551616"')) == "invalid-value-error: permit.size"


@pytest.mark.parametrize(
    "raw",
    [
        WITHDRAWN.replace(b"{", b'{"id":"x",', 1),
        WITHDRAWN.replace(b'"data":{', b'"data":{"scope":"everything",', 1),
        GIVEN.replace(b'"notice":{', b'"notice":{"language":"en",', 1),
        WITHDRAWN.replace(b"{", b'{"\\u0069d":"x",', 1),
    ],
)
def test_a_name_that_stands_twice_is_refused_at_any_depth(raw: bytes) -> None:
    assert reason(raw) == "duplicate-key"


def test_a_statement_of_just_the_limit_is_read_and_one_byte_more_is_not() -> None:
    padded = WITHDRAWN[:-1] + b" " * (MAX_STATEMENT_BYTES - len(WITHDRAWN)) + b"}"
    assert len(padded) == MAX_STATEMENT_BYTES
    assert parse(padded) == parse(WITHDRAWN)
    assert reason(padded[:-1] + b" }") == "too-large"


def test_nesting_too_deep_to_read_is_refused() -> None:
    assert reason(b'{"a":' * 5000 + b"1" + b"}" * 5000) == "not-json"


@pytest.mark.parametrize("schema", ["consent-ledger/Other/1", "consent-ledger/ConsentWithdrawn/3", "", None, 7, [], {}])
def test_an_unknown_type_or_version_is_refused(schema: object) -> None:
    assert reason(changed(WITHDRAWN, dataschema=schema)) == "unknown-type"


def test_a_type_that_is_not_its_schemas_is_refused() -> None:
    assert reason(changed(WITHDRAWN, type="ConsentGiven")) == "type-is-not-its-schema's"


@pytest.mark.parametrize(
    "raw", [changed(WITHDRAWN, extension="x"), with_data(WITHDRAWN, extra="x"), with_data(WITHDRAWN, email="x")]
)
def test_an_unknown_field_is_refused(raw: bytes) -> None:
    assert reason(raw) == "invalid-extra-forbidden"


def test_a_reason_never_quotes_what_a_stranger_wrote() -> None:
    for raw in (
        with_data(WITHDRAWN, Ada_Lovelace="x"),
        with_data(WITHDRAWN, sealed={"Ada_Lovelace": {"ciphertext": "AAAA", "key_hash": "0" * 64}}),
        with_data(WITHDRAWN, method="Ada_Lovelace"),
        changed(WITHDRAWN, id="Ada_Lovelace"),
        changed(WITHDRAWN, data="Ada_Lovelace"),
    ):
        with pytest.raises(Malformed) as caught:
            parse(raw)
        assert "Ada" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "subject", "time", "dataschema", "data"])
def test_an_attribute_of_another_type_is_refused(name: str) -> None:
    for value in (None, 1, True, [], "", "\n"):
        assert reason(changed(WITHDRAWN, **{name: value})) != ""


@pytest.mark.parametrize("name", ["id", "source", "subject", "time", "controller", "act", "by", "method", "status"])
def test_a_missing_field_is_refused_by_name(name: str) -> None:
    assert reason(without(WITHDRAWN, name)) == f"invalid-missing: {name}"


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-22T12:00:00Z",
        "2026-11-22T12:00:00.12Z",
        "2026-11-22T12:00:00.1234Z",
        "2026-11-22T12:00:00.123+00:00",
        "2026-11-22t12:00:00.123z",
        "2026-11-22 12:00:00.123Z",
        "2026-13-01T12:00:00.123Z",
        "2026-02-31T12:00:00.123Z",
        "2026-11-22T24:00:00.000Z",
        "2026-11-22T23:59:60.000Z",
        "0000-01-01T00:00:00.000Z",
        "2026-11-22T12:00:00.123Z\n",
        "\uff12026-11-22T12:00:00.123Z",
    ],
)
def test_a_time_in_any_other_spelling_or_of_no_calendar_is_refused(time: str) -> None:
    assert reason(changed(WITHDRAWN, time=time)).endswith(": time")


@pytest.mark.parametrize(
    "subject",
    [
        "0.SYSTEM",
        "1.system",
        "00.01a2008d-7400-7abc-9def-0123456789ab",
        "0.01A2008D-7400-7ABC-9DEF-0123456789AB",
        "0.01a2008d-7400-4abc-9def-0123456789ab",
        "01a2008d-7400-7abc-9def-0123456789ab",
        "0.01a2008d74007abc9def0123456789ab",
        "0.01a2008d-7400-7abc-9def-0123456789ab\n",
        "-1.01a2008d-7400-7abc-9def-0123456789ab",
    ],
)
def test_a_subject_in_any_other_spelling_is_refused(subject: str) -> None:
    assert reason(changed(WITHDRAWN, subject=subject)).endswith(": subject")


@pytest.mark.parametrize("purpose", ["", "News", "-news", "news letter", "news/letter", "n" * 64, "news\n", "nëws"])
def test_a_purpose_in_any_other_spelling_is_refused(purpose: str) -> None:
    assert reason(with_data(WITHDRAWN, purpose=purpose)).endswith(": purpose")


def test_a_withdrawal_names_a_purpose_or_everything_but_not_both() -> None:
    for data in (
        {"scope": "everything"},
        {"scope": "everything", "purpose": None},
        {"purpose": None},
        {"channel": None},
        {"purpose": None, "channel": None},
    ):
        assert reason(with_data(WITHDRAWN, **data)) == "invalid-value-error"
    assert parse(with_data(WITHDRAWN, scope="everything", purpose=None, channel=None)).data.scope == "everything"


def test_a_message_under_a_permit_names_its_purpose_and_any_other_does_not() -> None:
    assert reason(without(SENT, "permit")) == "invalid-value-error"
    assert reason(without(SENT, "purpose")) == "invalid-value-error"


def test_empty_optional_fields_are_left_out_of_the_bytes() -> None:
    statement = parse(WITHDRAWN)
    bare = {key: value for key, value in statement.data.model_dump().items() if value and key != "follows"}
    written = encode(
        Statement.of(
            ConsentWithdrawn(**bare),
            id=statement.id,
            source=statement.source,
            subject=statement.subject,
            time=statement.time,
        )
    )
    assert b"follows" not in written
    assert b"sealed" not in written
    assert b"null" not in written
    assert parse(written).data.follows == []
