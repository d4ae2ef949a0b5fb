"""Cosignatures in the rows that they are served from: what a superuser makes of them, no witness has said."""

from __future__ import annotations

from functools import partial

from services.ledger.outside.cosignatures import cosigned_checkpoint
from tests.attacks import witnessing
from tests.attacks.declared import Attack, Check, Needs, Notices, tries
from tests.attacks.looking import refuse
from tests.attacks.site import Site

DATABASE = (Needs.DATABASE,)
forging = partial(Attack, "forge a cosignature")


@tries(
    forging(
        "the signature in a witness's line",
        DATABASE,
        {
            Check.LOG_CHECK: "does not verify",
            Check.VERIFIER: "INVALID: step signature 2: a signature of the given key does not verify",
        },
        blind="whoever wants no cosignature of that witness",
        sql="update cosignature set line = overlay(line placing 'AA' from length(line) - 8 for 2); delete from witness",
    ),
    forging(
        "a witness's line, noted of a checkpoint that it is not of",
        DATABASE,
        {
            Check.LOG_CHECK: "cosignature, shard 0, size 7",
            Check.VERIFIER: "INVALID: step signature 2: a signature of the given key does not verify",
        },
        blind="whoever wants no cosignature of that witness",
        sql="update cosignature set size = 7; delete from witness",
    ),
    forging(
        "that what has been cosigned is not enough, so that an older checkpoint is served as the newest cosigned one",
        DATABASE,
        {Check.LOG_CHECK: "cosignature, shard 0, size 311: are enough, and it is not said"},
        blind="whoever reads the cosigned checkpoint and does not ask how old it may be; and nobody sees from our rows "
        "that a cosignature was deleted: the witness itself serves its newest",
        sql="update cosignature set quorum = false",
    ),
)
async def test_a_cosignature_that_was_changed_is_named(site: Site, attack: Attack, notices: Notices) -> None:
    policy = await witnessing.cosigned(site)
    assert await site.checked(witnesses=policy) == []
    await site.world.as_superuser(attack.sql)
    if Check.VERIFIER in attack.noticed:
        shown = await cosigned_checkpoint(await site.world.database("ledger"), 0)
        assert shown is not None
        refuse(notices, Check.VERIFIER, policy, shown[1].encode())
    await site.check(notices, witnesses=policy)
