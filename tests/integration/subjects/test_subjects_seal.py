"""Sealing: one pseudonym per address, one ciphertext per compartment, whoever asks how often and at what moment."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.identifiers import shard_of
from tests.integration.subjects.conftest import Subjects, statement_id

Item = Callable[..., dict[str, Any]]


def raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def test_an_address_gets_a_pseudonym_and_keeps_it_in_every_spelling(subjects: Subjects) -> None:
    subject = await subjects.subject("Ada@Example.org")
    assert await subjects.subject(" ada@EXAMPLE.org ") == subject
    assert await subjects.subject("ada@example.com") != subject
    assert shard_of(subject) == 0


async def test_a_pseudonym_says_the_day_and_no_more(subjects: Subjects) -> None:
    subject = await subjects.subject("ada@example.org")
    assert int(subject[2:10] + subject[11:15], 16) % 86_400_000 == 0


async def test_another_controller_knows_the_same_address_under_another_pseudonym(
    subjects: Subjects, item: Item
) -> None:
    ours = await subjects.subject("ada@example.org")
    theirs = (await subjects.seal("ada@example.org", controller="other"))["subject"]
    assert ours != theirs
    answer = await subjects.post("seal", {"controller": "other", "subject": ours, "items": [item(a=1)]})
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown-subject")


async def test_new_pseudonyms_are_spread_evenly_over_the_shards(subjects: Subjects) -> None:
    subjects.use(replace(subjects.parts, shards=4))
    shards = [shard_of(await subjects.subject(f"ada{number}@example.org")) for number in range(60)]
    assert set(shards) == {0, 1, 2, 3}


async def test_a_ciphertext_opens_with_the_disclosed_key_and_nothing_but_the_format(
    subjects: Subjects, item: Item
) -> None:
    wanted = item(email="Ada@example.org", name="Ada")
    sealed = await subjects.seal("ada@example.org", wanted)
    [part] = sealed["items"]
    place = {"statement": wanted["statement"], "compartment": "evidence"}
    answer = await subjects.post(
        "disclose",
        {"subject": sealed["subject"], "scope": "evidence", "reason": "a court asks", "items": [place]},
        "compliance",
    )
    key = raw(answer.json()["keys"][0]["key"])
    assert hashlib.sha256(b"consent-ledger/v1/key" + key).hexdigest() == part["key_hash"]
    aad = b"\x00".join(
        text.encode() for text in ("consent-ledger/v1/seal", sealed["subject"], "evidence", wanted["statement"])
    )
    ciphertext = raw(part["ciphertext"])
    plaintext = AESGCM(key).decrypt(ciphertext[:12], ciphertext[12:], aad)
    assert plaintext == b'{"email":"Ada@example.org","name":"Ada"}'


async def test_asking_again_answers_the_same_bytes(subjects: Subjects, item: Item) -> None:
    one, other = item(email="ada@example.org", name="Ada"), item("brief", email="ada@example.org")
    first = await subjects.seal("ada@example.org", one, other)
    shuffled = {**one, "fields": dict(reversed(one["fields"].items()))}
    assert await subjects.seal("ada@example.org", shuffled, other) == first
    by_subject = {"controller": "controller", "subject": first["subject"], "items": [one, other]}
    assert (await subjects.post("seal", by_subject)).json() == first
    swapped = await subjects.seal("ada@example.org", other, one)
    assert swapped["items"] == first["items"][::-1]


async def test_other_content_for_a_sealed_compartment_is_a_conflict(subjects: Subjects, item: Item) -> None:
    first = item(email="ada@example.org")
    sealed = await subjects.seal("ada@example.org", first)
    body = {"controller": "controller", "subject": sealed["subject"], "items": [{**first, "fields": {"email": "b"}}]}
    answer = await subjects.post("seal", body)
    assert (answer.status_code, answer.json()["error"]) == (409, "sealed-otherwise")
    assert await subjects.seal("ada@example.org", first) == sealed


async def test_the_same_item_for_another_subject_is_a_conflict_and_makes_no_pseudonym(
    subjects: Subjects, item: Item
) -> None:
    one = item(email="ada@example.org")
    await subjects.seal("ada@example.org", one)
    before = await subjects.superuser.fetchval("select count(*) from subjects.subject")
    body = {"controller": "controller", "identifier": {"kind": "email", "value": "b@example.org"}, "items": [one]}
    assert (await subjects.post("seal", body)).status_code == 409
    assert await subjects.superuser.fetchval("select count(*) from subjects.subject") == before


async def test_a_conflict_in_one_item_seals_none(subjects: Subjects, item: Item) -> None:
    one, new = item(a=1), item(a=2)
    sealed = await subjects.seal("ada@example.org", one)
    body = {"controller": "controller", "subject": sealed["subject"], "items": [new, {**one, "fields": {"a": 3}}]}
    assert (await subjects.post("seal", body)).status_code == 409
    assert await subjects.superuser.fetchval("select count(*) from subjects.compartment") == 1


async def test_many_at_once_for_one_new_address_make_one_pseudonym(subjects: Subjects, item: Item) -> None:
    answers = await asyncio.gather(*(subjects.seal("ada@example.org", item(n=number)) for number in range(24)))
    assert len({answer["subject"] for answer in answers}) == 1
    assert await subjects.superuser.fetchval("select count(*) from subjects.subject") == 1
    assert await subjects.superuser.fetchval("select count(*) from subjects.subject_key") == 2


async def test_many_at_once_with_one_item_get_one_ciphertext(subjects: Subjects, item: Item) -> None:
    one = [item(a=1), item("brief", a=2), item("attachment/0")]
    one[2] = {key: value for key, value in one[2].items() if key != "fields"} | {"content": "AAAA"}
    answers = await asyncio.gather(
        *(subjects.seal("ada@example.org", *(one if number % 2 else one[::-1])) for number in range(24))
    )
    ciphertexts = {part["ciphertext"] for answer in answers for part in answer["items"]}
    assert len(ciphertexts) == 3


async def test_many_at_once_with_different_content_for_one_item_have_one_winner(subjects: Subjects, item: Item) -> None:
    """Else two plaintexts would stand under one key."""
    subject, statement = await subjects.subject("ada@example.org"), statement_id()
    answers = await asyncio.gather(
        *(
            subjects.post(
                "seal",
                {"controller": "controller", "subject": subject, "items": [item(statement=statement, n=number)]},
            )
            for number in range(24)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 23


async def test_an_attachment_of_the_largest_size_is_sealed_and_one_byte_more_is_not(subjects: Subjects) -> None:
    largest = 10 * 1024 * 1024 - 28

    async def seal(size: int) -> Any:
        content = base64.urlsafe_b64encode(b"a" * size).decode().rstrip("=")
        one = {"statement": statement_id(), "compartment": "attachment/0", "content": content}
        subject = await subjects.subject("ada@example.org")
        return await subjects.post("seal", {"controller": "controller", "subject": subject, "items": [one]})

    sealed = await seal(largest)
    assert len(raw(sealed.json()["items"][0]["ciphertext"])) == 10 * 1024 * 1024
    refused = await seal(largest + 1)
    assert (refused.status_code, refused.json()["error"]) == (413, "too-large")


async def test_an_unknown_subject_is_not_found_and_an_erased_one_is_gone(subjects: Subjects, item: Item) -> None:
    subject = await subjects.subject("ada@example.org")
    unknown = subject[:-12] + "0" * 12
    await subjects.delete(subject)
    for one, status, code in ((unknown, 404, "unknown-subject"), (subject, 410, "erased-subject")):
        sealed = await subjects.post("seal", {"controller": "controller", "subject": one, "items": [item(a=1)]})
        opened = await subjects.open(one, scope="transactional")
        assert (sealed.status_code, sealed.json()["error"]) == (status, code)
        assert (opened.status_code, opened.json()["error"]) == (status, code)


async def test_who_comes_back_after_an_erasure_gets_a_new_pseudonym(subjects: Subjects) -> None:
    subject = await subjects.subject("ada@example.org")
    await subjects.delete(subject)
    again = await subjects.subject("ada@example.org")
    assert again != subject
    assert await subjects.subject("ada@example.org") == again


@pytest.mark.parametrize(
    "change",
    [
        {"identifier": None, "subject": None},
        {"subject": "0.01a2008d-7400-7abc-9def-0123456789ab"},
        {"identifier": {"kind": "email", "value": "no address"}},
        {"identifier": {"kind": "phone", "value": "+49 351 1"}},
        {"controller": "Not A Name"},
        {"items": [{"statement": "no id", "compartment": "evidence", "fields": {}}]},
        {"items": [{"statement": "STATEMENT", "compartment": "other", "fields": {}}]},
        {"items": [{"statement": "STATEMENT", "compartment": "evidence"}]},
        {"items": [{"statement": "STATEMENT", "compartment": "evidence", "content": "AAAA"}]},
        {"items": [{"statement": "STATEMENT", "compartment": "attachment/0", "fields": {}}]},
        {"items": [{"statement": "STATEMENT", "compartment": "attachment/0", "content": "AAAA", "fields": {}}]},
        {"items": [{"statement": "STATEMENT", "compartment": "attachment/0", "content": "AB"}]},
        {"items": [{"statement": "STATEMENT", "compartment": "attachment/0", "content": "A"}]},
        {"items": [{"statement": "STATEMENT", "compartment": "evidence", "fields": {}}] * 2},
        {"surprise": 1},
    ],
)
async def test_what_is_not_clear_is_refused_without_quoting_it(subjects: Subjects, change: dict[str, Any]) -> None:
    body = {
        "controller": "controller",
        "identifier": {"kind": "email", "value": "ada@example.org"},
        "items": [{"statement": "STATEMENT", "compartment": "evidence", "fields": {"a": 1}}],
        **change,
    }
    for one in body["items"]:
        one["statement"] = "01a20320-a202-7d4e-8f50-000000000002" if one["statement"] == "STATEMENT" else "no id"
    answer = await subjects.post("seal", {key: value for key, value in body.items() if value is not None})
    assert answer.status_code == 400
    assert "ada" not in answer.text
    assert "no address" not in answer.text


async def test_evidence_that_would_not_fit_into_a_statement_is_refused(subjects: Subjects, item: Item) -> None:
    body = {
        "controller": "controller",
        "subject": await subjects.subject("ada@example.org"),
        "items": [item(text="x" * 16_400)],
    }
    assert (await subjects.post("seal", body)).status_code == 413


async def test_without_postgresql_the_answer_is_to_come_back_later(subjects: Subjects) -> None:
    await subjects.parts.db.close()
    body = {"controller": "controller", "identifier": {"kind": "email", "value": "ada@example.org"}, "items": []}
    answer = await subjects.post("seal", body)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert "ada" not in answer.text
