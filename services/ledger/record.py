"""The consent record of ISO/IEC TS 27560 as JSON-LD in terms of W3C DPV 2.3, made from a statement and the register.

A record says nothing of its own: it is a rendering of the statement's words and of the register snapshot whose hash
the statement names, so whoever has both can make it again and compare (docs/formats.md §17).
Profile: https://w3id.org/dpv/schema/dpv-27560#record-eu-gdpr
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from shared.events import Statement

PROFILE: Final = "https://w3id.org/dpv/schema/dpv-27560#record-eu-gdpr"
RECORDED_TYPES: Final = frozenset(
    {"ConsentRequested", "ConsentGiven", "ConsentRefused", "ConsentWithdrawn", "ConsentExpired"}
)
"""The statements that are about a consent; uses and messages have no record of their own."""

ERASURE_TYPES: Final = {
    "ErasureOrdered": "dpv:RequestAccepted",
    "ErasureHeld": "dpv:RequestActionDelayed",
    "DataErased": "dpv:RequestRequiredActionPerformed",
    "ErasureCompleted": "dpv:RequestFulfilled",
}
"""The statements of an erasure, and what each makes of the request; their record is that of a right being exercised."""

_ERASURE: Final = "eu-gdpr:A17"

# Values of these are names, not texts.
_NAMING: Final = (
    "dct:conformsTo",
    "dct:relation",
    "dpv:hasApplicableLaw",
    "dpv:hasContact",
    "dpv:hasDataSource",
    "dpv:hasJurisdiction",
    "dpv:hasLegalBasis",
    "dpv:hasLocation",
    "dpv:hasNecessity",
    "dpv:hasProcessing",
    "dpv:hasPurpose",
    "dpv:hasRecipient",
    "dpv:isIndicatedBy",
)
_CONTEXT: Final = {
    "dct": "http://purl.org/dc/terms/",
    "dpv": "https://w3id.org/dpv#",
    "eu-gdpr": "https://w3id.org/dpv/legal/eu/gdpr#",
    "loc": "https://w3id.org/dpv/loc#",
    "pd": "https://w3id.org/dpv/pd#",
    "schema": "https://schema.org/",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    **{name: {"@type": "@id"} for name in _NAMING},
}
_INDICATED_BY: Final = {
    "person": "dpv:DataSubject",
    "representative": "dpv:Representative",
    "staff": "dpv:DataController",
    "controller": "dpv:DataController",
}
_EXPRESSION: Final = {"explicit": "dpv:ExplicitlyExpressedConsent", "expressed": "dpv:ExpressedConsent"}

Node = dict[str, Any]


class NoRecord(Exception):
    """This statement and this register do not make a record: one does not speak of what the other names."""


def record(statement: Statement, snapshot: Mapping[str, Any]) -> Node:
    """The record of one statement, `snapshot` being the parsed register snapshot it names; raises NoRecord."""
    try:
        if statement.type in RECORDED_TYPES:
            return _record(statement, snapshot["files"])
        if statement.type in ERASURE_TYPES:
            return _erasure_record(statement, snapshot["files"])
        raise NoRecord(statement.type)
    except (LookupError, TypeError, AttributeError, ValueError):
        raise NoRecord(statement.type) from None


def parse_snapshot(raw: bytes) -> Mapping[str, Any]:
    """A register snapshot as plain data; raises NoRecord."""
    try:
        snapshot = json.loads(raw)
    except (ValueError, RecursionError):
        raise NoRecord("snapshot") from None
    if not isinstance(snapshot, dict) or snapshot.get("format") != "consent-ledger/register/1":
        raise NoRecord("snapshot")
    return snapshot


def notices_of(snapshot: Mapping[str, Any], activity: str) -> dict[str, str]:
    """Every notice of an activity in a snapshot: path → exact text."""
    files = snapshot.get("files")
    if not isinstance(files, dict):
        raise NoRecord("snapshot")
    prefix = f"notices/{activity}/"
    return {path: text for path, text in files.items() if path.startswith(prefix) and isinstance(text, str)}


def _record(statement: Statement, files: Mapping[str, Any]) -> Node:
    data = statement.data
    parties = files["parties.toml"]
    activity = files[f"activities/{data.activity}.toml"]
    purposes = _purposes(activity, getattr(data, "purpose", None), getattr(data, "channel", None))
    rules = {rule["id"]: rule for rule in activity["retention"]}
    bases = [purpose["legal_basis"] for purpose in purposes]
    stated_basis = getattr(data, "legal_basis", None)
    return {
        # Header
        "@context": _CONTEXT,
        "@id": f"urn:uuid:{statement.id}",
        "@type": "dpv:ConsentRecord",
        "dct:conformsTo": PROFILE,
        "dct:identifier": statement.id,
        "dct:date": {"@type": "xsd:dateTime", "@value": statement.time},
        "dct:source": {"dct:identifier": f"sha256:{data.register_version}", "dct:title": "register"},
        **_software(data),
        "dpv:hasDataSubject": {"@type": "dpv:DataSubject", "dct:identifier": statement.subject},
        # Processing
        "dpv:hasNotice": _notices(data, activity, files),
        "dpv:hasProcess": [_process(purpose, activity, rules, parties) for purpose in purposes],
        "dpv:hasLegalBasis": [stated_basis] if stated_basis else sorted(set(bases)),
        "dpv:hasJurisdiction": f"loc:{activity['jurisdiction']}",
        "dpv:hasApplicableLaw": "eu-gdpr:GDPR",
        "dpv:hasConsentControl": [
            {"@type": "dpv:WithdrawConsent", "dct:identifier": way["id"], "dct:description": _words(way["words"])}
            for way in activity["withdrawal"]
        ],
        "dpv:hasRight": _rights([stated_basis] if stated_basis else bases, files["rights.toml"]),
        # Parties
        "dpv:hasDataController": _party(data.controller, parties),
        "dpv:hasDataProtectionOfficer": _party(activity["data_protection_officer"], parties),
        "dpv:hasAuthority": _authority(activity["authority"], parties),
        "dpv:hasRecipient": [_recipient(name, parties) for name in activity["recipients"]],
        "dct:publisher": {"dct:identifier": data.sender, "schema:name": activity["sender"]["name"]},
        # Events
        "dpv:hasConsentStatus": _event(statement, purposes, data),
    }


def _erasure_record(statement: Statement, files: Mapping[str, Any]) -> Node:
    """TS 27560 knows no record of an erasure: the same header and parties, and the right's exercise in terms of DPV."""
    data = statement.data
    parties, activity = files["parties.toml"], files[f"activities/{data.activity}.toml"]
    return {
        "@context": _CONTEXT | {name: {"@type": "@id"} for name in ("dct:isPartOf", "dpv:hasStatus")},
        "@id": f"urn:uuid:{statement.id}",
        "@type": "dpv:RightExerciseRecord",
        "dct:identifier": statement.id,
        "dct:date": {"@type": "xsd:dateTime", "@value": statement.time},
        "dct:source": {"dct:identifier": f"sha256:{data.register_version}", "dct:title": "register"},
        **_software(data),
        "dpv:hasDataSubject": {"@type": "dpv:DataSubject", "dct:identifier": statement.subject},
        "dpv:hasRight": _rights_of([_ERASURE], files["rights.toml"]),
        "dpv:hasDataController": _party(data.controller, parties),
        "dpv:hasDataProtectionOfficer": _party(activity["data_protection_officer"], parties),
        "dpv:hasAuthority": _authority(activity["authority"], parties),
        "dct:publisher": {"dct:identifier": data.sender, "schema:name": activity["sender"]["name"]},
        "dct:hasPart": _erasure_event(statement, data),
    }


