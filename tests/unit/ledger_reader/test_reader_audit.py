"""An audit of what a log serves notices each broken rule and names the leaf, and goes on from where it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ledger.log.leaf import event_leaf, leaf_hash, map_root_leaf
from services.ledger.reader.audit import Audit, Fork, check_tile, number, split_entries
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import Signer
from services.ledger.reader.policy import LogKey
from tests.made_log import NOW, SIGNER, MadeLog, key, made

GOOD = made()
KEYS = (LogKey(SIGNER.vkey),)
NEW, OLD = sha256(b"new").digest(), sha256(b"7").digest()


def replay(log: MadeLog, audited: Audit | None = None, serve: Callable[[str], bytes | None] | None = None) -> Audit:
    """What the command does, without a network."""
    serve = serve or log.resource

    def fetch(path: str) -> bytes:
        found = serve(path)
        assert found is not None, path
        return found

    audited = audited or Audit(KEYS, compared=True)
    audited.see(fetch("checkpoint"))
    tiles = audited.partial_tiles()
    for start, width, path in audited.bundles():
        tiles += audited.take(start, width, fetch(path))
    for tile in tiles + audited.partial_tiles():
        check_tile(tile, fetch(tile.path))
    return audited


def test_a_good_log_is_replayed_to_its_checkpoint() -> None:
    audited = replay(GOOD)
    assert audited.size == len(GOOD.leaves) == GOOD.sizes[-1]
    assert audited.replica.tree_root() == GOOD.checkpoint().root
    assert audited.replica.map.root() == GOOD.state_map.root()
    assert list(audited.bundles()) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, len(GOOD.sizes) - 1), max_size=3).map(sorted), st.integers(1, 400))
def test_an_audit_that_goes_on_from_its_file_ends_where_one_in_one_piece_does(stops: list[int], cut: int) -> None:
    audited = Audit(KEYS, compared=True)
    for stop in [*stops, len(GOOD.sizes) - 1]:
        until = GOOD.fork()
        until.sizes = GOOD.sizes[: stop + 1]
        audited.see(until.note())
        for start, width, path in audited.bundles():
            if start + width > cut + audited.size:  # interrupted in the middle of what was ahead
                audited = Audit.from_bytes(audited.to_bytes()) if audited.size else audited
            audited.take(start, width, until.resource(path) or b"")
        audited = Audit.from_bytes(audited.to_bytes())
    whole = replay(GOOD)
    assert (audited.size, audited.replica.tree_root(), audited.levels) == (
        whole.size,
        whole.replica.tree_root(),
        whole.levels,
    )
    assert audited.replica.erased == whole.replica.erased
    assert audited.replica.map.root() == whole.replica.map.root()


def said_wrong(leaf: bytes) -> MadeLog:
    """A log that goes on with this leaf, and is signed."""
    log = GOOD.fork()
    log.leaves.append(leaf)
    log.end()
    return log


def map_root_with(**changed: int | bytes) -> MadeLog:
    log = GOOD.fork()
    log.say(NEW)
    size = log.end()
    right = {"covers": size - 1, "root": log.state_map.root(), "labels": len(log.state_map), "before": len(GOOD.leaves)}
    log.leaves[-1] = map_root_leaf(*(right | changed).values())  # type: ignore[arg-type]
    return log


def ended_label() -> bytes:
    return next(leaf[1:33] for leaf in GOOD.leaves if leaf[0] == 3)


END = len(GOOD.leaves)
LATE = NOW + 10**6
VERSION, LAST = GOOD.last[OLD]
BROKEN: dict[str, tuple[Callable[[], MadeLog], int, str]] = {
    "a version left out": (lambda: said_wrong(event_leaf(OLD, VERSION + 2, LAST + 1, NEW, LATE)), END, "rule 3"),
    "a version repeated": (lambda: said_wrong(event_leaf(OLD, VERSION, LAST + 1, NEW, LATE)), END, "rule 3"),
    "another's leaf as the one before": (
        lambda: said_wrong(event_leaf(OLD, VERSION + 1, LAST + 2, NEW, LATE)),
        END,
        "rule 3",
    ),
    "a label that begins at 2": (lambda: said_wrong(event_leaf(NEW, 2, 0, NEW, LATE)), END, "rule 3"),
    "a word after an erasure": (
        lambda: said_wrong(event_leaf(ended_label(), GOOD.last[ended_label()][0] + 1, 1, NEW, LATE)),
        END,
        "rule 4",
    ),
    "a time that goes back": (lambda: said_wrong(event_leaf(NEW, 1, 0, NEW, NOW)), END, "rule 5"),
    "an unknown type": (lambda: said_wrong(b"\x04" + bytes(88)), END, "rule 2"),
    "a leaf cut off": (lambda: said_wrong(event_leaf(NEW, 1, 0, NEW, LATE)[:-1]), END, "rule 2"),
    "a map root of another map": (lambda: map_root_with(root=NEW), END + 1, "rule 6"),
    "a label not counted": (lambda: map_root_with(labels=1), END + 1, "rule 6"),
    "a map root that covers less": (lambda: map_root_with(covers=END), END + 1, "rule 6"),
    "a map root left out of the chain": (lambda: map_root_with(before=1), END + 1, "rule 6"),
}


@pytest.mark.parametrize("resumed", [False, True], ids=["at once", "resumed"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_is_noticed_though_the_log_has_signed_it(what: str, *, resumed: bool) -> None:
    make, index, rule = BROKEN[what]
    before = Audit.from_bytes(replay(GOOD).to_bytes()) if resumed else None
    with pytest.raises(Invalid, match=rule) as caught:
        replay(make(), before)
    assert caught.value.index == index
    assert f"leaf {index}" in str(caught.value)


def test_a_log_that_begins_with_something_else_is_noticed() -> None:
    log = MadeLog()
    log.leaves[0] = map_root_leaf(0, NEW, 0, 0)
    with pytest.raises(Invalid, match="rule 1: leaf 0"):
        replay(log)


def test_a_checkpoint_that_does_not_end_in_a_map_root_is_noticed() -> None:
    log = GOOD.fork()
    log.say(NEW)
    log.sizes.append(len(log.leaves))
    with pytest.raises(Invalid, match="rule 7: the checkpoint does not end in a MAP_ROOT"):
        replay(log)


def test_a_checkpoint_of_other_leaves_is_noticed() -> None:
    other = GOOD.fork()
    other.leaves[40] = event_leaf(other.leaves[40][1:33], 9, 9, NEW, LATE)
    with pytest.raises(Invalid, match="rule 7: the checkpoint's root is not that of the leaves"):
        replay(GOOD, serve=lambda path: other.note() if path == "checkpoint" else GOOD.resource(path))


def test_a_checkpoint_by_another_key_or_with_a_flipped_bit_is_refused() -> None:
    note = bytearray(GOOD.note())
    note[-90] ^= 1
    other = LogKey(Signer(SIGNER.name, key(9)).vkey)
    for vkey, served in ((other, GOOD.note()), (KEYS[0], bytes(note)), (replace(KEYS[0], until=2), GOOD.note())):
        with pytest.raises(Invalid):
            Audit((vkey,), compared=True).see(served)


@pytest.mark.parametrize("at", [0, 255, 256, 300])
@pytest.mark.parametrize("kind", ["0", "entries"])
def test_a_flipped_bit_in_a_served_tile_is_noticed_and_the_leaf_named(kind: str, at: int) -> None:
    def serve(path: str) -> bytes | None:
        found = GOOD.resource(path)
        if found is None or not path.startswith(f"tile/{kind}/{number(at // 256)}"):
            return found
        altered = bytearray(found)
        if kind == "0":
            altered[at % 256 * 32 + 5] ^= 1
        else:
            start = sum(2 + len(leaf) for leaf in GOOD.leaves[at // 256 * 256 : at])
            altered[start + 2 + 20] ^= 1
        return bytes(altered)

    with pytest.raises(Invalid) as caught:
        replay(GOOD, serve=serve)
    # An altered label, version or map root breaks a rule at once; only then are hashes compared.
    assert caught.value.index == at


def test_a_wrong_hash_above_names_the_leaves_below_it() -> None:
    audited = replay(GOOD)
    [tile] = [tile for tile in audited.partial_tiles() if tile.level == 1]
    served = bytearray(tile.hashes)
    served[33] ^= 1
    with pytest.raises(Invalid, match="leaves 256 to 511"):
        check_tile(tile, bytes(served))
    with pytest.raises(Invalid, match="has 32 bytes"):
        check_tile(tile, tile.hashes[:32])


def grown(log: MadeLog, *labels: bytes) -> MadeLog:
    log = log.fork()
    for label in labels:
        log.say(label)
    log.end()
    return log


def test_a_fork_is_noticed_by_whoever_saw_the_other_branch_and_both_notes_show_it() -> None:
    one, other = grown(GOOD, NEW), grown(GOOD, OLD)
    audited = Audit.from_bytes(replay(one).to_bytes())
    with pytest.raises(Fork, match="another root than the one that was signed before") as caught:
        audited.see(other.note())
    assert caught.value.notes == (one.note(), other.note())
    with pytest.raises(Invalid, match=r"is not the one that was served before|is not that of the entries"):
        replay(grown(other, NEW), Audit.from_bytes(replay(one).to_bytes()))


def test_a_log_that_was_rolled_back_is_noticed() -> None:
    with pytest.raises(Fork, match="it was rolled back") as caught:
        Audit.from_bytes(replay(grown(GOOD, NEW)).to_bytes()).see(GOOD.note())
    assert len(caught.value.notes) == 2


def test_a_checkpoint_seen_before_an_interruption_must_be_on_the_way() -> None:
    seen_only = Audit(KEYS, compared=True)
    seen_only.see(grown(GOOD, NEW).note())
    start, width, path = next(iter(seen_only.bundles()))
    seen_only.take(start, width, GOOD.resource(path) or b"")
    resumed = Audit.from_bytes(seen_only.to_bytes())
    with pytest.raises(Invalid, match="rule 7: the checkpoint's root"):
        replay(grown(grown(GOOD, OLD), NEW), resumed)


def test_no_byte_of_a_position_can_be_changed_unseen() -> None:
    whole = replay(made(2, 12)).to_bytes()
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0x20
        with pytest.raises(Invalid, match="position 1"):
            Audit.from_bytes(bytes(damaged))
    for content in (b"", b"{}\n", whole[:-1], whole[40:]):
        with pytest.raises(Invalid, match="position"):
            Audit.from_bytes(content)


@pytest.mark.parametrize("body", [b"{}", b'{"format":"consent-ledger/audit/1"}', b"[]", b'{"format":"x"}'])
def test_a_file_of_something_else_is_no_position(body: bytes) -> None:
    with pytest.raises(Invalid, match="position 2"):
        Audit.from_bytes(body + b"\n" + sha256(body + b"\n").digest())


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x05ab", b"\x00\x01a\x00\x01b\x00\x01c", b"\x00\x01a"])
def test_entries_are_exactly_as_many_as_were_asked_for(data: bytes) -> None:
    with pytest.raises(Invalid, match="the entries from 256"):
        split_entries(256, 2, data)
    assert split_entries(256, 2, b"\x00\x01a\x00\x00") == [b"a", b""]


def test_tiles_are_numbered_as_c2sp_wants_it() -> None:
    assert [number(n) for n in (5, 67, 1000, 1234067)] == ["005", "067", "x001/000", "x001/x234/067"]
    assert leaf_hash(b"") == sha256(b"\x00").digest()
