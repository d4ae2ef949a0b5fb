"""What the files say about each other: every reference resolves, every text exists, every notice states the facts."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from shared.register.errors import Problem
from shared.register.files import (
    ActivityFile,
    GradesFile,
    PartiesFile,
    Purpose,
    RightsFile,
    SourcesFile,
    UnaskedPurpose,
)
from shared.register.notice import Notice


def check_words(file: str, value: object, languages: Iterable[str], where: str = "") -> Iterator[Problem]:
    """Every text people see exists in every language and in no other."""
    wanted = set(languages)
    if isinstance(value, Mapping):
        if value and all(re.fullmatch(r"[a-z]{2}", key) for key in value) and _are_texts(value):
            for language in sorted(wanted - set(value)):
                yield Problem(file, where, f"no text in the language {language!r}", "translate it")
            for language in sorted(set(value) - wanted):
                yield Problem(file, where, f"the language {language!r} is not one of the register's", "remove it")
        for key, item in value.items():
            yield from check_words(file, item, wanted, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from check_words(file, item, wanted, f"{where}[{number}]")


def _are_texts(value: Mapping[str, object]) -> bool:
    return all(isinstance(item, str) for item in value.values())


def check_rights(rights: RightsFile) -> Iterator[Problem]:
    """A legal basis gives only rights that are described."""
    for basis_id, basis in rights.legal_bases.items():
        for right in basis.rights:
            if right not in rights.rights:
                where = f"legal_bases.{basis_id}.rights"
                yield Problem("rights.toml", where, f"unknown right {right!r}", "describe it under [rights]")


def check_grades(grades: GradesFile) -> Iterator[Problem]:
    """Each version once, the current one among them, every fact set has a grade, best first."""
    versions = [rule.version for rule in grades.rules]
    yield from _unique("grades.toml", "rules", map(str, versions))
    if grades.current not in versions:
        yield Problem("grades.toml", "current", f"no rule has version {grades.current}", "name an existing version")
    for number, rule in enumerate(grades.rules):
        where = f"rules[{number}].grades"
        letters = [entry.grade for entry in rule.grades]
        if letters != sorted(set(letters)):
            yield Problem("grades.toml", where, "grades are not in order, each once", "list them best first")
        if rule.grades[-1].needs:
            yield Problem("grades.toml", where, "some facts would have no grade", "let the last grade need nothing")
        for better, worse in zip(rule.grades, rule.grades[1:], strict=False):
            if not set(better.needs) > set(worse.needs):
                what = f"{better.grade} does not need all that {worse.grade} needs, and more"
                yield Problem("grades.toml", where, what, "a better grade needs more facts")


def check_activity(
    file: str,
    activity: ActivityFile,
    parties: PartiesFile,
    sources: SourcesFile,
    rights: RightsFile,
) -> Iterator[Problem]:
    """Every name in an activity is the name of something, and nothing in it is without a purpose or an end."""
    if file != f"activities/{activity.id}.toml":
        yield Problem(file, "id", f"is {activity.id!r}", f"name the file activities/{activity.id}.toml")

    named = [
        ("controller", activity.controller, parties.parties, "party"),
        ("data_protection_officer", activity.data_protection_officer, parties.parties, "party"),
        ("sender.party", activity.sender.party, parties.parties, "party"),
        ("authority", activity.authority, parties.authorities, "authority"),
        *(("recipients", recipient, parties.recipients, "recipient") for recipient in activity.recipients),
    ]
    for where, name, known, kind in named:
        if name not in known:
            yield Problem(file, where, f"unknown {kind} {name!r}", "describe it in parties.toml, or correct the name")
    for source in activity.statements:
        if source not in sources.sources:
            where = f"statements.{source}"
            yield Problem(file, where, f"unknown source {source!r}", "list it in sources.toml, or correct the name")

    yield from _check_ids(file, activity)
    yield from _check_data(file, activity)
    yield from _check_purposes(file, activity, rights)
    yield from _check_interests(file, activity, rights)
    yield from _check_retention(file, activity)
    if activity.purposes and not activity.withdrawal:
        yield Problem(file, "withdrawal", "consent without a way to withdraw it", "add at least one [[withdrawal]]")


def _check_ids(file: str, activity: ActivityFile) -> Iterator[Problem]:
    yield from _unique(file, "recipients", activity.recipients)
    yield from _unique(file, "fields", (field.id for field in activity.fields))
    yield from _unique(file, "observed", (data.id for data in activity.observed))
    yield from _unique(file, "purposes", (purpose.key for purpose in _all_purposes(activity)))
    yield from _unique(file, "retention", (rule.id for rule in activity.retention))
    yield from _unique(file, "withdrawal", (way.id for way in activity.withdrawal))
    for source, types in activity.statements.items():
        yield from _unique(file, f"statements.{source}", types)


def _check_data(file: str, activity: ActivityFile) -> Iterator[Problem]:
    keys = {purpose.key for purpose in _all_purposes(activity)}
    for kind, items in (("fields", activity.fields), ("observed", activity.observed)):
        for item in items:
            where = f"{kind}.{item.id}.purposes"
            if not item.purposes:
                remedy = "name the purposes it serves, or do not collect it"
                yield Problem(file, where, "is collected without a purpose", remedy)
            yield from _unique(file, where, item.purposes)
            for key in item.purposes:
                if key not in keys:
                    yield Problem(file, where, f"unknown purpose {key!r}", "write purpose/channel of this activity")


def _check_purposes(file: str, activity: ActivityFile, rights: RightsFile) -> Iterator[Problem]:
    rules = {rule.id for rule in activity.retention}
    asked = {purpose.key for purpose in activity.purposes}
    for purpose in _all_purposes(activity):
        where = f"purposes.{purpose.key}"
        if not purpose.retention:
            yield Problem(file, f"{where}.retention", "no period is given", "name at least one [[retention]] rule")
        for rule in purpose.retention:
            if rule not in rules:
                yield Problem(file, f"{where}.retention", f"unknown rule {rule!r}", "add it under [[retention]]")
        if purpose.legal_basis not in rights.legal_bases:
            what = f"unknown legal basis {purpose.legal_basis!r}"
            yield Problem(file, f"{where}.legal_basis", what, "describe it in rights.toml, or correct the term")
        elif (rights.legal_bases[purpose.legal_basis].kind == "consent") != (purpose.key in asked):
            remedy = "ask for what rests on consent, under [[purposes]]; put all else under [[unasked_purposes]]"
            yield Problem(file, f"{where}.legal_basis", f"{purpose.legal_basis} stands in the wrong list", remedy)
    for asking in activity.purposes:
        for key in asking.depends_on:
            if key not in asked or key == asking.key:
                where = f"purposes.{asking.key}.depends_on"
                yield Problem(file, where, f"{key!r} is not decided here", "name another of the [[purposes]]")


def _check_interests(file: str, activity: ActivityFile, rights: RightsFile) -> Iterator[Problem]:
    for unasked in activity.unasked_purposes:
        basis = rights.legal_bases.get(unasked.legal_basis)
        if basis is not None and (basis.kind == "legitimate-interest") != (unasked.interest is not None):
            remedy = "state `interest` exactly where the legal basis is a legitimate interest"
            yield Problem(file, f"purposes.{unasked.key}.interest", "missing or out of place", remedy)


def _check_retention(file: str, activity: ActivityFile) -> Iterator[Problem]:
    used = {rule for purpose in _all_purposes(activity) for rule in purpose.retention}
    stated = {statement for types in activity.statements.values() for statement in types}
    for rule in activity.retention:
        where = f"retention.{rule.id}"
        if rule.id not in used:
            yield Problem(file, where, "no purpose uses it", "name it in a purpose, or remove it")
        if rule.starts and not stated & set(rule.starts):
            remedy = "start it from a fact that some source may state"
            yield Problem(file, f"{where}.starts", "no source states any of these, so it never ends", remedy)
        for period in filter(None, (rule.period, rule.review)):
            wanted = set(re.findall(r"\d+", period.iso))
            for language, words in rule.words.items():
                if not wanted <= set(re.findall(r"\d+", words)):
                    what = f"does not say {period.iso}"
                    yield Problem(file, f"{where}.words.{language}", what, "state the same period in figures")


def check_notices(
    file: str,
    activity: ActivityFile,
    notices: Mapping[str, Notice],
    facts: Mapping[str, Iterable[tuple[str, str]]],
) -> Iterator[Problem]:
    """The current notice exists in every language, has the form's fields and boxes, and states every fact.

    `notices` is the current version by language; `facts` gives for each language of the register what must stand in
    the text, word by word.
    """
    for language, statements in facts.items():
        path = f"notices/{activity.id}/{activity.notice}.{language}.md"
        if language not in notices:
            yield Problem(file, "notice", f"no text in the language {language!r}", f"write {path}")
            continue
        notice = notices[language]
        yield from _check_form(file, path, activity, notice)
        text = notice.content.decode()
        for what, words in statements:
            if words not in text:
                remedy = f"the text shown must contain: {words}"
                yield Problem(path, "", f"does not state {what} as the register has it", remedy)


def _check_form(file: str, path: str, activity: ActivityFile, notice: Notice) -> Iterator[Problem]:
    keys = [purpose.key for purpose in activity.purposes]
    fields = [field.id for field in activity.fields]
    for key in keys:
        if key not in notice.labels:
            yield Problem(path, "", f"no label for the purpose {key}", f"add a line '[ ] {key}: label'")
    for key in notice.labels:
        if key not in keys:
            yield Problem(path, "", f"a box for {key}, which {file} does not ask", "remove it, or add the purpose")
    for field in fields:
        if field not in notice.fields:
            yield Problem(path, "", f"no label for the field {field!r}", f"add a line '[____] {field}: label'")
    for field in notice.fields:
        if field not in fields:
            yield Problem(path, "", f"a field {field!r}, which {file} does not have", "remove it, or add the field")
    if [key for key in notice.labels if key in keys] != [key for key in keys if key in notice.labels]:
        yield Problem(path, "", f"the boxes stand in another order than in {file}", "put them in the same order")


def facts_to_state(
    activity: ActivityFile,
    parties: PartiesFile,
    rights: RightsFile,
    language: str,
) -> Iterator[tuple[str, str]]:
    """Yield what a notice must say about the activity, and in which words (GDPR Art. 13)."""
    for role in (activity.controller, activity.data_protection_officer):
        party = parties.parties[role]
        yield f"the name of the {role}", party.name
        for line in party.address:
            yield f"the address of the {role}", line
        yield f"the e-mail address of the {role}", party.email
    yield "the authority", parties.authorities[activity.authority].name[language]
    yield "the status date", activity.policy.words[language]
    yield "where data are processed", activity.locations.words[language]
    for recipient in activity.recipients:
        yield f"the recipient {recipient}", parties.recipients[recipient].words[language]
    for data in activity.observed:
        yield f"the data {data.id}", data.words[language]
    for rule in activity.retention:
        yield f"the retention rule {rule.id}", rule.words[language]
    for way in activity.withdrawal:
        yield f"the way to withdraw {way.id}", way.words[language]
    yield from _legal_facts(activity, rights, language)


def _legal_facts(activity: ActivityFile, rights: RightsFile, language: str) -> Iterator[tuple[str, str]]:
    needed: set[str] = set()
    for purpose in _all_purposes(activity):
        basis = rights.legal_bases[purpose.legal_basis]
        needed.update(basis.rights)
        yield f"the legal basis of {purpose.key}", basis.article[language]
        for norm in purpose.norms:
            yield f"a norm for {purpose.key}", norm[language]
    for unasked in activity.unasked_purposes:
        if unasked.interest is not None:
            yield f"the legitimate interest of {unasked.key}", unasked.interest[language]
    for right_id in sorted(needed):
        right = rights.rights[right_id]
        if right.in_notice:
            yield f"the right {right_id}", right.article[language]


def _all_purposes(activity: ActivityFile) -> tuple[Purpose | UnaskedPurpose, ...]:
    return (*activity.purposes, *activity.unasked_purposes)


def _unique(file: str, where: str, names: Iterable[str]) -> Iterator[Problem]:
    for name, times in Counter(names).items():
        if times > 1:
            yield Problem(file, where, f"{name!r} stands {times} times", "remove one of them, or rename it")
