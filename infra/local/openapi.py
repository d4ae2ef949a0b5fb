"""Writes docs/openapi: each service's own document, asked from a running installation."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Final

from infra.local.installation import READY, Installation
from infra.local.state import LOCAL, free_slot

DOCUMENTS: Final = Path(__file__).parents[2] / "docs/openapi"


def as_file(document: object) -> str:
    """A document as it is committed."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    with free_slot(LOCAL / "openapi", "writing docs/openapi") as state:
        state.empty()
        installation = Installation(state.folder)
        try:
            installation.prepare()
            # What they say of themselves they say without anybody else.
            installation.open_doors()
            for service in READY:
                request = urllib.request.Request(
                    f"{installation.base_url}/{service}/openapi.json",
                    headers={"Authorization": f"Bearer {installation.secrets.credential('operator')}"},
                )
                with urllib.request.urlopen(request) as answer:
                    (DOCUMENTS / f"{service}.json").write_text(as_file(json.load(answer)), "utf-8")
        finally:
            installation.stop()


if __name__ == "__main__":
    main()
