"""The envelope and the data of every statement type that has a producer, as strict models.

Type names are W3C DPV 2.3 terms where it has one. Every field is a string, a boolean, a number or an object of
those: nothing is parsed into a richer type, so that reading and writing can never change what was hashed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

UUID_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
UUID7_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
SUBJECT_PATTERN: Final = (
    r"^(0\.system|(0|[1-9][0-9]{0,8})\.[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})$"
)
TIME_PATTERN: Final = (
    r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z$"
)
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
SOURCE_PATTERN: Final = r"^[a-z][a-z0-9-]{0,31}$"


def _of_the_calendar(time: str) -> str:
    """The pattern lets 31 February through; whoever does arithmetic with a time later must not stumble over it."""
    datetime.fromisoformat(time)
    return time


def _of_64_bits(number: str) -> str:
    if int(number) >= 2**64:
        raise ValueError("above 64 bits")
    return number


Uuid = Annotated[str, StringConstraints(pattern=UUID_PATTERN)]
Uuid7 = Annotated[str, StringConstraints(pattern=UUID7_PATTERN)]
Subject = Annotated[str, StringConstraints(pattern=SUBJECT_PATTERN)]
Time = Annotated[str, StringConstraints(pattern=TIME_PATTERN), AfterValidator(_of_the_calendar)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Source = Annotated[str, StringConstraints(pattern=SOURCE_PATTERN)]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Base64Url = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=24_000)]
Decimal = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,19})$"), AfterValidator(_of_64_bits)]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]
MessageId = Annotated[str, StringConstraints(pattern=r"^<[A-Za-z0-9._-]{1,80}@[A-Za-z0-9.-]{1,100}>$")]
Software = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .:/+_@-]{0,126}$")]
LegalBasis = Annotated[str, StringConstraints(pattern=r"^[a-z][a-zA-Z0-9:-]{2,62}$")]


class Strict(BaseModel):
    """A frozen model that refuses unknown fields and never coerces."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Sealed(Strict):
    """One compartment: nonce 12 || ciphertext || tag 16, and SHA-256("consent-ledger/v1/key" || its key)."""

    ciphertext: Base64Url
    key_hash: Hash


class Notice(Strict):
    """The notice that was shown, by the SHA-256 of its exact text."""

    hash: Hash
    language: Language


class Served(Strict):
    """The served-notice token as the form returned it, and whether it held when the collector checked it."""

    token: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$", max_length=4096)
    ]
    verified: bool


class Attachment(Strict):
    """Ciphertext kept apart, found by its hash. `size` counts the bytes of the ciphertext."""

    kind: Name
    media_type: Annotated[str, StringConstraints(pattern=r"^[a-z]+/[a-z0-9.+-]+$", max_length=100)]
    size: Annotated[int, Field(ge=28, le=10 * 1024 * 1024)]
    hash: Hash
    compartment: Annotated[str, StringConstraints(pattern=r"^attachment/[0-9]$")]
    key_hash: Hash


class Permit(Strict):
    """The permit a use relied on, so that anyone can check that no withdrawal preceded the use."""

    id: Uuid
    shard: Annotated[int, Field(ge=0, le=2**32 - 1)]
    size: Decimal
    issued_at: Time
    all_before: Time


class Data(Strict):
    """What every statement says: for whom, in which act, by whom in which role, under which register."""

    controller: Name
    sender: Name
    act: Uuid
    by: Literal["person", "staff", "representative", "controller"]
    activity: Name
    register_version: Hash
    software: Software = ""
    """What program says so, in its own words (shared/software.py). Version 1 of a type has no such member, version 2
    has it always, and is the same in all else."""
    sealed: dict[Annotated[str, StringConstraints(pattern=r"^(evidence|brief)$")], Sealed] = Field(default_factory=dict)


class PurposeData(Data):
    """A statement about one purpose on one channel."""

    purpose: Name
    channel: Name


class ShownData(PurposeData):
    """A statement that answers a notice somebody was shown."""

    legal_basis: LegalBasis
    expression: Literal["explicit", "expressed"]
    notice: Notice
    method: Name
    served: Served | None = None


class NoticePublished(Data):
    """A notice is about to be served for the first time."""

    notice: Notice
    version: Name


class ConsentRequested(ShownData):
    """Somebody typed this contact point into a form; that it is theirs is not shown yet."""

    status: Literal["ConsentRequested"]
    stage: Literal["asked"]
    expires_at: Time
    token_hash: Hash


class ConsentGiven(ShownData):
    """The holder of the contact point agreed."""

    status: Literal["ConsentGiven"]
    stage: Literal["proven"]
    follows: Annotated[list[Uuid7], Field(min_length=1, max_length=16)]
    receipt_key_hash: Hash


class ConsentRefused(ShownData):
    """A box was left empty (`asked`), or the holder of the contact point said no (`proven`)."""

    status: Literal["ConsentRefused"]
    stage: Literal["asked", "proven"]
    follows: Annotated[list[Uuid7], Field(max_length=16)] = Field(default_factory=list)


