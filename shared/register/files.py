"""The shape of each file of the register; what two files say about each other is checked in `check`."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.register.grade import FactName
from shared.register.vocabulary import (
    Address,
    Day,
    Line,
    Name,
    PeriodField,
    PurposeKey,
    Region,
    SourceName,
    StatementType,
    Term,
    Words,
)


class _Strict(BaseModel):
    """Nothing unknown, nothing converted, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RegisterFile(_Strict):
    """register.toml: what holds for all files."""

    format: Literal[1]
    languages: Annotated[tuple[Annotated[str, Field(pattern=r"\A[a-z]{2}\z")], ...], Field(min_length=1)]
    # Offset of local time at New Year, for periods that end with a year.
    new_year: Annotated[str, Field(pattern=r"\A[+-](0[0-9]|1[0-4]):[0-5][0-9]\z")]
    # Roles in which one may open evidence; a register that names none opens none.
    evidence_roles: tuple[Name, ...] = ()


class Party(_Strict):
    """Someone with a role of their own (GDPR Art. 4, 37): the controller, the data protection officer."""

    role: Term
    name: Line
    address: Annotated[tuple[Line, ...], Field(min_length=1)]
    region: Region
    email: Address


class Authority(_Strict):
    """A supervisory authority (GDPR Art. 51)."""

    name: Words
    region: Region
    website: Annotated[str, Field(pattern=r"\Ahttps://[a-z0-9./-]+\z")]


class Recipient(_Strict):
    """A category of recipients (GDPR Art. 13(1)(e))."""

    kind: Literal["dpv:DataProcessor", "dpv:ThirdParty", "dpv:Authority"]
    words: Words


class PartiesFile(_Strict):
    """parties.toml: who is named."""

    parties: Mapping[Name, Party]
    authorities: Mapping[Name, Authority]
    recipients: Mapping[Name, Recipient]


class Source(_Strict):
    """A service that may state facts, and how it reaches the ledger."""

    does: Line
    # Over HTTP a source sends no marks, so no permit can wait for them: a team that is cut off is not noticed.
    over: Literal["kafka", "http"] = "kafka"


class SourcesFile(_Strict):
    """sources.toml: who may state anything at all."""

    sources: Mapping[SourceName, Source]


class Right(_Strict):
    """A right of the person; `in_notice` if a notice must name it."""

    title: Words
    article: Words
    in_notice: bool


class LegalBasis(_Strict):
    """A legal basis and the rights that follow from it (W3C DPV)."""

    kind: Literal["consent", "contract", "legal-obligation", "legitimate-interest"]
    article: Words
    rights: Annotated[tuple[Term, ...], Field(min_length=1)]


class RightsFile(_Strict):
    """rights.toml: rights by legal basis."""

    rights: Mapping[Term, Right]
    legal_bases: Mapping[Term, LegalBasis]


class GradeNeeds(_Strict):
    """One grade of one rule and the facts it needs, all of them."""

    grade: Literal["A", "B", "C", "D"]
    needs: tuple[FactName, ...]
    words: Words


class GradeRuleEntry(_Strict):
    """One version of the grade rule, best grade first."""

    version: Annotated[int, Field(ge=1)]
    grades: Annotated[tuple[GradeNeeds, ...], Field(min_length=1)]


class GradesFile(_Strict):
    """grades.toml: every version of the grade rule."""

    current: Annotated[int, Field(ge=1)]
    rules: Annotated[tuple[GradeRuleEntry, ...], Field(min_length=1)]


class Policy(_Strict):
    """The privacy policy whose facts an activity carries out: its status date and section."""

    status: Day
    section: Line
    words: Words


class Sender(_Strict):
    """Who stands in the From of what is sent."""

    party: Name
    name: Line
    email: Address


class Locations(_Strict):
    """Where data are stored and processed (ISO 3166 codes or EU), and what must hold for third countries."""

    storage: Annotated[tuple[Region, ...], Field(min_length=1)]
    processing: Annotated[tuple[Region, ...], Field(min_length=1)]
    third_countries: Literal["never", "exceptional"]
    transfer_grounds: tuple[Term, ...]
    safeguards: tuple[Term, ...]
    words: Words


