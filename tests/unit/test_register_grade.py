"""The grade of evidence is computed from facts, and more facts never make it worse."""

from dataclasses import replace
from itertools import product

import pytest

from shared.register import Facts, Grade, NotInRegister, Register, load
from shared.register.read import read_files
from shared.register.register import PACKAGED

COMPLETE = Facts(
    contact_point_proven=True,
    served_notice_verified=True,
    request_recorded=True,
    confirmation_mail_archived=True,
)
NAMES = ("contact_point_proven", "served_notice_verified", "request_recorded", "confirmation_mail_archived")
EVERY = [Facts(**dict(zip(NAMES, values, strict=True))) for values in product((False, True), repeat=len(NAMES))]


@pytest.fixture(scope="module")
def register() -> Register:
    return load()


def test_a_complete_double_opt_in_is_graded_a(register: Register) -> None:
    assert register.grade(COMPLETE) is Grade.A


def test_without_the_archived_mail_it_is_graded_b(register: Register) -> None:
    assert register.grade(replace(COMPLETE, confirmation_mail_archived=False)) is Grade.B
    assert register.grade(replace(COMPLETE, request_recorded=False)) is Grade.B


def test_without_proof_of_the_text_shown_it_is_graded_c(register: Register) -> None:
    assert register.grade(replace(COMPLETE, served_notice_verified=False)) is Grade.C


def test_without_control_of_the_address_it_is_a_bare_word(register: Register) -> None:
    assert register.grade(replace(COMPLETE, contact_point_proven=False)) is Grade.D


def test_what_was_not_confirmed_never_reaches_the_least_grade(register: Register) -> None:
    least = register.least_grade("newsletter", "email")
    unconfirmed = [facts for facts in EVERY if not facts.contact_point_proven]

    assert not any(register.grade(facts).at_least(least) for facts in unconfirmed)


def test_one_more_fact_never_makes_a_grade_worse(register: Register) -> None:
    for facts, name in product(EVERY, NAMES):
        assert register.grade(replace(facts, **{name: True})).at_least(register.grade(facts))


def test_grades_are_ordered_from_a_to_d() -> None:
    assert Grade.A.at_least(Grade.B)
    assert Grade.B.at_least(Grade.B)
    assert not Grade.C.at_least(Grade.B)
    assert [str(grade) for grade in Grade] == ["A", "B", "C", "D"]


def test_an_old_rule_still_grades_as_it_did() -> None:
    files = read_files(PACKAGED)
    files["grades.toml"] = files["grades.toml"].replace(b"current = 2", b"current = 3") + (
        b'[[rules]]\nversion = 3\n[[rules.grades]]\ngrade = "C"\nneeds = []\nwords = { de = "alles", en = "all" }\n'
    )
    register = Register.from_files(files)

    assert register.grade(COMPLETE) is Grade.C
    assert register.grade(COMPLETE, rule=1) is Grade.A
    with pytest.raises(NotInRegister):
        register.grade(COMPLETE, rule=4)
