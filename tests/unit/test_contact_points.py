"""Which addresses are accepted, and which are the same."""

from __future__ import annotations

import pytest

from shared.contact_points import parse_email
from shared.errors import Refused


@pytest.mark.parametrize(
    ("typed", "normalised"),
    [
        ("ada@example.org", "ada@example.org"),
        ("Ada.Lovelace@Example.ORG", "ada.lovelace@example.org"),
        ("  ada@example.org ", "ada@example.org"),
        ("ada+news@example.org", "ada+news@example.org"),
        ("a.d.a@gmail.com", "a.d.a@gmail.com"),
        ("o'hara!#$%&*/=?^_`{|}~-@example.org", "o'hara!#$%&*/=?^_`{|}~-@example.org"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
        ("ada@B\u00fccher.example", "ada@xn--bcher-kva.example"),
        ("ada@bu\u0308cher.example", "ada@xn--bcher-kva.example"),
        ("J\u00dcRGEN@example.org", "j\u00fcrgen@example.org"),
        ("ju\u0308rgen@example.org", "j\u00fcrgen@example.org"),
        ("\u7528\u6237@\u4f8b\u3048.jp", "\u7528\u6237@xn--r8jz45g.jp"),
        ("ada@stra\u00dfe.de", "ada@xn--strae-oqa.de"),
        ("\u03b1\u03b4\u03b1\u03c2@example.org", "\u03b1\u03b4\u03b1\u03c3@example.org"),
    ],
)
def test_an_address_is_kept_as_typed_and_normalised(typed: str, normalised: str) -> None:
    contact = parse_email(typed)
    assert contact.kind == "email"
    assert contact.typed == typed.strip()
    assert contact.normalised == normalised


def test_dots_and_tags_make_another_address_because_only_the_provider_knows() -> None:
    forms = {parse_email(typed).normalised for typed in ("ab@gmail.com", "a.b@gmail.com", "ab+x@gmail.com")}
    assert len(forms) == 3


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "@",
        "ada",
        "ada@",
        "@example.org",
        "ada@localhost",
        "ada@example",
        "ada@example.org.",
        "ada@.org",
        "ada@ex ample.org",
        "a da@example.org",
        "ada@example..org",
        ".ada@example.org",
        "ada.@example.org",
        "a..da@example.org",
        "ada@@example.org",
        "ada@example.org, eve@example.org",
        "ada@example.org;eve@example.org",
        "Ada <ada@example.org>",
        "<ada@example.org>",
        '"ada"@example.org',
        "ada@[192.0.2.1]",
        "ada@[IPv6:2001:db8::1]",
        "ada@-example.org",
        "ada@exa_mple.org",
        "ada@something.invalid",
        "mailto:ada@example.org?bcc=eve@example.org",
    ],
)
def test_what_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(Refused, match="invalid-address"):
        parse_email(typed)


@pytest.mark.parametrize(
    "typed",
    [
        "ada@example.org\r\nBcc: eve@example.org",
        "ada\n@example.org",
        "ada@example.org\n",
        "\nada@example.org",
        "\tada@example.org",
        "ada\x00@example.org",
        "ada@example.org\x7f",
        "ada\u0085@example.org",
        "ada\u2028@example.org",
    ],
)
def test_what_could_end_a_header_is_refused(typed: str) -> None:
    with pytest.raises(Refused, match="invalid-address"):
        parse_email(typed)


@pytest.mark.parametrize(
    "character",
    [
        *("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u202a", "\u202e", "\u2066", "\u2069", "\u200e"),
        *("\u00a0", "\u3000", "\ue000", "\ud800", "\u0378"),
    ],
)
def test_characters_that_hide_or_reorder_are_refused_anywhere(character: str) -> None:
    for typed in (
        f"a{character}da@example.org",
        f"{character}ada@example.org",
        f"ada@exa{character}mple.org",
        f"ada@example.org{character}",
    ):
        with pytest.raises(Refused, match="invalid-address"):
            parse_email(typed)


@pytest.mark.parametrize(
    "typed", ["ada@\uff25\uff38\uff21\uff2d\uff30\uff2c\uff25.org", "ada@example\u3002org", "ada@\u2460example.org"]
)
def test_a_domain_that_idna_would_have_to_rewrite_is_refused(typed: str) -> None:
    with pytest.raises(Refused, match="invalid-address"):
        parse_email(typed)


def test_lengths_are_limited_in_octets() -> None:
    label = "d" * 60
    assert parse_email("l" * 64 + "@example.org").typed.startswith("llll")
    assert parse_email("l" * 64 + f"@{label}.{label}.{label}.org").kind == "email"
    for typed in (
        "l" * 65 + "@example.org",
        "\u00fc" * 33 + "@example.org",
        "l" * 64 + f"@{label}.{label}.{label}.orgorg.o",
        "a@" + "d" * 64 + ".org",
        "x" * 100_000 + "@example.org",
    ):
        with pytest.raises(Refused, match="invalid-address"):
            parse_email(typed)


def test_neither_a_refusal_nor_a_repr_quotes_the_address() -> None:
    with pytest.raises(Refused) as caught:
        parse_email("ada-secret@localhost")
    assert "ada-secret" not in f"{caught.value!r} {caught.value} {caught.value.message} {dict(caught.value.facts)}"
    assert caught.value.__suppress_context__
    assert "ada" not in repr(parse_email("ada@example.org"))
