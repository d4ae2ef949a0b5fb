"""What must not be anywhere: an address outside sealed columns, in a log or an error; a way in for other roles."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import logging
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Final

import asyncpg
import pytest
import structlog

from shared import logs
from shared.migrations import roles
from tests.integration.subjects.conftest import Subjects, key

Item = Callable[..., dict[str, Any]]

TYPED: Final = "Ada.Lovelace+Enchantress@Example.org"
NAME: Final = "Augusta King-Noel"


@pytest.fixture
def production_logs(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Log as a process does, everything, and return what was written."""
    written = io.StringIO()

    def so_far() -> str:
        written.writelines(capsys.readouterr())
        return written.getvalue()

    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    logs.configure("DEBUG", "subjects")
    logging.getLogger().setLevel(logging.DEBUG)
    yield so_far
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def traces(text: str) -> set[str]:
    """Every form in which somebody could recognise the address or the name in a text."""
    found = set()
    normalised = TYPED.lower()
    for secret in (TYPED, normalised, TYPED.split("@", 1)[0], "lovelace", "enchantress", NAME, "king-noel"):
        raw = secret.encode()
        for form in (
            secret,
            raw.hex(),
            base64.b64encode(raw).decode().rstrip("=")[:-1],
            base64.urlsafe_b64encode(raw).decode().rstrip("=")[:-1],
            hashlib.sha256(raw).hexdigest(),
            hashlib.sha1(raw, usedforsecurity=False).hexdigest(),
            hashlib.md5(raw, usedforsecurity=False).hexdigest(),
        ):
            if form.lower() in text.lower():
                found.add(form)
    return found


async def everything(subjects: Subjects, item: Item) -> str:
    """Use every door with this address, in good order and in bad; returns every answer that should not quote it."""
    one, brief = item(email=TYPED, name=NAME), item("brief", email=TYPED)
    mail = {key: value for key, value in one.items() if key != "fields"}
    mail |= {"compartment": "attachment/0", "content": base64.urlsafe_b64encode(TYPED.encode()).decode().rstrip("=")}
    sealed = await subjects.seal(TYPED, one, brief, mail)
    subject = sealed["subject"]
    assert (await subjects.open(subject)).json()["contact"]["typed"] == TYPED
    identifier = {"kind": "email", "value": TYPED}
    bad: list[tuple[str, Any]] = [
        ("seal", {"controller": "controller", "identifier": {"kind": "email", "value": f"{TYPED}\n"}, "items": []}),
        ("seal", {"controller": TYPED, "identifier": identifier, "items": []}),
        ("seal", {"controller": "controller", "identifier": identifier, "items": [{**one, "fields": {TYPED: NAME}}]}),
        ("seal", {"controller": "controller", "identifier": identifier, TYPED: 1, "items": []}),
        ("seal", [TYPED]),
        ("seal", {"controller": "controller", "subject": TYPED, "items": []}),
        ("open", {"subject": subject, "scope": TYPED, "purpose": NAME, "channel": "email", "reason": TYPED}),
    ]
    answers = [(await subjects.post(path, body)).text for path, body in bad]
    place = {"statement": one["statement"], "compartment": "evidence"}
    disclosure = {"subject": subject, "scope": "evidence", "reason": f"for {TYPED}", "items": [place]}
    answers.append((await subjects.post("disclose", disclosure, "compliance")).text)
    answers.append((await subjects.client.post(f"/subjects/seal?email={TYPED}", content=TYPED)).text)
    answers.append((await subjects.client.get(f"/subjects/{TYPED}")).text)
    disclosure["reason"] = "a court asks"
    assert (await subjects.post("disclose", disclosure, "compliance")).status_code == 200
    await subjects.record(subject, "ConsentWithdrawn", 1)
    await subjects.record(subject, "ConsentGiven", 2)
    await subjects.record(subject, "ConsentWithdrawn", 3, scope="everything", purpose=None, channel=None)
    return "\n".join(answers)


def test_the_search_finds_what_it_looks_for() -> None:
    for planted in (
        TYPED,
        TYPED.upper(),
        f"\\x{TYPED.lower().encode().hex()}",
        hashlib.sha256(TYPED.encode()).hexdigest(),
    ):
        assert traces(f"... {planted} ...")
    assert not traces("INSERT INTO subjects.word VALUES ('ConsentGiven')")


async def test_no_answer_that_refuses_and_no_log_line_quotes_what_was_typed(
    subjects: Subjects, item: Item, production_logs: Callable[[], str]
) -> None:
    refusals = await everything(subjects, item)
    await subjects.parts.db.close()
    body = {"controller": "controller", "identifier": {"kind": "email", "value": TYPED}, "items": []}
    refusals += (await subjects.post("seal", body)).text
    logged = production_logs()
    assert '"route": "/subjects/seal"' in logged
    assert '"status": 503' in logged
    assert traces(logged) == set()
    assert traces(refusals) == set()


async def test_a_key_that_does_not_unwrap_is_logged_without_anything_personal(
    subjects: Subjects, item: Item, production_logs: Callable[[], str]
) -> None:
    await subjects.seal(TYPED, item(email=TYPED))
    await subjects.superuser.execute(
        "update subjects.subject_key set wrapped = overlay(wrapped placing '\\x00' from 60)"
    )
    identifier = {"kind": "email", "value": TYPED}
    answer = await subjects.post("seal", {"controller": "controller", "identifier": identifier, "items": []})
    assert answer.status_code == 500
    logged = production_logs()
    assert '"status": 500' in logged
    assert traces(logged + answer.text) == set()


async def test_a_dump_of_the_whole_database_holds_no_trace_of_an_address_or_a_key(
    subjects: Subjects, item: Item
) -> None:
    await everything(subjects, item)
    program = subjects.database.part.binary("pg_dump")
    dump = await asyncio.to_thread(
        subprocess.run, [str(program), "--inserts", subjects.database.dsn()], capture_output=True, check=True, text=True
    )
    for table in ("identifier", "contact_point", "compartment", "suppression", "word", "disclosure", "subject_key"):
        assert f"INSERT INTO subjects.{table}" in dump.stdout
    assert traces(dump.stdout) == set()
    for secret in ("kek-1", "pepper-1"):
        assert key(secret).hex() not in dump.stdout


async def test_what_decides_for_ever_can_be_added_by_the_service_and_not_changed(
    subjects: Subjects, item: Item
) -> None:
    await subjects.seal(TYPED, item(email=TYPED))
    for statement in (
        "update compartment set nonce = nonce",
        "update compartment set plaintext_mac = plaintext_mac",
        "delete from compartment",
        "delete from disclosure",
        "update disclosure set reason = ''",
        "delete from suppression",
        "update identifier set subject = subject",
        "update contact_point set sealed = sealed",
        "update subject set controller = ''",
        "delete from subject",
        "delete from pepper",
        "truncate word",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await subjects.parts.db.execute(statement)


async def test_no_other_role_sees_the_schema(subjects: Subjects) -> None:
    others = [role for role in roles() if role != "subjects"]
    assert others
    for role in others:
        connection = await asyncpg.connect(subjects.database.dsn(role))
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch("select * from subjects.identifier")
        finally:
            await connection.close()
