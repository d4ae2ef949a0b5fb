"""What subjects does: seal, open, disclose, fold a recorded fact, rotate keys. Each is one transaction.

What leaves here never holds a subject's key, and no message or log line holds what a person typed.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from services.subjects import domain, projection, store
from services.subjects.domain import EVERYTHING as ALL
from services.subjects.keys import KeyEncryption, Peppers
from services.subjects.projection import Change
from services.subjects.store import Item, Known, Listing
from shared.clock import Clock, parse_rfc3339
from shared.contact_points import ContactPoint
from shared.database import Database, Queries, Transaction
from shared.errors import Corrupt, Refused, Unavailable
from shared.events import EVERYTHING as EVERYTHING_MATTER
from shared.events import Statement, Word, decides, matter_of
from shared.holder import Cleared, Marked, Step, Task
from shared.identifiers import Random, subject_id, uuid7

_ATTEMPTS: Final = 5
_ROTATION_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Parts:
    """What every handler needs."""

    db: Database
    encryption: KeyEncryption
    peppers: Peppers
    shards: int
    clock: Clock
    random: Random


@dataclass(frozen=True, slots=True)
class Plaintext:
    """What a collector wants sealed as one compartment of one statement."""

    statement: str
    compartment: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sealed:
    """One compartment's ciphertext and the hash that commits to its key."""

    statement: str
    compartment: str
    ciphertext: bytes
    key_hash: bytes


class UnknownSubject(Refused):
    """No such subject was ever given out here."""

    def __init__(self) -> None:
        super().__init__("unknown-subject", str(self.__doc__), status=404)


class ErasedSubject(Refused):
    """This subject is erased: its keys are destroyed and nothing can be sealed or opened for it any more."""

    def __init__(self) -> None:
        super().__init__("erased-subject", str(self.__doc__), status=410)


class SealedOtherwise(Refused):
    """This compartment of this statement was sealed before, with other content or for another subject. Make a new
    statement id for new content."""

    def __init__(self, item: Item) -> None:
        super().__init__("sealed-otherwise", str(self.__doc__), status=409, statement=item[0], compartment=item[1])


class Suppressed(Refused):
    """This contact point must not be used for this purpose."""

    def __init__(self) -> None:
        super().__init__("suppressed", str(self.__doc__), status=403)


class NothingSealed(Refused):
    """No such compartment was sealed for this subject."""

    def __init__(self, item: Item) -> None:
        super().__init__("unknown-compartment", str(self.__doc__), status=404, statement=item[0], compartment=item[1])


class _AnotherWasFirst(Exception):
    """Another transaction created this identifier's subject meanwhile: roll back and look again."""


async def start(db: Database, peppers: Peppers) -> None:
    """Refuses to work without every pepper this database was written with: everybody would become a stranger."""
    own = peppers.fingerprints()
    _same_peppers(await store.known_peppers(db), own)
    for number, fingerprint in sorted(own.items()):
        await store.add_pepper(db, number, fingerprint)
    # Another process may have been first with another file under the same number.
    _same_peppers(await store.known_peppers(db), own)


def _same_peppers(known: Mapping[int, bytes], own: Mapping[int, bytes]) -> None:
    for number, fingerprint in known.items():
        if own.get(number) != fingerprint:
            raise Corrupt("a pepper of this database is missing or another", f"pepper-{number}")


# Seal


async def seal(
    parts: Parts, controller: str, whom: ContactPoint | str, items: Sequence[Plaintext]
) -> tuple[str, list[Sealed]]:
    """The pseudonym of a contact point (made now, if it is new) or the given subject, and a ciphertext per item.

    Asking again with the same items answers the same bytes; other content for a known item is refused.

    Why no nonce and no plaintext ever meets another under one key: a compartment's key follows from the subject's
    key, the compartment and the statement id, and (statement id, compartment) is the primary key of a row that holds
    nonce and plaintext MAC, is inserted once and never changed. Encryption happens after that row is committed, with
    the nonce it holds, and only if the MAC shows the same plaintext; whoever dies before has shown nobody anything.
    """
    for _ in range(_ATTEMPTS):
        try:
            async with parts.db.transaction() as tx:
                known = await _resolve(parts, tx, controller, whom)
                [seals] = await _keep(parts, tx, [(known, items)])
        except _AnotherWasFirst:
            continue
        return known.subject, seals.encrypt(items)
    # Only reached if subjects are made and destroyed in turn under our eyes.
    raise Unavailable("subjects")


