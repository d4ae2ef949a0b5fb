"""The story that `make demo` plays."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from infra.local.play import play
from infra.local.screen import Screen

if TYPE_CHECKING:
    from infra.local.installation import Installation


# It checks the whole log twice, with all that other journeys have left in it.
@pytest.mark.timeout(300)
def test_the_story_is_told_to_its_end(installation: Installation) -> None:
    out = io.StringIO()
    assert play(installation, Screen(out)), out.getvalue()
    assert out.getvalue().count("✓") > 20
    assert "✗" not in out.getvalue()
    # What it leaves behind holds an address and links that still work.
    assert (installation.folder / "evidence").stat().st_mode & 0o077 == 0
