"""The evidence as a printed document: PDF/A-3a and PDF/UA-1 in one file, the bundle attached as it is."""

from __future__ import annotations

import json
from typing import Any, Final

import typst

from services.ledger.evidence.document import HERE, NAME, Document
from services.ledger.reader.evidence import Bundle
from shared.software import software

_TEMPLATE: Final = HERE / "evidence.typ"

# What the fonts of the template have. A PDF/A must not hold a character without a glyph, and a person may type any.
_DRAWN: Final = (
    (0x20, 0x7E),
    (0xA1, 0xAC),
    (0xAE, 0x24F),
    (0x391, 0x3A1),
    (0x3A3, 0x3CE),
    (0x400, 0x45F),
)
_ALSO: Final = frozenset("\n–—‘’‚“”„†•…‰‹›€§")


def pdf(bundle: Bundle, packed: bytes, language: str, newsletter_url: str = "") -> bytes:
    """The document of a bundle that was verified; the same bytes each time."""
    content = Document(bundle, packed, language, software(), newsletter_url).content()
    content = _drawable(content)
    # Numbers in JSON: the one way for bytes to reach the template without a file that somebody else could read.
    content["attachment"] = {"name": NAME, "description": content["title"], "bytes": list(packed)}
    made = typst.compile(
        _TEMPLATE.read_bytes(),
        font_paths=typst.Fonts(include_system_fonts=False),
        sys_inputs={"document": json.dumps(content, ensure_ascii=False)},
        pdf_standards=["a-3a", "ua-1"],
        timestamp=0,
    )
    assert isinstance(made, bytes)  # noqa: S101 - one document, no output file
    # Its last line has no end, and what a signature appends would begin on it (PDF/A, ISO 19005-3, 6.1.9).
    return made + b"\n"


def drawable(text: str) -> str:
    """The text with every character that the fonts do not have written as its number."""
    return "".join(one if _is_drawn(one) else f"[U+{ord(one):04X}]" for one in text.replace("\r\n", "\n"))


def _is_drawn(one: str) -> bool:
    return one in _ALSO or any(first <= ord(one) <= last for first, last in _DRAWN)


def _drawable(value: Any) -> Any:
    match value:
        case str():
            return drawable(value)
        case dict():
            return {name: _drawable(one) for name, one in value.items()}
        case list() | tuple():
            return [_drawable(one) for one in value]
        case _:
            return value
