"""What becomes of a message on consent.stated: appended once, dropped as a repetition, or kept with its reason."""

from __future__ import annotations

import json
from datetime import timedelta
from hashlib import sha256

import pytest

from services.ledger.append import Stale
from services.ledger.procedures import rejects
from services.ledger.store import add_attachment
from shared.clock import parse_rfc3339, rfc3339, utc_now
from shared.errors import Refused, Unavailable
from shared.events import parse
from shared.kafka import Outgoing
from tests.integration.ledger.world import (
    NOTICE,
    REGISTER,
    World,
    given,
    new_subject,
    requested,
    stated,
    withdrawn,
    words,
)


async def reasons(world: World) -> list[tuple[str | None, int | None, str, int]]:
    rows = await world.rows("select source, sequence, reason, times from rejected order by stated_offset")
    return [(row["source"], row["sequence"], row["reason"], row["times"]) for row in rows]


async def incidents(world: World) -> list[tuple[str, str, bool]]:
    rows = await world.rows("select kind, about, closed_at is null as open from incident order by number")
    return [(row["kind"], row["about"], row["open"]) for row in rows]


def changed(raw: bytes, **attributes: object) -> bytes:
    """The statement with other attributes, and nothing else changed."""
    return json.dumps(json.loads(raw) | attributes, separators=(",", ":"), ensure_ascii=False).encode()


async def test_statements_are_appended_in_order_and_can_be_opened_again(world: World) -> None:
    subject = new_subject()
    said = [requested(subject), given(subject), withdrawn(subject)]
    await world.state(*said)
    await world.run_through()
    judged = await world.judge()
    assert judged.statements == said
    assert judged.sealed == judged.size
    assert judged.matters == ["ask:newsletter/email", "purpose:newsletter/email", "purpose:newsletter/email"]


async def test_a_repetition_is_dropped_even_while_the_first_is_being_appended(world: World) -> None:
    said = [given(new_subject()) for _ in range(5)]
    messages = [world.message(raw) for raw in said]
    await world.send([*messages, *messages[:2]])
    appender = await world.appender(max_batch=3)
    # Three batches, each prepared while the one before is in flight.
    while await appender.step(timeout_ms=500):
        pass
    await world.send(messages)
    await world.append(appender)
    await appender.drop()
    assert (await world.judge()).statements == said
    assert await reasons(world) == []
    assert await incidents(world) == []


async def test_the_same_id_with_other_bytes_is_rejected_and_an_incident(world: World) -> None:
    subject = new_subject()
    first = given(subject)
    second = changed(first, time=rfc3339(utc_now() - timedelta(hours=1)))
    third = given(subject)
    await world.state(first, second, third)
    await world.run_through()
    assert (await world.judge()).statements == [first, third]
    assert await reasons(world) == [("newsletter", 2, "id-reused", 1)]
    assert await incidents(world) == [("id-reused", f"newsletter/{parse(first).id}", True)]


async def test_the_same_id_in_a_later_batch_under_a_new_number_is_found_by_the_primary_key(world: World) -> None:
    first = given(new_subject())
    await world.state(first)
    appender = await world.appender()
    await world.append(appender)
    # A source that gave one statement two numbers, and another that gave one id two contents.
    other = given(new_subject())
    await world.state(first, changed(first, time=rfc3339(utc_now() - timedelta(hours=1))), other)
    await world.append(appender)
    await appender.drop()
    assert (await world.judge()).statements == [first, other]
    assert await reasons(world) == [("newsletter", 3, "id-reused", 1)]


async def test_a_bad_mac_is_a_reject_that_proves_nobody_and_blocks_nobody(world: World) -> None:
    raw = given(new_subject())
    forged = world.message(raw, headers={"mac": b"0" * 64})
    await world.send([forged, forged, world.message(raw, sequence=1)])
    await world.run_through()
    assert (await world.judge()).statements == [raw]
    assert await reasons(world) == [(None, None, "mac-does-not-hold", 2)]
    (row,) = await world.rows("select statement, statement_size from rejected")
    assert (row["statement"], row["statement_size"]) == (None, len(raw))
    assert await incidents(world) == []
    assert await world.value("select contiguous from progress") == 1


