"""The wrapped keys beside the signer's leaves: what was added is there, what was torn is not, what is old can go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from services.ledger.key_file import Key, KeyFile, indexes_of_new, kept_keys
from services.ledger.log.leaf import erasure_leaf, event_leaf, map_root_leaf
from shared.errors import Corrupt


def wrapped(kek: int, fill: int) -> bytes:
    return kek.to_bytes(4, "big") + bytes([fill]) * 60


ANN, BOB = "0.019aae02-a400-7d2e-8a41-6f0c2b9d7e35", "0.system"


async def living(*keys: Key) -> AsyncIterator[Sequence[Key]]:
    for key in keys:
        yield [key]


async def begun(folder: Path, *keys: Key) -> KeyFile:
    (folder / "0").mkdir()
    file = KeyFile.open(folder / "0")
    assert not file.exists
    await file.write(living(*keys))
    return file


def oldest_kek(folder: Path) -> int:
    file = KeyFile.open(folder / "0")
    file.close()
    return file.oldest_kek


async def test_of_a_subject_the_last_record_counts(tmp_path: Path) -> None:
    file = await begun(tmp_path, (ANN, wrapped(1, 1)))
    file.add([(BOB, wrapped(1, 2))])
    file.add([(ANN, wrapped(2, 3))])
    file.add([])
    file.close()
    assert kept_keys(tmp_path, 0) == {ANN: wrapped(2, 3), BOB: wrapped(1, 2)}
    assert oldest_kek(tmp_path) == 1


def test_where_there_is_no_file_there_is_no_key(tmp_path: Path) -> None:
    assert kept_keys(tmp_path, 0) == {}


async def test_what_a_crash_tore_is_cut_off_and_added_again(tmp_path: Path) -> None:
    file = await begun(tmp_path, (ANN, wrapped(1, 1)))
    file.close()
    path = tmp_path / "0" / "keys"
    whole = path.read_bytes()
    for torn in range(1, len(whole)):
        path.write_bytes(whole + whole[:torn])
        assert kept_keys(tmp_path, 0) == {ANN: wrapped(1, 1)}
        KeyFile.open(tmp_path / "0").close()
        assert path.read_bytes() == whole
    file = KeyFile.open(tmp_path / "0")
    file.add([(BOB, wrapped(1, 2))])
    file.close()
    assert kept_keys(tmp_path, 0) == {ANN: wrapped(1, 1), BOB: wrapped(1, 2)}


async def test_a_record_that_was_altered_before_the_end_is_not_passed_over(tmp_path: Path) -> None:
    file = await begun(tmp_path, (ANN, wrapped(1, 1)), (BOB, wrapped(1, 2)))
    file.close()
    path = tmp_path / "0" / "keys"
    whole = path.read_bytes()
    for place in (0, 1, 60, 100):
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(Corrupt, match="the signer's keys"):
            kept_keys(tmp_path, 0)
        with pytest.raises(Corrupt, match="the signer's keys"):
            KeyFile.open(tmp_path / "0")


async def test_written_anew_it_holds_what_lives_and_what_came_meanwhile(tmp_path: Path) -> None:
    file = await begun(tmp_path, (ANN, wrapped(1, 1)), (BOB, wrapped(1, 2)))

    async def rewrapped() -> AsyncIterator[Sequence[Key]]:
        yield [(BOB, wrapped(2, 4))]
        file.add([("0.new", wrapped(2, 5))])

    await file.write(rewrapped())
    file.add([("0.newer", wrapped(2, 6))])
    file.close()
    expected = {BOB: wrapped(2, 4), "0.new": wrapped(2, 5), "0.newer": wrapped(2, 6)}
    assert kept_keys(tmp_path, 0) == expected
    assert wrapped(1, 1)[4:] not in (tmp_path / "0" / "keys").read_bytes()
    assert oldest_kek(tmp_path) == 2


async def test_if_writing_it_anew_fails_the_old_one_stays_and_goes_on(tmp_path: Path) -> None:
    file = await begun(tmp_path, (ANN, wrapped(1, 1)))

    async def fails() -> AsyncIterator[Sequence[Key]]:
        yield [(BOB, wrapped(2, 4))]
        raise Corrupt("subject_key", "somewhere")

    with pytest.raises(Corrupt):
        await file.write(fails())
    file.add([(BOB, wrapped(1, 2))])
    file.close()
    assert kept_keys(tmp_path, 0) == {ANN: wrapped(1, 1), BOB: wrapped(1, 2)}


def test_only_a_label_s_first_word_may_be_of_somebody_new() -> None:
    label, zero = bytes([7]) * 32, bytes(32)
    leaves = [
        event_leaf(label, 1, 0, zero, 1),
        event_leaf(label, 2, 6, zero, 1),
        erasure_leaf(label, 1, 7, 1),
        map_root_leaf(8, zero, 1, 5),
        event_leaf(label, 257, 9, zero, 1),
    ]
    assert indexes_of_new(5, leaves) == [5]
