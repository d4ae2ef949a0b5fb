"""The note by which a log's key names the one that takes over, signed by both (docs/formats.md §23)."""

from dataclasses import dataclass, field
from typing import Final

from services.ledger.reader.checkpoint import Checkpoint, parse_checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.facts import Facts
from services.ledger.reader.finding import Finding
from services.ledger.reader.note import Signer, Verifier, format_note, parse_note
from services.ledger.reader.policy import LogKey, Policy, Trusted

FIRST_LINE: Final = "consent-ledger/log-key/1"

_LINES: Final = 6


def format_handover(checkpoint: Checkpoint, old: Signer, new: Signer) -> bytes:
    """Write it, with both signatures; the checkpoint is the newest that the old key has signed by then."""
    _, size, root, _ = checkpoint.text().decode().split("\n")
    lines = (FIRST_LINE, checkpoint.origin, size, root, old.vkey, new.vkey)
    text = "".join(f"{line}\n" for line in lines).encode()
    return format_note(text, [old.sign(text), new.sign(text)])


@dataclass
class Handover:
    """One such note on its way through the steps.

    1. Six lines: what it is, origin, size, root, the old key, the new key.
    2. Both keys are keys of the origin, different ones, and both have signed.
    3. One of them is trusted, and was not retired before the log had this size.
    """

    data: bytes
    vkey: Trusted
    findings: list[Finding] = field(default_factory=list)
    signed_by: str = ""
    conclusion: str = ""
    old: str = ""
    new: str = ""
    facts: Facts = field(init=False)

    def verify(self) -> None:
        """All steps, or Invalid."""
        note = parse_note(self.data)
        # 1.
        lines = note.text.decode().split("\n")
        if len(lines) != _LINES + 1 or lines[0] != FIRST_LINE or lines[_LINES]:
            raise Invalid("1", "the handover", f"has not the six lines of {FIRST_LINE}")
        checkpoint = parse_checkpoint("".join(f"{line}\n" for line in lines[1:4]).encode())
        old, new = lines[4:_LINES]
        # 2.
        for vkey in (old, new):
            verifier = Verifier(vkey)
            if verifier.name != checkpoint.origin or old == new:
                raise Invalid("2", "a key of the handover", "is not another key of this log")
            verifier.verify(note)
        self.findings.append(Finding(2, f"both keys of {checkpoint.origin} have signed it"))
        # 3.
        given = self.vkey.logs if isinstance(self.vkey, Policy) else [LogKey(self.vkey or new)]
        known = [one for one in given or [LogKey(new)] if one.vkey in {old, new}]
        if not known:
            raise Invalid("3", "the verifier key", "you gave is neither of the two")
        # A stolen old key names nobody: whoever took over was named before it was retired.
        trusted = {one.vkey for one in known if one.until is None or checkpoint.size <= one.until}
        if not trusted:
            raise Invalid("3", "the verifier key", "was retired before the log had this size")
        self.old, self.new = old, new
        self.signed_by = old if old in trusted else new
        self.facts = Facts(checkpoint.origin, self.signed_by)
        self.facts.add_checkpoint(checkpoint)
        self.conclusion = f"when {checkpoint.origin} had {checkpoint.size} leaves, {old} named {new} to take over"