UNPROVEN: list[tuple[dict[str, bytes], str]] = [
    ({"mac-key": b"newsletter.9"}, "unknown-key"),
    ({"mac-key": b"marketing.1"}, "mac-does-not-hold"),
    ({"sequence": b"01"}, "no-sequence"),
    ({"sequence": b"9999999999999999999"}, "no-sequence"),
    ({"sequence": b"70"}, "mac-does-not-hold"),
    ({"kind": b"news"}, "unknown-kind"),
    ({"kind": b"alive"}, "mac-does-not-hold"),
]


async def test_what_does_not_prove_who_sent_it_is_rejected_with_its_reason(world: World) -> None:
    await world.send([world.message(given(new_subject()), headers=headers) for headers, _ in UNPROVEN])
    await world.run_through()
    assert (await world.judge()).size == 1
    assert await reasons(world) == [(None, None, reason, 1) for _, reason in UNPROVEN]


def under(raw: bytes, register_version: str) -> bytes:
    """The same statement under another version of the register."""
    return raw.replace(REGISTER.version.encode(), register_version.encode())


def _poison() -> dict[str, tuple[bytes, str]]:
    """One authentic message of each kind that can never be recorded."""
    subject = new_subject()
    raw = given(subject)
    system = words.NoticePublished(
        controller="controller",
        sender="controller",
        act=parse(raw).data.act,
        by="controller",
        activity="newsletter",
        register_version=REGISTER.version,
        notice=words.Notice(hash="f" * 64, language="de"),
        version="1",
    )
    return {
        "not json": (b"{nonsense}", "not-json"),
        "nothing": (b"", "empty"),
        "too large": (b"{" + b" " * 32_768 + b"}", "too-large"),
        "trailing bytes": (raw + b" ", "not-an-object"),
        "duplicate key": (raw[:-1] + b',"id":"x"}', "duplicate-key"),
        "unknown type": (changed(raw, dataschema="consent-ledger/ConsentGuessed/1"), "unknown-type"),
        "unknown field": (changed(raw, mood="good"), "invalid-extra-forbidden"),
        "another source's name": (changed(raw, source="marketing"), "source-is-not-the-key's"),
        "another shard": (changed(raw, subject=new_subject(1)), "wrong-shard"),
        "the future": (changed(raw, time=rfc3339(utc_now() + timedelta(minutes=3))), "time-in-the-future"),
        "what it may not state": (changed(raw, type="ConsentUsed"), "type-is-not-its-schema's"),
        "unknown purpose": (given(subject, purpose="fax"), "unknown-purpose"),
        "unknown notice": (given(subject, notice="a" * 64), "unknown-notice"),
        "unknown register": (under(raw, "a" * 64), "unknown-register"),
        "unknown notice, of the system": (stated(system, "0.system"), "unknown-notice"),
    }


async def test_poison_amid_a_batch_is_kept_with_its_reason_and_stops_nobody(world: World) -> None:
    said: list[bytes] = []
    poison = _poison()
    for raw, _ in poison.values():
        said.append(given(new_subject()))
        await world.state(said[-1], raw)
    await world.run_through()
    assert (await world.judge()).statements == said
    expected = [("newsletter", 2 * n, reason, 1) for n, (_, reason) in enumerate(poison.values(), 1)]
    assert await reasons(world) == expected
    kept = [row["statement"] for row in await world.rows("select statement from rejected order by sequence")]
    assert kept == [raw if len(raw) <= 32_768 else None for raw, _ in poison.values()]
    # It counts as arrived: the source is done with it.
    assert await world.value("select max(contiguous) from progress") == 2 * len(poison)
    assert await incidents(world) == []


async def test_a_statement_under_a_register_that_the_ledger_once_ran_with_is_recorded(world: World) -> None:
    older = b'{"an": "older register"}'
    version = sha256(older).hexdigest()
    raw, again = (under(given(new_subject()), version) for _ in range(2))
    await world.state(raw)
    await world.run_through()
    assert await reasons(world) == [("newsletter", 1, "unknown-register", 1)]
    await add_attachment(await world.database("ledger"), bytes.fromhex(version), older)
    await world.state(again)
    await world.run_through()
    assert (await world.judge()).statements == [again]


