"""The signer signs what follows from what it signed before, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from services.ledger import signer_map
from services.ledger.append import Fenced
from services.ledger.reader.merkle import leaf_hash
from services.ledger.reader.note import CosignatureSigner, CosignatureVerifier, parse_note
from services.ledger.seal import Sealer
from shared.clock import utc_now
from shared.errors import Corrupt
from tests.integration.ledger.world import World, given, new_subject, withdrawn


async def fill(world: World, batches: int = 3) -> None:
    """Append some batches and do not seal them."""
    appender = await world.appender()
    for _ in range(batches):
        subject = new_subject()
        await world.state(given(subject), withdrawn(subject))
        await world.append(appender)
    await appender.drop()


async def test_one_signature_covers_several_batches(world: World) -> None:
    await fill(world, 3)
    await world.seal(await world.sealer())
    assert [row["size"] for row in await world.rows("select size from checkpoint order by size")] == [1, 10]
    judged = await world.judge()
    assert judged.sealed == judged.size == 10


async def test_sealing_again_signs_nothing_new_and_going_on_signs_what_follows(world: World) -> None:
    await fill(world, 1)
    await world.seal(await world.sealer())
    await world.seal(await world.sealer())
    await fill(world, 1)
    await world.seal(await world.sealer())
    assert [row["size"] for row in await world.rows("select size from checkpoint order by size")] == [1, 4, 7]


async def test_the_fresh_line_is_a_cosignature_by_its_own_key_and_is_renewed_when_idle(world: World) -> None:
    await fill(world, 1)
    sealer = await world.sealer()
    await sealer.open()
    await sealer.step()
    origin = world.settings.origin(0)
    verifier = CosignatureVerifier(CosignatureSigner(f"{origin}/fresh", world.secrets.fresh_key(0)).vkey)

    async def freshness() -> int:
        (row,) = await world.rows("select note || line as note from checkpoint join fresh using (shard, size)")
        return verifier.verify(parse_note(row["note"].encode()))

    first = await freshness()
    sealer._clock = lambda: utc_now() + timedelta(seconds=2)
    await sealer.renew()
    assert await freshness() > first
    sealer.close()


ALTERATIONS = {
    "a flipped bit in a leaf": "update leaf_batch set leaves = set_byte(leaves, 40, get_byte(leaves, 40) # 1)",
    "another time in a leaf": "update leaf_batch set leaves = set_byte(leaves, 88, get_byte(leaves, 88) # 1)",
    "a leaf less": "update leaf_batch set n = n - 1",
    "an unknown leaf type": "update leaf_batch set leaves = set_byte(leaves, 0, 4)",
    "another map root": "update leaf_batch set leaves = set_byte(leaves, length(leaves) - 30, 255)",
    "bytes behind the batch": "update leaf_batch set leaves = leaves || '\\x01'",
    "a hole in the log": "update leaf_batch set first = first + 1",
}


@pytest.mark.parametrize("what", sorted(ALTERATIONS))
async def test_rows_that_were_altered_before_sealing_are_never_signed(world: World, what: str) -> None:
    await fill(world, 2)
    await world.as_superuser(f"{ALTERATIONS[what]} where first = 4")
    sealer = await world.sealer()
    with pytest.raises(Corrupt) as stopped:
        await world.seal(sealer)
    assert stopped.value.what == "leaf_batch"
    # Nothing at all is signed, not even what comes before the wrong row: the shard has stopped.
    assert await world.value("select max(size) from checkpoint") == 1
    (row,) = await world.rows("select kind, about, detail from incident")
    assert (row["kind"], row["about"]) == ("signer-disagrees", "leaf_batch")
    assert "index" in row["detail"] or "first" in row["detail"]


async def test_a_shard_that_the_signer_stopped_takes_nothing_more(world: World) -> None:
    appender = await world.appender()
    await world.state(given(new_subject()))
    await world.append(appender)
    await world.as_superuser("update leaf_batch set n = 9 where first = 1")
    with pytest.raises(Corrupt):
        await world.seal(await world.sealer())
    await world.state(given(new_subject()))
    with pytest.raises(Fenced):
        await world.append(appender)
    with pytest.raises(Fenced):
        await (await world.appender()).claim()
    assert await world.next_offset() == 1


async def test_a_database_restored_from_before_its_last_signature_is_not_signed_again(world: World) -> None:
    await fill(world, 1)
    await world.seal(await world.sealer())
    await fill(world, 1)
    await world.seal(await world.sealer())
    # What a backup taken in between holds.
    await world.as_superuser(
        """delete from fresh; delete from checkpoint where size > 4; delete from leaf_batch where first >= 4;
           delete from payload where index >= 4; delete from seen where index >= 4;
           update head set size = 4, next_offset = 2"""
    )
    with pytest.raises(Corrupt, match="PostgreSQL is behind"):
        await world.seal(await world.sealer())


async def test_it_never_signs_a_size_again_with_another_root(world: World) -> None:
    """A whole second history, consistent in itself, made with every right on the database and on the appender."""
    await fill(world, 1)
    await world.seal(await world.sealer())
    await world.as_superuser(
        """delete from fresh; delete from checkpoint where size > 1; delete from leaf_batch where first >= 1;
           delete from payload; delete from seen; delete from subject_key; delete from matter; delete from progress"""
    )
    leaf = (await world.rows("select leaves from leaf_batch"))[0]["leaves"]
    edge = leaf_hash(leaf)
    await world.rows("update head set size = 1, edge = $1, map_root = $2, next_offset = 0", edge, bytes(32))
    await world.append(await world.appender())
    judged = await world.judge()
    assert (judged.size, judged.sealed) == (4, 1)
    with pytest.raises(Corrupt, match="not the leaf that was signed"):
        await world.seal(await world.sealer())
    assert (await world.judge()).sealed == 1


async def test_without_its_files_it_does_not_start(world: World) -> None:
    await fill(world, 1)
    shutil.rmtree(world.settings.signer_dir)
    with pytest.raises(Corrupt, match="the signer's files"):
        await world.seal(await world.sealer())


async def test_a_checkpoint_that_its_files_do_not_know_stops_it(world: World) -> None:
    await fill(world, 1)
    kept = Path(str(world.settings.signer_dir) + ".old")
    shutil.copytree(world.settings.signer_dir, kept)
    await world.seal(await world.sealer())
    shutil.rmtree(world.settings.signer_dir)
    shutil.move(kept, world.settings.signer_dir)
    with pytest.raises(Corrupt, match="none that we signed"):
        await world.seal(await world.sealer())


async def test_two_signers_do_not_hold_the_same_files(world: World) -> None:
    first, second = await world.sealer(), await world.sealer()
    await first.open()
    with pytest.raises(Corrupt, match="another signer holds them"):
        await second.open()
    first.close()
    await second.open()
    second.close()


async def test_what_a_crash_tore_before_the_signature_is_cut_off(world: World) -> None:
    leaf, half_a_leaf, half_a_record = b"\x01" + bytes(88), b"\x01" + bytes(40), bytes(30)
    torn = ((leaf, b""), (half_a_leaf, b""), (b"", half_a_record), (leaf * 9, half_a_record))
    for times, (more_leaves, more_sizes) in enumerate(torn, 1):
        for name, more in (("leaves", more_leaves), ("sizes", more_sizes)):
            with (world.settings.signer_dir / "0" / name).open("ab") as file:
                file.write(more)
        await fill(world, 1)
        await world.seal(await world.sealer())
        assert (await world.judge()).sealed == 1 + 3 * times
    stored = b"".join(row["leaves"] for row in await world.rows("select leaves from leaf_batch order by first"))
    assert (world.settings.signer_dir / "0" / "leaves").read_bytes() == stored


@pytest.mark.parametrize("file", ["leaves", "sizes"])
async def test_files_that_were_altered_before_their_end_stop_it(world: World, file: str) -> None:
    await fill(world, 2)
    await world.seal(await world.sealer())
    await fill(world, 1)
    path = world.settings.signer_dir / "0" / file
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(Corrupt):
        await world.seal(await world.sealer())


async def test_a_size_in_its_files_whose_checkpoint_was_not_stored_is_signed_at_the_next_start(world: World) -> None:
    await fill(world, 1)
    sealer = await world.sealer()
    await sealer.open()

    async def dies() -> None:
        if sealer._signed().size != sealer._stored:
            raise asyncio.CancelledError

    sealer._store_unstored = dies  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await sealer.step()
    sealer.close()
    assert (await world.judge()).sealed == 1
    await fill(world, 1)
    await world.seal(await world.sealer())
    assert [row["size"] for row in await world.rows("select size from checkpoint order by size")] == [1, 4, 7]


async def test_a_batch_ahead_of_its_clock_is_not_signed_until_the_clock_has_caught_up(world: World) -> None:
    await fill(world, 1)
    behind: Sealer = await world.sealer(clock=lambda: utc_now() - timedelta(seconds=30))
    await world.seal(behind)
    assert await world.value("select max(size) from checkpoint") == 1
    (row,) = await world.rows("select kind, closed_at from incident")
    assert (row["kind"], row["closed_at"]) == ("ahead-of-clock", None)
    await behind.open()
    behind._clock = utc_now
    await behind.step()
    behind.close()
    assert await world.value("select max(size) from checkpoint") == 4
    assert await world.value("select count(*) from incident where closed_at is null") == 0


async def kept_map(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The signer's map, written after some batches; more are signed behind it."""
    monkeypatch.setattr(signer_map, "AT_LEAST", 6)
    await fill(world, 3)
    sealer = await world.sealer()
    await sealer.open()
    await sealer.step()
    assert sealer._keeping is not None
    await sealer._keeping
    sealer.close()
    monkeypatch.setattr(signer_map, "AT_LEAST", 1000)
    await fill(world, 2)
    await world.seal(await world.sealer())
    return world.settings.signer_dir / "0" / "map"


