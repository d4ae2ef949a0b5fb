"""`consent-ledger verify A B`: each way to cheat that two files give away, and no honest pair accused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import combinations
from pathlib import Path

import pytest

from services.ledger.evidence.bundle import bundle, files_of
from services.ledger.log.leaf import event_leaf, leaf_hash
from services.ledger.log.secrets import SubjectSecrets
from services.ledger.reader.facts import contradictions
from services.ledger.reader.verify import main, verify
from shared.clock import millis
from tests.opt_in import OptIn, World
from tests.unit.proof.forging import mended
from tests.unit.proof.proving import (
    as_file,
    checkpoint_at,
    end_batch,
    erase,
    forget,
    kept_receipt,
    made,
    made_consistency,
)

OWN = "purpose:newsletter/email"


class Lying(SubjectSecrets):
    """Secrets of an operator who files one matter under another label from some moment on."""

    __slots__ = ("instead",)
    instead: dict[str, bytes]

    def label(self, matter: str) -> bytes:
        found: bytes = self.instead.get(matter) or super().label(matter)
        return found


def found(world: World, first: bytes, second: bytes) -> list[str]:
    """What the two give away; each is valid by itself."""
    reports = [verify(one, world.signer.vkey) for one in (first, second)]
    assert reports[0] is not None
    assert reports[1] is not None
    return contradictions(reports[0].facts.with_those_of(reports[1].facts))


def only(world: World, first: bytes, second: bytes) -> str:
    (one,) = {text.partition(":")[0] for text in found(world, first, second)}
    assert found(world, second, first)
    return one


def story_that_goes_on() -> tuple[OptIn, list[bytes]]:
    """Everything an honest log handed out on its way."""
    story = OptIn()
    world, kept = story.world, list[bytes]()

    def take(*indexes: int) -> None:
        kept.extend(as_file(made(world, kind)) for kind in ("latest", "history"))
        kept.append(as_file(made(world, "state", at=world.now)))
        kept.append(as_file(made(world, "absence", "fair-news")))
        kept.extend(kept_receipt(world, index) for index in indexes)
        kept.append(as_file(made_consistency(world, len(world.leaves))))
        kept.append(checkpoint_at(world, len(world.leaves)).encode())

    story.request()
    take(story.indexes["request"])
    story.confirmation_mail()
    story.confirm()
    take(story.indexes["given"])
    story.issue()
    story.withdraw()
    take(story.indexes["withdrawn"])
    kept.append(as_file(made_consistency(world, 4)))
    return story, kept


def test_nothing_an_honest_log_ever_handed_out_contradicts_anything_else() -> None:
    story, kept = story_that_goes_on()
    kept.append(bundle(story.material))
    erase(story.world, OWN)
    kept += [as_file(made(story.world, kind)) for kind in ("latest", "history")]
    for first, second in combinations(kept, 2):
        assert found(story.world, first, second) == []


def test_a_consent_that_came_too_late_is_no_second_label() -> None:
    story = OptIn()
    story.consent_too_late()
    world = story.world
    assert world.matters[story.indexes["given"]].startswith("overtaken:")
    files = [kept_receipt(world, story.indexes[name]) for name in ("given", "withdrawn")]
    files += [as_file(made(world, kind)) for kind in ("latest", "history")]
    for first, second in combinations(files, 2):
        assert found(world, first, second) == []


def test_two_histories_of_one_size_are_a_fork() -> None:
    one, other = OptIn().play().world, OptIn(verified=False).play().world
    assert len(one.leaves) == len(other.leaves)
    size = len(one.leaves)
    assert only(one, checkpoint_at(one, size).encode(), checkpoint_at(other, size).encode()) == "a fork"
    said = found(one, as_file(made(one, "latest")), as_file(made(other, "latest")))
    assert any(text.startswith("a fork") for text in said)
    # A consistency proof ties what was kept to what is shown today, whatever its size.
    old = made_consistency(other, 4)
    assert only(one, as_file(old), checkpoint_at(one, 4).encode()) == "a fork"


def test_another_leaf_at_an_index_is_a_rewritten_log() -> None:
    one, other = OptIn(), OptIn(verified=False)
    one.play()
    other.request()
    kept = kept_receipt(other.world, other.indexes["request"])
    said = found(one.world, kept, kept_receipt(one.world, one.indexes["request"]))
    assert any(text.startswith("a rewritten log: at index 1 ") for text in said)


def test_a_second_key_for_a_person_is_named() -> None:
    story = OptIn()
    story.request()
    kept = kept_receipt(story.world, story.indexes["request"])
    world = story.world
    world.secrets = SubjectSecrets(b"\x09" * 32, world.signer.name, world.subject)
    story.confirmation_mail()
    story.confirm()
    shown = as_file(made(world, "latest"))
    assert verify(shown, world.signer.vkey) is not None
    assert only(world, kept, shown) == "a second key"


def test_a_second_label_for_a_matter_is_named() -> None:
    story = OptIn(withdrawn=False).play()
    world = story.world
    honest = world.secrets
    lying = Lying.__new__(Lying)
    for name in ("_label_pads", "_opening_pads", "_payload_key", "pin"):
        setattr(lying, name, getattr(honest, name))
    lying.instead = {OWN: b"\x55" * 32}
    world.secrets = lying
    story.withdraw()
    receipt = kept_receipt(world, story.indexes["withdrawn"])
    world.secrets = honest
    latest = made(world, "latest")
    report = verify(as_file(latest), world.signer.vkey)
    assert report is not None
    assert "consent holds" in report.conclusion
    assert only(world, receipt, as_file(latest)) == "a second label"


def test_a_withdrawal_left_out_of_a_later_map_is_named() -> None:
    story = OptIn().play()
    world, given = story.world, story.indexes["given"]
    kept = [kept_receipt(world, story.indexes["withdrawn"]), as_file(made(world, "latest")), bundle(story.material)]
    world.map.update(world.secrets.label(OWN), 1, given, leaf_hash(world.leaves[given]))
    world.later()
    end_batch(world)
    lie = as_file(made(world, "latest"))
    for one in kept:
        assert only(world, one, lie) == "an older state shown as the newest"


def test_a_withdrawal_left_out_of_a_bundle_is_named() -> None:
    story = OptIn().play()
    world, given, withdrawn = story.world, story.indexes["given"], story.indexes["withdrawn"]
    kept = kept_receipt(world, withdrawn)
    world.map.update(world.secrets.label(OWN), 1, given, leaf_hash(world.leaves[given]))
    world.later()
    end_batch(world)
    files = files_of(replace(story.material, latest=made(world, "latest")))
    lie = mended({name: one for name, one in files.items() if f"/{withdrawn}" not in name})
    report = verify(lie, world.signer.vkey)
    assert report is not None
    assert "it does not hold" not in report.conclusion
    assert only(world, kept, lie) == "an older state shown as the newest"


def test_absence_after_presence_is_named() -> None:
    story = OptIn(withdrawn=False).play()
    world = story.world
    kept = [kept_receipt(world, story.indexes["given"]), as_file(made(world, "history"))]
    for kind in ("", "overtaken:"):
        forget(world, world.secrets.label(kind + OWN))
    forget(world, world.secrets.label("ask:newsletter/email"))
    forget(world, world.secrets.label("use:newsletter/email"))
    end_batch(world)
    lie = as_file(made(world, "absence"))
    assert "absence after presence" in {text.partition(":")[0] for text in found(world, kept[0], lie)}
    said = {text.partition(":")[0] for text in found(world, kept[1], lie)}
    assert {"absence after presence", "labels left the map"} <= said


def test_one_version_in_two_leaves_is_named() -> None:
    story = OptIn(withdrawn=False).play()
    world = story.world
    kept = kept_receipt(world, story.indexes["given"])
    # A second first version, and a map that knows only this one.
    statement = world.raws[story.indexes["given"]]
    label, index = world.secrets.label(OWN), len(world.leaves)
    leaf = event_leaf(label, 1, 0, world.secrets.commitment(label, 1, statement), millis(world.later()))
    world._add(leaf)
    for table in (world.raws, world.matters, world.statements, world.openings):
        table[index] = table[story.indexes["given"]]  # type: ignore[index]
    world.map.update(label, 1, index, leaf_hash(leaf))
    end_batch(world)
    said = {text.partition(":")[0] for text in found(world, kept, as_file(made(world, "latest")))}
    assert any(text.startswith("a replaced statement") for text in said)


def test_a_word_behind_an_erasure_is_named() -> None:
    story = OptIn(withdrawn=False).play()
    world = story.world
    erase(world, OWN)
    kept = as_file(made(world, "latest"))
    story.withdraw()
    said = found(world, kept, as_file(made(world, "latest")))
    assert any(text.startswith("a word behind the last") for text in said)


def test_a_checkpoint_that_does_not_end_in_a_map_root_is_named() -> None:
    story = OptIn().play()
    world = story.world
    index = story.indexes["withdrawn"]
    said = found(world, kept_receipt(world, index), checkpoint_at(world, index + 1).encode())
    assert [text.partition(":")[0] for text in said] == ["a log without its map"]


def test_a_statement_dated_back_behind_a_later_one_is_named() -> None:
    story = OptIn(withdrawn=False).play()
    world = story.world
    kept = kept_receipt(world, story.indexes["given"])
    world.now -= timedelta(days=2)
    story.withdraw()
    said = found(world, kept, kept_receipt(world, story.indexes["withdrawn"]))
    assert [text.partition(":")[0] for text in said] == ["a back-dated statement"]


# -- at the terminal


@pytest.fixture
def vkey(tmp_path: Path) -> Path:
    path = tmp_path / "vkey"
    path.write_text(OptIn().play().world.signer.vkey + "\n")
    return path


def test_the_command_says_who_is_caught_at_what_and_exits_1(
    tmp_path: Path, vkey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = OptIn().play()
    world = story.world
    mine, theirs = tmp_path / "mine.json", tmp_path / "theirs.json"
    mine.write_bytes(kept_receipt(world, story.indexes["withdrawn"]))
    world.map.update(
        world.secrets.label(OWN), 1, story.indexes["given"], leaf_hash(world.leaves[story.indexes["given"]])
    )
    end_batch(world)
    theirs.write_bytes(as_file(made(world, "latest")))
    assert main(theirs, vkey) == 0
    assert "consent holds" in capsys.readouterr().out
    assert main(mine, vkey, None, theirs) == 1
    said = capsys.readouterr().out
    assert "FRAUD an older state shown as the newest" in said
    assert f"the operator of {world.signer.name} is caught" in said
    assert world.subject in said
    assert main(mine, None, None, theirs) == 1
    assert "compare it yourself" in capsys.readouterr().out


def test_the_command_finds_nothing_between_honest_files_and_exits_0(
    tmp_path: Path, vkey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = OptIn().play()
    first, second = tmp_path / "a.json", tmp_path / "b"
    first.write_bytes(as_file(made(story.world, "latest")))
    second.write_text(story.world.note)
    assert main(first, vkey, None, second) == 0
    assert "NO CONTRADICTION" in capsys.readouterr().out
    assert main(first, None, None, second) == 2
    assert "a checkpoint names no key" in capsys.readouterr().err


def test_a_false_file_is_no_proof_against_anybody(
    tmp_path: Path, vkey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = OptIn().play()
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_bytes(as_file(made(story.world, "latest")))
    second.write_bytes(as_file(made(story.world, "latest") | {"label_key": "00" * 32}))
    assert main(first, vkey, None, second) == 1
    said = capsys.readouterr().out
    assert "b.json: INVALID proof: step 4" in said
    assert "FRAUD" not in said
    second.write_text("hello")
    assert main(first, vkey, None, second) == 2
    assert main(first, vkey, None, tmp_path / "missing") == 2


def test_files_of_two_logs_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = OptIn().play()
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_bytes(as_file(made(story.world, "latest")))
    second.write_text(story.world.note)
    key = tmp_path / "policy"
    key.write_text(f"log {story.world.signer.vkey}\nquorum none\n")
    assert main(second, None, key) == 0
    assert capsys.readouterr().out.startswith("VALID checkpoint: log.example.org/ledger/log/0 had ")
