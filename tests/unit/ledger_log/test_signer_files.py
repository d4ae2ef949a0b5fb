"""The signer's leaves and sizes: what was signed is there again, and nothing is read that need not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.ledger.signer_files import Signed, SignerFiles
from shared.errors import Corrupt

FIRST = b"\x02" + bytes(56)
LEAVES = [b"\x01" + bytes([number]) * 88 for number in range(3)]
ROOT = bytes(32)


def begun(directory: Path) -> Path:
    SignerFiles.create(directory, 0, FIRST, Signed(1, ROOT))
    return directory / "0"


def test_what_lies_behind_the_signed_end_is_gone_once_more_is_added(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    for name in ("leaves", "sizes"):
        with (folder / name).open("ab") as file:
            file.write(b"\x01" * 40)
    files = SignerFiles.open(tmp_path, 0)
    assert list(files.leaves()) == [FIRST]
    files.add(LEAVES[:2], Signed(3, ROOT))
    files.add(LEAVES[2:], Signed(4, ROOT))
    files.close()
    assert (folder / "leaves").read_bytes() == FIRST + b"".join(LEAVES)
    assert (folder / "sizes").read_bytes() == b"".join(Signed(size, ROOT).record() for size in (1, 3, 4))


def test_the_end_is_where_the_last_signed_leaf_ends_wherever_reading_began(tmp_path: Path) -> None:
    begun(tmp_path)
    files = SignerFiles.open(tmp_path, 0)
    files.add(LEAVES, Signed(4, ROOT))
    files.close()
    with (tmp_path / "0" / "leaves").open("ab") as file:
        file.write(LEAVES[0])
    for start, at in ((0, 0), (2, 57 + 89), (4, 57 + 3 * 89)):
        files = SignerFiles.open(tmp_path, 0)
        assert list(files.leaves(start, at)) == [FIRST, *LEAVES][start:]
        assert files.end == 57 + 3 * 89
        files.close()


def test_opening_reads_no_leaf(tmp_path: Path) -> None:
    """Or else a start would take the longer the older the log is."""
    folder = begun(tmp_path)
    (folder / "leaves").write_bytes(b"")
    files = SignerFiles.open(tmp_path, 0)
    with pytest.raises(Corrupt, match="fewer than were signed"):
        list(files.leaves())
    with pytest.raises(Corrupt, match="fewer than were signed"):
        files.add(LEAVES, Signed(4, ROOT))
    files.close()
    assert (folder / "leaves").read_bytes() == b""
