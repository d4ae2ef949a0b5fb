"""The evidence bundle that lies in a self-verifying page (docs/formats.md §18); the page around it is not judged."""

from base64 import b64decode, b64encode
from binascii import Error

BEGINS = b'<script id="bundle" type="application/zip">'
ENDS = b"</script>"

_PAGE = b"<!doctype html>"


def bundle_of(data: bytes) -> bytes:
    """The bundle within a page; anything else comes back as it is, and so does a page whose base64 is not canonical."""
    # Of two archives a browser would show one, and another would be judged here.
    single = data.startswith(_PAGE) and data.count(BEGINS) == 1
    _, begins, rest = data.partition(BEGINS) if single else (b"", b"", b"")
    encoded, ends, _ = rest.partition(ENDS)
    if not begins or not ends:
        return data
    try:
        raw = b64decode(encoded, validate=True)
    except Error:
        return data
    return raw if b64encode(raw) == encoded else data
