"""Whom a verifier trusts: the keys of logs, the witnesses, and how many of them it wants (docs/formats.md §23)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.ledger.reader.authority import Authority
from services.ledger.reader.checkpoint import Checkpoint, parse_checkpoint, parse_decimal
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import CosignatureVerifier, Note, Verifier, parse_note
from services.ledger.reader.strict import moment

POLICY_LIMIT = 256 * 1024
KEYS_LIMIT = 64
"""of logs, of witnesses, of groups, each"""

NONE = "none"
NO_QUORUM = "policy verification 5"

_FORBIDDEN = re.compile(r"[^\t\n\x20-\x7e\x80-\xff]")
_BLANK = re.compile(r"[ \t]+")
_UNTIL = " until "
_FRESH = "/fresh"


@dataclass(frozen=True, slots=True)
class LogKey:
    """A key that signs checkpoints of one log, or did."""

    vkey: str
    url: str | None = None
    until: int | None = None
    """The size of the last checkpoint it signed, if it is retired."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A key that cosigns; `name` means something inside its policy alone."""

    name: str
    vkey: str
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Has witnessed as soon as `threshold` of its members have."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What a checkpoint that satisfies a policy has shown."""

    checkpoint: Checkpoint
    signed_by: str
    """the log's verifier key; the first in the policy, if several have signed"""
    times: dict[str, int]
    """by the policy's name of each witness that cosigned, when it did: seconds since 1970"""

    def cosigners(self) -> str:
        """Return who cosigned and when, as the end of a sentence; nothing if nobody did."""
        said = ", ".join(f"{name} at {moment(time)}" for name, time in sorted(self.times.items()))
        return said and f"; cosigned by {said}"


@dataclass(frozen=True, slots=True)
class Policy:
    """Any one of these logs must have signed, and of the witnesses a quorum."""

    logs: tuple[LogKey, ...]
    witnesses: tuple[Witness, ...] = ()
    groups: tuple[Group, ...] = ()
    quorum: str = NONE
    authority: Authority | None = None
    """Whose timestamps are believed; no part of a policy file."""
    fresh: tuple[str, ...] = ()
    """Whose fresh lines are believed, if any were given; no part of a policy file."""

    def for_logs(self, logs: Sequence[LogKey], fresh: Sequence[str] = ()) -> "Policy":
        """Return the same policy for other logs."""
        return replace(self, logs=tuple(logs), fresh=tuple(fresh))

    def is_satisfied_by(self, names: set[str]) -> bool:
        """Whether these witnesses are a quorum."""
        if self.quorum == NONE:
            return True
        # A group names only what stands before it, so one pass in order settles all.
        have = set(names)
        for group in self.groups:
            if sum(member in have for member in group.members) >= group.threshold:
                have.add(group.name)
        return self.quorum in have

    def verify(self, data: bytes) -> Witnessed:
        """Verify a checkpoint under this policy, or raise Invalid.

        1. The note is well formed and its text is a checkpoint of at least one leaf.
        2. A log's key with the origin as its name has signed it; none of these keys has a line that does not verify.
        3. One of them at least was not retired before this size.
        4. Each cosignature of a witness of this policy verifies.
        5. They are a quorum.
        """
        # 1.
        note = parse_note(data)
        checkpoint = parse_checkpoint(note.text)
        if checkpoint.size == 0:
            raise Invalid("policy verification 1", "the size", "is 0")
        # 2.
        signed = self._signed(note, checkpoint)
        # 3.
        valid = [key for key in signed if key.until is None or checkpoint.size <= key.until]
        if not valid:
            raise Invalid("policy verification 3", "the key", "was retired before the log had this size")
        # 4.
        times = {one.name: CosignatureVerifier(one.vkey).verify(note) for one in self.witnesses if _has(note, one)}
        # 5.
        if not self.is_satisfied_by(set(times)):
            who = ", ".join(sorted(times)) or "no witness of the policy"
            raise Invalid(NO_QUORUM, "the checkpoint", f"lacks cosignatures: {who} is no quorum")
        return Witnessed(checkpoint, valid[0].vkey, times)

    def _signed(self, note: Note, checkpoint: Checkpoint) -> list[LogKey]:
        found = []
        for key in self.logs:
            verifier = Verifier(key.vkey)
            if verifier.name != checkpoint.origin:
                continue
            if any((one.name, one.key_id) == (verifier.name, verifier.key_id) for one in note.signatures):
                verifier.verify(note)
                found.append(key)
        if not found:
            raise Invalid("policy verification 2", "the checkpoint", "is signed by none of the log's keys given")
        return found


