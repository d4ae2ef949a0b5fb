"""Proof files (docs/formats.md §22): made from the log's tables and the sealed map, in the JSON people keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from services.ledger import store
from services.ledger.log.leaf import ERASURE, MAP_ROOT, leaf_hash
from services.ledger.log.secrets import SubjectSecrets
from services.ledger.log.tiles import consistency_proof, inclusion_proof
from services.ledger.proofs.history import Histories, Log, Proven, Remembered, opened, prove
from services.ledger.proofs.receipt import entry_json
from services.ledger.proofs.sealed_map import Found, Under
from services.ledger.reader.note import CosignatureVerifier, parse_note
from services.ledger.reader.proof_file import ENTRIES_LIMIT, FORMAT, matters
from services.ledger.reader.strict import encode_base64url
from services.ledger.stored_tree import StoredHashes, leaves
from shared.clock import millis, rfc3339
from shared.database import Database, Row
from shared.errors import Corrupt, Refused

Kind = Literal["latest", "absence", "history", "state"]

_LABEL: Final = slice(1, 33)
_PREVIOUS: Final = slice(41, 49)
_VERSION: Final = slice(33, 41)
_RECORDED_AT: Final = slice(81, 89)


@dataclass(frozen=True, slots=True)
class Erased:
    """The ERASURE that ends a label."""

    index: int
    leaf: bytes
    hashes: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Shown:
    """One word: where its label leads, and the entries that the kind of proof wants."""

    matter: str
    found: Found
    entries: Sequence[Proven | Erased]


@dataclass(frozen=True, slots=True)
class About:
    """Whom and what a proof is about."""

    kind: Kind
    subject: str
    purpose: str
    channel: str
    at: datetime | None = None
    """The moment of a `state`."""

    @property
    def matters(self) -> list[str]:
        return matters(self.kind, self.purpose, self.channel)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf with its way up to the root."""

    leaf: bytes
    hashes: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Made:
    """A proof file, and the checkpoint under which it stands."""

    size: int
    note: str
    content: Mapping[str, Any]


def file_of(
    about: About,
    log: Log,
    note: str,
    map_root: Leaf,
    label_key: bytes,
    words: Sequence[Shown],
    anchor: Proven | None,
    last_leaf: Leaf | None = None,
) -> dict[str, Any]:
    """The JSON of a proof about a subject."""
    made = _of_log(about.kind, log, note) | {
        "map_root": _leaf_json(map_root),
        "subject": about.subject,
        "purpose": about.purpose,
        "channel": about.channel,
        "label_key": label_key.hex(),
        "words": [
            {
                "matter": word.matter,
                "place": _place_json(word.found),
                "entries": [_shown_json(entry) for entry in word.entries],
            }
            for word in words
        ],
        "anchor": None if anchor is None else entry_json(anchor),
    }
    if about.at is not None:
        made |= {"at": rfc3339(about.at), "last_leaf": None if last_leaf is None else _leaf_json(last_leaf)}
    return made


def consistency_file(log: Log, old: str, note: str, hashes: Sequence[bytes]) -> dict[str, Any]:
    """The JSON of a proof that the log only grew."""
    return _of_log("consistency", log, note) | {"old": old, "hashes": [encode_base64url(one) for one in hashes]}


def _of_log(kind: str, log: Log, note: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": kind,
        "origin": log.origin,
        "vkey": log.vkey,
        "fresh_vkey": log.fresh_vkey,
        "checkpoint": note,
    }


def _leaf_json(one: Leaf) -> dict[str, Any]:
    return {"leaf": encode_base64url(one.leaf), "hashes": [encode_base64url(hashed) for hashed in one.hashes]}


def _place_json(found: Found) -> dict[str, Any]:
    record = found.record
    return {
        "siblings": [encode_base64url(one) for one in found.siblings],
        "record": None
        if record is None
        else {
            "label": record[:32].hex(),
            "version": str(int.from_bytes(record[32:40], "big")),
            "index": str(int.from_bytes(record[40:48], "big")),
            "leaf_hash": record[48:80].hex(),
        },
    }


