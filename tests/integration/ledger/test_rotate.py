"""Another key takes a log over: both sign for a while, then the new one alone, and what was signed holds for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.ledger import store
from services.ledger.integrity.finding import Finding, Trusted
from services.ledger.log_keys import known_keys, signers, vkey_of
from services.ledger.procedures.log_check import check_log
from services.ledger.procedures.rotate import retire_key, rotate_key
from services.ledger.reader.errors import Invalid
from services.ledger.reader.policy import LogKey, Policy, parse_log_keys
from services.ledger.reader.verify import main
from services.ledger.seal import Sealer
from shared.errors import Corrupt, Refused
from shared.secrets import create_secrets
from tests.integration.ledger.world import World, given, new_subject


async def sealer(world: World) -> Sealer:
    """A signer as the process makes it: with the keys that are known, as far as their files are here."""
    keys = await known_keys(await world.database("ledger_seal"), 0)
    return await world.sealer(log_keys=signers(world.settings.origin(0), keys, world.secrets.log_keys(0)))


async def grow(world: World) -> bytes:
    """Another sealed batch; the newest checkpoint."""
    appender = await world.appender()
    await world.state(given(new_subject()))
    await world.append(appender)
    await appender.drop()
    await world.seal(await sealer(world))
    return await newest(world)


async def newest(world: World) -> bytes:
    return str(await world.value("select note from checkpoint order by size desc limit 1")).encode()


async def check(world: World) -> list[Finding]:
    trusted = Trusted(world.secrets.keks(), signer_dir=world.settings.signer_dir)
    db = await world.database("ledger")
    return [one async for one in check_log(db, trusted) if isinstance(one, Finding)]


def under(vkey: str) -> Policy:
    return Policy((LogKey(vkey),))


async def test_both_sign_then_the_new_one_alone_and_every_checkpoint_verifies_under_the_list_of_keys(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = await world.database("ledger")
    old = (await store.logs(db))[0]["vkey"]
    alone = await grow(world)
    rotated = await rotate_key(world.settings, 0)
    assert rotated.number == 2
    # Made, not used: nobody is told to expect it under what is signed already.
    assert (await store.logs(db))[0]["vkey"] == old
    with pytest.raises(Refused, match="key-not-used"):
        await rotate_key(world.settings, 0)

    both = await grow(world)
    new = (await store.logs(db))[0]["vkey"]
    assert new == rotated.vkey != old
    assert under(old).verify(both).checkpoint == under(new).verify(both).checkpoint

    retired = await retire_key(world.settings, 0, 1)
    (world.settings.secrets_dir / "log-0").unlink()
    # What runs before every start makes no first key again.
    create_secrets(world.settings.secrets_dir, bytes, ["newsletter"], ["operator"], 1)
    assert not (world.settings.secrets_dir / "log-0").exists()
    last = await grow(world)
    with pytest.raises(Invalid):
        under(old).verify(last)

    keys = parse_log_keys(retired.keys.encode())
    sizes = [keys.verify(note).checkpoint.size for note in (alone, both, last)]
    assert sizes == sorted(set(sizes))
    assert [(key.vkey, key.until) for key in keys.logs] == [(new, None), (old, sizes[1])]
    known = await known_keys(db, 0)
    assert [vkey_of(known, size) for size in sizes] == [old, new, new]
    assert await check(world) == []

    note, trusted = tmp_path / "handover", tmp_path / "vkey"
    note.write_text(known[1].handover or "")
    for vkey in (old, new):
        trusted.write_text(f"{vkey}\n")
        assert main(note, trusted) == 0
        assert f"{old} named {new} to take over" in capsys.readouterr().out
    note.write_text((known[1].handover or "").replace(f"\n{sizes[0]}\n", f"\n{sizes[1]}\n"))
    assert main(note, trusted) == 1
    assert "INVALID handover" in capsys.readouterr().out


async def test_the_only_key_is_not_retired_and_none_twice(world: World) -> None:
    with pytest.raises(Refused, match="only-key"):
        await retire_key(world.settings, 0, 1)
    await rotate_key(world.settings, 0)
    with pytest.raises(Refused, match="only-key"):
        await retire_key(world.settings, 0, 1)
    await grow(world)
    await retire_key(world.settings, 0, 1)
    for number in (1, 3):
        with pytest.raises(Refused, match="no-such-key"):
            await retire_key(world.settings, 0, number)


async def test_a_retired_key_signs_no_more_though_its_file_is_there(world: World) -> None:
    old = (await store.logs(await world.database("ledger")))[0]["vkey"]
    await rotate_key(world.settings, 0)
    await grow(world)
    await retire_key(world.settings, 0, 1)
    with pytest.raises(Invalid):
        under(old).verify(await grow(world))


async def test_a_file_that_is_not_the_key_that_is_known_signs_nothing(world: World) -> None:
    (world.settings.secrets_dir / "log-0").write_text("07" * 32 + "\n")
    with pytest.raises(Corrupt, match="is another key"):
        await sealer(world)
    (world.settings.secrets_dir / "log-0").unlink()
    with pytest.raises(Corrupt, match="none here that may sign"):
        await sealer(world)


async def test_a_key_that_nobody_handed_over_to_is_named_by_the_check(world: World) -> None:
    await grow(world)
    await rotate_key(world.settings, 0)
    await grow(world)
    assert await check(world) == []
    await world.as_superuser("update log_key set handover = replace(handover, '=', 'A') where number = 2")
    [found] = await check(world)
    assert (found.table, found.where) == ("log_key", "number 2")
