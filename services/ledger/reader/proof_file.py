"""A proof file, checked offline in seven steps: consistency, latest, absence, history, state (docs/formats.md §22).

1. The file has the form of its kind.
2. The log's key has signed the checkpoint, and the fresh line says when it was the newest.
3. A consistency proof holds. Of any other kind: the map root is that of the MAP_ROOT leaf which ends the tree.
4. The subject belongs to this log, and each label, derived from the label key, leads to a place of that map.
5. What is shown of each label stands in the log, opens under the one pin of the label key, and says what it is
   filed under; versions follow one on the other up to what the map says.
6. It is what the kind wants, and all of it.
7. What holds, by the word on the purpose and the word on everything together.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from services.ledger.reader.checkpoint import Checkpoint, is_log_of
from services.ledger.reader.commitment import label as label_of
from services.ledger.reader.commitment import pin as pin_of
from services.ledger.reader.entry import Entry, parse_entry, parse_statement, verify_in_log
from services.ledger.reader.errors import Invalid
from services.ledger.reader.facts import Facts
from services.ledger.reader.finding import Finding
from services.ledger.reader.fresh import Fresh, verify_fresh
from services.ledger.reader.leaf import Erasure, Event, MapRoot, parse_leaf
from services.ledger.reader.map_proof import MapRecord, parse_place, verify_place
from services.ledger.reader.merkle import leaf_hash, verify_consistency, verify_inclusion
from services.ledger.reader.policy import LogKey, Policy, Trusted, is_trusted, verify_enclosed
from services.ledger.reader.proof import HASHES_LIMIT
from services.ledger.reader.strict import Fields, parse_json
from shared.clock import from_millis, millis, parse_rfc3339, rfc3339
from shared.events import EVERYTHING, RESTRICTIVE, Statement, is_overtaken, purpose_matter
from shared.events.matter import OVERTAKEN
from shared.events.standing import VALID_STATUS
from shared.identifiers import is_subject

FORMAT: Final = "consent-ledger/proof/1"
FILE_LIMIT: Final = 16 * 1024 * 1024
ENTRIES_LIMIT: Final = 4096
CONSISTENCY_LIMIT: Final = HASHES_LIMIT + 1
STEPS: Final = 7

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z", re.ASCII)

_ALWAYS: Final = ("checkpoint", "format", "fresh_vkey", "kind", "origin", "vkey")
_ABOUT: Final = (*_ALWAYS, "anchor", "channel", "label_key", "map_root", "purpose", "subject", "words")
MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "consistency": (*_ALWAYS, "hashes", "old"),
    "latest": _ABOUT,
    "absence": _ABOUT,
    "history": _ABOUT,
    "state": (*_ABOUT, "at", "last_leaf"),
}


def matters(kind: str, purpose: str, channel: str) -> list[str]:
    """The matters a proof of this kind has words on, in order."""
    own, both = purpose_matter(purpose, channel), f"{purpose}/{channel}"
    spoken = [own, OVERTAKEN + own, f"ask:{both}", f"use:{both}"]
    match kind:
        case "absence":
            return spoken
        case "history":
            return [*spoken, EVERYTHING, OVERTAKEN + EVERYTHING]
        case _:
            return [own, EVERYTHING]


@dataclass(frozen=True, slots=True)
class Said:
    """One leaf of a label that the log holds: an EVENT with its statement, or an ERASURE."""

    index: int
    leaf: bytes
    parsed: Event | Erasure
    statement: Statement | None

    @property
    def recorded(self) -> str:
        """When, by the operator's clock."""
        return _at(self.parsed.recorded_at)

    @property
    def status(self) -> str:
        """The resulting status, or what stands in its place."""
        if self.statement is None:
            return "erased"
        return str(getattr(self.statement.data, "status", self.statement.type))


