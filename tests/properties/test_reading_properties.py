"""What a door reads by hand, given anything at all: it is read, or refused with what to do; nothing else happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import urlencode

from fastapi import Request
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from shared.errors import Refused
from shared.web import json_body, language, parse_form, wants_html

Answer = TypeVar("Answer")
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=20)
PIECES = [b"--b", b"\r\n", b"\n", b'Content-Disposition: form-data; name="a"', b"--", b"=", b"&"]
SHAPED = st.lists(st.sampled_from(PIECES)).map(b"".join)
KINDS = st.sampled_from(
    ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b", 'multipart/form-data; boundary="b b"']
)


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    yes: bool
    inner: list[dict[str, int]] = []


def request(body: bytes = b"", query: str = "", **headers: str) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    named = [(name.replace("_", "-").encode(), value.encode("utf-8", "replace")) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": query.encode(), "headers": named}
    return Request(scope, receive)


def read(reading: Coroutine[Any, Any, Answer]) -> Answer | Refused:
    """What was read, or the refusal; any other exception is one too many."""
    try:
        return asyncio.run(reading)
    except Refused as refused:
        return refused


def form_of(body: bytes, kind: str) -> dict[str, list[str]] | Refused:
    return read(parse_form(request(body, content_type=kind)))


@given(st.binary(max_size=300) | SHAPED, KINDS)
@example(b"--b\r\n\r\n--b--", "multipart/form-data; boundary=b")
def test_any_bytes_are_a_form_or_refused(body: bytes, kind: str) -> None:
    form = form_of(body, kind)
    if isinstance(form, Refused):
        assert form.status in {400, 415}
        assert len(form.message) > 20
    else:
        assert all(isinstance(value, str) for values in form.values() for value in values)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=20))
def test_a_form_as_browsers_send_it_is_read_as_it_was_filled_in(fields: list[tuple[str, str]]) -> None:
    form = form_of(urlencode(fields).encode("ascii"), "application/x-www-form-urlencoded")
    assert isinstance(form, dict)
    assert [value for name in form for value in form[name]] == [
        value for wanted in form for name, value in fields if name == wanted
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "yes", "inner", "x"]), inner),
    max_leaves=8,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_the_model_or_refused_and_never_coerced(body: bytes) -> None:
    found = read(json_body(request(body), Body))
    if isinstance(found, Refused):
        assert found.status == 400
        assert set(found.facts) <= {"field", "rule"}
    else:
        sent = json.loads(body)
        assert (sent["name"], sent["yes"]) == (found.name, found.yes)
        assert isinstance(sent["yes"], bool)


@given(st.text(max_size=60), st.text(max_size=30))
def test_no_header_or_query_keeps_a_person_from_a_page(header: str, query: str) -> None:
    asked = request(b"", urlencode({"lang": query}), accept_language=header, accept=header)
    assert language(asked) in {"de", "en"}
    assert wants_html(asked) in {True, False}