def _erasure_event(statement: Statement, data: Any) -> Node:
    event: Node = {
        "@type": "dpv:RightExerciseActivity",
        "dct:identifier": statement.id,
        "dct:isPartOf": f"urn:uuid:{data.request}",
        "dpv:hasStatus": ERASURE_TYPES[statement.type],
        "dpv:hasProcessing": "dpv:Erase",
        "dpv:isIndicatedAtTime": {"@type": "xsd:dateTime", "@value": statement.time},
        "dpv:isIndicatedBy": _INDICATED_BY[data.by],
        "dpv:isImplementedByEntity": {"dct:identifier": statement.source},
    }
    reason = getattr(data, "reason", None) or getattr(data, "ground", None)
    if reason is not None:
        event["dpv:hasJustification"] = {"dct:identifier": reason}
    erased = getattr(data, "erased", [])
    if erased:
        event["dpv:hasPersonalData"] = [{"dct:identifier": name} for name in erased]
    until = getattr(data, "evidence_until", None) or getattr(data, "until", None)
    if until is not None:
        event["dpv:hasStorageCondition"] = {
            "@type": "dpv:StorageDuration",
            "dpv:hasDuration": {
                "@type": "dpv:UntilTimeDuration",
                "dct:date": {"@type": "xsd:dateTime", "@value": until},
            },
        }
    follows = getattr(data, "follows", [])
    if follows:
        event["dct:relation"] = [f"urn:uuid:{one}" for one in follows]
    return event


