"""The command and the `verify.py` in a bundle judge alike what an expert of the other side would try.

What the page says of the same files: tests/browser/test_self_verifying_page.py.
"""

from __future__ import annotations

import pytest

from services.ledger.reader import standalone
from services.ledger.reader.errors import Invalid
from services.ledger.reader.page import BEGINS, bundle_of
from services.ledger.reader.printed import bundle_of as bundle_in_document
from services.ledger.reader.verify import UNEXPECTED, verify
from tests.opt_in import OptIn
from tests.unit.proof.forging import mended
from tests.unit.proof.mutants import SMALL_KEYS, by_chance, complete, mutants


def verdicts(data: bytes) -> tuple[str, bool]:
    """At which step the command refuses, nothing if it does not; and whether `verify.py` does."""
    step, refused = "", False
    try:
        assert verify(data, None) is not None
    except Invalid as error:
        step = error.step
    try:
        standalone.check(data, None)
    except standalone.Invalid:
        refused = True
    return step, refused


def test_what_an_expert_would_try_is_refused_by_both() -> None:
    told = OptIn().play()
    assert verdicts(mended(complete(told))) == ("", False)
    found = {name: verdicts(data) for name, data in mutants(told)}
    assert {name: one for name, one in found.items() if one[0] in {"", UNEXPECTED} or not one[1]} == {}


def test_whatever_is_changed_by_chance_is_judged_alike() -> None:
    found = {name: verdicts(data) for name, data in by_chance(OptIn().play(), 7, 150)}
    assert {name: one for name, one in found.items() if bool(one[0]) != one[1] or one[0] == UNEXPECTED} == {}


@pytest.mark.parametrize("public", SMALL_KEYS)
def test_under_a_key_of_small_order_nothing_verifies(public: bytes) -> None:
    assert not standalone.ed25519_verify(public, b"whatever", SMALL_KEYS[0] + bytes(32))


def test_nothing_is_taken_out_of_a_page_or_a_document_that_has_two() -> None:
    page = b"<!doctype html>" + (BEGINS + b"UEsDBA==</script>")
    assert bundle_of(page) == b"PK\x03\x04"
    assert bundle_of(page + BEGINS + b"AAAA</script>") == page + BEGINS + b"AAAA</script>"
    attached = b"<</Type /EmbeddedFile /Length 5>>\nstream\nPK\x03\x04%s\nendstream\n"
    assert bundle_in_document(b"%PDF-" + attached % b"A") == b"PK\x03\x04A"
    for more in (attached % b"A" + attached % b"B", b"/EmbeddedFile" * 1000 + attached % b"A"):
        assert bundle_in_document(b"%PDF-" + more) == b"%PDF-" + more