@dataclass(frozen=True, slots=True)
class Word:
    """What the log says about one matter: verified."""

    matter: str
    label: bytes
    record: MapRecord | None
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the word on a purpose and the word on everything come to, together."""

    reason: Literal["holds", "ended", "overridden", "never", "erased"]
    purpose: Said | None
    everything: Said | None

    @property
    def holds(self) -> bool:
        """Whether consent is in force."""
        return self.reason == "holds"

    @property
    def text(self) -> str:
        """In one sentence."""
        match self.reason:
            case "erased":
                return "erased: no consent, and what was said can no longer be read"
            case "never":
                return "no consent: the contact point's holder never said a word on it"
            case "overridden":
                return f"no consent: {_told(self.everything)}, on everything, is newer than {_told(self.purpose)}"
            case "ended":
                return f"no consent: the newest word is {_told(self.purpose)}"
            case _:
                return f"consent holds: the newest word is {_told(self.purpose)}"


def _told(said: Said | None) -> str:
    return "nothing" if said is None else f"{said.status} at index {said.index}, recorded {said.recorded}"


def judge(purpose: Said | None, everything: Said | None) -> Judgement:
    """The state of a purpose from the two newest words; None where there is none."""
    if any(one is not None and one.statement is None for one in (purpose, everything)):
        return Judgement("erased", purpose, everything)
    if purpose is None:
        return Judgement("never", purpose, everything)
    if purpose.status not in VALID_STATUS:
        return Judgement("ended", purpose, everything)
    if everything is not None and everything.status not in VALID_STATUS and everything.index > purpose.index:
        return Judgement("overridden", purpose, everything)
    return Judgement("holds", purpose, everything)


@dataclass
class ProofFile:
    """One proof file on its way through the steps."""

    data: bytes
    vkey: Trusted
    findings: list[Finding] = field(default_factory=list)
    signed_by: str = ""
    conclusion: str = ""
    kind: str = ""
    subject: str = ""
    purpose: str = ""
    channel: str = ""
    words: dict[str, Word] = field(default_factory=dict)
    judgement: Judgement | None = None
    """Of `latest` and `state`."""
    checkpoint: Checkpoint = field(init=False)
    note: bytes = b""
    """The checkpoint, verbatim"""
    fresh_vkey: str = ""
    fresh: Fresh = field(init=False)
    facts: Facts = field(init=False)
    """What can be held against another file."""

    def verify(self) -> None:
        """All steps, or Invalid."""
        fields = self._step_1()
        self._step_2(fields)
        if self.kind == "consistency":
            self._consistency(fields)
            return
        map_root = self._step_3(fields)
        label_key, words = self._step_4(fields, map_root)
        self._step_5(fields, label_key, words)
        self._step_6(fields)

    def _step_1(self) -> Fields:
        step = "1"
        if len(self.data) > FILE_LIMIT:
            raise Invalid(step, "the proof", f"is longer than {FILE_LIMIT} bytes")
        fields = Fields(step, "the proof", parse_json(step, "the proof", self.data))
        if fields.text("format") != FORMAT:
            raise Invalid(step, "the proof", f"does not say {FORMAT}")
        self.kind = fields.text("kind")
        if self.kind not in MEMBERS:
            raise Invalid(step, "the proof", f"is of none of the kinds {', '.join(MEMBERS)}")
        return fields.exactly(*MEMBERS[self.kind])

    def _step_2(self, fields: Fields) -> None:
        step = "2"
        enclosed, note = fields.text("vkey"), fields.text("checkpoint").encode()
        if not is_trusted(self.vkey, enclosed):
            raise Invalid(step, "the verifier key", "you gave is not the one this proof names")
        try:
            shown = verify_enclosed(self.vkey, enclosed, note)
            self.fresh = verify_fresh(self.vkey, fields.text("fresh_vkey"), shown.checkpoint.origin, note)
        except Invalid as error:
            raise Invalid(step, "the checkpoint", f"does not verify: {error}") from None
        self.checkpoint = shown.checkpoint
        origin = self.checkpoint.origin
        if origin != fields.text("origin"):
            raise Invalid(step, "the origin", "is not the one that the checkpoint names")
        self.signed_by, self.note, self.fresh_vkey = enclosed, note, fields.text("fresh_vkey")
        self.facts = Facts(origin, enclosed)
        self.facts.add_checkpoint(self.checkpoint)
        self._found(
            2,
            f"the checkpoint of {origin}, {self.checkpoint.size} leaves, is signed by the log's key; "
            f"it was the newest at {self.fresh.said}{shown.cosigners()}",
        )

    def _consistency(self, fields: Fields) -> None:
        step = "3"
        hashes = _hashes(step, fields, CONSISTENCY_LIMIT)
        try:
            # A log's keys change, and its old checkpoints stay: one given under a policy may be of an earlier key.
            keys = self.vkey.logs if isinstance(self.vkey, Policy) and self.vkey.logs else (LogKey(self.signed_by),)
            old = Policy(keys).verify(fields.text("old").encode()).checkpoint
        except Invalid as error:
            raise Invalid(step, "the old checkpoint", f"does not verify: {error}") from None
        new = self.checkpoint
        if old.origin != new.origin:
            raise Invalid(step, "the old checkpoint", "is of another log")
        try:
            verify_consistency(old.size, new.size, hashes, old.root, new.root)
        except Invalid as error:
            raise Invalid(step, "the consistency proof", f"does not hold: {error}") from None
        self.facts.add_checkpoint(old)
        self._found(3, f"the log of {new.size} leaves begins with the {old.size} leaves of the old checkpoint")
        self.conclusion = (
            f"{new.origin} only grew, from {old.size} to {new.size} leaves: nothing that was in it was changed or "
            "taken away"
        )

    def _step_3(self, fields: Fields) -> MapRoot:
        step = "3"
        size = self.checkpoint.size
        leaf = self._leaf(step, fields.object("map_root").exactly("hashes", "leaf"), size - 1)
        if not isinstance(leaf, MapRoot):
            raise Invalid(step, "the leaf before the checkpoint's end", "is no MAP_ROOT", index=size - 1)
        if leaf.covers != size - 1:
            raise Invalid(step, "the MAP_ROOT", "does not cover all leaves before it", index=size - 1)
        if (leaf.labels == 0) != (leaf.map_root == bytes(32)):
            raise Invalid(step, "the MAP_ROOT", "is that of no map", index=size - 1)
        self._found(3, f"the log ends in the root of its state map, of {leaf.labels} labels")
        return leaf

    def _step_4(self, fields: Fields, map_root: MapRoot) -> tuple[bytes, list[tuple[Fields, Word]]]:
        step = "4"
        self.subject, self.purpose, self.channel = (fields.text(name) for name in ("subject", "purpose", "channel"))
        if not is_subject(self.subject) or not _NAME.match(self.purpose) or not _NAME.match(self.channel):
            raise Invalid(step, "the proof", "names no subject, purpose and channel")
        if not is_log_of(self.checkpoint.origin, self.subject):
            raise Invalid(step, "the origin", "is not that of the log of the subject's shard")
        label_key = fields.hash("label_key")
        wanted = matters(self.kind, self.purpose, self.channel)
        given = list(fields.objects("words", len(wanted)))
        words = []
        for one in given:
            one.exactly("entries", "matter", "place")
        if [one.text("matter") for one in given] != wanted:
            raise Invalid(step, "the words", f"are not those on {', '.join(wanted)}, in this order")
        for one, matter in zip(given, wanted, strict=True):
            try:
                label = label_of(label_key, matter)
            except Invalid as error:
                raise Invalid(step, "a matter", f"has no label: {error}") from None
            place = parse_place(step, one.object("place"))
            record = verify_place(step, label, place, map_root)
            self.facts.add_label(self.subject, matter, label)
            self.facts.add_map(self.checkpoint.size, label, record, matter)
            words.append((one, Word(matter, label, record, ())))
        self._found(
            4,
            "; ".join(
                f"{word.matter} is {'absent' if word.record is None else f'present, version {word.record.version}'}"
                for _, word in words
            )
            + ", by the state map",
        )
        return label_key, words

    def _step_5(self, fields: Fields, label_key: bytes, words: Sequence[tuple[Fields, Word]]) -> None:
        step = "5"
        pin = pin_of(label_key, self.checkpoint.origin, self.subject)
        self.facts.add_pin(self.subject, pin, label_key)
        left = ENTRIES_LIMIT
        for one, word in words:
            given = list(one.objects("entries", left))
            left -= len(given)
            said = tuple(self._said(step, entry, word.matter, word.label, pin) for entry in given)
            _follow(step, word, said)
            self.words[word.matter] = Word(word.matter, word.label, word.record, said)
        events = sum(said.statement is not None for word in self.words.values() for said in word.said)
        if (fields.get("anchor") is None) != (events > 0):
            raise Invalid(step, "the anchor", "is there although statements are" if events else "is missing")
        if events == 0:
            anchor = fields.object("anchor")
            matter = OVERTAKEN * anchor.flag("overtaken") + anchor.text("matter")
            try:
                label = label_of(label_key, matter)
            except Invalid as error:
                raise Invalid(step, "the anchor's matter", f"has no label: {error}") from None
            shown = self._said(step, anchor, matter, label, pin)
            self._found(5, f"the key to the labels is that of a statement of this subject, at index {shown.index}")
        else:
            self._found(5, f"{events} of the subject's statements stand in the log, each under its label and one pin")
        self.facts.check_times(step)

    def _said(self, step: str, fields: Fields, matter: str, label: bytes, pin: bytes) -> Said:
        """One leaf of a label, held against log, key and words."""
        if fields.get("statement") is None:
            fields.exactly("hashes", "index", "leaf")
            index = fields.decimal("index")
            erasure = self._leaf(step, fields, index)
            if not isinstance(erasure, Erasure):
                raise Invalid(step, f"the leaf at index {index}", "comes without a statement, and is no ERASURE")
            said = Said(index, fields.base64url("leaf"), erasure, None)
        else:
            entry = parse_entry(step, fields)
            said = self._event(step, entry, matter, pin)
        if said.parsed.label != label:
            raise Invalid(step, f"the leaf at index {said.index}", "is not of the label", index=said.index)
        return said

    def _event(self, step: str, entry: Entry, matter: str, pin: bytes) -> Said:
        event = verify_in_log(step, entry, self.checkpoint)
        where = f"the entry at index {entry.index}"
        if not hmac.compare_digest(entry.pin, pin):
            raise Invalid(step, where, "was made under another key than the one shown", index=entry.index)
        statement = parse_statement(step, entry)
        if statement.subject != self.subject:
            raise Invalid(step, where, "is about another subject", index=entry.index)
        if OVERTAKEN * entry.overtaken + entry.matter != matter:
            raise Invalid(step, where, f"is not about {matter}", index=entry.index)
        self.facts.add_leaf(entry.index, entry.leaf, event, matter)
        return Said(entry.index, entry.leaf, event, statement)

    def _leaf(self, step: str, fields: Fields, index: int) -> Event | Erasure | MapRoot:
        """A leaf that stands at this index of the checkpoint's tree."""
        leaf, hashes = fields.base64url("leaf"), _hashes(step, fields, HASHES_LIMIT)
        try:
            parsed = parse_leaf(leaf)
            verify_inclusion(leaf_hash(leaf), index, self.checkpoint.size, hashes, self.checkpoint.root)
        except Invalid as error:
            raise Invalid(step, f"the leaf at index {index}", f"does not verify: {error}", index=index) from None
        self.facts.add_leaf(index, leaf, parsed)
        return parsed

    def _step_6(self, fields: Fields) -> None:
        match self.kind:
            case "latest":
                self._latest()
            case "absence":
                self._absence()
            case "history":
                self._history()
            case _:
                self._state(fields)

    @property
    def _name(self) -> str:
        return f"{self.purpose}/{self.channel}"

    @property
    def _as_of(self) -> str:
        """Of which state of the log this is said. The size is signed by the log's key; the time is a fresh key's."""
        return f"at {self.checkpoint.size} leaves, the newest at {self.fresh.said}"

    def _latest(self) -> None:
        for word in self.words.values():
            newest = 0 if word.record is None else word.record.version
            if [one.parsed.version for one in word.said] != [newest][: newest > 0]:
                raise Invalid("6", f"the newest word on {word.matter}", "is not the one shown, or not the only one")
        own, everything = (word.said[-1] if word.said else None for word in self.words.values())
        self._found(6, "each word shown is the newest on its matter")
        self.judgement = judge(own, everything)
        self._found(7, f"{self._name}: {self.judgement.text}")
        self.conclusion = f"{self._name} of {self.subject} {self._as_of}: {self.judgement.text}"

    def _absence(self) -> None:
        for word in self.words.values():
            if word.record is not None:
                raise Invalid("6", word.matter, f"is not absent: it has {word.record.version} versions")
        self._found(6, f"nothing was ever recorded on any of the {len(self.words)} matters of {self._name}")
        self.conclusion = (
            f"{self._as_of} nothing was ever recorded about {self._name} of {self.subject}. This "
            "speaks of this one contact point under the key shown, not of others that the same person may have"
        )

    def _history(self) -> None:
        step = "6"
        for word in self.words.values():
            newest = 0 if word.record is None else word.record.version
            if len(word.said) != newest or (word.said and word.said[0].parsed.version != 1):
                raise Invalid(step, f"the history of {word.matter}", f"is not that of versions 1 to {newest}")
        said = sorted(
            ((one, matter) for matter, word in self.words.items() for one in word.said), key=lambda one: one[0].index
        )
        restricted: dict[str, str] = {}
        for one, matter in said:
            statement = one.statement
            if statement is None:
                continue
            base = matter.removeprefix(OVERTAKEN)
            late = is_overtaken(statement.type, statement.time, restricted.get(base), restricted.get(EVERYTHING))
            if late != matter.startswith(OVERTAKEN):
                why = "was overtaken, and is not called so" if late else "is called overtaken, and was not"
                raise Invalid(step, f"the statement at index {one.index}", why, index=one.index)
            if statement.type in RESTRICTIVE:
                restricted[base] = max(restricted.get(base, ""), statement.time)
        for one, matter in said:
            kind = "ERASURE" if one.statement is None else one.statement.type
            where = f"{matter}, version {one.parsed.version}"
            self._found(6, f"index {one.index}, recorded {one.recorded}: {kind} ({where})")
        count = f"{len(said)} word{'' if len(said) == 1 else 's'}"
        self._found(6, f"none is left out: {count} on {self._name} and on everything, from version 1 to the newest")
        self.conclusion = f"the history of {self._name} of {self.subject} is complete {self._as_of}: {count}"

    def _state(self, fields: Fields) -> None:
        step = "6"
        at_text = fields.text("at")
        try:
            at = millis(parse_rfc3339(at_text))
        except ValueError:
            at = -1
        if at < 0 or _at(at) != at_text:
            raise Invalid(step, "the moment", "is no time in UTC with three decimals")
        if at // 1000 > self.fresh.seconds:
            raise Invalid(step, "the moment", "is after that of the checkpoint's fresh line")
        in_force = [_in_force(step, word, at) for word in self.words.values()]
        self._found(6, f"each word shown was the newest on its matter at {at_text}, between its version and the next")
        size = self.checkpoint.size
        closed = False
        if (fields.get("last_leaf") is None) != (size == 1):
            raise Invalid(step, "the leaf before the last", "is missing, or cannot be there")
        if size > 1:
            last = self._leaf(step, fields.object("last_leaf").exactly("hashes", "leaf"), size - 2)
            if isinstance(last, MapRoot):
                raise Invalid(step, "the leaf before the last", "is a MAP_ROOT", index=size - 2)
            closed = last.recorded_at > at
            self.facts.check_times(step)
        self._found(
            6,
            "the log has gone on since, so nothing recorded up to then is missing"
            if closed
            else "the log holds nothing recorded after it: a word of that moment that was sealed later is not excluded",
        )
        own, everything = in_force
        self.judgement = judge(own, everything)
        self._found(7, f"{self._name}: {self.judgement.text}")
        self.conclusion = f"{self._name} of {self.subject} at {at_text}: {self.judgement.text}"
        if not closed and not self.fresh.believed:
            self.conclusion += (
                f". That it was still so then, and not only when the log had {self.checkpoint.size} leaves, is said by "
                "a fresh key that came with the file: give the log's with --vkey"
            )

    def _found(self, step: int, text: str) -> None:
        self.findings.append(Finding(step, text))


