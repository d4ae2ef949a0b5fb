"""`log drop-tail`: take what the signer refused to sign out of the log again, so that what was accepted comes anew.

Nothing above the sealed size was ever published or acknowledged: Kafka and the outboxes have it still. What decides is
in SQL (migrations/0005-drop-tail.sql), which checks by itself that nothing sealed goes; here is what takes keys and the
signer's files: that the leaves that stay are those that were signed, and what stays of the subjects in the tail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import asyncpg

from services.ledger import store
from services.ledger.log.leaf import EVENT, MAP_ROOT, leaf_hash, split_leaves
from services.ledger.log.secrets import KeyEncryptionKeyMissing, SubjectSecrets, unwrap
from services.ledger.log.tree import Edge
from services.ledger.procedures.owner import as_owner
from services.ledger.signer_files import SignerFiles
from shared.database import Queries, Row
from shared.errors import Corrupt, Refused
from shared.events import RESTRICTIVE, parse
from shared.secrets import Secrets
from shared.settings import Settings

_AT_ONCE: Final = 1000
_LABEL: Final = slice(1, 33)


@dataclass(frozen=True, slots=True)
class Tail:
    """What lies above the sealed size, and where consent.stated is read again from."""

    shard: int
    kept: int
    size: int
    statements: Mapping[str, int]
    """how many of each source"""
    offset: int
    number: int | None = None
    """of the row in dropped_tail; None if it was only looked at"""

    def __str__(self) -> str:
        said = ", ".join(f"{count} of {source}" for source, count in sorted(self.statements.items())) or "no statement"
        what = f"leaves {self.kept} to {self.size - 1} of shard {self.shard} ({said})"
        if self.number is None:
            return f"would take out {what}; nothing was changed. To do it, repeat this with --keep {self.kept}"
        return f"took out {what}; they are in dropped_row, tail {self.number}. Start ledger-append and ledger-seal"


@dataclass(slots=True)
class _Word:
    """One matter of one subject: where its label stands among the leaves that stay, if anywhere."""

    subject: str
    matter: str
    restricted_at: str | None
    secrets: SubjectSecrets
    indexes: list[int] = field(default_factory=list)


async def drop_tail(settings: Settings, shard: int, by: str, reason: str, keep: int | None) -> Tail:
    """Take out what lies above the sealed size; without `keep`, which must be that size, only say what would go.

    Refused if the signer has not stopped the shard, or if it is not the tail that is wrong. The signer must not run:
    its files are held meanwhile.
    """
    if not by.strip() or not reason.strip():
        raise Refused("no-name", "Say who does it, and why.")
    if not SignerFiles.exist(settings.signer_dir, shard):
        raise Refused("no-signer-files", "Run it where the signer's files are (CONSENT_LEDGER_SIGNER_DIR).")
    files = SignerFiles.open(settings.signer_dir, shard)
    try:
        async with as_owner(settings.superuser_dsn) as owner:
            tail = await _look(owner, files, shard)
            if keep not in {None, tail.kept}:
                raise Refused("not-the-sealed-size", f"{tail.kept} leaves are sealed, not {keep}.")
            return await drop(
                owner, files, tail, Secrets(settings.secrets_dir).keks(), None if keep is None else (by, reason)
            )
    finally:
        files.close()


async def _look(db: Queries, files: SignerFiles, shard: int) -> Tail:
    """What would go; Refused if that may not or need not be."""
    head, kept, signed = await store.head(db, shard), await store.sealed_size(db, shard), files.signed[-1].size
    if signed > kept:
        message = (
            f"The signer has signed {signed} leaves, PostgreSQL has the checkpoint of {kept}. If they are there, start"
            " ledger-seal once: it stores what it signed. If they are not, this is a case for `log restore`."
        )
        raise Refused("signed-above", message)
    if signed < kept:
        raise Corrupt("the signer's files", f"shard {shard}: {signed} leaves, {kept} are sealed")
    if not await store.open_incidents(db, shard, store.SIGNER_DISAGREES):
        raise Refused("not-stopped", "The signer has not stopped this shard: what is appended will be sealed.")
    # However far the head says there is something, or rows are there that the head does not know.
    size = max(head["size"], await db.fetchval(_ENDS, shard))
    if size == kept:
        raise Refused("no-tail", f"There is nothing above the {kept} sealed leaves: what is wrong is sealed.")
    statements = {row["source"]: row["number"] for row in await db.fetch(_STATEMENTS, shard, kept)}
    return Tail(shard, kept, size, statements, head["next_offset"])


async def drop(
    db: Queries, files: SignerFiles, tail: Tail, keks: Mapping[int, bytes], said: tuple[str, str] | None
) -> Tail:
    """Take it out, in the name and for the reason that are said; if nobody says so, only find out that one could."""
    words, unreadable = await _words(db, tail, keks)
    edge = await _kept_edge(db, files, tail, words)
    if said is None:
        return tail
    restricted = [await _restricted_at(db, tail.shard, word) for word in words.values()]
    try:
        number = await db.fetchval(
            "select drop_tail($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            tail.shard,
            tail.kept,
            edge.to_bytes(),
            [word.subject for word in words.values()],
            [word.matter for word in words.values()],
            [bool(word.indexes) for word in words.values()],
            restricted,
            list(unreadable),
            *said,
        )
    except asyncpg.ObjectNotInPrerequisiteStateError as error:
        raise Refused("not-to-be-dropped", f"Nothing was changed: {error}.") from None
    return replace(tail, number=int(number))


async def _words(db: Queries, tail: Tail, keks: Mapping[int, bytes]) -> tuple[dict[bytes, _Word], set[str]]:
    """By label what the subjects of the tail have words on; and whose key does not open."""
    origin = await store.origin(db, tail.shard)
    words: dict[bytes, _Word] = {}
    unreadable: set[str] = set()
    names = await _subjects(db, tail)
    for start in range(0, len(names), _AT_ONCE):
        for row in await store.subjects(db, names[start : start + _AT_ONCE]):
            try:
                secrets = SubjectSecrets(unwrap(keks, row["subject"], row["wrapped"]), origin, row["subject"])
            except KeyEncryptionKeyMissing:
                raise
            except Corrupt:
                if await db.fetchval(_HAS_SEALED, tail.shard, tail.kept, row["subject"]):
                    raise
                unreadable.add(row["subject"])
                # Labels of another key: among the leaves that stay there is none.
                secrets = SubjectSecrets(bytes(32), origin, row["subject"])
            for matter, restricted_at in zip(row["matters"], row["restricted_at"], strict=True):
                if matter is not None:
                    words[secrets.label(matter)] = _Word(row["subject"], matter, restricted_at, secrets)
    return words, unreadable


async def _subjects(db: Queries, tail: Tail) -> list[str]:
    """Whom the tail speaks of; everybody, if its rows do not say that for certain."""
    rows = await db.fetch("select subject from payload where shard = $1 and index >= $2", tail.shard, tail.kept)
    try:
        batches = await store.batches(db, tail.shard, tail.kept, tail.size)
        events = sum(leaf[0] == EVENT for batch in batches for leaf in split_leaves(batch.leaves))
    except Corrupt:
        events = -1
    if events == len(rows):
        return sorted({row["subject"] for row in rows})
    return [row["subject"] for row in await db.fetch("select subject from subject_key where shard = $1", tail.shard)]


async def _kept_edge(db: Queries, files: SignerFiles, tail: Tail, words: Mapping[bytes, _Word]) -> Edge:
    """The edge of the leaves that stay; Corrupt if one of them is not the leaf that was signed."""
    edge, index, ours = Edge(), 0, files.leaves()
    async for batch in store.replay(db, tail.shard, 0, tail.kept):
        leaves = split_leaves(batch.leaves)
        for leaf in leaves:
            if leaf != next(ours):
                raise Corrupt("leaf_batch", f"shard {tail.shard}, index {index} is not the leaf that was signed")
            if leaf[0] != MAP_ROOT and (word := words.get(leaf[_LABEL])) is not None:
                word.indexes.append(index)
            index += 1
        edge.extend([leaf_hash(leaf) for leaf in leaves])
    signed = {one.size: one.root for one in files.signed}
    # Files that were made from a mirror know the sizes before its own no more.
    if edge.size != tail.kept or signed.get(edge.size, edge.root()) != edge.root():
        raise Corrupt("the signer's files", f"shard {tail.shard}: root of size {tail.kept}")
    return edge


async def _restricted_at(db: Queries, shard: int, word: _Word) -> str | None:
    """When this matter was last restricted by what stays. What was erased cannot say: then it stays as it is."""
    if word.restricted_at is None or not word.indexes:
        return None
    rows: Iterable[Row] = await db.fetch(
        "select index, payload from payload where shard = $1 and index = any($2)", shard, word.indexes
    )
    said = [parse(word.secrets.open_payload(shard, row["index"], row["payload"])) for row in rows]
    if len(said) < len(word.indexes):
        return word.restricted_at
    return max((statement.time for statement in said if statement.type in RESTRICTIVE), default=None)


_ENDS: Final = "select coalesce(max(first + n), 0) from leaf_batch where shard = $1"
_STATEMENTS: Final = """
select source, count(*) as number from seen where shard = $1 and index >= $2 group by source
"""
_HAS_SEALED: Final = "select exists (select from payload where shard = $1 and index < $2 and subject = $3)"
