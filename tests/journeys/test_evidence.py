"""Evidence: one file that anyone checks offline, and that no bit can be changed in."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from infra.local.browser import Browser
from infra.local.installation import CommandFailed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.journeys.people import World


def test_an_exported_bundle_verifies_and_with_one_bit_flipped_does_not(world: World, tmp_path: Path) -> None:
    person = world.person()
    confirmation, _ = person.subscribe()
    world.issue_is_out(world.begin_issue())
    issue = person.mail(3)
    assert person.one_click(issue.way_out).status == 200
    subject = person.subject(confirmation)
    person.quiet(subject)
    bundle, vkey = tmp_path / "bundle.zip", tmp_path / "log.vkey"
    vkey.write_bytes(Browser("en").get(f"{world.base}/ledger/log/0/vkey").body)
    command = world.installation.command
    command("evidence", subject, "newsletter/email", "-o", str(bundle), "--reason", "a journey")
    said = command("verify", str(bundle), "--vkey", str(vkey))
    assert "valid" in said.lower()
    # Every process of ours names it in whatever it states, also that somebody looked.
    named = command("version").strip()
    assert f"stated by, in the statements' own words: {named} (index " in said
    recorded = [one.statement for one in world.history(subject)]
    assert {one["type"] for one in recorded} >= {"ConsentRequested", "ConsentGiven", "ConsentUsed", "RecordAccessed"}
    assert {one["data"]["software"] for one in recorded} == {named}
    page = tmp_path / "evidence.html"
    command("evidence", subject, "newsletter/email", "-o", str(page), "--reason", "a journey")
    assert "valid" in command("verify", str(page), "--vkey", str(vkey)).lower()
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
        opened = b"".join(archive.read(name) for name in names)
        places = [archive.getinfo(name).header_offset + 60 for name in (names[0], names[-1])]
    assert confirmation.raw.replace(b"\r\n", b"\n").split(b"\n\n", 1)[1] in opened.replace(b"\r\n", b"\n")
    assert person.address.encode() in opened
    whole = bundle.read_bytes()
    for place in (*places, len(whole) // 2, len(whole) - 30):
        altered = bytearray(whole)
        altered[place] ^= 1
        bundle.write_bytes(altered)
        with pytest.raises(CommandFailed) as failed:
            command("verify", str(bundle), "--vkey", str(vkey))
        assert failed.value.status in {1, 2}
        said = failed.value.printed + failed.value.complained
        assert "step" in said.lower() or "1." in said, said
    bundle.write_bytes(whole)
    with pytest.raises(CommandFailed) as failed:
        command("verify", str(bundle))
    assert failed.value.status == 1
