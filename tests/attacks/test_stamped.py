"""Timestamps that say what no authority has said: in a row, in a file, of another checkpoint, by another clock."""

from __future__ import annotations

import json
from functools import partial

from rfc3161_client import TimestampRequestBuilder

from services.ledger.outside import stamps
from services.ledger.reader.authority import parse_authority, stated_time
from services.ledger.reader.note import parse_note
from services.ledger.reader.policy import LogKey, Policy
from services.ledger.reader.strict import encode_base64url
from services.ledger.reader.timestamp import FORMAT
from services.ledger.reader.verify import verify
from tests.attacks.declared import Attack, Check, Needs, Notices, tries
from tests.attacks.liar import Liar
from tests.attacks.looking import hold, refuse
from tests.attacks.site import Site
from tests.attacks.test_history import a_year_earlier
from tests.authority import LocalAuthority, authority

DATABASE = (Needs.DATABASE,)
forging = partial(Attack, "forge a timestamp")


def answer(by: LocalAuthority, note: bytes) -> bytes:
    """What this authority says now of a checkpoint."""
    return by.answer(TimestampRequestBuilder().data(parse_note(note).text).build().as_bytes())


def file(site: Site, note: bytes, stamp: bytes) -> bytes:
    """A checkpoint and its timestamp, as the ledger gives them."""
    said = {"format": FORMAT, "origin": site.origin, "vkey": site.vkey}
    return json.dumps(said | {"checkpoint": note.decode(), "answer": encode_base64url(stamp)}).encode()


async def stamped(site: Site) -> None:
    """The authority has timestamped the checkpoints of 5, 7 and 311 leaves."""
    db = await site.world.database("ledger_publish")
    for number in (0, 1, 3):
        note = site.kept[f"checkpoint {number}"]
        said = answer(authority(), note)
        time = stated_time(said, parse_note(note).text)
        await stamps.add_stamp(db, 0, int(note.split(b"\n")[1]), said, time)
    assert await site.checked(authority=parse_authority(authority().pem)) == []


def believing(site: Site) -> Policy:
    """Whoever has the log's key, and the certificates of the authority from elsewhere."""
    return Policy((LogKey(site.vkey),), authority=parse_authority(authority().pem))


@tries(
    forging(
        "the time that is noted beside a timestamp, by a year",
        DATABASE,
        {Check.LOG_CHECK: "stamp, shard 0, size 5: does not say the time that is noted beside it"},
    ),
    forging(
        "the timestamp of an earlier checkpoint in the place of a later one's",
        DATABASE,
        {Check.LOG_CHECK: "stamp, shard 0, size 311: is about something else"},
    ),
    forging(
        "another authority's in the place of ours",
        DATABASE,
        {Check.LOG_CHECK: "stamp, shard 0, size 7: does not verify"},
        blind="`log check` without the authority's certificates",
    ),
)
async def test_a_stored_timestamp_that_was_changed_is_named(site: Site, attack: Attack, notices: Notices) -> None:
    await stamped(site)
    if "another authority" in attack.tried:
        other = answer(authority("another"), site.kept["checkpoint 1"])
        time = stated_time(other, parse_note(site.kept["checkpoint 1"]).text)
        await site.world.as_superuser(
            f"update stamp set answer = '\\x{other.hex()}', stamped_at = '{time.isoformat()}' where size = 7"
        )
    elif "a year" in attack.tried:
        await site.world.as_superuser("update stamp set stamped_at = stamped_at - interval '1 year' where size = 5")
    else:
        await site.world.as_superuser(
            "update stamp s set answer = o.answer from stamp o where s.size = 311 and o.size = 7"
        )
    await site.check(notices, authority=parse_authority(authority().pem))


@tries(
    forging(
        "of a checkpoint that was signed today, by an authority of their own whose clock is a year behind",
        (Needs.LOG_KEY, Needs.FILE),
        {Check.VERIFIER: "INVALID: step 3: the timestamp does not verify"},
        blind="whoever takes the authority's certificates from the hands that the file is from",
    ),
    forging(
        "of another checkpoint, beside one that was signed today",
        (Needs.LOG_KEY, Needs.FILE),
        {Check.VERIFIER: "INVALID: step 3: the timestamp does not verify"},
    ),
)
async def test_a_timestamp_is_of_one_checkpoint_and_by_one_authority(
    site: Site, attack: Attack, notices: Notices
) -> None:
    true = site.kept["checkpoint 1"]
    assert verify(file(site, true, answer(authority(), true)), believing(site)) is not None
    liar = await Liar.of(site, 308)
    liar.say(site.said["Ben consents"])
    note = liar.note().encode()
    stamp = answer(authority("theirs"), note) if "their own" in attack.tried else answer(authority(), true)
    refuse(notices, Check.VERIFIER, believing(site), file(site, note, stamp))


@tries(
    forging(
        "the whole log, every act a year earlier; signed by our key, and timestamped anew by the true authority",
        (Needs.DATABASE, Needs.DISK, Needs.SECRETS, Needs.LOG_KEY),
        {Check.HELD: "a fork: the log's key has signed two different histories of 311 leaves"},
        blind="whoever holds nothing of before: a timestamp says that something was there by then, never since when: "
        "the new one is true and proves nothing of a year ago. What is missing is one from then",
    )
)
async def test_a_timestamp_of_before_contradicts_a_history_that_was_written_since(site: Site, notices: Notices) -> None:
    held = file(site, site.kept["checkpoint 3"], answer(authority(), site.kept["checkpoint 3"]))
    forged = await site.forged([[a_year_earlier(one) for one in batch] for batch in site.batches], log_key=True)
    await forged.world.seal(await forged.world.sealer())
    liar = await Liar.of(forged, 311)
    note = liar.note().encode()
    shown = file(site, note, answer(authority(), note))
    assert verify(shown, believing(site)) is not None
    hold(notices, Check.HELD, believing(site), held, shown)