async def test_the_signer_begins_with_the_map_it_kept_and_goes_on_as_if_it_had_replayed_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await kept_map(world, monkeypatch)
    with_map = await world.sealer()
    await with_map.open()
    assert with_map.map_kept_at == 10
    with_map.close()
    file.unlink()
    without = await world.sealer()
    await without.open()
    assert without.map_kept_at == 0
    without.close()
    one, other = with_map._replica, without._replica
    assert (one.size, one.tree_root(), one.map.root()) == (other.size, other.tree_root(), other.map.root())
    assert (one.erased, one.recorded_at, one.last_map_root) == (other.erased, other.recorded_at, other.last_map_root)


@pytest.mark.parametrize("at", [0, 30, 40, 60, 80, 150, -1])
async def test_a_damaged_map_is_left_aside(world: World, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    file = await kept_map(world, monkeypatch)
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[at] ^= 1
    for content in (bytes(damaged), bytes(damaged[:-32]) + sha256(damaged[:-32]).digest()):
        if content == whole:
            continue  # only the digest was damaged, and it is mended
        file.write_bytes(content)
        sealer = await world.sealer()
        await sealer.open()
        assert (sealer.map_kept_at, sealer._replica.map.root()) == (0, await world.value("select map_root from head"))
        sealer.close()