def _software(data: Any) -> Node:
    """What stated it, of a statement that says so. Of one that does not, the record is what it always was."""
    if not data.software:
        return {}
    return {"dpv:isImplementedUsingTechnology": {"@type": "dpv:Technology", "dct:identifier": data.software}}


def _purposes(activity: Mapping[str, Any], purpose: str | None, channel: str | None) -> list[Mapping[str, Any]]:
    """The purpose the statement names, or, where it is about everything, each that people decide."""
    found = [
        one for one in activity["purposes"] if purpose is None or (one["id"], one["channel"]) == (purpose, channel)
    ]
    if not found:
        raise LookupError(purpose)
    return found


def _process(
    purpose: Mapping[str, Any],
    activity: Mapping[str, Any],
    rules: Mapping[str, Mapping[str, Any]],
    parties: Mapping[str, Any],
) -> Node:
    key = f"{purpose['id']}/{purpose['channel']}"
    places = activity["locations"]
    return {
        "@type": "dpv:Process",
        "dct:identifier": key,
        "dct:title": _words(purpose["title"]),
        "dpv:hasService": {"dct:identifier": activity["id"], "dct:title": _words(activity["title"])},
        "dpv:hasPurpose": purpose["dpv"],
        "dpv:hasPersonalData": [
            *(
                {
                    "@type": field["dpv"],
                    "dct:identifier": field["id"],
                    "dpv:hasNecessity": "dpv:Required" if field["mandatory"] else "dpv:Optional",
                    "dpv:hasDataSource": "dpv:DataSubject",
                }
                for field in activity["fields"]
                if key in field["purposes"]
            ),
            *(
                {
                    "@type": observed["dpv"],
                    "dct:identifier": observed["id"],
                    "dct:description": _words(observed["words"]),
                    "dpv:hasDataSource": "dpv:DataController",
                }
                for observed in activity["observed"]
                if key in observed["purposes"]
            ),
        ],
        "dpv:hasStorageCondition": [
            {"@type": "dpv:StorageLocation", "dpv:hasLocation": [f"loc:{place}" for place in places["storage"]]},
            *(_duration(rules[name]) for name in purpose["retention"]),
        ],
        "dpv:hasLocation": [f"loc:{place}" for place in places["processing"]],
        "dpv:hasRule": {
            "@type": "dpv:Prohibition" if places["third_countries"] == "never" else "dpv:Permission",
            "dct:title": f"third countries: {places['third_countries']}",
            "dct:description": _words(places["words"]),
            "dpv:hasProcessing": "dpv:Transfer",
            "dpv:hasLegalBasis": [*places["transfer_grounds"], *places["safeguards"]],
        },
        "dpv:hasRecipient": sorted({parties["recipients"][name]["kind"] for name in activity["recipients"]}),
        "dpv:hasApplicableLaw": [{"@type": "dpv:Law", "dct:title": _words(norm)} for norm in purpose["norms"]],
    }


