"""Who has everything we have, keys and disks and programs, and is caught by what others keep."""

from __future__ import annotations

import json
import os
import shutil

from services.ledger.reader.verify import verify
from tests.attacks import auditing, witnessing
from tests.attacks.declared import Attack, Check, Needs, Notices, tries
from tests.attacks.liar import Liar
from tests.attacks.looking import agree, hold, refuse
from tests.attacks.site import ANNA, BEN, CARLA, Site, restore
from tests.attacks.test_history import HISTORIES
from tests.integration.ledger.world import given, new_subject, withdrawn

ALL_KEYS = (Needs.DATABASE, Needs.DISK, Needs.SECRETS, Needs.LOG_KEY)
SHORTER = {"delete", "truncate", "drop a withdrawal"}
NOTHING_LEFT_HERE = (
    "the signer and `log check`, to whom the thief has left nothing else; and nobody at all, as long as no "
    "receipt of it, no checkpoint behind it and no cosignature is in other hands"
)


@tries(
    *(
        Attack(
            kind,
            f"{tried}; signed by our key, on our disk",
            ALL_KEYS,
            {
                Check.HELD: "a rewritten log: at index 2 two different leaves are shown",
                Check.OUTSIDER: "INVALID: step 3: the consistency proof does not hold",
                Check.AUDIT: "the hash of leaf 1 is not that of the entries served",
                Check.WITNESS: " of this log" if kind in SHORTER else "incident witness-disagrees",
            },
            blind=NOTHING_LEFT_HERE,
        )
        for tried, (kind, _, _) in HISTORIES.items()
    )
)
async def test_a_history_that_our_own_key_has_signed_anew_contradicts_what_others_hold(
    site: Site, attack: Attack, notices: Notices
) -> None:
    _, change, _ = HISTORIES[attack.tried.partition(";")[0]]
    forged = await site.forged(change(site), log_key=True)
    await forged.world.seal(await forged.world.sealer())
    assert await forged.checked() == [], "log check has nothing but what the thief has left it"
    liar = await Liar.of(forged, 10_000)
    # What the log answers now to Ben, who asks again; the statement at index 2 has become another leaf.
    hold(notices, Check.HELD, site.vkey, site.kept["Ben consents"], await liar.receipt(2))
    refuse(notices, Check.OUTSIDER, site.vkey, await liar.consistency(site.kept["checkpoint 1"]))
    await auditing.look(forged, notices)
    await witnessing.look(site, notices, forged)


@tries(
    Attack(
        "roll back to an old backup",
        "the database",
        (Needs.DATABASE,),
        {
            Check.SIGNER: "PostgreSQL is behind the signer's files at shard 0: 5 leaves, 311 were signed",
            Check.LOG_CHECK: "leaf_batch, shard 0, from index 5: leaves that were signed are missing",
            Check.AUDIT: "was served after one of size 7: it was rolled back",
            Check.WITNESS: "The witness neighbour has cosigned 311 leaves of this log; of our database's, 5 are signed",
        },
    )
)
async def test_a_database_from_a_backup_is_not_signed(site: Site, notices: Notices) -> None:
    await restore(site.database, "backup")
    await site.look(notices)
    await auditing.look(site, notices)
    await witnessing.look(site, notices)


@tries(
    Attack(
        "roll back to an old backup",
        "the database and the signer's files, and on from there without Anna's withdrawal",
        (Needs.DATABASE, Needs.DISK),
        {
            Check.HELD: "a rewritten log: at index 5 two different leaves are shown",
            Check.OUTSIDER: "INVALID: step 3: the consistency proof does not hold",
            Check.AUDIT: "the hash of leaf 5 is not that of the entries served",
            Check.WITNESS: "has cosigned 311 leaves of this log; of our database's, 309 are signed",
        },
        blind="the signer and `log check`: nothing is left to them of what was signed since the backup. Who holds only "
        "what is older than the backup, and nobody at all, if nothing of what is younger is in other hands",
    )
)
async def test_a_log_that_went_on_from_a_backup_of_everything_contradicts_what_was_said_since(
    site: Site, notices: Notices
) -> None:
    await restore(site.database, "backup")
    shutil.rmtree(site.folder / "signer")
    shutil.copytree(site.folder / "backup" / "signer", site.folder / "signer")
    site.world.sequences.clear()
    for batch in site.batches[2:]:
        await site.append(*batch)
    assert await site.checked() == []
    liar = await Liar.of(site, 10_000)
    liar.raws = dict(zip(liar.raws, [one for number in (0, 2, 3) for one in site.batches[number]], strict=False))
    assert agree(site.vkey, site.kept["Ben consents"], await liar.receipt(2)), (
        "what is older than the backup is the same"
    )
    hold(notices, Check.HELD, site.vkey, site.kept["Anna withdraws"], await liar.receipt(5))
    refuse(notices, Check.OUTSIDER, site.vkey, await liar.consistency(site.kept["checkpoint 1"]))
    await auditing.look(site, notices)
    await witnessing.look(site, notices)


@tries(
    Attack(
        "split view",
        "one log for Anna, with her withdrawal, and one for everybody else",
        (Needs.LOG_KEY, Needs.SECRETS),
        {
            Check.HELD: "a fork: the log's key has signed two different histories of 313 leaves",
            Check.WITNESS: "422",
        },
        blind="each of the two alone, if neither wants the cosignature of a witness on which the other relies as well",
    )
)
async def test_two_who_were_shown_different_logs_need_only_meet(site: Site, notices: Notices) -> None:
    for_anna = await Liar.of(site)
    for_others = for_anna.at(311)
    for_anna.say(withdrawn(ANNA))
    for_others.say(given(CARLA))
    hold(notices, Check.HELD, site.vkey, await for_anna.receipt(311), for_others.note().encode())
    await witnessing.refuse(site, notices, for_anna, for_others)


