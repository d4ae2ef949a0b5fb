"""A notice is the exact text shown, strictly read, and it states what the register states."""

import hashlib
from collections.abc import Callable

import pytest

from shared.register import NotInRegister, Register, RegisterInvalid, load
from shared.register.notice import parse_notice
from shared.register.read import read_files
from shared.register.register import PACKAGED

PATH = "notices/newsletter/1.de.md"
SMALL = """# Title

Lead.

[____] email: Address

[ ] newsletter/email: Yes.

[>] Send

## Heading

Paragraph.

- one
- two
"""


@pytest.mark.parametrize("language", ["de", "en"])
def test_the_name_of_a_notice_is_the_hash_of_the_text_shown(language: str) -> None:
    register = load()
    notice = register.activity("newsletter").notice(language)

    assert notice.hash == hashlib.sha256(notice.text()).hexdigest()
    assert register.notice_by_hash(notice.hash) is notice
    assert register.notice_by_hash("00" * 32) is None
    assert (notice.activity, notice.language, notice.version) == ("newsletter", language, 1)


@pytest.mark.parametrize("language", ["de", "en"])
def test_everything_a_page_shows_of_a_notice_is_in_the_hashed_text(language: str) -> None:
    notice = load().activity("newsletter").notice(language)
    shown = [notice.title, notice.button, *notice.labels.values(), *notice.fields.values()]
    for paragraphs in (notice.lead, *(section.paragraphs for section in notice.sections)):
        for block in paragraphs:
            shown.extend([block] if isinstance(block, str) else block)
    shown.extend(section.heading for section in notice.sections)

    text = notice.text().decode()
    assert all(words in text for words in shown)
    marks = {"#", "##", "-", "[____]", "[", "]", "[>]", "email:", "newsletter/email:", "newsletter-clicks/email:"}
    assert sorted(text.split()) == sorted(
        [word for words in shown for word in words.split()] + [word for word in text.split() if word in marks],
    )


@pytest.mark.parametrize("language", ["de", "en"])
def test_each_purpose_has_a_box_of_its_own_and_none_is_ticked(language: str) -> None:
    activity = load().activity("newsletter")
    notice = activity.notice(language)

    assert [choice.key for choice in notice.choices] == [purpose.key for purpose in activity.purposes]
    assert not any(choice.ticked for choice in notice.choices)
    assert notice.label("newsletter", "email") == notice.labels["newsletter/email"]
    with pytest.raises(NotInRegister):
        notice.label("newsletter", "phone")


def test_both_languages_say_the_same_in_the_same_places() -> None:
    german, english = (load().activity("newsletter").notice(language) for language in ("de", "en"))

    def shape(paragraphs: object) -> list[int]:
        assert isinstance(paragraphs, tuple)
        return [0 if isinstance(block, str) else len(block) for block in paragraphs]

    assert shape(german.lead) == shape(english.lead)
    assert [shape(section.paragraphs) for section in german.sections] == [
        shape(section.paragraphs) for section in english.sections
    ]


@pytest.mark.parametrize(
    ("language", "facts"),
    [
        (
            "de",
            ["Double-Opt-in", "48 Stunden", "14 Tagen", "Beweislast", "jederzeit", "Zukunft", "CSV", "5. Februar 2020"],
        ),
        (
            "en",
            ["double opt-in", "48 hours", "14 days", "burden of proof", "any time", "future", "CSV", "5 February 2020"],
        ),
    ],
)
def test_the_notice_states_the_facts_of_the_policy(language: str, facts: list[str]) -> None:
    text = load().activity("newsletter").notice(language).text().decode()

    assert [fact for fact in facts if fact not in text] == []
    assert "T-Systems" not in text


def test_a_notice_is_read_into_title_lead_form_and_sections() -> None:
    notice = parse_notice(PATH, SMALL.encode())

    assert notice.title == "Title"
    assert notice.lead == ("Lead.",)
    assert notice.fields == {"email": "Address"}
    assert notice.labels == {"newsletter/email": "Yes."}
    assert notice.button == "Send"
    assert [(section.heading, section.paragraphs) for section in notice.sections] == [
        ("Heading", ("Paragraph.", ("one", "two"))),
    ]


def test_a_notice_without_a_form_is_a_notice_too() -> None:
    notice = parse_notice(PATH, b"# Server logs\n\n## What is logged\n\nLittle.\n")

    assert notice.choices == ()
    assert notice.button == ""


