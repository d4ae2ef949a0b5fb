"""Fetches the AsyncAPI specification's JSON Schema, from the package that its own tools read it from.

python -m infra.asyncapi FILE     the package is pinned by its SHA-256; a mirror's address is in NPM_CONFIG_REGISTRY
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

REGISTRY: Final = "https://registry.npmjs.org"
PACKAGE: Final = "@asyncapi/specs/-/specs-6.11.1.tgz"
SHA256: Final = "01af8744dc33c0c7eb2e908f6a955319ee58b70ecadc9387d1aeb16c0cd28928"
SCHEMA: Final = "package/schemas/3.0.0-without-$id.json"
ATTEMPTS: Final = 3


def fetched(registry: str) -> bytes:
    """The package's bytes; OSError if they cannot be had, ValueError if they are others."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(f"{registry.rstrip('/')}/{PACKAGE}", timeout=15) as answer:
                content: bytes = answer.read()
        except OSError:
            if attempt == ATTEMPTS:
                raise
        else:
            break
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError("it is not the package that is pinned")
    return content


def unpacked(package: bytes) -> bytes:
    """The schema in it."""
    with tarfile.open(fileobj=io.BytesIO(package)) as files:
        schema = files.extractfile(SCHEMA)
        if schema is None:
            raise ValueError(f"it has no {SCHEMA}")
        return schema.read()


def main(file: Path) -> int:
    """Put the schema there; exit status 1 if it cannot be had."""
    # npm itself takes the name in capitals as in small letters.
    registry = {name.upper(): value for name, value in os.environ.items()}.get("NPM_CONFIG_REGISTRY") or REGISTRY
    try:
        content = unpacked(fetched(registry))
    except (OSError, ValueError) as error:
        where = f"{PACKAGE} could not be fetched from {registry} ({error})"
        print(f"{where}; a mirror's address goes into NPM_CONFIG_REGISTRY", file=sys.stderr)
        return 1
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".new")
    draft.write_bytes(content)
    draft.replace(file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
