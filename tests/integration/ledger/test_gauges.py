"""What an operator sees of the log, also while whoever appends, signs or publishes is not there."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from services.ledger.gauges import Gauges
from services.ledger.procedures.log_check import main
from services.ledger.store import put_findings, put_followed
from shared.clock import utc_now
from shared.metrics import Metrics
from tests.integration.ledger.world import given, new_subject

if TYPE_CHECKING:
    from tests.integration.ledger.world import World


async def seen(world: World, later: timedelta = timedelta(0)) -> dict[str, float]:
    """Every sample of the ledger's gauges, as a scrape at that time shows them."""
    metrics = Metrics("ledger")
    Gauges(await world.database("ledger"), lambda: utc_now() + later, metrics)
    text = (await metrics.scrape()).decode()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def leaves(found: dict[str, float]) -> list[float]:
    """How many are appended, sealed, published."""
    return [found[f'ledger_log_leaves{{shard="0",stage="{stage}"}}'] for stage in ("appended", "sealed", "published")]


async def test_stages_and_ages_are_those_of_the_tables_whoever_is_dead(world: World) -> None:
    found = await seen(world)
    assert leaves(found)[:2] == [1, 1]
    assert found['ledger_unsealed_seconds{shard="0"}'] == 0

    await world.state(given(new_subject()))
    await world.append(await world.appender())
    found = await seen(world, timedelta(minutes=1))
    assert leaves(found)[:2] == [3, 1]
    assert 59 < found['ledger_unsealed_seconds{shard="0"}'] < 119

    await world.seal(await world.sealer())
    found = await seen(world, timedelta(minutes=1))
    assert leaves(found)[:2] == [3, 3]
    assert leaves(found)[2] < 3
    assert found['ledger_unsealed_seconds{shard="0"}'] == 0
    assert 0 <= found['ledger_fresh_seconds{shard="0"}'] < 60


async def test_what_waits_for_a_person_is_counted_by_kind(world: World) -> None:
    assert not [name for name in await seen(world) if re.match("ledger_(open|unhandled)_", name)]
    for about in ("newsletter", "marketing"):
        await world.as_superuser(f"insert into incident (shard, kind, about) values (0, 'sequence-gap', '{about}')")
    found = await seen(world)
    assert found['ledger_open_incidents{kind="sequence-gap"}'] == 2


async def test_a_check_of_the_log_leaves_its_result_for_whoever_watches(world: World) -> None:
    await world.state(given(new_subject()))
    await world.append(await world.appender())
    await world.seal(await world.sealer())
    await world.as_superuser("update payload set payload = set_byte(payload, 40, get_byte(payload, 40) # 1)")
    assert await main(world.settings, None, lambda _: None) == 1
    assert (await seen(world))['ledger_check_findings{shard="0"}'] == 1

    await world.as_superuser("update payload set payload = set_byte(payload, 40, get_byte(payload, 40) # 1)")
    await world.as_superuser("update log_check set checked_at = checked_at - interval '9 days'")
    assert (await seen(world))['ledger_check_age_seconds{shard="0"}'] > 9 * 86400 - 1
    assert await main(world.settings, None, lambda _: None) == 0
    found = await seen(world)
    assert found['ledger_check_findings{shard="0"}'] == 0
    assert found['ledger_check_age_seconds{shard="0"}'] < 60


async def test_how_far_the_check_is_behind_the_signer_is_known_while_it_stands_still(world: World) -> None:
    checker = await world.database("ledger_check")
    await put_followed(checker, 0, 1, utc_now() - timedelta(hours=1))
    found = await seen(world)
    assert found['ledger_log_leaves{shard="0",stage="checked"}'] == 1
    assert 3599 < found['ledger_check_behind_seconds{shard="0"}'] < 3660
    await put_findings(checker, 0, 2, utc_now())
    await put_followed(checker, 0, 1, utc_now())
    found = await seen(world)
    assert found['ledger_check_behind_seconds{shard="0"}'] < 60
    assert found['ledger_check_findings{shard="0"}'] == 2