@tries(
    Attack(
        "fork",
        "a second checkpoint of a size that was signed, by the log's own key",
        (Needs.LOG_KEY,),
        {
            Check.HELD: "a fork: the log's key has signed two different histories of 311 leaves",
            Check.WITNESS: "422",
        },
        blind="the signer, of what is signed elsewhere; whoever has seen one of the two only",
    )
)
async def test_two_checkpoints_of_one_size_are_proof_by_themselves(site: Site, notices: Notices) -> None:
    liar = await Liar.of(site, 308)
    liar.say(given(BEN), given(CARLA))
    hold(notices, Check.HELD, site.vkey, site.kept["checkpoint 3"], liar.note().encode())
    await witnessing.refuse(site, notices, liar)


@tries(
    Attack(
        "replay an old state map",
        "under a signed checkpoint, so that Anna's consent is the newest word again",
        (Needs.LOG_KEY, Needs.SECRETS),
        {
            Check.HELD: "an older state shown as the newest: at 313 leaves the operator's log says that version 1 is",
            Check.AUDIT: "WRONG: log rule 6",
        },
        blind="whoever sees this one proof only: it verifies. A replay shows that a map is right, a receipt that it is "
        "not",
    )
)
async def test_a_map_that_forgets_a_withdrawal_contradicts_its_receipt(site: Site, notices: Notices) -> None:
    liar = await Liar.of(site)
    old = liar.map(5)
    liar.say(given(new_subject_of(liar)), shown=old)
    shown = await liar.proof("latest", ANNA, shown=old)
    report = verify(shown, site.vkey)
    assert report is not None
    assert "consent holds" in report.conclusion
    hold(notices, Check.HELD, site.vkey, site.kept["Anna withdraws"], shown)
    await auditing.look(site, notices, by_hand=liar)


@tries(
    Attack(
        "forge an absence proof",
        "of a statement that is there, from the hashes of the true map: nine ways",
        (Needs.FILE,),
        {Check.VERIFIER: "INVALID: step"},
    )
)
async def test_no_absence_follows_from_a_map_that_has_it(site: Site, notices: Notices) -> None:
    liar = await Liar.of(site)
    liar.say(withdrawn(ANNA, purpose=None))
    true = json.loads(await liar.proof("latest", ANNA))
    place, lent = true["words"][0]["place"], true["words"][1]["place"]
    siblings = place["siblings"]
    nothing = "A" * 43
    places = [
        {"siblings": siblings, "record": None},
        {"siblings": siblings, "record": lent["record"]},
        lent,
        {"siblings": siblings[1:], "record": None},
        {"siblings": siblings[:-1], "record": None},
        {"siblings": [nothing, *siblings], "record": None},
        {"siblings": [nothing] * (257 - len(siblings)) + siblings, "record": None},
        {"siblings": [], "record": None},
        {"siblings": [], "record": place["record"]},
    ]
    # Of the two words of `latest` the first decides: without it no consent was ever given.
    for forged in places:
        word = {"matter": "purpose:newsletter/email", "place": forged, "entries": []}
        refuse(notices, Check.VERIFIER, site.vkey, json.dumps(true | {"words": [word, true["words"][1]]}).encode())


@tries(
    Attack(
        "forge an absence proof",
        "under a signed checkpoint whose map leaves Ben out",
        (Needs.LOG_KEY, Needs.SECRETS),
        {
            Check.HELD: "absence after presence: at 313 leaves the operator's log says that nothing was ever recorded",
            Check.AUDIT: "WRONG: log rule 6",
        },
        blind="whoever sees this one proof only",
    )
)
async def test_an_absence_that_was_signed_contradicts_a_receipt(site: Site, notices: Notices) -> None:
    liar = await Liar.of(site)
    nobody = liar.at(1).map()
    liar.say(given(new_subject_of(liar)), shown=nobody)
    shown = await liar.proof("absence", BEN, shown=nobody, anchor=308)
    hold(notices, Check.HELD, site.vkey, site.kept["Ben consents"], shown)
    await auditing.look(site, notices, by_hand=liar)


@tries(
    Attack(
        "invent a second key for a person",
        "so that a log of their own says of Anna what she never said",
        (Needs.LOG_KEY, Needs.SECRETS, Needs.CODE),
        {Check.HELD: f"a second key: the subject {ANNA} has two pins"},
        blind="whoever sees one of the two only, and whoever replays: labels say nothing of whose they are",
    )
)
async def test_two_keys_of_one_person_are_proof_by_themselves(site: Site, notices: Notices) -> None:
    liar = await Liar.of(site)
    liar.keys[ANNA] = os.urandom(32)
    liar.say(given(ANNA))
    shown = await liar.proof("latest", ANNA)
    report = verify(shown, site.vkey)
    assert report is not None
    assert "consent holds" in report.conclusion
    hold(notices, Check.HELD, site.vkey, site.kept["Anna withdraws"], shown)


def new_subject_of(liar: Liar) -> str:
    """Somebody new, whose key the liar has made."""
    subject = new_subject()
    liar.keys[subject] = os.urandom(32)
    return subject