async def test_a_source_may_not_state_what_the_register_does_not_give_it(world: World) -> None:
    raw = changed(given(new_subject()), source="marketing")
    await world.send([world.message(raw, source="marketing")])
    await world.run_through()
    assert await reasons(world) == [("marketing", 1, "source-may-not-state-this", 1)]


async def test_a_batch_of_rejects_appends_no_leaf_but_moves_on(world: World) -> None:
    await world.state(b"{}", b"[]")
    await world.run_through()
    judged = await world.judge()
    assert (judged.size, judged.sealed) == (1, 1)
    assert await world.next_offset() == 2
    assert await world.value("select contiguous from progress where size <= 1") == 2


async def test_a_rejected_statement_that_comes_again_stays_rejected(world: World) -> None:
    raw = given(new_subject(), notice="a" * 64)
    message = world.message(raw)
    await world.send([message])
    appender = await world.appender()
    await world.append(appender)
    await world.send([message])
    await world.append(appender)
    await appender.drop()
    assert await reasons(world) == [("newsletter", 1, "unknown-notice", 2)]
    # Now the register has learnt the notice, and the relay sends once more what it does not know to be rejected.
    learnt = await world.appender()
    learnt._admission = lambda _: None
    await world.send([message])
    await world.append(learnt)
    await learnt.drop()
    assert (await world.judge()).size == 1


async def test_a_gap_is_an_incident_until_the_missing_statement_arrives(world: World) -> None:
    said = [given(new_subject()) for _ in range(4)]
    messages = [world.message(raw) for raw in said]
    await world.send([messages[0], messages[2], messages[3]])
    appender = await world.appender()
    await world.append(appender)
    assert await incidents(world) == [("sequence-gap", "newsletter", True)]
    assert await world.value("select max(contiguous) from progress") == 1
    await appender.drop()
    # What was known of the gap is read anew.
    appender = await world.appender()
    await world.send([messages[1]])
    await world.append(appender)
    await appender.drop()
    assert await incidents(world) == [("sequence-gap", "newsletter", False)]
    assert await world.value("select max(contiguous) from progress") == 4
    assert await world.rows("select * from arrived") == []
    assert sorted((await world.judge()).statements) == sorted(said)


@pytest.mark.parametrize("restarted", [False, True], ids=["while it runs", "and it starts again"])
async def test_a_gap_that_a_named_person_closes_blocks_its_source_no_longer(world: World, *, restarted: bool) -> None:
    messages = [world.message(given(new_subject())) for _ in range(5)]
    await world.send([messages[0], messages[2], messages[3]])
    appender = await world.appender()
    await world.append(appender)
    (incident,) = await rejects.open_incidents(world.settings)
    assert (incident["kind"], incident["about"]) == ("sequence-gap", "newsletter")
    await rejects.close_incident(world.settings, incident["number"], "operator", "its database was lost")
    with pytest.raises(Refused):
        await rejects.close_incident(world.settings, incident["number"], "operator", "again")
    appender = await world.appender() if restarted else appender
    appender._kept_house_at = 0
    await appender.step(timeout_ms=100)
    assert await world.value("select max(contiguous) from progress") == 4
    # The next does not open it again; and should the lost one turn up after all, it is recorded and looked at.
    await world.send([messages[4], messages[1]])
    await world.append(appender)
    assert await world.value("select max(contiguous) from progress") == 5
    assert await incidents(world) == [
        ("sequence-gap", "newsletter", False),
        ("sequence-reused", "newsletter/2", True),
    ]
    assert len((await world.judge()).statements) == 5


async def test_a_sequence_used_twice_loses_nothing_and_is_an_incident(world: World) -> None:
    first, second = given(new_subject()), given(new_subject())
    await world.send([world.message(first, sequence=1), world.message(second, sequence=1)])
    await world.run_through()
    assert (await world.judge()).statements == [first, second]
    assert await incidents(world) == [("sequence-reused", "newsletter/1", True)]


async def test_the_newest_mark_of_each_source_is_kept(world: World) -> None:
    now = utc_now()
    await world.send([world.alive(now - timedelta(seconds=3)), world.alive(now), world.alive(now, source="marketing")])
    await world.run_through()
    rows = await world.rows("select source, all_before from source_mark order by source")
    kept = parse_rfc3339(rfc3339(now))
    assert [(row["source"], row["all_before"]) for row in rows] == [("marketing", kept), ("newsletter", kept)]


