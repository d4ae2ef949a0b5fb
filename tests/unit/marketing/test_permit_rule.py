"""Fresh, or refuse: the permit's rule over everything that can be known."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.marketing import domain
from services.marketing.domain import Horizon, Knowledge, Rule, decide
from shared.clock import rfc3339
from shared.events import Standing, Statement
from shared.register import Grade, load
from tests.unit.marketing.history import NOON, given, person, said, withdrawn, withdrawn_all

SUBJECT = person()
RULE = Rule(frozenset({"newsletter", "forms"}), Grade.B)


def standing(*statements: Statement) -> Standing:
    known = Standing({})
    for index, statement in enumerate(statements):
        known, _ = known.apply(statement, index)
    return known


def marks(newsletter: float = 2, forms: float = 2) -> dict[str, str]:
    """Marks that lie so many seconds before noon."""
    ages = {"newsletter": newsletter, "forms": forms}
    return {source: rfc3339(NOON - timedelta(seconds=age)) for source, age in ages.items()}


CONSENT = given(SUBJECT)
KNOWN = Knowledge(standing(CONSENT), Grade.A, applied=10, horizon=Horizon(10, marks()))


def reason(known: Knowledge, rule: Rule = RULE) -> str:
    decision = decide(known, "newsletter", "email", rule, NOON)
    assert decision.granted is (decision.reason == "consent-in-force")
    assert decision.granted is (decision.relied_on is not None)
    return decision.reason


def test_a_consent_in_force_and_known_to_be_the_newest_word_is_granted() -> None:
    decision = decide(KNOWN, "newsletter", "email", RULE, NOON)
    assert (decision.granted, decision.relied_on) == (True, CONSENT.id)


def test_a_grant_carries_the_least_mark() -> None:
    known = replace(KNOWN, horizon=Horizon(10, marks(newsletter=2, forms=4)))
    assert decide(known, "newsletter", "email", RULE, NOON).all_before == rfc3339(NOON - timedelta(seconds=4))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (replace(KNOWN, horizon=None), "no-heartbeat"),
        (replace(KNOWN, applied=9), "behind"),
        (replace(KNOWN, horizon=Horizon(11, marks())), "behind"),
        (replace(KNOWN, applied=11), "consent-in-force"),
        (replace(KNOWN, horizon=Horizon(10, {})), "source-not-heard"),
        (replace(KNOWN, horizon=Horizon(10, {"newsletter": rfc3339(NOON)})), "source-not-heard"),
        (replace(KNOWN, horizon=Horizon(10, marks(newsletter=5))), "consent-in-force"),
        (replace(KNOWN, horizon=Horizon(10, marks(newsletter=5.001))), "stale"),
        (replace(KNOWN, horizon=Horizon(10, marks(forms=60))), "stale"),
        (replace(KNOWN, horizon=Horizon(10, marks(forms=-0.001))), "stale"),
        (replace(KNOWN, horizon=Horizon(10, {**marks(), "rights": rfc3339(NOON - timedelta(hours=1))})),
         "consent-in-force"),
        (replace(KNOWN, grade=Grade.B), "consent-in-force"),
        (replace(KNOWN, grade=Grade.C), "evidence-too-weak"),
        (replace(KNOWN, grade=None), "evidence-too-weak"),
    ],
)  # fmt: skip
def test_what_is_not_provably_fresh_and_good_is_refused(known: Knowledge, expected: str) -> None:
    assert reason(known) == expected


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([], "unknown"),
        ([given(SUBJECT, 1, "newsletter-clicks")], "unknown"),
        ([given(SUBJECT, 1), withdrawn(SUBJECT, 2)], "no-consent-in-force"),
        ([given(SUBJECT, 1), withdrawn_all(SUBJECT, 2)], "no-consent-in-force"),
        ([withdrawn_all(SUBJECT, 1), given(SUBJECT, 2)], "consent-in-force"),
        ([withdrawn(SUBJECT, 2), given(SUBJECT, 1)], "no-consent-in-force"),
        ([withdrawn_all(SUBJECT, 2), given(SUBJECT, 1)], "unknown"),
        ([said(SUBJECT, "ConsentRequested", 1)], "unknown"),
        ([given(SUBJECT, 1), said(SUBJECT, "ConsentRefused", 2, stage="proven")], "no-consent-in-force"),
        ([given(SUBJECT, 1), said(SUBJECT, "ConsentRefused", 2, stage="asked")], "consent-in-force"),
        ([given(SUBJECT, 1), said(SUBJECT, "ConsentExpired", 2, stage="proven")], "no-consent-in-force"),
    ],
)
def test_only_a_consent_that_nothing_newer_forbids_is_granted(statements: list[Statement], expected: str) -> None:
    assert reason(replace(KNOWN, standing=standing(*statements))) == expected


def test_the_register_says_who_may_restrict_and_how_good_the_evidence_must_be() -> None:
    rule = Rule.of(load(), "newsletter", "email")
    assert rule == Rule(frozenset({"newsletter"}), Grade.B)


def test_a_purpose_that_nobody_may_restrict_is_never_granted() -> None:
    assert reason(KNOWN, Rule(frozenset(), Grade.D)) == "stale"


def test_the_grade_of_the_evidence_follows_from_what_is_recorded() -> None:
    register = load()
    consent = given(SUBJECT)
    request, mail = consent.data.follows
    both = {request: "ConsentRequested", mail: "MessageSent"}
    unproven = given(SUBJECT, served={**consent.data.served.model_dump(), "verified": False})
    assert register.grade(domain.evidence(consent, both)) is Grade.A
    assert register.grade(domain.evidence(consent, {request: "ConsentRequested"})) is Grade.B
    assert register.grade(domain.evidence(unproven, both)) is Grade.C
    assert register.grade(domain.evidence(given(SUBJECT, served=None), both)) is Grade.C


def test_pauses_grow_to_ten_minutes_and_no_further() -> None:
    pauses = [domain.pause_after(attempt) for attempt in range(1, domain.MOST_ATTEMPTS + 1)]
    assert pauses[:3] == [timedelta(seconds=2), timedelta(seconds=4), timedelta(seconds=8)]
    assert pauses == sorted(pauses)
    assert max(pauses) == timedelta(minutes=10)
    assert timedelta(hours=12) < sum(pauses, timedelta()) < timedelta(hours=24)