async def seal_several(
    parts: Parts, controller: str, asks: Sequence[tuple[ContactPoint, Sequence[Plaintext]]]
) -> list[tuple[str, list[Sealed]] | None]:
    """Each as if it were asked for alone; None where that is refused, and asked for alone it says why.

    All in one transaction where nothing stands against it, because a commit costs much the same for one as for many.
    """
    try:
        async with parts.db.transaction() as tx:
            knowns = await _resolve_several(parts, tx, controller, [contact for contact, _ in asks])
            kept = await _keep(parts, tx, [(known, items) for known, (_, items) in zip(knowns, asks, strict=True)])
    except (Refused, _AnotherWasFirst):
        # Nothing was kept. One of them cannot be, or not together with another: each for itself.
        return [await _seal_or_none(parts, controller, *ask) for ask in asks]
    return [(known.subject, seals.encrypt(items)) for known, seals, (_, items) in zip(knowns, kept, asks, strict=True)]


async def _seal_or_none(
    parts: Parts, controller: str, contact: ContactPoint, items: Sequence[Plaintext]
) -> tuple[str, list[Sealed]] | None:
    try:
        return await seal(parts, controller, contact, items)
    except Refused:
        return None


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is about to be committed for one subject, and what is encrypted with once it is."""

    subject: str
    keys: Mapping[str, bytes] = field(repr=False)
    nonces: Mapping[Item, bytes] = field(repr=False)

    def encrypt(self, items: Sequence[Plaintext]) -> list[Sealed]:
        return [_sealed(self.keys, self.subject, one, self.nonces[one.statement, one.compartment]) for one in items]


async def _keep(parts: Parts, tx: Transaction, asks: Sequence[tuple[Known, Sequence[Plaintext]]]) -> list[_Kept]:
    """Store nonce and plaintext MAC of every item, or find them stored; Refused if one was sealed otherwise."""
    opened = [_open_keys(parts, known) for known, _ in asks]
    rows = {
        (one.statement, one.compartment): store.Row(
            known.subject,
            parts.random(domain.NONCE_BYTES),
            domain.plaintext_mac(keys[domain.use_of(one.compartment)], one.compartment, one.statement, one.content),
        )
        for (known, items), keys in zip(asks, opened, strict=True)
        for one in items
    }
    if len(rows) < sum(len(items) for _, items in asks):
        raise Refused("duplicate-item", "Each compartment of a statement can be sealed once.")
    stored = await store.keep_compartments(tx, rows) if rows else {}
    for item, row in rows.items():
        is_stored = stored[item]
        if is_stored.subject != row.subject or not hmac.compare_digest(is_stored.plaintext_mac, row.plaintext_mac):
            raise SealedOtherwise(item)
    return [
        _Kept(
            known.subject,
            keys,
            {(one.statement, one.compartment): stored[one.statement, one.compartment].nonce for one in items},
        )
        for (known, items), keys in zip(asks, opened, strict=True)
    ]


def _sealed(keys: Mapping[str, bytes], subject: str, item: Plaintext, nonce: bytes) -> Sealed:
    key = domain.compartment_key(keys[domain.use_of(item.compartment)], item.compartment, item.statement)
    ciphertext = domain.seal(key, subject, item.compartment, item.statement, nonce, item.content)
    return Sealed(item.statement, item.compartment, ciphertext, domain.key_hash(key))


async def _resolve(parts: Parts, tx: Transaction, controller: str, whom: ContactPoint | str) -> Known:
    if isinstance(whom, str):
        return await _living(tx, whom, controller)
    digests = parts.peppers.digests(controller, whom.kind, whom.normalised)
    [subject] = await store.find_subjects(tx, [digests])
    if subject is None:
        known = _new(parts, controller, whom)
        if not await store.create_subjects(tx, [(known, digests)]):
            raise _AnotherWasFirst
        # Somebody erased who comes back: what is suppressed under an older pepper must be found under the newest too.
        await _copy_suppression(parts.peppers, tx, digests, digests)
        return known
    if len(digests) > 1:
        await _reindex(parts, tx, subject, digests)
    found = await store.load(tx, subject)
    if found is None or domain.CONTENT not in found.wrapped:
        raise ErasedSubject
    return found


async def _resolve_several(
    parts: Parts, tx: Transaction, controller: str, contacts: Sequence[ContactPoint]
) -> list[Known]:
    """As `_resolve` does for each, with as few queries as for one. While a pepper rotates, one by one."""
    if len(parts.peppers.by_number) > 1:
        return [await _resolve(parts, tx, controller, contact) for contact in contacts]
    digests = [parts.peppers.digests(controller, contact.kind, contact.normalised) for contact in contacts]
    subjects = await store.find_subjects(tx, digests)
    known = await store.load_several(tx, [subject for subject in subjects if subject is not None])
    if any(domain.CONTENT not in one.wrapped for one in known.values()):
        raise ErasedSubject
    resolved, new = [], []
    for contact, own, subject in zip(contacts, digests, subjects, strict=True):
        if subject is None:
            new.append((_new(parts, controller, contact), own))
        resolved.append(new[-1][0] if subject is None else known[subject])
    if new and not await store.create_subjects(tx, new):
        raise _AnotherWasFirst
    return resolved


async def _living(db: Queries, subject: str, controller: str | None = None) -> Known:
    known = await store.load(db, subject)
    if known is None or (controller is not None and known.controller != controller):
        raise UnknownSubject
    if domain.CONTENT not in known.wrapped:
        raise ErasedSubject
    return known


def _open_keys(parts: Parts, known: Known) -> dict[str, bytes]:
    return {use: parts.encryption.unwrap(known.subject, use, wrapped) for use, wrapped in known.wrapped.items()}


def _new(parts: Parts, controller: str, contact: ContactPoint) -> Known:
    # Eight bytes for a few shards: the bias of the remainder is far below anything measurable.
    shard = int.from_bytes(parts.random(8), "big") % parts.shards
    subject = subject_id(shard, parts.clock(), parts.random)
    keys = {use: parts.random(domain.KEY_BYTES) for use in (domain.CONTENT, domain.EVIDENCE)}
    entry = {"kind": contact.kind, "typed": contact.typed, "normalised": contact.normalised}
    return Known(
        subject,
        controller,
        {use: parts.encryption.wrap(subject, use, key) for use, key in keys.items()},
        domain.seal_contact_point(keys[domain.CONTENT], subject, parts.random(domain.NONCE_BYTES), entry),
    )


# Peppers in rotation


async def _reindex(parts: Parts, tx: Transaction, subject: str, digests: Mapping[int, bytes]) -> None:
    """Make a subject known under one pepper known under all, its suppression too."""
    present = await store.identifiers(tx, subject)
    missing = {number: digest for number, digest in digests.items() if number not in present}
    if missing:
        await store.add_identifiers(tx, subject, missing)
        await _copy_suppression(parts.peppers, tx, digests, missing)


async def _copy_suppression(
    peppers: Peppers, tx: Transaction, digests: Mapping[int, bytes], missing: Mapping[int, bytes]
) -> None:
    if len(digests) == 1:
        return
    for purpose, channel in await store.suppression_scopes(tx, digests):
        row = await store.newest_suppression(tx, [peppers.suppression(digests, purpose, channel)])
        if row is not None:
            await store.copy_suppression(tx, peppers.suppression(missing, purpose, channel), purpose, channel, row)


async def rotate(parts: Parts) -> int:
    """Bring one batch of rows to the newest key-encryption key and the newest pepper; returns how many it moved.

    When it returns 0, the older key-encryption keys can be destroyed. An older pepper stays: nobody can compute the
    new digest of somebody suppressed whose address is erased, until that person comes back.
    """
    async with parts.db.transaction() as tx:
        older = await store.wrapped_under_older(tx, parts.encryption.newest, _ROTATION_BATCH)
        for subject, use, wrapped in older:
            key = parts.encryption.unwrap(subject, use, wrapped)
            await store.rewrap(tx, subject, use, parts.encryption.wrap(subject, use, key))
    moved = len(older)
    for subject in await store.without_pepper(parts.db, max(parts.peppers.by_number), _ROTATION_BATCH):
        async with parts.db.transaction() as tx:
            known = await store.load(tx, subject)
            if known is not None and domain.CONTENT in known.wrapped:
                contact = _contact(parts, known)
                digests = parts.peppers.digests(known.controller, contact["kind"], contact["normalised"])
                await _reindex(parts, tx, subject, digests)
                moved += 1
    return moved


# Open


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A `brief` to be opened."""

    statement: str
    ciphertext: bytes = field(repr=False)
    key_hash: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """A contact point and the plaintexts of the briefs, for one caller and one purpose."""

    contact: Mapping[str, str] = field(repr=False)
    briefs: Sequence[bytes] = field(repr=False)


