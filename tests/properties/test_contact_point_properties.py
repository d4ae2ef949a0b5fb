"""Addresses nobody thought of: read or refused, never anything else, and the same one is always found again."""

from __future__ import annotations

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from shared.contact_points import ContactPoint, parse_email
from shared.errors import Refused

letters = st.characters(categories=["Ll", "Lu", "Lo", "Lm", "Mn", "Nd"])
locals_ = st.text(letters | st.sampled_from("._+-'"), min_size=1, max_size=12)
domains = st.text(letters, min_size=1, max_size=8).map(lambda label: f"{label}.example.org")


def read(typed: str) -> ContactPoint | None:
    try:
        return parse_email(typed)
    except Refused as refusal:
        return None if refusal.code == "invalid-address" else parse_email("")


@given(st.text() | st.emails())
def test_any_text_is_an_address_or_refused_as_one(typed: str) -> None:
    contact = read(typed)
    if contact is not None:
        assert contact.typed == typed.strip(" ")
        assert not any(unicodedata.category(character)[0] in "CZ" for character in contact.typed)


@given(locals_, st.just("example.org") | domains)
@example("\u0345\u0391", "example.org")
@example("\u0130", "example.org")
def test_the_normalised_form_is_an_address_whose_normalised_form_is_itself(local: str, domain: str) -> None:
    contact = read(f"{local}@{domain}")
    if contact is not None:
        again = read(contact.normalised)
        # Folding can make a local part longer than an address may be; then it is a key only, never an address.
        assert again is None or again.normalised == contact.normalised


@given(locals_, st.just("example.org") | domains)
def test_composed_and_decomposed_spellings_are_one_address(local: str, domain: str) -> None:
    forms = [read(unicodedata.normalize(form, f"{local}@{domain}")) for form in ("NFC", "NFD")]
    known = {contact.normalised for contact in forms if contact is not None}
    assert len(known) <= 1


@given(st.from_regex(r"[a-z0-9]{1,10}(\.[a-z0-9]{1,5})?(\+[a-z]{1,5})?", fullmatch=True))
def test_letter_case_does_not_make_another_ascii_address(local: str) -> None:
    assert parse_email(f"{local.upper()}@EXAMPLE.ORG").normalised == f"{local}@example.org"
