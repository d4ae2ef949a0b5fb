"""The evidence bundle that is attached to a printed document (PDF); the pages around it are not judged."""

import re
import zlib
from collections.abc import Iterator

from services.ledger.reader.archive import ARCHIVE_LIMIT

_PDF = b"%PDF-"
_ARCHIVE = b"PK\x03\x04"
_EMBEDDED = b"/EmbeddedFile"
_EMBEDDED_LIMIT = 16
_AROUND = 640
_ATTACHED = re.compile(rb"<<(?P<said>[^\x80-\xff]{0,600}?/Type ?/EmbeddedFile[^\x80-\xff]{0,600}?)>>\s{0,4}stream\r?\n")
_LENGTH = re.compile(rb"/Length ([1-9][0-9]{0,9})(?![0-9])")


def bundle_of(data: bytes) -> bytes:
    """The archive within a document of ours; anything else comes back as it is, and so does one with two of them: of
    those a program for documents would show one, and another would be judged here."""
    if not data.startswith(_PDF) or not 0 < data.count(_EMBEDDED) <= _EMBEDDED_LIMIT:
        return data
    archives = {content for content in _attached(data) if content.startswith(_ARCHIVE)}
    return archives.pop() if len(archives) == 1 else data


def _attached(data: bytes) -> Iterator[bytes]:
    at, behind = -1, 0
    while (at := data.find(_EMBEDDED, max(at + 1, behind))) >= 0:
        # Only around the word: over a whole file this pattern could take hours.
        found = _ATTACHED.search(data, max(behind, at - _AROUND), at + 2 * _AROUND)
        if found is None:
            continue
        behind = found.end()
        length = _LENGTH.search(found["said"])
        if length is None:
            continue
        content = data[found.end() : found.end() + int(length[1])]
        yield _inflated(content) if b"/FlateDecode" in found["said"] else content


def _inflated(data: bytes) -> bytes:
    """At most as long as a bundle is, and a little more, so that one that is too long is still seen to be."""
    try:
        return zlib.decompressobj().decompress(data, ARCHIVE_LIMIT + 1)
    except zlib.error:
        return b""