MALFORMED: dict[str, tuple[str, str, str]] = {
    "a box ticked in advance": ("[ ] newsletter", "[x] newsletter", "ticked in advance; write '[ ]'"),
    "a placeholder in braces": ("Paragraph.", "Dear {name}.", "the placeholder '{' is not resolved"),
    "a placeholder in pointed brackets": ("Paragraph.", "Write to <address>.", "the placeholder '<address>'"),
    "a note to oneself": ("Paragraph.", "TODO say why", "the placeholder 'TODO'"),
    "a box asked twice": ("[>] Send", "[ ] newsletter/email: Again.\n\n[>] Send", "a second time"),
    "a field asked twice": ("[>] Send", "[____] email: Again\n\n[>] Send", "a second time"),
    "a form without a button": ("[>] Send\n\n", "", "a form without a button"),
    "a mark nobody knows": ("[>] Send", "[?] Send", "is no field, box or button"),
    "no title": ("# Title\n\n", "", "is not a title"),
    "a second title": ("## Heading", "# Heading", "wrong place"),
    "a box in a section": ("- one\n- two", "[ ] newsletter/email: Hidden.", "wrong place"),
    "text between form and sections": ("## Heading", "Stray.\n\n## Heading", "stands after the form"),
    "a field after the button": ("## Heading", "[____] phone: Number\n\n## Heading", "stands outside the form"),
    "a heading with nothing beneath": ("## Heading", "## Empty\n\n## Heading", "has nothing beneath it"),
    "a paragraph over two lines": ("Paragraph.", "Para-\ngraph.", "is broken over lines"),
    "two blank lines": ("Lead.\n\n", "Lead.\n\n\n", "blank lines are not single"),
    "a space at an end of a line": ("Lead.", "Lead. ", "invisible characters"),
    "a soft hyphen": ("Lead.", "Le\u00adad.", "invisible characters"),
    "a carriage return": ("Lead.", "Lead.\r", "invisible characters"),
    "a letter and a combining mark": ("Lead.", "Le\u0301ad.", "not in Unicode normal form C"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_not_in_the_form_of_a_notice_is_refused(case: str) -> None:
    old, new, message = MALFORMED[case]
    assert old in SMALL

    with pytest.raises(RegisterInvalid) as refusal:
        parse_notice(PATH, SMALL.replace(old, new).encode())

    assert message in str(refusal.value)
    assert str(refusal.value).startswith(f"{PATH}: ")


@pytest.mark.parametrize("content", [b"", b"# Title", b"\xef\xbb\xbf# Title\n", b"# Title\n\n", b"\xff\n"])
def test_other_bytes_are_no_notice(content: bytes) -> None:
    with pytest.raises(RegisterInvalid):
        parse_notice(PATH, content)


@pytest.mark.parametrize("path", ["notices/1.de.md", "notices/newsletter/0.de.md", "notices/newsletter/1.deu.md"])
def test_a_notice_under_another_path_is_refused(path: str) -> None:
    with pytest.raises(RegisterInvalid, match="another path"):
        parse_notice(path, SMALL.encode())


def _replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        assert old.encode() in content, f"the notice has changed; this test edits {old!r}"
        return content.replace(old.encode(), new.encode())

    return apply


UNTRUE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a box is missing": (
        lambda content: b"\n\n".join(block for block in content.split(b"\n\n") if b"newsletter-clicks/" not in block),
        "no label for the purpose newsletter-clicks/email; add a line '[ ] newsletter-clicks/email: label'",
    ),
    "a box too many": (
        _replaced("[>] ", "[ ] profit/email: Ja.\n\n[>] "),
        "a box for profit/email, which activities/newsletter.toml does not ask",
    ),
    "a field is missing": (
        _replaced("[____] email: E-Mail-Adresse (erforderlich)\n\n", ""),
        "no label for the field 'email'",
    ),
    "a field too many": (_replaced("[>] ", "[____] phone: Telefon\n\n[>] "), "a field 'phone', which"),
    "boxes in another order": (
        lambda content: (
            content.replace(b"[ ] newsletter/email", b"[ ] swap/email")
            .replace(b"[ ] newsletter-clicks/email", b"[ ] newsletter/email")
            .replace(b"[ ] swap/email", b"[ ] newsletter-clicks/email")
        ),
        "the boxes stand in another order",
    ),
    "another controller": (
        _replaced("Beispielwerk GmbH", "Anderswerk AG"),
        "does not state the name of the controller",
    ),
    "another address": (_replaced("Musterweg 5", "Musterweg 6"), "does not state the address of the controller"),
    "another officer": (_replaced("Dr. Mara Beispiel", "Frau Muster"), "the name of the data-protection-officer"),
    "another period": (_replaced("nach 14 Tagen", "nach 30 Tagen"), "the retention rule unconfirmed-request"),
    "no authority": (_replaced("Landesbeauftragte", "Behörde"), "does not state the authority"),
    "no objection": (_replaced(" (Art. 21 DSGVO)", ""), "does not state the right eu-gdpr:A21"),
    "no way out by letter": (
        _replaced("- per Brief an die oben genannte Anschrift\n", ""),
        "the way to withdraw letter",
    ),
    "no legal basis": (
        _replaced("Art. 6 Abs. 1 Satz 1 Buchst. f DSGVO", "Art. 6"),
        "the legal basis of newsletter-proof",
    ),
    "no word on advertising law": (_replaced(", § 7 Abs. 2 Nr. 2 UWG", ""), "a norm for newsletter/email"),
    "no interest": (_replaced("(Beweislast)", ""), "the legitimate interest of newsletter-proof/internal"),
    "no status": (_replaced("5. Februar 2020", "gestern"), "does not state the status date"),
}


@pytest.mark.parametrize("case", UNTRUE)
def test_a_current_notice_that_differs_from_the_register_is_refused(case: str) -> None:
    change, message = UNTRUE[case]
    files = read_files(PACKAGED)
    files[PATH] = change(files[PATH])
    files["notices.lock"] = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {path}\n"
        for path, content in files.items()
        if path.startswith("notices/")
    ).encode()

    with pytest.raises(RegisterInvalid) as refusal:
        Register.from_files(files)

    assert message in str(refusal.value)
    assert all(problem.file == PATH for problem in refusal.value.problems)
