"""Erasure as a weapon, and against it: somebody is erased whom nobody ordered to go, kept who was, or brought back."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg

from services.ledger.destroy import Destroyer
from services.ledger.keks import Keks
from shared.metrics import Metrics
from tests.attacks.declared import Attack, Check, Needs, Notices, tries
from tests.attacks.looking import agree, hold
from tests.attacks.site import ANNA, Site
from tests.integration.ledger.world import completed, given, held, new_id, ordered

DATABASE = (Needs.DATABASE,)
erasing = partial(Attack, "erase, or keep from being erased")
FAR = datetime(2099, 1, 1, tzinfo=UTC)
AFTERWARDS = (
    "the signer, to whom an ERASURE is a leaf like another; and nobody here, once her statements and her key are "
    "destroyed, because who ordered it goes with them. What is in her hands verifies as before, and the log shows that "
    "something stood there until then"
)


async def order(site: Site, until: datetime | None = None) -> None:
    """Anna's erasure is ordered, held until then, and completed."""
    request = new_id()
    await site.append(ordered(ANNA, request, until), completed(ANNA, request))


async def end_and_destroy(site: Site) -> None:
    """What the ledger does of itself to whoever is noted to be at its end."""
    await site.append(erasure_spread=0.0)
    appender = await site.appending(erasure_spread=0.0)
    await appender.step()
    await appender.settled()
    await appender.drop()
    await site.world.seal(await site.world.sealer())
    db = await site.world.database("ledger_append")
    await Destroyer(0, db, Keks(site.world.secrets.keks), os.urandom, Metrics("ledger_append")).step()


async def is_gone(site: Site) -> bool:
    kept = await site.world.value("select count(*) from subject_key where subject = $1", ANNA)
    return int(kept) == 0


@tries(
    erasing(
        "note that Anna's erasure was ordered and is completed, and let the ledger do the rest",
        DATABASE,
        {Check.LOG_CHECK: "is noted as completed at index 1, and nothing that is recorded says so"},
        blind=AFTERWARDS,
    )
)
async def test_nobody_is_erased_on_the_strength_of_a_row_alone(site: Site, notices: Notices) -> None:
    row = "insert into erasure (subject, shard, hold_until, completed) values ($1, 0, now() - interval '1 s', 1)"
    await site.world.rows(row, ANNA)
    await site.check(notices)
    await end_and_destroy(site)
    assert await is_gone(site)
    assert await site.checked() == [], "nobody who looks only now sees that it was not ordered"
    assert agree(site.vkey, site.kept["Anna withdraws"], site.kept["Anna consents"])


@tries(
    erasing(
        "end one label of Anna's, by an appender that asks nobody",
        (Needs.DATABASE, Needs.CODE),
        {Check.LOG_CHECK: "has ended, and nobody has ordered that"},
        blind="the signer, to whom an ERASURE is a leaf like another",
    )
)
async def test_a_label_that_ended_of_itself_is_named(site: Site, notices: Notices) -> None:
    await site.world.rows("insert into erasure values ($1, 0, now(), 1, now())", ANNA)
    await site.world.rows(
        "insert into ending select subject, matter, 0, now() from matter where subject = $1 limit 1", ANNA
    )
    appender = await site.appending(erasure_spread=0.0)
    await appender.step()
    await appender.settled()
    await site.world.seal(await site.world.sealer())
    await site.world.as_superuser("delete from ending; delete from erasure")
    await site.check(notices)


@tries(
    erasing(
        "shorten the hold of an erasure, so that what only proves goes before its time",
        DATABASE,
        {Check.LOG_CHECK: "is held for a shorter time than index 311 says"},
        blind=AFTERWARDS,
    )
)
async def test_a_hold_that_was_shortened_is_named(site: Site, notices: Notices) -> None:
    await order(site, until=FAR)
    assert await site.checked() == []
    await site.world.as_superuser("update erasure set hold_until = now()")
    await site.check(notices)


@tries(
    erasing(
        "forget that a hold was lengthened",
        DATABASE,
        {Check.LOG_CHECK: "is held for a shorter time than index 314 says"},
        blind=AFTERWARDS,
    )
)
async def test_a_hold_that_was_forgotten_is_named(site: Site, notices: Notices) -> None:
    request = new_id()
    await site.append(ordered(ANNA, request, FAR), completed(ANNA, request))
    await site.append(held(ANNA, request, FAR + timedelta(days=1)))
    assert await site.checked() == []
    await site.world.as_superuser(f"update erasure set hold_until = '{FAR.isoformat()}'")
    await site.check(notices)