Trusted = str | Policy | None
"""One verifier key of a log, or a policy; None: only what a file says of itself is checked."""


def is_trusted(trusted: Trusted, enclosed: str) -> bool:
    """Whether the log key that a file encloses is among those that whoever verifies has brought along."""
    if isinstance(trusted, Policy):
        return not trusted.logs or enclosed in {key.vkey for key in trusted.logs}
    return trusted in {None, enclosed}


def verify_enclosed(trusted: Trusted, enclosed: str, data: bytes) -> Witnessed:
    """Verify a checkpoint under the log key that its file encloses, and under all that is trusted; or raise Invalid."""
    alone = Policy((LogKey(enclosed),))
    shown = alone.verify(data)
    if not isinstance(trusted, Policy):
        return shown
    return (trusted if trusted.logs else trusted.for_logs(alone.logs)).verify(data)


def _has(note: Note, witness: Witness) -> bool:
    verifier = CosignatureVerifier(witness.vkey)
    return any((one.name, one.key_id) == (verifier.name, verifier.key_id) for one in note.signatures)


def parse_policy(data: bytes) -> Policy:
    """Read a policy (C2SP tlog-policy), or raise Invalid.

    1. It is not longer than we read, has no control characters but tab and newline, and ends in a newline.
    2. Each line is empty, a comment, or begins with a word we know and has the parts that belong to it.
    3. Keys are of the right type, and no key occurs twice.
    4. Names are not `none` and are defined once, before they are used; a name is a member of one group at most.
    5. 1 <= k <= n for each group.
    6. There is one quorum line.
    """
    # 1.
    if len(data) > POLICY_LIMIT:
        raise Invalid("policy 1", "the policy", f"is longer than {POLICY_LIMIT} bytes")
    # Octets above 7f mean nothing to the format; latin-1 keeps each as it is.
    text = data.decode("latin-1")
    if _FORBIDDEN.search(text):
        raise Invalid("policy 1", "the policy", "has control characters")
    if text and not text.endswith("\n"):
        raise Invalid("policy 1", "the policy", "does not end in a newline")
    reading = _Reading()
    for line in text.split("\n"):
        parts = [part for part in _BLANK.split(line) if part]
        if parts and not parts[0].startswith("#"):
            reading.line(parts)
    # 6.
    if reading.quorum is None:
        raise Invalid("policy 6", "the policy", "has no quorum line")
    return Policy(tuple(reading.logs), tuple(reading.witnesses), tuple(reading.groups), reading.quorum)


