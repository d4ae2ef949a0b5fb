"""The packaged register answers the questions services ask of it."""

import hashlib
import json
import time
from itertools import product

import pytest

from shared.register import RESTRICTIVE, STATEMENT_TYPES, Grade, NotInRegister, Register, RegisterInvalid, load, show
from shared.register.read import read_files
from shared.register.register import PACKAGED


@pytest.fixture(scope="module")
def register() -> Register:
    return load()


def test_the_newsletter_asks_for_two_things_and_each_by_itself(register: Register) -> None:
    activity = register.activity("newsletter")

    assert [purpose.key for purpose in activity.purposes] == ["newsletter/email", "newsletter-clicks/email"]
    assert activity.purpose("newsletter", "email").dpv == "dpv:DirectMarketing"
    assert activity.purpose("newsletter", "email").legal_basis == "eu-gdpr:A6-1-a-explicit-consent"
    assert activity.purpose("newsletter-clicks", "email").depends_on == ("newsletter/email",)
    assert [field.id for field in activity.fields if field.mandatory] == ["email"]


def test_what_is_not_listed_may_not_be_kept(register: Register) -> None:
    activity = register.activity("newsletter")

    assert activity.keeps("email")
    assert activity.keeps("registration-times")
    assert not activity.keeps("ip-address")


def test_roles_are_resolved_to_invented_parties(register: Register) -> None:
    activity = register.activity("newsletter")

    assert activity.controller.role == "dpv:DataController"
    assert activity.data_protection_officer.role == "dpv:DataProtectionOfficer"
    addresses = [activity.controller.email, activity.data_protection_officer.email, activity.sender.email]
    assert all(address.endswith("@example.org") for address in addresses)


NEWSLETTER_STATES = {
    "NoticePublished",
    "ConsentRequested",
    "ConsentGiven",
    "ConsentRefused",
    "ConsentWithdrawn",
    "ConsentExpired",
    "MessageSent",
    "RetentionExecuted",
    "DataErased",
}


def test_each_source_may_state_its_own_types_and_no_other(register: Register) -> None:
    allowed = {
        (source, statement_type)
        for source, statement_type in product(
            ("newsletter", "marketing", "subjects", "erasure", "ledger"), STATEMENT_TYPES
        )
        if register.may_state(source, statement_type, "newsletter")
    }

    expected = {("newsletter", statement_type) for statement_type in NEWSLETTER_STATES}
    assert allowed == expected | {
        ("marketing", "ConsentUsed"),
        ("marketing", "MessageSent"),
        ("marketing", "DataErased"),
        ("subjects", "DataErased"),
        ("erasure", "ErasureOrdered"),
        ("erasure", "ErasureHeld"),
        ("erasure", "ErasureCompleted"),
        ("ledger", "RecordAccessed"),
    }


def test_nothing_may_be_stated_for_an_unknown_activity_source_or_type(register: Register) -> None:
    assert not register.may_state("newsletter", "ConsentGiven", "chat")
    assert not register.may_state("stranger", "ConsentGiven", "newsletter")
    assert not register.may_state("newsletter", "ConsentImagined", "newsletter")


def test_a_permit_waits_for_every_source_that_may_say_no(register: Register) -> None:
    assert register.restricting_sources("newsletter", "email") == {"newsletter"}
    assert register.restricting_sources("newsletter-clicks", "email") == {"newsletter"}


def test_another_source_that_may_withdraw_is_waited_for_too() -> None:
    files = read_files(PACKAGED)
    files["sources.toml"] += b'\n[sources.preferences]\ndoes = "takes withdrawals"\n'
    files["activities/newsletter.toml"] += b'preferences = ["ConsentWithdrawn"]\n'

    assert Register.from_files(files).restricting_sources("newsletter", "email") == {"newsletter", "preferences"}


def test_a_source_that_states_over_http_is_not_waited_for_because_it_has_no_marks() -> None:
    files = read_files(PACKAGED)
    files["sources.toml"] += b'\n[sources.preferences]\ndoes = "takes withdrawals"\nover = "http"\n'
    files["activities/newsletter.toml"] += b'preferences = ["ConsentWithdrawn"]\n'
    register = Register.from_files(files)

    assert register.http_sources == {"ledger", "preferences"}
    assert register.restricting_sources("newsletter", "email") == {"newsletter"}


