"""Somebody is erased in the running product: mails stop, nothing of them is found anywhere, every old proof holds."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import re
import subprocess
import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.local.browser import Browser
from infra.local.installation import CommandFailed
from infra.local.screen import until
from services.ledger.reader.proof import verify_proof
from shared.kafka import Outgoing, Producer
from shared.software import software
from shared.topics import STATED, ensure_topics
from tests.contracts.consent_record import against_schema, against_shapes
from tests.journeys.people import types, unpadded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.journeys.people import World
    from tests.parts import KafkaPart, PostgresPart


def erase(world: World, whom: str) -> dict[str, Any]:
    """Order it as compliance does, by the command, and wait for its end."""
    said = world.installation.command("erase", whom, "--reason", "consent-withdrawn", "--wait", "60")
    return dict(json.loads(said.strip().splitlines()[-1]))


def time_passes(world: World, subject: str) -> None:
    """As if the register's period of evidence were over: only PostgreSQL's superuser can put the clock forward."""
    world.sql(f"update ledger.erasure set hold_until = now() where subject = '{subject}'")
    world.sql(f"update subjects.erased set evidence_until = now() where subject = '{subject}'")


def gone_from_the_ledger(world: World, subject: str) -> bool:
    return world.sql(f"select destroyed_at is not null from ledger.erasure where subject = '{subject}'") == "t"


def forms(secret: str) -> set[bytes]:
    """In which forms somebody could find this again."""
    raw = secret.encode()
    encoded = {base64.b64encode(b"\0" * pad + raw)[4 * bool(pad) : -4] for pad in range(3)}
    digests = {hashlib.new(name, raw).hexdigest().encode() for name in ("sha256", "sha1", "md5")}
    return {raw, raw.hex().encode(), *encoded, *digests, *(bytes.fromhex(one.decode()) for one in digests)}


def places(world: World, kafka: KafkaPart, postgres: PostgresPart, mailbox: str) -> Iterator[tuple[str, bytes]]:
    """Everything that this installation has written anywhere, and everybody's mails but those in one's own mailbox."""
    world.sql("checkpoint")
    dump = [str(postgres.binary("pg_dump")), "-d", postgres.dsn(database=world.installation.database)]
    yield "a dump", subprocess.run(dump, check=True, capture_output=True).stdout
    for service in ("newsletter", "subjects", "ledger", "marketing", "erasure"):
        credential = f"Bearer {world.installation.secrets.credential('operator')}"
        yield (
            f"metrics of {service}",
            Browser("en").get(f"{world.base}/{service}/metrics", Authorization=credential).body,
        )
    folders = [world.installation.folder]
    if postgres.kind == "local":
        folders.append(Path(world.sql("show data_directory")))
        folders.append(Path(postgres.server.log))  # type: ignore[attr-defined]
    if kafka.kind == "local":
        folders.append(kafka.server.folder)  # type: ignore[attr-defined]
    for folder in folders:
        for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
            if path.is_file():
                try:
                    content = path.read_bytes()
                except OSError:  # PostgreSQL and Kafka remove files of their own meanwhile
                    continue
                if path.parent != world.installation.inbox or content.splitlines()[1] != mailbox.encode():
                    yield str(path), content


def found_anywhere(address: str, pseudonym: str, sought: Iterator[tuple[str, bytes]]) -> set[str]:
    """Where an address, or what stands before its @, is found in any form; the pseudonym shows that anything is."""
    secrets = (address, address.partition("@")[0])
    spelt = {spelling for secret in secrets for spelling in (secret, secret.lower(), secret.upper())}
    wanted = {form for secret in spelt for form in forms(secret)}
    found, pseudonyms, looked_at = set(), 0, 0
    for place, content in sought:
        looked_at += 1
        pseudonyms += pseudonym.encode() in content
        if any(form in content for form in wanted):
            found.add(place)
    assert looked_at > 20
    assert pseudonyms
    return found


async def say_to_kafka(kafka: KafkaPart, value: bytes) -> None:
    """A message on a topic that nobody reads."""
    await ensure_topics(kafka.bootstrap, "planted.", 1, replication=1)
    producer = Producer(kafka.bootstrap)
    try:
        await producer.send_many([Outgoing(f"planted.{STATED}", 0, None, value, [])])
    finally:
        await producer.stop()


def test_the_search_finds_an_address_wherever_this_installation_could_have_written_it(
    world: World, kafka: KafkaPart, postgres: PostgresPart
) -> None:
    """Without this the next test could find nothing because it looks nowhere."""
    planted = "Somebody.Planted@example.org"
    log, mail = world.installation.logs / "planted.log", world.installation.inbox / "planted.txt"
    world.sql("create table public.planted (address text)")
    world.sql(f"insert into public.planted values ('{planted}')")
    try:
        asyncio.run(say_to_kafka(kafka, planted.encode()))
        log.write_text(json.dumps({"event": "planted", "token": base64.b64encode(b"." + planted.encode()).decode()}))
        mail.write_text(f"newsletter@example.org\nsomebody.else@example.org\nnow\n\nDear {planted}")
        found = found_anywhere(planted, planted, places(world, kafka, postgres, planted))
    finally:
        world.sql("drop table public.planted")
        log.unlink(missing_ok=True)
        mail.unlink(missing_ok=True)
    wanted = {"a dump", str(log), str(mail)}
    if postgres.kind == "local":
        data = world.sql("show data_directory")
        wanted |= {f"{data}/base/", f"{data}/pg_wal/"}
    if kafka.kind == "local":
        wanted.add(f"{kafka.server.folder}/")  # type: ignore[attr-defined]
    assert {one for one in wanted if not any(place.startswith(one) for place in found)} == set()


def hold(world: World, request: str, subject: str) -> None:
    """Order by the command that the proof is held longer, and wait until those who hold it know."""
    far = "2071-12-31T23:00:00.000Z"
    assert json.loads(world.installation.command("hold", request, "--until", far))["evidence_until"] == far
    for asked in ("hold_until) from ledger.erasure", "evidence_until) from subjects.erased"):
        query = f"select extract(year from {asked} where subject = '{subject}'"
        until("the hold is known", lambda query=query: world.sql(query) == "2071")  # type: ignore[misc]


def receipts_of_the_erasure(link: str, folder: Path) -> dict[str, Path]:
    """What the page of the order, whose link was given out, leads to, each as a file that was kept; by identifier."""
    page = Browser("en").get(link)
    base, kept, said = link.partition("/ledger/")[0], dict[str, Path](), []
    for path in {html.unescape(one) for one in re.findall(r'href="(/ledger/receipts/[^"/]+by=[^"]+)"', page.text)}:
        if "format=" in path:
            continue
        value = json.loads(Browser("en").get(f"{base}{path}", Accept="application/json").body)
        statement = json.loads(unpadded(value["statement"]))
        kind = "record" if statement["type"].startswith("Consent") else "erasure"
        assert against_schema(value["record"], kind) == []
        assert against_shapes(value["record"], kind) == ""
        assert statement["data"]["software"] == software()
        said.append(statement["type"])
        kept[statement["id"]] = folder / f"{statement['id']}.json"
        kept[statement["id"]].write_text(json.dumps(value))
    assert sorted(said) == [*["ConsentWithdrawn"] * 2, *["DataErased"] * 3, "ErasureCompleted"]
    return kept


def after_the_end(link: str) -> None:
    """Nothing opens any more, and the link says what can still be shown: an entry, and the proof that it is there."""
    page = Browser("de").get(link)
    assert page.status == 410
    assert "Was sich noch zeigen lässt" in page.text
    left = Browser("en").get(link, Accept="application/json")
    assert left.status == 410
    value = json.loads(left.body)
    vkey = Browser("en").get(f"{link.partition('/ledger/')[0]}/ledger/log/{value['shard']}/vkey").text.strip()
    verify_proof(Browser("en").get(f"{link}&format=tlog-proof").body, unpadded(value["leaf"]), vkey)


@pytest.mark.timeout(240)
def test_an_erased_person_is_found_nowhere_and_what_was_proven_of_them_stays_proven(
    world: World, kafka: KafkaPart, postgres: PostgresPart, tmp_path: Path
) -> None:
    person = world.person(name="forget-me-please")
    confirmation, welcome = person.subscribe()
    world.issue_is_out(world.begin_issue())
    issue, subject = person.mail(3), person.subject(confirmation)
    person.quiet(subject)
    bundle, receipt, vkey = tmp_path / "bundle.zip", tmp_path / "receipt.json", tmp_path / "log.vkey"
    vkey.write_bytes(Browser("en").get(f"{world.base}/ledger/log/0/vkey").body)
    command = world.installation.command
    command("evidence", subject, "newsletter/email", "-o", str(bundle))
    [link] = welcome.receipts
    receipt.write_bytes(Browser("en").get(f"{link}&format=json").body)

    done = erase(world, person.address.upper())
    assert done["subject"] == subject
    assert [(one["holder"], one["state"]) for one in done["holders"]] == [
        ("newsletter", "recorded"),
        ("marketing", "recorded"),
        ("subjects", "recorded"),
    ]
    # Its receipt is that of the order, and leads to the others.
    page = Browser("en").get(done["receipt"])
    assert page.status == 200
    erased = tmp_path / "erased.json"
    erased.write_bytes(Browser("en").get(f"{done['receipt']}&format=json").body)
    # What only proves is held until the end of the third year after this one, as the register says.
    assert done["evidence_until"] is not None
    until("the completion in the log", lambda: "ErasureCompleted" in types(world.history(subject)))
    receipts = receipts_of_the_erasure(done["receipt"], tmp_path)
    for file in receipts.values():
        assert "valid receipt" in command("verify", str(file), "--vkey", str(vkey)).lower()
    said = types(world.history(subject))
    assert said.count("DataErased") == 3
    assert said.count("ConsentWithdrawn") == 2  # for its purpose, and for everything
    assert world.permit(subject)["reason"] == "erased"
    assert world.sql(f"select use from subjects.subject_key where subject = '{subject}'") == "evidence"
    for table in ("newsletter.request", "newsletter.withdrawal", "marketing.word", "marketing.delivery"):
        assert world.sql(f"select count(*) from {table} where subject = '{subject}'") == "0", table
    # Ordered again it is the same order, and every holder looks once more for what a backup may have brought back.
    world.sql("insert into marketing.standing (subject, newest) values ('" + subject + "', 1)")
    assert erase(world, subject) == done
    assert world.sql(f"select count(*) from marketing.standing where subject = '{subject}'") == "0"
    hold(world, done["request"], subject)
    # The old link answers in peace; evidence still opens, for a role and a reason.
    assert person.one_click(issue.way_out).status == 200
    command("evidence", subject, "newsletter/email", "-o", str(tmp_path / "held.zip"), "--reason", "a claim")

    time_passes(world, subject)
    until("the keys are gone", lambda: gone_from_the_ledger(world, subject), 90)
    assert world.history(subject) == []
    for table in ("ledger.payload", "ledger.subject_key", "ledger.matter"):
        assert world.sql(f"select count(*) from {table} where subject = '{subject}'") == "0", table
    world.sql("delete from subjects.subject_key where subject = '" + subject + "' and use = 'evidence'")
    with pytest.raises(CommandFailed):
        command("evidence", subject, "newsletter/email", "-o", str(tmp_path / "late.zip"))
    assert Browser("en").get(link).status == 404
    after_the_end(done["receipt"])
    # Old proofs know nothing of it.
    for file in (bundle, receipt, erased, tmp_path / "held.zip", *receipts.values()):
        assert "valid" in command("verify", str(file), "--vkey", str(vkey)).lower(), file
    # The log is whole, by the reader alone.
    assert "verify" in command("log", "check")

    assert found_anywhere(person.address, subject, places(world, kafka, postgres, person.address)) == set()

    # Whoever comes back is somebody new, and may be written to again only after a consent of their own.
    again, _ = person.subscribe()
    assert person.subject(again) != subject
    assert world.permit(subject)["decision"] == "refused"


@pytest.mark.timeout(240)
def test_an_address_that_nobody_confirmed_goes_from_everywhere_when_its_period_is_over(world: World) -> None:
    stranger = world.person(name="never-confirmed")
    confirmation = stranger.sign_up()
    subject = stranger.subject(confirmation)
    stranger.quiet(subject)
    world.sql(
        "update newsletter.request set expires_at = now() - interval '1 s', purge_at = now() - interval '1 s'"
        f" where subject = '{subject}'"
    )
    world.sweep()
    state = f"select completed is not null from erasure.erasure_order where subject = '{subject}'"
    until("the order is completed", lambda: world.sql(state) == "t", 60)
    request = world.sql(f"select request from erasure.erasure_order where subject = '{subject}'")
    link = world.call("GET", f"/erasure/orders/{request}", caller="compliance")["receipt"]
    for table in ("subject_key", "contact_point", "identifier"):
        assert world.sql(f"select count(*) from subjects.{table} where subject = '{subject}'") == "0", table
    # Nothing was agreed to, so nothing has to be proven, and nobody is put on a list for having been typed in.
    until("the keys are gone", lambda: gone_from_the_ledger(world, subject), 90)
    assert world.sql(f"select count(*) from ledger.payload where subject = '{subject}'") == "0"
    after_the_end(link)
    stranger.subscribe()


def test_nobody_is_erased_who_is_not_known_and_who_agreed_is_not_taken_for_unclaimed(world: World) -> None:
    person = world.person()
    confirmation, _ = person.subscribe()
    subject = person.subject(confirmation)
    body = {"subject": subject, "reason": "no-longer-needed", "by": "controller", "unless_claimed": True}
    with pytest.raises(urllib.error.HTTPError) as refused:
        world.call("POST", "/erasure/orders", body, caller="newsletter")
    assert refused.value.code == 409
    with pytest.raises(urllib.error.HTTPError) as unknown:
        world.call(
            "POST", "/erasure/orders", body | {"subject": "0.01a2008d-7400-7abc-9def-0123456789ab"}, caller="compliance"
        )
    assert unknown.value.code == 404
    assert world.permit(subject)["decision"] == "granted"
