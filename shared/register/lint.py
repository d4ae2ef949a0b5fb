"""Contradictions that are formally right: what an auditor would ask about, found before the auditor does.

Each finding has a stable code. The policy of 2020-02-05 contradicts itself in about ten places; the checks here find
those of them that the register's form does not make impossible.
"""

from collections.abc import Iterator
from typing import NamedTuple

from shared.register.register import Activity, Register
from shared.register.vocabulary import Period

_ADVERTISING = frozenset(
    {
        "dpv:DirectMarketing",
        "dpv:Marketing",
        "dpv:PersonalisedAdvertising",
        "dpv:ServiceUsageAnalytics",
        "dpv:TargetedAdvertising",
    },
)
# What it takes to reach someone on a channel; everything else a form demands needs a better reason than consent.
_CONTACT_POINT = {"email": "pd:EmailAddress", "phone": "pd:TelephoneNumber", "post": "pd:PhysicalAddress"}
_PHONE_PROOF_MONTHS = 60
_LONG_MONTHS = 24


class Finding(NamedTuple):
    """One contradiction: `warning` needs a decision, `note` a look."""

    level: str
    code: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.level} {self.code} {self.where}: {self.message}"


def lint(register: Register) -> list[Finding]:
    """Return every finding, warnings first."""
    found = [
        finding
        for activity in register.activities.values()
        for check in (_authority, _transfers, _demanded_fields, _advertising, _retention, _phone_proof)
        for finding in check(register, activity)
    ]
    return sorted(found, key=lambda finding: (finding.level != "warning", finding.where, finding.code))


def _authority(_: Register, activity: Activity) -> Iterator[Finding]:
    if activity.authority.region != activity.controller.region:
        message = (
            f"the authority named is that of {activity.authority.region}, the controller sits in "
            f"{activity.controller.region}; check who is competent (GDPR Art. 55)"
        )
        yield Finding("warning", "authority-elsewhere", activity.id, message)


def _transfers(_: Register, activity: Activity) -> Iterator[Finding]:
    locations = activity.locations
    if locations.third_countries == "exceptional" and not (locations.transfer_grounds and locations.safeguards):
        message = "third countries are possible, but grounds or safeguards are not named (GDPR Art. 44 to 49)"
        yield Finding("warning", "transfer-without-safeguard", activity.id, message)
    if locations.third_countries == "never" and (locations.transfer_grounds or locations.safeguards):
        message = "grounds or safeguards for third countries are named, but data never go there"
        yield Finding("warning", "transfer-unclear", activity.id, message)
    if "eu-gdpr:A49-1-a" in locations.transfer_grounds:
        message = "a transfer on consent needs a purpose of its own that tells the risks (GDPR Art. 49(1)(a))"
        yield Finding("note", "transfer-consent", activity.id, message)


def _demanded_fields(_: Register, activity: Activity) -> Iterator[Finding]:
    asked = {purpose.key: purpose for purpose in activity.purposes}
    for field in activity.fields:
        channels = {asked[key].channel for key in field.purposes if key in asked}
        reachable = {_CONTACT_POINT.get(channel) for channel in channels}
        if field.mandatory and channels and field.dpv not in reachable:
            message = "is demanded for a consent that can be carried out without it (GDPR Art. 5(1)(c), 7(4))"
            yield Finding("warning", "field-not-needed", f"{activity.id}.fields.{field.id}", message)


def _advertising(register: Register, activity: Activity) -> Iterator[Finding]:
    for purpose in activity.unasked_purposes:
        if purpose.dpv in _ADVERTISING:
            kind = register.legal_bases[purpose.legal_basis].kind
            message = f"advertising or its measurement rests on {kind}; ask for consent"
            yield Finding("warning", "advertising-unasked", f"{activity.id}.purposes.{purpose.key}", message)


def _retention(register: Register, activity: Activity) -> Iterator[Finding]:
    for rule in activity.retention.values():
        where = f"{activity.id}.retention.{rule.id}"
        if rule.review is not None:
            yield Finding("note", "no-fixed-end", where, f"has no fixed end, only a review every {rule.review}")
        if rule.period is not None and _months(rule.period) > _LONG_MONTHS and rule.despite_erasure is None:
            message = f"{rule.period} is long, and nothing says why it would outlast a demand for erasure"
            yield Finding("warning", "long-retention", where, message)
    for purpose in activity.unasked_purposes:
        if register.legal_bases[purpose.legal_basis].kind != "legitimate-interest":
            continue
        if not any(activity.retention[rule].despite_erasure for rule in purpose.retention):
            message = "nothing says how an objection or a demand for erasure is answered (GDPR Art. 17(3), 21(1))"
            yield Finding("warning", "objection-unanswered", f"{activity.id}.purposes.{purpose.key}", message)


def _phone_proof(_: Register, activity: Activity) -> Iterator[Finding]:
    for purpose in activity.purposes:
        if purpose.channel != "phone":
            continue
        periods = [activity.retention[rule].period for rule in purpose.retention]
        if not any(period is not None and _months(period) >= _PHONE_PROOF_MONTHS for period in periods):
            message = "consent to calls must be provable for five years from consent and from each use (§ 7a UWG)"
            yield Finding("warning", "phone-proof-too-short", f"{activity.id}.purposes.{purpose.key}", message)


def _months(period: Period) -> float:
    return period.months + period.exact.days / 30