class FormField(_Strict):
    """What a person types or picks, and what for."""

    id: Name
    kind: Literal["email"]
    mandatory: bool
    dpv: Term
    purposes: tuple[PurposeKey, ...]


class ObservedData(_Strict):
    """Personal data that come about by use, and what for. What is listed nowhere may not be kept."""

    id: Name
    dpv: Term
    purposes: tuple[PurposeKey, ...]
    words: Words


class _AnyPurpose(_Strict):
    id: Name
    channel: Name
    title: Words
    dpv: Term
    legal_basis: Term
    # Provisions beside the GDPR's legal basis, as the notice quotes them.
    norms: tuple[Words, ...]
    retention: tuple[Name, ...]

    @property
    def key(self) -> str:
        """`purpose/channel`, as in the matter of a statement."""
        return f"{self.id}/{self.channel}"


class Purpose(_AnyPurpose):
    """What a person decides by itself, on a box that is never ticked in advance."""

    # Permits are refused when the evidence is worse than this.
    least_grade: Literal["A", "B", "C", "D"]
    # Until withdrawn, or for a period from the decision.
    valid: Literal["until-withdrawn"] | PeriodField
    # Consent to this one has effect only while these are given.
    depends_on: tuple[PurposeKey, ...]


class UnaskedPurpose(_AnyPurpose):
    """What happens without a choice: for a contract, a legal duty or a legitimate interest."""

    # The legitimate interest (GDPR Art. 13(1)(d)), where that is the legal basis.
    interest: Words | None = None


class Retention(_Strict):
    """How long something is kept: from which facts, and what ends it."""

    id: Name
    # The period runs from the latest of these facts; a person of whom none is recorded has no end yet.
    starts: tuple[StatementType, ...] = ()
    period: PeriodField | None = None
    until: Literal["exact", "end-of-year"] = "exact"
    # No fixed end: looked at again after each such period.
    review: PeriodField | None = None
    at_once_on: tuple[StatementType, ...] = ()
    then: Literal["expire", "delete"]
    # Why it is kept although erasure was demanded (a justification of W3C DPV's eu-gdpr).
    despite_erasure: Term | None = None
    words: Words

    @model_validator(mode="after")
    def _has_an_end(self) -> "Retention":
        if not (self.period or self.review or self.at_once_on):
            message = "needs a period, a review or at_once_on"
            raise ValueError(message)
        if self.period and self.review:
            message = "has a period and a review; one of them is wrong"
            raise ValueError(message)
        if bool(self.starts) != bool(self.period or self.review):
            message = "starts belongs to a period or a review, and they to it"
            raise ValueError(message)
        if self.until == "end-of-year" and not self.period:
            message = "end-of-year belongs to a period"
            raise ValueError(message)
        return self


class Withdrawal(_Strict):
    """One way to withdraw (GDPR Art. 7(3))."""

    id: Literal["link", "one-click", "email", "letter"]
    words: Words


class ActivityFile(_Strict):
    """activities/<id>.toml: one processing activity (GDPR Art. 30)."""

    id: Name
    title: Words
    controller: Name
    data_protection_officer: Name
    authority: Name
    jurisdiction: Region
    recipients: tuple[Name, ...]
    # The version of the notice that is shown now.
    notice: Annotated[int, Field(ge=1)]
    policy: Policy
    sender: Sender
    locations: Locations
    fields: tuple[FormField, ...]
    observed: tuple[ObservedData, ...]
    purposes: tuple[Purpose, ...]
    unasked_purposes: tuple[UnaskedPurpose, ...]
    retention: Annotated[tuple[Retention, ...], Field(min_length=1)]
    withdrawal: tuple[Withdrawal, ...]
    statements: Mapping[SourceName, Annotated[tuple[StatementType, ...], Field(min_length=1)]]
