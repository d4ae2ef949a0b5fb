"""A policy is read in one way only, and a checkpoint satisfies it only with enough true cosignatures."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import leaf_hash, node_hash
from services.ledger.reader.note import CosignatureSigner, Signer, format_note
from services.ledger.reader.policy import (
    NONE,
    Group,
    LogKey,
    Policy,
    Witness,
    format_log_keys,
    parse_log_keys,
    parse_policy,
    verify_enclosed,
)
from services.ledger.reader.proof import format_proof, verify_proof

ORIGIN = "example.org/log"


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


LOG, NEXT_LOG, OTHER_LOG = Signer(ORIGIN, key(1)), Signer(ORIGIN, key(2)), Signer("example.org/other", key(3))
X1, X2, X3, Y1 = (CosignatureSigner(f"w{n}.example", key(10 + n)) for n in range(4))
LEAVES = (leaf_hash(b"leaf 0"), leaf_hash(b"leaf 1"))
CHECKPOINT = Checkpoint(ORIGIN, 2, node_hash(*LEAVES))
TEXT = CHECKPOINT.text()
TWO_LEVELS = f"""# two organisations
log {LOG.vkey}

\twitness X1 {X1.vkey} https://x1.example/submit
witness X2 {X2.vkey}
witness X3 {X3.vkey}
group X 2 X1 X2 X3
witness Y1  {Y1.vkey}
group X-and-Y all X Y1
quorum X-and-Y
"""


def note(*cosigners: CosignatureSigner, logs: tuple[Signer, ...] = (LOG,), time: int = 1_700_000_000) -> bytes:
    return format_note(TEXT, [one.sign(TEXT) for one in logs] + [one.sign(TEXT, time) for one in cosigners])


def test_a_policy_is_read_as_the_specification_writes_it() -> None:
    policy = parse_policy(TWO_LEVELS.encode())
    assert policy.logs == (LogKey(LOG.vkey),)
    assert policy.witnesses[0] == Witness("X1", X1.vkey, "https://x1.example/submit")
    assert policy.groups == (Group("X", 2, ("X1", "X2", "X3")), Group("X-and-Y", 2, ("X", "Y1")))
    assert policy.quorum == "X-and-Y"


def test_exactly_the_quorums_of_two_levels_satisfy_it() -> None:
    policy = parse_policy(TWO_LEVELS.encode())
    signers = {"X1": X1, "X2": X2, "X3": X3, "Y1": Y1}
    for count in range(5):
        for names in itertools.combinations(signers, count):
            enough = "Y1" in names and len(names) >= 3
            data = note(*(signers[name] for name in names))
            if enough:
                shown = policy.verify(data)
                assert shown.checkpoint == CHECKPOINT
                assert set(shown.times) == set(names)
                assert "2023-11-14" in shown.cosigners()
            else:
                with pytest.raises(Invalid, match="no quorum"):
                    policy.verify(data)


@given(st.integers(1, 6), st.data())
def test_a_group_needs_as_many_as_it_says(members: int, data: st.DataObject) -> None:
    needed = data.draw(st.integers(1, members))
    names = [f"w{n}" for n in range(members)]
    have = data.draw(st.sets(st.sampled_from(names)))
    group = Group("g", needed, tuple(names))
    assert Policy((), (), (group,), "g").is_satisfied_by(have) == (len(have) >= needed)


def test_no_quorum_wanted_needs_no_cosignature_and_still_the_logs_key() -> None:
    policy = parse_policy(f"log {LOG.vkey}\nquorum {NONE}\n".encode())
    assert policy.verify(note()).times == {}
    with pytest.raises(Invalid, match="none of the log's keys"):
        policy.verify(note(logs=(OTHER_LOG,)))


def test_any_of_several_log_keys_is_enough_and_unknown_ones_are_ignored() -> None:
    policy = parse_policy(f"log {LOG.vkey}\nlog {OTHER_LOG.vkey}\nquorum none\n".encode())
    assert policy.verify(note(logs=(NEXT_LOG, LOG))).signed_by == LOG.vkey
    # The other log's key is known, but this is not its origin.
    with pytest.raises(Invalid):
        policy.verify(note(logs=(OTHER_LOG,)))


def test_a_known_key_whose_line_does_not_verify_spoils_the_note() -> None:
    policy = parse_policy(TWO_LEVELS.encode())
    elsewhere = Checkpoint(ORIGIN, 3, CHECKPOINT.root).text()
    lines = [LOG.sign(TEXT), X1.sign(TEXT, 1), X2.sign(TEXT, 1), Y1.sign(TEXT, 1)]
    assert len(policy.verify(format_note(TEXT, lines)).times) == 3
    for wrong in (LOG.sign(elsewhere), X3.sign(elsewhere, 1)):
        with pytest.raises(Invalid, match="does not verify"):
            policy.verify(format_note(TEXT, [*lines, wrong]))


def test_every_flipped_bit_of_a_cosigned_checkpoint_is_refused() -> None:
    policy = parse_policy(f"log {LOG.vkey}\nwitness w {X1.vkey}\nquorum w\n".encode())
    data = note(X1)
    number = int.from_bytes(data, "big")
    for bit in range(8 * len(data)):
        with pytest.raises(Invalid):
            policy.verify((number ^ 1 << bit).to_bytes(len(data), "big"))


def test_a_proof_is_verified_under_a_policy() -> None:
    policy = parse_policy(f"log {LOG.vkey}\nwitness w {X1.vkey}\nquorum w\n".encode())
    assert verify_proof(format_proof(0, [LEAVES[1]], note(X1)), b"leaf 0", policy) == CHECKPOINT
    with pytest.raises(Invalid, match="no quorum"):
        verify_proof(format_proof(0, [LEAVES[1]], note()), b"leaf 0", policy)


DEFECTS = {
    "no quorum line": f"log {LOG.vkey}\n",
    "two quorum lines": "quorum none\nquorum none\n",
    "an unknown word": "quorum none\nwitnesses X\n",
    "a quorum before its witness": f"quorum w\nwitness w {X1.vkey}\n",
    "a group before its member": f"group g any w\nwitness w {X1.vkey}\nquorum g\n",
    "a group without members": "group g any\nquorum none\n",
    "a threshold of nothing": f"witness w {X1.vkey}\ngroup g 0 w\nquorum g\n",
    "a threshold above the members": f"witness w {X1.vkey}\ngroup g 2 w\nquorum g\n",
    "a threshold with a leading zero": f"witness w {X1.vkey}\ngroup g 01 w\nquorum g\n",
    "none as a name": f"witness none {X1.vkey}\nquorum none\n",
    "none as a member": "group g any none\nquorum none\n",
    "a name twice": f"witness w {X1.vkey}\nwitness w {X2.vkey}\nquorum none\n",
    "a key twice": f"witness v {X1.vkey}\nwitness w {CosignatureSigner('w', key(10)).vkey}\nquorum none\n",
    "a log's key twice": f"log {LOG.vkey}\nlog {Signer('example.org/x', key(1)).vkey}\nquorum none\n",
    "a member of two groups": f"witness w {X1.vkey}\ngroup g any w\ngroup h any w\nquorum h\n",
    "a member twice": f"witness w {X1.vkey}\ngroup g any w w\nquorum g\n",
    "a log with a witness's key": f"log {X1.vkey}\nquorum none\n",
    "a witness with a log's key": f"witness w {LOG.vkey}\nquorum none\n",
    "more behind the address": f"log {LOG.vkey} https://a.example more\nquorum none\n",
    "a carriage return": "quorum none\r\n",
    "a NUL": "# \x00\nquorum none\n",
    "no newline at the end": "quorum none",
    "too many witnesses": "".join(
        f"witness w{n} {CosignatureSigner('w', Ed25519PrivateKey.from_private_bytes(bytes([n, 1] * 16))).vkey}\n"
        for n in range(65)
    )
    + "quorum none\n",
}


@pytest.mark.parametrize("what", sorted(DEFECTS))
def test_what_is_no_policy_is_refused(what: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_policy(DEFECTS[what].encode())
    assert refused.value.step.startswith(("policy", "vkey"))


@given(st.binary(max_size=200))
def test_whatever_is_read_ends_in_a_policy_or_in_invalid(data: bytes) -> None:
    for read in (parse_policy, parse_log_keys):
        with contextlib.suppress(Invalid):
            read(data)


def test_names_may_be_any_octets_above_ascii() -> None:
    policy = parse_policy(b"witness \xe2\x84\xaa " + X1.vkey.encode() + b"\nquorum \xe2\x84\xaa\n")
    assert policy.quorum == policy.witnesses[0].name != "K"


def test_keys_of_a_log_are_read_as_they_were_written_and_a_retired_one_vouches_up_to_its_last_size() -> None:
    keys = (LogKey(NEXT_LOG.vkey), LogKey(LOG.vkey, until=2))
    policy = parse_log_keys(format_log_keys(keys).encode())
    assert policy == Policy(keys)
    assert policy.verify(note(logs=(LOG,))).checkpoint.size == 2
    late = Checkpoint(ORIGIN, 3, CHECKPOINT.root).text()
    with pytest.raises(Invalid, match="was retired"):
        policy.verify(format_note(late, [LOG.sign(late)]))
    assert policy.verify(format_note(late, [LOG.sign(late), NEXT_LOG.sign(late)])).signed_by == NEXT_LOG.vkey


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{LOG.vkey} until\n",
        f"{LOG.vkey} until 01\n",
        f"{LOG.vkey}\n{OTHER_LOG.vkey}\n",
        f"{LOG.vkey}\n{LOG.vkey} until 4\n",
        f"{LOG.vkey}\n\n{NEXT_LOG.vkey}\n",
        "\xff",
    ],
)
def test_what_is_no_list_of_one_logs_keys_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_log_keys(text.encode("latin-1"))


def test_what_a_file_encloses_must_hold_as_well_as_what_is_trusted() -> None:
    witnessed = parse_policy(f"witness w {X1.vkey}\nquorum w\n".encode())
    # Without log lines the policy leaves open whose log it is; the file's own key is the one that must have signed.
    assert verify_enclosed(witnessed, LOG.vkey, note(X1)).times == {"w": 1_700_000_000}
    for trusted, data in ((witnessed, note()), (None, note(X1, logs=(NEXT_LOG,))), (LOG.vkey, note(logs=(NEXT_LOG,)))):
        with pytest.raises(Invalid):
            verify_enclosed(trusted, LOG.vkey, data)
