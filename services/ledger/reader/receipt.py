"""A receipt, checked offline by those of a bundle's nine steps that it has something for (docs/formats.md §17).

2. The log's key has signed the checkpoint of the proof.
3. The statement is in the log: pin, opening and statement give the leaf, and the leaf is in the tree.
4. The statement reads strictly, and its subject belongs to this log.
6. The register snapshot has the hash the statement names, and the record is made from the two.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

from services.ledger.reader.checkpoint import is_log_of, verify_checkpoint
from services.ledger.reader.entry import Entry, verify_in_log
from services.ledger.reader.errors import Invalid
from services.ledger.reader.facts import Facts
from services.ledger.reader.finding import Finding
from services.ledger.reader.fresh import verify_fresh
from services.ledger.reader.leaf import Event
from services.ledger.reader.policy import Trusted, is_trusted, verify_enclosed
from services.ledger.reader.proof import Proof, parse_proof
from services.ledger.reader.strict import Fields, canonical_json, parse_json
from services.ledger.record import NoRecord, parse_snapshot, record
from shared.clock import from_millis, rfc3339
from shared.events import PERMISSIVE, Malformed, Statement, matter_of, parse
from shared.identifiers import shard_of

FORMAT: Final = "consent-ledger/receipt/1"
RECEIPT_LIMIT: Final = 4 * 1024 * 1024
MEMBERS: Final = (
    "format",
    "fresh_vkey",
    "index",
    "leaf",
    "opening",
    "origin",
    "pin",
    "proof",
    "record",
    "register",
    "shard",
    "statement",
    "vkey",
)


@dataclass
class Receipt:
    """One receipt on its way through the steps."""

    data: bytes
    vkey: Trusted
    findings: list[Finding] = field(default_factory=list)
    signed_by: str = ""
    conclusion: str = ""
    facts: Facts = field(init=False)
    """What can be held against another file."""

    def verify(self) -> None:
        """All steps, or Invalid."""
        if len(self.data) > RECEIPT_LIMIT:
            raise Invalid("1", "the receipt", f"is longer than {RECEIPT_LIMIT} bytes")
        fields = Fields("1", "the receipt", parse_json("1", "the receipt", self.data)).exactly(*MEMBERS)
        if fields.text("format") != FORMAT:
            raise Invalid("1", "the receipt", f"does not say {FORMAT}")
        proof = self._step_2(fields)
        entry, event = self._step_3(fields, proof)
        statement = self._step_4(fields, entry)
        self._step_6(fields, statement)
        self.facts = Facts(fields.text("origin"), self.signed_by)
        self.facts.add_checkpoint(verify_checkpoint(proof.checkpoint_note, self.signed_by))
        self.facts.add_leaf(entry.index, entry.leaf, event, matter_of(statement))
        self.facts.add_pin(statement.subject, entry.pin)
        # A receipt does not say whether its statement was overtaken; only a permissive one can have been.
        sure = statement.type not in PERMISSIVE
        self.facts.add_label(statement.subject, matter_of(statement), event.label, sure=sure)
        at = rfc3339(from_millis(event.recorded_at))
        self.conclusion = f"{statement.type} of {statement.subject} is recorded at index {entry.index} since {at}"

    def _step_2(self, fields: Fields) -> Proof:
        step = "2"
        enclosed = fields.text("vkey")
        if not is_trusted(self.vkey, enclosed):
            raise Invalid(step, "the verifier key", "you gave is not the one this receipt names")
        text = fields.text("proof").encode()
        try:
            proof = parse_proof(text)
            shown = verify_enclosed(self.vkey, enclosed, proof.checkpoint_note)
            fresh = verify_fresh(self.vkey, fields.text("fresh_vkey"), shown.checkpoint.origin, proof.checkpoint_note)
        except Invalid as error:
            raise Invalid(step, "the proof's checkpoint", f"does not verify: {error}") from None
        if proof.extra is not None:
            raise Invalid(step, "the proof", "has extra data, which nothing vouches for")
        checkpoint = shown.checkpoint
        if checkpoint.origin != fields.text("origin"):
            raise Invalid(step, "the origin", "is not the one that the checkpoint names")
        self.signed_by = enclosed
        self._found(
            2,
            f"the checkpoint of {checkpoint.origin}, {checkpoint.size} leaves, is signed by the log's key; "
            f"it was the newest at {fresh.said}{shown.cosigners()}",
        )
        return proof

    def _step_3(self, fields: Fields, proof: Proof) -> tuple[Entry, Event]:
        step = "3"
        if fields.decimal("index") != proof.index:
            raise Invalid(step, "the index", "is not that of the proof")
        entry = Entry(
            index=proof.index,
            matter="",
            overtaken=False,
            leaf=fields.base64url("leaf"),
            statement=fields.base64url("statement"),
            pin=fields.hash("pin"),
            opening=fields.hash("opening"),
            hashes=proof.hashes,
        )
        event = verify_in_log(step, entry, verify_checkpoint(proof.checkpoint_note, self.signed_by))
        self._found(3, f"the statement is in the log at index {entry.index}")
        return entry, event

    def _step_4(self, fields: Fields, entry: Entry) -> Statement:
        step = "4"
        try:
            statement = parse(entry.statement)
            shard = shard_of(statement.subject)
        except Malformed as error:
            raise Invalid(step, "the statement", f"is no statement we know ({error})") from None
        if shard != fields.small_number("shard") or not is_log_of(fields.text("origin"), statement.subject):
            raise Invalid(step, "the shard", "is not that of the subject and the origin")
        by = statement.data.software
        said = f", stated by {by}, as it says itself" if by else ""
        self._found(4, f"it is {statement.type} {statement.id} of {statement.time}{said}")
        return statement

    def _step_6(self, fields: Fields, statement: Statement) -> None:
        step = "6"
        raw = fields.text("register").encode()
        if hashlib.sha256(raw).hexdigest() != statement.data.register_version:
            raise Invalid(step, "the register", "is not the one the statement names")
        parse_json(step, "the register", raw)
        try:
            made: Any = record(statement, parse_snapshot(raw))
        except NoRecord:
            raise Invalid(step, "the register", "does not know what the statement is about") from None
        if canonical_json(fields.get("record")) != canonical_json(made):
            raise Invalid(step, "the record", "is not the one that statement and register make")
        self._found(6, "the record is what the statement and the register it names say")

    def _found(self, step: int, text: str) -> None:
        self.findings.append(Finding(step, text))
