"""The signer's replica from its own files: whatever map it begins with, it is what a replay of every leaf gives."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from struct import Struct

import pytest

from services.ledger import signer_map
from services.ledger.log.leaf import erasure_leaf, event_leaf, map_root_leaf
from services.ledger.reader.replica import Replica
from services.ledger.signer_files import Signed, SignerFiles
from shared.errors import Corrupt

LABELS = [sha256(bytes([number])).digest() for number in range(40)]
MAGIC = len(b"consent-ledger/signer-map/1\n")
NUMBERS = Struct(">QQQQQ")  # size, bytes of leaves, recorded_at, how many ended, how many labels
WORDS = [[LABELS[(7 * batch + number) % 40] for number in range(6)] for batch in range(20)]


def add(replica: Replica, leaves: list[bytes], leaf: bytes) -> None:
    replica.apply(leaf)
    leaves.append(leaf)


def end(replica: Replica) -> bytes:
    return map_root_leaf(replica.size, replica.map.root(), len(replica.map), replica.last_map_root + 1)


async def log(directory: Path, kept_after: int) -> tuple[Replica, int]:
    """A signed log with erasures, whose map was kept after so many batches (0: never); its replica, and that size."""
    replica, leaves, kept_at = Replica(), list[bytes](), 0
    add(replica, leaves, end(replica))
    SignerFiles.create(directory, 0, b"".join(leaves), Signed(1, replica.tree_root()))
    files = SignerFiles.open(directory, 0)
    for number, labels in enumerate(WORDS, 1):
        leaves = []
        for label in sorted(set(labels) - replica.erased):
            last = replica.map.last(label)
            version, previous = (1, 0) if last is None else (last[0] + 1, last[1] + 1)
            at = 1_800_000_000_000 + replica.size
            is_end = version > 2 and label[0] % 3 == 0
            add(
                replica,
                leaves,
                erasure_leaf(label, version, previous, at)
                if is_end
                else event_leaf(label, version, previous, bytes(32), at),
            )
        add(replica, leaves, end(replica))
        files.add(leaves, Signed(replica.size, replica.tree_root()))
        if number == kept_after:
            kept_at = replica.size
            await signer_map.begin(files.folder, replica, files.end)
    files.close()
    return replica, kept_at


def found(directory: Path) -> tuple[Replica, int]:
    files = SignerFiles.open(directory, 0)
    try:
        return signer_map.replica_of(files)
    finally:
        files.close()


def state(replica: Replica) -> tuple[object, ...]:
    return (
        replica.size,
        replica.perfect,
        list(replica.map.records()),
        replica.map.root(),
        replica.erased,
        replica.recorded_at,
        replica.last_map_root,
    )


@pytest.mark.parametrize("kept_after", [0, 1, 9, 19, 20])
async def test_the_replica_is_the_same_wherever_it_begins(tmp_path: Path, kept_after: int) -> None:
    expected, kept_at = await log(tmp_path, kept_after)
    assert expected.erased
    replica, begun_at = found(tmp_path)
    assert (begun_at, state(replica)) == (kept_at, state(expected))
    assert replica.apply(end(replica))


@pytest.mark.parametrize("kept_after", [9, 20])
async def test_no_map_that_says_something_else_is_believed(tmp_path: Path, kept_after: int) -> None:
    """Even if its digest is right: all but what it says has ended, and when last somebody spoke, follows from roots."""
    expected, _ = await log(tmp_path, kept_after)
    file = tmp_path / "0" / "map"
    whole = file.read_bytes()
    size, _, _, ended, _ = NUMBERS.unpack_from(whole, MAGIC)
    roots = MAGIC + NUMBERS.size
    labels = roots + 32 * size.bit_count()
    records = labels + 32 * ended
    numbers = [MAGIC + 8 * number + 7 for number in (0, 1, 3, 4)]
    # A record that was said anew behind the map matters no more.
    in_records = range(records, records + 80, 9) if kept_after == 20 else ()
    for at in (0, *numbers, roots, labels - 1, *in_records):
        damaged = bytearray(whole[:-32])
        damaged[at] ^= 1
        file.write_bytes(damaged + sha256(damaged).digest())
        replica, begun_at = found(tmp_path)
        assert (begun_at, state(replica)) == (0, state(expected)), at
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert found(tmp_path)[1] == 0


@pytest.mark.parametrize("kept_after", [0, 9])
async def test_leaves_that_are_not_those_that_were_signed_are_corrupt(tmp_path: Path, kept_after: int) -> None:
    await log(tmp_path, kept_after)
    file = tmp_path / "0" / "leaves"
    whole = file.read_bytes()
    # The last but one words, behind any map: their commitments.
    for at in (len(whole) - 57 - 89 + 60, len(whole) - 57 - 2 * 89 + 60, len(whole) - 20):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(Corrupt, match="the signer's files"):
            found(tmp_path)
    file.write_bytes(whole[:-1])
    with pytest.raises(Corrupt, match="fewer than were signed"):
        found(tmp_path)
