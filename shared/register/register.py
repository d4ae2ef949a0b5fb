"""The register as one value: every activity with its references resolved, and the questions services ask of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Self

from pydantic import BaseModel, ValidationError

from shared.register import check
from shared.register.canonical import canonical_json
from shared.register.errors import NotInRegister, Problem, RegisterInvalid
from shared.register.files import (
    ActivityFile,
    Authority,
    FormField,
    GradesFile,
    Locations,
    ObservedData,
    PartiesFile,
    Party,
    Policy,
    Purpose,
    Recipient,
    RegisterFile,
    Retention,
    RightsFile,
    Sender,
    SourcesFile,
    UnaskedPurpose,
    Withdrawal,
)
from shared.register.grade import Facts, Grade, GradeRule
from shared.register.grade import grade as grade_by
from shared.register.notice import Notice, parse_notice
from shared.register.read import Contents, parse_files, read_files
from shared.register.retention import due, offset
from shared.register.vocabulary import RESTRICTIVE

# The first words of a snapshot, so that its bytes can be taken for nothing else.
SNAPSHOT_FORMAT = "consent-ledger/register/1"
PACKAGED = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Activity:
    """One processing activity (GDPR Art. 30)."""

    id: str
    title: Mapping[str, str]
    controller: Party
    data_protection_officer: Party
    authority: Authority
    jurisdiction: str
    recipients: Mapping[str, Recipient]
    policy: Policy
    sender: Sender
    locations: Locations
    fields: Sequence[FormField]
    observed: Sequence[ObservedData]
    # What a person decides, each by itself, in the order of the form.
    purposes: Sequence[Purpose]
    # What happens without a choice.
    unasked_purposes: Sequence[UnaskedPurpose]
    retention: Mapping[str, Retention]
    withdrawal: Sequence[Withdrawal]
    # Statement types by the source that may state them.
    statements: Mapping[str, frozenset[str]]
    # The current notice by language.
    notices: Mapping[str, Notice]
    new_year: timezone

    def purpose(self, purpose: str, channel: str) -> Purpose:
        """Return a purpose that people decide; raises NotInRegister."""
        for asked in self.purposes:
            if (asked.id, asked.channel) == (purpose, channel):
                return asked
        raise NotInRegister("purpose", f"{purpose}/{channel}")

    def notice(self, language: str) -> Notice:
        """Return the notice that is shown now; raises NotInRegister."""
        try:
            return self.notices[language]
        except KeyError:
            raise NotInRegister("notice in the language", language) from None

    def keeps(self, data: str) -> bool:
        """Whether a field or an observed datum may be kept for this activity, for example `ip-address`."""
        return data in {field.id for field in self.fields} | {observed.id for observed in self.observed}

    def due(self, rule: str, latest: Mapping[str, datetime]) -> datetime | None:
        """Return when the retention rule ends, or None while nothing ends it; see `shared.register.retention.due`."""
        try:
            return due(self.retention[rule], latest, self.new_year)
        except KeyError:
            raise NotInRegister("retention rule", rule) from None


class Register:
    """The processing register, valid as a whole: there is no partly loaded one."""

    def __init__(self, contents: Contents) -> None:
        """Check and resolve parsed files; raises RegisterInvalid naming each file and what to do."""
        self._contents = contents
        files = _Files(contents)
        self.languages = files.register.languages
        self.parties = files.parties.parties
        self.sources = files.sources.sources
        self.rights = files.rights.rights
        self.legal_bases = files.rights.legal_bases
        self.grade_rules = MappingProxyType(
            {
                rule.version: GradeRule(
                    rule.version,
                    tuple((Grade(entry.grade), frozenset(entry.needs)) for entry in rule.grades),
                )
                for rule in files.grades.rules
            },
        )
        self.grade_rule = files.grades.current
        self.activities: Mapping[str, Activity] = MappingProxyType(
            {activity.id: files.resolve(activity) for activity in files.activities.values()},
        )
        self._notices = {notice.hash: notice for notice in files.notices.values()}
        self.http_sources = frozenset(name for name, source in self.sources.items() if source.over == "http")
        self.evidence_roles = frozenset(files.register.evidence_roles)
        self._restricting = self._restricting_sources()

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Build from the bytes of every file by its path inside the register."""
        return cls(parse_files(files))

    @classmethod
    def from_snapshot(cls, snapshot: bytes) -> Self:
        """Build from `snapshot()`; the caller has compared its SHA-256 with the version it expects."""
        problem = Problem("snapshot", "", "not a snapshot of a register", f"expected the format {SNAPSHOT_FORMAT}")
        try:
            content = json.loads(snapshot)
        except ValueError:
            raise RegisterInvalid([problem]) from None
        files = content.get("files") if isinstance(content, dict) else None
        if not isinstance(files, dict) or content.get("format") != SNAPSHOT_FORMAT:
            raise RegisterInvalid([problem])
        register = cls(files)
        if register.snapshot() != snapshot:
            raise RegisterInvalid([problem])
        return register

    @cached_property
    def version(self) -> str:
        """SHA-256 of `snapshot()`, 64 lower-case hex."""
        return hashlib.sha256(self.snapshot()).hexdigest()

    def snapshot(self) -> bytes:
        """Return everything the register says, as canonical JSON: `{"files": {path: content}, "format": …}`.

        A TOML file is its parsed value (comments and layout do not count), a notice its exact text. The bytes hash to
        `version` and suffice to rebuild the register with `from_snapshot`.
        """
        return canonical_json({"files": dict(self._contents), "format": SNAPSHOT_FORMAT})

    def activity(self, activity: str) -> Activity:
        """Return an activity; raises NotInRegister."""
        try:
            return self.activities[activity]
        except KeyError:
            raise NotInRegister("activity", activity) from None

    def controller_of(self, activity: Activity) -> str:
        """The name under which the register keeps an activity's controller, as statements write it."""
        return next(name for name, party in self.parties.items() if party == activity.controller)

    def activity_of(self, purpose: str, channel: str) -> Activity:
        """Return the one activity in which people decide this purpose; raises NotInRegister."""
        for activity in self.activities.values():
            if any((asked.id, asked.channel) == (purpose, channel) for asked in activity.purposes):
                return activity
        raise NotInRegister("purpose", f"{purpose}/{channel}")

    def purpose(self, purpose: str, channel: str) -> Purpose:
        """Return a purpose that people decide, of whichever activity; raises NotInRegister."""
        return self.activity_of(purpose, channel).purpose(purpose, channel)

    @property
    def notices(self) -> Sequence[Notice]:
        """Every notice ever published, superseded ones too."""
        return tuple(self._notices.values())

    def notice_by_hash(self, notice_hash: str) -> Notice | None:
        """Return the notice with this SHA-256, current or superseded, or None."""
        return self._notices.get(notice_hash)

    def may_state(self, source: str, statement_type: str, activity: str) -> bool:
        """Whether the source may state this type for this activity; of anything unknown: no."""
        found = self.activities.get(activity)
        return found is not None and statement_type in found.statements.get(source, frozenset())

    def restricting_sources(self, purpose: str, channel: str) -> frozenset[str]:
        """Return every source that may state a word against this purpose; a permit waits for all of their marks.

        Sources that state over HTTP have none: their word counts once it is sealed.
        Raises NotInRegister: an unknown purpose must not look like one that nobody can withdraw.
        """
        try:
            return self._restricting[purpose, channel]
        except KeyError:
            raise NotInRegister("purpose", f"{purpose}/{channel}") from None

    def grade(self, facts: Facts, rule: int | None = None) -> Grade:
        """Grade the evidence of one consent by the current rule, or by the rule of that version."""
        version = self.grade_rule if rule is None else rule
        try:
            return grade_by(facts, self.grade_rules[version])
        except KeyError:
            raise NotInRegister("grade rule", str(version)) from None

    def least_grade(self, purpose: str, channel: str) -> Grade:
        """Return the worst grade with which a permit may still be granted; raises NotInRegister."""
        return Grade(self.purpose(purpose, channel).least_grade)

    def rights_of(self, legal_basis: str) -> Sequence[str]:
        """Return the rights (DPV terms) that follow from a legal basis; raises NotInRegister."""
        try:
            return self.legal_bases[legal_basis].rights
        except KeyError:
            raise NotInRegister("legal basis", legal_basis) from None

    def export(self) -> dict[str, object]:
        """Return the register as plain data: the snapshot's content, its version, and the hash of each notice."""
        return {
            **json.loads(self.snapshot()),
            "notices": {
                f"{notice.activity}/{notice.version}.{notice.language}": notice.hash
                for notice in self._notices.values()
            },
            "version": self.version,
        }

    def _restricting_sources(self) -> Mapping[tuple[str, str], frozenset[str]]:
        return {
            (purpose.id, purpose.channel): frozenset(
                source for source, types in activity.statements.items() if types & RESTRICTIVE
            )
            - self.http_sources
            for activity in self.activities.values()
            for purpose in (*activity.purposes, *activity.unasked_purposes)
        }


