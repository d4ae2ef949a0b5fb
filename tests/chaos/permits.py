"""Holds every permit that was granted against the recorded history: was it right to grant it then?"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from shared.clock import parse_rfc3339
from shared.events import Standing, matter_of
from shared.events.matter import EVERYTHING
from shared.events.standing import RESTRICTIVE

if TYPE_CHECKING:
    from tests.faults.running.judge import Log
    from tests.journeys.people import World

GRANTED = """
    select coalesce(json_agg(json_build_object(
        'id', id, 'subject', subject, 'matter', matter, 'relied_on', relied_on, 'size', size, 'all_before', all_before)
        order by size), '[]') from marketing.permit where decision = 'granted'
"""
ACCEPTED = """
    select coalesce(json_object_agg(id, extract(epoch from accepted_at)), '{}')
    from (select id, accepted_at from newsletter.outbox union all select id, accepted_at from marketing.outbox) as rows
"""


def wrong_permits(world: World, log: Log) -> tuple[int, list[str]]:
    """How many permits were granted, and what is wrong with any of them: id and why.

    Right is: the history up to the size that the permit names permits it, by the statement it names; and no
    restrictive word that was accepted before `all_before` is missing from that history.
    """
    accepted: dict[str, float] = json.loads(world.sql(ACCEPTED))
    by_subject: dict[str, list[dict[str, Any]]] = defaultdict(list)
    granted: list[dict[str, Any]] = json.loads(world.sql(GRANTED))
    for permit in granted:
        by_subject[permit["subject"]].append(permit)
    wrong: list[str] = []
    for subject, permits in by_subject.items():
        history = log.by_subject[subject]
        standing, at = Standing({}), 0
        for permit in permits:
            while at < len(history) and log.indexes[history[at].id] < permit["size"]:
                standing, _ = standing.apply(history[at], log.indexes[history[at].id])
                at += 1
            purpose, channel = permit["matter"].removeprefix("purpose:").split("/")
            if not standing.permits(purpose, channel):
                wrong.append(f"{permit['id']}: the history up to {permit['size']} does not permit it")
            elif standing.words[permit["matter"]].statement != permit["relied_on"]:
                wrong.append(f"{permit['id']}: another word was in force at {permit['size']}")
            all_before = parse_rfc3339(permit["all_before"]).timestamp()
            wrong += [
                f"{permit['id']}: {one.id} was accepted before {permit['all_before']} and not known"
                for one in history[at:]
                if one.type in RESTRICTIVE
                and matter_of(one) in (permit["matter"], EVERYTHING)
                and accepted[one.id] < all_before
            ]
    return len(granted), wrong
