"""The canonical ZIP: other tools read it, and nothing but its one form is taken."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from services.ledger.reader import archive
from services.ledger.reader.archive import pack, unpack
from services.ledger.reader.errors import Invalid

FILES = {"b/two.json": b"{}\n", "a.txt": b"one", "b/one.bin": b"", "B.txt": bytes(range(256))}


def zipped(compression: int = zipfile.ZIP_STORED, **files: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive_:
        for name, content in files.items():
            archive_.writestr(name, content)
    return made.getvalue()


def test_what_is_packed_is_unpacked() -> None:
    assert unpack("1", pack(FILES)) == FILES


def test_other_tools_read_it_and_find_nothing_wrong() -> None:
    with zipfile.ZipFile(io.BytesIO(pack(FILES))) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == sorted(FILES)
        assert {name: opened.read(name) for name in opened.namelist()} == FILES
        assert {one.date_time for one in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {one.external_attr >> 16 for one in opened.infolist()} == {0o100644}


def test_the_order_in_which_files_are_given_changes_nothing() -> None:
    assert pack(FILES) == pack(dict(reversed(FILES.items())))


@pytest.mark.parametrize(
    "name", ["../up", "/absolute", "a/../b", "a//b", ".hidden", "a/.hidden", "back\\slash", "a b", "a/", "", "ä", "c:x"]
)
def test_a_name_that_could_lead_out_is_refused(name: str) -> None:
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, len(name.encode()), 0)
    with pytest.raises(Invalid, match="name"):
        unpack("1", local + name.encode())


def test_an_archive_of_another_tool_is_refused() -> None:
    with pytest.raises(Invalid, match="canonical"):
        unpack("1", zipped(**{"a.txt": b"one"}))


def test_a_compressed_archive_is_refused_without_being_unpacked() -> None:
    bomb = zipped(zipfile.ZIP_DEFLATED, **{"a.txt": bytes(64 * 1024 * 1024)})
    with pytest.raises(Invalid):
        unpack("1", bomb)


def test_a_file_that_claims_to_be_huge_is_refused() -> None:
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 2**32 - 1, 2**32 - 1, 1, 0)
    with pytest.raises(Invalid, match="longer"):
        unpack("1", local + b"a" + b"content")


def test_a_name_twice_is_refused() -> None:
    one = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    with pytest.raises(Invalid, match="twice"):
        unpack("1", one + one)


def test_more_files_than_a_bundle_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(FILES)
    monkeypatch.setattr(archive, "FILES_LIMIT", 3)
    with pytest.raises(Invalid, match="more than 3 files"):
        unpack("1", packed)


@pytest.mark.parametrize("extra", [b"\x00", b"PK\x05\x06", b"something behind"])
def test_nothing_may_stand_before_or_behind(extra: bytes) -> None:
    for data in (extra + pack(FILES), pack(FILES) + extra):
        with pytest.raises(Invalid):
            unpack("1", data)


def test_any_truncation_is_refused() -> None:
    packed = pack(FILES)
    for length in range(len(packed)):
        with pytest.raises(Invalid):
            unpack("1", packed[:length])


def test_an_archive_without_files_is_refused() -> None:
    with pytest.raises(Invalid, match="begin"):
        unpack("1", pack({}))
