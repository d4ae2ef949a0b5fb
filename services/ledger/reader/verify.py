"""`consent-ledger verify`: whether a file proves what it says, and whether two files can both be true; offline."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Protocol, TextIO, TypeGuard

from services.ledger.reader import evidence, handover, page, printed, proof_file, receipt, timestamp
from services.ledger.reader.acceptance import Acceptance, hold_against, is_acceptance, verify_acceptance
from services.ledger.reader.archive import ARCHIVE_LIMIT
from services.ledger.reader.authority import AUTHORITY_LIMIT, parse_authority
from services.ledger.reader.errors import Invalid
from services.ledger.reader.evidence import Bundle
from services.ledger.reader.facts import Facts, contradictions
from services.ledger.reader.finding import Finding
from services.ledger.reader.handover import Handover
from services.ledger.reader.note import NOTE_LIMIT
from services.ledger.reader.policy import (
    POLICY_LIMIT,
    LogKey,
    Policy,
    Trusted,
    parse_log_keys,
    parse_policy,
)
from services.ledger.reader.proof_file import ProofFile
from services.ledger.reader.receipt import Receipt
from services.ledger.reader.strict import parse_json
from services.ledger.reader.timestamp import TimestampFile

VALID: Final = 0
INVALID: Final = 1
NEITHER: Final = 2

_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
_NOTE: Final = "\n\n\u2014 ".encode()
_CHECKPOINT_LINES: Final = 3

Kind = Literal["receipt", "evidence bundle", "proof", "timestamp", "handover", "checkpoint"]

# One flipped bit must not turn a file of ours into one that is none of our business: what names the format may be
# damaged, or what is in it.
_FORMATS: Final[Mapping[Kind, str]] = {
    "receipt": receipt.FORMAT,
    "proof": proof_file.FORMAT,
    "timestamp": timestamp.FORMAT,
    "handover": handover.FIRST_LINE,
}
_MARKS: Final[Mapping[Kind, tuple[tuple[bytes, ...], ...]]] = {
    "receipt": ((b"c2sp.org/tlog-proof@v1", b'"opening"'),),
    "proof": ((b'"label_key"', b'"words"'), (b'"map_root"', b'"words"'), (b'"old"', b'"fresh_vkey"')),
    "timestamp": ((b'"answer"', b'"checkpoint"'),),
    "handover": (),
}
_MEMBERS: Final[Mapping[Kind, frozenset[str]]] = {
    "receipt": frozenset({"leaf", "proof", "statement"}),
    "proof": frozenset({"checkpoint", "kind"}),
    "timestamp": frozenset({"checkpoint", "answer"}),
}


class Checked(Protocol):
    """One file on its way through its steps."""

    findings: list[Finding]
    signed_by: str

    @property
    def conclusion(self) -> str: ...
    @property
    def facts(self) -> Facts: ...
    def verify(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Report:
    """What a file that verified has shown."""

    kind: Kind
    findings: tuple[Finding, ...]
    conclusion: str
    signed_by: str
    """The verifier key under which all this holds."""
    facts: Facts
    """What can be held against another file."""


@dataclass
class BareCheckpoint:
    """A checkpoint by itself: that it was signed is all it shows, and it brings no key along."""

    data: bytes
    vkey: Trusted
    findings: list[Finding] = field(default_factory=list)
    signed_by: str = ""
    conclusion: str = ""
    facts: Facts = field(init=False)

    def verify(self) -> None:
        """Invalid unless one of the given keys has signed it."""
        given = Policy((LogKey(self.vkey),)) if isinstance(self.vkey, str) else self.vkey
        if not _names_logs(given):
            raise Invalid("1", "the checkpoint", "names no key: give the log's with --vkey")
        shown = given.verify(self.data)
        checkpoint = shown.checkpoint
        self.signed_by = shown.signed_by
        self.facts = Facts(checkpoint.origin, shown.signed_by)
        self.facts.add_checkpoint(checkpoint)
        self.conclusion = (
            f"{checkpoint.origin} had {checkpoint.size} leaves under the root {checkpoint.root.hex()}"
            f"{shown.cosigners()}"
        )


def _names_logs(trusted: Policy | None) -> TypeGuard[Policy]:
    return trusted is not None and bool(trusted.logs)


def enclosed(data: bytes) -> bytes:
    """The bundle within a page or a printed document, which themselves are not judged; all else as it is."""
    return printed.bundle_of(page.bundle_of(data))


def kind_of(data: bytes) -> Kind | None:
    """What a file wants to be, damaged or not; None if it is none of ours."""
    if evidence.FORMAT.encode() in data and (data.startswith(_ZIP) or b"PK\x01\x02" in data):
        return "evidence bundle"
    for kind, name in _FORMATS.items():
        if name.encode() in data or any(all(mark in data for mark in marks) for marks in _MARKS[kind]):
            return kind
    text, note, _ = data[:NOTE_LIMIT].partition(_NOTE)
    if note and text.count(b"\n") == _CHECKPOINT_LINES - 1:
        return "checkpoint"
    try:
        value = parse_json("1", "the file", data[: receipt.RECEIPT_LIMIT])
    except Invalid:
        return None
    if not isinstance(value, dict):
        return None
    return next((kind for kind, members in _MEMBERS.items() if set(value) >= members), None)


_CHECKS: Final[Mapping[Kind, Callable[[bytes, Trusted], Checked]]] = {
    "receipt": Receipt,
    "evidence bundle": Bundle,
    "proof": ProofFile,
    "timestamp": TimestampFile,
    "handover": Handover,
    "checkpoint": BareCheckpoint,
}


def verify(data: bytes, vkey: Trusted) -> Report | None:
    """Check a receipt, a bundle or a proof; None if it is none, Invalid (its `step` names the check) if it is false.

    `vkey` is the log's key, or a policy, which may bring several keys, and witnesses. Without it everything is checked
    under the key the file brings along: whose that is remains to be asked.
    """
    kind = kind_of(data)
    if kind is None:
        return None
    checked = _CHECKS[kind](data, vkey)
    try:
        checked.verify()
        return Report(kind, tuple(checked.findings), checked.conclusion, checked.signed_by, checked.facts)
    except Invalid:
        raise
    except Exception as error:
        # Nothing we know of ends here; whatever does was caused by the file, and a verifier says no to it.
        raise Invalid(UNEXPECTED, "the file", f"cannot be understood ({type(error).__name__})") from error


UNEXPECTED: Final = "unexpected"


def main(
    file: Path,
    vkey: Path | None,
    policy: Path | None = None,
    other: Path | None = None,
    authority: Path | None = None,
    notice_keys: Path | None = None,
) -> int:
    """Verify a file, or two and what they say of each other, and print what each step has shown; the exit status."""
    try:
        trusted = _trusted(vkey, policy, authority)
        if (found := _acceptance_among(file, other)) is not None:
            return _acceptance(*found, notice_keys, trusted)
        if other is None:
            report = _report("", enclosed(_read(file, 2 * ARCHIVE_LIMIT)), trusted)
            for finding in report.findings:
                _print(f" {finding.step}  {finding.text}")
            status, last, signed_by = VALID, f"VALID {report.kind}: {report.conclusion}", {report.signed_by}
        else:
            both = [
                _report(f"{path.name}: ", enclosed(_read(path, 2 * ARCHIVE_LIMIT)), trusted) for path in (file, other)
            ]
            for path, report in zip((file, other), both, strict=True):
                _print(f"{path.name}: {report.kind}: {report.conclusion}")
            status, last = _compare(*both, settled=_names_logs(trusted))
            signed_by = {report.signed_by for report in both}
    except _Unreadable as error:
        return _complain(str(error))
    except Invalid as error:
        return _say(INVALID, error.what)
    if _names_logs(trusted):
        return _say(status, last)
    for one in sorted(signed_by):
        _print(f"signed by  {one}")
    if status != VALID:
        _print(last)
    return _say(
        INVALID,
        "everything else holds, but whose key signed it is not settled: "
        "compare it yourself with the log's key from a source you trust, and give it with --vkey",
    )


def _acceptance_among(file: Path, other: Path | None) -> tuple[bytes, Path | None] | None:
    """The acceptance, and what stands beside it; None if neither file is one."""
    for one, beside in ((file, other), (other, file)):
        if one is not None and is_acceptance(data := _read(one, 2 * ARCHIVE_LIMIT)):
            return data, beside
    return None


def _acceptance(data: bytes, beside: Path | None, notice_keys: Path | None, trusted: Policy | None) -> int:
    """What a collector signed for, and whether another file shows that the log holds it; the exit status."""
    if notice_keys is None:
        raise _Unreadable("an acceptance is checked with its collector's keys: give them with --notice-keys")
    try:
        said = verify_acceptance(data, _read(notice_keys, POLICY_LIMIT, "the notice keys"))
    except Invalid as error:
        return _say(INVALID, f"INVALID acceptance: {error.what} {error.why}")
    for name, digest in said.statements.items():
        _print(f" statement {name}  SHA-256 {digest}")
    held = f"{said.source} signed at {said.accepted_at} that it holds {_count(len(said.statements), 'statement')}"
    if beside is None:
        return _say(
            VALID,
            f"VALID acceptance: {held}. Whether the log has them too is not said by this: "
            "hold a receipt, a bundle or a history against it",
        )
    return _beside(said, held, beside, trusted)


def _beside(said: Acceptance, held: str, beside: Path, trusted: Policy | None) -> int:
    verified = enclosed(_read(beside, 2 * ARCHIVE_LIMIT))
    report = _report(f"{beside.name}: ", verified, trusted)
    shown = hold_against(said, verified)
    for name in shown.recorded:
        _print(f" recorded as accepted: {name}")
    for name in shown.altered:
        _print(f" recorded with other bytes than were accepted: {name}")
    for name in shown.missing:
        _print(f" not in {beside.name}: {name}")
    if shown.altered and not _names_logs(trusted):
        return _say(INVALID, "recorded with other bytes, but the log's key is not settled: give it with --vkey")
    if shown.altered:
        return _say(
            INVALID,
            f"FRAUD: {said.source} signed for other bytes than the log of {report.facts.origin} holds under the same "
            "identifier: one of the two is caught, and they are of one operator. Keep both files",
        )
    if shown.missing:
        return _say(
            INVALID,
            f"NOT SHOWN: {held}, and this {report.kind} has not all of them. If it is all that the log holds of this "
            f"matter at a later time, then {said.source} has lost what it signed for, and is caught at that",
        )
    if not _names_logs(trusted):
        return _say(INVALID, "recorded as accepted, but the log's key is not settled: give it with --vkey")
    return _say(VALID, f"VALID acceptance: {held}, and the log has them, byte for byte")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class _Unreadable(Exception):
    """A file given on the command line cannot be used; its text is for whoever gave it."""


def _report(where: str, data: bytes, trusted: Policy | None) -> Report:
    """What a file shows; _Unreadable if it is none of ours, Invalid in words for people."""
    kind = kind_of(data)
    if kind == "checkpoint" and not _names_logs(trusted):
        raise _Unreadable(f"{where}a checkpoint names no key to check it with: give the log's with --vkey")
    try:
        report = verify(data, trusted)
    except Invalid as error:
        why = f"INVALID {kind}: step {error.step}: {error.what} {error.why}"
        raise Invalid(error.step, f"{where}{why}".rstrip(), "", index=error.index) from None
    if report is None:
        raise _Unreadable(f"{where}this is neither a receipt nor an evidence bundle, a proof or a checkpoint of ours")
    return report


def _compare(first: Report, second: Report, *, settled: bool) -> tuple[int, str]:
    """Hold two verified files against each other; exit status and last line."""
    if first.facts.origin != second.facts.origin:
        logs = f"{first.facts.origin} and {second.facts.origin}"
        raise _Unreadable(f"these are of two logs, {logs}: nothing in one speaks of the other")
    if not settled and first.signed_by != second.signed_by:
        raise _Unreadable(
            "these are signed by two keys of one name. Anybody can make one: give the log's with --vkey, or all of them"
        )
    found = contradictions(first.facts.with_those_of(second.facts))
    for one in found:
        _print(f"FRAUD {one}" if settled else f"CONTRADICTION {one}")
    if found and not settled:
        return INVALID, (
            "CONTRADICTION: both files are signed by the key below, and they cannot both be true: if it is the log's, "
            f"the operator of {first.facts.origin} is caught. Whose it is only a source you trust can say: anybody can "
            "make a key of that name"
        )
    if found:
        return INVALID, (
            f"FRAUD: the operator of {first.facts.origin} is caught: both files are signed by its log's key, and they "
            "cannot both be true. Keep both; anyone can repeat this check with them and the key"
        )
    return VALID, (
        "NO CONTRADICTION: nothing in one of the files speaks against the other. That the log of the older one grew "
        "into that of the newer is shown by `consent-ledger proof consistency`"
    )


def _read(file: Path, limit: int, what: str = "the file") -> bytes:
    try:
        with file.open("rb") as opened:
            # One byte more than we take shows that there is more.
            return opened.read(limit + 1)
    except OSError as error:
        raise _Unreadable(f"cannot read {what}: {error.strerror or type(error).__name__}") from None


def _trusted(vkey: Path | None, policy: Path | None, authority: Path | None) -> Policy | None:
    """What was given on the command line: the policy, for the logs of the key file if there is one."""
    if authority is not None:
        try:
            believed = parse_authority(_read(authority, AUTHORITY_LIMIT, "the authority's certificates"))
        except Invalid as error:
            raise _Unreadable(str(error)) from None
        return replace(_trusted(vkey, policy, None) or Policy(()), authority=believed)
    what = "verifier key"
    try:
        keys = None if vkey is None else parse_log_keys(_read(vkey, POLICY_LIMIT, "the verifier key"))
        if policy is None:
            return keys
        what = "policy"
        given = parse_policy(_read(policy, POLICY_LIMIT, "the policy"))
    except Invalid as error:
        raise _Unreadable(f"the {what} given is none: {error}") from None
    return given if keys is None else given.for_logs(keys.logs, keys.fresh)


def _say(status: int, text: str) -> int:
    _print(text)
    return status


def _complain(text: str) -> int:
    """Nothing was judged: the call, or the file, makes no sense."""
    _print(f"consent-ledger: {text}", sys.stderr)
    return NEITHER


def _print(text: str, stream: TextIO | None = None) -> None:
    # A terminal that cannot show a character must not end a verification, and no file may write a line of its own or
    # turn what follows around: what is no graphic character is shown by its number.
    stream = stream or sys.stdout
    encoding = stream.encoding or "ascii"
    plain = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    stream.write(plain.encode(encoding, "backslashreplace").decode(encoding) + "\n")
