"""Somebody outside replays the log of the running product, again after more was said, and cosigns it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from infra.local.browser import Browser
from infra.local.installation import CommandFailed
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.note import CosignatureSigner, CosignatureVerifier, format_note, parse_note
from tests.made_log import key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.journeys.people import World

AUDITOR = CosignatureSigner("auditor.example.net", key(8))


def test_an_outsider_audits_the_log_and_cosigns_it(world: World, tmp_path: Path) -> None:
    log, vkey, position = f"{world.base}/ledger/log/0", tmp_path / "vkey", tmp_path / "position"
    vkey.write_bytes(Browser("en").get(f"{log}/vkey").body)
    (tmp_path / "key").write_text("08" * 32)

    def audit(*more: str) -> dict[str, object]:
        given = ("--vkey", str(vkey), "--position", str(position), "--json")
        found: dict[str, object] = json.loads(world.installation.command("log", "audit", log, *given, *more))
        assert found["holds"] is True
        return found

    world.person().subscribe()
    first = audit()
    assert first["replayed_from"] == "0"
    assert int(str(first["labels"])) >= 3
    world.person().subscribe()
    second = audit("--cosign-key", str(tmp_path / "key"), "--cosign-as", AUDITOR.name)
    assert second["replayed_from"] == first["size"]
    assert int(str(second["size"])) > int(str(first["size"]))
    audited = Checkpoint(str(second["origin"]), int(str(second["size"])), bytes.fromhex(str(second["root"])))
    note = format_note(audited.text(), [str(second["cosignature"]).encode()])
    assert CosignatureVerifier(AUDITOR.vkey).verify(parse_note(note)) > 0


def test_whoever_gives_no_key_is_told_to_compare_it(world: World) -> None:
    try:
        said = world.installation.command("log", "audit", world.base)
    except CommandFailed as failure:
        assert failure.status == 1  # noqa: PT017 - what matters is its status
    else:
        raise AssertionError(said)