def _duration(rule: Mapping[str, Any]) -> Node:
    length: Any
    if "period" in rule or "review" in rule:
        length = {"@type": "xsd:duration", "@value": rule.get("period") or rule["review"]}
    else:
        length = {"@type": "dpv:UntilEventDuration", "dct:description": sorted(rule["at_once_on"])}
    return {
        "@type": "dpv:StorageDuration",
        "dct:identifier": rule["id"],
        "dct:description": _words(rule["words"]),
        "dpv:hasDuration": length,
    }


def _notices(data: Any, activity: Mapping[str, Any], files: Mapping[str, Any]) -> list[Node]:
    """The notice that was shown; of a statement that answers none, the ones that were current."""
    notice = getattr(data, "notice", None)
    if notice is not None:
        return [
            {
                "@type": "dpv:ConsentNotice",
                "dct:identifier": f"sha256:{notice.hash}",
                "dct:language": notice.language,
            }
        ]
    return [
        {
            "@type": "dpv:PrivacyNotice",
            "dct:identifier": f"notices/{data.activity}/{activity['notice']}.{language}.md",
            "dct:language": language,
        }
        for language in files["register.toml"]["languages"]
    ]


def _rights(bases: Iterable[str], rights: Mapping[str, Any]) -> list[Node]:
    terms = sorted({term for basis in bases for term in rights["legal_bases"][basis]["rights"]}, key=_article)
    return _rights_of(terms, rights)


def _rights_of(terms: Iterable[str], rights: Mapping[str, Any]) -> list[Node]:
    return [
        {"@type": ["dpv:DataSubjectRight", term], "dct:title": _words(rights["rights"][term]["title"])}
        for term in terms
    ]


def _article(term: str) -> tuple[int, str]:
    """Articles in the order of the law: A7-3 before A15."""
    digits = term.rpartition(":A")[2].partition("-")[0]
    return (int(digits) if digits.isdecimal() else 0, term)


def _party(name: str, parties: Mapping[str, Any]) -> Node:
    party = parties["parties"][name]
    return {
        "@type": ["dpv:LegalEntity", party["role"]],
        "dct:identifier": name,
        "dpv:hasName": party["name"],
        "dpv:hasAddress": ", ".join(party["address"]),
        "dpv:hasContact": f"mailto:{party['email']}",
        "dpv:hasJurisdiction": f"loc:{party['region']}",
    }


def _authority(name: str, parties: Mapping[str, Any]) -> Node:
    authority = parties["authorities"][name]
    return {
        "@type": "dpv:DataProtectionAuthority",
        "dct:identifier": name,
        "dpv:hasName": _words(authority["name"]),
        "dpv:hasContact": authority["website"],
        "dpv:hasJurisdiction": f"loc:{authority['region']}",
    }


def _recipient(name: str, parties: Mapping[str, Any]) -> Node:
    recipient = parties["recipients"][name]
    return {
        "@type": ["dpv:Recipient", recipient["kind"]],
        "dct:identifier": name,
        "dct:description": _words(recipient["words"]),
    }


def _event(statement: Statement, purposes: Iterable[Mapping[str, Any]], data: Any) -> Node:
    kinds = [f"dpv:{data.status}"]
    expression = getattr(data, "expression", None)
    if expression is not None:
        kinds.append(_EXPRESSION[expression])
    valid = sorted({purpose["valid"] for purpose in purposes})
    event: Node = {
        "@type": kinds,
        "dct:identifier": statement.id,
        "dpv:isIndicatedAtTime": {"@type": "xsd:dateTime", "@value": statement.time},
        "dpv:isIndicatedBy": _INDICATED_BY[data.by],
        "dpv:hasDuration": [
            {"@type": "dpv:UntilEventDuration", "dct:description": "dpv:WithdrawConsent"}
            if one == "until-withdrawn"
            else {"@type": "xsd:duration", "@value": one}
            for one in valid
        ],
    }
    method = getattr(data, "method", None)
    if method is not None:
        event["dpv:hasIndicationMethod"] = method
    follows = getattr(data, "follows", [])
    if follows:
        event["dct:relation"] = [f"urn:uuid:{one}" for one in follows]
    return event


def _words(words: Mapping[str, str]) -> list[Node]:
    """A text by language, as JSON-LD has it."""
    return [{"@language": language, "@value": words[language]} for language in sorted(words)]