def _contact(parts: Parts, known: Known) -> dict[str, str]:
    if known.contact_point is None:
        raise Corrupt("living subject without a contact point", known.subject)
    content_key = parts.encryption.unwrap(known.subject, domain.CONTENT, known.wrapped[domain.CONTENT])
    try:
        return domain.open_contact_point(content_key, known.subject, known.contact_point)
    except domain.DoesNotOpen:
        raise Corrupt("contact point does not open", known.subject) from None


async def open_subject(
    parts: Parts, subject: str, briefs: Sequence[Ciphertext], advertising: tuple[str, str] | None
) -> Opened:
    """Where to write to, and what waits to be sent there.

    `advertising` is the purpose and channel if this is advertising: then suppression is asked, as the second net
    below the permit. Any other message (a confirmation, a receipt) passes.
    """
    known = await _living(parts.db, subject)
    if advertising is not None and await is_suppressed(parts, subject, *advertising):
        raise Suppressed
    content_key = parts.encryption.unwrap(subject, domain.CONTENT, known.wrapped[domain.CONTENT])
    plaintexts = []
    for brief in briefs:
        key = domain.compartment_key(content_key, domain.BRIEF, brief.statement)
        plaintexts.append(domain.unseal(key, subject, domain.BRIEF, brief.statement, brief.ciphertext, brief.key_hash))
    return Opened(_contact(parts, known), plaintexts)


