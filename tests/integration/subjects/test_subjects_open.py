"""Opening and disclosing: who gets to see what, for which purpose, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from services.subjects import store
from shared.access import declarations
from tests.integration.subjects.conftest import Subjects, app_of, statement_id

Item = Callable[..., dict[str, Any]]


async def open_items(subjects: Subjects, subject: str, items: list[dict[str, Any]]) -> Any:
    body = {
        "subject": subject,
        "scope": "transactional",
        "purpose": "newsletter",
        "channel": "email",
        "reason": "confirmation mail",
        "items": items,
    }
    return await subjects.post("open", body)


async def test_a_contact_point_opens_as_first_typed(subjects: Subjects) -> None:
    subject = await subjects.subject(" J\u00fcrgen.Schmidt@B\u00dcCHER.example ")
    await subjects.subject("j\u00fcrgen.schmidt@b\u00fccher.example")
    answer = await subjects.open(subject)
    assert answer.json() == {
        "contact": {"kind": "email", "typed": "J\u00fcrgen.Schmidt@B\u00dcCHER.example"},
        "items": [],
    }


async def test_briefs_open_again_and_evidence_does_not(subjects: Subjects, item: Item) -> None:
    brief, evidence = item("brief", text="Guten Tag", number=7), item(email="ada@example.org")
    sealed = await subjects.seal("ada@example.org", brief, evidence)
    opened = await open_items(subjects, sealed["subject"], sealed["items"][:1])
    assert opened.json()["items"] == [{"fields": {"text": "Guten Tag", "number": 7}}]
    assert (await open_items(subjects, sealed["subject"], sealed["items"][1:])).status_code == 400
    passed_off = {**sealed["items"][1], "compartment": "brief"}
    refused = await open_items(subjects, sealed["subject"], [passed_off])
    assert (refused.status_code, refused.json()["error"]) == (422, "does-not-open")


async def test_a_brief_opens_only_unchanged_and_for_its_own_subject_and_statement(
    subjects: Subjects, item: Item
) -> None:
    sealed = await subjects.seal("ada@example.org", item("brief", text="Guten Tag"))
    [part] = sealed["items"]
    other = await subjects.subject("eve@example.org")
    flipped = part["ciphertext"][:30] + ("A" if part["ciphertext"][30] != "A" else "B") + part["ciphertext"][31:]
    for subject, one in (
        (other, part),
        (sealed["subject"], {**part, "statement": statement_id()}),
        (sealed["subject"], {**part, "ciphertext": flipped}),
        (sealed["subject"], {**part, "ciphertext": ""}),
        (sealed["subject"], {**part, "key_hash": "0" * 64}),
    ):
        answer = await open_items(subjects, subject, [one])
        assert (answer.status_code, answer.json()["error"]) == (422, "does-not-open")


async def test_a_disclosure_is_kept_with_caller_scope_and_reason(subjects: Subjects, item: Item) -> None:
    one, other = item(a=1), item("attachment/0")
    other = {"statement": one["statement"], "compartment": "attachment/0", "content": "AAAA"}
    subject = (await subjects.seal("ada@example.org", one, other))["subject"]
    places = [{"statement": one["statement"], "compartment": name} for name in ("attachment/0", "evidence")]
    body = {"subject": subject, "scope": "evidence", "reason": "Az. 23 C 3876/13", "items": places}
    answer = await subjects.post("disclose", body, "compliance")
    keys = answer.json()["keys"]
    assert [{name: key[name] for name in ("statement", "compartment")} for key in keys] == places
    assert len({key["key"] for key in keys}) == 2
    rows = await subjects.superuser.fetch("select * from subjects.disclosure order by name")
    assert [(row["caller"], row["scope"], row["reason"], row["name"], row["subject"]) for row in rows] == [
        ("compliance", "evidence", "Az. 23 C 3876/13", name, subject) for name in ("attachment/0", "evidence")
    ]


@pytest.mark.parametrize("compartment", ["evidence", "attachment/0", "brief"])
async def test_only_keys_of_what_was_sealed_for_this_subject_are_disclosed(
    subjects: Subjects, item: Item, compartment: str
) -> None:
    one = item("brief", a=1) if compartment == "brief" else item(a=1)
    subject = (await subjects.seal("ada@example.org", one))["subject"]
    other = await subjects.subject("eve@example.org")
    asked = {"statement": one["statement"], "compartment": compartment}
    for whose in (other, subject) if compartment != "evidence" else (other,):
        body = {"subject": whose, "scope": "evidence", "reason": "a test", "items": [asked]}
        assert (await subjects.post("disclose", body, "compliance")).status_code in {400, 404}
    assert await subjects.superuser.fetchval("select count(*) from subjects.disclosure") == 0


async def test_a_thousand_compartments_are_disclosed_at_once(subjects: Subjects, item: Item) -> None:
    subject = await subjects.subject("ada@example.org")
    places = []
    for _ in range(32):
        items = [item(a=number) for number in range(32)]
        body = {"controller": "controller", "subject": subject, "items": items}
        assert (await subjects.post("seal", body)).status_code == 200
        places += [{"statement": one["statement"], "compartment": "evidence"} for one in items]
    asked = {"subject": subject, "scope": "evidence", "reason": "a long history", "items": places[:1000]}
    keys = (await subjects.post("disclose", asked, "compliance")).json()["keys"]
    assert len({key["key"] for key in keys}) == 1000


async def test_a_reason_has_no_room_for_an_address(subjects: Subjects, item: Item) -> None:
    one = item(a=1)
    subject = (await subjects.seal("ada@example.org", one))["subject"]
    place = {"statement": one["statement"], "compartment": "evidence"}
    body = {"subject": subject, "scope": "evidence", "reason": "for ada@example.org", "items": [place]}
    answer = await subjects.post("disclose", body, "compliance")
    assert answer.status_code == 400
    assert "ada" not in answer.text


async def test_evidence_still_opens_when_only_the_content_key_is_destroyed(subjects: Subjects, item: Item) -> None:
    """Erased but under legal hold: no mail any more, nothing new sealed, the proof is still there."""
    one = item(a=1)
    subject = (await subjects.seal("ada@example.org", one))["subject"]
    await subjects.erase(subject, until="2999-01-01T00:00:00.000Z")
    place = {"statement": one["statement"], "compartment": "evidence"}
    body = {"subject": subject, "scope": "evidence", "reason": "legal hold", "items": [place]}
    assert (await subjects.post("disclose", body, "compliance")).status_code == 200
    assert (await subjects.open(subject, scope="transactional")).status_code == 410
    await subjects.superuser.execute("update subjects.erased set evidence_until = now()")
    assert await store.destroy_evidence_keys(subjects.parts.db) == 1
    assert (await subjects.post("disclose", body | {"reason": "too late"}, "compliance")).status_code == 410
    rows = await subjects.superuser.fetch("select reason, caller, statement, name from subjects.disclosure order by at")
    assert [tuple(row.values())[:2] for row in rows] == [("legal hold", "compliance"), ("too late", "compliance")]
    assert (rows[1]["statement"], rows[1]["name"]) == (None, None)


async def test_that_somebody_asked_without_getting_a_key_is_kept_too(subjects: Subjects) -> None:
    subject = await subjects.subject("ada@example.org")
    body = {"subject": subject, "scope": "evidence", "reason": "nothing to open", "items": []}
    for _ in range(2):
        assert (await subjects.post("disclose", body, "compliance")).json() == {"keys": []}
    assert await subjects.superuser.fetchval("select count(*) from subjects.disclosure") == 2


@pytest.mark.parametrize(
    ("path", "caller", "status"),
    [
        ("seal", "newsletter", 400),
        ("seal", "marketing", 403),
        ("seal", "compliance", 403),
        ("open", "newsletter", 400),
        ("open", "marketing", 400),
        ("open", "compliance", 403),
        ("disclose", "compliance", 400),
        ("disclose", "newsletter", 403),
        ("disclose", "marketing", 403),
    ],
)
async def test_each_door_opens_for_its_own_scope(subjects: Subjects, path: str, caller: str, status: int) -> None:
    assert (await subjects.post(path, {}, caller)).status_code == status
    assert (await subjects.client.post(f"/subjects/{path}", json={})).status_code == 401


async def test_every_route_says_who_may_call_it(subjects: Subjects) -> None:
    said = {route.path: access for route, access in declarations(app_of(subjects.parts))}
    assert said == {
        "/subjects/health/live": "everyone",
        "/subjects/health/ready": "everyone",
        "/subjects/metrics": "subjects.metrics",
        "/subjects/openapi.json": "subjects.openapi",
        "/subjects/seal": "subjects.seal",
        "/subjects/seal/several": "subjects.seal",
        "/subjects/open": "subjects.open",
        "/subjects/disclose": "subjects.disclose",
        "/subjects/find": "subjects.find",
    }
