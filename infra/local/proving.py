"""The second half of the story: what can be proven, to whom, what an attack leads to, and what an erasure leaves.

Everything is done by the commands that people have: `evidence`, `proof`, `verify`, `log check`, `log audit`, `erase`.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from typing import TYPE_CHECKING, Any, Final

from infra.local import tampering
from infra.local.browser import Browser
from infra.local.installation import CommandFailed
from infra.local.screen import Broken, check

if TYPE_CHECKING:
    from pathlib import Path

    from infra.local.story import Story

FLIPS: Final = 6
MATTER: Final = "newsletter/email"
NEVER_ASKED: Final = "postcards/post"


def evidence(story: Story) -> None:
    """The evidence bundle, verified offline, and refused with one flipped bit."""
    story.screen.step(6, "The evidence of the opt-in, in one file that anyone can check offline")
    shutil.rmtree(story.kept, ignore_errors=True)
    story.kept.mkdir(mode=0o700)  # what lies in it opens what is personal
    bundle = story.kept / "opt-in.zip"
    _vkey(story).write_bytes(Browser("en").get(f"{story.base}/ledger/log/0/vkey").body)
    began = time.perf_counter()
    story.installation.command("evidence", story.subject, MATTER, "-o", str(bundle), "--reason", "demo")
    story.screen.tick("exported", f"{bundle.stat().st_size} bytes in {time.perf_counter() - began:.1f} s", str(bundle))
    lines = _verified(story, bundle)
    story.screen.tick(f"verified offline: {len(lines)} lines, the last: {lines[-1]}")
    chance, said = random.Random(7), ""  # noqa: S311 - which bits, not a secret
    for _ in range(FLIPS):
        said = _refused(story, bundle, chance)
    story.screen.tick(f"{FLIPS} times one flipped bit: refused each time", said)


def proofs(story: Story) -> None:
    """One proof of each kind: issued, verified offline, refused with one flipped bit."""
    story.screen.step(7, "What nobody else can prove: one proof of each kind, checked offline")
    receipt = story.kept / "receipt.json"
    receipt.write_text(json.dumps(story.receipt), "utf-8")
    asked: dict[str, list[str]] = {
        "this was recorded": [],
        "the log only grew": ["consistency", str(receipt)],
        "this is the latest word": ["latest", story.subject, MATTER],
        "nothing was ever said": ["absence", story.subject, NEVER_ASKED],
        "nothing is left out": ["history", story.subject, MATTER],
        "what held back then": ["state", story.subject, MATTER, "--at", story.consented_at],
    }
    chance = random.Random(11)  # noqa: S311 - which bits, not a secret
    for what, call in asked.items():
        file = story.kept / f"{call[0]}.json" if call else receipt
        if call:
            story.installation.command("proof", *call, "-o", str(file))
        story.screen.tick(f"{what}: {_verified(story, file)[-1]}")
        _refused(story, file, chance)
    story.screen.tick(f"one flipped bit in each of the {len(asked)}: refused each time")


def attack(story: Story) -> None:
    """A superuser changes the record, on a copy: it is noticed."""
    story.screen.step(8, "A superuser alters the record on a copy, and is found out")
    for what, alter in (("one old payload", tampering.alter_payload), ("one leaf", tampering.alter_leaf)):
        with tampering.scratch_copy(story.installation) as copy:
            check(copy.check().status == 0, "the untouched copy does not verify")
            row = alter(copy)
            found = copy.check()
            check(found.status == 1 and bool(found.finding), f"{what} was altered and not noticed")
            story.screen.tick(f"{what} altered ({row}); log check names it", found.finding)
    said = story.installation.command("log", "check").strip().splitlines()
    story.screen.tick("the record itself still verifies", said[-1].strip() if said else "")
    audited = story.installation.command("log", "audit", f"{story.base}/ledger/log/0", "--vkey", str(_vkey(story)))
    story.screen.tick("an outsider has replayed it over HTTP", audited.strip().splitlines()[0])


def erasure(story: Story) -> None:
    """The person is erased; what was proven stays proven, and the log proves that nothing holds any more."""
    story.screen.step(9, "The person is erased everywhere; every old proof still verifies")
    began = time.perf_counter()
    order = json.loads(_last(story.installation.command("erase", story.subject, "--reason", "consent-withdrawn")))
    holders = ", ".join(one["holder"] for one in order["holders"])
    story.screen.tick(f"erased at {holders}", f"{time.perf_counter() - began:.1f} s")
    permit = story.permit(story.subject)
    check(permit["decision"] == "refused", "a permit was granted for somebody who is erased")
    story.screen.tick(f"a permit asked now is refused: {permit['reason']}")
    files = sorted(file for file in story.kept.iterdir() if file.suffix in {".json", ".zip"})
    for file in files:
        _verified(story, file)
    story.screen.tick(f"all {len(files)} files from before verify as they did", ", ".join(file.name for file in files))
    latest = story.kept / "after-erasure.json"
    story.installation.command("proof", "latest", story.subject, MATTER, "-o", str(latest))
    said = _verified(story, latest)[-1]
    check("no consent" in said or "erased" in said, f"after the erasure the log says: {said}")
    story.screen.tick(f"the log's newest word: {said}")
    both = _last(story.installation.command("verify", str(story.kept / "receipt.json"), str(latest), *_key(story)))
    story.screen.tick(f"the old receipt and this against each other: {both}")
    story.screen.tick(
        f"what only proves is held until {order['evidence_until']}; then its keys go too, and its labels end"
    )


def _vkey(story: Story) -> Path:
    return story.kept / "log.vkey"


def _key(story: Story) -> list[str]:
    return ["--vkey", str(_vkey(story))]


def _last(printed: str) -> Any:
    return printed.strip().splitlines()[-1].strip()


def _verified(story: Story, file: Path) -> list[str]:
    """What `consent-ledger verify` says line by line; it must find the file valid."""
    printed = story.installation.command("verify", str(file), *_key(story))
    return [line.strip() for line in printed.splitlines() if line.strip()]


def _refused(story: Story, file: Path, chance: random.Random) -> str:
    """What it says of the same file with one bit flipped; it must refuse it."""
    altered = bytearray(file.read_bytes())
    at = altered.find(story.consented_at.encode())
    place = chance.randrange(len(altered))
    while at <= place < at + len(story.consented_at):
        # Another moment is another question, and its answer may be as true.
        place = chance.randrange(len(altered))
    altered[place] ^= 1 << chance.randrange(8)
    flipped = file.with_name(f"flipped{file.suffix}")
    flipped.write_bytes(altered)
    try:
        story.installation.command("verify", str(flipped), *_key(story))
    except CommandFailed as failure:
        said = (failure.printed + failure.complained).strip().splitlines()
        check(failure.status in {1, 2} and bool(said), "a flipped bit was refused without a reason")
        return said[-1].strip()
    finally:
        flipped.unlink()
    raise Broken(f"a flipped bit at byte {place} of {file.name} was accepted")
