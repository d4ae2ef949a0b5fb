"""The file that holds a checkpoint and its RFC 3161 timestamp (docs/formats.md §25)."""

from dataclasses import dataclass, field
from typing import Final

from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.facts import Facts
from services.ledger.reader.finding import Finding
from services.ledger.reader.note import parse_note
from services.ledger.reader.policy import Policy, Trusted, is_trusted, verify_enclosed
from services.ledger.reader.strict import Fields, parse_json
from shared.clock import rfc3339

FORMAT: Final = "consent-ledger/timestamp/1"
FILE_LIMIT: Final = 256 * 1024


@dataclass
class TimestampFile:
    """One checkpoint and its timestamp, on their way through the steps.

    1. The file has its form.
    2. The log's key, or what satisfies the policy, has signed the checkpoint.
    3. The timestamp is about the checkpoint's text, by the authority that whoever verifies has brought along.
    """

    data: bytes
    vkey: Trusted
    findings: list[Finding] = field(default_factory=list)
    signed_by: str = ""
    conclusion: str = ""
    facts: Facts = field(init=False)

    def verify(self) -> None:
        """All steps, or Invalid."""
        fields = Fields("1", "the timestamp file", parse_json("1", "the timestamp file", self.data[: FILE_LIMIT + 1]))
        fields.exactly("answer", "checkpoint", "format", "origin", "vkey")
        if len(self.data) > FILE_LIMIT or fields.text("format") != FORMAT:
            raise Invalid("1", "the timestamp file", f"does not say {FORMAT}, or is too long")
        checkpoint, note = self._step_2(fields)
        self._step_3(fields, checkpoint, note)

    def _step_2(self, fields: Fields) -> tuple[Checkpoint, bytes]:
        enclosed, note = fields.text("vkey"), fields.text("checkpoint").encode()
        if not is_trusted(self.vkey, enclosed):
            raise Invalid("2", "the verifier key", "you gave is not the one this file names")
        try:
            shown = verify_enclosed(self.vkey, enclosed, note)
        except Invalid as error:
            raise Invalid("2", "the checkpoint", f"does not verify: {error}") from None
        if shown.checkpoint.origin != fields.text("origin"):
            raise Invalid("2", "the origin", "is not the checkpoint's")
        self.signed_by = enclosed
        self.facts = Facts(shown.checkpoint.origin, enclosed)
        self.facts.add_checkpoint(shown.checkpoint)
        checkpoint = shown.checkpoint
        said = f"the checkpoint of {checkpoint.origin}, {checkpoint.size} leaves, is signed by the log's key"
        self.findings.append(Finding(2, f"{said}{shown.cosigners()}"))
        return checkpoint, note

    def _step_3(self, fields: Fields, checkpoint: Checkpoint, note: bytes) -> None:
        authority = self.vkey.authority if isinstance(self.vkey, Policy) else None
        if authority is None:
            raise Invalid("3", "the timestamp", "is anybody's: give the authority's certificates with --authority")
        try:
            time = authority.verify(fields.base64url("answer"), parse_note(note).text)
        except Invalid as error:
            raise Invalid("3", "the timestamp", error.why) from None
        self.findings.append(Finding(3, f"it was there at {rfc3339(time)}, by the word of the authority given"))
        self.conclusion = (
            f"{checkpoint.origin} had these {checkpoint.size} leaves at {rfc3339(time)} or before: whatever one of them"
            " says was recorded by then, and cannot have been made up later"
        )
