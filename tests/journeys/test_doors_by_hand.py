"""Every door of every service, asked by hand what a generator does not think of; and nothing half of it remains.

Each test that may leave something behind ends with `whole`: no request row without its statement, no statement
without its row, no mail without its request.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import urllib.parse
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.local.browser import Browser, Page
from infra.local.installation import READY
from infra.local.openapi import DOCUMENTS
from infra.local.screen import until
from shared import served_notice
from shared.access import grants
from tests.journeys.people import CLICKS, NEWSLETTER, Person, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Operation = tuple[str, str, dict[str, Any]]
FORM: Final = "application/x-www-form-urlencoded"

HALVES: Final = {
    "requests without their statements": """
        select count(*) from newsletter.request_purpose p
        where not exists (select from newsletter.outbox o where o.id = p.asked)""",
    "statements without their request": """
        select count(*) from newsletter.outbox o
        where convert_from(o.statement, 'UTF8')::jsonb ->> 'type' = 'ConsentRequested'
          and not exists (select from newsletter.request_purpose p where p.asked = o.id)
          and not exists (select from newsletter.outbox r
                          where convert_from(r.statement, 'UTF8')::jsonb ->> 'type' = 'RetentionExecuted'
                            and convert_from(r.statement, 'UTF8')::jsonb -> 'data' -> 'follows' ? o.id::text)""",
    "consents without their row": """
        select count(*) from newsletter.outbox o
        where convert_from(o.statement, 'UTF8')::jsonb ->> 'type' = 'ConsentGiven'
          and not exists (select from newsletter.request_purpose p where p.given = o.id)""",
    "rows of a consent without the statement": """
        select count(*) from newsletter.request_purpose p
        where p.given is not null and not exists (select from newsletter.outbox o where o.id = p.given)""",
    "confirmed requests without a consent": """
        select count(*) from newsletter.request r
        where (r.state = 'confirmed') <> exists
              (select from newsletter.request_purpose p where p.request = r.id and p.given is not null)""",
    "withdrawals without their statements": """
        select count(*) from newsletter.withdrawal w, unnest(w.statements) id
        where not exists (select from newsletter.outbox o where o.id = id)""",
    "requests without a box": """
        select count(*) from newsletter.request r
        where not exists (select from newsletter.request_purpose p where p.request = r.id)""",
    "mails that left and are not stated": """
        select count(*) from newsletter.mail m
        where m.state = 'accepted' and not exists (select from newsletter.outbox o where o.id = m.id)""",
}


PURGED: Final = """
    select distinct convert_from(o.statement, 'UTF8')::jsonb ->> 'id' from newsletter.outbox o
    where convert_from(o.statement, 'UTF8')::jsonb ->> 'type' = 'MessageSent'"""


def whole(world: World) -> None:
    """Nothing is there by half. (Outbox rows are kept for days, so within a test they are all of them.)"""
    until(
        "the end of all mails", lambda: world.sql("select count(*) from newsletter.mail where state = 'waiting'") == "0"
    )
    assert {what: world.sql(sql) for what, sql in HALVES.items()} == dict.fromkeys(HALVES, "0")
    # Every mail that lies in anybody's box was asked for: its id is that of a row, or of a row that was purged since.
    listed = json.loads(Browser("en").get(f"{world.base}/inbox/messages").body)
    left = {mail["message_id"].strip("<>").partition("@")[0] for mail in listed}
    asked = set(world.sql("select id from newsletter.mail union all select statement from marketing.delivery").split())
    purged = set(world.sql(PURGED).split())
    assert left <= asked | purged


def recorded(world: World) -> tuple[str, ...]:
    """How much there is of all that a door of the newsletter can leave behind."""
    tables = ("newsletter.request", "newsletter.mail", "newsletter.withdrawal", "newsletter.outbox", "subjects.subject")
    return tuple(world.sql(f"select count(*) from {table}") for table in tables)


def operations() -> Iterator[Operation]:
    """Method, path and document of each operation of every service."""
    for service in READY:
        document = json.loads((DOCUMENTS / f"{service}.json").read_text("utf-8"))
        for path, item in document["paths"].items():
            for method, operation in item.items():
                yield method.upper(), path, operation


def named(wanted: Any) -> list[Any]:
    return [pytest.param(one, id=f"{one[0]} {one[1]}") for one in operations() if wanted(one)]


def takes(kind: str) -> Any:
    return lambda one: any(kind in media for media in one[2].get("requestBody", {}).get("content", {}))


def example(path: str) -> str:
    """An address of a route, with something in its gaps that opens nothing."""
    return re.sub(r"\{(\w+)\}", lambda gap: "0" if gap[1] == "shard" else "x", path)


def ask(
    world: World, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request exactly as it is given, over a connection of its own: status, headers by lower-case name, body."""
    port = urllib.parse.urlsplit(world.base).port or 80
    given = {"Host": f"localhost:{port}", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "Connection: close"]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body)
        answer = http.client.HTTPResponse(connection, method=method)
        answer.begin()
        content = answer.read()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


