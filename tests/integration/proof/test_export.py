"""The evidence of a real opt-in, exported over HTTP and verified offline; and the history it is made from."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.ledger.api import evidence as evidence_api
from services.ledger.api.evidence import reason_hash
from services.ledger.evidence.bundle import Wanted, export
from services.ledger.outside.timestamps import Timestamps
from services.ledger.reader.archive import unpack
from services.ledger.reader.authority import parse_authority
from services.ledger.reader.entry import parse_entry
from services.ledger.reader.strict import Fields
from services.ledger.reader.verify import main
from shared.clock import utc_now
from shared.errors import Refused, Unavailable
from shared.outside import Outside
from tests.authority import authority
from tests.integration.proof.conftest import ADDRESS, Installation


async def exported(installation: Installation, path: Path, purpose: str = "newsletter") -> str:
    return (await installation.exported(path, purpose)).conclusion


async def test_an_opt_in_is_exported_and_verifies_with_grade_a(
    installation: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await installation.opt_in()
    path, key = tmp_path / "opt-in.zip", tmp_path / "vkey"
    assert "grade A" in await exported(installation, path)
    key.write_bytes((await installation.front.http.get("/ledger/log/0/vkey")).content)
    assert main(path, key) == 0
    said = capsys.readouterr().out
    assert "went to the address that was typed and carried the request's token; DKIM: signed by" in said
    assert "consent holds" in said
    assert "The log holds no later word at this size" in said
    files = unpack("1", path.read_bytes())
    mails = [name for name in files if name.endswith(".eml")]
    assert len(mails) == 1
    assert ADDRESS.encode() in files[mails[0]]


async def test_after_a_withdrawal_the_bundle_has_it(installation: Installation, tmp_path: Path) -> None:
    await installation.opt_in()
    welcome = await installation.front.mail(ADDRESS, 2)
    way_out = str(welcome["List-Unsubscribe"]).strip("<>")
    await installation.front.http.post(way_out, data={"List-Unsubscribe": "One-Click"})
    await installation.pass_on()
    await exported(installation, tmp_path / "b.zip")
    files = unpack("1", (tmp_path / "b.zip").read_bytes())
    entries = [
        parse_entry("3", Fields("3", name, json.loads(content)))
        for name, content in files.items()
        if name.startswith("statements/")
    ]
    assert b"ConsentWithdrawn" in b"".join(entry.statement for entry in entries)
    # The mail whose link was used is part of it.
    assert sum(entry.matter.startswith("data:") for entry in entries) == 2


async def test_the_same_state_gives_the_same_statements(installation: Installation, tmp_path: Path) -> None:
    await installation.opt_in()
    for name in ("one.zip", "two.zip"):
        await exported(installation, tmp_path / name)
    one, two = (unpack("1", (tmp_path / name).read_bytes()) for name in ("one.zip", "two.zip"))
    # The second opening is recorded too: the log has grown, and with it the way from each leaf up to its root.
    different = {name for name in one if one[name] != two[name]}
    assert all(name.startswith(("checkpoint", "manifest", "proofs/", "statements/")) for name in different)
    without_way = [[{**json.loads(it[name]), "hashes": []} for name in it if name[:5] == "state"] for it in (one, two)]
    assert without_way[0] == without_way[1] != []


async def test_another_purpose_brings_its_own_statements_only(installation: Installation, tmp_path: Path) -> None:
    await installation.opt_in("newsletter/email", "newsletter-clicks/email")
    await exported(installation, tmp_path / "clicks.zip", "newsletter-clicks")
    files = unpack("1", (tmp_path / "clicks.zip").read_bytes())
    matters = {json.loads(content)["matter"] for name, content in files.items() if name.startswith("statements/")}
    assert matters == {"ask:newsletter-clicks/email", "purpose:newsletter-clicks/email", "data:newsletter"}


async def test_each_disclosure_is_kept_with_its_reason(installation: Installation, tmp_path: Path) -> None:
    await installation.opt_in()
    await exported(installation, tmp_path / "b.zip")
    rows = await installation.superuser.fetch("select * from subjects.disclosure")
    assert rows
    assert all("a test of ours" in dict(row).values() for row in rows)
    assert all("compliance" in dict(row).values() for row in rows)


async def test_nothing_recorded_gives_no_bundle(installation: Installation, tmp_path: Path) -> None:
    await installation.opt_in()
    path = tmp_path / "b.zip"
    subject = await installation.subject()
    nobody = f"{subject[:-1]}{'0' if subject[-1] != '0' else '1'}"
    with pytest.raises(Refused, match="not-found"):
        await installation.exported(path, subject=nobody)
    with pytest.raises(Refused, match="not-a-purpose"):
        await installation.exported(path, "Newsletter", channel="")
    with pytest.raises(Refused, match="nothing-recorded"):
        await installation.exported(path, "phone", channel="call")
    assert not path.exists()
    assert await openings(installation) == []


# -- each opening


async def openings(installation: Installation) -> list[dict[str, Any]]:
    """Every opening that is recorded about the subject."""
    path = f"/ledger/subjects/{await installation.subject()}/history"
    said = (await installation.front.http.get(path, headers=installation.caller("compliance"))).json()
    statements = [json.loads(base64.urlsafe_b64decode(one["statement"] + "===")) for one in said["entries"]]
    return [one for one in statements if one["type"] == "RecordAccessed"]


async def test_each_opening_is_recorded_with_role_and_reason_before_there_is_a_file(
    installation: Installation, tmp_path: Path
) -> None:
    await installation.opt_in()
    await installation.exported(tmp_path / "b.zip", role="legal", reason="a case at court")
    [opening] = await openings(installation)
    said = opening["data"]
    assert (said["role"], said["caller"], said["shape"], said["by"]) == ("legal", "compliance", "zip", "staff")
    assert (said["purpose"], said["channel"], said["activity"]) == ("newsletter", "email", "newsletter")
    assert said["reason_hash"] == reason_hash(opening["id"], "a case at court")
    # It is recorded under a matter of its own, so the evidence itself does not speak of who has read it.
    files = unpack("1", (tmp_path / "b.zip").read_bytes())
    assert all("access:" not in content.decode() for name, content in files.items() if name.startswith("statements/"))


async def test_nobody_gets_a_file_whose_opening_is_not_sealed(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await installation.opt_in()
    monkeypatch.setattr(evidence_api, "_SEALED_WITHIN_SECONDS", 0.3)
    wanted = Wanted(await installation.subject(), "newsletter", "email", "legal", "a case at court")
    # Nobody appends and nobody signs.
    with pytest.raises(Unavailable):
        await export(installation.settings, wanted, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()
    assert await installation.superuser.fetchval("select count(*) from subjects.disclosure") == 0


async def test_a_role_that_the_register_does_not_name_and_a_caller_without_the_scope_open_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    await installation.opt_in()
    with pytest.raises(Refused, match="role-may-not-open-evidence"):
        await installation.exported(tmp_path / "b.zip", role="curious")
    body = {"subject": await installation.subject(), "purpose": "newsletter", "channel": "email"}
    async with httpx.AsyncClient(base_url=installation.settings.ledger_url) as http:
        for missing in ({"role": "legal"}, {"reason": "a case"}, {"role": "legal", "reason": "ad@example.org"}):
            answer = await http.post("/ledger/evidence", json=body | missing, headers=installation.caller("compliance"))
            assert answer.status_code == 400
        whole = body | {"role": "legal", "reason": "a case at court"}
        # The last may open evidence, and not as a lawyer.
        for caller in ("newsletter", "operator", "demo"):
            answer = await http.post("/ledger/evidence", json=whole, headers=installation.caller(caller))
            assert (answer.status_code, answer.json()["error"]) == (403, "scope-missing")
        assert (await http.post("/ledger/evidence", json=whole)).status_code == 401
    assert await openings(installation) == []


@pytest.mark.parametrize("shape", ["pdf", "html"])
async def test_the_other_shapes_hold_a_bundle_that_verifies(
    installation: Installation, tmp_path: Path, shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await installation.opt_in()
    path, key = tmp_path / f"evidence.{shape}", tmp_path / "vkey"
    assert "grade A" in (await installation.exported(path)).conclusion
    key.write_bytes((await installation.front.http.get("/ledger/log/0/vkey")).content)
    assert main(path, key) == 0
    assert "grade A" in capsys.readouterr().out
    assert path.read_bytes().startswith({"pdf": b"%PDF-1.7", "html": b"<!doctype html>"}[shape])
    [opening] = await openings(installation)
    assert opening["data"]["shape"] == shape


async def test_the_history_of_a_subject_is_whole_and_for_compliance_only(installation: Installation) -> None:
    await installation.opt_in()
    http, path = installation.front.http, f"/ledger/subjects/{await installation.subject()}/history"
    assert (await http.get(path)).status_code == 401
    assert (await http.get(path, headers=installation.caller("newsletter"))).status_code == 403
    answer = await http.get(path, headers=installation.caller("compliance"))
    assert answer.headers["cache-control"] == "no-store"
    said = answer.json()
    matters = [entry["matter"] for entry in said["entries"]]
    assert matters.count("purpose:newsletter/email") == 1
    assert matters.count("data:newsletter") == 2
    assert "ask:newsletter-clicks/email" in matters
    indexes = [int(entry["index"]) for entry in said["entries"]]
    assert indexes == sorted(indexes)
    half = await http.get(path, params={"purpose": "newsletter"}, headers=installation.caller("compliance"))
    assert half.status_code == 400


async def test_a_long_history_is_found_along_its_leaves(installation: Installation) -> None:
    front = installation.front
    for _ in range(3):
        await installation.opt_in()
        welcome = front.mailbox.to(ADDRESS)[-1]
        way_out = str(welcome["List-Unsubscribe"]).strip("<>")
        assert (await front.http.post(way_out, data={"List-Unsubscribe": "One-Click"})).status_code == 200
        await installation.pass_on()
        front.mailbox.received.clear()
    path = f"/ledger/subjects/{await installation.subject()}/history"
    said = (await front.http.get(path, headers=installation.caller("compliance"))).json()
    matters = [entry["matter"] for entry in said["entries"]]
    assert matters.count("purpose:newsletter/email") == 6
    stored = await installation.superuser.fetchval(
        "select count(*) from ledger.payload where subject = $1", await installation.subject()
    )
    assert len(matters) == stored


async def test_register_snapshots_are_kept_by_their_hash(installation: Installation) -> None:
    http, allowed = installation.front.http, installation.caller("compliance")
    version = installation.front.newsletter.speaker.register.version
    answer = await http.get(f"/ledger/register/{version}", headers=allowed)
    assert answer.content == installation.front.newsletter.speaker.register.snapshot()
    assert (await http.get(f"/ledger/register/{version}")).status_code == 401
    kept = await installation.superuser.fetchval(
        "select content from ledger.attachment where hash = $1", bytes.fromhex(version)
    )
    assert kept == answer.content
    for other in ("0" * 64, "nothing", version.upper()):
        assert (await http.get(f"/ledger/register/{other}", headers=allowed)).status_code == 404


async def test_a_sealed_attachment_is_no_register(installation: Installation) -> None:
    await installation.opt_in()
    version = installation.front.newsletter.speaker.register.version
    others = await installation.superuser.fetch(
        "select hash from ledger.attachment where hash <> $1", bytes.fromhex(version)
    )
    assert others
    for row in others:
        answer = await installation.front.http.get(
            f"/ledger/register/{row['hash'].hex()}", headers=installation.caller("compliance")
        )
        assert answer.status_code == 404


async def test_the_dkim_keys_are_open_to_everyone(installation: Installation) -> None:
    import httpx  # noqa: PLC0415

    async with httpx.AsyncClient(base_url=installation.settings.newsletter_url) as http:
        answer = await http.get("/newsletter/dkim-keys")
    [key] = answer.json()["keys"]
    assert key["domain"] == installation.settings.mail_domain
    assert key["record"].startswith("v=DKIM1; k=rsa; p=")
    assert "PRIVATE" not in answer.text


async def test_a_timestamp_of_the_log_is_in_the_evidence_of_what_it_covers(
    installation: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await installation.opt_in()
    db, http = await installation.ledger.database("ledger_publish"), Outside()
    try:
        with authority().listening() as url:
            believed = parse_authority(authority().pem)
            assert await Timestamps(0, db, url, 600.0, believed, http, utc_now).step() is not None
    finally:
        await http.close()
    path, key, pem = tmp_path / "opt-in.zip", tmp_path / "vkey", tmp_path / "authority.pem"
    await exported(installation, path)
    key.write_bytes((await installation.front.http.get("/ledger/log/0/vkey")).content)
    pem.write_bytes(authority().pem)
    [name] = [name for name in unpack("1", path.read_bytes()) if name.startswith("timestamps/")]
    assert main(path, key, authority=pem) == 0
    said = capsys.readouterr().out
    assert f"the log's first {name[11:-5]} leaves were there at" in said
    assert "by the authority's word, is shown with grade A" in said