def _shown_json(entry: Proven | Erased) -> dict[str, Any]:
    if isinstance(entry, Proven):
        return entry_json(entry)
    return {"index": str(entry.index)} | _leaf_json(Leaf(entry.leaf, entry.hashes))


@dataclass
class Prover:
    """Makes proof files from what is sealed."""

    db: Database
    histories: Histories

    async def about(self, about: About) -> Made:
        """A proof about a subject; Refused 404 if nothing is recorded of it, 409 if what was asked is not so."""
        # The key and its matters first: their leaves are appended by the same statement, so all of them are there.
        try:
            log, secrets, known = await self.histories.known(about.subject)
        except Refused:
            raise _unknown() from None
        others = [matter for matter in known if matter not in about.matters]
        labels = [secrets.label(matter) for matter in (*about.matters, *others)]
        under = await self.histories.maps.of(log.shard).under(labels)
        if about.at is not None and millis(about.at) // 1000 > _fresh_seconds(log, under.note):
            raise Refused("moment-in-the-future", "That moment is later than what the log can speak of.", status=422)
        making = _Making(self.db, about, log, secrets, under)
        wanted = list(zip(about.matters, labels, under.found, strict=False))
        words = [await making.word(matter, label, found) for matter, label, found in wanted]
        anchor = None
        if not any(isinstance(entry, Proven) for word in words for entry in word.entries):
            anchor = await making.anchor(list(zip((*about.matters, *others), labels, under.found, strict=True)))
        return Made(
            under.size,
            under.note,
            file_of(
                about,
                log,
                under.note,
                Leaf(under.map_root, under.map_root_hashes),
                secrets.label_key,
                words,
                anchor,
                await making.last_leaf(),
            ),
        )

    async def consistency(self, shard: int, old: int) -> Made:
        """A proof that the log begins with what it was at an earlier checkpoint; Refused 404 if there was none such."""
        log = await self.histories.log(shard)
        served = await store.served_checkpoint(self.db, shard)
        note = await store.checkpoint_of_size(self.db, shard, old)
        if served is None or note is None:
            raise Refused("no-such-checkpoint", "No checkpoint of this size was ever signed.", status=404)
        size, newest = served
        hashes = await self.consistency_hashes(shard, old, size)
        return Made(size, newest, consistency_file(log, note, newest, hashes))

    async def consistency_hashes(self, shard: int, old: int, size: int) -> list[bytes]:
        """That a log of this size begins with what it was at an older one."""
        return await consistency_proof(old, size, Remembered(StoredHashes(self.db, shard)))


