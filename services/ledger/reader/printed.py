"""The evidence bundle that is attached to a printed document (PDF); the pages around it are not judged."""

import re
import zlib

from services.ledger.reader.archive import ARCHIVE_LIMIT

_PDF = b"%PDF-"
_ARCHIVE = b"PK\x03\x04"
_ATTACHED = re.compile(rb"<<(?P<said>[^\x80-\xff]{0,600}?/Type ?/EmbeddedFile[^\x80-\xff]{0,600}?)>>\s{0,4}stream\r?\n")
_LENGTH = re.compile(rb"/Length ([1-9][0-9]{0,9})(?![0-9])")


def bundle_of(data: bytes) -> bytes:
    """The archive within a document of ours; anything else comes back as it is."""
    if data.startswith(_PDF):
        for found in _ATTACHED.finditer(data):
            length = _LENGTH.search(found["said"])
            content = b"" if length is None else data[found.end() : found.end() + int(length[1])]
            if b"/FlateDecode" in found["said"]:
                content = _inflated(content)
            if content.startswith(_ARCHIVE):
                return content
    return data


def _inflated(data: bytes) -> bytes:
    """At most as long as a bundle is, and a little more, so that one that is too long is still seen to be."""
    try:
        return zlib.decompressobj().decompress(data, ARCHIVE_LIMIT + 1)
    except zlib.error:
        return b""
