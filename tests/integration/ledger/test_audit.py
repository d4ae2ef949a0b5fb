"""`log audit` over HTTP, against logs that serve what they should, and logs that do not."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner

from services.cli import app
from services.ledger.procedures import audit as audits
from services.ledger.procedures.audit import Request, audit
from services.ledger.reader.note import CosignatureSigner, CosignatureVerifier, Signer, parse_note
from services.ledger.reader.policy import LogKey, Policy, Witness
from shared.errors import Unavailable
from tests.made_log import FRESH, SIGNER, MadeLog, key, made

TRUSTED = Policy((LogKey(SIGNER.vkey),))
NEW = sha256(b"new").digest()


@dataclass
class Served:
    """A log behind an address."""

    log: MadeLog
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    broken: Callable[[str, int], web.Response | None] = lambda _path, _times: None
    """What is answered instead, by path and how often it was asked for."""

    async def answer(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        self.asked[path] += 1
        broken = self.broken(path, self.asked[path])
        found = self.log.resource(path)
        if broken is not None:
            return broken
        return web.Response(status=404) if found is None else web.Response(body=found)


@asynccontextmanager
async def serving(log: MadeLog) -> AsyncIterator[Served]:
    served = Served(log)
    application = web.Application()
    application.router.add_get("/some/log/{path:.*}", served.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/some/log"
        yield served
    finally:
        await runner.cleanup()


def quiet(_text: str) -> None:
    """Nobody looks."""


async def test_a_log_is_audited_and_then_only_what_is_new(tmp_path: Path) -> None:
    async with serving(made()) as served:
        request = Request(served.url, TRUSTED, tmp_path / "position")
        first = await audit(request, quiet)
        assert (first.status, first.size, first.before) == (audits.HOLDS, len(served.log.leaves), 0)
        assert first.fresh_at == 1580895002
        served.asked.clear()
        served.log.say(NEW)
        served.log.end()
        second = await audit(request, quiet)
        assert (second.status, second.before, second.size) == (audits.HOLDS, first.size, first.size + 2)
        last = len(served.log.leaves) // 256
        assert {path[:16] for path in served.asked if path.startswith("tile/entries")} == {f"tile/entries/{last:03d}"}
        again = await audit(request, quiet)
        assert (again.status, again.before, again.size) == (audits.HOLDS, second.size, second.size)


async def test_what_fails_for_a_while_is_asked_again() -> None:
    async with serving(made(3, 100)) as served:
        served.broken = lambda _path, times: web.Response(status=503) if times == 1 else None
        assert (await audit(Request(served.url, TRUSTED), quiet)).status == audits.HOLDS
        assert set(served.asked.values()) == {2}


async def test_an_audit_that_is_broken_off_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "_TRIES", 1)
    async with serving(made(8, 150)) as served:
        request = Request(served.url, TRUSTED, tmp_path / "position")
        served.broken = lambda path, _times: web.Response(status=503) if path == "tile/entries/003" else None
        with pytest.raises(Unavailable):
            await audit(request, quiet)
        served.broken = lambda _path, _times: None
        served.asked.clear()
        outcome = await audit(request, quiet)
        assert (outcome.status, outcome.before, outcome.size) == (audits.HOLDS, 768, len(served.log.leaves))
        assert served.asked["tile/entries/002"] == 0


WRONG: dict[str, tuple[str, Callable[[str], web.Response | None]]] = {
    "entries withheld": (
        "tile/entries/001 is answered with 404",
        lambda path: web.Response(status=404) if path == "tile/entries/001" else None,
    ),
    "a tile of other hashes": (
        "tile/0/001: the hash of leaf 256 is not that of the entries served",
        lambda path: web.Response(body=bytes(8192)) if path == "tile/0/001" else None,
    ),
    "no end of entries": (
        "tile/entries/000 is longer than",
        lambda path: web.Response(body=bytes(17_000_000)) if path == "tile/entries/000" else None,
    ),
    "a fresh line of another key": (
        "signature 1: the note is not signed by the given key",
        lambda path: web.Response(text=CosignatureSigner(FRESH.name, key(9)).vkey) if path == "fresh-vkey" else None,
    ),
    "a fresh key that is no text": (
        "verifier key",
        lambda path: web.Response(body=b"\xff\xfe+0+A") if path == "fresh-vkey" else None,
    ),
    "a redirection": (
        "checkpoint is answered with 302",
        lambda path: web.Response(status=302, headers={"Location": "/"}) if path == "checkpoint" else None,
    ),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_is_wrong_is_named_and_no_position_is_left(what: str, tmp_path: Path) -> None:
    said, broken = WRONG[what]
    async with serving(made()) as served:
        served.broken = lambda path, _times: broken(path)
        outcome = await audit(Request(served.url, TRUSTED, tmp_path / "position"), quiet)
    assert outcome.status == audits.WRONG
    assert said in outcome.wrong
    assert not (tmp_path / "position").exists()


async def test_history_that_was_changed_behind_the_auditor_is_noticed_each_time_it_looks(tmp_path: Path) -> None:
    async with serving(made(2, 40)) as served:
        request = Request(served.url, TRUSTED, tmp_path / "position")
        assert (await audit(request, quiet)).status == audits.HOLDS
        # The same key signs another history of which only this auditor could know that it is another.
        served.log = made(3, 40, seed=2)
        for _ in range(2):
            outcome = await audit(request, quiet)
            assert outcome.status == audits.WRONG
            assert "is not that of the entries served" in outcome.wrong
        served.log = made(1, 40)
        rolled_back = await audit(request, quiet)
        assert "rolled back" in rolled_back.wrong
        assert len(rolled_back.notes) == 2


async def test_demanded_witnesses_must_have_cosigned() -> None:
    async with serving(made(2, 10)) as served:
        for seed, status in ((2, audits.HOLDS), (7, audits.WRONG)):
            witness = Witness("w", CosignatureSigner(FRESH.name, key(seed)).vkey)
            wanted = Policy(TRUSTED.logs, (witness,), quorum="w")
            outcome = await audit(Request(served.url, wanted), quiet)
            assert outcome.status == status
            assert ("no quorum" in outcome.wrong, outcome.cosigned_at) == (
                (False, {"w": 1580895002}) if status == audits.HOLDS else (True, {})
            )


async def test_the_newest_cosigned_checkpoint_counts_where_the_newest_is_not_cosigned_yet(tmp_path: Path) -> None:
    witness = CosignatureSigner("w.example", key(5))
    wanted = Policy(TRUSTED.logs, (Witness("w", witness.vkey),), quorum="w")

    def cosigned(of: MadeLog, size: int) -> web.Response:
        return web.Response(body=of.note(size) + witness.sign(of.checkpoint(size).text(), 1580895001))

    async with serving(made(8, 40)) as served:
        first, second, last = served.log.sizes[-3:]
        served.broken = lambda path, _: cosigned(served.log, second) if path == "cosigned" else None
        request = Request(served.url, wanted, tmp_path / "position")
        outcome = await audit(request, quiet)
        assert (outcome.wrong, outcome.size, outcome.cosigned_size) == ("", last, second)
        assert (outcome.cosigned_at, outcome.not_judged) == ({"w": 1580895001}, ())
        # Who demands nothing is told what nobody has judged.
        alone = await audit(Request(served.url, TRUSTED), quiet)
        assert (alone.status, alone.cosigned_at) == (audits.HOLDS, {})
        assert [one.partition("+")[0] for one in alone.not_judged] == ["w.example"]
        # A position that stands behind it cannot tell whether it is of the same log.
        served.broken = lambda path, _: cosigned(served.log, first) if path == "cosigned" else None
        assert "audit without the position" in (await audit(request, quiet)).wrong
        assert (await audit(Request(served.url, wanted), quiet)).status == audits.HOLDS
        # One of a size that was signed, of other leaves.
        other = made(8, 40, seed=2)
        served.broken = lambda path, _: cosigned(other, second) if path == "cosigned" else None
        for position in (None, tmp_path / "new"):
            assert (await audit(Request(served.url, TRUSTED, position), quiet)).status == audits.WRONG


async def test_an_auditor_cosigns_what_it_has_replayed_and_not_before_it_is_remembered(tmp_path: Path) -> None:
    auditor = CosignatureSigner("auditor.example.net", key(8))
    async with serving(made(2, 10)) as served:
        request = Request(served.url, TRUSTED, tmp_path / "position", auditor)
        outcome = await audit(request, quiet)
        note = served.log.note() + outcome.cosignature.encode()
        assert CosignatureVerifier(auditor.vkey).verify(parse_note(note)) > 0
        assert (tmp_path / "position").exists()
        served.log.leaves[3] = served.log.leaves[4]
        (tmp_path / "position").unlink()
        assert (await audit(request, quiet)).cosignature == ""


async def command(*arguments: str) -> tuple[int, str, str]:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["log", "audit", *arguments])
    return result.exit_code, result.stdout, result.stderr


async def test_the_command_tells_by_its_exit_status_and_what_it_prints_can_be_piped(tmp_path: Path) -> None:
    vkey, secret, position = tmp_path / "vkey", tmp_path / "key", tmp_path / "position"
    vkey.write_text(SIGNER.vkey + "\n")
    secret.write_text("08" * 32 + "\n")
    async with serving(made(3, 100)) as served:
        status, out, err = await command(served.url, "--vkey", str(vkey), "--json", "--position", str(position))
        facts = json.loads(out)
        assert (status, facts["holds"], facts["size"]) == (0, True, str(served.log.sizes[-1]))
        assert "leaves" in err
        status, out, _ = await command(served.url)
        assert status == 1
        assert SIGNER.vkey in out
        assert "compare it" in out
        cosign = ("--cosign-key", str(secret), "--cosign-as", "auditor.example.net")
        status, out, _ = await command(f"{served.url}/", "--vkey", str(vkey), "--position", str(position), *cosign)
        assert status == 0
        assert out.splitlines()[-1].startswith("\N{EM DASH} auditor.example.net ")
        assert (await command(served.url, "--vkey", str(vkey), *cosign))[0] == 2
        served.log.leaves[9] = served.log.leaves[8]
        status, out, _ = await command(served.url, "--vkey", str(vkey))
        assert status == 1
        assert "leaf 9" in out
        vkey.write_text(Signer(SIGNER.name, key(5)).vkey)
        status, _, err = await command(served.url, "--vkey", str(vkey), "--position", str(position))
        assert (status, "another key" in err) == (2, True)
        position.write_bytes(b"damaged")
        status, out, _ = await command(served.url, "--position", str(position))
        assert (status, "position 1" in out) == (1, True)
    for wrong in ("ftp://example.org/log", "example.org"):
        assert (await command(wrong))[0] == 2
    assert (await command("http://127.0.0.1:1/x", "--vkey", str(tmp_path / "none")))[0] == 2


async def test_a_log_that_does_not_answer_is_no_wrong_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "_TRIES", 2)
    status, out, err = await command("http://127.0.0.1:1/x")
    assert (status, out) == (2, "")
    assert "not done" in err


def test_addresses_are_taken_as_people_write_them() -> None:
    for written in ("https://a.example/ledger/log/0", "https://a.example/ledger/log/0/", "https://a.example"):
        assert audits.log_address(written) == "https://a.example/ledger/log/0"
    assert audits.log_address("http://a:1/x/checkpoint") == "http://a:1/x"
