"""The register speaks of the statements that exist, and calls the same ones restrictive."""

from shared.events import DATA_TYPES, RESTRICTIVE
from shared.register import RESTRICTIVE as RESTRICTIVE_IN_THE_REGISTER
from shared.register import STATEMENT_TYPES, load


def types_that_exist() -> set[str]:
    return {name for name, _version in DATA_TYPES}


def test_every_type_of_statement_is_a_word_of_the_register() -> None:
    assert types_that_exist() <= STATEMENT_TYPES


def test_every_restrictive_type_is_restrictive_in_the_register_too() -> None:
    """A source that the register forgot here would not be waited for by a permit."""
    assert RESTRICTIVE == RESTRICTIVE_IN_THE_REGISTER


def test_no_source_is_allowed_to_state_a_type_that_has_no_shape_yet() -> None:
    allowed = {
        stated for activity in load().activities.values() for types in activity.statements.values() for stated in types
    }
    assert allowed <= types_that_exist()


def test_every_type_has_a_source_that_may_state_it() -> None:
    allowed = {
        stated for activity in load().activities.values() for types in activity.statements.values() for stated in types
    }
    assert types_that_exist() <= allowed
