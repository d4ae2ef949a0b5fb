"""The order in which `make demo` tells its story; the first chapter that breaks ends it."""

from __future__ import annotations

import subprocess

from infra.local import proving
from infra.local.installation import CommandFailed, Installation
from infra.local.screen import Broken, Screen
from infra.local.story import Story


def play(installation: Installation, screen: Screen, *, receipt_within: float = 10.0) -> bool:
    """The whole story; False if a check did not hold. `receipt_within` is seconds from the click to the receipt."""
    story = Story(installation, screen, receipt_within=receipt_within)
    chapters = (
        story.form_and_same_answer,
        story.mail_and_confirmation,
        story.record_and_receipt,
        story.campaign,
        story.withdrawal,
        lambda: proving.evidence(story),
        lambda: proving.proofs(story),
        lambda: proving.attack(story),
        lambda: proving.erasure(story),
    )
    try:
        for chapter in chapters:
            chapter()
    except (Broken, CommandFailed, OSError, LookupError, ValueError, subprocess.SubprocessError) as error:
        screen.cross(f"{type(error).__name__}: {error}")
        screen.note(f"The logs are in {installation.logs}")
        return False
    return True