async def is_suppressed(parts: Parts, subject: str, purpose: str, channel: str) -> bool:
    """Whether the newest word that suppression has on this contact point, for this purpose or for everything, is no."""
    indexes = await store.identifiers(parts.db, subject)
    scopes = ((purpose, channel), (ALL, ALL))
    row = await store.newest_suppression(parts.db, [parts.peppers.suppression(indexes, *scope) for scope in scopes])
    return row is not None and row.suppressed


# Disclose


async def disclose(
    parts: Parts, caller: str, subject: str, scope: str, reason: str, items: Sequence[Item]
) -> list[bytes]:
    """The keys of single compartments, for evidence; who got them and why is stored before anybody sees them.

    Of somebody erased there are no keys any more; that they were asked for, and why, is stored all the same.
    """
    if len(set(items)) < len(items):
        raise Refused("duplicate-item", "Name each compartment once.")
    async with parts.db.transaction() as tx:
        known = await store.load(tx, subject)
        if known is None:
            raise UnknownSubject
        is_erased = domain.EVIDENCE not in known.wrapped
        can_open = [] if is_erased else items
        stored = await store.compartments(tx, can_open)
        for item in can_open:
            if item not in stored or stored[item].subject != subject:
                raise NothingSealed(item)
        now = parts.clock()
        await store.put_disclosures(tx, uuid7(now, parts.random), now, caller, scope, reason, subject, can_open)
    if is_erased:
        raise ErasedSubject
    key = parts.encryption.unwrap(subject, domain.EVIDENCE, known.wrapped[domain.EVIDENCE])
    return [domain.compartment_key(key, name, statement) for statement, name in items]