async def test_a_mark_from_the_future_is_rejected(world: World) -> None:
    await world.send([world.alive(utc_now() + timedelta(minutes=1))])
    await world.run_through()
    assert await world.rows("select * from source_mark") == []
    assert await reasons(world) == [(None, None, "malformed-mark", 1)]


async def test_a_mark_does_not_pass_for_another_source_or_shard(world: World) -> None:
    mark = world.alive(utc_now())
    for change in ({"source": "marketing"}, {"shard": 1}, {"sequence": "5"}, {"more": True}):
        value = json.dumps(json.loads(mark.value) | change).encode()
        await world.send([world.message(value, sequence=0, kind="alive")])
    await world.run_through()
    assert await world.rows("select * from source_mark") == []
    assert await reasons(world) == [(None, None, "malformed-mark", 4)]


@pytest.mark.parametrize("everything", [False, True], ids=["of the purpose", "of everything"])
async def test_a_grant_that_is_late_never_revives_a_withdrawn_consent(world: World, *, everything: bool) -> None:
    subject, now = new_subject(), utc_now()
    word = withdrawn(subject, now, purpose=None if everything else "newsletter")
    early, same, later = (given(subject, now + timedelta(milliseconds=ms)) for ms in (-1, 0, 1))
    await world.state(word, early)
    await world.run_through()
    # The rule holds from stored rows as from memory.
    await world.state(same, later)
    await world.run_through()
    judged = await world.judge()
    assert judged.statements == [word, early, same, later]
    late = "overtaken:purpose:newsletter/email"
    assert judged.matters == [
        "everything:all" if everything else "purpose:newsletter/email",
        late,
        late,
        "purpose:newsletter/email",
    ]
    rows = await world.rows("select sequence, id::text, index from overtaken order by index")
    assert [(row["sequence"], row["id"], row["index"]) for row in rows] == [
        (2, parse(early).id, judged.indexes[early]),
        (3, parse(same).id, judged.indexes[same]),
    ]


async def test_the_shards_of_one_installation_are_logs_of_their_own(two_shards: World) -> None:
    world = two_shards
    here, there = given(new_subject(0)), given(new_subject(1))
    await world.state(here, shard=0)
    await world.state(there, shard=1)
    await world.run_through(0)
    await world.run_through(1)
    assert (await world.judge(0)).statements == [here]
    assert (await world.judge(1)).statements == [there]


async def test_a_statement_stated_for_another_shard_proves_nothing_here(two_shards: World) -> None:
    world = two_shards
    raw = given(new_subject(1))
    there = world.message(raw, shard=1)
    here = Outgoing(there.topic, 0, there.key, there.value, there.headers)
    await world.send([here])
    await world.run_through(0)
    assert await reasons(world) == [(None, None, "mac-does-not-hold", 1)]


async def test_two_thousand_statements_fill_tiles_and_a_restart_goes_on_from_them(world: World) -> None:
    subjects = [new_subject() for _ in range(200)]
    said = [given(subjects[i % 200]) for i in range(1300)]
    await world.state(*said)
    appender = await world.appender()
    await world.append(appender)
    await appender.drop()
    more = [given(subject) for subject in subjects]
    await world.state(*more)
    await world.run_through()
    judged = await world.judge()
    assert judged.statements == [*said, *more]
    assert judged.sealed == judged.size
    assert await world.value("select count(*) from tile where level = 0") == judged.size // 256


async def test_a_statement_about_the_system_has_a_key_like_any_other(world: World) -> None:
    raw = stated(
        words.NoticePublished(
            controller="controller",
            sender="controller",
            act=parse(given(new_subject())).data.act,
            by="controller",
            activity="newsletter",
            register_version=REGISTER.version,
            notice=words.Notice(hash=NOTICE.hash, language="de"),
            version="1",
        ),
        "0.system",
    )
    await world.state(raw)
    await world.run_through()
    judged = await world.judge()
    assert judged.statements == [raw]
    assert judged.matters == [f"notice:{NOTICE.hash}"]


