"""Programs that do not keep to the rules: appenders with other ideas, two of what there may be one of."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta

import asyncpg

from services.ledger.append import Fenced, Stale
from services.ledger.log.leaf import MAP_ROOT, event_leaf, leaf_hash, split_leaves
from services.ledger.log.secrets import SubjectSecrets, wrap
from services.ledger.log.state_map import StateMap
from shared.clock import millis, utc_now
from shared.errors import Corrupt, Unavailable
from shared.events import EVERYTHING
from tests.attacks.declared import Attack, Check, Needs, Notices, tries
from tests.attacks.site import ANNA, Site
from tests.integration.ledger.world import given, new_subject

OWN_APPENDER = (Needs.DATABASE, Needs.SECRETS, Needs.CODE)


async def old_map(site: Site, size: int) -> StateMap:
    """The state map as it was at an earlier size."""
    old = StateMap()
    old.begin()
    rows = await site.world.rows("select first, leaves from leaf_batch where first < $1 order by first", size)
    for row in rows:
        for index, leaf in enumerate(split_leaves(row["leaves"]), row["first"]):
            if leaf[0] != MAP_ROOT:
                old.update(leaf[1:33], int.from_bytes(leaf[33:41], "big"), index, leaf_hash(leaf))
    old.commit()
    return old


@tries(
    Attack(
        "replay an old state map",
        "a batch whose MAP_ROOT forgets what was said since",
        OWN_APPENDER,
        {Check.SIGNER: "index 312: leaf 312: the number of labels is 4"},
        blind="whoever looks before the signer has refused: nothing of it was sealed, published or answered",
    )
)
async def test_a_map_root_of_another_time_is_not_signed(site: Site, notices: Notices) -> None:
    appender = await site.appending(given(new_subject()))
    head = (await appender._load()).head
    head.map = await old_map(site, 7)
    await site.world.append(appender)
    await site.sign(notices)


@tries(
    Attack(
        "drop a withdrawal",
        "a new consent in the withdrawal's place: with its version, after the consent before it",
        OWN_APPENDER,
        {Check.SIGNER: "index 311: leaf 311: the version is 2, not 3"},
    )
)
async def test_a_version_that_is_there_already_is_not_signed(site: Site, notices: Notices) -> None:
    appender = await site.appending(given(ANNA))
    head = (await appender._load()).head
    head.map = await old_map(site, 5)
    await site.world.append(appender)
    await site.sign(notices)


@tries(
    Attack(
        "alter",
        "one bit of a leaf before it is signed",
        (Needs.DATABASE,),
        {Check.SIGNER: "first 311: the root is not that of the leaves"},
        blind="`log check` until it comes there: it would say the same",
    )
)
async def test_a_leaf_that_changed_between_appender_and_signer_is_not_signed(site: Site, notices: Notices) -> None:
    appender = await site.appending(given(ANNA), given(ANNA))
    await site.world.append(appender)
    # The first of two words on one label: no map root ever covers it.
    await site.world.as_superuser(
        "update leaf_batch set leaves = set_byte(leaves, 60, get_byte(leaves, 60) # 1) where first = 311"
    )
    await site.sign(notices)


@tries(
    Attack(
        "back-date",
        "a batch, by half a minute",
        OWN_APPENDER,
        {Check.SIGNER: "index 313: leaf 313: recorded_at is"},
    )
)
async def test_a_batch_from_before_the_one_before_it_is_not_signed(site: Site, notices: Notices) -> None:
    await site.append(given(new_subject()))
    appender = await site.appending(given(new_subject()), clock=lambda: utc_now() - timedelta(seconds=30))
    head = (await appender._load()).head
    head.recorded_at = 0
    await site.world.append(appender)
    await site.sign(notices)


@tries(
    Attack(
        "back-date",
        "what an appender records, by an hour, with the clock of its machine",
        (Needs.CODE,),
        {Check.APPENDER: "Unavailable: clock"},
        blind="anybody, if the clocks of all machines are set back together: `recorded_at` is the operator's clock, "
        "bracketed only by the cosignatures of others",
    )
)
async def test_an_appender_whose_clock_is_wrong_appends_nothing(site: Site, notices: Notices) -> None:
    appender = await site.appending(given(new_subject()), clock=lambda: utc_now() - timedelta(hours=1))
    with notices.raising(Check.APPENDER, Unavailable):
        await appender.step()
    assert await site.world.value("select max(first) from leaf_batch") == 308


@tries(
    Attack(
        "insert",
        "a batch without a MAP_ROOT at its end",
        (Needs.DATABASE,),
        {
            Check.SIGNER: "first 311 does not end in a MAP_ROOT",
            Check.LOG_CHECK: "index 311 to 311: does not end in a MAP_ROOT",
        },
    )
)
async def test_a_batch_that_tells_no_state_is_not_signed(site: Site, notices: Notices) -> None:
    secrets = SubjectSecrets(os.urandom(32), site.origin, ANNA)
    leaf = event_leaf(secrets.label(EVERYTHING), 1, 0, bytes(32), millis(utc_now()))
    await site.world.rows("insert into leaf_batch values (0, 311, 1, $1, sha256('x'))", leaf)
    await site.look(notices)


@tries(
    Attack(
        "invent a second key for a person",
        "in the row of the key, so that what is said from now on stands under another name",
        (Needs.DATABASE, Needs.SECRETS),
        {Check.LOG_CHECK: "payload, shard 0, index 1: the ciphertext does not open: wrong key"},
        blind="the signer, which knows no keys; whoever holds a receipt from before and one from after has both pins",
    )
)
async def test_a_key_that_took_the_place_of_another_opens_nothing_that_was_said(site: Site, notices: Notices) -> None:
    keks = site.world.secrets.keks()
    kek_id = max(keks)
    wrapped = wrap(kek_id, keks[kek_id], ANNA, os.urandom(32), os.urandom(12))
    await site.world.rows("update subject_key set wrapped = $2 where subject = $1", ANNA, wrapped)
    await site.append(given(ANNA))
    await site.check(notices)


@tries(
    Attack(
        "two writers at once",
        "two appenders of one shard, each holding the same batch",
        (Needs.CODE,),
        {Check.EPOCH: "epoch 6 has taken it over"},
    )
)
async def test_of_two_appenders_one_is_fenced(site: Site, notices: Notices) -> None:
    said = given(new_subject())
    first, second = await site.appending(said), await site.appending(said)
    await first._load()
    await second._load()
    assert await second.step() == 1
    await second.settled()
    with notices.raising(Check.EPOCH, Fenced):
        await first.step()
        await first.settled()
    await site.world.seal(await site.world.sealer())
    assert await site.checked() == []


@tries(
    Attack(
        "two writers at once",
        "an appender that puts the epoch back and goes on",
        (Needs.DATABASE, Needs.CODE),
        {Check.EPOCH: "Stale"},
    )
)
async def test_an_epoch_that_is_put_back_does_not_let_two_write_one_place(site: Site, notices: Notices) -> None:
    first, second = await site.appending(given(new_subject())), await site.appending(given(new_subject()))
    await first._load()
    await second._load()
    await second.step()
    await second.settled()
    await site.world.as_superuser("update head set epoch = epoch - 1")
    with notices.raising(Check.EPOCH, Stale):
        await first.step()
        await first.settled()
    await site.world.seal(await site.world.sealer())
    assert await site.checked() == []


@tries(
    Attack(
        "two writers at once",
        "two signers with one set of files",
        (Needs.DISK,),
        {Check.SIGNER: "another signer holds them"},
    )
)
async def test_of_two_signers_one_does_not_begin(site: Site, notices: Notices) -> None:
    first, second = await site.world.sealer(), await site.world.sealer()
    await first.open()
    try:
        with notices.raising(Check.SIGNER, Corrupt):
            await second.open()
    finally:
        first.close()


@tries(
    Attack(
        "two writers at once",
        "two signers, the second with a copy of the files",
        (Needs.DISK, Needs.LOG_KEY),
        {Check.SIGNER: "checkpoint at shard 0, the newest is not our last, 311"},
    )
)
async def test_of_two_signers_with_files_each_the_one_that_comes_late_ends(site: Site, notices: Notices) -> None:
    shutil.copytree(site.folder / "signer", site.folder / "copied" / "signer")
    shutil.copytree(site.folder / "secrets", site.folder / "copied" / "secrets")
    late = await site.world.sealer()
    other = await site.with_files(site.folder / "copied").world.sealer()
    await late.open()
    try:
        appender = await site.appending(given(new_subject()))
        await site.world.append(appender)
        await site.world.seal(other)
        with notices.raising(Check.SIGNER, Corrupt):
            await late.renew()
    finally:
        late.close()


@tries(
    Attack(
        "alter",
        "a leaf, by a slip of a superuser who has not switched the triggers off",
        (Needs.DATABASE,),
        {Check.POSTGRESQL: "leaf_batch is never changed or deleted"},
    )
)
async def test_a_slip_changes_no_leaf(site: Site, notices: Notices) -> None:
    with notices.raising(Check.POSTGRESQL, asyncpg.PostgresError):
        await site.world.rows("update leaf_batch set leaves = leaves || leaves where first = 1")


@tries(
    Attack(
        "fork",
        "a checkpoint stored by the appender, or a leaf by the signer",
        (Needs.CODE,),
        {Check.POSTGRESQL: "permission denied for table"},
    )
)
async def test_appender_and_signer_cannot_do_each_others_work(site: Site, notices: Notices) -> None:
    appender, signer = await site.world.database("ledger_append"), await site.world.database("ledger_seal")
    with notices.raising(Check.POSTGRESQL, asyncpg.PostgresError):
        await appender.execute(
            "insert into checkpoint select shard, size + 1, size, root, note, signed_at from checkpoint"
        )
    with notices.raising(Check.POSTGRESQL, asyncpg.PostgresError):
        await signer.execute("insert into leaf_batch select shard, first + 1000, n, leaves, root from leaf_batch")
