"""A forger who knows the format: whatever he changes, he mends the manifest and packs the archive anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from services.ledger.evidence.bundle import files_of
from services.ledger.reader.archive import pack
from services.ledger.reader.evidence import MANIFEST
from services.ledger.reader.strict import canonical_json
from services.ledger.reader.verify import Report, verify
from tests.opt_in import OptIn

Files = dict[str, bytes]


def mended(files: Files, **manifest: str) -> bytes:
    """The archive of these files with a manifest that names their hashes."""
    said = json.loads(files[MANIFEST]) | manifest
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != MANIFEST}
    return pack({**files, MANIFEST: canonical_json(said | {"files": hashes})})


def with_json(files: Files, name: str, change: Callable[[Any], Any]) -> Files:
    """The files with one JSON file changed."""
    value = json.loads(files[name])
    changed = change(value)
    return {**files, name: canonical_json(value if changed is None else changed)}


def named(files: Files, prefix: str) -> str:
    """The first file whose name begins so."""
    return min(name for name in files if name.startswith(prefix))


def report_of(opt_in: OptIn) -> Report:
    """What the bundle of a story shows; raises Invalid."""
    report = verify(mended(files_of(opt_in.material)), opt_in.world.signer.vkey)
    assert report is not None
    return report