async def test_a_reject_waits_until_a_named_person_has_dealt_with_it(world: World) -> None:
    await world.state(b"{}")
    await world.run_through()
    (row,) = await rejects.rejected_rows(world.settings)
    assert (row["source"], row["sequence"], row["reason"]) == ("newsletter", "1", "unknown-type")
    await rejects.handle(world.settings, row["number"], "operator", "a test of the collector's")
    assert await rejects.rejected_rows(world.settings) == []
    with pytest.raises(Refused):
        await rejects.handle(world.settings, row["number"], "operator", "again")


async def test_progress_that_is_sealed_is_forgotten_but_for_the_newest(world: World) -> None:
    for _ in range(3):
        await world.state(given(new_subject()))
        await world.run_through()
    await world.state(given(new_subject()))
    appender = await world.appender()
    await world.append(appender)
    appender._kept_house_at = 0
    await appender.step(timeout_ms=100)
    rows = await world.rows("select size, contiguous from progress order by size")
    assert [(row["size"], row["contiguous"]) for row in rows] == [(7, 3), (9, 4)]


async def test_a_few_subjects_in_memory_are_enough(world: World) -> None:
    """Whoever is forgotten is read again: nobody gets a second key, and no restriction is lost."""
    subjects = [new_subject() for _ in range(40)]
    now = utc_now()
    said = [withdrawn(subject, now) for subject in subjects]
    said += [given(subject, now - timedelta(1)) for subject in subjects]
    said += [given(subject, now + timedelta(milliseconds=1)) for subject in reversed(subjects)]
    await world.state(*said)
    await world.append(await world.appender(max_batch=5, subjects_kept=11))
    judged = await world.judge()
    assert judged.statements == said
    assert [matter.startswith("overtaken:") for matter in judged.matters] == [False] * 40 + [True] * 40 + [False] * 40


async def test_a_clock_that_went_back_stops_the_appender_before_the_signer_would(world: World) -> None:
    await world.state(given(new_subject()))
    await world.append(await world.appender())
    behind = await world.appender(clock=lambda: utc_now() - timedelta(seconds=10))
    await world.state(given(new_subject()))
    with pytest.raises(Unavailable, match="clock"):
        await behind.step()
    slightly = await world.appender(clock=lambda: utc_now() - timedelta(seconds=2))
    await world.append(slightly)
    # recorded_at does not go back with it.
    assert len((await world.judge()).statements) == 2


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=-1)])
async def test_a_clock_that_postgresql_contradicts_judges_nothing_until_it_is_right_again(
    world: World, ahead: timedelta
) -> None:
    # The log is new: recorded_at is long past for either clock.
    await world.rows("update head set recorded_at = 0")
    wrong = timedelta(0)
    appender = await world.appender(clock=lambda: utc_now() + wrong)
    await world.state(given(new_subject()))
    await appender.step()
    await appender.settled()
    wrong = ahead
    await world.send([world.message(given(new_subject())), world.alive(utc_now() - timedelta(seconds=2))])
    with pytest.raises((Stale, Unavailable)):
        await world.append(appender)
    with pytest.raises(Unavailable, match="clock"):
        await appender.step()
    assert await world.value("select count(*) from rejected") == 0
    wrong = timedelta(0)
    await world.append(appender)
    assert len((await world.judge()).statements) == 2
    assert await world.value("select count(*) from rejected") == 0


async def test_a_position_that_is_gone_is_left_to_a_person_and_not_waited_for(world: World) -> None:
    await world.state(given(new_subject()))
    await world.append(await world.appender())
    size = await world.value("select size from head")
    await world.rows("update head set next_offset = 1000")
    appender = await world.appender()
    while await world.value("select next_offset from head") != world.offsets[0]:
        await appender.step()
        await appender.settled()
    # What was read again was an exact repetition.
    assert await world.value("select size from head") == size
    (incident,) = await world.rows("select kind, about, detail from incident where closed_at is null")
    assert (incident["kind"], incident["about"]) == ("position-gone", "consent.stated")
    assert incident["detail"].startswith("offset 1000 of consent.stated is not there any more; went on from 0.")
    await world.state(given(new_subject()))
    await world.append(appender)
    assert len((await world.judge()).statements) == 2
