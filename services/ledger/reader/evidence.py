"""An evidence bundle, checked offline in nine steps (docs/formats.md §18).

1. The archive is canonical, the manifest names every file by its hash, and each file is one a bundle has.
2. The log's key has signed the checkpoint; timestamps are about beginnings of its tree.
3. Each statement is in the log: pin, opening and statement give the leaf, and the leaf is in the tree.
4. All is of one subject, under one pin, in the log of its shard; each history is complete from its first version;
   what is called overtaken was overtaken, and nothing else.
5. Each key is the one a statement commits to, opens its compartment, and what lies opened in the bundle is that.
6. Register snapshots and notices have the hashes the statements name, and records are made from them.
7. Double opt-in: a mail to the address that was typed carried the token whose hash the request stated, and the
   consent answers both.
8. The served-notice tokens are signed, and what they say was shown is the notice, its boxes empty.
9. What holds at this checkpoint, as far as this file can say.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from services.ledger.reader.archive import unpack
from services.ledger.reader.checkpoint import Checkpoint, is_log_of
from services.ledger.reader.compartment import open_compartment
from services.ledger.reader.double_opt_in import DoubleOptIn, Shown
from services.ledger.reader.entry import Entry, Recorded, parse_entry, parse_statement, verify_in_log
from services.ledger.reader.errors import Invalid
from services.ledger.reader.facts import Facts
from services.ledger.reader.finding import Finding
from services.ledger.reader.fresh import Fresh, verify_fresh
from services.ledger.reader.policy import Policy, Trusted, is_trusted, verify_enclosed
from services.ledger.reader.proof_file import ProofFile
from services.ledger.reader.served import CLOCKS_APART_MS, hold_against, key_id, parse_notice_keys, verify_served
from services.ledger.reader.stamp import STAMPS_LIMIT, Stamp, parse_stamp
from services.ledger.reader.stated_by import stated_by
from services.ledger.reader.strict import Fields, canonical_json, parse_json
from services.ledger.record import RECORDED_TYPES, NoRecord, notices_of, parse_snapshot, record
from shared.clock import from_millis, millis, parse_rfc3339, rfc3339
from shared.events import EVERYTHING, RESTRICTIVE, Standing, Statement, is_overtaken, purpose_matter
from shared.events.matter import MATTER_PATTERN, OVERTAKEN
from shared.identifiers import is_subject
from shared.register import RegisterInvalid
from shared.register.notice import Notice, parse_notice

FORMAT: Final = "consent-ledger/evidence/1"
MANIFEST: Final = "manifest.json"
CHECKPOINT: Final = "checkpoint.txt"
VKEY: Final = "vkey.txt"
FRESH_VKEY: Final = "fresh-vkey.txt"
KEYS: Final = "keys.json"
NOTICE_KEYS: Final = "notice-keys.json"
DKIM_KEYS: Final = "dkim-keys.json"
README: Final = "README.txt"
VERIFIER: Final = "verify.py"
LATEST: Final = "proofs/latest.json"
SINGLE: Final = (MANIFEST, CHECKPOINT, VKEY, FRESH_VKEY, KEYS, NOTICE_KEYS, DKIM_KEYS, README, VERIFIER, LATEST)
STEPS: Final = 9

# SHA-256 of every `verify.py` that was ever packed, newest last. A bundle tells people to run that file: so the file
# is one of these, or this verifier says that nobody vouches for it.
KNOWN_VERIFIERS: Final = (
    "30abc12e9f9d571bd9e0ac4d51df84bce99303a512ae3632b0b4750cb39c0fb6",
    "ab450cc01534ab3e74eaaf1d4c73fa106a6ade0d61536278ca6ecf7879c92d22",
    "ba65067b609c50005e28a7fbb30aece19e3bf0d3459d8dbff5f6601b152aa345",
    "6ec07036ebd6d44fe3a16c359243fb6f2da0fe4b4b11613a2f6ec35522d776a8",
    "44238e8dde4052f816f7bdeb08cdb3b3d48c51e03b398643009a52416ff7bdd5",
)

_HASH = "[0-9a-f]{64}"
_NUMBER = "(?:0|[1-9][0-9]{0,19})"
_MANY = re.compile(
    rf"statements/{_NUMBER}\.json|records/{_NUMBER}\.jsonld|register/{_HASH}\.json|notices/{_HASH}\.txt"
    rf"|attachments/{_HASH}|(?:effects|timestamps)/{_NUMBER}\.json|opened/{_NUMBER}-(?:evidence\.json|brief\.json|attachment-[0-9]\.(?:eml|bin))"
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z", re.ASCII)
_WORD = re.compile(r"[!-~]{1,200}\Z", re.ASCII)
_KEYS_LIMIT = 4096
_SYSTEMS_LIMIT = 64
_SENDING_LIMIT = 4096


def opened_name(index: int, compartment: str, media_type: str = "") -> str:
    """Under which name an opened compartment lies in the bundle."""
    if compartment.startswith("attachment/"):
        kind = "eml" if media_type == "message/rfc822" else "bin"
        return f"opened/{index}-{compartment.replace('/', '-')}.{kind}"
    return f"opened/{index}-{compartment}.json"


@dataclass
class Bundle:
    """One bundle on its way through the steps; each step relies on those before it."""

    data: bytes
    vkey: Trusted
    findings: list[Finding] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    signed_by: str = ""
    subject: str = ""
    purpose: str = ""
    channel: str = ""
    origin: str = ""
    size: int = 0
    checkpoint: Checkpoint | None = None
    fresh: Fresh | None = None
    stamps: list[Stamp] = field(default_factory=list)
    """By the size they are about"""
    entries: list[Entry] = field(default_factory=list)
    recorded: list[Recorded] = field(default_factory=list)
    opened: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """(statement id, compartment) → what is in it"""
    notices: dict[tuple[str, str], Notice] = field(default_factory=dict)
    """(register version, notice hash) → the notice as that register has it"""
    registers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """version → parsed snapshot"""
    served: set[str] = field(default_factory=set)
    """Ids of the statements whose served-notice token was verified"""
    shown: list[Shown] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    """What holds after each of them"""
    state: str = ""
    holds: bool = False
    latest_proven: bool = False
    """Whether the bundle proves that the log holds no later word at its checkpoint"""
    latest: Facts | None = None
    """What that proof says, of the map above all"""

    def verify(self) -> None:
        """All nine steps, or Invalid."""
        self.step_1()
        self.step_2()
        self.step_3()
        self.step_4()
        self.step_5()
        self.step_6()
        # What was shown to whom is settled before it is asked how good the evidence is.
        tokens = self.step_8()
        self.step_7()
        self._found(8, tokens)
        self.step_9()

    # -- 1 ---------------------------------------------------------------------------------------------------------

    def step_1(self) -> None:
        """The archive is canonical, the manifest names every file by its hash, each file is one a bundle has."""
        step = "1"
        self.files = unpack(step, self.data)
        raw = self._file(step, MANIFEST)
        value = parse_json(step, "the manifest", raw)
        manifest = Fields(step, "the manifest", value).exactly(
            "channel", "checkpoint_size", "files", "format", "origin", "purpose", "subject"
        )
        if canonical_json(value) != raw:
            raise Invalid(step, "the manifest", "is not in its canonical form")
        if manifest.text("format") != FORMAT:
            raise Invalid(step, "the manifest", f"does not say {FORMAT}")
        self.subject, self.origin = manifest.text("subject"), manifest.text("origin")
        self.purpose, self.channel = manifest.text("purpose"), manifest.text("channel")
        self.size = manifest.decimal("checkpoint_size")
        if not is_subject(self.subject) or not _NAME.match(self.purpose) or not _NAME.match(self.channel):
            raise Invalid(step, "the manifest", "names no subject, purpose and channel")
        hashes = manifest.object("files")
        names = set(manifest.get("files")) | {MANIFEST}
        if names != set(self.files):
            raise Invalid(step, "the manifest", "does not name exactly the files there are")
        for name, content in self.files.items():
            if name != MANIFEST and hashes.hash(name) != hashlib.sha256(content).digest():
                raise Invalid(step, f"the file {name}", "has another hash than the manifest says")
            if name not in SINGLE and not _MANY.fullmatch(name):
                raise Invalid(step, f"the file {name}", "is none that a bundle has")
        self._found(1, f"the archive is canonical; {len(self.files)} files, each with the hash its manifest says")
        if VERIFIER in self.files:
            known = hashlib.sha256(self.files[VERIFIER]).hexdigest() in KNOWN_VERIFIERS
            said = "is one that this program knows" if known else "is none that this program knows: do not run it"
            self._found(1, f"{VERIFIER} {said}")

    # -- 2 ---------------------------------------------------------------------------------------------------------

    def step_2(self) -> None:
        """The log's key has signed the checkpoint; timestamps are about beginnings of its tree."""
        step = "2"
        enclosed = self._line(step, VKEY)
        if not is_trusted(self.vkey, enclosed):
            raise Invalid(step, "the verifier key", "you gave is not the one this bundle names")
        note = self._file(step, CHECKPOINT)
        try:
            shown = verify_enclosed(self.vkey, enclosed, note)
            fresh = verify_fresh(self.vkey, self._line(step, FRESH_VKEY), shown.checkpoint.origin, note)
        except Invalid as error:
            raise Invalid(step, "the checkpoint", f"does not verify: {error}") from None
        checkpoint = shown.checkpoint
        if checkpoint.origin != self.origin or checkpoint.size != self.size:
            raise Invalid(step, "the checkpoint", "is not the one the manifest names")
        self.checkpoint, self.signed_by, self.fresh = checkpoint, enclosed, fresh
        self._found(
            2,
            f"the checkpoint of {self.origin}, {self.size} leaves, is signed by the log's key; "
            f"it was the newest at {fresh.said}{shown.cosigners()}",
        )
        self._stamps(step, checkpoint)

    def _stamps(self, step: str, checkpoint: Checkpoint) -> None:
        authority = self.vkey.authority if isinstance(self.vkey, Policy) else None
        names = sorted((name for name in self.files if name.startswith("timestamps/")), key=_index_of)
        if len(names) > STAMPS_LIMIT:
            raise Invalid(step, "the bundle", f"has more than {STAMPS_LIMIT} timestamps")
        for name in names:
            fields = Fields(step, name, parse_json(step, name, self.files[name]))
            stamp = parse_stamp(step, name, _index_of(name), fields, checkpoint, authority)
            whose = "the authority given" if stamp.believed else "an authority that was not given (--authority)"
            self.stamps.append(stamp)
            self._found(2, f"the log's first {stamp.size} leaves were there at {stamp.said}, by the word of {whose}")

    # -- 3 ---------------------------------------------------------------------------------------------------------

    def step_3(self) -> None:
        """Each statement is in the log."""
        step = "3"
        assert self.checkpoint is not None  # noqa: S101 - step 2 has set it
        names = sorted((name for name in self.files if name.startswith("statements/")), key=_index_of)
        if not names:
            raise Invalid(step, "the bundle", "has no statements")
        for name in names:
            fields = Fields(step, name, parse_json(step, name, self.files[name]))
            entry = parse_entry(step, fields)
            if entry.index != _index_of(name):
                raise Invalid(step, name, "holds another index than its name says", index=entry.index)
            event = verify_in_log(step, entry, self.checkpoint)
            # Only what the log holds is looked into; what the statement says is step 4's.
            statement = parse_statement("4", entry)
            self.entries.append(entry)
            self.recorded.append(Recorded(entry.index, entry.matter, entry.overtaken, entry.pin, event, statement))
        self._found(3, f"{_count(len(names), 'statement')} in the log, each at its index")

    # -- 4 ---------------------------------------------------------------------------------------------------------

    def step_4(self) -> None:
        """One subject, one pin, the log of its shard; complete histories; overtaken is what was overtaken."""
        step = "4"
        if not is_log_of(self.origin, self.subject):
            raise Invalid(step, "the origin", "is not that of the log of the subject's shard")
        own = {f"{kind}:{self.purpose}/{self.channel}" for kind in ("purpose", "ask", "use")} | {EVERYTHING}
        pins, ids, before = {one.pin for one in self.recorded}, set[tuple[str, str]](), 0
        if len(pins) != 1:
            raise Invalid(step, "the bundle", "has two pins for one subject: that is proof of fraud")
        for one in self.recorded:
            where = f"the statement at index {one.index}"
            if one.statement.subject != self.subject:
                raise Invalid(step, where, "is about another subject", index=one.index)
            if not MATTER_PATTERN.match(one.matter) or not (
                one.matter in own or one.matter.startswith(("data:", "request:"))
            ):
                raise Invalid(step, where, "is about another purpose", index=one.index)
            if (one.statement.source, one.statement.id) in ids:
                raise Invalid(step, where, "is recorded a second time", index=one.index)
            if one.event.recorded_at < before:
                raise Invalid(step, where, "was recorded before an earlier one", index=one.index)
            if millis(parse_rfc3339(one.statement.time)) > one.event.recorded_at + CLOCKS_APART_MS:
                raise Invalid(step, where, "claims a time after it was recorded", index=one.index)
            ids.add((one.statement.source, one.statement.id))
            before = one.event.recorded_at
        self._labels(step, own)
        self._overtaken(step)
        self._found(4, f"all are of the subject {self.subject} under one pin; each history has no gap")
        by = "; ".join(f"{name or 'not named'} (index {where})" for name, where in stated_by(self.recorded))
        self._found(4, f"stated by, in the statements' own words: {by}")

    def _labels(self, step: str, own: set[str]) -> None:
        labels: dict[tuple[str, bool], list[Recorded]] = {}
        for one in self.recorded:
            labels.setdefault((one.matter, one.overtaken), []).append(one)
        if len({one.event.label for one in self.recorded}) != len(labels) or any(
            len({one.event.label for one in chain}) != 1 for chain in labels.values()
        ):
            raise Invalid(step, "the bundle", "has two labels for one matter, or one for two: that is proof of fraud")
        for (matter, _), chain in labels.items():
            # In index order versions only grow, each leaf naming the one before it.
            version, index = 0, -1
            for one in chain:
                event = one.event
                follows = event.version == version + 1
                if event.version <= version or (matter in own and not follows):
                    raise Invalid(step, f"the history of {matter}", "has a gap", index=one.index)
                if follows and event.previous_plus_one != index + 1:
                    raise Invalid(step, f"the leaf at index {one.index}", "names another before it", index=one.index)
                version, index = event.version, one.index

    def _overtaken(self, step: str) -> None:
        restricted: dict[str, str] = {}
        for one in self.recorded:
            statement = one.statement
            late = is_overtaken(statement.type, statement.time, restricted.get(one.matter), restricted.get(EVERYTHING))
            if late != one.overtaken:
                word = "was overtaken, and the bundle says it was not" if late else "is called overtaken and was not"
                raise Invalid(step, f"the statement at index {one.index}", word, index=one.index)
            if statement.type in RESTRICTIVE:
                restricted[one.matter] = max(restricted.get(one.matter, ""), statement.time)

    # -- 5 ---------------------------------------------------------------------------------------------------------

    def step_5(self) -> None:
        """Each key is the one a statement commits to, and what lies opened is what it opens."""
        step = "5"
        keys: dict[tuple[str, str], bytes] = {}
        value = parse_json(step, KEYS, self._file(step, KEYS))
        listed = Fields(step, KEYS, {"keys": value}).objects("keys", _KEYS_LIMIT)
        for one in listed:
            one.exactly("compartment", "key", "statement")
            name = (one.text("statement"), one.text("compartment"))
            if name in keys:
                raise Invalid(step, KEYS, "names a compartment twice")
            keys[name] = one.base64url("key")
        used: set[str] = set()
        for entry in self.recorded:
            for compartment, key_hash, ciphertext, opened_as in self._compartments(step, entry, used):
                key = keys.pop((entry.statement.id, compartment), None)
                if key is None:
                    continue
                if ciphertext is None:
                    raise Invalid(step, KEYS, "has a key to an attachment that is not in the bundle", index=entry.index)
                content = open_compartment(
                    step, key, key_hash, ciphertext, self.subject, compartment, entry.statement.id
                )
                if self.files.get(opened_as) != content:
                    raise Invalid(step, f"the file {opened_as}", "is missing or is not what the key opens")
                used.add(opened_as)
                self.opened[entry.statement.id, compartment] = content
        if keys:
            raise Invalid(step, KEYS, "has a key to a compartment that no statement has")
        self._all_used(step, ("opened/", "attachments/"), used)
        self._found(5, f"{_count(len(self.opened), 'sealed part')} opened with the keys that the statements commit to")

    def _compartments(
        self, step: str, entry: Recorded, used: set[str]
    ) -> Iterator[tuple[str, bytes, bytes | None, str]]:
        """Compartment, key hash, ciphertext (None if it is not here) and the name of the opened file."""
        for name, sealed in entry.statement.data.sealed.items():
            wrapped = Fields(step, "a compartment", {"ciphertext": sealed.ciphertext})
            yield name, bytes.fromhex(sealed.key_hash), wrapped.base64url("ciphertext"), opened_name(entry.index, name)
        seen: set[str] = set()
        for attachment in getattr(entry.statement.data, "attachments", []):
            if attachment.compartment in seen:
                raise Invalid(step, "a statement", "names one compartment twice", index=entry.index)
            seen.add(attachment.compartment)
            name = f"attachments/{attachment.hash}"
            ciphertext = self.files.get(name)
            if ciphertext is not None:
                used.add(name)
                if hashlib.sha256(ciphertext).hexdigest() != attachment.hash or len(ciphertext) != attachment.size:
                    raise Invalid(step, f"the file {name}", "is not the attachment its statement names")
            opened_as = opened_name(entry.index, attachment.compartment, attachment.media_type)
            yield attachment.compartment, bytes.fromhex(attachment.key_hash), ciphertext, opened_as

    # -- 6 ---------------------------------------------------------------------------------------------------------

    def step_6(self) -> None:
        """Register snapshots and notices have the hashes the statements name, and records are made from them."""
        step = "6"
        used: set[str] = set()
        snapshots = self.registers
        records = 0
        for one in self.recorded:
            version = one.statement.data.register_version
            if version not in snapshots:
                name = f"register/{version}.json"
                used.add(name)
                snapshots[version] = self._snapshot(step, name, version)
            shown = getattr(one.statement.data, "notice", None)
            if shown is not None and (version, shown.hash) not in self.notices:
                name = f"notices/{shown.hash}.txt"
                used.add(name)
                activity = one.statement.data.activity
                notice = self._notice(step, name, shown.hash, snapshots[version], activity)
                self.notices[version, shown.hash] = notice
            if one.statement.type in RECORDED_TYPES:
                name = f"records/{one.index}.jsonld"
                used.add(name)
                records += 1
                self._record(step, name, one, snapshots[version])
        self._all_used(step, ("register/", "notices/", "records/"), used)
        self._found(
            6,
            f"{_count(len({name for _, name in self.notices}), 'notice')} and "
            f"{_count(len(snapshots), 'register snapshot')} with the hashes that the statements name; "
            f"{_count(records, 'record')}, each what statement and register say",
        )

    def _snapshot(self, step: str, name: str, version: str) -> Mapping[str, Any]:
        raw = self._file(step, name)
        if hashlib.sha256(raw).hexdigest() != version:
            raise Invalid(step, f"the file {name}", "is not the register that a statement names")
        parse_json(step, f"the file {name}", raw)
        try:
            return parse_snapshot(raw)
        except NoRecord:
            raise Invalid(step, f"the file {name}", "is no register snapshot") from None

    def _notice(self, step: str, name: str, notice_hash: str, snapshot: Mapping[str, Any], activity: str) -> Notice:
        raw = self._file(step, name)
        if hashlib.sha256(raw).hexdigest() != notice_hash:
            raise Invalid(step, f"the file {name}", "is not the notice that a statement names")
        try:
            published = notices_of(snapshot, activity)
            [path] = [path for path, text in published.items() if text.encode() == raw]
            return parse_notice(path, raw)
        except (NoRecord, ValueError):
            raise Invalid(step, f"the notice {name}", "is not in the register its statement names") from None
        except RegisterInvalid:
            raise Invalid(step, f"the notice {name}", "cannot be read as a notice") from None

    def _record(self, step: str, name: str, one: Recorded, snapshot: Mapping[str, Any]) -> None:
        found = parse_json(step, name, self._file(step, name))
        try:
            made = record(one.statement, snapshot)
        except NoRecord:
            raise Invalid(step, f"the register of the statement at index {one.index}", "does not know it") from None
        if canonical_json(found) != canonical_json(made):
            raise Invalid(step, f"the file {name}", "is not the record that statement and register make")

    # -- 7 ---------------------------------------------------------------------------------------------------------

    def step_7(self) -> None:
        """Double opt-in, for each consent in the bundle, and its grade by the rule of the register it names."""
        dkim_keys = self._file("7", DKIM_KEYS)
        check = DoubleOptIn(self.recorded, self.opened, frozenset(self.served), dkim_keys, self.registers).check
        self.shown = [check(one) for one in self.recorded if one.statement.type == "ConsentGiven"]
        if not self.shown:
            self._found(7, "the bundle has no consent, so no double opt-in to check")
        for note in (note for shown in self.shown for note in shown.notes):
            self._found(7, note)

    # -- 8 ---------------------------------------------------------------------------------------------------------

    def step_8(self) -> str:
        """The served-notice tokens are signed, and what they say was shown is the notice, its boxes empty."""
        step = "8"
        keys = parse_notice_keys(step, self._file(step, NOTICE_KEYS))
        unproven = 0
        for one in self.recorded:
            echoed = getattr(one.statement.data, "served", None)
            if echoed is None or not echoed.verified:
                continue
            if key_id(step, echoed.token) not in keys:
                unproven += 1
                continue
            notice = self.notices[one.statement.data.register_version, one.statement.data.notice.hash]
            hold_against(step, verify_served(step, keys, echoed.token), one, notice)
            self.served.add(one.statement.id)
        said = f"{_count(len(self.served), 'statement')} with a token that the bundle's notice keys signed"
        said += ", and that shows the notice and no box ticked" if self.served else ""
        return said + (f"; the key of {unproven} more is not in this bundle, so they do not count" if unproven else "")

    # -- 9 ---------------------------------------------------------------------------------------------------------

    def step_9(self) -> None:
        """What holds at this checkpoint, as far as this file can say."""
        step = "9"
        standing = Standing({})
        for one in self.recorded:
            standing, _ = standing.apply(one.statement, one.index)
            self.standings.append(standing)
        word = standing.words.get(purpose_matter(self.purpose, self.channel))
        self.holds = standing.permits(self.purpose, self.channel)
        if self.holds:
            said, self.state = "consent holds", "by this file it holds"
        elif word is None:
            said, self.state = "no consent was given", "none was given"
        else:
            said = f"consent does not hold; the last word on the purpose is {word.status}"
            self.state = "it does not hold any more"
        later = "That the log holds no later word is not proven by this file"
        if self.holds and LATEST not in self.files:
            self.state += "; whether a later word has ended it is not shown"
        if LATEST in self.files:
            self._latest(step)
            self.latest_proven = True
            later = "The log holds no later word at this size: by its state map, proven in this file"
        self._found(9, f"by the statements in this bundle, {said} at {self.size} leaves. {later}")
        for one in self.recorded:
            if one.statement.type == "ConsentUsed" and not self.covered(one.statement):
                self._found(9, f"the use at index {one.index} relied on no consent in force when its permit was issued")
        self._effects(step)

    def _latest(self, step: str) -> None:
        """Hold the proof of the latest word against the bundle, or raise Invalid."""
        proof = ProofFile(self.files[LATEST], self.signed_by)
        try:
            proof.verify()
        except Invalid as error:
            raise Invalid(step, f"the file {LATEST}", f"does not verify: step {error.step}: {error}") from None
        about = (proof.kind, proof.subject, proof.purpose, proof.channel)
        # To the byte: another fresh line there would make this very checkpoint the newest of another time.
        under = (proof.note, proof.fresh_vkey) == (self._file(step, CHECKPOINT), self._line(step, FRESH_VKEY))
        if about != ("latest", self.subject, self.purpose, self.channel) or not under:
            raise Invalid(step, f"the file {LATEST}", "is about something else, or under another checkpoint")
        for matter, word in proof.words.items():
            mine = [one for one in self.recorded if (one.matter, one.overtaken) == (matter, False)]
            # An ERASURE is a later word too, and no entry of a bundle: what it ended must not look as if it never was.
            newest = [said.index for said in word.said]
            if [one.index for one in mine[-1:]] != newest or any(one.event.label != word.label for one in mine):
                raise Invalid(step, f"the file {LATEST}", f"has another latest word on {matter} than this bundle")
        self.latest = proof.facts

    def _effects(self, step: str) -> None:
        """What the operator's systems noted of when a withdrawal took effect; nothing proves it."""
        restrictive = {one.index: one.statement.id for one in self.recorded if one.statement.type in RESTRICTIVE}
        for name in sorted((one for one in self.files if one.startswith("effects/")), key=_index_of):
            noted = Fields(step, name, parse_json(step, name, self.files[name])).exactly("statement", "systems")
            if restrictive.get(_index_of(name)) != noted.text("statement"):
                raise Invalid(step, f"the file {name}", "is about no withdrawal in this bundle")
            for system in noted.objects("systems", _SYSTEMS_LIMIT):
                system.exactly("applied_at", "in_transmission", "system")
                where, when = system.text("system"), system.text("applied_at")
                sending = system.array("in_transmission", _SENDING_LIMIT)
                if not _NAME.match(where) or not all(isinstance(one, str) and _WORD.match(one) for one in sending):
                    raise Invalid(step, f"the file {name}", "names no system, or no message")
                try:
                    parse_rfc3339(when)
                except ValueError:
                    raise Invalid(step, f"the file {name}", "names no time") from None
                effect = f"the withdrawal at index {_index_of(name)} took effect in {where} at {when}"
                self._found(9, f"by the operator's word, {effect}")

    def covered(self, use: Statement) -> bool:
        """Whether a consent was in force at the size that the use's permit names."""
        before = bisect_left(self.recorded, int(use.data.permit.size), key=lambda one: one.index)
        return before > 0 and self.standings[before - 1].permits(self.purpose, self.channel)

    @property
    def facts(self) -> Facts:
        """What can be held against another file, once all steps are done."""
        facts = Facts(self.origin, self.signed_by)
        assert self.checkpoint is not None  # noqa: S101 - step 2 has set it
        facts.add_checkpoint(self.checkpoint)
        for entry, one in zip(self.entries, self.recorded, strict=True):
            matter = OVERTAKEN * one.overtaken + one.matter
            facts.add_leaf(one.index, entry.leaf, one.event, matter)
            facts.add_pin(self.subject, one.pin)
            facts.add_label(self.subject, matter, one.event.label)
        return facts if self.latest is None else facts.with_those_of(self.latest)

    @property
    def conclusion(self) -> str:
        """In one line what the bundle shows."""
        given = [shown for shown in self.shown if not shown.given.overtaken]
        if not given:
            return f"no consent to {self.purpose}/{self.channel} is shown"
        newest = given[-1]
        at = rfc3339(from_millis(newest.given.event.recorded_at))
        by = [one.said for one in self.stamps if one.believed and one.size > newest.given.index]
        there = f", there at {by[0]} by the authority's word" if by else ""
        about, rests = f"{self.purpose}/{self.channel}", newest.rests_on_its_source
        if rests:
            return (
                f"a consent to {about}, recorded {at}{there}, has grade {newest.grade}, and {rests}; "
                f"if one believes that, {self.state}"
            )
        return f"consent to {about}, recorded {at}{there}, is shown with grade {newest.grade}; {self.state}"

    # -- tools of the steps ----------------------------------------------------------------------------------------

    def _found(self, step: int, text: str) -> None:
        self.findings.append(Finding(step, text))

    def _file(self, step: str, name: str) -> bytes:
        try:
            return self.files[name]
        except KeyError:
            raise Invalid(step, f"the file {name}", "is missing") from None

    def _line(self, step: str, name: str) -> str:
        """A file of one line."""
        try:
            text = self._file(step, name).decode("ascii")
        except UnicodeDecodeError:
            text = ""
        if not text.endswith("\n") or text.count("\n") != 1:
            raise Invalid(step, f"the file {name}", "is not one line of ASCII")
        return text[:-1]

    def _all_used(self, step: str, folders: Sequence[str], used: set[str]) -> None:
        for name in self.files:
            if name.startswith(tuple(folders)) and name not in used:
                raise Invalid(step, f"the file {name}", "belongs to no statement")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _index_of(name: str) -> int:
    return int(name.partition("/")[2].partition(".")[0])
