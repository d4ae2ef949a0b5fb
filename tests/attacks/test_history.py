"""A history that is written anew as a whole: every hash fits every other, because the forger runs our own programs."""

from __future__ import annotations

from collections.abc import Callable

from shared.events import parse
from tests.attacks.declared import Attack, Check, Needs, Notices, tries
from tests.attacks.site import CROWD, Batches, Site
from tests.integration.ledger.world import given, new_subject

ALL_BUT_THE_LOG_KEY = (Needs.DATABASE, Needs.SECRETS)


def a_year_earlier(statement: bytes) -> bytes:
    time = parse(statement).time
    return statement.replace(time.encode(), f"{int(time[:4]) - 1}{time[4:]}".encode(), 1)


def without_annas_withdrawal(site: Site) -> Batches:
    return [batch for batch in site.batches if site.said["Anna withdraws"] not in batch]


def without_one_of_the_crowd(site: Site) -> Batches:
    return [[one for one in batch if parse(one).subject != CROWD[3]] for batch in site.batches]


def with_a_stranger_at_the_beginning(site: Site) -> Batches:
    return [[given(new_subject()), *site.batches[0]], *site.batches[1:]]


def with_anna_withdrawing_first(site: Site) -> Batches:
    consents, withdraws = site.said["Anna consents"], site.said["Anna withdraws"]
    places = {consents: withdraws, withdraws: consents}
    return [[places.get(one, one) for one in batch] for batch in site.batches]


def with_every_act_a_year_earlier(site: Site) -> Batches:
    return [[a_year_earlier(one) for one in batch] for batch in site.batches]


def up_to_the_crowd(site: Site) -> Batches:
    return list(site.batches[:-1])


HISTORIES: dict[str, tuple[str, Callable[[Site], Batches], str]] = {
    "the whole log, without one person": ("delete", without_one_of_the_crowd, "leaves, 311 were signed"),
    "the whole log, with a consent nobody gave": ("insert", with_a_stranger_at_the_beginning, "index 1 is not"),
    "the whole log, with a withdrawal before its consent": ("reorder", with_anna_withdrawing_first, "index 1 is not"),
    "the whole log, shorter": ("truncate", up_to_the_crowd, "308 leaves, 311 were signed"),
    "the whole log, every act a year earlier": ("back-date", with_every_act_a_year_earlier, "index 1 is not"),
    "the whole log, without Anna's withdrawal": ("drop a withdrawal", without_annas_withdrawal, "leaves, 311 were"),
}


@tries(
    *(
        Attack(
            kind,
            tried,
            ALL_BUT_THE_LOG_KEY,
            {Check.SIGNER: words, Check.LOG_CHECK: "log, shard 0, vkey: is not the key that we have"},
        )
        for tried, (kind, _, words) in HISTORIES.items()
    )
)
async def test_a_consistent_history_that_our_key_did_not_sign_is_no_history(
    site: Site, attack: Attack, notices: Notices
) -> None:
    _, change, _ = HISTORIES[attack.tried]
    forged = await site.forged(change(site), log_key=False)
    put = forged.in_place_of(site)
    await put.look(notices)


@tries(
    Attack(
        "invent a second key for a person",
        "everybody's keys, and the whole log with them",
        ALL_BUT_THE_LOG_KEY,
        {
            Check.SIGNER: "index 1 is not the leaf that was signed",
            Check.LOG_CHECK: "log, shard 0, vkey: is not the key that we have",
        },
    ),
)
async def test_a_history_under_other_keys_is_none_of_ours(site: Site, notices: Notices) -> None:
    put = (await site.forged(site.batches, log_key=False, same_keys=False)).in_place_of(site)
    await put.look(notices)
