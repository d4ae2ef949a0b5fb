"""`consent-ledger verify`: whether a file is a true receipt or evidence bundle, by file and key alone, offline."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TextIO

from services.ledger.reader import evidence, receipt
from services.ledger.reader.archive import ARCHIVE_LIMIT
from services.ledger.reader.errors import Invalid
from services.ledger.reader.evidence import Bundle, Finding
from services.ledger.reader.policy import POLICY_LIMIT, Policy, Trusted, parse_log_keys, parse_policy
from services.ledger.reader.receipt import Receipt
from services.ledger.reader.strict import parse_json

VALID: Final = 0
INVALID: Final = 1
NEITHER: Final = 2

_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
_RECEIPT_MARKS: Final = (b"c2sp.org/tlog-proof@v1", b'"opening"')
_RECEIPT_MEMBERS: Final = frozenset({"leaf", "proof", "statement"})

Kind = Literal["receipt", "evidence bundle"]


@dataclass(frozen=True, slots=True)
class Report:
    """What a file that verified has shown."""

    kind: Kind
    findings: tuple[Finding, ...]
    conclusion: str
    signed_by: str
    """The verifier key under which all this holds."""


def kind_of(data: bytes) -> Kind | None:
    """What a file wants to be, damaged or not; None if it is neither."""
    # One flipped bit must not turn a bundle or receipt into a file that is none of our business.
    if evidence.FORMAT.encode() in data and (data.startswith(_ZIP) or b"PK\x01\x02" in data):
        return "evidence bundle"
    if receipt.FORMAT.encode() in data or all(mark in data for mark in _RECEIPT_MARKS):
        return "receipt"
    try:
        value = parse_json("1", "the file", data[: receipt.RECEIPT_LIMIT])
    except Invalid:
        return None
    return "receipt" if isinstance(value, dict) and set(value) >= _RECEIPT_MEMBERS else None


def verify(data: bytes, vkey: Trusted) -> Report | None:
    """Check a receipt or a bundle; None if it is neither, Invalid (its `step` names the check) if it does not hold.

    `vkey` is the log's key, or a policy, which may bring several keys, and witnesses. Without it everything is checked
    under the key the file brings along: whose that is remains to be asked.
    """
    kind = kind_of(data)
    if kind is None:
        return None
    checked = Receipt(data, vkey) if kind == "receipt" else Bundle(data, vkey)
    try:
        checked.verify()
    except Invalid:
        raise
    except Exception as error:
        # Nothing we know of ends here; whatever does was caused by the file, and a verifier says no to it.
        raise Invalid(UNEXPECTED, "the file", f"cannot be understood ({type(error).__name__})") from error
    return Report(kind, tuple(checked.findings), checked.conclusion, checked.signed_by)


UNEXPECTED: Final = "unexpected"


def main(file: Path, vkey: Path | None, policy: Path | None = None) -> int:
    """Verify a file and print what each step has shown; the exit status."""
    try:
        data = _read(file, ARCHIVE_LIMIT)
    except OSError as error:
        return _complain(f"cannot read the file: {error.strerror or type(error).__name__}")
    try:
        trusted = _trusted(vkey, policy)
    except OSError as error:
        return _complain(f"cannot read the verifier key, or the policy: {error.strerror or type(error).__name__}")
    except Invalid as error:
        what = "policy" if policy is not None and vkey is None else "verifier key"
        return _complain(f"the {what} given is none: {error}")
    kind = kind_of(data)
    try:
        report = verify(data, trusted)
    except Invalid as error:
        return _say(INVALID, f"INVALID {kind}: step {error.step}: {error.what} {error.why}")
    if report is None:
        return _complain("this is neither a receipt nor an evidence bundle of Consent Ledger")
    for finding in report.findings:
        _print(f" {finding.step}  {finding.text}")
    if trusted is None or not trusted.logs:
        _print(f"signed by  {report.signed_by}")
        return _say(
            INVALID,
            "everything else holds, but whose key signed it is not settled: "
            "compare it yourself with the log's key from a source you trust, and give it with --vkey",
        )
    return _say(VALID, f"VALID {report.kind}: {report.conclusion}")


def _read(file: Path, limit: int) -> bytes:
    with file.open("rb") as opened:
        # One byte more than we take shows that there is more.
        return opened.read(limit + 1)


def _trusted(vkey: Path | None, policy: Path | None) -> Policy | None:
    """What was given on the command line: the policy, for the logs of the key file if there is one."""
    keys = None if vkey is None else parse_log_keys(_read(vkey, POLICY_LIMIT))
    if policy is None:
        return keys
    given = parse_policy(_read(policy, POLICY_LIMIT))
    return given if keys is None else given.for_logs(keys.logs)


def _say(status: int, text: str) -> int:
    _print(text)
    return status


def _complain(text: str) -> int:
    """Nothing was judged: the call, or the file, makes no sense."""
    _print(f"consent-ledger: {text}", sys.stderr)
    return NEITHER


def _print(text: str, stream: TextIO | None = None) -> None:
    # A terminal that cannot show a character must not end a verification.
    stream = stream or sys.stdout
    encoding = stream.encoding or "ascii"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