class _Reading:
    """A policy on its way in, line by line."""

    def __init__(self) -> None:
        self.logs: list[LogKey] = []
        self.witnesses: list[Witness] = []
        self.groups: list[Group] = []
        self.quorum: str | None = None
        self._defined: set[str] = set()
        self._members: set[str] = set()
        self._keys: dict[str, set[bytes]] = {"log": set(), "witness": set()}

    def line(self, parts: list[str]) -> None:
        # 2.
        match parts:
            case ["log", vkey, *url] if len(url) <= 1:
                self.logs.append(LogKey(self._key("log", vkey), url[0] if url else None))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._define(name)
                self.witnesses.append(Witness(name, self._key("witness", vkey), *url))
            case ["group", name, threshold, *members] if members:
                self._group(name, threshold, members)
            case ["quorum", name]:
                if self.quorum is not None:
                    raise Invalid("policy 6", "the policy", "has more than one quorum line")
                if name not in self._defined | {NONE}:
                    raise Invalid("policy 4", "the quorum", "names what is not defined before it")
                self.quorum = name
            case _:
                raise Invalid("policy 2", "a line of the policy", "has no known form")
        if max(len(self.logs), len(self.witnesses), len(self.groups)) > KEYS_LIMIT:
            raise Invalid("policy 2", "the policy", f"has more than {KEYS_LIMIT} lines of one kind")

    def _key(self, kind: str, text: str) -> str:
        # 3.
        try:
            vkey = text.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError:
            raise Invalid("policy 3", "a verifier key", "is not UTF-8") from None
        verifier = Verifier(vkey) if kind == "log" else CosignatureVerifier(vkey)
        if verifier.public in self._keys[kind]:
            raise Invalid("policy 3", f"a {kind}", "has the key of another")
        self._keys[kind].add(verifier.public)
        return vkey

    def _define(self, name: str) -> None:
        # 4.
        if name == NONE or name in self._defined:
            raise Invalid("policy 4", "a name", "is defined twice, or is none")
        self._defined.add(name)

    def _group(self, name: str, threshold: str, members: list[str]) -> None:
        for member in members:
            # 4.
            if member not in self._defined:
                raise Invalid("policy 4", "a group", "names what is not defined before it")
            if member in self._members:
                raise Invalid("policy 4", "a name", "is a member twice")
            self._members.add(member)
        # 5.
        known = {"any": 1, "all": len(members)}
        needed = known[threshold] if threshold in known else parse_decimal("policy 5", "a threshold", threshold)
        if not 1 <= needed <= len(members):
            raise Invalid("policy 5", "a threshold", "is not between 1 and the number of members")
        self._define(name)
        self.groups.append(Group(name, needed, tuple(members)))


def format_witnesses(policy: Policy) -> str:
    """Write what a policy wants of witnesses, without logs and addresses, as `parse_policy` reads it as latin-1."""
    lines = [f"witness {one.name} {one.vkey.encode().decode('latin-1')}" for one in policy.witnesses]
    lines += [f"group {one.name} {one.threshold} {' '.join(one.members)}" for one in policy.groups]
    return "".join(f"{line}\n" for line in (*lines, f"quorum {policy.quorum}"))


def parse_log_keys(data: bytes) -> Policy:
    """Read the keys of one log, one line each, newest first, as a policy that wants no witness; or raise Invalid.

    1. It is UTF-8, not longer than we read, and has at least one key.
    2. Each line is a verifier key, of a retired key with ` until <size>` behind it; or that of a fresh line.
    3. All have the same name (fresh ones that name and `/fresh`), and none occurs twice.
    """
    # 1.
    if len(data) > POLICY_LIMIT:
        raise Invalid("vkeys 1", "the verifier keys", f"are longer than {POLICY_LIMIT} bytes")
    try:
        lines = data.decode("utf-8").strip().split("\n")
    except UnicodeDecodeError:
        raise Invalid("vkeys 1", "the verifier keys", "are not UTF-8") from None
    if len(lines) > KEYS_LIMIT:
        raise Invalid("vkeys 1", "the verifier keys", f"are more than {KEYS_LIMIT}")
    # 2.
    keys, fresh = [], []
    for line in lines:
        vkey, retired, size = line.strip().partition(_UNTIL)
        if not retired and _is_fresh(vkey):
            fresh.append(vkey)
        else:
            keys.append(LogKey(vkey, None, parse_decimal("vkeys 2", "the last size", size) if retired else None))
    # 3.
    verifiers = [Verifier(key.vkey) for key in keys]
    names = {one.name for one in verifiers}
    cosigners = [CosignatureVerifier(one) for one in fresh]
    if len(names) != 1 or any(one.name.removesuffix(_FRESH) not in names for one in cosigners):
        raise Invalid("vkeys 3", "the verifier keys", "are of several logs, or of none")
    for kind in (verifiers, cosigners):
        if len({one.public for one in kind}) != len(kind):
            raise Invalid("vkeys 3", "the verifier keys", "are not different ones")
    return Policy(tuple(keys), fresh=tuple(fresh))


def _is_fresh(vkey: str) -> bool:
    try:
        return CosignatureVerifier(vkey).name.endswith(_FRESH)
    except Invalid:
        return False


def format_log_keys(keys: Sequence[LogKey]) -> str:
    """Write the keys of one log, one line each."""
    return "".join(f"{key.vkey}{'' if key.until is None else f'{_UNTIL}{key.until}'}\n" for key in keys)
