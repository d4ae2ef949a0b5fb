"""An evidence bundle: what a true one shows, and at which step a false one fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.evidence.bundle import bundle, files_of
from services.ledger.log.secrets import SubjectSecrets
from services.ledger.reader.errors import Invalid
from services.ledger.reader.verify import verify
from services.newsletter.dkim import key_set as dkim_key_set
from shared.errors import Refused
from shared.events.types import Served
from shared.sealing import base64url
from shared.served_notice import ServedNotice, ServedPurpose, issue, key_set, new_nonce
from tests.opt_in import DOMAIN, ORIGIN, OptIn, World, dkim_key
from tests.unit.proof.forging import Files, mended, named, report_of, with_json


@cache
def true_story() -> OptIn:
    return OptIn().play()


@pytest.fixture
def files() -> Files:
    return files_of(true_story().material)


def step_of(data: bytes) -> str:
    """The step at which a bundle fails."""
    with pytest.raises(Invalid) as failure:
        verify(data, true_story().world.signer.vkey)
    return failure.value.step


def said(opt_in: OptIn) -> str:
    report = report_of(opt_in)
    return "\n".join([*(f"{one.step} {one.text}" for one in report.findings), report.conclusion])


# -- what a true bundle shows


def test_a_whole_opt_in_is_shown_with_grade_a_in_nine_steps() -> None:
    report = report_of(true_story())
    assert report.kind == "evidence bundle"
    assert sorted({finding.step for finding in report.findings}) == list(range(1, 10))
    assert "grade A" in report.conclusion
    assert report.signed_by == true_story().world.signer.vkey


def test_after_a_withdrawal_it_says_that_consent_does_not_hold() -> None:
    assert "consent does not hold; the last word on the purpose is ConsentWithdrawn" in said(true_story())


def test_before_a_withdrawal_it_says_that_consent_holds_and_what_is_not_proven() -> None:
    text = said(OptIn(withdrawn=False).play())
    assert "consent holds" in text
    assert "not proven by this file" in text


def test_equal_material_gives_equal_bytes() -> None:
    assert bundle(OptIn().play().material) == bundle(OptIn().play().material)


def test_a_request_that_nobody_confirmed_shows_no_consent() -> None:
    story = OptIn()
    story.request()
    story.confirmation_mail()
    text = said(story)
    assert "no consent to newsletter/email is shown" in text
    assert "no consent, so no double opt-in" in text


def test_without_the_archived_mail_the_grade_is_lower() -> None:
    story = OptIn().play()
    kept = [one for one in story.material.keys if one["compartment"] != "attachment/0"]
    material = replace(story.material, attachments={}, keys=kept)
    report = verify(bundle(material), story.world.signer.vkey)
    assert report is not None
    assert "grade B" in report.conclusion


def test_without_the_key_that_signed_the_token_the_grade_is_lower() -> None:
    story = OptIn().play()
    report = verify(bundle(replace(story.material, notice_keys={"keys": []})), story.world.signer.vkey)
    assert report is not None
    assert "grade C" in report.conclusion


def test_a_token_that_did_not_hold_at_the_collector_does_not_count() -> None:
    assert "grade C" in said(OptIn(verified=False).play())


def test_without_the_dkim_key_it_says_so_and_stays_valid() -> None:
    story = OptIn().play()
    report = verify(bundle(replace(story.material, dkim_keys={"keys": []})), story.world.signer.vkey)
    assert report is not None
    assert any("key of its DKIM signature is not in this bundle" in one.text for one in report.findings)


def test_a_grant_that_was_late_is_shown_as_overtaken() -> None:
    story = OptIn()
    story.consent_too_late()
    assert story.world.matters[story.indexes["given"]].startswith("overtaken:")
    assert "consent does not hold" in said(story)
    assert "no consent to newsletter/email is shown" in said(story)


def test_a_use_after_a_withdrawal_is_named() -> None:
    story = OptIn().play()
    story.issue()
    assert "relied on no consent in force" in said(story)


# -- step 2


def test_another_log_s_key_fails_at_step_2(files: Files) -> None:
    with pytest.raises(Invalid) as failure:
        verify(mended(files), World(seed=2).signer.vkey)
    assert failure.value.step == "2"


def test_a_checkpoint_of_another_key_fails_at_step_2(files: Files) -> None:
    other = OptIn(world=World(seed=2)).play()
    assert step_of(mended(files | {"checkpoint.txt": other.world.note.encode()})) == "2"
    assert step_of(mended(files, checkpoint_size="4")) == "2"
    assert step_of(mended(files, origin="elsewhere.example.org/ledger/log/0")) == "2"


# -- step 3


@pytest.mark.parametrize("member", ["leaf", "statement", "pin", "opening", "hashes"])
def test_an_entry_altered_anywhere_fails_at_step_3(files: Files, member: str) -> None:
    def alter(entry: dict[str, Any]) -> None:
        value = entry[member]
        if member == "hashes":
            value[0] = base64url(bytes(32))
        else:
            entry[member] = ("0" if value[0] != "0" else "1") + value[1:] if member != "leaf" else "A" * len(value)

    assert step_of(mended(with_json(files, "statements/6.json", alter))) == "3"


def test_one_word_changed_in_a_statement_fails_at_step_3(files: Files) -> None:
    def alter(entry: dict[str, Any]) -> None:
        raw = true_story().world.raws[6].replace(b'"newsletter","channel"', b'"newsletteR","channel"')
        entry["statement"] = base64url(raw)

    assert step_of(mended(with_json(files, "statements/6.json", alter))) == "3"


def test_a_statement_at_another_index_fails_at_step_3(files: Files) -> None:
    moved = {**files, "statements/7.json": files["statements/6.json"]}
    del moved["statements/6.json"]
    assert step_of(mended(moved)) == "3"


# -- step 4


def test_an_entry_left_out_leaves_a_gap_at_step_4() -> None:
    story = OptIn().play()
    left_out = story.indexes["used"]
    story.issue()
    files = files_of(story.material)
    del files[f"statements/{left_out}.json"]
    with pytest.raises(Invalid, match="gap") as failure:
        verify(mended(files), story.world.signer.vkey)
    assert failure.value.step == "4"


def test_another_subject_in_the_manifest_fails_at_step_4(files: Files) -> None:
    assert step_of(mended(files, subject=World(seed=9).subject)) == "4"


def test_another_purpose_in_the_manifest_fails_at_step_4(files: Files) -> None:
    assert step_of(mended(files, purpose="newsletter-clicks")) == "4"


def test_two_pins_of_one_subject_are_fraud_at_step_4() -> None:
    story = OptIn()
    story.request()
    # The operator makes a second K for the person, to write another history beside the first.
    story.world.secrets = SubjectSecrets(bytes(32), ORIGIN, story.world.subject)
    story.confirmation_mail()
    with pytest.raises(Invalid, match="two pins") as failure:
        report_of(story)
    assert failure.value.step == "4"


@pytest.mark.parametrize("name", ["statements/6.json", "statements/11.json"])
def test_a_false_word_about_overtaking_fails_at_step_4(files: Files, name: str) -> None:
    def alter(entry: dict[str, Any]) -> None:
        entry["overtaken"] = True

    assert step_of(mended(with_json(files, name, alter))) == "4"


def test_another_matter_than_the_statement_has_fails_at_step_4(files: Files) -> None:
    def alter(entry: dict[str, Any]) -> None:
        entry["matter"] = "use:newsletter/email"

    assert step_of(mended(with_json(files, "statements/6.json", alter))) == "4"


# -- step 5


def test_a_key_that_the_statement_does_not_commit_to_fails_at_step_5(files: Files) -> None:
    def alter(keys: list[dict[str, str]]) -> None:
        keys[0]["key"] = base64url(bytes(32))

    assert step_of(mended(with_json(files, "keys.json", alter))) == "5"


def test_a_key_to_nothing_fails_at_step_5(files: Files) -> None:
    def alter(keys: list[dict[str, str]]) -> None:
        keys.append({"statement": true_story().given, "compartment": "brief", "key": base64url(bytes(32))})

    assert step_of(mended(with_json(files, "keys.json", alter))) == "5"


def test_an_opened_part_that_is_not_what_was_sealed_fails_at_step_5(files: Files) -> None:
    name = named(files, "opened/1-evidence")
    assert step_of(mended(files | {name: files[name].replace(b"Jane", b"Mary")})) == "5"


def test_an_opened_part_that_nobody_sealed_fails_at_step_5(files: Files) -> None:
    assert step_of(mended(files | {"opened/11-evidence.json": b"{}"})) == "5"


def test_an_attachment_altered_fails_at_step_5(files: Files) -> None:
    name = named(files, "attachments/")
    assert step_of(mended(files | {name: files[name][:-1] + b"\x00"})) == "5"


def test_an_attachment_nobody_names_fails_at_step_5(files: Files) -> None:
    assert step_of(mended(files | {f"attachments/{'0' * 64}": b"what is this"})) == "5"


# -- step 6


def test_another_text_under_the_notice_s_name_fails_at_step_6(files: Files) -> None:
    name = named(files, "notices/")
    assert step_of(mended(files | {name: files[name].replace(b"any time", b"no time.")})) == "6"


def test_another_register_under_its_name_fails_at_step_6(files: Files) -> None:
    name = named(files, "register/")
    assert step_of(mended(files | {name: files[name].replace(b'"P3Y"', b'"P9Y"')})) == "6"


def test_a_record_that_says_something_else_fails_at_step_6(files: Files) -> None:
    def alter(record: dict[str, Any]) -> None:
        record["dpv:hasConsentStatus"]["dpv:isIndicatedBy"] = "dpv:Representative"

    assert step_of(mended(with_json(files, "records/6.jsonld", alter))) == "6"


@pytest.mark.parametrize("prefix", ["records/6", "notices/", "register/"])
def test_a_missing_file_fails_at_step_6(files: Files, prefix: str) -> None:
    del files[named(files, prefix)]
    assert step_of(mended(files)) == "6"


def test_a_notice_nobody_was_shown_fails_at_step_6(files: Files) -> None:
    assert step_of(mended(files | {f"notices/{'0' * 64}.txt": b"# Other words\n"})) == "6"


# -- step 7


def test_a_mail_to_another_address_fails_at_step_7() -> None:
    with pytest.raises(Refused) as failure:
        bundle(OptIn(to="somebody.else@example.org").play().material)
    assert failure.value.facts["step"] == "7"
    assert "another address" in str(failure.value.facts["why"])


def test_an_address_in_other_letters_is_the_same_address() -> None:
    assert "grade A" in said(OptIn(to="jane.doe@EXAMPLE.org").play())


def test_a_mail_without_the_token_fails_at_step_7() -> None:
    with pytest.raises(Invalid, match="token") as failure:
        report_of(OptIn(token_in_mail="A" * 43).play())
    assert failure.value.step == "7"


def test_a_mail_that_the_dkim_key_did_not_sign_fails_at_step_7() -> None:
    other = dkim_key_set(DOMAIN, {"1": dkim_key(2)})
    with pytest.raises(Refused) as failure:
        bundle(replace(OptIn().play().material, dkim_keys=other))
    assert failure.value.facts["step"] == "7"


def test_a_consent_after_the_link_had_ended_fails_at_step_7() -> None:
    story = OptIn()
    story.request()
    story.confirmation_mail()
    story.world.later(49 * 3600)
    story.confirm()
    with pytest.raises(Invalid, match="in the time") as failure:
        report_of(story)
    assert failure.value.step == "7"


# -- step 8


def served_with(change: Callable[[ServedNotice], ServedNotice], key: Ed25519PrivateKey | None = None) -> OptIn:
    """A story whose form showed something else than the notice says."""
    story = OptIn()

    def served() -> Any:
        world = story.world
        notice = world.speaker.activity.notice("en")
        honest = ServedNotice(
            notice=notice.hash,
            language="en",
            purposes=tuple(ServedPurpose(one.purpose, one.channel, one.label) for one in notice.choices),
            button=notice.button,
            nonce=new_nonce(world.random(16)),
            issued_at=world.now,
            expires_at=world.now + timedelta(hours=4),
        )
        return Served(token=issue("notice-1", key or world.notice_key, change(honest)), verified=True)

    story.served = served  # type: ignore[method-assign]
    return story.play()


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, purposes=tuple(replace(box, default=True) for box in one.purposes)),
        lambda one: replace(one, purposes=tuple(replace(box, label="Win a car") for box in one.purposes)),
        lambda one: replace(one, purposes=one.purposes[1:]),
        lambda one: replace(one, button="Continue"),
        lambda one: replace(one, notice="0" * 64),
        lambda one: replace(one, language="de"),
        lambda one: replace(
            one, issued_at=one.issued_at + timedelta(days=1), expires_at=one.expires_at + timedelta(days=1)
        ),
        lambda one: replace(one, expires_at=one.issued_at - timedelta(hours=1)),
    ],
    ids=[
        "ticked",
        "other words",
        "box missing",
        "other button",
        "other notice",
        "other language",
        "too early",
        "expired",
    ],
)
def test_a_token_that_shows_something_else_fails_at_step_8(change: Callable[[ServedNotice], ServedNotice]) -> None:
    with pytest.raises(Invalid) as failure:
        report_of(served_with(change))
    assert failure.value.step == "8"


def test_a_token_under_a_known_key_id_by_another_key_fails_at_step_8() -> None:
    with pytest.raises(Invalid, match="does not verify") as failure:
        report_of(served_with(lambda one: one, Ed25519PrivateKey.from_private_bytes(bytes(32))))
    assert failure.value.step == "8"


def test_notice_keys_in_another_form_fail_at_step_8(files: Files) -> None:
    keys = key_set({"notice-1": true_story().world.notice_key.public_key()})
    keys["keys"][0]["crv"] = "Ed448"
    assert step_of(mended(files | {"notice-keys.json": json.dumps(keys).encode()})) == "8"


# -- the exporter


def test_a_bundle_that_does_not_verify_is_never_made() -> None:
    material = true_story().material
    entries = [dict(entry) for entry in material.history["entries"]]
    entries[0]["opening"] = "0" * 64
    with pytest.raises(Refused) as failure:
        bundle(replace(material, history={**material.history, "entries": entries}))
    assert failure.value.code == "evidence-does-not-verify"
    assert failure.value.facts["step"] == "3"


def test_the_bundle_says_in_both_languages_what_it_does_not_show(files: Files) -> None:
    text = files["README.txt"].decode()
    assert "Was diese Datei nicht zeigt" in text
    assert "What this file does not show" in text
