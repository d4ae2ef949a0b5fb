"""A register that contradicts itself is refused, with the file named and what to do."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.register import Register, RegisterInvalid, load
from shared.register.read import read_files
from shared.register.register import PACKAGED

Files = dict[str, bytes]
NEWSLETTER = "activities/newsletter.toml"
GERMAN = "notices/newsletter/1.de.md"
ENGLISH = "notices/newsletter/1.en.md"


def edit(path: str, old: str, new: str) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        text = files[path].decode()
        assert old in text, f"{path} has changed; this test edits {old!r}"
        files[path] = text.replace(old, new, 1).encode()

    return apply


def drop(path: str, pattern: str) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        text = files[path].decode()
        changed = re.sub(pattern, "", text, count=1, flags=re.DOTALL)
        assert changed != text, f"{path} has changed; this test removes {pattern!r}"
        files[path] = changed.encode()

    return apply


def add(path: str, more: str) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        files[path] = files.get(path, b"") + more.encode()

    return apply


def remove(path: str) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        del files[path]

    return apply


def relock(files: Files) -> None:
    notices = sorted(path for path in files if path.startswith("notices/"))
    lines = (f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in notices)
    files["notices.lock"] = "".join(lines).encode()


def unpublish_english(files: Files) -> None:
    del files[ENGLISH]
    relock(files)


ONE_MORE_FIELD = """
[[fields]]
id = "{id}"
kind = "email"
mandatory = false
dpv = "pd:EmailAddress"
purposes = {purposes}

