"""What anybody does with files, offline: verify one, hold two against each other. By the reader alone."""

from __future__ import annotations

from time import perf_counter

from services.ledger.reader.errors import Invalid
from services.ledger.reader.facts import contradictions
from services.ledger.reader.policy import Trusted
from services.ledger.reader.verify import verify
from tests.attacks.declared import Check, Notices


def hold(notices: Notices, check: Check, keys: Trusted, *files: bytes) -> None:
    """Hold two files against each other, as `consent-ledger verify A B` does; they must contradict each other."""
    began = perf_counter()
    found = _contradictions(keys, *files)
    seconds = perf_counter() - began
    assert found, "the two files do not contradict each other"
    words = notices.attack.noticed[check]
    notices.by(check, next((f"FRAUD {one}" for one in found if words in one), f"FRAUD {found[0]}"), seconds)


def agree(keys: Trusted, *files: bytes) -> bool:
    """Whether two files verify and nothing in one speaks against the other."""
    return not _contradictions(keys, *files)


def refuse(notices: Notices, check: Check, keys: Trusted, file: bytes) -> None:
    """Verify one file, as `consent-ledger verify` does; it must be refused."""
    began = perf_counter()
    try:
        verify(file, keys)
    except Invalid as error:
        notices.by(check, said(error), perf_counter() - began)
        return
    raise AssertionError("it was accepted")


def said(error: Invalid) -> str:
    """A refusal as the command prints it."""
    return f"INVALID: step {error.step}: {error.what} {error.why}"


def _contradictions(keys: Trusted, first: bytes, second: bytes) -> list[str]:
    reports = [verify(one, keys) for one in (first, second)]
    assert None not in reports, "one of them is no file of ours"
    one, other = (report.facts for report in reports if report is not None)
    return contradictions(one.with_those_of(other))
