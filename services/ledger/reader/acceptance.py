"""A signed acceptance, checked offline: what a collector said it holds, and what another file shows of that.

Format and meaning: docs/formats.md §17. An acceptance speaks before any log does, so it is its collector's word alone;
held against a receipt, a bundle or a proof it shows whether the log holds the same bytes.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from services.ledger.reader.archive import unpack
from services.ledger.reader.errors import Invalid
from services.ledger.reader.served import parse_notice_keys, verify_token
from services.ledger.reader.strict import Fields, decode_base64url, parse_json
from shared.clock import parse_rfc3339

FORMAT: Final = "consent-ledger/acceptance/1"
TYPE: Final = "consent-ledger-acceptance+jwt"
STEP: Final = "acceptance"

_WHAT: Final = "the acceptance"
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\s*\Z")
_LIMIT: Final = 64 * 1024
_STATEMENTS_LIMIT: Final = 256
_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What a collector signed for: statements by id, each with the SHA-256 of its bytes."""

    source: str
    accepted_at: str
    statements: dict[str, str]


def is_acceptance(data: bytes) -> bool:
    """Whether a file wants to be one: a compact JWS and nothing else."""
    return len(data) <= _LIMIT and _TOKEN.match(data) is not None


def verify_acceptance(data: bytes, notice_keys: bytes) -> Acceptance:
    """What the acceptance says, or Invalid unless one of the notice keys signed it."""
    keys = parse_notice_keys(STEP, notice_keys)
    claims = verify_token(STEP, keys, data.decode("ascii").strip(), TYPE, _WHAT)
    claims.exactly("accepted_at", "format", "source", "statements")
    if claims.text("format") != FORMAT:
        raise Invalid(STEP, _WHAT, "names another format")
    accepted_at = claims.text("accepted_at")
    try:
        parse_rfc3339(accepted_at)
    except ValueError:
        raise Invalid(STEP, _WHAT, "carries no time") from None
    statements: dict[str, str] = {}
    for one in claims.objects("statements", _STATEMENTS_LIMIT):
        name = one.exactly("id", "sha256").text("id")
        if not _ID.match(name) or name in statements:
            raise Invalid(STEP, _WHAT, "names a statement twice, or one that has no id")
        statements[name] = one.hash("sha256").hex()
    if not statements:
        raise Invalid(STEP, _WHAT, "names no statement")
    return Acceptance(claims.text("source"), accepted_at, statements)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What another file, which must have been verified, shows of an acceptance."""

    recorded: tuple[str, ...]
    altered: tuple[str, ...]
    """Recorded under the same id with other bytes: the two signatures contradict each other."""
    missing: tuple[str, ...]


def hold_against(acceptance: Acceptance, verified: bytes) -> Comparison:
    """Look for each accepted statement among those that a verified receipt, bundle or proof file holds."""
    held: dict[tuple[str, str], str] = {}
    for raw in _statements(verified):
        said = Fields(STEP, "a statement", parse_json(STEP, "a statement", raw))
        held[said.text("source"), said.text("id")] = hashlib.sha256(raw).hexdigest()
    found = {name: held.get((acceptance.source, name)) for name in acceptance.statements}
    return Comparison(
        recorded=tuple(name for name, digest in found.items() if digest == acceptance.statements[name]),
        altered=tuple(name for name, digest in found.items() if digest not in {None, acceptance.statements[name]}),
        missing=tuple(name for name, digest in found.items() if digest is None),
    )


def _statements(verified: bytes) -> Iterator[bytes]:
    if verified.startswith(b"PK"):
        for name, content in unpack(STEP, verified).items():
            if name.startswith("statements/"):
                yield from _within(parse_json(STEP, name, content))
    else:
        yield from _within(parse_json(STEP, "the file", verified))


def _within(value: Any) -> Iterator[bytes]:
    """Wherever a leaf stands beside a statement, these are the bytes that it commits to."""
    if isinstance(value, dict):
        if isinstance(value.get("statement"), str) and "leaf" in value:
            yield decode_base64url(STEP, "a statement", value["statement"])
        for inner in value.values():
            yield from _within(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _within(inner)
