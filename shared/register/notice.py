"""A notice: the exact text a person is shown before deciding, and what its marks mean.

The file is the text, and the SHA-256 of its bytes is its name for ever: wording, labels, button and the state of each
box before anyone touches it are all inside. Blocks are separated by one blank line:

    # title                            first, once
    a paragraph                        one line
    - an item of a list                lines of one block
    [____] field: label                a field of the form
    [ ] purpose/channel: label         a box, not ticked; `[x]` would be a box ticked in advance and is refused
    [>] label                          the button, right after fields and boxes
    ## heading                         starts a section; sections follow the form
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from shared.register.errors import NotInRegister, Problem, RegisterInvalid

# A paragraph, or the items of a list.
Block = str | tuple[str, ...]

_PATH = re.compile(r"notices/(?P<activity>[^/]+)/(?P<version>[1-9][0-9]*)\.(?P<language>[a-z]{2})\.md")
_FIELD = re.compile(r"\[____\] (?P<field>[a-z0-9._-]+): (?P<label>.+)")
_CHOICE = re.compile(r"\[(?P<state>.)\] (?P<purpose>[a-z0-9._-]+)/(?P<channel>[a-z0-9._-]+): (?P<label>.+)")
_BUTTON = re.compile(r"\[>\] (?P<label>.+)")
# What an author leaves behind: a template's braces, a tag, a note to oneself.
_PLACEHOLDER = re.compile(r"[{}]|<[^>\n]*>|\$\w+|%\w\b|\b(?:TODO|FIXME|TBD|XXX)\b")


@dataclass(frozen=True, slots=True)
class Choice:
    """One box of the form: what the person decides by itself. It is never ticked in advance."""

    purpose: str
    channel: str
    label: str
    ticked: bool = False

    @property
    def key(self) -> str:
        """`purpose/channel`, as in the matter of the statement."""
        return f"{self.purpose}/{self.channel}"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands beneath it: a string is a paragraph, a tuple the items of a list."""

    heading: str
    paragraphs: Sequence[Block]


@dataclass(frozen=True)
class Notice:
    """One published text in one language and version."""

    activity: str
    language: str
    version: int
    content: bytes
    title: str
    lead: Sequence[Block]
    fields: Mapping[str, str]
    choices: Sequence[Choice]
    button: str
    sections: Sequence[Section]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of `text()`, 64 lower-case hex."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def labels(self) -> Mapping[str, str]:
        """The label of each box, by `purpose/channel`, in the order of the form."""
        return {choice.key: choice.label for choice in self.choices}

    def label(self, purpose: str, channel: str) -> str:
        """Return the label of one box; raises NotInRegister."""
        for choice in self.choices:
            if (choice.purpose, choice.channel) == (purpose, channel):
                return choice.label
        raise NotInRegister("label", f"{purpose}/{channel}")

    def text(self) -> bytes:
        """Return the exact bytes whose SHA-256 is `hash`."""
        return self.content


def parse_notice(file: str, content: bytes) -> Notice:
    """Read a notice strictly; whatever is not in the form of the module's docstring raises RegisterInvalid."""
    path = _PATH.fullmatch(file)
    if path is None:
        raise _invalid(file, "", "a notice has another path", "name it notices/<activity>/<version>.<language>.md")
    reader = _Reader(file)
    for block in _decode(file, content)[:-1].split("\n\n"):
        reader.read(block)
    reader.finish()
    return Notice(
        activity=path["activity"],
        language=path["language"],
        version=int(path["version"]),
        content=content,
        title=reader.title,
        lead=tuple(reader.lead),
        fields=reader.fields,
        choices=tuple(reader.choices),
        button=reader.button,
        sections=tuple(Section(heading, tuple(paragraphs)) for heading, paragraphs in reader.sections),
    )