@pytest.mark.parametrize("restrictive", sorted(RESTRICTIVE))
def test_any_one_restrictive_type_makes_a_source_one_to_wait_for(restrictive: str) -> None:
    files = read_files(PACKAGED)
    files["activities/newsletter.toml"] = files["activities/newsletter.toml"].replace(
        b'marketing = ["ConsentUsed", "MessageSent", "DataErased"]',
        f'marketing = ["ConsentUsed", "{restrictive}"]'.encode(),
    )

    assert "marketing" in Register.from_files(files).restricting_sources("newsletter", "email")


def test_an_unknown_purpose_never_looks_like_one_that_nobody_can_withdraw(register: Register) -> None:
    with pytest.raises(NotInRegister, match="newsletter/phone"):
        register.restricting_sources("newsletter", "phone")
    with pytest.raises(NotInRegister):
        register.least_grade("newsletter", "phone")
    with pytest.raises(NotInRegister):
        register.activity("newsletter").purpose("newsletter-proof", "internal")
    with pytest.raises(NotInRegister):
        register.activity("chat")
    with pytest.raises(NotInRegister):
        register.activity("newsletter").notice("fr")


def test_advertising_needs_grade_b_at_least(register: Register) -> None:
    assert register.least_grade("newsletter", "email") is Grade.B
    assert register.least_grade("newsletter-clicks", "email") is Grade.B


def test_rights_follow_from_the_legal_basis(register: Register) -> None:
    consent = register.rights_of("eu-gdpr:A6-1-a-explicit-consent")
    interest = register.rights_of("eu-gdpr:A6-1-f")
    duty = register.rights_of("eu-gdpr:A6-1-c")

    assert {"eu-gdpr:A7-3", "eu-gdpr:A20"} <= set(consent)
    assert "eu-gdpr:A21" not in consent
    assert "eu-gdpr:A21" in interest
    assert not {"eu-gdpr:A20", "eu-gdpr:A7-3"} & set(interest)
    assert set(duty) == {"eu-gdpr:A13", "eu-gdpr:A15", "eu-gdpr:A16", "eu-gdpr:A18", "eu-gdpr:A77"}


def test_the_version_is_the_hash_of_a_snapshot_that_anyone_can_hash_again(register: Register) -> None:
    snapshot = register.snapshot()

    assert register.version == hashlib.sha256(snapshot).hexdigest()
    assert (
        json.dumps(json.loads(snapshot), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == snapshot
    )
    assert load().version == register.version


def test_a_snapshot_rebuilds_the_register_with_its_notices(register: Register) -> None:
    rebuilt = Register.from_snapshot(register.snapshot())

    assert rebuilt.version == register.version
    german = register.activity("newsletter").notice("de")
    found = rebuilt.notice_by_hash(german.hash)
    assert found is not None
    assert found.text() == german.text()


@pytest.mark.parametrize("snapshot", [b"", b"[]", b"{}", b'{"format":"consent-ledger/register/2","files":{}}'])
def test_other_bytes_are_no_snapshot(snapshot: bytes) -> None:
    with pytest.raises(RegisterInvalid, match="not a snapshot"):
        Register.from_snapshot(snapshot)


def test_a_snapshot_in_another_form_is_refused(register: Register) -> None:
    with pytest.raises(RegisterInvalid, match="not a snapshot"):
        Register.from_snapshot(register.snapshot() + b" ")


def test_comments_do_not_change_the_version_and_every_value_does(register: Register) -> None:
    commented = read_files(PACKAGED)
    commented["parties.toml"] += b"\n# one more remark\n"
    changed = read_files(PACKAGED)
    changed["activities/newsletter.toml"] = changed["activities/newsletter.toml"].replace(
        b'name = "Beispielwerk Newsletter"',
        b'name = "Beispielwerk Neuigkeiten"',
    )

    assert Register.from_files(commented).version == register.version
    assert Register.from_files(changed).version != register.version


def test_loading_takes_less_than_thirty_milliseconds_of_work() -> None:
    def measure() -> float:
        start = time.process_time()
        load()
        return time.process_time() - start

    assert min(measure() for _ in range(5)) < 0.03


def test_the_export_is_json_with_the_version_and_the_hash_of_each_notice(register: Register) -> None:
    exported = json.loads(json.dumps(register.export()))

    assert exported["version"] == register.version
    assert exported["notices"]["newsletter/1.de"] == register.activity("newsletter").notice("de").hash
    assert exported["files"]["activities/newsletter.toml"]["id"] == "newsletter"


def test_the_overview_names_activity_purposes_periods_and_sources(register: Register) -> None:
    overview = show(register)

    for word in (register.version, "newsletter-clicks/email", "PT48H", "P3Y to the end of the year", "may state"):
        assert word in overview
