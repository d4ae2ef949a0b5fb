"""Published notices are evidence: people decided on these very bytes."""

import pytest

from shared.register import load

# Never edit a line. A new text is a new version with a line of its own.
PUBLISHED = {
    ("newsletter", 1, "de"): "b89c1c5a00bc11c8dab492a89e843c6c59a5ce4aa901c0935fca62a30f2c0841",
    ("newsletter", 1, "en"): "25e65370cbea553d0407e8e59839192d957a63288a2c945b19a4c456207bb962",
}


@pytest.mark.parametrize("notice", PUBLISHED, ids=str)
def test_a_published_notice_is_found_by_the_hash_it_was_published_under(notice: tuple[str, int, str]) -> None:
    found = load().notice_by_hash(PUBLISHED[notice])

    assert found is not None
    assert (found.activity, found.version, found.language) == notice


def test_every_notice_of_the_register_is_pinned_here() -> None:
    assert {notice.hash for notice in load().notices} == set(PUBLISHED.values())
