"""Proof files of a story in memory, made by the writer's code; and what a cheating operator can do to its log."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from functools import cache
from typing import Any

from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from services.ledger.evidence.bundle import Stamped
from services.ledger.log.leaf import erasure_leaf, leaf_hash, map_root_leaf
from services.ledger.log.state_map import StateMap
from services.ledger.log.tiles import consistency_proof, inclusion_proof
from services.ledger.log.tree import Edge
from services.ledger.proofs.history import Log, Proven
from services.ledger.proofs.issue import About, Erased, Kind, Leaf, Shown, consistency_file, file_of
from services.ledger.proofs.receipt import Snapshot, receipt, to_bytes
from services.ledger.proofs.sealed_map import Found
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.note import format_note
from services.ledger.reader.verify import Report, verify
from shared.clock import millis
from shared.register import load
from tests.authority import authority
from tests.opt_in import World

KINDS: tuple[Kind, ...] = ("latest", "absence", "history", "state")


def log_of(world: World) -> Log:
    return Log(0, world.signer.name, world.signer.vkey, world.fresh.vkey)


def path(world: World, index: int) -> list[bytes]:
    return asyncio.run(inclusion_proof(index, len(world.leaves), world._hashes))


def placed(world: World, index: int) -> Leaf:
    return Leaf(world.leaves[index], path(world, index))


def words_of(world: World, label: bytes) -> list[int]:
    """Indexes of all leaves of a label."""
    return [index for index, leaf in enumerate(world.leaves) if leaf[0] != 2 and leaf[1:33] == label]


def made(
    world: World,
    kind: Kind,
    purpose: str = "newsletter",
    channel: str = "email",
    at: datetime | None = None,
) -> dict[str, Any]:
    """A proof file of this story as its ledger would make it."""
    about = About(kind, world.subject, purpose, channel, at)
    shown = []
    for matter in about.matters:
        label = world.secrets.label(matter)
        found = Found(*world.map.prove(label))
        present = found.record is not None and found.record[:32] == label
        shown.append(
            Shown(matter, found, [entry(world, one) for one in wanted(world, about, label)] if present else [])
        )
    events = any(isinstance(one, Proven) for word in shown for one in word.entries)
    spoken = [index for index in world.statements if world.openings[index][0] == world.secrets.pin]
    size = len(world.leaves)
    return file_of(
        about,
        log_of(world),
        world.note,
        placed(world, size - 1),
        world.secrets.label_key,
        shown,
        None if events else world._proven(min(spoken)),
        placed(world, size - 2) if at is not None else None,
    )


def wanted(world: World, about: About, label: bytes) -> list[int]:
    found = world.map.get(label)
    assert found is not None
    all_of = [index for index in words_of(world, label) if index <= found[1]]
    match about.kind:
        case "history":
            return all_of
        case "state":
            assert about.at is not None
            limit = millis(about.at)
            earlier = [one for one in all_of if int.from_bytes(world.leaves[one][-8:], "big") <= limit]
            return all_of[max(0, len(earlier) - 1) : len(earlier) + 1]
        case _:
            return [found[1]]


def entry(world: World, index: int) -> Proven | Erased:
    if index in world.statements:
        return world._proven(index)
    return Erased(index, world.leaves[index], path(world, index))


def made_consistency(world: World, old: int) -> dict[str, Any]:
    """A proof that this story's log begins with its first leaves."""
    hashes = asyncio.run(consistency_proof(old, len(world.leaves), world._hashes))
    return consistency_file(log_of(world), checkpoint_at(world, old), world.note, hashes)


def checkpoint_at(world: World, size: int) -> str:
    """The checkpoint that was signed at this size."""
    edge = Edge()
    edge.extend([leaf_hash(leaf) for leaf in world.leaves[:size]])
    text = Checkpoint(world.signer.name, size, edge.root()).text()
    return format_note(text, [world.signer.sign(text)]).decode()


def as_file(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def report_of(value: dict[str, Any], world: World) -> Report:
    report = verify(as_file(value), world.signer.vkey)
    assert report is not None
    return report


def kept_receipt(world: World, index: int) -> bytes:
    """The receipt of one statement as its person keeps it."""
    return to_bytes(receipt(world.history([index]), Snapshot(load().snapshot())))


# -- what happens to a log


def end_batch(world: World) -> None:
    """A MAP_ROOT of whatever the map says now."""
    size = len(world.leaves)
    last = max(index for index, leaf in enumerate(world.leaves) if leaf[0] == 2)
    world._add(map_root_leaf(size, world.map.root(), len(world.map), last + 1))


def erase(world: World, matter: str) -> int:
    """End a label; the index of its ERASURE."""
    label = world.secrets.label(matter)
    known = world.map.get(label)
    assert known is not None
    index = len(world.leaves)
    leaf = erasure_leaf(label, known[0] + 1, known[1] + 1, millis(world.later()) + 20)
    world.map.update(label, known[0] + 1, index, leaf_hash(leaf))
    world._add(leaf)
    end_batch(world)
    return index


def forget(world: World, label: bytes) -> None:
    """Take a label out of the map, as no honest log ever does."""
    world.map = StateMap.rebuild([record for record in world.map.records() if record[:32] != label])


@cache
def stamped_text(text: bytes, name: str = "authority") -> bytes:
    """What a local authority answers about this text."""
    query = TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256).build().as_bytes()
    return authority(name).answer(query)


def stamped(world: World, size: int, answer: bytes | None = None) -> Stamped:
    """A timestamp of the checkpoint this log had at that size, bound to the newest one."""
    edge = Edge()
    for leaf in world.leaves[:size]:
        edge.append(leaf_hash(leaf))
    text = Checkpoint(world.signer.name, size, edge.root()).text()
    hashes = asyncio.run(consistency_proof(size, len(world.leaves), world._hashes))
    return Stamped(size, edge.root(), hashes, stamped_text(text) if answer is None else answer)