[[observed]]"""

# what is wrong, the edit, the file that the error names, what it says
CASES: dict[str, tuple[Callable[[Files], None], str, str]] = {
    "an unknown key": (
        edit(NEWSLETTER, 'jurisdiction = "DE"', 'jurisdiction = "DE"\nfavourite_colour = "blue"'),
        NEWSLETTER,
        "favourite_colour: the key is unknown; remove it",
    ),
    "an unknown key deep inside": (
        edit(NEWSLETTER, "mandatory = true", "mandatory = true\npre_ticked = true"),
        NEWSLETTER,
        "fields[0].pre_ticked: the key is unknown",
    ),
    "a missing key": (
        edit(NEWSLETTER, 'authority = "state-nrw"\n', ""),
        NEWSLETTER,
        "authority: the key is missing; add it",
    ),
    "a word where a truth value belongs": (
        edit(NEWSLETTER, "mandatory = true", 'mandatory = "yes"'),
        NEWSLETTER,
        "fields[0].mandatory: Input should be a valid boolean",
    ),
    "a number as text": (
        edit(NEWSLETTER, "notice = 1", 'notice = "1"'),
        NEWSLETTER,
        "notice: Input should be a valid integer",
    ),
    "a TOML date": (
        edit(NEWSLETTER, 'status = "2020-02-05"', "status = 2020-02-05"),
        NEWSLETTER,
        "policy.status: a date has no canonical form; write it as a string",
    ),
    "broken TOML": (add("parties.toml", "[[["), "parties.toml", "not TOML"),
    "bytes that are no text": (
        lambda files: files.update({"parties.toml": b"\xff"}),
        "parties.toml",
        "not UTF-8",
    ),
    "a file that nobody reads": (add("activities/readme.txt", "hello"), "activities/readme.txt", "is read by nobody"),
    "a missing file": (remove("rights.toml"), "rights.toml", "is missing; add it"),
    "a missing lock": (remove("notices.lock"), "notices.lock", "is missing; add it"),
    "a file named after another activity": (
        edit(NEWSLETTER, 'id = "newsletter"\ntitle', 'id = "newsletters"\ntitle'),
        NEWSLETTER,
        "name the file activities/newsletters.toml",
    ),
    "the same purpose twice": (
        edit(NEWSLETTER, 'id = "newsletter-clicks"\nchannel', 'id = "newsletter"\nchannel'),
        NEWSLETTER,
        "'newsletter/email' stands 2 times",
    ),
    "the same field twice": (
        edit(NEWSLETTER, "\n[[observed]]", ONE_MORE_FIELD.format(id="email", purposes='["newsletter/email"]')),
        NEWSLETTER,
        "fields: 'email' stands 2 times",
    ),
    "the same retention rule twice": (
        edit(NEWSLETTER, 'id = "unconfirmed-request"', 'id = "confirmation-link"'),
        NEWSLETTER,
        "retention: 'confirmation-link' stands 2 times",
    ),
    "a field without a purpose": (
        edit(NEWSLETTER, "\n[[observed]]", ONE_MORE_FIELD.format(id="second-email", purposes="[]")),
        NEWSLETTER,
        "fields.second-email.purposes: is collected without a purpose; name the purposes it serves",
    ),
    "a field for a purpose that is not there": (
        edit(NEWSLETTER, "\n[[observed]]", ONE_MORE_FIELD.format(id="second-email", purposes='["profit/email"]')),
        NEWSLETTER,
        "unknown purpose 'profit/email'",
    ),
    "a purpose without retention": (
        edit(NEWSLETTER, 'retention = ["suppression"]', "retention = []"),
        NEWSLETTER,
        "purposes.newsletter-suppression/internal.retention: no period is given; name at least one [[retention]] rule",
    ),
    "a purpose with an unknown retention rule": (
        edit(NEWSLETTER, 'retention = ["suppression"]', 'retention = ["forever"]'),
        NEWSLETTER,
        "unknown rule 'forever'",
    ),
    "a retention rule that no purpose uses": (
        edit(NEWSLETTER, 'retention = ["suppression"]', 'retention = ["evidence"]'),
        NEWSLETTER,
        "retention.suppression: no purpose uses it",
    ),
    "a retention rule without an end": (
        edit(NEWSLETTER, 'starts = ["ConsentRequested"]\nperiod = "P14D"\n', ""),
        NEWSLETTER,
        "needs a period, a review or at_once_on",
    ),
    "a period and a review": (
        edit(NEWSLETTER, 'review = "P12M"', 'review = "P12M"\nperiod = "P12M"'),
        NEWSLETTER,
        "has a period and a review",
    ),
    "a period from nowhere": (
        edit(NEWSLETTER, 'starts = ["ConsentRequested"]\nperiod = "P14D"', 'period = "P14D"'),
        NEWSLETTER,
        "starts belongs to a period",
    ),
    "a review to the end of the year": (
        edit(NEWSLETTER, 'review = "P12M"', 'review = "P12M"\nuntil = "end-of-year"'),
        NEWSLETTER,
        "end-of-year belongs to a period",
    ),
    "a period that starts with what nobody states": (
        edit(
            NEWSLETTER, 'starts = ["ConsentRequested"]\nperiod = "P14D"', 'starts = ["DataCollected"]\nperiod = "P14D"'
        ),
        NEWSLETTER,
        "no source states any of these",
    ),
    "a period in words of its own": (
        edit(NEWSLETTER, 'period = "P14D"', 'period = "fortnight"'),
        NEWSLETTER,
        "not an ISO 8601 duration",
    ),
    "a period other than its words": (
        edit(NEWSLETTER, 'period = "P14D"', 'period = "P30D"'),
        NEWSLETTER,
        "retention.unconfirmed-request.words.de: does not say P30D; state the same period in figures",
    ),
    "an unknown statement type": (
        edit(NEWSLETTER, 'marketing = ["ConsentUsed"', 'marketing = ["ConsentAssumed"'),
        NEWSLETTER,
        "statements.marketing[0]: Input should be 'NoticePublished'",
    ),
    "an unknown source": (
        edit(NEWSLETTER, 'marketing = ["ConsentUsed"', 'partner = ["ConsentUsed"'),
        NEWSLETTER,
        "statements.partner: unknown source 'partner'; list it in sources.toml",
    ),
    "an unknown controller": (
        edit(NEWSLETTER, 'controller = "controller"', 'controller = "someone"'),
        NEWSLETTER,
        "controller: unknown party 'someone'; describe it in parties.toml",
    ),
    "an unknown authority": (
        edit(NEWSLETTER, 'authority = "state-nrw"', 'authority = "nobody"'),
        NEWSLETTER,
        "unknown authority 'nobody'",
    ),
    "an unknown recipient": (
        edit(NEWSLETTER, '"processors-it", ', '"brokers", '),
        NEWSLETTER,
        "recipients: unknown recipient 'brokers'",
    ),
    "an unknown legal basis": (
        edit(NEWSLETTER, 'legal_basis = "eu-gdpr:A6-1-f"', 'legal_basis = "eu-gdpr:A6-1-z"'),
        NEWSLETTER,
        "unknown legal basis 'eu-gdpr:A6-1-z'; describe it in rights.toml",
    ),
    "a box for what needs no consent": (
        edit(NEWSLETTER, 'legal_basis = "eu-gdpr:A6-1-a-explicit-consent"', 'legal_basis = "eu-gdpr:A6-1-b"'),
        NEWSLETTER,
        "purposes.newsletter/email.legal_basis: eu-gdpr:A6-1-b stands in the wrong list",
    ),
    "consent that nobody asks for": (
        edit(NEWSLETTER, 'legal_basis = "eu-gdpr:A6-1-f"', 'legal_basis = "eu-gdpr:A6-1-a"'),
        NEWSLETTER,
        "purposes.newsletter-proof/internal.legal_basis: eu-gdpr:A6-1-a stands in the wrong list",
    ),
    "a legitimate interest that is not stated": (
        drop(NEWSLETTER, r"\[unasked_purposes\.interest\]\nde = [^\n]*Beweislast[^\n]*\nen = [^\n]*\n"),
        NEWSLETTER,
        "purposes.newsletter-proof/internal.interest: missing",
    ),
    "a purpose that depends on nothing known": (
        edit(NEWSLETTER, 'depends_on = ["newsletter/email"]', 'depends_on = ["newsletter/phone"]'),
        NEWSLETTER,
        "'newsletter/phone' is not decided here",
    ),
    "no way to withdraw": (
        lambda files: files.update(
            {
                NEWSLETTER: b"withdrawal = []\n"
                + re.sub(rb"\[\[withdrawal\]\].*?(?=# Which source)", b"", files[NEWSLETTER], flags=re.DOTALL),
            },
        ),
        NEWSLETTER,
        "withdrawal: consent without a way to withdraw it",
    ),
    "a purpose id that no matter can carry": (
        edit(NEWSLETTER, 'id = "newsletter-clicks"\nchannel', 'id = "Newsletter Clicks"\nchannel'),
        NEWSLETTER,
        "purposes[1].id: String should match pattern",
    ),
    "a text in one language only": (
        edit(NEWSLETTER, 'words.en = "by e-mail to newsletter@example.org"\n', ""),
        NEWSLETTER,
        "withdrawal[2].words: no text in the language 'en'; translate it",
    ),
    "a text in a language nobody offers": (
        edit(NEWSLETTER, 'title = { de = "Newsletter", en', 'title = { de = "Newsletter", fr = "Lettre", en'),
        NEWSLETTER,
        "title: the language 'fr' is not one of the register's",
    ),
    "a language without a notice": (
        unpublish_english,
        NEWSLETTER,
        "notice: no text in the language 'en'; write notices/newsletter/1.en.md",
    ),
    "a current version that was never written": (
        edit(NEWSLETTER, "notice = 1", "notice = 2"),
        NEWSLETTER,
        "no text in the language 'de'; write notices/newsletter/2.de.md",
    ),
    "an unknown right": (
        edit("rights.toml", '"eu-gdpr:A13", "eu-gdpr:A15", "eu-gdpr:A16", "eu-gdpr:A18"', '"eu-gdpr:A99"'),
        "rights.toml",
        "unknown right 'eu-gdpr:A99'",
    ),
    "a grade rule that is not there": (edit("grades.toml", "current = 2", "current = 3"), "grades.toml", "no rule has"),
    "a grade rule twice": (
        lambda files: files.update(
            {"grades.toml": files["grades.toml"] + b"[[rules]]" + files["grades.toml"].partition(b"[[rules]]")[2]},
        ),
        "grades.toml",
        "rules: '1' stands 2 times",
    ),
    "facts without a grade": (
        edit("grades.toml", "needs = []", 'needs = ["request_recorded"]'),
        "grades.toml",
        "let the last grade need nothing",
    ),
    "a better grade for fewer facts": (
        edit("grades.toml", '"served_notice_verified", "request_recorded", "confirmation_mail_archived"]', "]"),
        "grades.toml",
        "A does not need all that B needs",
    ),
    "grades out of order": (edit("grades.toml", 'grade = "A"', 'grade = "C"'), "grades.toml", "not in order"),
    "a grade from a fact that nobody computes": (
        edit("grades.toml", '"request_recorded"', '"good_feeling"'),
        "grades.toml",
        "rules[0].grades[0].needs[2]: Input should be",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_error_names_the_file_and_says_what_to_do(case: str) -> None:
    change, file, message = CASES[case]
    files = read_files(PACKAGED)
    change(files)

    with pytest.raises(RegisterInvalid) as refusal:
        Register.from_files(files)

    problems = [problem for problem in refusal.value.problems if problem.file == file and message in str(problem)]
    assert problems, str(refusal.value)
    assert problems[0].remedy
    assert str(problems[0]) in str(refusal.value)


def test_two_activities_cannot_give_one_purpose_two_meanings() -> None:
    files = read_files(PACKAGED)
    files["activities/letter.toml"] = files[NEWSLETTER].replace(b'id = "newsletter"\ntitle', b'id = "letter"\ntitle')

    with pytest.raises(RegisterInvalid, match=r"newsletter/email is a purpose of activities/letter.toml already"):
        Register.from_files(files)


def test_every_mistake_is_reported_at_once() -> None:
    files = read_files(PACKAGED)
    edit(NEWSLETTER, 'controller = "controller"', 'controller = "someone"')(files)
    edit(NEWSLETTER, 'authority = "state-nrw"', 'authority = "nobody"')(files)

    with pytest.raises(RegisterInvalid) as refusal:
        Register.from_files(files)

    assert {problem.where for problem in refusal.value.problems} == {"controller", "authority"}


def test_a_published_notice_cannot_be_edited() -> None:
    files = read_files(PACKAGED)
    edit(GERMAN, "Kein Häkchen", "Kein  Häkchen")(files)

    with pytest.raises(
        RegisterInvalid, match=r"was published and has been edited; restore it and write the next version"
    ):
        Register.from_files(files)


def test_a_published_notice_cannot_disappear() -> None:
    files = read_files(PACKAGED)
    remove(GERMAN)(files)

    with pytest.raises(RegisterInvalid, match=r"was published and is gone; restore it"):
        Register.from_files(files)


def test_a_new_notice_counts_only_when_it_is_in_the_lock() -> None:
    files = read_files(PACKAGED)
    files["notices/newsletter/2.de.md"] = files[GERMAN].replace(b"Fassung 1", b"Fassung 2")

    with pytest.raises(
        RegisterInvalid, match=r"is not published yet; when the text is final, add to notices.lock: [0-9a-f]{64}"
    ):
        Register.from_files(files)


def test_the_lock_names_each_notice_once() -> None:
    files = read_files(PACKAGED)
    files["notices.lock"] += files["notices.lock"].splitlines(keepends=True)[0]

    with pytest.raises(RegisterInvalid, match=r"notices.lock: line 3"):
        Register.from_files(files)


def test_a_superseded_notice_stays_loadable_by_its_hash() -> None:
    before = load()
    files = read_files(PACKAGED)
    for language, old, new in (("de", "Fassung 1", "Fassung 2"), ("en", "Version 1", "Version 2")):
        text = files[f"notices/newsletter/1.{language}.md"].decode()
        assert old in text
        files[f"notices/newsletter/2.{language}.md"] = text.replace(old, new).encode()
    edit(NEWSLETTER, "notice = 1", "notice = 2")(files)
    relock(files)

    after = Register.from_files(files)

    first = before.activity("newsletter").notice("de")
    assert after.activity("newsletter").notice("de").version == 2
    assert after.activity("newsletter").notice("de").hash != first.hash
    superseded = after.notice_by_hash(first.hash)
    assert superseded is not None
    assert superseded.text() == first.text()
    assert after.version != before.version


def test_one_text_under_two_versions_is_refused() -> None:
    files = read_files(PACKAGED)
    files["notices/newsletter/2.de.md"] = files[GERMAN]
    relock(files)

    with pytest.raises(RegisterInvalid, match=r"is the same text as notices/newsletter/1.de.md"):
        Register.from_files(files)


def test_a_notice_of_an_unknown_activity_is_refused() -> None:
    files = read_files(PACKAGED)
    files["notices/chat/1.de.md"] = b"# Chat\n"
    relock(files)

    with pytest.raises(RegisterInvalid, match="no activity 'chat'"):
        Register.from_files(files)


def test_a_register_in_a_folder_of_its_own_is_read_from_there(tmp_path: Path) -> None:
    for path, content in read_files(PACKAGED).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content.replace(b"Beispielwerk Newsletter", b"Anderswerk Newsletter"))

    assert load(tmp_path).activity("newsletter").sender.name == "Anderswerk Newsletter"