@tries(
    erasing(
        "keep who was ordered to go, by a hold that nobody has recorded",
        DATABASE,
        {Check.LOG_CHECK: "is held for longer than anything recorded says"},
    ),
    erasing(
        "keep who was ordered to go, by forgetting that everybody has erased",
        DATABASE,
        {Check.LOG_CHECK: "is not noted as completed, and index 312 says that it is"},
    ),
    erasing(
        "keep who was ordered to go, by deleting the order's row",
        DATABASE,
        {Check.LOG_CHECK: "is missing, and index 311 is about its erasure"},
    ),
)
async def test_whoever_was_ordered_to_go_is_not_kept_unseen(site: Site, attack: Attack, notices: Notices) -> None:
    await order(site)
    assert await site.checked() == []
    changes = {
        "recorded": "update erasure set hold_until = '2099-01-01'",
        "erased": "update erasure set completed = null",
        "row": "delete from erasure",
    }
    await site.world.as_superuser(changes[attack.tried.split()[-1]])
    await site.check(notices)


@tries(
    erasing(
        "call the procedure that destroys, of somebody whom nobody has ordered to go",
        DATABASE,
        {Check.POSTGRESQL: "no erasure of this subject is recorded and due"},
    ),
    erasing(
        "call the procedure that destroys, while a hold stands",
        DATABASE,
        {Check.POSTGRESQL: "a recorded hold stands"},
    ),
    erasing(
        "call the procedure that destroys, before the log says that the labels have ended",
        DATABASE,
        {Check.POSTGRESQL: "a label of this subject has no sealed ERASURE"},
    ),
)
async def test_the_procedure_asks_for_itself(site: Site, attack: Attack, notices: Notices) -> None:
    if "nobody" not in attack.tried:
        await order(site, until=FAR if "hold" in attack.tried else None)
        await site.world.rows("update erasure set ending_at = now()")
    with notices.raising(Check.POSTGRESQL, asyncpg.PostgresError):
        await site.world.rows("select destroy_subject($1, $2, $3)", ANNA, [1, 5], [])
    assert not await is_gone(site)


@tries(
    erasing(
        "a statement and its key by hand, and list it as lost to a restore because it had been erased",
        DATABASE,
        {Check.LOG_CHECK: "payload, shard 0, index 5: is missing, and its label was not erased"},
    )
)
async def test_what_is_listed_as_erased_must_have_ended(site: Site, notices: Notices) -> None:
    await site.world.as_superuser(
        f"""delete from payload where subject = '{ANNA}'; delete from seen where index in (1, 5);
            delete from matter where subject = '{ANNA}'; delete from subject_key where subject = '{ANNA}';
            insert into lost_record (shard, index, reason) values (0, 1, 'erased'), (0, 5, 'erased')"""
    )
    await site.check(notices)


@tries(
    erasing(
        "bring back from a backup what was destroyed",
        (Needs.DATABASE, Needs.SECRETS),
        {Check.LOG_CHECK: "payload, shard 0, index 1: is there, and its subject was destroyed"},
        blind="anybody, of a backup that somebody keeps for themselves: it opens with the key-encryption key of its "
        "time, and the erasure is final only when that has been destroyed in the next rotation",
    )
)
async def test_what_was_destroyed_does_not_come_back_unseen(site: Site, notices: Notices) -> None:
    await order(site)
    await end_and_destroy(site)
    assert await is_gone(site)
    assert await site.checked() == []
    await site.world.as_superuser(
        f"""insert into subject_key select * from backup.subject_key where subject = '{ANNA}';
            insert into payload select * from backup.payload where subject = '{ANNA}'"""
    )
    await site.check(notices)


@tries(
    erasing(
        "say something in the name of whoever has ended, before their key is destroyed",
        (Needs.DATABASE,),
        {Check.SIGNER: "the label"},
    )
)
async def test_behind_an_erasure_nothing_is_signed(site: Site, notices: Notices) -> None:
    await order(site)
    appender = await site.appending(erasure_spread=0.0)
    await appender.step()
    await appender.settled()
    await site.world.seal(await site.world.sealer())
    await site.world.as_superuser("delete from ending; delete from erasure")
    await site.world.append(await site.appending(given(ANNA)))
    await site.sign(notices)


@tries(
    erasing(
        "forget that somebody was erased, and go on with a new key for them",
        DATABASE,
        {Check.HELD: f"a second key: the subject {ANNA} has two pins"},
        blind="the signer and `log check`, which see a new person; and whoever holds nothing of before",
    )
)
async def test_an_erased_person_who_is_gone_on_with_has_two_keys(site: Site, notices: Notices) -> None:
    await order(site)
    await end_and_destroy(site)
    await site.world.as_superuser("delete from erasure")
    site.said["Anna again"] = given(ANNA)
    await site.append(site.said["Anna again"])
    assert await site.checked() == []
    hold(notices, Check.HELD, site.vkey, site.kept["Anna withdraws"], await site.receipt("Anna again"))