def refusal(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    """Status and code of an answer that must be a refusal in our own form, saying what to do."""
    status, headers, body = answer
    assert 400 <= status < 500, (status, body)
    assert headers["content-type"].startswith("application/json"), (status, headers)
    said = json.loads(body)
    assert len(said["message"]) > 20
    return status, said["error"]


def credential(world: World, operation: dict[str, Any]) -> dict[str, str]:
    """Of a caller who may, if anybody must have one."""
    if "security" not in operation:
        return {}
    [scope] = operation["security"][0]["bearer"]
    callers = [caller for caller, scopes in grants().items() if scope in scopes]
    return {"Authorization": f"Bearer {world.installation.secrets.credential(callers[0])}"} if callers else {}


NOT_JSON: Final = {
    "nothing": b"",
    "no JSON": b"hello",
    "half of it": b'{"subject":',
    "two of it": b"{}{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "invalid UTF-8": b'{"subject":"\xff\xfe"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "a duplicate key": b'{"subject":"x","subject":"y"}',
    "a duplicate key far inside": b'{"items":[{"a":{"b":1,"b":2}}]}',
    "no number": b'{"attempt":NaN}',
    "an unpaired surrogate": b'{"subject":"\\ud800"}',
    "a depth without end": b"[" * 20_000,
    "another kind": b"[]",
    "a word": b'"yes"',
    "null": b"null",
    "an unknown field": b'{"mood":"good"}',
    "a huge number": b'{"attempt":' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("operation", named(takes("json")))
def test_a_body_that_is_no_such_json_is_refused_with_what_to_do(world: World, operation: Operation) -> None:
    method, path, document = operation
    headers = {**credential(world, document), "Content-Type": "application/json"}
    before = recorded(world)
    for what, body in NOT_JSON.items():
        status, _ = refusal(ask(world, method, example(path), body, headers))
        assert status in ({400} if "Authorization" in headers else {401}), what
    assert recorded(world) == before


@pytest.mark.parametrize("operation", named(takes("json")))
def test_a_field_of_another_type_is_named_and_its_value_is_not(world: World, operation: Operation) -> None:
    method, path, document = operation
    headers = credential(world, document)
    [content] = document["requestBody"]["content"].values()
    service = json.loads((DOCUMENTS / f"{path.split('/')[1]}.json").read_text("utf-8"))
    schema = service["components"]["schemas"][content["schema"]["$ref"].rsplit("/", 1)[1]]
    for field in schema.get("properties", {}):
        for wrong in ("yes", True, 1, 1.5, None, [], {}, ["yes"], {"secret-value": "yes"}):
            body = json.dumps({field: wrong}).encode()
            answer = ask(world, method, example(path), body, headers)
            refusal(answer)
            assert b"secret-value" not in answer[2]


@pytest.mark.parametrize("operation", named(lambda one: one[0] in {"POST", "PUT"}))
def test_a_body_that_is_too_large_is_refused_in_our_own_form_before_it_is_read(
    world: World, operation: Operation
) -> None:
    method, path, document = operation
    if "requestBody" not in document:
        return  # it is not read, so it may be as large as it likes: its time is limited
    [limit] = re.findall(r"\d+", document["responses"]["413"]["description"])
    headers = {**credential(world, document), "Content-Length": str(int(limit) + 1), "Content-Type": FORM}
    status, code = refusal(ask(world, method, example(path), b"", headers))
    assert (status, code) in {(413, "too-large"), (401, "credential-missing"), (404, "not-found")} | (
        {(404, "way-out-unknown")} if "unsubscribe" in path else set()
    ) | ({(400, "not-a-hash")} if "attachments" in path else set())


@pytest.mark.parametrize("operation", named(lambda _: True))
def test_a_strange_request_is_refused_and_never_a_failure(world: World, operation: Operation) -> None:
    method, path, document = operation
    address, headers = example(path), credential(world, document)
    assert refusal(ask(world, method, address, headers={**headers, "X-Large": "x" * 30_000}))[0] == 431
    assert refusal(ask(world, method, f"{address}?q={'x' * 6000}", headers=headers))[0] == 414
    assert refusal(ask(world, "PATCH", address, headers=headers))[0] == 405
    for odd in ("%00", "%0a", "%ff", "%ed%a0%80", "/..%2f..", "%0d%0aX-Injected:%20yes", "/" + "9" * 3000):
        status, answered, _ = ask(world, method, address + odd, headers=headers)
        assert status < 500, odd
        assert "x-injected" not in answered
    for query in ("?%zz&=&&", "?lang=%00", "?lang=xx&lang=de", "?shard=00&from=-1&wait=nan", "?limit=1e9&from=x"):
        assert ask(world, method, address + query, headers=headers)[0] < 500, query


@pytest.mark.parametrize("shard", ["00", "01", "+0", "-0", "0x0", "%D9%A0", "0.0", "1e0", "0%20", "9999999999"])
def test_a_log_has_one_address(world: World, shard: str) -> None:
    for resource in ("checkpoint", "vkey", "fresh-vkey", "tile/0/000.p/1", "tile/entries/000.p/1"):
        assert refusal(ask(world, "GET", f"/ledger/log/{shard}/{resource}"))[0] == 404
        assert ask(world, "GET", f"/ledger/log/0/{resource}")[0] == 200


# -- forms -----------------------------------------------------------------------------------------------------------


FOREIGN: Final = {
    "another site": {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    "another site, told by one header": {"Sec-Fetch-Site": "cross-site"},
    "another site, told by the other": {"Origin": "https://evil.example"},
    "a sandboxed frame": {"Origin": "null"},
    "a sibling": {"Sec-Fetch-Site": "same-site"},
    "another port": {"Origin": "http://localhost:1"},
    "our name as a prefix": {"Origin": "http://localhost.evil.example"},
}


def forms() -> list[Any]:
    """Every POST that a browser could be made to send: a form, or one that reads no body."""
    return named(lambda one: one[0] == "POST" and "security" not in one[2])


@pytest.mark.parametrize("operation", forms())
def test_no_form_is_taken_from_another_site(world: World, operation: Operation) -> None:
    method, path, _ = operation
    person = world.person()
    confirmation = person.sign_up()
    link = confirmation.way_out if "unsubscribe" in path else confirmation.confirm_link
    address = urllib.parse.urlsplit(link).path if "{" in path else path
    served = dict(person.open_form().form("email").values)["served"]
    body = urllib.parse.urlencode(
        {"email": person.address, "purpose": NEWSLETTER, "served": served, "scope": "everything"}
    ).encode()
    person.quiet(person.subject(confirmation))
    before = recorded(world)
    for who, headers in FOREIGN.items():
        answer = ask(world, method, address, body, {**headers, "Content-Type": FORM})
        assert refusal(answer) == (403, "cross-site"), who
    assert recorded(world) == before
    whole(world)


NO_ADDRESSES: Final = {
    "a header": "mara@example.org\r\nBcc: all@example.org",
    "a header after a bare line feed": "mara@example.org\nBcc: all@example.org",
    "a header after a bare return": "mara@example.org\rSubject: x",
    "a unicode line separator": "mara@example.org\u2028Bcc: all@example.org",
    "a next line": "mara@example.org\x85Bcc: x@example.org",
    "a command": "mara@example.org>\r\nRCPT TO:<all@example.org",
    "two": "mara@example.org, otto@example.org",
    "two, spaced": "mara@example.org otto@example.org",
    "a name": "Mara <mara@example.org>",
    "a quoted part": '"mara@example.org\\" otto"@example.org',
    "zero width": "ma\u200bra@example.org",
    "a joiner": "ma\u200dra@example.org",
    "right to left": "mara\u202e@example.org",
    "an isolate": "\u2066mara@example.org\u2069",
    "a soft hyphen": "ma\u00adra@example.org",
    "a byte order mark": "\ufeffmara@example.org",
    "full width": "mara@\uff45xample.org",
    "an ideographic stop": "mara@example。org",
    "a tab": "mara\t@example.org",
    "no-break space": "mara\u00a0@example.org",
    "a private character": "mara\ue000@example.org",
    "an address of a machine": "mara@[127.0.0.1]",
    "no domain": "mara@",
    "no name": "@example.org",
    "two at": "mara@@example.org",
    "a long name": f"{'m' * 65}@example.org",
    "a long address": f"mara@{'e' * 300}.org",
}


def test_what_is_no_address_is_said_to_be_none_and_leaves_nothing(world: World) -> None:
    person = world.person()
    form = person.open_form().form("email")
    before, mails = recorded(world), len(json.loads(Browser("en").get(f"{world.base}/inbox/messages").body))
    for what, typed in NO_ADDRESSES.items():
        answer = person.browser.post(f"{world.base}/newsletter", form.filled(typed, {NEWSLETTER}))
        assert answer.status in {400, 422}, what
        assert "set-cookie" not in answer.headers
        assert "bcc" not in answer.headers
        if answer.status == 422:
            assert answer.form("email").emails == ["email"], what
            assert 'aria-invalid="true"' in answer.text, what
    assert recorded(world) == before
    assert len(json.loads(Browser("en").get(f"{world.base}/inbox/messages").body)) == mails


NO_FORMS: Final = {
    "an address of a megabyte": (413, b"email=" + b"m" * 1_000_000 + b"%40example.org"),
    "an address of 60 kB": (400, b"email=" + b"m" * 60_000 + b"%40example.org"),
    "two addresses": (400, b"email=a%40example.org&email=b%40example.org&purpose=newsletter%2Femail"),
    "a box that is none": (400, b"email=a%40example.org&purpose=everything%2Femail"),
    "a thousand fields": (400, b"&".join(b"purpose=newsletter%%2Femail%d" % n for n in range(1000))),
    "invalid UTF-8": (400, b"email=%ff%fe%40example.org&purpose=newsletter%2Femail"),
    "bytes that are not ASCII": (400, "email=jürgen@example.org".encode()),
    "a NUL": (400, b"email=a%00%40example.org&purpose=newsletter%2Femail"),
    "no form": (400, b"{}"),
}


def test_what_is_no_form_is_refused_and_leaves_nothing(world: World) -> None:
    before = recorded(world)
    for what, (status, body) in NO_FORMS.items():
        assert refusal(ask(world, "POST", "/newsletter", body, {"Content-Type": FORM}))[0] == status, what
    for kind in ("application/json", "text/plain", "", "multipart/form-data", "multipart/form-data; boundary="):
        answer = ask(world, "POST", "/newsletter", b"email=a%40example.org", {"Content-Type": kind})
        assert refusal(answer)[0] in {400, 415}, kind
    assert recorded(world) == before


# -- the served-notice token -----------------------------------------------------------------------------------------


def send(person: Person, served: str, address: str | None = None) -> Page:
    """The form as it stands, with this token instead of its own."""
    person.world.addresses.add(address or person.address)
    fields = [("email", address or person.address), ("purpose", NEWSLETTER), ("served", served)]
    return person.browser.post(f"{person.world.base}/newsletter", fields)


def token_of(person: Person) -> str:
    return dict(person.open_form().form("email").values)["served"]


def verified_of(world: World, confirmation: Any, person: Person) -> list[Any]:
    subject = person.subject(confirmation)
    person.quiet(subject)
    requested = [entry for entry in world.history(subject) if entry.type == "ConsentRequested"]
    return [(entry.data.get("served") or {}).get("verified") for entry in requested]


def test_a_token_that_is_sent_again_counts_once_and_for_another_address_is_another_sign_up(world: World) -> None:
    person, other = world.person(), world.person()
    served = token_of(person)
    assert {send(person, served).status for _ in range(3)} == {200}
    confirmation = person.mail(1)
    assert verified_of(world, confirmation, person) == [True]
    # The same page, corrected: the nonce is the form's, the person is another.
    assert send(person, served, other.address).status == 200
    assert verified_of(world, other.mail(1), other) == [True]
    assert (person.count_mails(), other.count_mails()) == (1, 1)
    whole(world)


def test_a_token_of_another_form_or_key_is_never_taken_for_proof(world: World) -> None:
    secrets = world.installation.secrets
    key_id, key = secrets.notice_key()
    person = world.person()
    ours = token_of(person)
    claims = served_notice.verify(secrets.notice_public_keys(), ours)
    assert claims is not None
    head, payload, signature = ours.split(".")
    other_head, other_payload, _ = token_of(world.person("de")).split(".")
    foreign = served_notice.issue(key_id, Ed25519PrivateKey.generate(), claims)
    for what, served in {
        "signed by another key": foreign,
        "claims of another page": f"{other_head}.{other_payload}.{signature}",
        "unsigned": f"{'eyJhbGciOiJub25lIn0'}.{payload}.AA",
        "half of it": f"{head}.{payload}",
        "no token": "hello",
        "a thousand dots": "." * 1000,
        "very long": "a" * 5000 + ".b.c",
        "nothing": "",
    }.items():
        someone = world.person()
        answer = send(someone, served)
        assert answer.status == 200, what
        assert True not in verified_of(world, someone.mail(1), someone), what
    whole(world)
    # Ours, but of a time that is not now, or of a notice that is none: the person looks at the page again.
    before = recorded(world)
    for what, changed in {
        "expired": replace(claims, issued_at=claims.issued_at - timedelta(hours=5), expires_at=claims.issued_at),
        "from the future": replace(claims, issued_at=claims.issued_at + timedelta(hours=1)),
        "an unknown notice": replace(claims, notice="0" * 64),
    }.items():
        answer = send(person, served_notice.issue(key_id, key, changed))
        assert answer.status == 422, what
        assert person.address in answer.text, what
        # What comes back bears a token of now, so sending it again is enough.
        assert dict(answer.form("email").values)["served"] != ours
    assert recorded(world) == before
    # Another server's clock may be a little ahead of this one's.
    soon = replace(claims, issued_at=claims.issued_at + timedelta(minutes=1))
    assert send(person, served_notice.issue(key_id, key, soon)).status == 200
    assert verified_of(world, person.mail(1), person) == [True]
    whole(world)


def test_a_box_that_the_served_form_did_not_have_cannot_be_ticked_by_its_token(world: World) -> None:
    person = world.person()
    key_id, key = world.installation.secrets.notice_key()
    claims = served_notice.verify(world.installation.secrets.notice_public_keys(), token_of(person))
    assert claims is not None
    one = replace(claims, purposes=tuple(box for box in claims.purposes if f"{box.purpose}/{box.channel}" != CLICKS))
    served = served_notice.issue(key_id, key, one)
    before = recorded(world)
    fields = [("email", person.address), ("purpose", NEWSLETTER), ("purpose", CLICKS), ("served", served)]
    assert person.browser.post(f"{world.base}/newsletter", fields).status == 400
    assert recorded(world) == before


def test_the_keys_of_one_door_open_no_other(world: World) -> None:
    person = world.person()
    confirmation = person.sign_up()
    person.quiet(person.subject(confirmation))
    confirm = urllib.parse.urlsplit(confirmation.confirm_link).path.rsplit("/", 1)[1]
    leave = urllib.parse.urlsplit(confirmation.way_out).path.rsplit("/", 1)[1]
    served = token_of(person)
    before = recorded(world)
    body = b"List-Unsubscribe=One-Click"
    for path in (
        f"/newsletter/confirm/{leave}",
        f"/newsletter/unsubscribe/{confirm}",
        f"/newsletter/confirm/{served}",
        f"/newsletter/unsubscribe/{served}",
        f"/newsletter/unsubscribe/{leave[:-1]}",
        f"/newsletter/unsubscribe/{leave}%3D",
        f"/newsletter/unsubscribe/{leave.swapcase()}",
        f"/newsletter/confirm/{confirm}%00",
        f"/newsletter/confirm/{confirm.swapcase()}",
    ):
        for method in ("GET", "POST"):
            assert ask(world, method, path, body, {"Content-Type": FORM})[0] == 404, (method, path)
    assert recorded(world) == before
    whole(world)