def _decode(file: str, content: bytes) -> str:
    # One text has one sequence of bytes: otherwise the same words could be published under two hashes.
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid(file, "", "not UTF-8", "save it as UTF-8") from None
    if unicodedata.normalize("NFC", text) != text or text.startswith("\ufeff"):
        raise _invalid(file, "", "not in Unicode normal form C", "save it as NFC without a byte order mark")
    if not text.endswith("\n") or text.endswith("\n\n") or "\n\n\n" in text:
        raise _invalid(file, "", "blank lines are not single", "put one between blocks and end with a newline")
    for number, line in enumerate(text.split("\n"), start=1):
        if line != line.strip() or any(unicodedata.category(character) in {"Cc", "Cf"} for character in line):
            raise _invalid(file, f"line {number}", "invisible characters or spaces at an end", "remove them")
        if placeholder := _PLACEHOLDER.search(line):
            what = f"the placeholder {placeholder.group()!r} is not resolved"
            raise _invalid(file, f"line {number}", what, "write the words that people shall read")
    return text


class _Reader:
    """Collects the blocks of one notice in the order title, lead, form, sections."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.title = ""
        self.lead: list[Block] = []
        self.fields: dict[str, str] = {}
        self.choices: list[Choice] = []
        self.button = ""
        self.sections: list[tuple[str, list[Block]]] = []

    def read(self, block: str) -> None:
        if block.startswith("[") and not self.sections:
            self._form_element(block)
        elif not self.title:
            self._title(block)
        elif block.startswith("## ") and "\n" not in block:
            self.sections.append((block.removeprefix("## "), []))
        elif block.startswith(("#", "[")):
            raise self._refuse(block, "is a mark in the wrong place", "see the order of a notice in its file format")
        elif self.sections:
            self.sections[-1][1].append(self._paragraph(block))
        elif self.fields or self.choices or self.button:
            raise self._refuse(block, "stands after the form", "put it under a heading, or before the form")
        else:
            self.lead.append(self._paragraph(block))

    def finish(self) -> None:
        if not self.title:
            raise _invalid(self.file, "", "no title", "start with a line '# title'")
        if (self.fields or self.choices) and not self.button:
            raise _invalid(self.file, "", "a form without a button", "end it with '[>] label'")
        for heading, paragraphs in self.sections:
            if not paragraphs:
                raise self._refuse(heading, "has nothing beneath it", "write the section or remove the heading")

    def _title(self, block: str) -> None:
        if not block.startswith("# ") or "\n" in block:
            raise self._refuse(block, "is not a title", "start with a line '# title'")
        self.title = block.removeprefix("# ")

    def _form_element(self, block: str) -> None:
        if not self.title or self.button:
            raise self._refuse(block, "stands outside the form", "order: title, lead, fields, boxes, button, sections")
        if field := _FIELD.fullmatch(block):
            if field["field"] in self.fields:
                raise self._refuse(block, "names the field a second time", "remove one of them")
            self.fields[field["field"]] = field["label"]
        elif button := _BUTTON.fullmatch(block):
            self.button = button["label"]
        elif choice := _CHOICE.fullmatch(block):
            if choice["state"] != " ":
                remedy = "write '[ ]'; a box ticked in advance is no consent (CJEU C-673/17)"
                raise self._refuse(block, "is ticked in advance", remedy)
            asked = Choice(choice["purpose"], choice["channel"], choice["label"])
            if asked.key in {other.key for other in self.choices}:
                raise self._refuse(block, "asks the same purpose a second time", "remove one of them")
            self.choices.append(asked)
        else:
            remedy = "write '[____] field: label', '[ ] purpose/channel: label' or '[>] label'"
            raise self._refuse(block, "is no field, box or button", remedy)

    def _paragraph(self, block: str) -> Block:
        lines = block.split("\n")
        if all(line.startswith("- ") for line in lines):
            return tuple(line.removeprefix("- ") for line in lines)
        if len(lines) > 1 or block.startswith("- "):
            raise self._refuse(block, "is broken over lines", "write each paragraph and each item on one line")
        return block

    def _refuse(self, block: str, what: str, remedy: str) -> RegisterInvalid:
        return _invalid(self.file, repr(block.partition("\n")[0][:60]), what, remedy)


def _invalid(file: str, where: str, what: str, remedy: str) -> RegisterInvalid:
    return RegisterInvalid([Problem(file, where, what, remedy)])
