"""Canonical JSON of the register, so that anyone can re-hash a snapshot with a hash function alone.

UTF-8, keys sorted, no white space; only objects, arrays, strings, booleans and integers occur. For such values and
ASCII keys this is what RFC 8785 prescribes.
"""

import json
from collections.abc import Mapping

from shared.register.errors import Problem


def canonical_json(value: object) -> bytes:
    """Return the one canonical form of plain data."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def unfit(file: str, value: object, where: str = "") -> Problem | None:
    """Return what in a parsed file has no canonical form, if anything: TOML's dates, times and fractions."""
    if isinstance(value, Mapping):
        found = (unfit(file, item, f"{where}.{key}" if where else key) for key, item in value.items())
        return next(filter(None, found), None)
    if isinstance(value, list):
        found = (unfit(file, item, f"{where}[{number}]") for number, item in enumerate(value))
        return next(filter(None, found), None)
    if isinstance(value, str | bool | int):
        return None
    return Problem(file, where, f"a {type(value).__name__} has no canonical form", "write it as a string in quotes")
