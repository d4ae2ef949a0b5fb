"""What each statement is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from shared.events import EVERYTHING, matter_of, parse
from shared.events.matter import MATTER_PATTERN, OVERTAKEN

GOLDEN: Final = Path(__file__).parents[2] / "contracts" / "golden"


def matter(name: str, **data: Any) -> str:
    document = json.loads((GOLDEN / f"{name}.1.json").read_bytes())
    merged = {key: value for key, value in {**document["data"], **data}.items() if value is not None}
    return matter_of(parse(json.dumps({**document, "data": merged}).encode()))


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("ConsentGiven", {}, "purpose:newsletter/email"),
        ("ConsentRefused", {"stage": "proven"}, "purpose:newsletter-measurement/email"),
        ("ConsentRefused", {"stage": "asked"}, "ask:newsletter-measurement/email"),
        ("ConsentExpired", {"stage": "proven"}, "purpose:newsletter/email"),
        ("ConsentExpired", {"stage": "asked"}, "ask:newsletter/email"),
        ("ConsentRequested", {}, "ask:newsletter/email"),
        ("ConsentWithdrawn", {}, "purpose:newsletter/email"),
        ("ConsentWithdrawn", {"scope": "everything", "purpose": None, "channel": None}, EVERYTHING),
        ("ConsentUsed", {}, "use:newsletter/email"),
        ("MessageSent", {}, "use:newsletter/email"),
        ("MessageSent", {"permit": None, "purpose": None}, "data:newsletter"),
        ("RetentionExecuted", {}, "data:newsletter"),
    ],
)
def test_each_statement_has_the_matter_of_its_words(name: str, data: dict[str, Any], expected: str) -> None:
    assert matter(name, **data) == expected


def test_a_strangers_sign_up_is_no_word_on_the_purpose() -> None:
    """Given, confirmed by the holder, then asked again by anybody and expired: the purpose's label is untouched."""
    for name, data in (
        ("ConsentRequested", {}),
        ("ConsentExpired", {"stage": "asked"}),
        ("ConsentRefused", {"stage": "asked"}),
    ):
        assert matter(name, **data).startswith("ask:")


def test_the_longest_names_still_make_a_matter() -> None:
    longest = matter("ConsentGiven", purpose="p" * 63, channel="c" * 63)
    assert MATTER_PATTERN.match(longest)
    assert MATTER_PATTERN.match(OVERTAKEN + longest)


def test_a_notice_is_a_matter_by_its_hash() -> None:
    assert matter("NoticePublished", notice={"hash": "ab" * 32, "language": "en"}) == "notice:" + "ab" * 32