class ConsentWithdrawn(Data):
    """Consent ends, for one purpose on one channel or for everything. Always a word, from whomever it comes."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"properties": {"scope": {"const": "purpose"}}, "required": ["purpose", "channel"]},
                {
                    "properties": {"scope": {"const": "everything"}},
                    "not": {"anyOf": [{"required": ["purpose"]}, {"required": ["channel"]}]},
                },
            ]
        }
    )

    scope: Literal["purpose", "everything"]
    purpose: Name | None = None
    channel: Name | None = None
    status: Literal["ConsentWithdrawn"]
    method: Name
    follows: Annotated[list[Uuid7], Field(max_length=16)] = Field(default_factory=list)
    receipt_key_hash: Hash | None = None

    def model_post_init(self, _context: Any, /) -> None:
        if (self.scope == "purpose") != (self.purpose is not None and self.channel is not None):
            raise ValueError("scope `purpose` names purpose and channel; scope `everything` names neither")
        if self.scope == "everything" and (self.purpose or self.channel):
            raise ValueError("scope `everything` names neither purpose nor channel")


class ConsentExpired(PurposeData):
    """Nobody confirmed in time (`asked`), or a consent ran out (`proven`)."""

    status: Literal["ConsentExpired"]
    stage: Literal["asked", "proven"]
    follows: Annotated[list[Uuid7], Field(min_length=1, max_length=16)]


class ConsentUsed(PurposeData):
    """One message was about to be sent because of a consent; `follows` names the statement relied on."""

    follows: Annotated[list[Uuid7], Field(min_length=1, max_length=16)]
    permit: Permit
    message_id: MessageId


class MessageSent(Data):
    """A message was handed to the mail server. `unknown`: the process died before the answer was stored."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {"permit": ["purpose"], "purpose": ["permit"]}})

    kind: Name
    channel: Name
    purpose: Name | None = None
    permit: Uuid | None = None
    message_id: MessageId
    delivery: Literal["at-most-once", "at-least-once"]
    attempts: Annotated[int, Field(ge=1, le=1000)]
    outcome: Literal["accepted", "refused", "unknown"]
    follows: Annotated[list[Uuid7], Field(max_length=16)] = Field(default_factory=list)
    attachments: Annotated[list[Attachment], Field(max_length=8)] = Field(default_factory=list)

    def model_post_init(self, _context: Any, /) -> None:
        if (self.permit is None) != (self.purpose is None):
            raise ValueError("a message under a permit names its purpose; any other names neither")


class RetentionExecuted(Data):
    """What the register's retention rule required to go is gone."""

    rule: Name
    deleted: Annotated[list[Name], Field(min_length=1, max_length=16)]
    follows: Annotated[list[Uuid7], Field(max_length=16)] = Field(default_factory=list)


class ErasureOrdered(Data):
    """Everything operational about this subject is to go at each holder, and what only proves once `evidence_until` is
    past (GDPR Art. 17(3)(e)); without it nothing is kept."""

    request: Uuid7
    reason: Literal["no-longer-needed", "consent-withdrawn", "objection", "unlawful", "legal-obligation"]
    holders: Annotated[list[Source], Field(min_length=1, max_length=16)]
    evidence_until: Time | None = None


class ErasureHeld(Data):
    """What only proves is held longer than the register asks for, say for a lawsuit (GDPR Art. 17(3))."""

    request: Uuid7
    until: Time
    ground: Literal["legal-claims", "legal-obligation"]


class DataErased(Data):
    """One holder's receipt: this is gone there, or its key is."""

    request: Uuid7
    erased: Annotated[list[Name], Field(min_length=1, max_length=16)]
    follows: Annotated[list[Uuid7], Field(min_length=1, max_length=1)]


class ErasureCompleted(Data):
    """Every holder has looked again and found nothing. The keys of what only proves go after `evidence_until`, or now:
    this is the last word on the subject, an ERASURE then ends each of its labels."""

    request: Uuid7
    follows: Annotated[list[Uuid7], Field(min_length=2, max_length=17)]
    evidence_until: Time | None = None


class RecordAccessed(PurposeData):
    """Somebody asked to see what is recorded of this contact point; stated before anything is handed out."""

    role: Name
    caller: Name
    shape: Name
    reason_hash: Hash
    """SHA-256("consent-ledger/v1/reason" || 00 || statement id || 00 || the reason's words); they lie in subjects."""


DATA_TYPES: Final[dict[tuple[str, int], type[Data]]] = {
    (model.__name__, version): model
    for version in (1, 2)
    for model in (
        NoticePublished,
        ConsentRequested,
        ConsentGiven,
        ConsentRefused,
        ConsentWithdrawn,
        ConsentExpired,
        ConsentUsed,
        MessageSent,
        RetentionExecuted,
        ErasureOrdered,
        ErasureHeld,
        DataErased,
        ErasureCompleted,
        RecordAccessed,
    )
}


def version_of(data: Data) -> int:
    """The version of its type that has exactly these members."""
    return 2 if data.software else 1


def dataschema(type_name: str, version: int) -> str:
    """The `dataschema` of a statement type: `consent-ledger/<Type>/<n>`."""
    return f"consent-ledger/{type_name}/{version}"


class Statement(Strict):
    """One CloudEvent 1.0 in structured JSON mode; `data` is the model that `dataschema` names."""

    specversion: Literal["1.0"] = "1.0"
    id: Uuid7
    source: Source
    type: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z]{2,40}$")]
    subject: Subject
    time: Time
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: Annotated[str, StringConstraints(pattern=r"^consent-ledger/[A-Z][A-Za-z]{2,40}/[1-9][0-9]?$")]
    data: Any

    @classmethod
    def of(cls, data: Data, *, id: str, source: str, subject: str, time: str) -> Statement:  # noqa: A002 - CloudEvents' name
        """A statement around typed data; type and schema follow from the data's class, and from what it names."""
        name = type(data).__name__
        schema = dataschema(name, version_of(data))
        return cls(id=id, source=source, type=name, subject=subject, time=time, dataschema=schema, data=data)
