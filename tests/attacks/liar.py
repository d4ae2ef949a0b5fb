"""An operator who has the log's key and goes on with the log by hand, in memory, as it pleases them.

Everything they show is signed and fits its own tree. What they cannot do is to make it fit what they showed before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.ledger.log.leaf import MAP_ROOT, event_leaf, leaf_hash, map_root_leaf, split_leaves
from services.ledger.log.secrets import SubjectSecrets, unwrap
from services.ledger.log.state_map import StateMap
from services.ledger.log.tiles import consistency_proof, inclusion_proof
from services.ledger.proofs import receipt as receipts
from services.ledger.proofs.history import History, Log, Proven
from services.ledger.proofs.receipt import Snapshot
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.commitment import derive
from services.ledger.reader.merkle import root_of
from services.ledger.reader.note import CosignatureSigner, Signer, format_note
from services.ledger.reader.proof_file import FORMAT, matters
from services.ledger.reader.strict import encode_base64url
from shared.clock import millis, utc_now
from shared.events import matter_of, parse
from tests.attacks.site import Site
from tests.integration.ledger.world import REGISTER


@dataclass
class Liar:
    """A log in memory, with the signer's keys; `keys` is K of each subject, as the liar would have it."""

    origin: str
    signer: Signer
    fresh: CosignatureSigner
    keys: dict[str, bytes]
    leaves: list[bytes] = field(default_factory=list)
    raws: dict[int, bytes] = field(default_factory=dict)
    clock: datetime = field(default_factory=utc_now)

    @classmethod
    async def of(cls, site: Site, size: int = 311) -> Liar:
        """Beginning with the first leaves of the true log."""
        world = site.world
        keks = world.secrets.keks()
        made = cls(
            site.origin,
            Signer(site.origin, world.secrets.log_key(0)),
            CosignatureSigner(f"{site.origin}/fresh", world.secrets.fresh_key(0)),
            {
                row["subject"]: unwrap(keks, row["subject"], row["wrapped"])
                for row in await world.rows("select subject, wrapped from subject_key")
            },
        )
        for row in await world.rows("select leaves from leaf_batch order by first"):
            made.leaves += split_leaves(row["leaves"])
        made.leaves = made.leaves[:size]
        said = [raw for batch in site.batches for raw in batch]
        events = [index for index, leaf in enumerate(made.leaves) if leaf[0] != MAP_ROOT]
        made.raws = dict(zip(events, said, strict=False))
        return made

    def at(self, size: int) -> Liar:
        """The same as it was at a smaller size."""
        return Liar(
            self.origin, self.signer, self.fresh, dict(self.keys), self.leaves[:size], dict(self.raws), self.clock
        )

    def secrets(self, subject: str) -> SubjectSecrets:
        return SubjectSecrets(self.keys[subject], self.origin, subject)

    # -- what is appended

    def map(self, size: int | None = None) -> StateMap:
        """The true state map of the first leaves."""
        made = StateMap()
        made.begin()
        for index, leaf in enumerate(self.leaves[:size]):
            if leaf[0] != MAP_ROOT:
                made.update(leaf[1:33], int.from_bytes(leaf[33:41], "big"), index, leaf_hash(leaf))
        made.commit()
        return made

    def say(self, *raws: bytes, shown: StateMap | None = None) -> None:
        """Append these, each as the next word on its label, and a MAP_ROOT: of the true map or of another."""
        for raw in raws:
            statement = parse(raw)
            secrets = self.secrets(statement.subject)
            label = secrets.label(matter_of(statement))
            last = (self.map() if shown is None else shown).get(label)
            version, previous = (1, 0) if last is None else (last[0] + 1, last[1] + 1)
            self.raws[len(self.leaves)] = raw
            self.leaves.append(
                event_leaf(label, version, previous, secrets.commitment(label, version, raw), millis(self.clock))
            )
        true = self.map() if shown is None else shown
        last_root = max((index + 1 for index, leaf in enumerate(self.leaves) if leaf[0] == MAP_ROOT), default=0)
        self.leaves.append(map_root_leaf(len(self.leaves), true.root(), len(true), last_root))

    # -- what is shown

    async def hashes(self, level: int, n: int, width: int) -> bytes:
        """Of a tile, the first ones."""
        hashes = [leaf_hash(leaf) for leaf in self.leaves]
        for _ in range(level):
            hashes = [root_of(hashes[at : at + 256]) for at in range(0, len(hashes) // 256 * 256, 256)]
        return b"".join(hashes[256 * n : 256 * n + width])

    def note(self) -> str:
        """A checkpoint of all there is, signed and fresh."""
        text = Checkpoint(self.origin, len(self.leaves), root_of([leaf_hash(leaf) for leaf in self.leaves])).text()
        return format_note(text, [self.signer.sign(text), self.fresh.sign(text, int(self.clock.timestamp()))]).decode()

    async def _proven(self, index: int) -> Proven:
        raw, leaf = self.raws[index], self.leaves[index]
        statement = parse(raw)
        secrets = self.secrets(statement.subject)
        return Proven(
            index=index,
            matter=matter_of(statement),
            overtaken=False,
            leaf=leaf,
            raw=raw,
            statement=statement,
            pin=secrets.pin,
            opening=secrets.opening(leaf[1:33], int.from_bytes(leaf[33:41], "big")),
            hashes=await inclusion_proof(index, len(self.leaves), self.hashes),
        )

    async def receipt(self, index: int) -> bytes:
        """The receipt of the statement at an index."""
        proven = await self._proven(index)
        log = Log(0, self.origin, self.signer.vkey, self.fresh.vkey)
        history = History(log, len(self.leaves), self.note(), proven.statement.subject, [proven])
        return receipts.to_bytes(receipts.receipt(history, Snapshot(REGISTER.snapshot())))

    async def consistency(self, old: bytes) -> bytes:
        """A proof that this log begins with that of an old checkpoint: the best that can be made."""
        hashes = await self.consistency_hashes(int(old.split(b"\n")[1]))
        return _json({**self._frame("consistency"), "old": old.decode(), "hashes": _texts(hashes)})

    async def consistency_hashes(self, old: int) -> list[bytes]:
        """From an old size on, if this log has it."""
        return await consistency_proof(old, len(self.leaves), self.hashes) if old <= len(self.leaves) else []

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "kind": kind,
            "origin": self.origin,
            "vkey": self.signer.vkey,
            "fresh_vkey": self.fresh.vkey,
            "checkpoint": self.note(),
        }

    async def proof(self, kind: str, subject: str, shown: StateMap | None = None, anchor: int | None = None) -> bytes:
        """A proof file of kind `latest` or `absence` on the newsletter, by the map that the last MAP_ROOT is of."""
        size = len(self.leaves)
        state_map, secrets = self.map(size - 1) if shown is None else shown, self.secrets(subject)
        words = []
        for matter in matters(kind, "newsletter", "email"):
            siblings, record = state_map.prove(secrets.label(matter))
            present = record is not None and record[:32] == secrets.label(matter)
            index = int.from_bytes(record[40:48], "big") if record else 0
            words.append(
                {
                    "matter": matter,
                    "place": {"siblings": _texts(siblings), "record": None if record is None else _record(record)},
                    "entries": [receipts.entry_json(await self._proven(index))] if present else [],
                }
            )
        return _json(
            {
                **self._frame(kind),
                "subject": subject,
                "purpose": "newsletter",
                "channel": "email",
                "label_key": derive(self.keys[subject]).label_key.hex(),
                "map_root": {
                    "leaf": encode_base64url(self.leaves[-1]),
                    "hashes": _texts(await inclusion_proof(size - 1, size, self.hashes)),
                },
                "words": words,
                "anchor": None if anchor is None else receipts.entry_json(await self._proven(anchor)),
            }
        )


def _texts(hashes: Sequence[bytes]) -> list[str]:
    return [encode_base64url(one) for one in hashes]


def _record(record: bytes) -> dict[str, str]:
    return {
        "label": record[:32].hex(),
        "version": str(int.from_bytes(record[32:40], "big")),
        "index": str(int.from_bytes(record[40:48], "big")),
        "leaf_hash": record[48:].hex(),
    }


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
