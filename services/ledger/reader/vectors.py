"""Run a file of RFC 9162 proof cases through our verifier (docs/formats.md §19)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import HASH_SIZE, verify_consistency, verify_inclusion
from services.ledger.reader.note import decode_base64

FILE_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class VectorRun:
    """What came out of one file."""

    cases: int
    disagreements: tuple[str, ...]
    """One sentence for each case whose outcome is not the wanted one."""
    refused_for_length: tuple[str, ...]
    """Cases that we refuse knowingly: equal sizes with equal roots that are no SHA-256 hashes."""

    def __str__(self) -> str:
        counts = f"{self.cases} cases, {len(self.disagreements)} disagreements"
        if self.refused_for_length:
            counts += f", {len(self.refused_for_length)} refused because a root of SHA-256 has {HASH_SIZE} bytes"
        return "\n".join([*self.disagreements, *self.refused_for_length, counts])


def run_vectors(path: Path) -> VectorRun:
    """Run every case of the file; raise Invalid if it is no such file."""
    inclusion, consistency = _read(path)
    disagreements: list[str] = []
    refused_for_length: list[str] = []
    for kind, cases, run in (("inclusion", inclusion, _inclusion), ("consistency", consistency, _consistency)):
        for position, case in enumerate(cases):
            name = f"{kind} {case.get('case', position)}" if isinstance(case, dict) else f"{kind} {position}"
            try:
                reason = run(_Fields(case))
                wants_refusal = _Fields(case).flag("wantErr")
            except _NotACaseError as error:
                disagreements.append(f"{name}: {error}")
                continue
            if wants_refusal and reason is None:
                disagreements.append(f"{name}: accepted, but a verifier must refuse it")
            elif not wants_refusal and reason is not None:
                if kind == "consistency" and _roots_are_never_looked_at(_Fields(case)):
                    refused_for_length.append(f"{name}: {reason}")
                else:
                    disagreements.append(f"{name}: refused ({reason}), but a verifier must accept it")
    return VectorRun(len(inclusion) + len(consistency), tuple(disagreements), tuple(refused_for_length))


class _NotACaseError(Exception):
    """A case that does not have the layout."""


class _Fields:
    """Typed access to one case."""

    def __init__(self, case: object) -> None:
        if not isinstance(case, dict):
            raise _NotACaseError("is no JSON object")
        self._case: Mapping[str, object] = case

    def number(self, name: str) -> int:
        value = self._case.get(name)
        if type(value) is not int:
            raise _NotACaseError(f"{name} is no integer")
        return value

    def flag(self, name: str) -> bool:
        value = self._case.get(name)
        if not isinstance(value, bool):
            raise _NotACaseError(f"{name} is neither true nor false")
        return value

    def base64(self, name: str) -> bytes:
        return self._decode(name, self._case.get(name))

    def proof(self) -> list[bytes]:
        value = self._case.get("proof")
        if value is None:
            return []
        if not isinstance(value, list):
            raise _NotACaseError("proof is no array")
        return [self._decode("proof", one) for one in value]

    @staticmethod
    def _decode(name: str, value: object) -> bytes:
        if not isinstance(value, str):
            raise _NotACaseError(f"{name} is no base64")
        try:
            return decode_base64("vectors", name, value)
        except Invalid:
            raise _NotACaseError(f"{name} is no base64") from None


def _read(path: Path) -> tuple[list[object], list[object]]:
    if path.stat().st_size > FILE_LIMIT:
        raise Invalid("vectors", "the file", f"is longer than {FILE_LIMIT} bytes")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise Invalid("vectors", "the file", "is not JSON") from None
    if not isinstance(content, dict):
        raise Invalid("vectors", "the file", "is no JSON object")
    inclusion, consistency = content.get("inclusion"), content.get("consistency")
    if not isinstance(inclusion, list) or not isinstance(consistency, list):
        raise Invalid("vectors", "the file", "has no arrays named inclusion and consistency")
    if not inclusion and not consistency:
        # Nothing run is nothing shown, and must not look like success.
        raise Invalid("vectors", "the file", "has no cases")
    return inclusion, consistency


def _inclusion(case: _Fields) -> Invalid | None:
    one, root, proof = case.base64("leafHash"), case.base64("root"), case.proof()
    index, size = case.number("leafIdx"), case.number("treeSize")
    return _refusal(lambda: verify_inclusion(one, index, size, proof, root))


def _consistency(case: _Fields) -> Invalid | None:
    old_root, new_root, proof = case.base64("root1"), case.base64("root2"), case.proof()
    old, new = case.number("size1"), case.number("size2")
    return _refusal(lambda: verify_consistency(old, new, proof, old_root, new_root))


def _refusal(verify: Callable[[], None]) -> Invalid | None:
    try:
        verify()
    except Invalid as error:
        return error
    return None


def _roots_are_never_looked_at(case: _Fields) -> bool:
    """Whether a case comes down to comparing two equal strings of a length that no root can have."""
    root = case.base64("root1")
    same = case.number("size1") == case.number("size2") > 0 and root == case.base64("root2") and not case.proof()
    return same and len(root) != HASH_SIZE
