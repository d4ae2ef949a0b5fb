"""Double opt-in: whether a mail to the typed address carried the token, and the grade of it all (formats §18)."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from services.ledger.reader.entry import Recorded
from services.ledger.reader.errors import Invalid
from services.ledger.reader.mail import Mail, dkim_names, parse_dkim_keys, parse_mail, same_address, verify_dkim
from services.ledger.reader.strict import Fields, moment, parse_json
from shared.register import Facts, Grade, GradeRule
from shared.register.grade import FACTS, grade

_STEP: Final = "7"
_CONFIRM = re.compile(r"/confirm/([A-Za-z0-9_-]{22,512})", re.ASCII)
_MAIL: Final = "message/rfc822"
_RULES_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class Shown:
    """What a bundle shows of one ConsentGiven; `notes` are sentences about it."""

    given: Recorded
    facts: Facts
    grade: Grade
    notes: tuple[str, ...]

    @property
    def rests_on_its_source(self) -> str:
        """What to say where request and mail do not show that the address's holder agreed; else nothing."""
        if self.facts.request_recorded and self.facts.confirmation_mail_archived:
            return ""
        return f"that the holder of the address gave it is the word of {self.given.statement.source} alone"


@dataclass(frozen=True)
class DoubleOptIn:
    """The check of every consent of one bundle, after its other parts have been verified."""

    recorded: Sequence[Recorded]
    opened: Mapping[tuple[str, str], bytes]
    """(statement id, compartment) → what is in it"""
    served: frozenset[str]
    """Ids of the statements whose served-notice token was verified"""
    dkim_keys: bytes
    registers: Mapping[str, Mapping[str, Any]]
    """version → parsed snapshot"""

    def check(self, given: Recorded) -> Shown:
        """What is shown of one ConsentGiven, or Invalid.

        What is missing lowers the grade; what contradicts is a failure.
        """
        it = f"the consent at index {given.index}"
        notes: list[str] = []
        data = given.statement.data
        followed = [other for other in self.recorded if other.statement.id in data.follows]
        requests = [other for other in followed if other.statement.type == "ConsentRequested"]
        mails = [other for other in followed if other.statement.type == "MessageSent"]
        request = requests[0] if len(requests) == 1 else None
        archived = False
        if request is None:
            notes.append(f"the request that {it} answers is not in this bundle")
        else:
            _answers(given, request)
            notes.append(f"{it} answers the request at index {request.index}, in time and on the same notice")
            for mail in mails:
                proven, said = self._confirmation_mail(request, mail)
                archived |= proven
                notes.append(said)
        if not mails:
            notes.append(f"the confirmation mail that {it} answers is not in this bundle")
        facts = Facts(
            contact_point_proven=data.stage == "proven",
            served_notice_verified=given.statement.id in self.served,
            request_recorded=request is not None,
            confirmation_mail_archived=archived,
        )
        graded = _grade(self.registers[data.register_version], facts)
        notes.append(f"{it} has grade {graded} by the register's rule, computed from these facts")
        shown = Shown(given, facts, graded, ())
        if shown.rests_on_its_source:
            # Whoever stole the source's key could have written this, and the ledger could not have known.
            notes.append(f"of {it}, {shown.rests_on_its_source}: whoever has that source's key could have said it")
        return replace(shown, notes=tuple(notes))

    def _confirmation_mail(self, request: Recorded, sent: Recorded) -> tuple[bool, str]:
        """Whether the mail that carried the token is shown to have gone to the address that was typed."""
        where = f"the mail at index {sent.index}"
        if request.statement.id not in sent.statement.data.follows:
            raise Invalid(_STEP, where, "does not follow the request that the consent answers", index=sent.index)
        typed, raw = self._address(request), self._archived(sent)
        if raw is None or typed is None:
            return False, f"{where} was sent; its words or the address are not opened in this bundle"
        mail = parse_mail(_STEP, raw)
        if not same_address(mail.recipient, typed):
            raise Invalid(_STEP, where, "went to another address than the one that was typed", index=sent.index)
        if mail.only("message-id") != sent.statement.data.message_id:
            raise Invalid(_STEP, where, "has another Message-ID than its statement", index=sent.index)
        tokens = {hashlib.sha256(token.encode("ascii")).hexdigest() for token in _CONFIRM.findall(mail.text)}
        if request.statement.data.token_hash not in tokens:
            raise Invalid(_STEP, where, "does not carry the token of the request", index=sent.index)
        signed = self._dkim(mail)
        return True, f"{where} went to the address that was typed and carried the request's token; {signed}"

    def _archived(self, sent: Recorded) -> bytes | None:
        names = [one.compartment for one in sent.statement.data.attachments if one.media_type == _MAIL]
        return next(filter(None, (self.opened.get((sent.statement.id, name)) for name in names)), None)

    def _address(self, request: Recorded) -> str | None:
        evidence = self.opened.get((request.statement.id, "evidence"))
        if evidence is None:
            return None
        what = f"the evidence of the request at index {request.index}"
        return Fields(_STEP, what, parse_json(_STEP, what, evidence)).text("address")

    def _dkim(self, mail: Mail) -> str:
        keys = parse_dkim_keys(_STEP, self.dkim_keys)
        if dkim_names(_STEP, mail) not in keys:
            return "the key of its DKIM signature is not in this bundle"
        signed = verify_dkim(_STEP, mail, keys)
        when = "" if signed.at is None else f" at {moment(signed.at)}"
        return f"DKIM: signed by {signed.domain}{when} (compare with selector {signed.selector} of that domain's DNS)"


def _answers(given: Recorded, request: Recorded) -> None:
    said, asked = given.statement.data, request.statement.data
    where = f"the consent at index {given.index}"
    if (said.purpose, said.channel, said.activity) != (asked.purpose, asked.channel, asked.activity):
        raise Invalid(_STEP, where, "answers a request for another purpose", index=given.index)
    if said.notice != asked.notice or said.served != asked.served:
        raise Invalid(_STEP, where, "names another notice than the request it answers", index=given.index)
    if not request.statement.time <= given.statement.time < asked.expires_at:
        raise Invalid(_STEP, where, "was not given in the time the request allowed", index=given.index)


def _grade(snapshot: Mapping[str, Any], facts: Facts) -> Grade:
    """The grade by the current rule of the register that the consent names."""
    what = "the grade rule of the register"
    grades = Fields(_STEP, what, snapshot.get("files")).object("grades.toml")
    current = grades.small_number("current")
    for rule in grades.objects("rules", _RULES_LIMIT):
        if rule.small_number("version") == current:
            needs = [
                (one.text("grade"), frozenset(map(str, one.array("needs", len(FACTS)))))
                for one in rule.objects("grades", _RULES_LIMIT)
            ]
            if any(letter not in Grade.__members__ for letter, _ in needs) or all(need for _, need in needs):
                raise Invalid(_STEP, what, "is none we know")
            return grade(facts, GradeRule(current, [(Grade(letter), need) for letter, need in needs]))
    raise Invalid(_STEP, what, "is missing")
