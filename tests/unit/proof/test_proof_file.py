"""Proof files: what a true one shows of each kind, and at which step a false one fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pytest

from services.ledger.log.leaf import leaf_hash
from services.ledger.log.secrets import SubjectSecrets
from services.ledger.reader.errors import Invalid
from services.ledger.reader.proof_file import ProofFile
from services.ledger.reader.strict import encode_base64url
from services.ledger.reader.verify import verify
from services.newsletter.domain import Withdrawal, receipt_key_hash, statements_of_withdrawal
from shared.clock import from_millis, rfc3339
from tests.opt_in import RECEIPT_KEY, OptIn, World
from tests.unit.proof.proving import (
    as_file,
    checkpoint_at,
    end_batch,
    erase,
    forget,
    kept_receipt,
    made,
    made_consistency,
    placed,
    report_of,
)

Value = dict[str, Any]


@cache
def withdrawn() -> OptIn:
    return OptIn().play()


@cache
def holding() -> OptIn:
    return OptIn(withdrawn=False).play()


def withdraw_everything(story: OptIn) -> int:
    world = story.world
    now = world.later(60)
    withdrawal = Withdrawal(
        act=world.id(),
        subject=world.subject,
        scope="everything",
        purposes=(),
        message=story.sent,
        method="link",
        receipt_key_hash=receipt_key_hash(RECEIPT_KEY),
        statements=(world.id(),),
    )
    [index] = world.record(statements_of_withdrawal(world.speaker, withdrawal, now))
    return index


def recorded_at(world: World, index: int) -> datetime:
    return from_millis(int.from_bytes(world.leaves[index][-8:], "big"))


def proof_of(value: Value, world: World) -> ProofFile:
    proof = ProofFile(as_file(value), world.signer.vkey)
    proof.verify()
    return proof


def refusal(value: Value, world: World) -> Invalid:
    with pytest.raises(Invalid) as failure:
        verify(as_file(value), world.signer.vkey)
    return failure.value


def reason(value: Value, world: World) -> str:
    judgement = proof_of(value, world).judgement
    assert judgement is not None
    return judgement.reason


# -- what a true one shows


def test_the_latest_word_is_a_consent_and_nothing_on_everything_forbids_it() -> None:
    world = holding().world
    report = report_of(made(world, "latest"), world)
    assert report.kind == "proof"
    assert "consent holds" in report.conclusion
    assert [finding.step for finding in report.findings] == [2, 3, 4, 5, 6, 7]
    assert "everything:all is absent" in report.findings[2].text


def test_after_a_withdrawal_the_latest_word_is_the_withdrawal() -> None:
    world = withdrawn().world
    assert reason(made(world, "latest"), world) == "ended"
    assert "ConsentWithdrawn" in report_of(made(world, "latest"), world).conclusion


def test_a_newer_word_on_everything_ends_what_the_purpose_s_own_word_says() -> None:
    story = OptIn(withdrawn=False).play()
    withdraw_everything(story)
    assert reason(made(story.world, "latest"), story.world) == "overridden"


def test_a_consent_that_was_given_after_everything_was_withdrawn_holds() -> None:
    story = OptIn(withdrawn=False).play()
    withdraw_everything(story)
    story.request()
    story.confirmation_mail()
    story.confirm()
    assert reason(made(story.world, "latest"), story.world) == "holds"


def test_where_nothing_was_confirmed_there_was_never_a_word_and_a_request_is_none() -> None:
    story = OptIn()
    story.request()
    assert reason(made(story.world, "latest"), story.world) == "never"
    # A request is recorded, so it is not the case that nothing is.
    assert refusal(made(story.world, "absence"), story.world).step == "6"


def test_an_erasure_is_the_last_word_and_no_consent() -> None:
    story = OptIn(withdrawn=False).play()
    erase(story.world, "purpose:newsletter/email")
    value = made(story.world, "latest")
    assert reason(value, story.world) == "erased"
    # No word shows an opened statement any more: another one shows whose key it is.
    assert value["anchor"] is not None
    assert reason(made(story.world, "latest", "newsletter-clicks"), story.world) == "never"


def test_nothing_was_ever_said_about_another_purpose() -> None:
    world = withdrawn().world
    report = report_of(made(world, "absence", "fair-news"), world)
    assert "nothing was ever recorded about fair-news/email" in report.conclusion
    assert "not of others that the same person may have" in report.conclusion


def test_the_whole_history_is_shown_and_counted() -> None:
    world = withdrawn().world
    report = report_of(made(world, "history"), world)
    assert "is complete" in report.conclusion
    # Request, consent, use, mail, withdrawal; the confirmation mail is about data, not about the purpose.
    assert report.conclusion.endswith("5 words")
    shown = [one.text for one in report.findings if one.text.startswith("index ")]
    assert len(shown) == 5
    assert shown == sorted(shown, key=lambda text: int(text.split()[1].rstrip(",")))


def test_a_history_that_ended_in_an_erasure_says_so() -> None:
    story = OptIn().play()
    erase(story.world, "purpose:newsletter/email")
    assert any("ERASURE" in one.text for one in report_of(made(story.world, "history"), story.world).findings)


def test_the_state_at_each_moment_is_what_was_in_force_then() -> None:
    story = withdrawn()
    world = story.world
    given, ended = (recorded_at(world, story.indexes[name]) for name in ("given", "withdrawn"))
    tick = timedelta(milliseconds=1)
    moments = {
        given - tick: "never",
        given: "holds",
        ended - tick: "holds",
        ended: "ended",
        given - timedelta(1): "never",
    }
    for at, expected in moments.items():
        assert reason(made(world, "state", at=at), world) == expected, at
    closed = report_of(made(world, "state", at=given), world)
    assert any("the log has gone on since" in one.text for one in closed.findings)
    world.later(10)
    try:
        open_ended = report_of(made(world, "state", at=ended), world)
        assert any("is not excluded" in one.text for one in open_ended.findings)
    finally:
        world.now -= timedelta(seconds=10)


def test_consistency_is_shown_from_every_checkpoint() -> None:
    world = withdrawn().world
    sizes = [index + 1 for index, leaf in enumerate(world.leaves) if leaf[0] == 2]
    for old in sizes:
        report = report_of(made_consistency(world, old), world)
        assert f"from {old} to {len(world.leaves)} leaves" in report.conclusion
    assert len(sizes) > 4


def test_an_old_proof_verifies_unchanged_after_an_erasure() -> None:
    story = OptIn(withdrawn=False).play()
    before = [as_file(made(story.world, kind)) for kind in ("latest", "history")]
    receipt = kept_receipt(story.world, story.indexes["given"])
    erase(story.world, "purpose:newsletter/email")
    for one in (*before, receipt):
        assert verify(one, story.world.signer.vkey) is not None


# -- at which step a false one fails

ALL = ("latest", "absence", "history", "state", "consistency")


def true_one(kind: str) -> Value:
    story = withdrawn()
    world = story.world
    match kind:
        case "consistency":
            return made_consistency(world, len(world.leaves) - 2)
        case "absence":
            return made(world, "absence", "fair-news")
        case "state":
            return made(world, "state", at=recorded_at(world, story.indexes["given"]))
        case "latest":
            return made(world, "latest")
        case _:
            return made(world, "history")


@pytest.mark.parametrize("kind", ALL)
def test_a_member_more_or_less_fails_at_step_1(kind: str) -> None:
    world, value = withdrawn().world, true_one(kind)
    for name in value:
        assert refusal({key: one for key, one in value.items() if key != name}, world).step == "1", name
    assert refusal(value | {"more": 1}, world).step == "1"
    assert refusal(value | {"format": "consent-ledger/proof/2"}, world).step == "1"
    assert refusal(value | {"kind": "another"}, world).step == "1"


@pytest.mark.parametrize("kind", ALL)
def test_another_key_fails_at_step_2(kind: str) -> None:
    other = World(seed=2)
    value = true_one(kind)
    with pytest.raises(Invalid) as failure:
        verify(as_file(value), other.signer.vkey)
    assert failure.value.step == "2"
    world = withdrawn().world
    assert refusal(value | {"vkey": other.signer.vkey}, world).step == "2"
    assert refusal(value | {"fresh_vkey": other.fresh.vkey}, world).step == "2"
    assert refusal(value | {"origin": "elsewhere/ledger/log/0"}, world).step == "2"


def test_an_old_checkpoint_that_the_log_does_not_begin_with_fails_at_step_3() -> None:
    world = withdrawn().world
    other = OptIn(world=World(seed=1), verified=False).play().world
    sizes = [index + 1 for index, leaf in enumerate(world.leaves) if leaf[0] == 2]
    value = made_consistency(world, sizes[2])
    assert refusal(value | {"old": checkpoint_at(other, sizes[2])}, world).step == "3"
    assert refusal(value | {"old": checkpoint_at(world, sizes[1])}, world).step == "3"
    assert refusal(value | {"old": value["checkpoint"], "checkpoint": value["old"]}, world).step == "2"
    assert refusal(value | {"hashes": [*value["hashes"], value["hashes"][0]]}, world).step == "3"
    assert refusal(value | {"hashes": value["hashes"][1:]}, world).step == "3"
    assert refusal(value | {"hashes": value["hashes"] * 40}, world).step in {"1", "3"}


def test_a_map_root_that_does_not_end_the_log_fails_at_step_3() -> None:
    world = withdrawn().world
    value = made(world, "latest")
    earlier = max(index for index, leaf in enumerate(world.leaves[:-1]) if leaf[0] == 2)
    for index in (earlier, len(world.leaves) - 2):
        leaf = placed(world, index)
        shown = {"leaf": encode_base64url(leaf.leaf), "hashes": [encode_base64url(one) for one in leaf.hashes]}
        assert refusal(value | {"map_root": shown}, world).step == "3"


@pytest.mark.parametrize("kind", ["latest", "absence", "history", "state"])
def test_another_person_purpose_or_key_fails_at_step_4(kind: str) -> None:
    world, value = withdrawn().world, true_one(kind)
    assert refusal(value | {"subject": f"1.{world.subject.partition('.')[2]}"}, world).step == "4"
    assert refusal(value | {"subject": "somebody"}, world).step == "4"
    assert refusal(value | {"purpose": "another"}, world).step == "4"
    for wrong in ("a/b", "", "A", "a b", "a" * 64):
        assert refusal(value | {"purpose": wrong}, world).step == "4"
        assert refusal(value | {"channel": wrong}, world).step == "4"
    assert refusal(value | {"label_key": "00" * 32}, world).step in {"4", "5"}
    assert refusal(value | {"words": value["words"][::-1]}, world).step == "4"
    assert refusal(value | {"words": value["words"][1:]}, world).step == "4"
    assert refusal(value | {"words": [*value["words"], value["words"][0]]}, world).step == "1"


def test_a_made_up_key_under_which_nothing_was_ever_said_proves_nothing() -> None:
    """The cheapest lie: any key leads to labels that nobody used, so a statement must stand under the same one."""
    story = holding()
    world = story.world
    true, world.secrets = world.secrets, SubjectSecrets(b"\x07" * 32, world.signer.name, world.subject)
    try:
        pins = dict(world.openings)
        world.openings |= {index: (world.secrets.pin, opening) for index, (_, opening) in pins.items()}
        lie = made(world, "absence")
    finally:
        world.secrets = true
        world.openings |= pins
    assert refusal(lie, world).step == "5"
    assert refusal(lie | {"anchor": None}, world).step == "5"
    borrowed = made(world, "absence", "fair-news")["anchor"]
    assert refusal(lie | {"anchor": borrowed}, world).step == "5"


def change(value: Value, at: int, edit: Callable[[Value], Any]) -> Value:
    copied: Value = json.loads(json.dumps(value))
    edit(copied["words"][at])
    return copied


def test_words_left_out_put_in_or_out_of_order_are_refused() -> None:
    world = withdrawn().world
    history, latest = true_one("history"), true_one("latest")
    for at, word in enumerate(history["words"]):
        for number in range(len(word["entries"])):
            short = change(history, at, lambda one, n=number: one["entries"].pop(n))  # type: ignore[misc]
            assert refusal(short, world).step in {"5", "6"}, (at, number)
        if len(word["entries"]) > 1:
            assert refusal(change(history, at, lambda one: one["entries"].reverse()), world).step == "5"
    foreign = history["words"][2]["entries"][0]
    assert refusal(change(latest, 0, lambda one: one["entries"].append(foreign)), world).step == "5"
    assert refusal(change(latest, 1, lambda one: one["entries"].append(foreign)), world).step == "5"
    assert refusal(change(latest, 0, lambda one: one["entries"].clear()), world).step == "5"
    older = history["words"][0]["entries"][0]
    assert refusal(change(latest, 0, lambda one: one["entries"].insert(0, older)), world).step == "6"
    assert refusal(change(latest, 0, lambda one: one.update(entries=[older])), world).step == "6"


def test_a_word_called_overtaken_that_was_not_is_refused() -> None:
    world = withdrawn().world
    value = true_one("latest")
    assert refusal(change(value, 0, lambda one: one["entries"][0].update(overtaken=True)), world).step == "5"
    assert refusal(change(value, 0, lambda one: one["entries"][0].update(matter="everything:all")), world).step == "5"


def test_a_state_between_the_wrong_two_versions_is_refused() -> None:
    story = withdrawn()
    world = story.world
    given, ended = (recorded_at(world, story.indexes[name]) for name in ("given", "withdrawn"))
    tick = timedelta(milliseconds=1)
    held = made(world, "state", at=given)
    over = made(world, "state", at=ended)
    assert refusal(held | {"at": rfc3339(given - tick)}, world).step == "6"
    assert refusal(held | {"at": rfc3339(ended)}, world).step == "6"
    assert refusal(over | {"at": rfc3339(ended - tick)}, world).step == "6"
    assert refusal(held | {"words": [over["words"][0], held["words"][1]]}, world).step == "6"
    assert refusal(change(held, 0, lambda one: one["entries"].pop()), world).step == "6"
    assert refusal(over | {"at": rfc3339(world.now + timedelta(hours=1))}, world).step == "6"
    for wrong in ("yesterday", "2026-11-22T12:00:00Z", "2026-02-31T12:00:00.000Z", rfc3339(given)[:-1] + "+00:00", ""):
        assert refusal(held | {"at": wrong}, world).step == "6"
    assert refusal(held | {"last_leaf": None}, world).step == "6"
    assert refusal(held | {"last_leaf": held["map_root"]}, world).step == "6"


def test_a_history_with_a_grant_that_ought_to_have_been_overtaken_is_refused() -> None:
    """The rule of §4 can be checked by whoever holds the whole history, so it is."""
    story = OptIn()
    story.consent_too_late(forgotten=True)
    world = story.world
    assert reason(made(world, "latest"), world) == "holds"
    error = refusal(made(world, "history"), world)
    assert (error.step, "was overtaken" in error.why) == ("6", True)


def test_a_map_without_a_word_that_stands_in_the_log_shows_only_older_ones() -> None:
    """No single file gives this away; two do."""
    story = OptIn().play()
    world = story.world
    label = world.secrets.label("purpose:newsletter/email")
    given = story.indexes["given"]
    world.map.update(label, 1, given, leaf_hash(world.leaves[given]))
    end_batch(world)
    assert reason(made(world, "latest"), world) == "holds"
    forget(world, label)
    end_batch(world)
    assert reason(made(world, "latest"), world) == "never"


def test_limits_on_every_length_are_kept() -> None:
    world = withdrawn().world
    value = true_one("latest")
    sibling = value["words"][0]["place"]["siblings"] or value["words"][1]["place"]["siblings"]
    assert refusal(change(value, 0, lambda one: one["place"].update(siblings=sibling * 300)), world).step == "1"
    entry = value["words"][0]["entries"][0]
    assert refusal(change(value, 0, lambda one: one.update(entries=[entry] * 4097)), world).step == "1"
    assert refusal(change(value, 0, lambda one: one["entries"][0].update(hashes=["A" * 43] * 65)), world).step == "1"
    huge = as_file(value) + b" " * (16 * 1024 * 1024)
    with pytest.raises(Invalid, match="longer"):
        verify(huge, world.signer.vkey)
