"""The way out: only our own tokens open, each in one spelling only."""

import base64

import pytest

from shared.errors import Refused
from shared.way_out import WayOut, mint, open_token, receipt_key

KEYS = {1: bytes(range(64)), 2: bytes(reversed(range(64)))}
WAY_OUT = WayOut(
    subject="3.0192f3a0-0000-7abc-8def-0123456789ab",
    purposes=(("newsletter", "email"), ("newsletter-clicks", "email")),
    message_id="0192f3a0-1111-7abc-8def-0123456789ab",
)


def test_a_token_opens_to_what_was_put_in() -> None:
    assert open_token(KEYS, mint(KEYS, WAY_OUT)) == WAY_OUT


def test_a_token_shows_nothing_and_fits_an_address() -> None:
    token = mint(KEYS, WAY_OUT)
    assert len(token) < 160
    assert b"newsletter" not in base64.urlsafe_b64decode(token + "==")


def test_two_mails_to_one_person_have_different_tokens() -> None:
    other = WayOut(WAY_OUT.subject, WAY_OUT.purposes, "0192f3a0-2222-7abc-8def-0123456789ab")
    assert mint(KEYS, WAY_OUT) != mint(KEYS, other)


def test_a_token_of_an_older_key_still_opens() -> None:
    token = mint({1: KEYS[1]}, WAY_OUT)
    assert open_token(KEYS, token) == WAY_OUT
    assert mint(KEYS, WAY_OUT) != token


def test_a_token_of_a_key_we_do_not_have_is_not_ours() -> None:
    with pytest.raises(Refused) as refusal:
        open_token({1: KEYS[1]}, mint(KEYS, WAY_OUT))
    assert refusal.value.status == 404


def test_every_single_changed_character_makes_a_token_not_ours() -> None:
    token = mint(KEYS, WAY_OUT)
    for place, character in enumerate(token):
        forged = token[:place] + ("A" if character != "A" else "B") + token[place + 1 :]
        with pytest.raises(Refused):
            open_token(KEYS, forged)


@pytest.mark.parametrize("token", ["", "A", "AA", "AAE", "ä", "AAE=", "A" * 3000, "AAEAAA.AAA", "../../etc"])
def test_what_is_no_token_is_not_ours(token: str) -> None:
    with pytest.raises(Refused):
        open_token(KEYS, token)


def test_a_second_spelling_of_the_same_bytes_is_not_ours() -> None:
    token = mint(KEYS, WAY_OUT)
    with pytest.raises(Refused):
        open_token(KEYS, token + "=")


def test_the_receipt_key_is_the_same_each_time_and_another_for_another_mail() -> None:
    token = mint(KEYS, WAY_OUT)
    other = mint(KEYS, WayOut(WAY_OUT.subject, WAY_OUT.purposes, "0192f3a0-2222-7abc-8def-0123456789ab"))
    assert receipt_key(KEYS, token) == receipt_key(KEYS, token)
    assert len(receipt_key(KEYS, token)) == 16
    assert receipt_key(KEYS, token) != receipt_key(KEYS, other)


def test_nobody_can_be_sent_a_way_out_of_nothing() -> None:
    with pytest.raises(ValueError, match="something to end"):
        mint(KEYS, WayOut(WAY_OUT.subject, (), WAY_OUT.message_id))
    with pytest.raises(ValueError, match="something to end"):
        mint(KEYS, WayOut("person", WAY_OUT.purposes, WAY_OUT.message_id))
