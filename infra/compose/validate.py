"""Holds docker-compose.yml against the Compose specification's JSON Schema, without an engine and without a network.

The schema comes from the wheel pinned in requirements/compose.txt, unpacked beside the environment: its own program
wants another version of a package than ours does, and of the wheel only this one file is used.

    python -m infra.compose.validate SCHEMA FILE     (the same for docs/asyncapi.json and AsyncAPI's schema)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import yaml


def problems(schema: dict[str, Any], document: Any) -> list[str]:
    """What contradicts the specification, each with its place in the file."""
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    found = sorted(validator(schema).iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{'.'.join(map(str, error.absolute_path)) or 'the file'}: {error.message}" for error in found]


def main(schema: Path, file: Path) -> int:
    """Print what is wrong; exit status 1 if anything is."""
    found = problems(json.loads(schema.read_text("utf-8")), yaml.safe_load(file.read_text("utf-8")))
    for problem in found:
        print(f"{file}: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
