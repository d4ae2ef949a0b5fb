"""The canonical ZIP of an evidence bundle: one set of files, one sequence of bytes (docs/formats.md §18).

Read from the front, header by header, and never by its directory: nothing is unpacked that another tool could see
differently. Nothing is compressed, so no archive is bigger inside than outside.
"""

import re
import struct
from binascii import crc32
from collections.abc import Mapping

from services.ledger.reader.errors import Invalid

FILES_LIMIT = 4096
FILE_LIMIT = 16 * 1024 * 1024
ARCHIVE_LIMIT = 256 * 1024 * 1024
NAME_LIMIT = 120

# Letters, digits, dot, dash and underscore between slashes; no part begins with a dot, so none leads out.
_NAME = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*\Z")

_VERSION = 20  # 2.0: folders in names
_MADE_BY = 3 << 8 | _VERSION  # Unix
_DATE = 1 << 5 | 1  # 1 January 1980
_ATTRIBUTES = 0o100644 << 16  # a plain file

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MARK = b"PK\x03\x04"
_CENTRAL_MARK = b"PK\x01\x02"
_END_MARK = b"PK\x05\x06"


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the one archive of these files: stored, sorted by name, fixed time and attributes, no extra fields."""
    parts: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for encoded, content in sorted((name.encode("ascii"), content) for name, content in files.items()):
        check, size = crc32(content), len(content)
        head = _LOCAL.pack(_LOCAL_MARK, _VERSION, 0, 0, 0, _DATE, check, size, size, len(encoded), 0) + encoded
        directory.append(
            _CENTRAL.pack(
                _CENTRAL_MARK, _MADE_BY, _VERSION, 0, 0, 0, _DATE, check, size, size, len(encoded), 0, 0, 0, 0,
                _ATTRIBUTES, offset,
            )
            + encoded
        )  # fmt: skip
        parts += [head, content]
        offset += len(head) + size
    listed = b"".join(directory)
    end = _END.pack(_END_MARK, 0, 0, len(directory), len(directory), len(listed), offset, 0)
    return b"".join([*parts, listed, end])


def unpack(step: str, data: bytes) -> dict[str, bytes]:
    """Return the files by name, or raise Invalid if this is not, byte for byte, what `pack` makes of them."""
    if len(data) > ARCHIVE_LIMIT:
        raise Invalid(step, "the archive", f"is longer than {ARCHIVE_LIMIT} bytes")
    files: dict[str, bytes] = {}
    at = 0
    while data[at : at + 4] == _LOCAL_MARK:
        if len(files) == FILES_LIMIT:
            raise Invalid(step, "the archive", f"has more than {FILES_LIMIT} files")
        name, content, at = _next(step, data, at)
        if name in files:
            raise Invalid(step, "the archive", "has a name twice")
        files[name] = content
    if not files:
        raise Invalid(step, "the archive", "does not begin with a file")
    # All that was not looked at above (order, versions, flags, times, checksums, directory, end) is compared here.
    if pack(files) != data:
        raise Invalid(step, "the archive", "is not canonical: packed anew its files give other bytes")
    return files


def _next(step: str, data: bytes, at: int) -> tuple[str, bytes, int]:
    """Name and content of the file whose header begins at `at`, and where it ends."""
    start = at + _LOCAL.size
    if len(data) < start:
        raise Invalid(step, "the archive", "ends inside a header")
    *_, check, _size, size, name_size, _extra = _LOCAL.unpack_from(data, at)
    if size > FILE_LIMIT:
        raise Invalid(step, "a file of the archive", f"is longer than {FILE_LIMIT} bytes")
    end = start + name_size + size
    if len(data) < end:
        raise Invalid(step, "the archive", "ends inside a file")
    encoded = data[start : start + name_size]
    if name_size > NAME_LIMIT or not _NAME.match(encoded):
        raise Invalid(step, "a name in the archive", "is not one a bundle has")
    name, content = encoded.decode("ascii"), data[start + name_size : end]
    if crc32(content) != check:
        raise Invalid(step, f"the file {name}", "is damaged: its checksum is another one")
    return name, content, end