class _Making:
    """One proof on its way."""

    def __init__(self, db: Database, about: About, log: Log, secrets: SubjectSecrets, under: Under) -> None:
        self._db = db
        self._about = about
        self._log = log
        self._secrets = secrets
        self._under = under

    async def word(self, matter: str, label: bytes, found: Found) -> Shown:
        """What the kind of proof shows of one label."""
        if not _is_of(label, found):
            return Shown(matter, found, ())
        if self._about.kind == "absence":
            message = "Something is recorded about this purpose and channel: ask for the kind latest, or history."
            raise Refused("not-absent", message, status=409)
        chain = await self._chain(label, found)
        return Shown(matter, found, [await self._entry(matter, *one) for one in reversed(chain)])

    async def anchor(self, known: Sequence[tuple[str, bytes, Found]]) -> Proven:
        """Any statement of the subject that can still be opened: it shows whose the label key is."""
        for matter, label, found in known:
            if not _is_of(label, found):
                continue
            index, version, hashed = _newest(found)
            leaf, payload = await self._leaf(index, label, version, hashed)
            if leaf[0] == ERASURE and version > 1:
                index = int.from_bytes(leaf[_PREVIOUS], "big") - 1
                leaf, payload = await self._leaf(index, label, version - 1)
            if payload is not None:
                entry = await self._entry(matter, index, leaf, payload)
                if isinstance(entry, Proven):
                    return entry
        raise _unknown()

    async def last_leaf(self) -> Leaf | None:
        """The newest leaf with a time, for a `state`; none for other kinds, and for a log of one leaf."""
        size = self._under.size
        if self._about.at is None or size == 1:
            return None
        [leaf] = await leaves(self._db, self._log.shard, size - 2, size - 1)
        return Leaf(leaf, await inclusion_proof(size - 2, size, self._under.hashes))

    async def _chain(self, label: bytes, found: Found) -> list[tuple[int, bytes, bytes | None]]:
        """Index, leaf and payload of the versions wanted, newest first."""
        index, version, hashed = _newest(found)
        leaf, payload = await self._leaf(index, label, version, hashed)
        chain = [(index, leaf, payload)]
        while not self._is_enough(chain):
            if len(chain) == ENTRIES_LIMIT:
                message = "This history has more entries than a proof file holds. Read the log itself."
                raise Refused("history-too-long", message, status=422)
            index, version = int.from_bytes(leaf[_PREVIOUS], "big") - 1, version - 1
            leaf, payload = await self._leaf(index, label, version)
            chain.append((index, leaf, payload))
        if self._about.at is None:
            return chain
        # The version of that moment, and the one after it.
        return chain[-2:] if _recorded_at(chain[-1][1]) <= millis(self._about.at) else chain[-1:]

    def _is_enough(self, chain: Sequence[tuple[int, bytes, bytes | None]]) -> bool:
        leaf = chain[-1][1]
        if self._about.kind == "latest" or int.from_bytes(leaf[_VERSION], "big") == 1:
            return True
        return self._about.at is not None and _recorded_at(leaf) <= millis(self._about.at)

    async def _leaf(
        self, index: int, label: bytes, version: int, hashed: bytes | None = None
    ) -> tuple[bytes, bytes | None]:
        rows: list[Row] = await store.words(self._db, self._log.shard, [index])
        leaf, payload = (rows[0]["leaf"], rows[0]["payload"]) if rows else (b"", None)
        if not _is_version(leaf, label, version, hashed):
            # Found by arithmetic, which holds for batches as the appender writes them.
            [leaf] = await leaves(self._db, self._log.shard, index, index + 1)
        if not _is_version(leaf, label, version, hashed):
            raise Corrupt("leaf", f"shard {self._log.shard}, index {index} is not what the map says")
        return leaf, payload

    async def _entry(self, matter: str, index: int, leaf: bytes, payload: bytes | None) -> Proven | Erased:
        size, hashes = self._under.size, self._under.hashes
        if leaf[0] == ERASURE:
            return Erased(index, leaf, await inclusion_proof(index, size, hashes))
        if payload is None:
            raise _unknown()
        raw, statement = opened(self._secrets, self._log, index, payload)
        return await prove(self._secrets, index, size, leaf, matter, raw, statement, hashes)


def _is_of(label: bytes, found: Found) -> bool:
    """Whether the label is present."""
    return found.record is not None and found.record[:32] == label


def _is_version(leaf: bytes, label: bytes, version: int, hashed: bytes | None) -> bool:
    """Whether this is the leaf of that version of the label, with this hash if it is known."""
    return (
        leaf[:1] not in {b"", bytes([MAP_ROOT])}
        and (leaf[_LABEL], int.from_bytes(leaf[_VERSION], "big")) == (label, version)
        and hashed in {None, leaf_hash(leaf)}
    )


def _newest(found: Found) -> tuple[int, int, bytes]:
    """Index, version and leaf hash of a label that is present."""
    assert found.record is not None  # noqa: S101 - _is_of has said so
    return int.from_bytes(found.record[40:48], "big"), int.from_bytes(found.record[32:40], "big"), found.record[48:80]


def _recorded_at(leaf: bytes) -> int:
    return int.from_bytes(leaf[_RECORDED_AT], "big")


def _fresh_seconds(log: Log, note: str) -> int:
    return CosignatureVerifier(log.fresh_vkey).verify(parse_note(note.encode()))


def _unknown() -> Refused:
    message = (
        "Nothing is recorded of this subject, or it is erased. There is no key from which its labels would follow, so "
        "nothing can be proven of it, not even absence."
    )
    return Refused("not-found", message, status=404)