class _Files:
    """Every file in its own shape, checked against all others."""

    register: RegisterFile
    parties: PartiesFile
    sources: SourcesFile
    rights: RightsFile
    grades: GradesFile

    def __init__(self, contents: Contents) -> None:
        problems: list[Problem] = []
        self.activities: dict[str, ActivityFile] = {}
        self.notices: dict[str, Notice] = {}
        shapes: dict[str, type[BaseModel]] = {
            "register": RegisterFile,
            "parties": PartiesFile,
            "sources": SourcesFile,
            "rights": RightsFile,
            "grades": GradesFile,
        }
        for name, shape in shapes.items():
            problems.extend(self._shape(f"{name}.toml", contents, shape, name))
        for path in sorted(contents):
            if path.startswith("activities/"):
                problems.extend(self._shape(path, contents, ActivityFile, None))
            elif path.startswith("notices/"):
                problems.extend(self._notice(path, contents[path]))
        # The checks below follow references, so they need every file to have its shape.
        _raise_any(problems)
        for path, content in contents.items():
            problems.extend(check.check_words(path, content, self.register.languages))
        problems.extend(check.check_rights(self.rights))
        problems.extend(check.check_grades(self.grades))
        for path, activity in self.activities.items():
            problems.extend(check.check_activity(path, activity, self.parties, self.sources, self.rights))
        problems.extend(self._across_activities())
        # The notices are held against the facts, so the facts must be complete.
        _raise_any(problems)
        for path, activity in self.activities.items():
            facts = {
                language: tuple(check.facts_to_state(activity, self.parties, self.rights, language))
                for language in self.register.languages
            }
            problems.extend(check.check_notices(path, activity, self.current(activity), facts))
        _raise_any(problems)

    def current(self, activity: ActivityFile) -> dict[str, Notice]:
        return {
            notice.language: notice
            for notice in self.notices.values()
            if notice.activity == activity.id and notice.version == activity.notice
        }

    def resolve(self, activity: ActivityFile) -> Activity:
        parties = self.parties
        return Activity(
            id=activity.id,
            title=activity.title,
            controller=parties.parties[activity.controller],
            data_protection_officer=parties.parties[activity.data_protection_officer],
            authority=parties.authorities[activity.authority],
            jurisdiction=activity.jurisdiction,
            recipients={name: parties.recipients[name] for name in activity.recipients},
            policy=activity.policy,
            sender=activity.sender,
            locations=activity.locations,
            fields=activity.fields,
            observed=activity.observed,
            purposes=activity.purposes,
            unasked_purposes=activity.unasked_purposes,
            retention={rule.id: rule for rule in activity.retention},
            withdrawal=activity.withdrawal,
            statements={source: frozenset(types) for source, types in activity.statements.items()},
            notices=self.current(activity),
            new_year=offset(self.register.new_year),
        )

    def _shape(self, path: str, contents: Contents, shape: type[BaseModel], name: str | None) -> list[Problem]:
        if path not in contents:
            return [Problem(path, "", "is missing", "add it; the packaged register shows its form")]
        try:
            # By way of JSON, because pydantic is strict about arrays and enumerations only in what it parses itself.
            value = shape.model_validate_json(canonical_json(contents[path]))
        except ValidationError as error:
            return [_problem(path, details) for details in error.errors(include_url=False, include_context=False)]
        if name is None and isinstance(value, ActivityFile):
            self.activities[path] = value
        elif name is not None:
            setattr(self, name, value)
        return []

    def _notice(self, path: str, content: object) -> Sequence[Problem]:
        try:
            self.notices[path] = parse_notice(path, str(content).encode())
        except RegisterInvalid as error:
            return error.problems
        return ()

    def _across_activities(self) -> list[Problem]:
        problems: list[Problem] = []
        # A matter names purpose and channel but no activity, so the pair has one meaning in the whole register.
        first: dict[str, str] = {}
        for path, activity in self.activities.items():
            for purpose in (*activity.purposes, *activity.unasked_purposes):
                if first.setdefault(purpose.key, path) != path:
                    what = f"{purpose.key} is a purpose of {first[purpose.key]} already"
                    problems.append(Problem(path, "purposes", what, "give it an id of its own"))
        ids = {activity.id for activity in self.activities.values()}
        hashes: dict[str, str] = {}
        for path, notice in self.notices.items():
            if notice.activity not in ids:
                what = f"no activity {notice.activity!r}"
                problems.append(Problem(path, "", what, "add its file, or correct the path"))
            if hashes.setdefault(notice.hash, path) != path:
                what = f"is the same text as {hashes[notice.hash]}"
                problems.append(Problem(path, "", what, "remove one; a hash names one notice"))
        return problems


def _raise_any(problems: Sequence[Problem]) -> None:
    if problems:
        raise RegisterInvalid(problems)


_REMEDIES = {
    "extra_forbidden": ("the key is unknown", "remove it, or correct its spelling"),
    "missing": ("the key is missing", "add it; the packaged register shows its form"),
}


def _problem(path: str, details: Mapping[str, object]) -> Problem:
    place = details["loc"]
    where = ""
    if isinstance(place, tuple):
        for part in place:
            where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    what, remedy = _REMEDIES.get(str(details["type"]), (str(details["msg"]), "correct the value"))
    return Problem(path, where, what, remedy)


def load(path: Path | None = None) -> Register:
    """Read and check the register in a folder, by default the packaged one; raises RegisterInvalid. Keep the result."""
    return Register.from_files(read_files(PACKAGED if path is None else path))