# Find


async def find(parts: Parts, controller: str, contact: ContactPoint) -> str:
    """The pseudonym of a contact point that is known; nothing is made."""
    [subject] = await store.find_subjects(
        parts.db, [parts.peppers.digests(controller, contact.kind, contact.normalised)]
    )
    if subject is None:
        raise UnknownSubject
    return subject


# Erase


def erasing() -> Step:
    """What an erasure does here, within the holder's transaction (shared/holder.py). The content key goes at once;
    until the withdrawal is folded that keeps this address from being written to, there is no address to keep it of
    afterwards, so that is waited for."""

    async def step(tx: Transaction, task: Task, marked: Marked) -> Cleared | None:
        known = await store.load(tx, task.subject)
        if known is None:
            raise UnknownSubject
        is_waited_for = task.ended is not None and not marked.has_stated
        if is_waited_for and not await store.has_folded(tx, task.subject, EVERYTHING_MATTER, str(task.ended)):
            return None
        found = await store.clear(tx, task.subject)
        found["evidence-key"] = await store.destroy_evidence_key(tx, task.subject)
        return Cleared(found)

    return step


# Record


async def record(peppers: Peppers, tx: Transaction, said: Sequence[tuple[Statement, int]]) -> None:
    """Fold recorded statements, in the order of their indexes, into words and suppression, inside the follower's
    transaction; with as many queries for a thousand as for one.

    If the subject's identifiers are deleted already there is no address left that could be written to, nothing to
    compute a suppression from, and no word worth keeping: whoever deletes them does so after its restriction was
    folded here.
    """
    deciding = [(statement, index) for statement, index in said if decides(matter_of(statement))]
    if not deciding:
        return
    people = await store.people(tx, {statement.subject for statement, _ in deciding})
    words: dict[tuple[str, str], Word] = {}
    changes: list[tuple[Change, Mapping[int, bytes], date]] = []
    for statement, index in deciding:
        standing, indexes = people[statement.subject]
        after, change = projection.apply(standing, statement, index)
        if change is None or not indexes:
            continue
        people[statement.subject] = (after, indexes)
        words[statement.subject, matter_of(statement)] = change.word
        if change.does != "nothing":
            changes.append((change, indexes, parse_rfc3339(statement.time).date()))
    if words:
        await store.put_words(tx, words)
    if changes:
        await _put_suppressions(peppers, tx, changes)


async def _put_suppressions(
    peppers: Peppers, tx: Transaction, changes: Sequence[tuple[Change, Mapping[int, bytes], date]]
) -> None:
    own = [peppers.suppression(indexes, change.purpose, change.channel) for change, indexes, _ in changes]
    everything = {
        place: peppers.suppression(indexes, ALL, ALL)
        for place, (change, indexes, _) in enumerate(changes)
        if change.does == "lift"
    }
    listed = set()
    if everything:
        asked = [pair for place, all_of_it in everything.items() for pair in (*own[place].items(), *all_of_it.items())]
        listed = await store.listed(tx, asked)
    puts: dict[tuple[int, bytes], Listing] = {}
    for place, (change, _, since) in enumerate(changes):
        pairs = own[place].items()
        if change.does == "lift" and listed.isdisjoint([*pairs, *everything[place].items()]):
            continue  # who never was on the list does not get onto it by agreeing
        listed.update(pairs)
        for pair in pairs:
            puts.pop(pair, None)  # the newest word is the last one, also among those of this batch
            puts[pair] = Listing(change.purpose, change.channel, since, suppressed=change.does == "suppress")
    if puts:
        await store.put_suppressions(tx, puts)