def _follow(step: str, word: Word, said: Sequence[Said]) -> None:
    """Versions follow by one, each naming the one before, up to what the map says."""
    if word.record is None:
        if said:
            raise Invalid(step, word.matter, "is absent by the map, and yet there are words on it")
        return
    for before, one in zip([None, *said], said, strict=False):
        where = f"the leaf at index {one.index}"
        parsed = one.parsed
        if (parsed.version == 1) != (parsed.previous_plus_one == 0):
            raise Invalid(step, where, "is a first version and names one before, or the reverse", index=one.index)
        if before is not None and (parsed.version, parsed.previous_plus_one) != (
            before.parsed.version + 1,
            before.index + 1,
        ):
            raise Invalid(step, where, "is not the version after the one before", index=one.index)
        newest = parsed.version == word.record.version
        if parsed.version > word.record.version or newest != (
            (one.index, leaf_hash(one.leaf)) == (word.record.index, word.record.leaf_hash)
        ):
            raise Invalid(step, where, "is not what the map says of its label", index=one.index)
        if one.statement is None and not newest:
            raise Invalid(step, where, "is an ERASURE, and yet not the last word", index=one.index)


def _in_force(step: str, word: Word, at: int) -> Said | None:
    """The version that was the newest at this moment, None if there was none yet; Invalid unless that is shown."""
    where = f"the word on {word.matter}"
    if word.record is None:
        return None
    earlier = [one for one in word.said if one.parsed.recorded_at <= at]
    later = word.said[len(earlier) :]
    if not earlier:
        if [one.parsed.version for one in later] != [1]:
            raise Invalid(step, where, "is not its first version, which came later")
        return None
    newest = earlier[0].parsed.version == word.record.version
    if len(earlier) != 1 or len(later) != (0 if newest else 1):
        raise Invalid(step, where, "is not the version in force at that moment and the one after it")
    return earlier[0]


def _hashes(step: str, fields: Fields, limit: int) -> list[bytes]:
    return [Fields(step, "a hash", {"hash": one}).base64url("hash") for one in fields.array("hashes", limit)]


def _at(recorded_at: int) -> str:
    try:
        return rfc3339(from_millis(recorded_at))
    except (ValueError, OverflowError, OSError):
        return "at an impossible time"
